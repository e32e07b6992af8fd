"""The same maps on a Ray cluster, for what outgrows one machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.fingerprint import Hasher

from rir_hf.index import without_indexes
from rir_hf.provenance import provenance, with_provenance, with_record
from rir_hf.resume import complete_folder, known_features
from rir_hf.transform import check_at_least

if TYPE_CHECKING:
    import ray.data

_VERSION = 1


def ray_map(
    ds: Dataset | ray.data.Dataset,
    function: Callable[..., Any],
    *,
    batch_size: int = 512,
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
        concurrency: actors, each with a model of its own; `(least, most)` lets Ray choose. Default: 1.
        num_gpus: GPUs per actor, which then sees no others; 0.5 puts two actors on one.
        num_cpus: cores per actor. Default: 1, or less, so that one core of the cluster is left to read and write: where actors hold
            all of them, Ray waits for ever.

    Raises:
        ImportError: Ray is not installed.
        TypeError: `ds` is a stream or has several splits.
        ValueError: `batch_size` below 1.

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
            f"ray_map takes a Dataset of datasets or of Ray, found {type(ds).__name__}: map a DatasetDict split by split."
        )
    check_at_least("batch_size", batch_size, 1)
    least, most = concurrency if isinstance(concurrency, tuple) else (concurrency or 1,) * 2
    actors = ray.data.ActorPoolStrategy(min_size=least, max_size=most)
    if num_cpus is None:
        ray.init(ignore_reinit_error=True)
        num_cpus = min(1.0, max(0.0, ray.cluster_resources().get("CPU", 1) - 1) / most)
    settings = {"compute": actors, "num_gpus": num_gpus, "num_cpus": num_cpus}
    if isinstance(ds, ray.data.Dataset):
        return _mapped(ds, function, batch_size, settings)
    key = Hasher.hash([_VERSION, ds._fingerprint, function, batch_size])
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "rir_hf" / f"ray-{key}"
    if not folder.exists():
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        rows = without_indexes(ds).with_format("arrow")
        blocks = ray.data.from_arrow([rows[start : start + batch_size] for start in range(0, len(rows), batch_size)])
        with complete_folder(folder) as new:
            _mapped(blocks, function, batch_size, settings).write_parquet(str(new))
    found = _read(sorted(folder.glob("*.parquet")))
    found._split = ds.split
    return with_record(with_provenance(found, provenance(ds)), ds, function)


def _read(files: list[Path]) -> Dataset:
    """Parquet as one dataset: parts in which a map dropped every row are left out, columns of nulls take the others' type."""
    parts = [pq.ParquetFile(file) for file in files]
    filled = [part for part in parts if part.metadata.num_rows] or parts[:1]
    features = known_features([part.schema_arrow for part in filled])
    return Dataset.from_parquet([str(file) for file, part in zip(files, parts, strict=True) if part in filled], features=features)


def _mapped(rows: ray.data.Dataset, function: Callable[..., Any], batch_size: int, settings: dict[str, Any]) -> ray.data.Dataset:
    return rows.map_batches(
        _Actor, fn_constructor_args=(function,), batch_size=batch_size, batch_format="pyarrow", zero_copy_batch=True, **settings
    )


class _Actor:
    """A process of the cluster with the function, which loads its model when it is first called."""

    def __init__(self, function: Callable[..., Any]) -> None:
        datasets.disable_progress_bars()
        self.function = function

    def __call__(self, table: pa.Table) -> pa.Table:
        """A batch as `Dataset.map` maps it, so that columns are merged, rows dropped and types found as there."""
        if not len(table):
            return table
        batch = Dataset(table, fingerprint="batch")
        mapped = batch.map(self.function, batched=True, batch_size=None, keep_in_memory=True, new_fingerprint="mapped")
        return mapped.data.table.combine_chunks()
