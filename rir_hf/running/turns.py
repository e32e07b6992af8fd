"""Shards and workers in, the rows of each shard out as it is made: the workers take shards in turn,
and one whose model has failed on all its rows waits for what the others find.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rir_hf.models.llm import HopelessError, has_answered, mark_answered
from rir_hf.running.shards import Job, Shard


class Made(NamedTuple):
    """What a worker says of a shard.

    answered: whether its model has answered a row so far.
    hopeless: why it gave the shard up, since its model has failed on every row so far; None where
        the shard is made.
    """

    shard: Shard
    answered: bool
    hopeless: str | None = None


def make_shard(job: Job, shard: Shard, answered: bool, rank: int | None = None) -> Made:
    """Make a shard in a worker; `answered`: whether a model of another worker has answered."""
    if answered:
        mark_answered(job.step)
    try:
        for _ in job.make(shard, rank):
            pass
    except HopelessError as error:
        return Made(shard, False, str(error))
    return Made(shard, has_answered(job.step))


def in_turns(
    job: Job,
    todo: list[Shard],
    workers: int,
    submit: Callable[[Shard, bool], None],
    take: Callable[[], Made],
) -> Iterator[int]:
    """Hand shards to workers, one at a time to each; give the rows of each that is made.

    A worker that gave its shard up gets nothing more until a model of another has answered; then
    the shard is made after all.

    Args:
        job: what is done; its step, in this process, remembers whether a model has answered.
        todo: the shards.
        workers: how many there are.
        submit: hands a shard to a worker that is free, and whether a model has answered.
        take: waits for the next result.

    Raises:
        RuntimeError: the models of all workers have failed on every row.
    """
    waiting, given_up, working = deque(todo), list[Made](), 0
    while True:
        answered = has_answered(job.step)
        if answered:
            waiting.extend(made.shard for made in given_up)
            given_up.clear()
        while waiting and working + len(given_up) < workers:
            submit(waiting.popleft(), answered)
            working += 1
        if not working:
            break
        made = take()
        working -= 1
        if made.answered:
            mark_answered(job.step)
        if made.hopeless is None:
            yield made.shard.rows
        else:
            given_up.append(made)
    if given_up:
        raise HopelessError(given_up[-1].hopeless)
