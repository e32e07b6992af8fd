"""Several pieces of work at a time, in threads that share the cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


def workers_for(pieces: int) -> int:
    """How many threads are worth having: one for each core that torch may use, at least one."""
    import torch

    return max(1, min(pieces, torch.get_num_threads()))


@contextmanager
def in_threads(workers: int) -> Iterator[Callable[..., Any]]:
    """A function like `map` that works in so many threads, in each of which torch has its share of
    the cores; `map` itself for one.

    Example:
        >>> with in_threads(2) as each:
        ...     print(list(each(abs, [-1, 2])))
        [1, 2]
    """
    if workers == 1:
        yield map
        return
    import torch

    cores = torch.get_num_threads()

    def share_cores() -> None:
        # A thread takes over the number of the last call anywhere when it first asks for it, and
        # has one of its own from then on.
        torch.get_num_threads()
        torch.set_num_threads(max(1, cores // workers))

    try:
        with ThreadPoolExecutor(workers, initializer=share_cores) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(cores)
