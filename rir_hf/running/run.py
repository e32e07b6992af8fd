"""A dataset and a step in, the same rows with the step's columns out: a map that resumes."""

from __future__ import annotations

import errno
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import datasets
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
)
from datasets.fingerprint import Hasher
from datasets.table import Table
from datasets.utils import tqdm

from rir_hf.core.columns import check_at_least, check_choice, fingerprint_of, without_indexes
from rir_hf.core.provenance import provenance, record_step, with_steps
from rir_hf.core.step import Step
from rir_hf.models.llm import mark_answered
from rir_hf.running.joining import with_columns_of
from rir_hf.running.processes import make_in_processes
from rir_hf.running.shards import Job, Shard, merged, plan, read, schema_of

logger = logging.getLogger(__name__)

Rows = TypeVar("Rows", Dataset, DatasetDict, IterableDataset, IterableDatasetDict)
Maker = Callable[[Job, list[Shard]], Iterator[int]]

_VERSION = 2
_SHARDS = 100

BATCH = 512
"""Rows per call of a step, unless asked otherwise."""
_NO_ROOM = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is full (quota)",
    errno.EFBIG: "takes no file that large",
    errno.EROFS: "is read-only",
    errno.EACCES: "may not be written to",
    errno.EPERM: "may not be written to",
}
_without_cache: list[tempfile.TemporaryDirectory[str]] = []


def run(
    ds: Rows,
    step: Step,
    *,
    batch_size: int = BATCH,
    rows_per_shard: int | None = None,
    num_proc: int | None = None,
    engine: str = "datasets",
    **engine_options: Any,
) -> Rows:
    """`ds.map(step, batched=True, batch_size=batch_size)`, kept a shard at a time in the cache.

    A run that is killed goes on where it was, losing one shard at most for each worker; a run that
    was finished is read from the cache and loads no model. Only the columns that the step adds are
    written. The rows are those of `map`; besides, the dataset gets a record of the step
    (`provenance`), and the log says at the end how many rows have which note.

    Args:
        ds: a `Dataset`, a `DatasetDict` (each split), or a stream, which is mapped as it is read
            and does not resume. With `engine="ray"` also a Ray dataset, which stays one.
        step: a step of this package, or a subclass of `Step`. Other functions go through `ds.map`.
        batch_size: rows per call of the step.
        rows_per_shard: rows whose loss does not hurt: ten minutes of work, say. Default: a
            hundredth of the rows. In whole batches by default, and for steps that read a batch as a
            whole. Shards of another length that an earlier run left stay in use.
        num_proc: worker processes, which take shards in turn; each loads its model once. They are
            forked unless `multiprocessing.set_start_method("spawn")` says otherwise, which workers
            with GPUs need. Searching and encoding use every core already: on a CPU, more processes
            seldom help.
        engine: `"datasets"`, or `"ray"` for a Ray cluster.
        engine_options: with `engine="ray"`: `concurrency`, the number of actors, each with a model
            of its own (default 1); `num_gpus` and `num_cpus` of each (default none and 1).

    Raises:
        TypeError: `step` is no `Step`, or `ds` no dataset.
        ValueError: a column is missing or holds something else, or an option is out of range:
            before anything is loaded.
        RuntimeError: a worker was killed, for its memory as a rule; finished shards are kept.
        OSError: the cache is full or read-only; says where, and that finished shards are kept.

    Example:
        >>> from rir_hf import RelabelNegatives
        >>> rows = Dataset.from_dict({
        ...     "query": ["q"], "pos": [["a"]], "neg": [["b"]],
        ...     "pos_scores": [[0.5]], "neg_scores": [[0.9]],
        ... })
        >>> run(rows, RelabelNegatives())[0]["neg"]
        []
    """
    if not isinstance(step, Step):
        raise TypeError(
            f"run takes a step, got {type(step).__name__}: map other functions with ds.map(...)."
        )
    check_choice("engine", engine, ("datasets", "ray"))
    check_at_least("batch_size", batch_size, 1)
    check_at_least("rows_per_shard", 1 if rows_per_shard is None else rows_per_shard, 1)
    check_at_least("num_proc", 1 if num_proc is None else num_proc, 1)
    if engine_options and engine == "datasets":
        raise TypeError(f'{next(iter(engine_options))} goes with engine="ray".')
    if isinstance(ds, (DatasetDict, IterableDatasetDict)):
        parts = {}
        for name, part in ds.items():
            parts[name] = run(
                part,
                step,
                batch_size=batch_size,
                rows_per_shard=rows_per_shard,
                num_proc=num_proc,
                engine=engine,
                **engine_options,
            )
        return type(ds)(parts)
    if isinstance(ds, IterableDataset):
        return _run_on_stream(ds, step, batch_size)
    if engine == "ray" and not isinstance(ds, Dataset):
        from rir_hf.running.ray import run_on_ray_dataset

        return run_on_ray_dataset(ds, step, batch_size, **engine_options)
    if not isinstance(ds, Dataset):
        raise TypeError(f"run takes a Dataset, DatasetDict or stream, got {type(ds).__name__}.")
    step.check(ds.features)
    job = Job(without_indexes(ds), step, batch_size)
    shard = rows_per_shard or _usual_shard(len(ds), batch_size)
    if step.reads_batch:
        shard = -(-shard // batch_size) * batch_size
    return _run_in_shards(job, shard, _maker_of(engine, num_proc, engine_options))


def _run_in_shards(job: Job, rows_per_shard: int, make: Maker) -> Dataset:
    """Make the shards that are not in the cache, and put all together."""
    key = key_of_run(job.ds, job.step, job.batch_size)
    folder = folder_of_run(job.step, key)
    shards = plan(folder, len(job.ds), rows_per_shard)
    cached = [read(shard) for shard in shards]
    todo = [shard for shard, made in zip(shards, cached, strict=True) if made is None]
    name = type(job.step).__name__
    if todo:
        if made := len(shards) - len(todo):
            logger.info("%s: %d of %d shards are cached.", name, made, len(shards))
        if any(_has_answers(table, job.step) for table in cached):
            mark_answered(job.step)
        done = len(job.ds) - sum(shard.rows for shard in todo)
        bar = tqdm(total=len(job.ds), initial=done, desc=name, unit=" rows")
        with bar, _disk_errors_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for rows in make(job, todo):
                bar.update(rows)
    steps = [*provenance(job.ds), record_step(job.step)]
    added = Dataset(merged(shards))
    rows = with_columns_of(job.ds, added, steps, key)
    _log_notes(job.step, rows, logging.WARNING if todo else logging.INFO)
    if todo and (remark := job.step.remark()):
        logger.warning("%s: %s", name, remark)
    return rows


def key_of_run(ds: Dataset, step: Step, batch_size: int) -> str:
    """What the shards of a run are kept under: the same for the same rows and settings, in any
    process.
    """
    by = [batch_size] if step.reads_batch else []
    return str(Hasher.hash([_VERSION, fingerprint_of(ds), step, *by]))


def is_made(ds: Dataset, step: Step, batch_size: int = BATCH) -> bool:
    """Whether all of a run is in the cache."""
    return all(read(shard) is not None for shard in _shards_of(ds, step, batch_size))


def rows_made(ds: Dataset, step: Step, batch_size: int = BATCH) -> int:
    """How many rows of a run are in the cache."""
    shards = _shards_of(ds, step, batch_size)
    return sum(shard.rows for shard in shards if read(shard) is not None)


def _shards_of(ds: Dataset, step: Step, batch_size: int) -> list[Shard]:
    """What a run left in the cache, and each gap as one shard."""
    ds = without_indexes(ds)
    return plan(folder_of_run(step, key_of_run(ds, step, batch_size)), len(ds), max(1, len(ds)))


def folder_of_run(step: Step, key: str) -> Path:
    """Where the shards lie: in the `datasets` cache, or in a folder that ends with this process
    where caching is off.
    """
    if not datasets.is_caching_enabled():
        _without_cache.append(tempfile.TemporaryDirectory(prefix="rir-hf-"))
        return Path(_without_cache[-1].name)
    return Path(datasets.config.HF_DATASETS_CACHE) / "rir_hf" / f"{type(step).__name__}-{key}"


def _usual_shard(rows: int, batch_size: int) -> int:
    """A hundredth of the rows, in whole batches."""
    batches = -(-rows // batch_size)
    return max(1, -(-batches // _SHARDS)) * batch_size


def _maker_of(engine: str, num_proc: int | None, engine_options: dict[str, Any]) -> Maker:
    """What makes the shards: a function that gives the rows done since the last time."""
    if engine == "ray":
        from rir_hf.running.ray import make_on_ray

        return partial(make_on_ray, **engine_options)
    if num_proc is None or num_proc == 1:
        return _make_here
    return partial(make_in_processes, num_proc=num_proc)


def _has_answers(made: Table | None, step: Step) -> bool:
    """Whether a shard in the cache has a row that says nothing of a failure."""
    if made is None or step.note is None or not step.failures:
        return False
    return any(None in step.notes_of(row.as_py()) for row in made.column(step.note.name))


def _make_here(job: Job, todo: list[Shard]) -> Iterator[int]:
    for shard in todo:
        yield from job.make(shard)


def _run_on_stream(ds: IterableDataset, step: Step, batch_size: int) -> IterableDataset:
    features = None
    if ds.features is not None:
        step.check(ds.features)
        added = Features.from_arrow_schema(schema_of(step, ds.features))
        features = Features({**ds.features, **added})
    mapped = ds.map(step, batched=True, batch_size=batch_size, features=features)
    mapped.info.description = with_steps(ds.info, [*provenance(ds), record_step(step)]).description
    return mapped


def _log_notes(step: Step, made: Dataset, level: int) -> None:
    """Say once how many rows have which note."""
    counts = step.counts(made)
    if step.note is not None and counts:
        said = ", ".join(f"{count} {code}" for code, count in counts.most_common())
        name = type(step).__name__
        logger.log(level, "%s: %s of %d rows: %s.", name, step.note.name, len(made), said)


@contextmanager
def _disk_errors_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        elsewhere = error.filename is not None and folder not in [
            Path(error.filename),
            *Path(error.filename).parents,
        ]
        if error.errno not in _NO_ROOM or elsewhere:
            raise
        raise OSError(
            error.errno,
            f"{folder} {_NO_ROOM[error.errno]}. Finished shards are kept: make room, or set "
            "HF_DATASETS_CACHE to another folder, and run it again",
        ) from error
