"""Queries with several hypothetical answers in, preference pairs out: the answer with which the retriever finds the passage best
against the one with which it finds it worst.

After Li et al. 2025 (Reinforced-IR, arXiv 2502.11562) and the script that comes with it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from rir_hf.embed import put_on_device_of_rank
from rir_hf.generate import EMPTY_PASSAGE, EMPTY_QUERY, answer_prompt
from rir_hf.retriever import Encoder, as_encoder
from rir_hf.transform import BatchTransform, Column, read_column, read_lists, read_texts, require_columns, take_rows

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

PREFIX = "Generate the topic about this passage: "
TOO_FEW = "too few answers"
EQUAL_SCORES = "equal scores"
SMALL_GAP = "gap too small"
NO_GAIN = "no gain"
NOT_A_NUMBER = "a similarity is not a number"

_COLUMNS = {
    "prompt": pa.string(),
    "chosen": pa.string(),
    "rejected": pa.string(),
    "chosen_score": pa.float64(),
    "rejected_score": pa.float64(),
    "query_score": pa.float64(),
    "pair_error": pa.string(),
}
_ROUNDING = 1e-6
_REMEMBERED = 1 << 16


class Pair(NamedTuple):
    """The places of the better and the worse answer, or why there is no pair."""

    chosen: int
    rejected: int
    error: str | None


class PreferencePairs(BatchTransform):
    """Map function that makes a preference pair of each row's answers, as DPO trains on, and drops the rows that give none.

    An answer's score is the similarity of query and answer together to the passage,
    `s(a) = ((1 - w) * E(query) + w * E(prefix + a)) * E(passage)`; the best is `chosen`, the worst `rejected`, the first one of
    those that are equal to about 1e-6. With `raw = E(query) * E(passage)` a row gives no pair, and `pair_error` says why, if

    - `"too few answers"`: it has fewer than two that are neither empty nor equal;
    - `"equal scores"`: the best and the worst are equally good;
    - `"gap too small"`: not `(best - (1 - w) * raw) * threshold >= worst - (1 - w) * raw`. The brackets are what the answer alone
      adds, `w * E(prefix + a) * E(passage)`; where that is negative for the best answer, no gap is asked for;
    - `"no gain"`: with `require_gain`, `best > raw` is missing: no answer helps the query;
    - the query or the passage is empty, or a similarity is not a number.

    Columns added: `prompt`, `chosen`, `rejected` (texts), `chosen_score`, `rejected_score`, `query_score` (which is `raw`) and
    `pair_error`. Every other column stays, for the rows that stay; `map` needs no `remove_columns`. Where `map` is called without
    `batched=True`, or with `drop=False`, rows without a pair stay too, with nulls.

    Args:
        retriever: as for `Embed`; queries and answers are encoded as queries, the passage as a passage, each distinct text once.
        query, answers, passage: the columns. `passage` may hold a text or, as `pos` does, a list whose first text counts.
        threshold: how much less than the best answer the worst must add, 0.95 in the original script. 1 takes every pair.
        answer_weight: `w`.
        require_gain: only pairs whose better answer helps the query.
        prefix: put before an answer when it is encoded, never into the pair.
        task: what the generator was asked for, where the rows have no column `prompt` from `GenerateAnswers`.
        drop: leave out the rows without a pair. Their number and reasons are in the log, once; for a report that can be made
            again, map with `drop=False`, call `report_generation`, then filter.

    Raises:
        ValueError: a parameter out of range (at once); a missing column, `answers` that is not a list (at the first batch).

    Example:
        >>> from rir_hf import PreferencePairs
        >>> pairs = rows.map(PreferencePairs("BAAI/bge-base-en-v1.5"), batched=True)                    # doctest: +SKIP
        >>> pairs[0]["chosen_score"], pairs[0]["rejected_score"], pairs[0]["query_score"]               # doctest: +SKIP
        (0.71, 0.66, 0.68)
    """

    def __init__(
        self,
        retriever: Encoder | SentenceTransformer | str,
        *,
        query: str = "query",
        answers: str = "answers",
        passage: str = "passage",
        threshold: float = 0.95,
        answer_weight: float = 0.2,
        require_gain: bool = True,
        prefix: str = PREFIX,
        task: str | None = None,
        drop: bool = True,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold}.")
        if not 0 < answer_weight <= 1:
            raise ValueError(f"answer_weight must be above 0 and at most 1, got {answer_weight}.")
        self.retriever = as_encoder(retriever)
        self.query = query
        self.answers = answers
        self.passage = passage
        self.threshold = threshold
        self.answer_weight = answer_weight
        self.require_gain = require_gain
        self.prefix = prefix
        self.prompt = answer_prompt(task)
        self.drop = drop

    @property
    def first_column(self) -> str:
        """The query's column."""
        return self.query

    def transform(self, batch: Mapping[str, Any], rank: int | None) -> dict[str, Any]:
        """Return the columns named in the description of the class, a row for each row."""
        put_on_device_of_rank(self.retriever, rank)
        rows = self._read(batch)
        self._score([row for row in rows if row.error is None])
        for row in rows:
            if row.error is None:
                row.choose(self.threshold, self.answer_weight, self.require_gain)
        reasons = Counter(row.error for row in rows if row.error is not None)
        if reasons:
            logger.info("PreferencePairs: %d of %d rows give no pair: %s", reasons.total(), len(rows), dict(reasons.most_common()))
        found = [row.columns() for row in rows]
        return {name: Column([row[name] for row in found], kind) for name, kind in _COLUMNS.items()}

    def finish(self, batch: Mapping[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
        """The rows with a pair, with their other columns."""
        kept = [error is None for error in columns["pair_error"]]
        return take_rows(batch, columns, kept) if self.drop and not all(kept) else columns

    def _read(self, batch: Mapping[str, Any]) -> list[_Row]:
        require_columns(batch, [self.answers, self.passage], "PreferencePairs")
        queries = read_texts(batch, self.query, "PreferencePairs")
        prompts = read_texts(batch, "prompt", "PreferencePairs") if "prompt" in batch else [None] * len(queries)
        passages = self._read_passages(batch)
        rows = []
        for query, answers, passage, prompt in zip(queries, read_lists(batch, self.answers), passages, prompts, strict=True):
            wrong = next((answer for answer in answers if answer is not None and not isinstance(answer, str)), None)
            if wrong is not None:
                raise ValueError(f"PreferencePairs: {self.answers!r} must hold lists of strings, found {wrong!r:.60} in one.")
            rows.append(_Row(query or "", _distinct(answers), passage or "", prompt or self.prompt.format(query=query or "")))
        return rows

    def _read_passages(self, batch: Mapping[str, Any]) -> list[str | None]:
        values = [value[:1] if isinstance(value, list) else [value] for value in read_column(batch, self.passage)]
        return read_texts({self.passage: [value[0] if value else None for value in values]}, self.passage, "PreferencePairs")

    def _score(self, rows: list[_Row]) -> None:
        """Similarities of each row's passage to its query and its answers."""
        if not rows:
            return
        texts = [text for row in rows for text in (row.query, *(self.prefix + answer for answer in row.answers))]
        asked = iter(self._vectors("query", self.retriever.encode_queries, texts))
        passages = self._vectors("passage", self.retriever.encode_corpus, [row.passage for row in rows])
        for row, passage in zip(rows, passages, strict=True):
            row.raw = float(next(asked) @ passage)
            row.alone = np.array([next(asked) @ passage for _ in row.answers])

    def _vectors(self, role: str, encode: Callable[[list[str]], np.ndarray], texts: list[str]) -> list[np.ndarray]:
        """The vector of each text in double precision; those of the last 65,536 distinct texts are remembered."""
        known = self.__dict__.setdefault("_known", {}).setdefault(role, {})
        unknown = [text for text in dict.fromkeys(texts) if text not in known]
        if unknown:
            known.update(zip(unknown, np.asarray(encode(unknown), np.float32), strict=True))
        found = [known[text].astype(np.float64) for text in texts]
        for text in list(known)[: max(0, len(known) - _REMEMBERED)]:
            del known[text]
        return found


class _Row:
    """One query with its passage and distinct answers."""

    def __init__(self, query: str, answers: list[str], passage: str, prompt: str) -> None:
        self.query = query
        self.answers = answers
        self.passage = passage
        self.prompt = prompt
        self.raw: float | None = None
        self.alone = np.empty(0)
        self.pair: tuple[int, int] | None = None
        self.scores = np.empty(0)
        empty = EMPTY_QUERY if not query.strip() else EMPTY_PASSAGE if not passage.strip() else None
        self.error = empty or (TOO_FEW if len(answers) < 2 else None)

    def choose(self, threshold: float, weight: float, require_gain: bool) -> None:
        """Make the pair, or say why there is none."""
        self.scores = (1 - weight) * self.raw + weight * self.alone
        chosen, rejected, self.error = choose_pair(
            self.scores, self.raw, threshold=threshold, answer_weight=weight, require_gain=require_gain
        )
        self.pair = (chosen, rejected)

    def columns(self) -> dict[str, Any]:
        """The row's values of the added columns."""
        values: dict[str, Any] = dict.fromkeys(_COLUMNS) | {
            "prompt": self.prompt,
            "query_score": self.raw,
            "pair_error": self.error,
        }
        if self.pair is not None and self.error is None:
            for name, place in zip(("chosen", "rejected"), self.pair, strict=True):
                values |= {name: self.answers[place], f"{name}_score": float(self.scores[place])}
        return values


def choose_pair(scores: np.ndarray, raw: float, *, threshold: float, answer_weight: float, require_gain: bool) -> Pair:
    """The best and the worst of at least two answers, and whether they make a pair.

    Args:
        scores: similarities of query and answer together to the passage, `(answers,)`.
        raw: the query's own similarity.
        threshold, answer_weight, require_gain: as in `PreferencePairs`.

    Example:
        >>> choose_pair(np.array([0.50, 0.55, 0.52]), 0.51, threshold=0.95, answer_weight=0.2, require_gain=True)
        Pair(chosen=1, rejected=0, error=None)
    """
    if not (np.isfinite(scores).all() and np.isfinite(raw)):
        return Pair(0, 0, NOT_A_NUMBER)
    best, worst = scores.max(), scores.min()
    own = (1 - answer_weight) * raw
    error = None
    if best - worst <= _ROUNDING:
        error = EQUAL_SCORES
    elif not (best - own) * threshold >= worst - own:
        error = SMALL_GAP
    elif require_gain and not best > raw:
        error = NO_GAIN
    first_best, first_worst = np.flatnonzero(scores >= best - _ROUNDING)[0], np.flatnonzero(scores <= worst + _ROUNDING)[0]
    return Pair(int(first_best), int(first_worst), error)


def _distinct(answers: list[str | None]) -> list[str]:
    """The answers that are neither empty nor equal to an earlier one."""
    return list(dict.fromkeys(answer for answer in answers if answer and not answer.isspace()))
