"""The passages' vectors as a search reads them: by block, by position, and in few bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from rir_hf.index.coarse import GROUP, Coarse, coarse_copy, stored_copy

_BLOCK = 8192
_PAIRS = 64  # their vectors in float64 stay in the cache of a core


class Vectors(ABC):
    """Vectors that are read by block and by position."""

    is_stored = False
    """Whether their copy in few bits is kept in a file, so that it is made once."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All vectors in order, `(rows, d)` float32 at a time."""

    @abstractmethod
    def at(self, positions: np.ndarray) -> np.ndarray:
        """Vectors at these positions, `(len(positions), d)` float32."""

    @cached_property
    def longest(self) -> float:
        """Largest length of a vector; `ValueError` where one is not finite."""
        longest = 0.0
        for block in self.blocks(_BLOCK):
            squares = np.einsum("nd,nd->n", block, block, dtype=np.float64)
            if not np.isfinite(squares).all():
                raise ValueError(
                    "The index holds vectors with NaN or infinite values; rebuild it with "
                    "attach_index."
                )
            longest = max(longest, float(squares.max(initial=0)))
        return float(np.sqrt(longest))

    def coarse(self, kind: str) -> Coarse:
        """Their copy in few bits, made when it is first asked for; see `coarsened`."""
        if kind not in self._copies:
            self._copies[kind] = self._copy(kind)
        return self._copies[kind]

    @cached_property
    def _copies(self) -> dict[str, Coarse]:
        return {}

    def _copy(self, kind: str) -> Coarse:
        return coarse_copy(self.blocks(_BLOCK), kind)


class ArrayVectors(Vectors):
    """Vectors in memory, or in a file that is mapped to memory.

    Args:
        vectors: `(m, d)` float32, row after row.
        file: the file of the vectors; beside it their copies in few bits are kept. None for none.
        identity: what the vectors are, the same as long as they are.
    """

    def __init__(self, vectors: np.ndarray, file: Path | None = None, identity: str = "") -> None:
        self.vectors = vectors
        self.file = file
        self.identity = identity
        self.is_stored = file is not None

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All vectors in order."""
        for start in range(0, len(self), rows):
            yield self.vectors[start : start + rows]

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Vectors at these positions."""
        # In a memory-mapped file they need not lie at multiples of four bytes, and taking rows of
        # such an array as floats would copy all of it first; as bytes it does not.
        return self.vectors.view(np.uint8).take(positions, axis=0).view(np.float32)

    def _copy(self, kind: str) -> Coarse:
        if self.file is None:
            return super()._copy(kind)
        path = self.file.with_name(f"{self.file.name}.{kind}")
        shape = (len(self), self.vectors.shape[1])
        identity = f"{self.identity}, a scale for {GROUP}"
        return stored_copy(path, identity, self.blocks(_BLOCK), shape, kind)


def similarities(
    queries: np.ndarray, vectors: Vectors, rows: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Inner products of query `rows[i]` with passage `positions[i]`, summed in float64, as float32.

    Each is computed for itself, so it is the same whatever it is asked together with.

    Args:
        queries: `(n, d)`.
        vectors: the passages' vectors.
        rows: `(pairs,)` int64.
        positions: `(pairs,)` int64.
    """
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        passages = vectors.at(positions[part]).astype(np.float64)
        scores[part] = np.einsum("nd,nd->n", passages, queries[rows[part]].astype(np.float64))
    return scores
