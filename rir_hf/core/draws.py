"""Random draws that depend on a seed and on the content of a row alone: not on its place, its batch
or its process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash


def generator_of(seed: int, *content: Any) -> np.random.Generator:
    """A random generator for one row.

    Args:
        seed: the step's, 0 or more.
        content: plain values (texts, numbers, lists of them) that tell the row from others.

    Example:
        >>> int(generator_of(0, "a query").integers(100))
        50
    """
    return np.random.default_rng([seed, xxhash.xxh3_64_intdigest(repr(content).encode())])


def seed_of(seed: int, prompt: Any, number: int) -> int:
    """The seed of one generated text: the same in every process and batch, below 2^31 as servers
    want it.

    Example:
        >>> seed_of(0, "a prompt", 0) == seed_of(0, "a prompt", 0) != seed_of(0, "a prompt", 1)
        True
    """
    return xxhash.xxh3_64_intdigest(repr((seed, prompt, number)).encode()) >> 33
