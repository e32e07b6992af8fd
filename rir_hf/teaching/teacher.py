"""What a teacher is: it reads rows of a query with its passages and gives every passage a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from rir_hf.core.configured import Configured
from rir_hf.models.llm import LLM, LLMError, is_chat
from rir_hf.models.prompts import COMPLETION_CUES, TEACHER_PROMPTS, check_fields
from rir_hf.schema import Column, OneOf, note

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """A query with its passages, as a teacher reads it."""

    query: str
    """The query, never empty."""
    pos: list[str]
    """The positives."""
    neg: list[str]
    """The negatives. None of the passages is empty, and there is at least one."""
    columns: Mapping[str, Any] = _NOTHING
    """The row's values in the columns that the teacher names in `inputs`."""

    @property
    def passages(self) -> list[str]:
        """All passages, the positives first."""
        return [*self.pos, *self.neg]


class Scored(NamedTuple):
    """What a teacher says about one row."""

    scores: Sequence[float] | np.ndarray | None = None
    """A score per passage, the positives first, higher is better; NaN for a passage that the
    teacher knows nothing of; None where the row failed."""
    error: str | None = None
    """Why the row failed, as `schema.note` writes it; None where it did not."""
    warning: str | None = None
    """What went wrong although there are scores, written in the same way."""
    cut: int = 0
    """How many passages were cut to fit a prompt, each time that they were shown."""
    repairs: Mapping[str, int] = _NOTHING
    """How often each of `schema.REPAIRS` was needed to read the teacher's answers."""
    members: Mapping[str, Any] = _NOTHING
    """A score per passage from each of `Teacher.members`, None where it failed."""


class Teacher(Configured, ABC):
    """Base class of the teachers, for `ScorePassages`, `Blend` and `recommend_margin`.

    A subclass stores its settings under their own names (see `Configured`) and implements `score`.
    Scores may have any unit; only their order and distances within a row count. A row's scores
    must not depend on the other rows of the batch.

    Example:
        >>> class SharedWords(Teacher):
        ...     '''Scores a passage by how many of the query's words are in it.'''
        ...     def score(self, rows):
        ...         return [self._scored(row) for row in rows]
        ...     def _scored(self, row):
        ...         words = set(row.query.split())
        ...         return Scored([len(words & set(text.split())) for text in row.passages])
        >>> row = Row("red fox", pos=["a red fox"], neg=["a red car", "a dog"])
        >>> SharedWords().score([row])[0].scores
        [2, 1, 0]
        >>> from rir_hf.teaching.passages import ScorePassages
        >>> row = {"query": "red fox", "pos": ["a red fox"], "neg": ["a red car", "a dog"]}
        >>> ScorePassages(SharedWords()).one(row)["neg_scores"]
        [1.0, 0.0]
    """

    @property
    def inputs(self) -> tuple[Column | OneOf, ...]:
        """Columns that it reads besides the query and the passages; they come in `Row.columns`."""
        return ()

    @property
    def counts_repairs(self) -> bool:
        """Whether `Scored.repairs` says something: only where answers are written as text."""
        return False

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the teachers that it is made of, whose scores come in `Scored.members`."""
        return ()

    def best_scores(self, rows: Sequence[Row]) -> list[np.ndarray] | None:
        """The scores that it gives the best 100 passages of a corpus for each row's query, best
        first, or all passages where there are fewer; None for a teacher that cannot search one.
        """
        return None

    @abstractmethod
    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """Score the passages of each row, in the order of the rows.

        A row that fails gets `Scored(error=note("failed", "why"))`, so that it fails alone.
        """


def scores_of(teacher: Teacher, rows: Sequence[Row]) -> list[Scored]:
    """What a teacher says about each row, its scores as float64 arrays; a row with an infinite
    score has failed.

    Raises:
        ValueError: not one `Scored` per row, or not one score per passage.
    """
    found = teacher.score(rows) if rows else []
    name = type(teacher).__name__
    if len(found) != len(rows):
        raise ValueError(f"{name} gave {len(found)} results for {len(rows)} rows.")
    return [_checked(scored, row, name) for scored, row in zip(found, rows, strict=True)]


def _checked(scored: Scored, row: Row, name: str) -> Scored:
    if not isinstance(scored, Scored):
        raise TypeError(f"{name}.score must give a Scored per row, got {type(scored).__name__}.")
    if scored.error is not None:
        return scored._replace(scores=None)
    scores = np.array([] if scored.scores is None else scored.scores, np.float64)
    if scores.shape != (len(row.passages),):
        raise ValueError(
            f"{name} gave {len(scores)} scores for the {len(row.passages)} passages of the query "
            f"{row.query!r:.60}."
        )
    if np.isinf(scores).any():
        return scored._replace(scores=None, error=note("failed", "an infinite score"))
    return scored._replace(scores=scores)


def scored_with(scores: np.ndarray) -> Scored:
    """A model's scores; what is not a number fails the row."""
    if np.isfinite(scores).all():
        return Scored(scores)
    return Scored(error=note("failed", "a score that is not a number"))


def prompt_for(
    name: str,
    prompt: str | None,
    llm: LLM,
    needed: set[str],
    optional: frozenset[str] = frozenset(),
) -> str:
    """The caller's prompt, or the package's with a cue for a model that only continues a text.

    Args:
        name: the teacher's in `TEACHER_PROMPTS`.
        prompt: the caller's, a format string, or None.
        llm: the model to be asked.
        needed: fields that a prompt must have.
        optional: fields that it may have.
    """
    if prompt is not None:
        check_fields("prompt", prompt, needed, needed | optional)
        return prompt
    return TEACHER_PROMPTS[name] + ("" if is_chat(llm) else COMPLETION_CUES[name])


def pairs_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Query and passage of every passage of every row, row after row.

    Example:
        >>> pairs_of([Row("q", ["a"], ["b"]), Row("r", [], ["c"])])
        [('q', 'a'), ('q', 'b'), ('r', 'c')]
    """
    pairs: list[tuple[str, str]] = []
    for row in rows:
        pairs += [(row.query, passage) for passage in row.passages]
    return pairs


def scored_by_row(
    rows: Sequence[Row],
    results: Sequence[Any],
    cuts: Sequence[int],
    to_score: Callable[[Any], float] = float,
) -> list[Scored]:
    """Put together again what was found pair by pair; one failed passage fails its row.

    Args:
        rows: the rows whose pairs were scored.
        results: what the model said of each of `pairs_of(rows)`, or an `LLMError`.
        cuts: 1 for each pair whose passage was cut, 0 for the others.
        to_score: makes a score of a result.

    Example:
        >>> rows = [Row("q", ["a"], ["b"]), Row("r", [], ["c"])]
        >>> found = scored_by_row(rows, [0.5, 0.25, 1.0], [0, 1, 0])
        >>> [(scored.scores.tolist(), scored.cut) for scored in found]
        [([0.5, 0.25], 1), ([1.0], 0)]
    """
    scored: list[Scored] = []
    start = 0
    for row in rows:
        of_row = slice(start, start + len(row.passages))
        start = of_row.stop
        found = _scored_together(results[of_row], to_score)
        scored.append(found._replace(cut=sum(cuts[of_row])))
    return scored


def _scored_together(results: Sequence[Any], to_score: Callable[[Any], float]) -> Scored:
    errors = [result for result in results if isinstance(result, LLMError)]
    if errors:
        why = f"{len(errors)} of {len(results)} passages: {errors[0]}"
        return Scored(error=note("failed", why))
    return scored_with(np.array([to_score(result) for result in results], np.float64))
