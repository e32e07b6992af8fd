"""Rows that a step made in, the same rows out, with those that it marked as failed asked again."""

from __future__ import annotations

import copy
import logging
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets
from datasets.fingerprint import Hasher

from rir_hf.core.columns import fingerprint_of, stored_values, without_indexes
from rir_hf.core.provenance import provenance, record_step
from rir_hf.core.step import Step
from rir_hf.models.llm import mark_answered
from rir_hf.running.joining import with_columns_of
from rir_hf.running.run import BATCH, is_made, run

logger = logging.getLogger(__name__)


def retry(ds: Dataset | DatasetDict, step: Step, **options: Any) -> Dataset | DatasetDict:
    """Ask again for the rows that a step marked as failed, and only for those.

    Which rows failed stands in the step's column of notes (`teacher_error`, `answer_error`,
    `query_checks`), under the codes in `step.failures`. All other rows stay as they are, and
    so does one that fails again. What succeeds is kept in the cache; what fails again is asked
    again the next time.

    Args:
        ds: rows that the step, or one with other settings, has mapped.
        step: the step, which may be another than the first time: a larger model, another server.
        options: of `run`.

    Raises:
        TypeError: a stream, which is mapped as it is read.
        ValueError: the step marks no rows as failed, or its column of notes is not there.

    Example:
        >>> scored = retry(scored, ScorePassages(QueryLikelihood(server)))  # doctest: +SKIP
    """
    if isinstance(ds, DatasetDict):
        return DatasetDict({name: retry(part, step, **options) for name, part in ds.items()})
    if not isinstance(ds, Dataset):
        raise TypeError(f"retry takes a Dataset or DatasetDict, got {type(ds).__name__}.")
    failed = places_that_failed(ds, step)
    _log_other_settings(ds, step)
    ds = without_indexes(ds)
    name = type(step).__name__
    logger.info("retry: %s marked %d of %d rows as failed.", name, len(failed), len(ds))
    if not failed:
        return ds
    asked = rows_at(ds, failed, step)
    step = copy.copy(step)
    mark_answered(step)  # these rows failed before: no reason to stop if all fail again
    was_made = is_made(asked, step, options.get("batch_size", BATCH))
    again = run(asked, step, **options)
    if was_made:  # an earlier retry of the same rows: what failed then too is asked once more
        again = retry(again, step, **options)
    return _replaced(ds, again, failed, step)


def places_that_failed(ds: Dataset, step: Step) -> list[int]:
    """Which rows the step marked as failed; `ValueError` where its notes are not there."""
    name = type(step).__name__
    if step.note is None or not step.failures:
        raise ValueError(f"{name} marks no rows as failed: there is nothing to retry.")
    if step.note.name not in ds.column_names:
        raise ValueError(f"The dataset has no column {step.note.name!r}: run {name} first.")
    notes = stored_values(ds, step.note.name)
    return [place for place, value in enumerate(notes) if step.has_failed(value)]


def rows_at(ds: Dataset, places: list[int], step: Step) -> Dataset:
    """The rows as they were before the step."""
    outputs = [column.name for column in step.outputs_for(ds.column_names)]
    present = [name for name in outputs if name in ds.column_names]
    return ds.with_format(None).select(places).remove_columns(present)


def _log_other_settings(ds: Dataset, step: Step) -> None:
    """Say which settings differ from those that made the rows: one may have been forgotten."""
    now = record_step(step)
    before = [record for record in provenance(ds) if record["step"] == now["step"]]
    if before and now not in before:
        names = sorted(name for name in now if before[-1].get(name) != now[name])
        said = ", ".join(names)
        logger.warning("retry: %s made the rows with other settings: %s.", now["step"], said)


def _replaced(ds: Dataset, again: Dataset, failed: list[int], step: Step) -> Dataset:
    """The rows of `ds`, those at `failed` with the outputs of `again` where they succeeded."""
    made = {column.name for part in (ds, again) for column in step.outputs_for(part.column_names)}
    notes = again[step.note.name] if step.note else []
    both = concatenate_datasets(
        [  # a column that only one of them has is null in the other
            part.select_columns([name for name in part.column_names if name in made])
            for part in (ds.with_format(None), again)
        ]
    )
    order = list(range(len(ds)))
    for number, (place, value) in enumerate(zip(failed, notes, strict=True)):
        if not step.has_failed(value):
            order[place] = len(ds) + number
    steps = [*provenance(ds), *(step for step in provenance(again) if step not in provenance(ds))]
    fingerprint = Hasher.hash([fingerprint_of(ds), fingerprint_of(again)])
    return with_columns_of(ds, both.select(order), steps, fingerprint)
