"""Python's search for cyclic garbage, put off while a batch is worked on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_inside = 0
_was_enabled = False


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """No cyclic garbage is looked for inside: a block, or a function that this decorates.

    Some ten lists and arrays for each row of a batch make Python look through all objects of all
    modules again and again, a quarter of a second each time where torch and datasets are loaded.
    None of them is in a cycle, so that nothing is found, and their memory is given back as ever.
    Of several threads inside the last one ends it.

    Example:
        >>> with no_garbage_collection():
        ...     print(gc.isenabled())
        False
        >>> gc.isenabled()
        True
    """
    global _inside, _was_enabled
    with _lock:
        if not _inside:
            _was_enabled = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _was_enabled:
                gc.enable()


def free_memory() -> None:
    """Give back what nobody refers to any more, on the GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
