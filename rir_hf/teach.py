"""Mined rows in, the same rows with a teacher's scores out: `pos_scores` and `neg_scores`, what distillation trains on."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import xxhash

from rir_hf.embed import put_on_device_of_rank
from rir_hf.llm import (
    LLM,
    Fitted,
    LLMError,
    as_llm,
    ask_where_fitting,
    check_sampling,
    cut_to_tokens,
    fit,
    raise_if_hopeless,
)
from rir_hf.prompts import COMPLETION_CUES, JUDGEMENTS, TEACHER_PROMPTS, check_fields
from rir_hf.ranking import REPAIRS, parse_ranking
from rir_hf.retriever import model_identity
from rir_hf.transform import (
    SCORES,
    BatchTransform,
    Column,
    check_at_least,
    describe,
    public_attributes,
    read_column,
    read_lists,
    read_texts,
    require_columns,
)

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

logger = logging.getLogger(__name__)

METHODS = ("listwise", "listwise_logits", "yes_no", "query_likelihood", "cross_encoder")
_ASKED_WITH = {
    "listwise": "generate",
    "listwise_logits": "choice_logprobs",
    "yes_no": "choice_logprobs",
    "query_likelihood": "sequence_logprobs",
}
_FIELDS = {
    "listwise": ({"query", "passages"}, {"number"}),
    "listwise_logits": ({"query", "passages"}, {"number"}),
    "yes_no": ({"query", "passage"}, set()),
    "query_likelihood": ({"passage"}, set()),
}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ROUNDING = 1e-7
_REPAIR_COUNTS = pa.struct([(kind, pa.int64()) for kind in REPAIRS])


class ScorePassages(BatchTransform):
    """Map function that adds a teacher's scores for the positives and negatives of each row.

    Columns added:

    - `pos_scores`, `neg_scores`: the scores, aligned with `pos` and `neg`, which stay as they are; raw, higher is better. Both
      null where the row failed;
    - `teacher_error`: why the row failed; null where it did not;
    - `teacher_cut`: how many of the row's passages were cut to fit (with `shuffles` and windows: each time);
    - `teacher_repairs`: with `"listwise"`, what had to be repaired in the answers (`rir_hf.ranking.REPAIRS`);
    - `pos_raw_scores`, `neg_raw_scores`: with `blend_retriever`, the teacher's own scores;
    - `teacher`: the method and a digest of everything that decides the scores (the model, the prompt, the settings).

    One bad answer fails its row alone, and so does an empty passage: a list with a gap trains nothing. When the teacher fails on
    every row of the first batch (more than one), or on the first 8, `RuntimeError` says why. Scores depend neither on the batch
    nor on the order of the rows (in float32 to about 1e-5), and a second run is a cache hit.

    Args:
        teacher: a `ChatLLM`, `CompletionLLM`, `OpenAIChat`, `VLLM`, or a model's name or folder for a `ChatLLM`; for
            `"cross_encoder"` a sentence-transformers `CrossEncoder`, its name or its folder.
        method: how the teacher is asked.

            - `"listwise"`: for a ranking of all passages, in windows where there are many. Scores are reciprocal ranks: 1, 1/2,
              1/3, ... For large models only.
            - `"listwise_logits"`: for the letter of the best passage; scores are the letters' log-probabilities, from one
              forward pass (after FIRST, Reddy et al. 2024). Up to 26 passages, a longer row fails.
            - `"yes_no"`: for each passage whether it answers the query; scores are the log-odds of Yes against No.
            - `"query_likelihood"`: for nothing; scores are the mean log-probability of the query's tokens given the passage
              (UPR, Sachan et al. 2022). The method that works with small models. Needs a model in this process, or vLLM.
            - `"cross_encoder"`: the logits of a cross-encoder.
        query: the query's column.
        window, step: passages that `"listwise"` ranks at a time, from the last to the first, and how far the window moves
            (RankGPT, Sun et al. 2023); by half a window unless you say otherwise.
        shuffles: how many random orders of the passages a list is shown in; the scores are averaged, which evens out the
            teacher's liking for places.
        max_passage_tokens: a passage is cut to this. It is cut further where a prompt does not fit the model; the instruction
            and the query never are.
        prompt: another text than `rir_hf.prompts.TEACHER_PROMPTS[method]`, with `{query}` and `{passage}`, or `{passages}` and
            `{number}` for lists: what relevance means in your task belongs here.
        temperature, top_p, max_tokens: of the answers to `"listwise"`.
        blend_retriever: add the z-scores of the retriever's similarities (`pos_sims`, `neg_sims`) to those of the teacher's
            scores, row by row. A passage without a similarity counts as an average one.
        keep_scored: leave rows as they are that this very teacher has scored already (by their column `teacher`), to ask again
            for those that failed.
        seed: of the orders in which lists are shown, and of the draws.

    Raises:
        ValueError: a parameter out of range (at once); a missing column, `pos` or `neg` that is not a list (at the first batch).

    Example:
        >>> from rir_hf import ChatLLM, ScorePassages
        >>> teacher = ChatLLM("models", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")                    # doctest: +SKIP
        >>> scored = mined.map(ScorePassages(teacher, method="query_likelihood"), batched=True)         # doctest: +SKIP
        >>> scored[0]["pos_scores"], scored[0]["neg_scores"][:2]                                        # doctest: +SKIP
        ([-1.557], [-5.449, -6.212])
    """

    def __init__(
        self,
        teacher: LLM | CrossEncoder | str | os.PathLike[str],
        *,
        method: Literal["listwise", "listwise_logits", "yes_no", "query_likelihood", "cross_encoder"] = "listwise",
        query: str = "query",
        window: int = 20,
        step: int | None = None,
        shuffles: int = 1,
        max_passage_tokens: int = 512,
        prompt: str | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 300,
        blend_retriever: bool = False,
        keep_scored: bool = False,
        seed: int = 0,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}.")
        step = max(1, window // 2) if step is None else step
        if not 1 <= step <= window or window < 2:
            raise ValueError(f"window must be at least 2 and step between 1 and window, got {window} and {step}.")
        for name, value in (("shuffles", shuffles), ("max_passage_tokens", max_passage_tokens), ("max_tokens", max_tokens)):
            check_at_least(name, value, 1)
        check_sampling(temperature, top_p)
        if prompt is not None:
            if method == "cross_encoder":
                raise ValueError("A cross-encoder takes no prompt.")
            needed, optional = _FIELDS[method]
            check_fields("prompt", prompt, needed, needed | optional)
        self.teacher = _as_teacher(teacher, method)
        self.method = method
        self.query = query
        self.window = window
        self.step = step
        self.shuffles = shuffles
        self.max_passage_tokens = max_passage_tokens
        self.prompt = None if method == "cross_encoder" else prompt or _own_prompt(self.teacher, method)
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.blend_retriever = blend_retriever
        self.keep_scored = keep_scored
        self.seed = seed

    @property
    def first_column(self) -> str:
        """The query's column."""
        return self.query

    def transform(self, batch: Mapping[str, Any], rank: int | None) -> dict[str, Any]:
        """Return the columns named in the description of the class."""
        put_on_device_of_rank(self.teacher, rank)
        rows = self._read(batch)
        asked = [row for row in rows if row.error is None and not row.is_kept]
        methods = {
            "listwise": self._rank,
            "listwise_logits": self._pick_best,
            "yes_no": self._judge,
            "query_likelihood": self._likelihood,
            "cross_encoder": self._cross_encode,
        }
        if asked:
            methods[self.method](asked)
        if self.blend_retriever:
            for row in asked:
                row.blend()
        self._tell(rows, asked)
        return self._columns(rows)

    def _read(self, batch: Mapping[str, Any]) -> list[_Row]:
        sims = ["pos_sims", "neg_sims"] if self.blend_retriever else []
        require_columns(batch, ["pos", "neg", *sims], f"ScorePassages{'(blend_retriever=True)' if sims else ''}")
        queries = read_texts(batch, self.query, "ScorePassages")
        positives, negatives = (read_lists(batch, name) for name in ("pos", "neg"))
        rows = [_Row(query or "", own, others) for query, own, others in zip(queries, positives, negatives, strict=True)]
        for row in rows:
            row.check()
        if self.blend_retriever:
            for row, own, others in zip(rows, *(read_lists(batch, name) for name in sims), strict=True):
                row.take_similarities([*own, *others])
        if self.keep_scored and {"pos_scores", "neg_scores", "teacher"} <= set(batch):
            names = [name for name in _OUTPUTS if name in batch]
            for row, values in zip(rows, zip(*(read_column(batch, name) for name in names), strict=True), strict=True):
                row.keep(dict(zip(names, values, strict=True)), self._key())
        return rows

    def _likelihood(self, rows: list[_Row]) -> None:
        """Mean log-probability of the query's tokens, passage by passage."""

        def ask(prompts: list[Any], queries: list[str]) -> list[Any]:
            return [_each(found, np.mean) for found in self.teacher.sequence_logprobs(prompts, queries)]

        self._ask_for_each(rows, ask, spare=True)

    def _judge(self, rows: list[_Row]) -> None:
        """Log-odds of Yes against No, passage by passage."""

        def ask(prompts: list[Any], _: list[str]) -> list[Any]:
            return [
                _each(found, lambda logs: logs[0] - logs[1]) for found in self.teacher.choice_logprobs(prompts, list(JUDGEMENTS))
            ]

        self._ask_for_each(rows, ask, spare=False)

    def _cross_encode(self, rows: list[_Row]) -> None:
        pairs = [(row.query, passage) for row in rows for passage in row.passages]
        found = iter(self.teacher.score(pairs, self.max_passage_tokens))
        for row in rows:
            row.collect([next(found) for _ in row.passages])

    def _ask_for_each(self, rows: list[_Row], ask: Callable[[list[Any], list[str]], list[Any]], *, spare: bool) -> None:
        """Give each row the scores that `ask` finds for its passages one by one; `spare` leaves room for the query to follow."""
        fitted = [
            self._fit(lambda texts, row=row: self.prompt.format(query=row.query, passage=texts[0]), [passage], row.query, spare)
            for row in rows
            for passage in row.passages
        ]
        queries = [row.query for row in rows for _ in row.passages]
        prompts = [prompt for prompt, _ in fitted]
        results = ask_where_fitting(prompts, lambda fitting, places: ask(fitting, [queries[place] for place in places]))
        scored = iter(zip(results, (cut for _, cut in fitted), strict=True))
        for row in rows:
            row.collect([next(scored) for _ in row.passages])

    def _fit(self, write: Callable[[list[str]], Any], passages: list[str], query: str, spare: bool) -> Fitted:
        answer = self.teacher.count_tokens([query])[0] if spare else self.max_tokens if self.method == "listwise" else 1
        return fit(self.teacher, write, passages, max_passage_tokens=self.max_passage_tokens, answer_tokens=answer)

    def _rank(self, rows: list[_Row]) -> None:
        """Reciprocal ranks from generated rankings, each window of all rows at a time."""
        lists = [
            _List(row, self._shown(row, number), window_starts(len(row.passages), self.window, self.step))
            for row in rows
            for number in range(self.shuffles)
        ]
        while active := [shown for shown in lists if shown.starts and shown.error is None]:
            windows = [shown.order[shown.starts[0] :][: self.window] for shown in active]
            answers = self._ask_about(active, windows)
            for shown, window, answer in zip(active, windows, answers, strict=True):
                shown.settle(window, answer)
        for shown in lists:
            ranked = 1 / (1 + np.argsort(shown.order))
            shown.row.shown.append(ranked if shown.error is None else shown.error)
        for row in rows:
            row.settle_mean()

    def _ask_about(self, lists: list[_List], windows: list[list[int]]) -> list[str | LLMError]:
        fitted = [
            self._list_prompt(shown.row, window, range(1, 1 + len(window))) for shown, window in zip(lists, windows, strict=True)
        ]
        for shown, (_, cut) in zip(lists, fitted, strict=True):
            shown.row.cut += cut
        settings = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens, "seed": self.seed}
        found = ask_where_fitting([prompt for prompt, _ in fitted], lambda prompts, _: self.teacher.generate(prompts, **settings))
        return [_each(texts, lambda own: own[0]) for texts in found]

    def _pick_best(self, rows: list[_Row]) -> None:
        """Log-probabilities of the passages' letters as the answer's first token."""
        limit = len(_LETTERS)
        by_size: dict[int, list[tuple[_Row, list[int], Any]]] = {}
        for row in rows:
            size = len(row.passages)
            if size > limit:
                row.shown = [LLMError(f'{size} passages, more than the {limit} that fit one list: use method="listwise"')]
                continue
            for order in (self._shown(row, number) for number in range(self.shuffles)):
                prompt, cut = self._list_prompt(row, order, _LETTERS[:size])
                row.cut += cut
                if isinstance(prompt, LLMError):
                    row.shown.append(prompt)
                else:
                    by_size.setdefault(size, []).append((row, order, prompt))
        for size, jobs in by_size.items():
            found = self.teacher.choice_logprobs([prompt for *_, prompt in jobs], list(_LETTERS[:size]))
            for (row, order, _), logprobs in zip(jobs, found, strict=True):
                row.shown.append(logprobs if isinstance(logprobs, LLMError) else logprobs[np.argsort(order)])
        for row in rows:
            row.settle_mean()

    def _list_prompt(self, row: _Row, window: list[int], identifiers: Any) -> Fitted:
        def write(texts: list[str]) -> str:
            numbered = "\n\n".join(f"[{identifier}] {text}" for identifier, text in zip(identifiers, texts, strict=True))
            return self.prompt.format(query=row.query, passages=numbered, number=len(texts))

        return self._fit(write, [row.passages[place] for place in window], row.query, spare=False)

    def _key(self) -> str:
        """What the scores of this teacher are marked with."""
        if "_digest" not in self.__dict__:
            identity = self.identity()
            identity["settings"].pop("keep_scored")
            self._digest = f"{self.method} {xxhash.xxh3_64_hexdigest(json.dumps(identity, sort_keys=True).encode())}"
        return self._digest

    def _shown(self, row: _Row, number: int) -> list[int]:
        """A random order of the row's passages, the same in every run: the mined order would give the positive away."""
        content = repr((number, row.query, row.passages)).encode()
        return np.random.default_rng([self.seed, xxhash.xxh3_64_intdigest(content)]).permutation(len(row.passages)).tolist()

    def _tell(self, rows: list[_Row], asked: list[_Row]) -> None:
        """Log what went wrong; raise where nothing went right."""
        reasons = Counter(row.error for row in rows if row.error is not None)
        if self.keep_scored:
            logger.info("ScorePassages: %d of %d rows keep their scores.", sum(row.is_kept for row in rows), len(rows))
        cut = sum(row.cut for row in asked)
        if cut:
            logger.info("ScorePassages: %d passages were cut to fit.", cut)
        repairs = sum((Counter(row.repairs) for row in asked), Counter())
        if repairs:
            logger.info("ScorePassages: %d answers, repaired: %s.", len(asked) * self.shuffles, dict(repairs))
        if reasons:
            logger.warning(
                "ScorePassages: %d of %d rows failed, most often: %s", reasons.total(), len(rows), reasons.most_common(1)[0][0]
            )
        raise_if_hopeless(self, "teacher", [*(row.error for row in asked), *(None for row in rows if row.is_kept)])

    def _columns(self, rows: list[_Row]) -> dict[str, Column]:
        found = [row.columns() for row in rows]
        names = ["pos_scores", "neg_scores", "teacher_error", "teacher_cut"]
        names += ["teacher_repairs"] if self.method == "listwise" else []
        names += ["pos_raw_scores", "neg_raw_scores"] if self.blend_retriever else []
        columns = {name: Column([row[name] for row in found], _OUTPUTS[name]) for name in names}
        return {**columns, "teacher": Column([self._key()] * len(rows), _OUTPUTS["teacher"])}


_OUTPUTS = {
    "pos_scores": SCORES,
    "neg_scores": SCORES,
    "pos_raw_scores": SCORES,
    "neg_raw_scores": SCORES,
    "teacher_error": pa.string(),
    "teacher_cut": pa.int64(),
    "teacher_repairs": _REPAIR_COUNTS,
    "teacher": pa.string(),
}


@dataclass
class _Row:
    """One row on its way through the teacher."""

    query: str
    positives: list[str | None]
    negatives: list[str | None]
    similarities: np.ndarray | None = None
    scores: np.ndarray | None = None
    raw: np.ndarray | None = None
    error: str | None = None
    cut: int = 0
    repairs: dict[str, int] = field(default_factory=dict)
    shown: list[np.ndarray | LLMError] = field(default_factory=list)
    kept: dict[str, Any] | None = None

    @property
    def passages(self) -> list[str]:
        """All passages, the positives first."""
        return [*self.positives, *self.negatives]

    @property
    def is_kept(self) -> bool:
        """Whether the row stays as it was."""
        return self.kept is not None

    def check(self) -> None:
        """Fail where there is nothing to ask about.

        Raises:
            ValueError: a passage that is no text.
        """
        for text in self.passages:
            if text is not None and not isinstance(text, str):
                raise ValueError(
                    f"ScorePassages: pos and neg must hold lists of strings, found {type(text).__name__} {text!r:.60}."
                )
        if not self.query.strip():
            self.error = "the query is empty"
        elif not self.passages:
            self.error = "the row has no passage"
        empty = [
            f"{name}[{place}]"
            for name, texts in (("pos", self.positives), ("neg", self.negatives))
            for place, text in enumerate(texts)
            if not (text or "").strip()
        ]
        if empty and self.error is None:
            self.error = f"{empty[0]} is empty"

    def take_similarities(self, found: list[float | None]) -> None:
        """The retriever's similarities, as z-scores; unknown ones are average."""
        if len(found) != len(self.passages):
            raise ValueError(
                f"pos_sims and neg_sims must be aligned with pos and neg, found {len(found)} for {len(self.passages)} passages."
            )
        self.similarities = np.array([np.nan if value is None else value for value in found], np.float64)

    def keep(self, columns: dict[str, Any], teacher: str) -> None:
        """Take over what the row has, if this teacher has scored it already."""
        lengths = [len(columns[name] or []) for name in ("pos_scores", "neg_scores")]
        values = [*(columns["pos_scores"] or []), *(columns["neg_scores"] or [])]
        if (
            lengths == [len(self.positives), len(self.negatives)]
            and values
            and None not in values
            and columns["teacher"] == teacher
        ):
            self.kept, self.error = columns, None

    def collect(self, found: list[tuple[float | LLMError, int]]) -> None:
        """Take the score of each passage, or fail with the first error."""
        self.cut += sum(cut for _, cut in found)
        errors = [score for score, _ in found if isinstance(score, LLMError)]
        if errors:
            self.settle(LLMError(f"{len(errors)} of {len(found)} passages: {errors[0]}"))
        else:
            self.settle(np.array([score for score, _ in found], np.float64))

    def settle_mean(self) -> None:
        """Take the mean over the orders that were ranked, or fail with the first error."""
        good = [scores for scores in self.shown if not isinstance(scores, LLMError)]
        self.settle(np.mean(good, axis=0) if good else self.shown[0])

    def settle(self, found: np.ndarray | LLMError) -> None:
        """Take the scores, or why there are none."""
        if isinstance(found, np.ndarray) and np.isfinite(found).all():
            self.scores = found
        else:
            self.error = str(found) if isinstance(found, LLMError) else "the teacher gave a score that is not a number"

    def blend(self) -> None:
        """Add the z-scores of the similarities to those of the scores."""
        if self.scores is not None and self.similarities is not None:
            self.raw, self.scores = self.scores, z_scores(self.scores) + z_scores(self.similarities)

    def columns(self) -> dict[str, Any]:
        """The row's values of the added columns."""
        own = {
            **self._split("scores", self.scores),
            **self._split("raw_scores", self.raw),
            "teacher_error": self.error,
            "teacher_cut": self.cut,
            "teacher_repairs": {kind: self.repairs.get(kind, 0) for kind in REPAIRS},
        }
        return own | (self.kept or {})

    def _split(self, name: str, values: np.ndarray | None) -> dict[str, list[float] | None]:
        border = len(self.positives)
        parts = (None, None) if values is None else (values[:border].tolist(), values[border:].tolist())
        return {f"pos_{name}": parts[0], f"neg_{name}": parts[1]}


@dataclass
class _List:
    """One order of a row's passages, and the windows of it that are still to be ranked."""

    row: _Row
    order: list[int]
    starts: list[int]
    error: LLMError | None = None

    def settle(self, window: list[int], answer: str | LLMError) -> None:
        """Put a window into the order that an answer gives."""
        start = self.starts.pop(0)
        if isinstance(answer, LLMError):
            self.error = answer
            return
        ranking = parse_ranking(answer, len(window))
        if ranking.repairs.get("missing") == len(window):
            self.error = LLMError(f"no identifier of a passage in the answer {answer!r:.100}")
            return
        for kind, count in ranking.repairs.items():
            self.row.repairs[kind] = self.row.repairs.get(kind, 0) + count
        self.order[start : start + len(window)] = [window[place] for place in ranking.order]


class _CrossEncoderTeacher:
    """A sentence-transformers `CrossEncoder`, loaded when it is first needed."""

    def __init__(self, model: CrossEncoder | str) -> None:
        self.model = model

    def score(self, pairs: list[tuple[str, str]], max_passage_tokens: int) -> list[tuple[float | LLMError, int]]:
        """The logit of each pair of query and passage, and whether the passage was cut."""
        import torch

        model = self._load()
        if model.num_labels != 1:
            raise ValueError(f"A teacher must give one score, this cross-encoder gives {model.num_labels}.")
        fitted = [self._fit(query, passage, max_passage_tokens) for query, passage in pairs]
        good = [place for place, text in enumerate(fitted) if text]
        asked = [(pairs[place][0], fitted[place]) for place in good]
        logits = model.predict(asked, activation_fn=torch.nn.Identity(), show_progress_bar=False) if asked else []
        found: list[float | LLMError] = [LLMError("the query leaves no room for a passage")] * len(pairs)
        for place, logit in zip(good, logits, strict=True):
            found[place] = float(logit)
        return [(score, int(text != whole)) for score, text, (_, whole) in zip(found, fitted, pairs, strict=True)]

    def to(self, device: str) -> None:
        """Put the model on `device`."""
        self._load().to(device)

    def identity(self) -> dict[str, Any]:
        """What decides the scores, for the cache."""
        return describe(self, model=model_identity(self.model))

    def __getstate__(self) -> dict[str, Any]:
        return public_attributes(self)

    def _load(self) -> CrossEncoder:
        if "_loaded" not in self.__dict__:
            from sentence_transformers import CrossEncoder

            if isinstance(self.model, str):
                _require_scoring_head(self.model)
            self._loaded = CrossEncoder(self.model) if isinstance(self.model, str) else self.model
        return self._loaded

    def _fit(self, query: str, passage: str, max_tokens: int) -> str:
        """As much of the passage as there is room for beside the query."""
        model = self._load()
        limit = getattr(model, "max_seq_length", None) or model.max_length
        taken = len(model.tokenizer(query)["input_ids"]) + 1
        room = max_tokens if limit is None else min(max_tokens, limit - taken)
        return cut_to_tokens(model.tokenizer, [passage], room)[0] if room > 0 else ""


def _require_scoring_head(model: str) -> None:
    """Raise `ValueError` for a model whose head would be filled with random numbers."""
    from transformers import AutoConfig

    kinds = AutoConfig.from_pretrained(model).architectures or []
    if not any(kind.endswith(("SequenceClassification", "CausalLM", "ConditionalGeneration")) for kind in kinds):
        raise ValueError(f"{model} is not a cross-encoder: its architecture, {kinds}, has no head that scores. Name one that has.")


def window_starts(number: int, window: int, step: int) -> list[int]:
    """Where the windows over a list begin, from its end to its start; none where there is nothing to rank.

    Example:
        >>> window_starts(35, 20, 10)
        [15, 5, 0]
    """
    if number < 2:
        return []
    starts = list(range(number - window, 0, -step))
    return [*starts, 0]


def z_scores(values: np.ndarray) -> np.ndarray:
    """Values less their mean, over their standard deviation; 0 where all are equal but for rounding, and in place of a NaN.

    Example:
        >>> z_scores(np.array([1.0, 3.0, np.nan])).tolist()
        [-1.0, 1.0, 0.0]
    """
    if np.isnan(values).all():
        return np.zeros(len(values))
    deviation = np.nanstd(values)
    if deviation <= _ROUNDING * np.nanmax(np.abs(values)):
        return np.zeros(len(values))
    return np.nan_to_num((values - np.nanmean(values)) / deviation)


def _each(found: Any, arithmetic: Callable[[Any], Any]) -> Any:
    """Apply arithmetic to a result, unless it is an error."""
    return found if isinstance(found, LLMError) else arithmetic(found)


def _as_teacher(teacher: Any, method: str) -> Any:
    if method == "cross_encoder":
        if isinstance(teacher, _CrossEncoderTeacher):
            return teacher
        if isinstance(teacher, (str, os.PathLike)) or hasattr(teacher, "predict"):
            return _CrossEncoderTeacher(os.fspath(teacher) if isinstance(teacher, os.PathLike) else teacher)
        raise TypeError(f'method="cross_encoder" needs a CrossEncoder, its name or its folder, got {type(teacher).__name__}.')
    return as_llm(teacher, _ASKED_WITH[method], f"method={method!r}")


def _own_prompt(teacher: Any, method: str) -> str:
    return TEACHER_PROMPTS[method] + ("" if getattr(teacher, "is_chat", True) else COMPLETION_CUES[method])
