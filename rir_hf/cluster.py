"""The same maps on a Ray cluster, for what outgrows one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.fingerprint import Hasher

from rir_hf.index import without_indexes
from rir_hf.provenance import provenance, with_provenance, with_record
from rir_hf.resume import complete_folder, in_format, known_features, with_format_of
from rir_hf.transform import check_at_least

if TYPE_CHECKING:
    import ray.data

_VERSION = 2


def ray_map(
    ds: Dataset | ray.data.Dataset,
    function: Callable[..., Any],
    *,
    batch_size: int = 512,
    rows_per_shard: int | None = None,
    concurrency: int | tuple[int, int] | None = None,
    num_gpus: float | None = None,
    num_cpus: float | None = None,
) -> Dataset | ray.data.Dataset:
    """`ds.map(function, batched=True, batch_size=batch_size)` on a Ray cluster, one model per actor.

    Connects to the cluster of `ray.init`, or starts one on this machine. A Ray dataset gives a Ray dataset, lazy as it is; a
    `Dataset` gives a `Dataset`, its rows in the same order, kept as parquet in the `datasets` cache: a second run is read from
    there. On several machines that cache (`HF_DATASETS_CACHE`), and the index file of a corpus that is searched, must lie on a
    file system that all of them see.

    Args:
        ds: rows, of either kind.
        function: any map function of this package, or another that takes a batch and gives columns.
        batch_size: rows per call.
        rows_per_shard: keep the rows of a `Dataset` so many at a time, so that a run that is killed goes on where it was; every
            shard starts its actors and their models anew, so take an hour's work. Default: all rows.
        concurrency: actors, each with a model of its own; `(least, most)` lets Ray choose. Default: 1.
        num_gpus: GPUs per actor, which then sees no others; 0.5 puts two actors on one.
        num_cpus: cores per actor. Default: 1, or less, so that one core of the cluster is left to read and write: where actors hold
            all of them, Ray waits for ever.

    Raises:
        ImportError: Ray is not installed.
        TypeError: `ds` is a stream or has several splits.
        ValueError: `batch_size`, `rows_per_shard` or `concurrency` below 1.

    Example:
        >>> from rir_hf import Embed, ray_map
        >>> corpus = ray_map(corpus, Embed("BAAI/bge-base-en-v1.5"), concurrency=8, num_gpus=1)          # doctest: +SKIP
    """
    try:
        import ray.data
    except ImportError as error:
        raise ImportError('ray_map runs on Ray: pip install "rir-hf[ray]".') from error

    if not isinstance(ds, (Dataset, ray.data.Dataset)):
        raise TypeError(
            f"ray_map takes a Dataset of datasets or of Ray, found {type(ds).__name__}: map a DatasetDict split by "
            "split, a stream with its map."
        )
    actors = {"concurrency": _least_and_most(concurrency), "num_gpus": num_gpus, "num_cpus": num_cpus}
    for name in ("num_gpus", "num_cpus"):
        check_at_least(name, actors[name] or 0, 0)
    check_at_least("batch_size", batch_size, 1)
    check_at_least("rows_per_shard", 1 if rows_per_shard is None else rows_per_shard, 1)
    if isinstance(ds, ray.data.Dataset):
        return _mapped(ds, function, batch_size, **actors)
    if not len(ds):
        return ds.map(function, batched=True)
    files = _kept(ds, function, batch_size, rows_per_shard or len(ds), actors)
    found = _read(files) if files else without_indexes(ds).select([])
    found._split = ds.split
    return with_record(with_provenance(with_format_of(ds, found), provenance(ds)), ds, function)


def _least_and_most(concurrency: int | tuple[int, int] | None) -> tuple[int, int]:
    """The number of actors as a range."""
    one = 1 if concurrency is None else concurrency
    bounds = one if isinstance(one, (tuple, list)) else (one, one)
    if len(bounds) != 2 or not all(isinstance(number, int) for number in bounds) or not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"concurrency must be a number of actors or (least, most), at least 1, got {concurrency!r}.")
    return bounds[0], bounds[1]


def _kept(ds: Dataset, function: Callable[..., Any], batch_size: int, rows_per_shard: int, actors: dict[str, Any]) -> list[Path]:
    """The mapped rows as parquet files in the cache, in order; shards that are there are not made again."""
    import ray.data

    key = Hasher.hash([_VERSION, ds._fingerprint, function, batch_size, None if datasets.is_caching_enabled() else uuid4().hex])
    rows = without_indexes(ds).with_format("arrow")
    files: list[Path] = []
    for start in range(0, len(ds), rows_per_shard):
        end = min(start + rows_per_shard, len(ds))
        folder = Path(datasets.config.HF_DATASETS_CACHE) / "rir_hf" / f"ray-{key}" / f"{start}-{end}"
        if not folder.exists():
            with complete_folder(folder) as new, _in_order():
                blocks = ray.data.from_arrow([rows[at : min(at + batch_size, end)] for at in range(start, end, batch_size)])
                _mapped(blocks, function, batch_size, **actors, format=ds.format).write_parquet(str(new))
        files += sorted(folder.glob("*.parquet"))
    return files


@contextmanager
def _in_order() -> Iterator[None]:
    """Ray gives rows back in the order in which it got them."""
    import ray.data

    options = ray.data.DataContext.get_current().execution_options
    before = options.preserve_order
    options.preserve_order = True
    try:
        yield
    finally:
        options.preserve_order = before


def _read(files: list[Path]) -> Dataset:
    """Parquet as one dataset: parts in which a map dropped every row are left out, columns of nulls take the others' type."""
    filled = [file for file in files if pq.read_metadata(file).num_rows] or files[:1]
    return Dataset.from_parquet([str(file) for file in filled], features=known_features([pq.read_schema(file) for file in filled]))


def _mapped(
    rows: ray.data.Dataset,
    function: Callable[..., Any],
    batch_size: int,
    *,
    concurrency: tuple[int, int],
    num_gpus: float | None,
    num_cpus: float | None,
    format: dict[str, Any] | None = None,
) -> ray.data.Dataset:
    import ray.data

    least, most = concurrency
    if num_cpus is None:
        ray.init(ignore_reinit_error=True)
        num_cpus = min(1.0, max(0.0, ray.cluster_resources().get("CPU", 1) - 1) / most)
    return rows.map_batches(
        _Actor,
        fn_constructor_args=(function, format),
        batch_size=batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        num_gpus=num_gpus,
        num_cpus=num_cpus,
    )


class _Actor:
    """A process of the cluster with the function, which loads its model when it is first called."""

    def __init__(self, function: Callable[..., Any], format: dict[str, Any] | None) -> None:
        datasets.disable_progress_bars()
        self.function = function
        self.format = format

    def __call__(self, table: pa.Table) -> pa.Table:
        """A batch as `Dataset.map` maps it, so that columns are merged, rows dropped and types found as there."""
        if not len(table):
            return table
        batch = Dataset(table, fingerprint="batch")
        batch = batch if self.format is None else in_format(batch, self.format, self.format["columns"])
        mapped = batch.map(self.function, batched=True, batch_size=None, keep_in_memory=True, new_fingerprint="mapped")
        return mapped.data.table.combine_chunks()
