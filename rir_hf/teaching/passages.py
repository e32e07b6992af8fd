"""The step that adds a teacher's scores to rows with positives and negatives, or with passages that
nobody has labelled, for distillation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rir_hf.core.columns import Batch
from rir_hf.core.step import Step
from rir_hf.core.texts import is_whole
from rir_hf.models.llm import raise_if_hopeless
from rir_hf.schema import (
    NEG,
    NEG_SCORES,
    PASSAGE,
    PASSAGE_SCORES,
    PASSAGES,
    POS,
    POS_SCORES,
    QUERY,
    REPAIRS,
    TEACHER_CUT,
    TEACHER_ERROR,
    TEACHER_REPAIRS,
    TEACHER_SCORES,
    Column,
    OneOf,
    note,
)
from rir_hf.teaching.teacher import Row, Scored, Teacher, scores_of


class ScorePassages(Step):
    """Adds a teacher's scores for the passages of each row.

    Columns added:

    - `pos_scores`, `neg_scores`: the scores, aligned with `pos` and `neg`, which stay as they are;
      raw, higher is better. Both null where the row failed.
    - `passage_scores` in their place, aligned with `passages`, for rows of `CandidateLists`.
    - `teacher_error`: why the row failed; null where it did not.
    - `teacher_cut`: how many of the row's passages were cut to fit a prompt.
    - `teacher_repairs`: what had to be repaired in the answers, where the teacher writes any.
    - `teacher_scores`: what each member of a `Blend` said, aligned with `pos` and `neg` together.

    A row fails alone, whether its answer could not be read or a passage of it is empty: a list
    with a gap trains nothing. `retry` asks again for the rows of the code `failed`. A row without
    negatives is scored too. With the code `member_failed` a row has scores, without those of a
    member of a `Blend`.

    Args:
        teacher: `QueryLikelihood(llm)`, `Listwise(llm)`, `CrossEncoderTeacher(model)`,
            `Blend([...])`, or one of your own.
        query: the query's column.

    Raises:
        TypeError: something that is no teacher (at once).
        ValueError: a missing column, one that holds something else (at the first batch).
        RuntimeError: the teacher fails on every row of the first batch, or on the first eight.

    Example:
        >>> from rir_hf.teaching.blend import Similarities
        >>> row = {"query": "Who wrote Hamlet?", "pos": ["Shakespeare."], "pos_sims": [0.75],
        ...        "neg": ["A play.", "A prince."], "neg_sims": [0.5, 0.25]}
        >>> ScorePassages(Similarities()).one(row)
        {'pos_scores': [0.75], 'neg_scores': [0.5, 0.25], 'teacher_error': None, 'teacher_cut': 0}
    """

    version = 2
    failures = ("failed", "member_failed")

    def __init__(self, teacher: Teacher, *, query: str = "query") -> None:
        if not isinstance(teacher, Teacher):
            raise TypeError(
                f"ScorePassages takes a teacher, got {type(teacher).__name__}: make one of a "
                "language model with QueryLikelihood(llm), YesNo(llm), ListwiseLogits(llm) or "
                "Listwise(llm), of a cross-encoder with CrossEncoderTeacher(model)."
            )
        self.teacher = teacher
        self.query = query

    @property
    def inputs(self) -> tuple[Column | OneOf, ...]:
        """The query, its positives and negatives or its list, and what the teacher reads."""
        lists = (POS | PASSAGE | PASSAGES, NEG | PASSAGES)
        return (QUERY.named(self.query), *lists, *self.teacher.inputs)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The scores, and what went wrong."""
        return self._outputs((POS_SCORES, NEG_SCORES))

    def outputs_for(self, columns: Collection[str]) -> tuple[Column, ...]:
        """The same, with `passage_scores` for a list without labels; and what an earlier teacher
        left of itself, to be written anew: it must not stand beside the scores of another.
        """
        made = self._outputs((PASSAGE_SCORES,)) if is_list(columns) else self.outputs
        names = {column.name for column in made}
        left = (TEACHER_REPAIRS, TEACHER_SCORES._replace(type=pa.null()))
        return made + tuple(one for one in left if one.name in set(columns) - names)

    @property
    def note(self) -> Column:
        """`teacher_error`."""
        return TEACHER_ERROR

    def transform(self, batch: Batch) -> dict[str, Any]:
        """Ask the teacher about the rows that it can be asked about."""
        rows = self._read(batch)
        errors = [problem_of(row) for row in rows]
        asked = [row for row, error in zip(rows, errors, strict=True) if error is None]
        found = iter(self._ask(asked))
        scored = [next(found) if error is None else Scored(error=error) for error in errors]
        pairs = list(zip(rows, scored, strict=True))
        made: dict[str, Any] = {
            "passage_scores": [_part(found.scores, slice(None)) for found in scored],
            "pos_scores": [_part(found.scores, slice(len(row.pos))) for row, found in pairs],
            "neg_scores": [_part(found.scores, slice(len(row.pos), None)) for row, found in pairs],
            "teacher_error": [found.error or found.warning for found in scored],
            "teacher_cut": [found.cut for found in scored],
            "teacher_repairs": [{**dict.fromkeys(REPAIRS, 0), **found.repairs} for found in scored],
            "teacher_scores": [_by_member(self.teacher.members, found) for found in scored],
        }
        return made

    def _outputs(self, scores: tuple[Column, ...]) -> tuple[Column, ...]:
        added = [*scores, TEACHER_ERROR, TEACHER_CUT]
        if self.teacher.counts_repairs:
            added.append(TEACHER_REPAIRS)
        if self.teacher.members:
            fields = [(name, PASSAGE_SCORES.type) for name in self.teacher.members]
            added.append(TEACHER_SCORES._replace(type=pa.struct(fields)))
        return tuple(added)

    def _read(self, batch: Batch) -> list[Row]:
        name = "passages" if is_list(batch.names) else "neg"
        columns = zip(
            [query or "" for query in batch.texts(self.query)],
            [[]] * len(batch) if name == "passages" else positives_of(batch),
            batch.lists_of_texts(name),
            extra_columns(batch, self.teacher.inputs),
            strict=True,
        )
        return [Row(*values) for values in columns]

    def _ask(self, rows: list[Row]) -> list[Scored]:
        scored = scores_of(self.teacher, rows)
        raise_if_hopeless(self, "teacher", [found.error or found.warning for found in scored])
        return [_complete(row, found) for row, found in zip(rows, scored, strict=True)]


def is_list(columns: Collection[str]) -> bool:
    """Whether rows with these columns are lists of passages without labels."""
    return "passages" in columns and "neg" not in columns


def problem_of(row: Row) -> str | None:
    """Why there is nothing to ask about a row; None where there is.

    Example:
        >>> problem_of(Row("a query", pos=["a passage"], neg=["another", " "]))
        'empty_passage: neg[1]'
    """
    if not row.query.strip():
        return note("empty_query")
    if not is_whole(row.query):
        return note("not_unicode", "query")
    if not row.passages:
        return note("no_passage")
    for place, passage in enumerate(row.passages):
        if not (passage or "").strip():
            return note("empty_passage", _name_of(row, place))
        if not is_whole(passage):
            return note("not_unicode", _name_of(row, place))
    return None


def positives_of(batch: Batch) -> list[list[str]]:
    """The positives of each row: its list `pos`, or one text in `pos` or `passage`."""
    name = "pos" if "pos" in batch else "passage"
    rows = [[row] if isinstance(row, str) else row or [] for row in batch.values_of(name)]
    for row in rows:
        if not isinstance(row, (list, tuple)):
            raise ValueError(
                f"{batch.who}: the column {name!r} must hold a text or a list of texts, found "
                f"{type(row).__name__} {row!r:.60}."
            )
    return batch.checked_texts(name, rows)


def extra_columns(batch: Batch, inputs: Sequence[Column | OneOf]) -> list[dict[str, Any]]:
    """The values of each row in those of the columns that are there."""
    wanted: list[Column] = []
    for column in inputs:
        wanted += column if isinstance(column, OneOf) else [column]
    columns = {
        column.name: batch.values_of(column.name) for column in wanted if column.name in batch
    }
    return [
        {name: values[place] for name, values in columns.items()} for place in range(len(batch))
    ]


def _complete(row: Row, scored: Scored) -> Scored:
    """What was scored, failed where a passage has no score."""
    is_missing = np.isnan([] if scored.scores is None else scored.scores)
    if not is_missing.any():
        return scored
    error = note("no_score", _name_of(row, int(is_missing.argmax())))
    return scored._replace(scores=None, error=error)


def _part(scores: Sequence[float] | np.ndarray | None, places: slice) -> list[float] | None:
    return None if scores is None else np.asarray(scores)[places].tolist()


def _by_member(names: Sequence[str], found: Scored) -> dict[str, list[float] | None] | None:
    """What each member said about a row; null for one that failed, or was not asked, and for a
    teacher without members.
    """
    return {name: _part(found.members.get(name), slice(None)) for name in names} or None


def _name_of(row: Row, place: int) -> str:
    """Where a passage stands in its row, `"neg[0]"`."""
    if not row.pos:
        return f"passage {place}"
    number = place - len(row.pos)
    return f"pos[{place}]" if number < 0 else f"neg[{number}]"
