"""A long map in short ones: what is finished stays finished, whatever kills the run."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, concatenate_datasets, load_from_disk
from datasets.fingerprint import Hasher
from multiprocess import Pool, current_process
from tqdm.auto import tqdm

from rir_hf.index import without_indexes
from rir_hf.provenance import with_record
from rir_hf.transform import check_at_least

logger = logging.getLogger(__name__)

_VERSION = 1
_NOT_OURS = ("cache_file_name", "new_fingerprint", "keep_in_memory", "drop_last_batch", "suffix_template")
_WITHOUT_EFFECT = ("desc", "num_proc", "load_from_cache_file", "writer_batch_size", "with_rank")
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
    cache. Rows and columns are those of a plain `map`.

    Args:
        ds: rows. An in-memory dataset is first written to the `datasets` cache, since nothing made of it could be kept.
        function: what to map; its hash is the key of what is kept, as with `map`.
        rows_per_shard: rows whose loss does not hurt: ten minutes of work, say. A multiple of `batch_size`.
        map_kwargs: of `Dataset.map`. With `num_proc` the processes take shards in turn, and each loads its model once.

    Raises:
        ValueError: `rows_per_shard` below 1, or an argument of `map` that says where its one result goes.
        OSError: the cache is full or read-only; says where, and that finished shards are kept.

    Example:
        >>> from rir_hf import Embed, map_in_shards
        >>> corpus = map_in_shards(corpus, Embed(retriever), rows_per_shard=50_000, batched=True)       # doctest: +SKIP
    """
    check_at_least("rows_per_shard", rows_per_shard, 1)
    refused = [name for name in _NOT_OURS if map_kwargs.get(name)]
    if refused:
        raise ValueError(f"map_in_shards keeps each shard in the cache itself and takes no {refused[0]}: use ds.map for that.")
    ds = without_indexes(ds)
    if len(ds) <= rows_per_shard and not map_kwargs.get("num_proc"):
        return (ds if ds.cache_files or not len(ds) else _on_disk(ds)).map(function, **map_kwargs)
    ds = ds if ds.cache_files else _on_disk(ds)
    kept = {name: value for name, value in map_kwargs.items() if name not in _WITHOUT_EFFECT}
    key = Hasher.hash([_VERSION, ds._fingerprint, function, kept])
    shards = [_Shard(start, min(start + rows_per_shard, len(ds)), key) for start in range(0, len(ds), rows_per_shard)]
    reads_cache = map_kwargs.pop("load_from_cache_file", None)
    todo = [shard for shard in shards if reads_cache is False or not shard.path(ds).exists()]
    if todo:
        logger.info("map_in_shards: %d of %d shards are in the cache.", len(shards) - len(todo), len(shards))
        _map_all(ds, function, todo, len(shards), map_kwargs)
    return with_record(_joined([shard.read(ds) for shard in shards]), ds, function)


@dataclass(frozen=True)
class _Shard:
    start: int
    end: int
    key: str

    @property
    def fingerprint(self) -> str:
        """Name of the shard in the cache."""
        return f"{self.key}-{self.start}-{self.end}"

    def path(self, ds: Dataset) -> Path:
        """Where the mapped shard is, or will be."""
        return Path(ds._get_cache_file_path(self.fingerprint))

    def read(self, ds: Dataset) -> Dataset:
        """The mapped shard."""
        info = ds.info.copy()
        info.features = None
        return Dataset.from_file(str(self.path(ds)), info=info, split=ds.split)


@dataclass(frozen=True)
class _Call:
    """The function as it is called for one shard: indices count from the first row of all, the rank is the process's."""

    function: Callable[..., Any]
    start: int
    with_indices: bool
    with_rank: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.with_indices:
            *inputs, found = args
            args = (*inputs, [place + self.start for place in found] if isinstance(found, list) else found + self.start)
        if self.with_rank:
            args = (*args, _Worker.rank)
        return self.function(*args, **kwargs)


class _Worker:
    """What a worker process holds: the job, told once, so that its model is loaded once, and its number."""

    job: Callable[[_Shard], int]
    rank: int = 0

    @classmethod
    def start(cls, job: Callable[[_Shard], int], processes: int) -> None:
        """Called in each new process."""
        cls.job = staticmethod(job)
        cls.rank = (current_process()._identity[0] - 1) % processes
        datasets.disable_progress_bars()


def _run_job(shard: _Shard) -> int:
    return _Worker.job(shard)


def _map_all(ds: Dataset, function: Callable[..., Any], todo: list[_Shard], number: int, map_kwargs: dict[str, Any]) -> None:
    """Map the shards that are not in the cache, under one progress bar."""
    num_proc = map_kwargs.pop("num_proc", None) or 1
    done = len(ds) - sum(shard.end - shard.start for shard in todo)
    shown = {"unit": " rows", "desc": map_kwargs.pop("desc", None) or "Map", "dynamic_ncols": True}
    bar = tqdm(total=len(ds), initial=done, disable=datasets.are_progress_bars_disabled(), **shown)
    job = partial(_map_one, ds, function, map_kwargs)
    with bar, _without_bars():
        if num_proc == 1:
            for shard in todo:
                bar.update(_trying(ds, shard, number, job))
            return
        with Pool(min(num_proc, len(todo)), initializer=_Worker.start, initargs=(job, num_proc)) as pool:
            found = pool.imap_unordered(_run_job, todo)
            for shard in todo:
                bar.update(_trying(ds, shard, number, lambda _: next(found)))


def _map_one(ds: Dataset, function: Callable[..., Any], map_kwargs: dict[str, Any], shard: _Shard) -> int:
    """Map a shard into the cache; return its number of rows."""
    with_indices, with_rank = (bool(map_kwargs.get(name)) for name in ("with_indices", "with_rank"))
    call = _Call(function, shard.start, with_indices, with_rank) if with_indices or with_rank else function
    kwargs = {**map_kwargs, "with_rank": False, "new_fingerprint": shard.fingerprint, "load_from_cache_file": False}
    ds.select(range(shard.start, shard.end)).map(call, **kwargs)
    return shard.end - shard.start


def _trying(ds: Dataset, shard: _Shard, number: int, job: Callable[[_Shard], int]) -> int:
    try:
        return job(shard)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        folder = shard.path(ds).parent
        raise OSError(
            error.errno,
            f"{folder} {_NO_ROOM[error.errno]}: map_in_shards could not write one of its {number} shards there. Those that are "
            "finished are kept: make room, or move the dataset (save_to_disk) and start anew there, then run it again",
        ) from error


def _joined(parts: list[Dataset]) -> Dataset:
    """The shards as one dataset; those in which a map dropped every row have lost their columns and are left out."""
    filled = [part for part in parts if len(part)] or parts[:1]
    features = next((part.features for part in filled if not _has_null(part)), filled[0].features)
    return concatenate_datasets([part if part.features == features else part.cast(features) for part in filled])


def _has_null(part: Dataset) -> bool:
    return "null" in str(part.features)


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


@contextmanager
def _without_bars() -> Iterator[None]:
    """No bar for each shard beside the one for all."""
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not quiet:
            datasets.enable_progress_bars()
