"""The rows that a trainer of retrievers can use, with the columns that exports read."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, LargeList, List

from rir_hf.core.columns import (
    cached,
    require_columns,
    require_dataset,
    with_valid_texts,
    without_indexes,
)
from rir_hf.export.usable import FLAG_EXTRAS, keep, why_unusable
from rir_hf.schema import (
    NEG,
    NEG_IDS,
    NEG_SCORES,
    PASSAGE,
    PASSAGE_IDS,
    PASSAGE_SCORES,
    PASSAGES,
    POS,
    POS_IDS,
    POS_SCORES,
    QUERY_ID,
)

logger = logging.getLogger(__name__)

SCORES = (POS_SCORES.name, NEG_SCORES.name)
_IDS = (QUERY_ID.name, POS_IDS.name, NEG_IDS.name)
_ROWS_AT_ONCE = 1000


def usable_rows(
    rows: Dataset,
    query: str,
    scored: bool,
    who: str,
    why_not: Callable[[Mapping[str, Any]], str | None],
    **limits: float | None,
) -> Dataset:
    """The rows that a trainer can use, and that `why_not` says nothing against."""
    judged = scored or is_limited(**limits)
    rows = prepared(rows, query, scored=judged, who=who)
    rows = without_unsafe(rows, query, who, **limits)
    reasons = [why_unusable(row, query, judged) or why_not(row) for row in each_row(rows)]
    return keep(rows, reasons, who)


def each_row(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows one by one, read many at a time: several times faster than going through them."""
    for table in rows.with_format("arrow").iter(_ROWS_AT_ONCE):
        yield from table.to_pylist()


def with_each(
    rows: Dataset,
    make: Callable[..., Mapping[str, Any]],
    who: str,
    *,
    only: bool = True,
    **settings: Any,
) -> Dataset:
    """What a function makes of each row, mapped many rows at a time.

    Args:
        rows: the rows.
        make: takes a row and the settings, and gives the same columns for each row.
        who: name of the export, for the progress bar.
        only: leave out the columns that it does not give.
        settings: for the function.
    """
    return cached(
        rows,
        "map",
        _made_of_each,
        fn_kwargs={"make": make, "settings": settings},
        batched=True,
        remove_columns=rows.column_names if only else None,
        desc=who,
    )


def lengths_of(rows: Dataset, name: str) -> np.ndarray:
    """The length of each list in a column, 0 for a null."""
    tables = rows.select_columns([name]).with_format("arrow").iter(_ROWS_AT_ONCE)
    parts = [pc.list_value_length(table.column(0)).fill_null(0).to_numpy() for table in tables]
    return np.concatenate([*parts, np.empty(0, np.int64)])


def prepared(rows: Dataset, query: str, *, scored: bool, who: str) -> Dataset:
    """The columns that exports read, checked; a scalar `passage` counts as one positive."""
    require_dataset(rows, who)
    rows = with_valid_texts(without_indexes(rows).with_format(None), who)
    if POS.name not in rows.column_names and PASSAGE.name in rows.column_names:
        rows = cached(rows, "map", _listed, batched=True, desc=who)
    if NEG.name not in rows.column_names and PASSAGES.name in rows.column_names:
        if PASSAGE_SCORES.name not in rows.column_names:
            raise ValueError(
                f"{who} needs the column {PASSAGE_SCORES.name!r} beside {PASSAGES.name!r}: map "
                "ScorePassages first (rir-hf score)."
            )
        lists = _of_lists(rows)
        rows = cached(rows, "map", _ranked, batched=True, remove_columns=lists, desc=who)
    scores = SCORES if scored else ()
    check_lists(rows, [query, POS.name, NEG.name, *scores], who)
    known = {query, POS.name, NEG.name, *scores, *_IDS, *FLAG_EXTRAS}
    return rows.select_columns([name for name in rows.column_names if name in known])


def without_unsafe(
    rows: Dataset,
    query: str,
    who: str,
    min_margin: float | None = None,
    max_teacher_score: float | None = None,
) -> Dataset:
    """The rows without the negatives that the teacher takes for relevant; a warning counts them.

    Args:
        rows: with `pos`, `neg` and their scores.
        query: the query's column.
        who: name of the export, for the warning.
        min_margin: how far a negative must score below the lowest positive of its row.
        max_teacher_score: what a negative may score at most.
    """
    if not is_limited(min_margin, max_teacher_score):
        return rows
    settings = {"query": query, "min_margin": min_margin, "max_teacher_score": max_teacher_score}
    before = int(lengths_of(rows, NEG.name).sum())
    rows = with_each(rows, _safe, who, only=False, **settings)
    lost = before - int(lengths_of(rows, NEG.name).sum())
    if lost:
        logger.warning("%s leaves out %d of %d negatives as no safe ones.", who, lost, before)
    return rows


def is_limited(min_margin: float | None = None, max_teacher_score: float | None = None) -> bool:
    """Whether negatives are limited by their scores; `ValueError` for one that is no number."""
    for name, value in (("min_margin", min_margin), ("max_teacher_score", max_teacher_score)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be a number or None, got {value}.")
    return min_margin is not None or max_teacher_score is not None


def has_scores(rows: Dataset) -> bool:
    """Whether rows have columns of a teacher's scores."""
    require_dataset(rows, "The export")
    names = set(rows.column_names)
    return set(SCORES) <= names or PASSAGE_SCORES.name in names


def scores_of(row: Mapping[str, Any]) -> np.ndarray:
    """The scores of the positives, then of the negatives."""
    return np.array([*row[POS_SCORES.name], *row[NEG_SCORES.name]], np.float64)


def check_lists(rows: Dataset, names: Sequence[str], who: str) -> None:
    """`ValueError` where a column is missing, or passages are not in lists."""
    require_columns(rows, names, who)
    for name in (POS.name, NEG.name):
        if not isinstance(rows.features[name], (List, LargeList)):
            raise ValueError(
                f"{who}: {name!r} must hold a list of texts per row, found {rows.features[name]}. "
                "Put a single text into a list of one."
            )


def _made_of_each(
    batch: Mapping[str, list[Any]], make: Callable[..., Mapping[str, Any]], settings: dict[str, Any]
) -> dict[str, list[Any]]:
    rows = zip(*batch.values(), strict=True)
    made = [make(dict(zip(batch, row, strict=True)), **settings) for row in rows]
    return {name: [row[name] for row in made] for name in made[0]}


def _safe(
    row: Mapping[str, Any], query: str, min_margin: float | None, max_teacher_score: float | None
) -> dict[str, Any]:
    """The row's negatives that score low enough; of a row that is of no use, all."""
    columns = {name: row[name] for name in (NEG.name, NEG_IDS.name, NEG_SCORES.name) if name in row}
    if why_unusable(row, query, scored=True):
        return columns
    ceiling = math.inf if max_teacher_score is None else max_teacher_score
    if min_margin is not None:
        ceiling = min(ceiling, min(row[POS_SCORES.name]) - min_margin)
    is_safe = [score <= ceiling for score in row[NEG_SCORES.name]]
    return {name: _where(values, is_safe) for name, values in columns.items()}


def _where(values: list[Any] | None, is_safe: list[bool]) -> list[Any] | None:
    """The values of the safe negatives; ids that are not one for each stay as they are."""
    if values is None or len(values) != len(is_safe):
        return values
    return [value for value, safe in zip(values, is_safe, strict=True) if safe]


def _listed(batch: Mapping[str, list[Any]]) -> dict[str, list[list[str]]]:
    return {POS.name: [[text] for text in batch[PASSAGE.name]]}


def _of_lists(rows: Dataset) -> list[str]:
    lists = (PASSAGES.name, PASSAGE_SCORES.name, PASSAGE_IDS.name)
    return [name for name in lists if name in rows.column_names]


def _ranked(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Lists without labels as positives and negatives: the teacher's best passage and the others,
    in its order. What was not scored stays without scores.
    """
    made: dict[str, list[Any]] = {}
    lists = {NEG.name: PASSAGES.name, NEG_SCORES.name: PASSAGE_SCORES.name}
    if PASSAGE_IDS.name in batch:
        lists[NEG_IDS.name] = PASSAGE_IDS.name
    for number, scores in enumerate(batch[PASSAGE_SCORES.name]):
        passages = batch[PASSAGES.name][number] or []
        order = np.argsort([-score for score in scores or [0.0] * len(passages)], kind="stable")
        for name, source in lists.items():
            values = batch[source][number]
            ranked = None if values is None else [values[place] for place in order]
            made.setdefault(name, []).append(ranked and ranked[1:])
            best = POS.name + name.removeprefix(NEG.name)
            made.setdefault(best, []).append(ranked and ranked[:1])
    return made
