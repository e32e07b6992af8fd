"""Teachers without a model of their own: several together, and the retriever's similarities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from rir_hf.core.columns import check_at_least, check_choice
from rir_hf.evaluation.fusion import checked_weights, scaled_by
from rir_hf.schema import NEG_SIMS, POS_SIMS, TEACHER_SCORES, Column, OneOf, note
from rir_hf.teaching.teacher import Row, Scored, Teacher, scores_of


class Blend(Teacher):
    """Several teachers together: the weighted mean of their standardised scores.

    Teachers that err in different ways make a better one: on SciFact the mean of BM25 and MiniLM
    ranks far better than either. A member that can search a corpus (`LexicalTeacher`,
    `RetrieverTeacher` with a corpus) is standardised over its own best 100 passages for the query,
    and a passage below them counts as the last of them; any other over the passages of the row. A
    passage that a member knows nothing of counts as an average one there; where it knows none of
    the row, it has failed.

    The column `teacher_scores` keeps what each member said, standardised: the scores are their
    weighted mean, so `fit_blend` finds other weights without asking anyone again.

    Args:
        teachers: the members, one or more.
        weights: one per member, 0 or more. Default: 1 each.
        normalize: `"zscore"`, less the mean, over the standard deviation; or `"minmax"`, brought to
            0 to 1.
        strict: a row that fails for a member fails. Otherwise it is left to the other members, and
            `teacher_error` says so with the code `member_failed`; `retry` asks again.
        top: for long lists and slow models. A member that can search no corpus is shown the row's
            positives, and of its other passages the `top` that the other members score highest;
            what it was not shown counts as the worst that it was. Default: it is shown all.

    Raises:
        TypeError: a member that is no teacher.
        ValueError: no member, another number of weights, a weight that is negative or no number;
            `top` below 1, or (at the first rows) without a member that searches.

    Example:
        >>> row = Row("q", pos=["a"], neg=["b"], columns={"pos_sims": [0.9], "neg_sims": [0.5]})
        >>> Blend([Similarities(), Similarities()], weights=[1, 0.5]).score([row])[0].scores
        array([ 1., -1.])
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        weights: Sequence[float] | None = None,
        *,
        normalize: Literal["zscore", "minmax"] = "zscore",
        strict: bool = False,
        top: int | None = None,
    ) -> None:
        if isinstance(teachers, Teacher):
            raise TypeError("Blend takes a list of teachers, got one teacher.")
        for teacher in teachers:
            if not isinstance(teacher, Teacher):
                raise TypeError(f"Blend takes teachers, got {type(teacher).__name__}.")
        if not teachers:
            raise ValueError("Blend needs at least one teacher.")
        check_choice("normalize", normalize, ("zscore", "minmax"))
        if top is not None:
            check_at_least("top", top, 1)
        self.teachers = list(teachers)
        self.weights = checked_weights(weights, len(teachers), "teacher")
        self.normalize = normalize
        self.strict = strict
        self.top = top

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

    @property
    def members(self) -> tuple[str, ...]:
        """The classes of the members, numbered where one comes more than once."""
        kinds = [type(teacher).__name__ for teacher in self.teachers]
        names = []
        for place, kind in enumerate(kinds):
            number = kinds[: place + 1].count(kind)
            names.append(kind if number == 1 else f"{kind}_{number}")
        return tuple(names)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The weighted mean of the members' standardised scores, row by row."""
        if not rows:
            return []
        said = {}
        for place, teacher in enumerate(self.teachers):
            best = teacher.best_scores(rows)
            # What reads columns of the row needs all its passages, and costs nothing.
            if self.top is None or best is not None or teacher.inputs:
                said[place] = self._standardised(teacher, rows, best)
        if len(said) < len(self.teachers):
            said |= self._of_few(rows, said)
        by_member = [said[place] for place in range(len(self.teachers))]
        return [self._together(of_row) for of_row in zip(*by_member, strict=True)]

    def _of_few(
        self, rows: Sequence[Row], said: Mapping[int, list[Scored]]
    ) -> dict[int, list[Scored]]:
        """What the members that have said nothing yet say of the passages that the others put
        first.
        """
        if not said:
            raise ValueError(
                "Blend(top=...) needs a member that chooses what the others are shown: "
                "LexicalTeacher, RetrieverTeacher with a corpus, or Similarities."
            )
        shown = []
        for number, row in enumerate(rows):
            scores = np.zeros(len(row.passages))
            for place, scored in said.items():
                if scored[number].scores is not None:
                    scores += self.weights[place] * np.asarray(scored[number].scores)
            best = np.argsort(-scores[len(row.pos) :], kind="stable")[: self.top]
            shown.append(np.sort(best))
        parts = [
            row._replace(neg=[row.neg[at] for at in places])
            for row, places in zip(rows, shown, strict=True)
        ]
        found = {}
        for place, teacher in enumerate(self.teachers):
            if place not in said:
                scored = self._standardised(teacher, parts, None)
                found[place] = [*map(_of_all, scored, shown, rows)]
        return found

    def _standardised(
        self, teacher: Teacher, rows: Sequence[Row], best: Sequence[np.ndarray] | None
    ) -> list[Scored]:
        scored = scores_of(teacher, rows)
        samples = [None] * len(rows) if best is None else best
        made = []
        for found, sample in zip(scored, samples, strict=True):
            if found.scores is None:
                made.append(found)
            elif np.isnan(found.scores).all():
                made.append(found._replace(scores=None, error=note("no_score", "every passage")))
            else:
                scores = np.asarray(found.scores, np.float64)
                made.append(found._replace(scores=scaled_by(scores, sample, self.normalize)))
        return made

    def _together(self, members: tuple[Scored, ...]) -> Scored:
        cut = sum(member.cut for member in members)
        repairs: Counter[str] = sum((Counter(member.repairs) for member in members), Counter())
        said = dict(zip(self.members, [member.scores for member in members], strict=True))
        notes = [
            (name, member.error)
            for name, member in zip(self.members, members, strict=True)
            if member.error is not None
        ]
        weights = [
            0.0 if member.scores is None else weight
            for member, weight in zip(members, self.weights, strict=True)
        ]
        result = Scored(cut=cut, repairs=repairs, members=said)
        if notes and (self.strict or not sum(weights)):
            return result._replace(error=_with_name(*notes[0]))
        if notes:
            failed = "; ".join(f"{name}: {error}" for name, error in notes)
            result = result._replace(warning=note("member_failed", failed))
        parts = [
            weight * np.asarray(scores)
            for weight, scores in zip(weights, said.values(), strict=True)
            if scores is not None
        ]
        return result._replace(scores=np.sum(parts, axis=0) / sum(weights))


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


class MemberScores(Teacher):
    """What the members of an earlier `Blend` said, weighed anew: nobody is asked again.

    For the weights of `fit_blend`, over rows that have `teacher_scores`. A row without one of the
    members fails.

    Args:
        weights: by name of the member, 0 or more.

    Raises:
        ValueError: no weight above 0, or one that is negative or no number.

    Example:
        >>> said = {"teacher_scores": {"A": [1.0, -1.0], "B": [-1.0, 1.0]}}
        >>> row = Row("q", pos=["a"], neg=["b"], columns=said)
        >>> MemberScores({"A": 3, "B": 1}).score([row])[0].scores
        array([ 0.5, -0.5])
    """

    inputs = (TEACHER_SCORES,)

    def __init__(self, weights: Mapping[str, float]) -> None:
        numbers = checked_weights([*weights.values()], len(weights), "member")
        self.weights = dict(zip(weights, numbers, strict=True))

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The weighted mean of what is there."""
        return [self._scored(row) for row in rows]

    def _scored(self, row: Row) -> Scored:
        said = row.columns[TEACHER_SCORES.name] or {}
        size = len(row.passages)
        missing = [name for name in self.weights if len(said.get(name) or []) != size]
        if missing:
            return Scored(error=note("failed", f"{missing[0]} said nothing about {size} passages"))
        weights = np.array([*self.weights.values()])
        return Scored(weights @ np.array([said[name] for name in self.weights]) / weights.sum())


def _of_all(scored: Scored, shown: np.ndarray, row: Row) -> Scored:
    """Scores of all passages of a row, of which a teacher was shown the positives and some of the
    others; the rest has the lowest.
    """
    if scored.scores is None:
        return scored
    scores = np.full(len(row.passages), np.min(scored.scores))
    places = np.concatenate([np.arange(len(row.pos)), len(row.pos) + shown])
    scores[places] = scored.scores
    return scored._replace(scores=scores)


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
