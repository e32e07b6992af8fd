"""The same shards on a Ray cluster, for what outgrows one machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rir_hf.core.columns import check_at_least
from rir_hf.core.step import Step
from rir_hf.running.shards import Job, Shard
from rir_hf.running.turns import Made, in_turns, make_shard

if TYPE_CHECKING:
    import ray.data


def make_on_ray(
    job: Job,
    todo: list[Shard],
    *,
    concurrency: int = 1,
    num_gpus: float | None = None,
    num_cpus: float | None = None,
) -> Iterator[int]:
    """Make shards in actors that take them in turn; give the rows of each.

    Connects to the cluster of `ray.init`, or starts one on this machine. On several machines the
    `datasets` cache (`HF_DATASETS_CACHE`), and the index file of a corpus that is searched, must
    lie on a file system that all of them see.

    Args:
        job: what is done to each shard.
        todo: the shards.
        concurrency: actors, each with a model of its own.
        num_gpus: GPUs of each actor, which then sees no others; 0.5 puts two actors on one.
        num_cpus: cores of each. Default: 1, or less where the cluster has fewer cores than actors.
    """
    ray = _ray()
    from ray.util import ActorPool

    check_at_least("concurrency", concurrency, 1)
    ray.init(ignore_reinit_error=True)
    if num_cpus is None:
        num_cpus = min(1.0, ray.cluster_resources().get("CPU", 1) / concurrency)
    actor = ray.remote(_Actor).options(num_cpus=num_cpus, num_gpus=num_gpus)
    shared = ray.put(job)
    actors = [actor.remote(shared) for _ in range(min(concurrency, len(todo)))]
    pool = ActorPool(actors)

    def submit(shard: Shard, answered: bool) -> None:
        pool.submit(lambda worker, shard: worker.make.remote(shard, answered), shard)

    try:
        yield from in_turns(job, todo, len(actors), submit, pool.get_next_unordered)
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(
            "A Ray actor ended, as one does that is killed for its memory. Finished shards are "
            "kept: run it again, with a smaller concurrency or batch_size."
        ) from error
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    finally:
        for one in actors:  # after an error they would work on, and keep their cores
            ray.kill(one)


def run_on_ray_dataset(
    rows: ray.data.Dataset,
    step: Step,
    batch_size: int,
    *,
    concurrency: int = 1,
    num_gpus: float | None = None,
    num_cpus: float | None = None,
) -> ray.data.Dataset:
    """A Ray dataset with the step's columns, lazy as it is."""
    data = _ray().data
    if not isinstance(rows, data.Dataset):
        raise TypeError(
            "run takes a Dataset, a DatasetDict, a stream or a Ray dataset, got "
            f"{type(rows).__name__}."
        )
    check_at_least("concurrency", concurrency, 1)
    return rows.map_batches(
        _MapTables,
        fn_constructor_args=(step,),
        batch_size=batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=data.ActorPoolStrategy(size=concurrency),
        num_gpus=num_gpus,
        num_cpus=num_cpus,
    )


class _Actor:
    """A process of the cluster with the job, whose step loads its model when it is first called."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def make(self, shard: Shard, answered: bool) -> Made:
        """Make a shard; see `make_shard`."""
        return make_shard(self.job, shard, answered)


class _MapTables:
    """The step over the tables of a Ray dataset."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the added columns."""
        return self.step(table)


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('engine="ray" needs Ray: pip install "rir-hf[ray]".') from error
    return ray
