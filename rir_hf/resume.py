"""A long map in short ones: what is finished stays finished, whatever kills the run."""

from __future__ import annotations

import copy
import errno
import inspect
import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, load_from_disk
from datasets.fingerprint import Hasher
from datasets.table import CastError, InMemoryTable, MemoryMappedTable, Table, concat_tables, table_cast
from multiprocess import Pool, TimeoutError, current_process
from tqdm.auto import tqdm

from rir_hf.index import without_indexes
from rir_hf.provenance import with_record
from rir_hf.transform import check_at_least

logger = logging.getLogger(__name__)

_VERSION = 2
_NOT_OURS = ("cache_file_name", "new_fingerprint", "keep_in_memory", "drop_last_batch", "suffix_template")
_WITHOUT_EFFECT = ("desc", "num_proc", "load_from_cache_file", "writer_batch_size", "with_rank")
_NOT_OF_A_SHARD = ("desc", "num_proc", "load_from_cache_file")
_KNOWN = frozenset(inspect.signature(Dataset.map).parameters)
_NO_ROOM = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is full (quota)",
    errno.EFBIG: "takes no file that large",
    errno.EROFS: "is read-only",
    errno.EACCES: "may not be written to",
    errno.EPERM: "may not be written to",
}


def map_in_shards(ds: Dataset, function: Callable[..., Any], *, rows_per_shard: int, **map_kwargs: Any) -> Dataset:
    """`ds.map(function, **map_kwargs)`, a shard at a time: each finished shard is kept in the `datasets` cache.

    A run that is killed goes on where it was, losing one shard at most for each process; a run that was finished is read from the
    cache. Rows, columns and format are those of a plain `map`, and so is the time, but for 3 ms a shard.

    Args:
        ds: rows. An in-memory dataset is first written to the `datasets` cache, since nothing made of it could be kept.
        function: what to map; its hash is the key of what is kept, as with `map`.
        rows_per_shard: rows whose loss does not hurt: ten minutes of work, say. Kept shards of another length stay in use.
            A batch ends where a shard does: take a multiple of `batch_size` where the function looks at a batch as a whole.
        map_kwargs: of `Dataset.map`. With `num_proc` the processes take shards in turn, and each loads its model once.

    Raises:
        TypeError: `ds` is a stream or has several splits, or an argument that `map` does not take.
        ValueError: `rows_per_shard` below 1, an argument of `map` that says where its one result goes, an unknown column, a
            function that returns rows for some shards and None for others or other types for some, or a damaged file of a shard.
        OSError: the cache is full or read-only; says where, and that finished shards are kept.
        RuntimeError: a process was killed, for its memory as a rule.

    Example:
        >>> from rir_hf import Embed, map_in_shards
        >>> corpus = map_in_shards(corpus, Embed(retriever), rows_per_shard=50_000, batched=True)       # doctest: +SKIP
    """
    if not isinstance(ds, Dataset):
        raise TypeError(
            f"map_in_shards takes a Dataset, found {type(ds).__name__}: map a DatasetDict split by split, a stream with its map."
        )
    check_at_least("rows_per_shard", rows_per_shard, 1)
    _check(map_kwargs)
    ds = without_indexes(ds)
    if len(ds) <= rows_per_shard and not map_kwargs.get("num_proc"):
        return (ds if ds.cache_files or not len(ds) else _on_disk(ds)).map(function, **map_kwargs)
    ds = ds if ds.cache_files else _on_disk(ds)
    map_kwargs |= {name: _columns(ds, name, map_kwargs.get(name)) for name in ("input_columns", "remove_columns")}
    kept = {name: value for name, value in map_kwargs.items() if name not in _WITHOUT_EFFECT}
    key = Hasher.hash([_VERSION, ds._fingerprint, function, kept])
    reads_cache = map_kwargs.get("load_from_cache_file")
    reads_cache = datasets.is_caching_enabled() if reads_cache is None else reads_cache
    shards = _shards_of(ds, rows_per_shard, key, reads_cache)
    todo = [shard for shard in shards if not (reads_cache and shard.path.exists())]
    if todo:
        logger.info("map_in_shards: %d of %d shards are in the cache.", len(shards) - len(todo), len(shards))
        _map_all(ds, function, todo, len(shards), map_kwargs)
    return with_record(_joined(ds, shards, key), ds, function)


def _check(map_kwargs: dict[str, Any]) -> None:
    """Refuse what `map` does not take, and what says where its one result goes."""
    unknown = sorted(map_kwargs.keys() - _KNOWN)
    if unknown:
        raise TypeError(f"map_in_shards hands its arguments to Dataset.map, which takes no {unknown[0]}.")
    refused = [name for name in _NOT_OURS if map_kwargs.get(name)]
    if refused:
        raise ValueError(f"map_in_shards keeps each shard in the cache itself and takes no {refused[0]}: use ds.map for that.")
    check_at_least("num_proc", map_kwargs.get("num_proc") or 0, 0)


def _columns(ds: Dataset, name: str, columns: str | list[str] | None) -> list[str] | None:
    """The columns that an argument of `map` names, as a list."""
    columns = [columns] if isinstance(columns, str) else columns
    unknown = sorted(set(columns or ()) - set(ds.column_names))
    if unknown:
        raise ValueError(f"{name} names {unknown}, not among the columns {ds.column_names}.")
    return columns


@dataclass(frozen=True)
class _Shard:
    start: int
    end: int
    path: Path
    fingerprint: str

    def rows(self, ds: Dataset) -> Dataset:
        """Its rows before the map: `select` with less around it, which counts where the map itself takes no time."""
        part, number = copy.copy(ds), self.end - self.start
        if ds._indices is None:
            part._data = InMemoryTable(ds._data.fast_slice(self.start, number))
        else:
            part._indices = InMemoryTable(ds._indices.fast_slice(self.start, number))
        return part

    def read(self) -> MemoryMappedTable:
        """Its rows after the map."""
        try:
            return MemoryMappedTable.from_file(str(self.path))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.path}, a shard of map_in_shards, is damaged: delete it and run again ({error}).") from error


def _shards_of(ds: Dataset, rows_per_shard: int, key: str, reads_cache: bool) -> list[_Shard]:
    """The shards, first to last: those in the cache as they are, the newest where two start at a row, and between them new ones."""
    folder = Path(ds._get_cache_file_path(key)).parent
    files = sorted(folder.glob(f"cache-{key}-*-*.arrow"), key=lambda file: file.stat().st_mtime_ns) if reads_cache else []
    ends = dict(tuple(map(int, file.stem.split("-")[-2:])) for file in files)
    shards: list[_Shard] = []
    start = 0
    while start < len(ds):
        end = ends.get(start) or min([start + rows_per_shard, len(ds), *(other for other in ends if other > start)])
        name = f"{key}-{start}-{end}"
        shards.append(_Shard(start, end, folder / f"cache-{name}.arrow", name))
        start = end
    return shards


class _Worker:
    """What a worker process holds: the job, told once, so that its model is loaded once, and its number."""

    job: Callable[..., Iterator[int]]
    rank: int = 0

    @classmethod
    def start(cls, job: Callable[..., Iterator[int]], processes: int) -> None:
        """Called in each new process."""
        cls.job = staticmethod(job)
        cls.rank = (current_process()._identity[0] - 1) % processes


def _run_job(shard: _Shard) -> int:
    try:
        return sum(_Worker.job(shard, _Worker.rank))
    except Exception as error:
        if _can_travel(error):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _can_travel(error: Exception) -> bool:
    """Whether the parent process can read the error; where it cannot, a pool waits for ever. Those of API clients often cannot."""
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), Exception)  # noqa: S301
    except Exception:
        return False


def _map_all(ds: Dataset, function: Callable[..., Any], todo: list[_Shard], number: int, map_kwargs: dict[str, Any]) -> None:
    """Map the shards that are not in the cache, under one progress bar."""
    num_proc = map_kwargs.get("num_proc") or 1
    done = len(ds) - sum(shard.end - shard.start for shard in todo)
    shown = {"unit": " rows", "desc": map_kwargs.get("desc") or "Map", "dynamic_ncols": True}
    bar = tqdm(total=len(ds), initial=done, disable=datasets.are_progress_bars_disabled(), **shown)
    kwargs = {name: value for name, value in map_kwargs.items() if name not in _NOT_OF_A_SHARD}
    job = partial(_map_one, ds, function, kwargs)
    with bar, _disk_errors_explained(todo[0].path.parent, number):
        if num_proc == 1:
            for shard in todo:
                for rows in job(shard):
                    bar.update(rows)
            return
        with Pool(min(num_proc, len(todo)), initializer=_Worker.start, initargs=(job, num_proc)) as pool:
            workers, found = list(pool._pool), pool.imap_unordered(_run_job, todo)
            for _ in todo:
                bar.update(_next_of(found, workers))


def _next_of(found: Any, workers: list[Any]) -> int:
    """Rows of the next finished shard. A pool waits for ever for the shard of a worker that was killed."""
    while True:
        with suppress(TimeoutError):
            return found.next(timeout=1)
        codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
        if codes:
            raise RuntimeError(
                f"A process of map_in_shards ended with exit code {codes[0]}, as one does that is killed for its memory. Finished "
                "shards are kept: run it again, with a smaller num_proc or batch_size."
            )


def _map_one(
    ds: Dataset, function: Callable[..., Any], kwargs: dict[str, Any], shard: _Shard, rank: int | None = None
) -> Iterator[int]:
    """Map a shard into the cache; give the number of rows done since the last time.

    This is the loop inside `Dataset.map`. Calling `map` for each shard would cost twice as much beside the function itself.
    """
    where = {"cache_file_name": str(shard.path), "new_fingerprint": shard.fingerprint, "offset": shard.start, "rank": rank}
    for _, finished, rows in Dataset._map_single(shard.rows(ds), function, **kwargs, **where):
        if not finished:
            yield rows


@contextmanager
def _disk_errors_explained(folder: Path, number: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        elsewhere = error.filename is not None and folder not in Path(error.filename).parents
        if error.errno not in _NO_ROOM or elsewhere:
            raise
        raise OSError(
            error.errno,
            f"{folder} {_NO_ROOM[error.errno]}: map_in_shards could not write one of its {number} shards there. Those that are "
            "finished are kept: make room, or move the dataset (save_to_disk) and start anew there, then run it again",
        ) from error


def _joined(ds: Dataset, shards: list[_Shard], key: str) -> Dataset:
    """The mapped shards as one dataset, in the format of the rows `ds`.

    Shards in which a map dropped every row have lost their columns and are left out; columns of nulls take the others' type.
    """
    written = [shard for shard in shards if shard.path.exists()]
    if not written:
        return ds
    if len(written) < len(shards):
        missing = next(shard for shard in shards if shard not in written)
        raise ValueError(f"The function returned None for the rows {missing.start} to {missing.end}, and rows for others.")
    parts = [(shard, shard.read()) for shard in shards]
    filled = [(shard, table) for shard, table in parts if len(table)] or parts[:1]
    schema = known_features([table.schema for _, table in filled]).arrow_schema
    info = ds.info.copy()
    info.features = None
    table = concat_tables([_cast(shard, table, schema) for shard, table in filled])
    return with_format_of(ds, Dataset(table, info=info, split=ds.split, fingerprint=key))


def _cast(shard: _Shard, table: MemoryMappedTable, schema: pa.Schema) -> Table:
    if table.schema == schema:
        return table
    try:
        return table_cast(table, schema)
    except (pa.ArrowInvalid, CastError) as error:
        raise ValueError(
            f"The map gave the rows {shard.start} to {shard.end} other columns or types than the rest: {_shown(table.schema)}, "
            f"not {_shown(schema)}. Return one type for each column, or say which with features=... ({error})"
        ) from error


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def known_features(schemas: list[pa.Schema]) -> Features:
    """The types of parts of one dataset: a column that is null in some parts has the type that another part knows."""
    parts = [Features.from_arrow_schema(schema) for schema in dict.fromkeys(schemas)]
    first = parts[0]
    return Features({name: next((part[name] for part in parts if "'null'" not in str(part[name])), first[name]) for name in first})


def with_format_of(ds: Dataset, mapped: Dataset) -> Dataset:
    """The mapped rows formatted as `map` leaves them: new columns as those that were formatted."""
    left_out = set(ds.column_names) - set(ds.format["columns"])
    if ds.format["type"] is None and not left_out:
        return mapped
    return in_format(mapped, ds.format, [name for name in mapped.column_names if name not in left_out])


def in_format(rows: Dataset, format: dict[str, Any], columns: list[str]) -> Dataset:
    """The rows in a format as `Dataset.format` describes it, but for these columns."""
    kind = {"type": format["type"], "columns": columns, "output_all_columns": format["output_all_columns"]}
    return rows.with_format(**kind, **format["format_kwargs"])


def _on_disk(ds: Dataset) -> Dataset:
    """The same rows in the cache, where maps of them are kept."""
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "rir_hf" / f"rows-{ds._fingerprint}"
    if not folder.exists():
        with complete_folder(folder) as new:
            ds.save_to_disk(new)
    return load_from_disk(folder)


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name when all is written; another process may have been first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        yield new
        if not folder.exists():
            os.rename(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
