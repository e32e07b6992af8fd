"""The same shards in worker processes of this machine, each with a model loaded once."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rir_hf.running.shards import Job, Shard
from rir_hf.running.turns import Made, in_turns, make_shard


def make_in_processes(job: Job, todo: list[Shard], num_proc: int) -> Iterator[int]:
    """Make shards in processes that take them in turn; give the rows of each.

    Args:
        job: what is done to each shard.
        todo: the shards.
        num_proc: processes.

    Raises:
        RuntimeError: a process ended at once, or failed with an error of another package's class;
            or the models of all failed on every row.
    """
    context = multiprocessing.get_context()
    ranks = context.SimpleQueue()
    for rank in range(num_proc):
        ranks.put(rank)
    workers = min(num_proc, len(todo))
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_Worker.start, initargs=(job, ranks)
    ) as pool:
        futures: set[Future[Made]] = set()

        def submit(shard: Shard, answered: bool) -> None:
            futures.add(pool.submit(_Worker.make, shard, answered))

        def take() -> Made:
            future = next(as_completed(futures))
            futures.remove(future)
            return future.result()

        try:
            yield from in_turns(job, todo, workers, submit, take)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A worker ended at once, as one does that is killed for its memory. Finished "
                "shards are kept: run it again, with a smaller num_proc or batch_size."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


class _Worker:
    """What a worker process holds: the job, received once, so that its model is loaded once, and
    its number.
    """

    job: Job
    rank: int

    @classmethod
    def start(cls, job: Job, ranks: Any) -> None:
        """Called in each new process."""
        threading.Thread(target=_end_with_parent, daemon=True).start()
        cls.job, cls.rank = job, ranks.get()

    @classmethod
    def make(cls, shard: Shard, answered: bool) -> Made:
        """Make a shard; an error of a class that may not survive the way back becomes a
        `RuntimeError` with its text.
        """
        try:
            return make_shard(cls.job, shard, answered, cls.rank)
        except Exception as error:
            if type(error).__module__ == "builtins":
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}") from None


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, as one does that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
