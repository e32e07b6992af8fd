"""Queries with several answers in, preference pairs out, as the retriever judges the answers.

After Li et al. 2025 (Reinforced-IR, arXiv 2502.11562) and the scripts that come with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rir_hf.core.columns import Batch
from rir_hf.core.step import Step
from rir_hf.core.texts import is_whole
from rir_hf.models.prompts import answer_prompt
from rir_hf.models.retriever import Encoder, as_encoder
from rir_hf.schema import (
    ANSWERS,
    CHOSEN,
    CHOSEN_SCORE,
    PAIR_NOTE,
    PASSAGE,
    POS,
    POS_IDS,
    PROMPT,
    QUERY,
    QUERY_SCORE,
    REJECTED,
    REJECTED_SCORE,
    Column,
    OneOf,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PREFIX = "Generate the topic about this passage: "
"""What the original puts before an answer when it encodes it for a preference pair."""

_ROUNDING = 1e-6
"""Similarities that differ by no more are equal: they come from float32 vectors."""


class Pair(NamedTuple):
    """Positions of the better and the worse answer, and why they make no pair (None: they do)."""

    chosen: int
    rejected: int
    code: str | None


class PreferencePairs(Step):
    """Step that makes a preference pair of each row's answers, as DPO trains on.

    An answer's score is the similarity of query and answer together to the passage,
    `s(a) = ((1 - w) * E(query) + w * E(prefix + a)) * E(passage)`. The best is `chosen`, the worst
    `rejected`, the first one of those that are equal to about 1e-6. With
    `raw = E(query) * E(passage)` a row gives no pair, and `pair_note` holds the code, if

    - `too_few_answers`: it has fewer than two that are neither empty nor equal;
    - `equal_scores`: the best and the worst are equally good;
    - `small_gap`: not `(best - (1 - w) * raw) * threshold >= worst - (1 - w) * raw`. The brackets
      are what the answer alone adds, `w * E(prefix + a) * E(passage)`; where that is negative for
      the best answer, no gap is asked for;
    - `no_gain`: `require_gain` is set and not `best > raw`: no answer helps the query;
    - `empty_query`, `empty_passage`, `not_unicode`, `not_a_number`: there is nothing to compare.

    Columns added: the texts `prompt`, `chosen` and `rejected`, the numbers `chosen_score`,
    `rejected_score` and `query_score` (which is `raw`), and `pair_note`. No row is dropped: one
    without a pair has null in `chosen` and `rejected`, and `to_trl` leaves it out.

    Queries and answers are both encoded as *queries* here, as the original does for DPO. Where it
    mines negatives of an answer, the original encodes it as a *passage*; in this package
    `Embed(retriever, "answer", role=...)` says which. It matters only with a retriever that treats
    the two in different ways.

    Args:
        retriever: as for `Embed`: a `Retriever`, a `SentenceTransformer`, a model's name or folder,
            or any object with `encode_queries` and `encode_corpus`.
        query: the column of the queries.
        answers: the column of their answers, lists of texts.
        passage: the column of the passages. Where there is no `passage`, the first text of `pos` is
            taken; `passage="pos"` takes that even so.
        threshold: how much less than the best answer the worst must add, 0 to 1; 0.95 in the
            original script. 1 takes every pair.
        answer_weight: `w`, above 0, at most 1; 0.2 in the original script.
        require_gain: take only pairs whose better answer helps the query.
        prefix: put before an answer when it is encoded, never into the pair.
        task: what the generator was asked for, where rows have no `prompt` of `GenerateAnswers`.

    Raises:
        ValueError: an option is out of range (at once); a missing column, or answers that are not
            lists of texts (before anything is encoded).

    Example:
        >>> class CountSuns:
        ...     '''A stand-in for a retriever.'''
        ...     def encode_queries(self, texts, **settings):
        ...         return np.array([[text.count("sun"), 0.1] for text in texts])
        ...     encode_corpus = encode_queries
        >>> answers = ["A cat.", "The sun."]
        >>> row = {"query": "What shines?", "answers": answers, "passage": "The sun shines."}
        >>> pair = PreferencePairs(CountSuns()).one(row)
        >>> pair["chosen"], pair["rejected"], round(pair["chosen_score"], 2)
        ('The sun.', 'A cat.', 0.21)
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
        self.task = task
        self.prompt = answer_prompt(task)

    outputs = (PROMPT, CHOSEN, REJECTED, CHOSEN_SCORE, REJECTED_SCORE, QUERY_SCORE, PAIR_NOTE)

    @property
    def inputs(self) -> tuple[Column | OneOf, ...]:
        """The queries, their answers and their passages."""
        return QUERY.named(self.query), ANSWERS.named(self.answers), self._passage_column

    @property
    def note(self) -> Column:
        """`pair_note`."""
        return PAIR_NOTE

    def transform(self, batch: Batch) -> dict[str, list[Any]]:
        """Return the columns named in the description of the class."""
        rows = self._rows(batch)
        self._score([row for row in rows if row.code is None])
        found = [self._columns_of(row) for row in rows]
        return {column.name: [row.get(column.name) for row in found] for column in self.outputs}

    def _check_names(self, columns: Collection[str]) -> None:
        if POS_IDS.name in columns and not {self.passage, POS.name} & set(columns):
            raise ValueError(
                "PreferencePairs compares answers by the text of the passage, and the rows name it "
                f"by its id alone ({POS_IDS.name}): mine them first, which adds {POS.name} "
                "(MineNegatives, `rir-hf mine`), and let the answers be written to those rows."
            )
        super()._check_names(columns)

    @property
    def _passage_column(self) -> Column | OneOf:
        if self.passage == PASSAGE.name:
            return PASSAGE | POS
        return POS if self.passage == POS.name else PASSAGE.named(self.passage)

    def _rows(self, batch: Batch) -> list[_Row]:
        queries = [query or "" for query in batch.texts(self.query)]
        prompts = batch.texts(PROMPT.name) if PROMPT.name in batch else [None] * len(queries)
        columns = zip(
            queries, batch.lists_of_texts(self.answers), self._passages(batch), prompts, strict=True
        )
        return [
            _Row(
                query,
                _distinct(answers),
                passage or "",
                prompt or self.prompt.format(query=query),
            )
            for query, answers, passage, prompt in columns
        ]

    def _passages(self, batch: Batch) -> list[str | None]:
        if self.passage in batch and self.passage != POS.name:
            return batch.texts(self.passage)
        return [positives[0] if positives else None for positives in batch.lists(POS.name)]

    def _score(self, rows: list[_Row]) -> None:
        """Compute the similarities of each row's passage to its query and to its answers."""
        if not rows:
            return
        asked = [row.query for row in rows]
        for row in rows:
            asked += [self.prefix + answer for answer in row.answers]
        of_query = _vectors_by_text(self.retriever.encode_queries, asked)
        of_passage = _vectors_by_text(self.retriever.encode_corpus, [row.passage for row in rows])
        for row in rows:
            passage = of_passage[row.passage]
            row.raw = float(of_query[row.query] @ passage)
            alone = [of_query[self.prefix + answer] @ passage for answer in row.answers]
            weight = self.answer_weight
            row.scores = (1 - weight) * row.raw + weight * np.array(alone)

    def _columns_of(self, row: _Row) -> dict[str, Any]:
        """The row's values in the added columns; those of a pair only where there is one."""
        found = {"prompt": row.prompt, "query_score": row.raw, "pair_note": row.code}
        if row.code is not None:
            return found
        chosen, rejected, code = choose_pair(
            row.scores,
            row.raw,
            threshold=self.threshold,
            answer_weight=self.answer_weight,
            require_gain=self.require_gain,
        )
        if code is not None:
            return {**found, "pair_note": code}
        return {
            **found,
            "chosen": row.answers[chosen],
            "rejected": row.answers[rejected],
            "chosen_score": float(row.scores[chosen]),
            "rejected_score": float(row.scores[rejected]),
        }


def choose_pair(
    scores: np.ndarray, raw: float, *, threshold: float, answer_weight: float, require_gain: bool
) -> Pair:
    """The best and the worst of at least two answers, and whether they make a pair.

    Args:
        scores: similarities of query and answer together to the passage, `(answers,)`.
        raw: the query's own similarity.
        threshold: as in `PreferencePairs`.
        answer_weight: as in `PreferencePairs`.
        require_gain: as in `PreferencePairs`.

    Example:
        >>> scores = np.array([0.50, 0.55, 0.52])
        >>> choose_pair(scores, 0.51, threshold=0.95, answer_weight=0.2, require_gain=True)
        Pair(chosen=1, rejected=0, code=None)
    """
    if not (np.isfinite(scores).all() and np.isfinite(raw)):
        return Pair(0, 0, "not_a_number")
    best, worst = scores.max(), scores.min()
    of_query = (1 - answer_weight) * raw
    code = None
    if best - worst <= _ROUNDING:
        code = "equal_scores"
    elif not (best - of_query) * threshold >= worst - of_query:
        code = "small_gap"
    elif require_gain and not best > raw:
        code = "no_gain"
    chosen = np.flatnonzero(scores >= best - _ROUNDING)[0]
    rejected = np.flatnonzero(scores <= worst + _ROUNDING)[0]
    return Pair(int(chosen), int(rejected), code)


@dataclass
class _Row:
    """One query with its distinct answers and its passage, and how similar they are."""

    query: str
    answers: list[str]
    passage: str
    prompt: str
    raw: Any = None
    scores: Any = None

    @property
    def code(self) -> str | None:
        """Why there is nothing to compare."""
        if not self.query.strip():
            return "empty_query"
        if not self.passage.strip():
            return "empty_passage"
        if not (is_whole(self.query) and is_whole(self.passage)):
            return "not_unicode"
        return "too_few_answers" if len(self.answers) < 2 else None


def _distinct(answers: list[str | None]) -> list[str]:
    """The answers that can be encoded and are not equal to an earlier one."""
    usable = [text for text in answers if text and not text.isspace() and is_whole(text)]
    return list(dict.fromkeys(usable))


def _vectors_by_text(encode: Any, texts: list[str]) -> dict[str, np.ndarray]:
    """The vector of each distinct text, in double precision."""
    distinct = list(dict.fromkeys(texts))
    vectors = np.asarray(encode(distinct), np.float32).astype(np.float64)
    return dict(zip(distinct, vectors, strict=True))
