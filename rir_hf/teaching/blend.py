"""Teachers without a model of their own: several together, and the retriever's similarities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rir_hf.schema import NEG_SIMS, POS_SIMS, Column, OneOf, note
from rir_hf.teaching.teacher import Row, Scored, Teacher, scores_of

_ROUNDING = 1e-7


class Blend(Teacher):
    """Several teachers together: the weighted sum of their z-scores over the row.

    Teachers that err in different ways make a better one: on SciFact the sum of a small model's
    query likelihood and the retriever's similarities ranks far better than either.

    Args:
        teachers: the members, one or more.
        weights: one per member. Default: 1 each.

    A passage that a member knows nothing of counts as an average one there. A row that fails for a
    member fails, with a note that names the member.

    Raises:
        TypeError: a member that is no teacher.
        ValueError: no member, or another number of weights, or a weight that is not a number.

    Example:
        >>> row = Row("q", pos=["a"], neg=["b"], columns={"pos_sims": [0.9], "neg_sims": [0.5]})
        >>> Blend([Similarities(), Similarities()], weights=[1, 0.5]).score([row])[0].scores
        array([ 1.5, -1.5])
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float] | None = None) -> None:
        if isinstance(teachers, Teacher):
            raise TypeError("Blend takes a list of teachers, got one teacher.")
        for teacher in teachers:
            if not isinstance(teacher, Teacher):
                raise TypeError(f"Blend takes teachers, got {type(teacher).__name__}.")
        if not teachers:
            raise ValueError("Blend needs at least one teacher.")
        weights = [1.0] * len(teachers) if weights is None else list(weights)
        if len(weights) != len(teachers) or not np.isfinite(weights).all():
            raise ValueError(
                f"weights must be {len(teachers)} numbers, one per teacher, got {weights}."
            )
        self.teachers = list(teachers)
        self.weights = [float(weight) for weight in weights]

    @property
    def inputs(self) -> tuple[Column | OneOf, ...]:
        """What the members read."""
        wanted: list[Column | OneOf] = []
        for teacher in self.teachers:
            wanted += [column for column in teacher.inputs if column not in wanted]
        return tuple(wanted)

    @property
    def counts_repairs(self) -> bool:
        """Whether a member does."""
        return any(teacher.counts_repairs for teacher in self.teachers)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The weighted sum of the members' z-scores, row by row."""
        by_member = [scores_of(teacher, rows) for teacher in self.teachers]
        return [self._together(of_row) for of_row in zip(*by_member, strict=True)]

    def _together(self, members: tuple[Scored, ...]) -> Scored:
        cut = sum(member.cut for member in members)
        repairs: Counter[str] = sum((Counter(member.repairs) for member in members), Counter())
        for teacher, member in zip(self.teachers, members, strict=True):
            if member.error is not None:
                error = _with_name(type(teacher).__name__, member.error)
                return Scored(error=error, cut=cut, repairs=repairs)
        standardised = [z_scores(np.asarray(member.scores, np.float64)) for member in members]
        return Scored(np.dot(self.weights, standardised), cut=cut, repairs=repairs)


class Similarities(Teacher):
    """What the retriever said in mining: the similarities `pos_sims` and `neg_sims`.

    Of use in a `Blend`. Alone, a row with a positive that is not in the corpus, and so has no
    similarity, fails.

    Example:
        >>> row = Row("q", pos=["a"], neg=["b"], columns={"pos_sims": [0.9], "neg_sims": [0.5]})
        >>> Similarities().score([row])[0].scores
        array([0.9, 0.5])
    """

    inputs = (POS_SIMS, NEG_SIMS)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The similarities, NaN where there is none."""
        return [Scored(_similarities_of(row)) for row in rows]


def z_scores(values: np.ndarray) -> np.ndarray:
    """Values less their mean, over their standard deviation; 0 where all are equal but for
    rounding, and in place of a NaN.

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


def _similarities_of(row: Row) -> np.ndarray:
    positives = _aligned(row, "pos_sims", len(row.pos))
    return np.array([*positives, *_aligned(row, "neg_sims", len(row.neg))], np.float64)


def _aligned(row: Row, name: str, size: int) -> list[float]:
    """A row's similarities, NaN in place of a null."""
    values = row.columns[name]
    if values is None:
        return [np.nan] * size
    if len(values) != size:
        raise ValueError(
            f"Similarities: {name!r} must be aligned with {name[:3]!r}, found {len(values)} "
            f"similarities for {size} passages of the query {row.query!r:.60}."
        )
    return [np.nan if value is None else value for value in values]


def _with_name(member: str, error: str) -> str:
    """A member's note with its name in it, and the same code."""
    code, _, detail = error.partition(": ")
    return note(code, f"{member}: {detail}" if detail else member)
