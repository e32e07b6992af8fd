"""Passages in, queries about them out; queries in, hypothetical answers out: what a language model adds to an unlabelled corpus."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash

from rir_hf.embed import put_on_device_of_rank
from rir_hf.llm import LLM, LLMError, Prompt, as_llm, ask_where_fitting, check_sampling, fit, raise_if_hopeless, seed_of
from rir_hf.prompts import GENERATION_PROMPTS, JUDGEMENTS, Task, check_fields, find_task
from rir_hf.ranking import without_thinking
from rir_hf.transform import (
    TEXTS,
    BatchTransform,
    Column,
    check_at_least,
    read_column,
    read_lists,
    read_texts,
    require_columns,
    take_rows,
)

logger = logging.getLogger(__name__)

EMPTY_PASSAGE = "the passage is empty"
EMPTY_QUERY = "the query is empty"
DUPLICATE = "the same query was already written for this passage"
NOTHING_WRITTEN = "the answer holds no query (a model that thinks first needs more max_tokens, or to be told not to)"
NOT_WRITTEN = "no query was written: "
NOT_CHECKED = "the quality check failed: "
UNCLEAR = "the quality check was answered neither Yes nor No: "
REJECTED = "the quality check said No"

LOST_ANSWERS = ("no_query", "failed", "empty", "duplicate")
"""Why a row has fewer answers than asked, as counted in `answers_dropped`."""

_QUERY_COLUMNS = {
    "query": pa.string(),
    "passage": pa.string(),
    "query_number": pa.int64(),
    "query_error": pa.string(),
    "dropped_query": pa.string(),
    "query_quality": pa.float64(),
    "passage_cut": pa.bool_(),
}
_EARLIER = ("prompt", "answers_dropped", "answers_asked", "answer_error")
_LOST = pa.struct([(reason, pa.int64()) for reason in LOST_ANSWERS])
_CHECKS = {True: "logprobs", False: None, None: None, "logprobs": "logprobs", "text": "text"}
_AGAIN = 1 << 20
"""Added to the number of a draw that replaces a failed one."""

_LIST_MARK = re.compile(r"^(?:[-*•]\s+|\(?1[.):]\s+)")
_ANNOUNCED = re.compile(
    r"^(?:sure|certainly|of course|okay|ok|here)\b|\b(?:here is|here's|here are|following)\b.*:$", re.IGNORECASE
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}


class GenerateQueries(BatchTransform):
    """Map function that writes queries for passages, and has them checked by a second question.

    With `n` queries per passage each row of the corpus becomes `n` rows, with all its columns. Columns added:

    - `query`, `passage`: a pair of query and positive; the passage is the whole one. `query` is null where there is none;
    - `query_error`: why there is none; null where there is one;
    - `dropped_query`: the text that was written and not taken;
    - `query_quality`: how much likelier Yes was than No as the answer to the check, in log-odds; null for `quality_check="text"`;
    - `query_number`: 0 to `n - 1`; `passage_cut`: whether the generator saw only the beginning of the passage.

    A row without a query stays, unless `drop=True`; the steps that follow pass over it. When the generator fails on every row of
    the first batch (more than one), or on the first 8, `RuntimeError` says why. What is written depends on the seed, the passage
    and the number, not on the batch, where the engine allows it.

    Args:
        llm: a `ChatLLM`, `CompletionLLM`, `OpenAIChat`, `VLLM`, or a model's name or folder for a `ChatLLM`.
        task: the retrieval task: the name of a BEIR dataset (`rir_hf.prompts.TASKS`) or a sentence, "Given a legal question,
            find the paragraph that answers it". Default: questions that the passage answers.
        n: queries per passage. Equal ones are dropped.
        quality_check: ask whether the passage fits the query. True or `"logprobs"` compares the log-probabilities of Yes and No;
            `"text"` reads a written answer, for servers without log-probabilities and for models that think first.
        min_quality: log-odds from which a query is taken; higher takes fewer. Small models say Yes or No too easily: look at
            `query_quality` first.
        examples: rows of `passage` and `query` to show first, as a chat between user and assistant.
        passage: the column of the passages.
        max_chars: a passage is cut to so many characters; 8,000 in the original scripts.
        max_passage_tokens: and to so many tokens, further where a prompt does not fit the model.
        prompt: another instruction than that of the task, with `{passage}`, and `{length}` for the drawn length.
        temperature, top_p, max_tokens: of the queries; `max_tokens` of a written check too.
        drop: leave out the rows without a query. Their number and reasons are in the log, once.
        keep_generated: for the rows of an earlier run: leave those with a query, or with one that was turned down, as they are,
            and ask once more for those on which the generator failed. `n` adds none. New queries are compared with those for the
            same passage in the batch.
        seed: of the draws.

    Raises:
        ValueError: a parameter out of range (at once); a missing column, or passages that are not texts (at the first batch).

    Example:
        >>> from rir_hf import GenerateQueries
        >>> pairs = corpus.map(GenerateQueries("Qwen/Qwen3-8B", task="scifact", n=2), batched=True)     # doctest: +SKIP
        >>> pairs[0]["query"]                                                                           # doctest: +SKIP
        'Statins lower the risk of stroke in people over 75.'
    """

    def __init__(
        self,
        llm: LLM | str | os.PathLike[str],
        *,
        task: str | None = None,
        n: int = 1,
        quality_check: bool | Literal["logprobs", "text"] = True,
        min_quality: float = 0.0,
        examples: Sequence[Mapping[str, str]] = (),
        passage: str = "text",
        max_chars: int = 8000,
        max_passage_tokens: int = 1024,
        prompt: str | None = None,
        temperature: float = 0.7,
        top_p: float = 1.0,
        max_tokens: int = 128,
        drop: bool = False,
        keep_generated: bool = False,
        seed: int = 0,
    ) -> None:
        words = find_task(task)
        _check_draws(n, temperature, top_p)
        for name, value in (("max_chars", max_chars), ("max_passage_tokens", max_passage_tokens), ("max_tokens", max_tokens)):
            check_at_least(name, value, 1)
        if quality_check not in _CHECKS:
            raise ValueError(f'quality_check must be True, False, "logprobs" or "text", got {quality_check!r}.')
        for example in examples:
            if not all(isinstance(example.get(name), str) for name in ("passage", "query")):
                raise ValueError(f"Each of the examples must have the texts passage and query, got {example!r:.100}.")
        self.llm = as_llm(llm, "generate", "GenerateQueries")
        self.n = n
        self.quality_check = _CHECKS[quality_check]
        self.min_quality = min_quality
        self.passage = passage
        self.max_chars = max_chars
        self.max_passage_tokens = max_passage_tokens
        self.lengths = list(words.lengths)
        self.prompt = _query_prompt(words, prompt)
        self.check_prompt = fill_prompt("check", words, words.fits)
        self.label = words.query
        self.one_line = words.one_line
        self.examples = [[example["passage"][:max_chars], example["query"]] for example in examples]
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.drop = drop
        self.keep_generated = keep_generated
        self.seed = seed

    @property
    def first_column(self) -> str:
        """The column of the passages."""
        return self.passage

    def transform(self, batch: Mapping[str, Any], rank: int | None) -> dict[str, Any]:
        """Return the columns named in the description of the class, `n` rows for each row."""
        put_on_device_of_rank(self.llm, rank)
        attempts = self._read(batch)
        self._write([attempt for attempt in attempts if attempt.query_error is None and attempt.query is None])
        _drop_duplicates(attempts)
        if self.quality_check is not None:
            self._check([attempt for attempt in attempts if attempt.query is not None and not attempt.is_kept])
        self._tell(attempts)
        return {name: Column([getattr(each, name) for each in attempts], kind) for name, kind in _QUERY_COLUMNS.items()}

    def finish(self, batch: Mapping[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
        """The rows that stay, with the batch's own columns where their number has changed."""
        kept = [not self.drop or error is None for error in columns["query_error"]]
        if all(kept) and len(kept) == len(batch[self.passage]):
            return columns
        return take_rows(batch, columns, kept)

    def _read(self, batch: Mapping[str, Any]) -> list[_Attempt]:
        passages = read_texts(batch, self.passage, "GenerateQueries")
        if not (self.keep_generated and "query_error" in batch):
            return [_Attempt(row, passage or "", number) for row, passage in enumerate(passages) for number in range(self.n)]
        names = ["query", "query_error", "dropped_query", "query_quality", "query_number", "passage_cut"]
        require_columns(batch, names, "GenerateQueries(keep_generated=True)")
        earlier = list(zip(*(read_column(batch, name) for name in names), strict=True))
        if max(number for *_, number, _ in earlier) + 1 < self.n:
            logger.warning(
                "GenerateQueries: keep_generated=True adds no queries: n=%d is more than the rows were made with.", self.n
            )
        return [_Attempt.of_earlier(passage or "", *values) for passage, values in zip(passages, earlier, strict=True)]

    def _write(self, attempts: list[_Attempt]) -> None:
        """Have a query written for each attempt, all first ones, then all second ones, ..."""
        for draw in sorted({attempt.draw for attempt in attempts}):
            now = [attempt for attempt in attempts if attempt.draw == draw]
            fitted = [self._fit(attempt, self._query_prompt_of(attempt), self.max_tokens) for attempt in now]
            found = self._generate(fitted, temperature=self.temperature, seed=seed_of(self.seed, "", draw), tokens=self.max_tokens)
            for attempt, answer in zip(now, found, strict=True):
                attempt.take(answer, self.label, self.one_line)

    def _query_prompt_of(self, attempt: _Attempt) -> Any:
        length = ""
        if self.lengths:
            content = repr((attempt.draw, attempt.passage)).encode()
            drawn = np.random.default_rng([self.seed, xxhash.xxh3_64_intdigest(content)]).choice(self.lengths)
            length = f" Use {drawn}."

        def write(texts: list[str]) -> Prompt:
            return self._with_examples(self.prompt.format(passage=texts[0], length=length))

        return write

    def _with_examples(self, question: str) -> Prompt:
        shown = [(self.prompt.format(passage=passage, length=""), query) for passage, query in self.examples]
        if not is_chat(self.llm):
            cue = f"\n\n{capitalized(self.label)}:"
            return "\n\n".join([*(f"{asked}{cue} {query}" for asked, query in shown), f"{question}{cue}"])
        if not shown:
            return question
        turns = [text for pair in shown for text in pair] + [question]
        return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]

    def _check(self, attempts: list[_Attempt]) -> None:
        """Turn down the queries that the second question says No to."""
        cue = "" if is_chat(self.llm) else "\n\nAnswer:"
        tokens = self.max_tokens if self.quality_check == "text" else 1
        fitted = []
        for attempt in attempts:

            def write(texts: list[str], query: str = attempt.query) -> str:
                return self.check_prompt.format(passage=texts[0], query=query) + cue

            fitted.append(self._fit(attempt, write, tokens))
        if self.quality_check == "text":
            found = [_reading(answer) for answer in self._generate(fitted, temperature=0.0, seed=self.seed, tokens=tokens)]
        else:
            found = ask_where_fitting(fitted, lambda prompts, _: self.llm.choice_logprobs(prompts, list(JUDGEMENTS)))
        for attempt, answer in zip(attempts, found, strict=True):
            attempt.judge(answer, self.min_quality)

    def _fit(self, attempt: _Attempt, write: Any, answer_tokens: int) -> Prompt | LLMError:
        text = attempt.passage[: self.max_chars]
        prompt, cut = fit(self.llm, write, [text], max_passage_tokens=self.max_passage_tokens, answer_tokens=answer_tokens)
        attempt.passage_cut |= bool(cut) or text != attempt.passage
        return prompt

    def _generate(self, fitted: list[Prompt | LLMError], *, temperature: float, seed: int, tokens: int) -> list[str | LLMError]:
        stop = None if is_chat(self.llm) else ["\n"]
        settings = {"temperature": temperature, "top_p": self.top_p, "max_tokens": tokens, "stop": stop, "seed": seed}
        found = ask_where_fitting(fitted, lambda prompts, _: self.llm.generate(prompts, **settings))
        return [texts if isinstance(texts, LLMError) else texts[0] for texts in found]

    def _tell(self, attempts: list[_Attempt]) -> None:
        reasons = Counter(attempt.query_error for attempt in attempts if attempt.query_error is not None)
        good = len(attempts) - reasons.total()
        logger.info("GenerateQueries: %d queries for %d passages.", good, len({attempt.passage for attempt in attempts}))
        if reasons:
            logger.warning("GenerateQueries: %d rows without a query: %s", reasons.total(), dict(reasons.most_common(5)))
        asked = [attempt for attempt in attempts if attempt.query_error != EMPTY_PASSAGE and not attempt.is_again]
        raise_if_hopeless(self, "generator", [attempt.query_error if attempt.has_failed else None for attempt in asked])


@dataclass
class _Attempt:
    """One query for one passage, on its way; `row` is what tells the passages of a batch apart."""

    row: int | str
    passage: str
    query_number: int
    draw: int = 0
    query: str | None = None
    query_error: str | None = None
    dropped_query: str | None = None
    query_quality: float | None = None
    passage_cut: bool = False
    is_kept: bool = False
    is_again: bool = False

    def __post_init__(self) -> None:
        self.draw = self.draw or self.query_number
        if not self.passage.strip():
            self.query_error = EMPTY_PASSAGE

    @classmethod
    def of_earlier(
        cls, passage: str, query: str | None, error: str | None, dropped: str | None, quality: float | None, number: int, cut: bool
    ) -> _Attempt:
        """What an earlier run left; where the generator failed, to be asked again with another draw."""
        if error is not None and error.startswith(NOT_WRITTEN):
            return cls(passage, passage, number, draw=_AGAIN + number, is_again=True)
        if error is not None and error.startswith(NOT_CHECKED):
            return cls(passage, passage, number, query=dropped, passage_cut=bool(cut), is_again=True)
        return cls(passage, passage, number, 0, query, error, dropped, quality, bool(cut), is_kept=True, is_again=True)

    @property
    def has_failed(self) -> bool:
        """Whether the generator failed, or wrote nothing."""
        return (self.query_error or "").startswith((NOT_WRITTEN, NOT_CHECKED, NOTHING_WRITTEN))

    def take(self, answer: str | LLMError, label: str, one_line: bool) -> None:
        """Take the query out of an answer, or why there is none."""
        if isinstance(answer, LLMError):
            self.query_error = f"{NOT_WRITTEN}{answer}"
        else:
            self.query = clean_query(answer, label, one_line=one_line)
            if not self.query:
                self.turn_down(NOTHING_WRITTEN, text=answer)

    def judge(self, found: np.ndarray | bool | str | LLMError, min_quality: float) -> None:
        """Keep the query, or turn it down as the check says."""
        if isinstance(found, LLMError):
            self.turn_down(f"{NOT_CHECKED}{found}")
        elif isinstance(found, str):
            self.turn_down(f"{UNCLEAR}{found!r:.60}")
        elif isinstance(found, bool):
            if not found:
                self.turn_down(REJECTED)
        else:
            self.query_quality = float(found[0] - found[1])
            if not self.query_quality >= min_quality:
                self.turn_down(REJECTED)

    def turn_down(self, reason: str, text: str | None = None) -> None:
        """Drop the query for a reason."""
        self.query, self.dropped_query, self.query_error = None, text if text is not None else self.query, reason


class GenerateAnswers(BatchTransform):
    """Map function that writes hypothetical answers to queries: the passage that a search should find, as the model imagines it.

    The passage itself is never shown (HyDE, Gao et al. 2022). Columns added:

    - `answers`: the distinct answers; `answer`: the answer, null where there is none, with `n=1` only;
    - `prompt`: what the generator was asked, which preference pairs need;
    - `answers_dropped`: how many of the `n` are missing and why (`rir_hf.generate.LOST_ANSWERS`); these counts and the
      answers add up to `n`;
    - `answers_asked`: how many answers were asked for so far, those of earlier runs included;
    - `answer_error`: why the row has no answer; null where it has one.

    No row is ever dropped. When the generator fails on every row of the first batch (more than one), or on the first 8,
    `RuntimeError` says why. What is written depends on the seed, the query and the answer's number, not on the batch, where the
    engine allows it: exactly with `ChatLLM`, as far as the server keeps to its seeds with `OpenAIChat`.

    Args:
        llm: as for `GenerateQueries`.
        task: as for `GenerateQueries`.
        n: answers per query.
        query: the column of the queries.
        words: about how long an answer should be.
        prompt: another question than that of the task, with `{query}`.
        temperature, top_p, max_tokens: of the answers.
        keep_generated: for the rows of an earlier run: leave the answers they have, and ask again for those that failed, or for as
            many more as a larger `n` needs; a smaller one takes none away. Rows whose `prompt` was another are asked anew.
        seed: of the draws.

    Raises:
        ValueError: a parameter out of range (at once); a missing column, or queries that are not texts (at the first batch).

    Example:
        >>> from rir_hf import GenerateAnswers
        >>> rows = pairs.map(GenerateAnswers("Qwen/Qwen3-8B", task="scifact", n=4), batched=True)       # doctest: +SKIP
        >>> rows[0]["answers_dropped"]                                                                  # doctest: +SKIP
        {'no_query': 0, 'failed': 0, 'empty': 0, 'duplicate': 1}
    """

    def __init__(
        self,
        llm: LLM | str | os.PathLike[str],
        *,
        task: str | None = None,
        n: int = 1,
        query: str = "query",
        words: int = 60,
        prompt: str | None = None,
        temperature: float = 0.9,
        top_p: float = 1.0,
        max_tokens: int = 256,
        keep_generated: bool = False,
        seed: int = 0,
    ) -> None:
        _check_draws(n, temperature, top_p)
        check_at_least("max_tokens", max_tokens, 1)
        check_at_least("words", words, 1)
        self.llm = as_llm(llm, "generate", "GenerateAnswers")
        self.n = n
        self.query = query
        self.prompt = answer_prompt(task, words=words, prompt=prompt)
        if not is_chat(self.llm):
            self.prompt += f"\n\n{capitalized(find_task(task).passage)}:"
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.keep_generated = keep_generated
        self.seed = seed

    @property
    def first_column(self) -> str:
        """The column of the queries."""
        return self.query

    def transform(self, batch: Mapping[str, Any], rank: int | None) -> dict[str, Any]:
        """Return the columns named in the description of the class."""
        put_on_device_of_rank(self.llm, rank)
        queries = read_texts(batch, self.query, "GenerateAnswers")
        rows = [_Answered(query or "", self.prompt.format(query=query or ""), self.n) for query in queries]
        if self.keep_generated and {"answers", *_EARLIER} <= set(batch):
            earlier = (read_lists(batch, "answers"), *(read_column(batch, name) for name in _EARLIER))
            for row, *values in zip(rows, *earlier, strict=True):
                row.keep(*values)
        asked = [row for row in rows if row.missing]
        groups: dict[tuple[int, int], list[_Answered]] = {}
        for row in asked:
            groups.setdefault((row.used, row.missing), []).append(row)
        for (used, missing), group in groups.items():
            self._ask(group, used, missing)
        self._tell(rows)
        raise_if_hopeless(self, "generator", [None if row.answers else row.error for row in asked if not row.is_again])
        return self._columns(rows)

    def _ask(self, rows: list[_Answered], used: int, missing: int) -> None:
        """Have `missing` answers written for each row, for equal questions once."""
        distinct = list(dict.fromkeys(row.prompt for row in rows))
        found = self.llm.generate(
            distinct,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=None if is_chat(self.llm) else ["\n\n"],
            n=missing,
            seed=seed_of(self.seed, "", used) if used else self.seed,
        )
        answers = dict(zip(distinct, found, strict=True))
        for row in rows:
            row.take(answers[row.prompt], missing)

    def _tell(self, rows: list[_Answered]) -> None:
        dropped = sum((Counter(row.dropped) for row in rows), Counter())
        logger.info("GenerateAnswers: %d answers to %d queries.", sum(len(row.answers) for row in rows), len(rows))
        if dropped:
            short = sum(bool(row.dropped) for row in rows)
            logger.warning("GenerateAnswers: %d rows have fewer than %d answers, missing are: %s", short, self.n, dict(dropped))
        reasons = Counter(row.error for row in rows if row.error is not None)
        if reasons:
            logger.warning("GenerateAnswers: %d rows without an answer: %s", reasons.total(), dict(reasons.most_common(5)))

    def _columns(self, rows: list[_Answered]) -> dict[str, Column]:
        lost = [{reason: row.dropped.get(reason, 0) for reason in LOST_ANSWERS} for row in rows]
        columns = {
            "answers": Column([row.answers for row in rows], TEXTS),
            "prompt": Column([row.prompt for row in rows], pa.string()),
            "answers_dropped": Column(lost, _LOST),
            "answers_asked": Column([row.used for row in rows], pa.int64()),
            "answer_error": Column([row.error for row in rows], pa.string()),
        }
        if self.n == 1:
            columns["answer"] = Column([next(iter(row.answers), None) for row in rows], pa.string())
        return columns


@dataclass
class _Answered:
    """One query and its answers."""

    query: str
    prompt: str
    missing: int
    answers: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    used: int = 0
    is_again: bool = False

    def __post_init__(self) -> None:
        if not self.query.strip():
            self.dropped, self.error, self.missing = {"no_query": self.missing}, EMPTY_QUERY, 0

    def keep(self, answers: list[str], prompt: str | None, dropped: Mapping[str, int], used: int, error: str | None) -> None:
        """Take over what an earlier run left to the same question; what failed then, or is now asked for, is missing."""
        if prompt != self.prompt or self.error is not None:
            return
        lost = {reason: count for reason, count in dropped.items() if count and reason != "failed"}
        self.missing = max(0, self.missing - len(answers) - sum(lost.values()))
        self.answers, self.dropped, self.used = list(answers), lost, used
        self.error, self.is_again = None if self.missing else error, True

    def take(self, found: list[str] | LLMError, asked: int) -> None:
        """Take the distinct answers, and count the others."""
        lost = Counter(self.dropped)
        texts = [] if isinstance(found, LLMError) else found
        lost["failed"] += asked - len(texts)
        for text in (without_thinking(text).strip() for text in texts):
            if not text or text in self.answers:
                lost["duplicate" if text else "empty"] += 1
            else:
                self.answers.append(text)
        self.dropped, self.used = dict(+lost), self.used + asked
        if not self.answers:
            why = found if isinstance(found, LLMError) else f"{self.dropped} of {self.used} texts"
            self.error = f"no answer was written: {why}"


def answer_prompt(task: str | None, *, words: int = 60, prompt: str | None = None) -> str:
    """The question for a hypothetical answer, with `{query}` where the query belongs.

    Example:
        >>> print(answer_prompt("fiqa").format(query="Are bonds safe?"))
        Write a reply in a forum on finance that answers the question. Use about 60 words. Answer with the reply only.
        <BLANKLINE>
        Financial question: Are bonds safe?
    """
    if prompt is not None:
        check_fields("prompt", prompt, {"query"}, {"query"})
        return prompt
    known = find_task(task)
    return fill_prompt("answer", known, known.write_answer, words=words)


def fill_prompt(name: str, task: Task, instruction: str, **more: Any) -> str:
    """One of `GENERATION_PROMPTS` in the words of a task, with the fields of the row still open."""
    words = {"instruction": instruction, "kind": task.query, "source": task.passage}
    words |= {word.capitalize(): capitalized(text) for word, text in words.items()}
    safe = {word: text.replace("{", "{{").replace("}", "}}") for word, text in words.items()}
    return GENERATION_PROMPTS[name].format(passage="{passage}", query="{query}", length="{length}", **safe, **more)


def capitalized(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def clean_query(text: str, label: str = "query", *, one_line: bool = True) -> str:
    r"""The query in an answer: its first line of text, without an announcement, a list mark, its label or quotes around it.

    Args:
        text: what a model wrote.
        label: what the task calls a query.
        one_line: False keeps the lines that follow.

    Example:
        >>> clean_query('Here is a question:\n\n1. **"What is a truss?"**\n2. "Why?"')
        'What is a truss?'
        >>> clean_query("Scientific claim: Sleep helps.", label="scientific claim")
        'Sleep helps.'
    """
    lines = [line.strip() for line in without_thinking(text).splitlines() if line.strip(" \t#*`-")]
    if len(lines) > 1 and _ANNOUNCED.search(lines[0].rstrip("*")):
        lines = lines[1:]
    names = f"{re.escape(label)}|query|question|{re.escape(label.split()[-1])}"
    labelled = re.compile(rf"^(?:{names})(?:\s*\d+)?\s*:[\s*]*", re.IGNORECASE)
    found, before = "\n".join(lines[:1] if one_line else lines), None
    while found != before:
        before = found
        found = labelled.sub("", _LIST_MARK.sub("", found.strip().strip("*").strip()))
        if len(found) > 1 and _QUOTES.get(found[0]) == found[-1] and found[-1] not in found[1:-1]:
            found = found[1:-1]
    return found


def is_chat(llm: Any) -> bool:
    """Whether prompts are put into a chat template."""
    return getattr(llm, "is_chat", True)


def _query_prompt(task: Task, prompt: str | None) -> str:
    if prompt is not None:
        check_fields("prompt", prompt, {"passage"}, {"passage", "length"})
        return prompt
    return fill_prompt("query", task, task.write_query)


def _check_draws(n: int, temperature: float, top_p: float) -> None:
    check_at_least("n", n, 1)
    check_sampling(temperature, top_p)
    if n > 1 and temperature == 0:
        raise ValueError(f"n={n} texts at temperature 0 are all the same: raise the temperature.")


def _drop_duplicates(attempts: list[_Attempt]) -> None:
    """Keep the first of equal queries of one row of the corpus, and those of an earlier run before new ones."""
    seen = {(attempt.row, attempt.query) for attempt in attempts if attempt.is_kept}
    for attempt in attempts:
        if attempt.query is not None and not attempt.is_kept:
            if (attempt.row, attempt.query) in seen:
                attempt.turn_down(DUPLICATE)
            seen.add((attempt.row, attempt.query))


def _reading(answer: str | LLMError) -> bool | str | LLMError:
    """Yes, No, or the text where it is neither: the only one of the two, or the one that stands alone at the beginning."""
    if isinstance(answer, LLMError):
        return answer
    said = without_thinking(answer).strip().lower()
    found = {"yes" if word == "yes" else "no" for word in re.findall(r"\b(yes|no|not)\b", said)}
    first = re.match(r"\W*(yes|no)\s*(?:[.,;:!*-]|$)", said)
    if len(found) == 1 and (first or re.search(r"\b(yes|no)\b", said)):
        return "yes" in found
    return first[1] == "yes" if first else answer
