"""Vectors in few bits for a fast product, and a bound on what is lost by it.

A vector is kept as whole numbers times a scale (`int8`), or with the upper half of each float's
bits (`bfloat16`). With q' and p' for what is kept of q and p, the inequality of Cauchy-Schwarz
gives `|q.p - q'.p'| <= |q| |p - p'| + |q - q'| |p'|`: two lengths a vector bound the error of every
product, and are worked out in double precision when the copy is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rir_hf.core.unfinished import remove_leftovers, unfinished
from rir_hf.index.files import is_intact, sign

COARSE: dict[str, np.dtype[Any]] = {"int8": np.dtype(np.int8), "bfloat16": np.dtype(np.int16)}
"""The kinds, with the type in which NumPy keeps the codes."""

GROUP = 2048
"""How many passages in a row have a scale in common: their products with a query are compared as
they are, before any is scaled.
"""

_UP = np.float32(1 + 2.0**-20)
_LARGEST = 127
_TINY = np.float32(2.0**-100)


class Coarse(NamedTuple):
    """m vectors in few bits.

    bounds: `(m, 3)` float32: the scale of each vector, the same in a group, the length of what its
        codes leave out, and the length of what they stand for; the lengths are rounded up.
    codes: `(m, d)` int8, or int16 with the bits of bfloat16.
    """

    bounds: np.ndarray
    codes: np.ndarray


def coarsened(vectors: np.ndarray, kind: str, group: int = 1) -> Coarse:
    """A copy in few bits.

    Args:
        vectors: `(m, d)` float32, finite.
        kind: `"int8"` or `"bfloat16"`.
        group: how many vectors in a row have a scale in common.

    Raises:
        ValueError: a vector is not finite.

    Example:
        >>> copy = coarsened(np.array([[1, 0.5], [0, 0]], "float32"), "int8")
        >>> copy.codes.tolist(), bool(copy.bounds[0, 1] < 0.005)
        ([[127, 64], [0, 0]], True)
    """
    if not np.isfinite(vectors).all():
        raise ValueError(
            "The index holds vectors with NaN or infinite values; rebuild it with attach_index."
        )
    codes, scales = _int8(vectors, group) if kind == "int8" else _bfloat16(vectors)
    kept = _floats(codes) * scales[:, None].astype(np.float64)
    lost = vectors - kept
    lengths = (np.sqrt(np.einsum("nd,nd->n", values, values)) for values in (lost, kept))
    up = [values.astype(np.float32) * _UP + _TINY for values in lengths]
    return Coarse(np.stack([scales, *up], axis=1), codes)


def coarse_copy(blocks: Iterable[np.ndarray], kind: str) -> Coarse:
    """A copy in memory of vectors that come block by block."""
    copies = [coarsened(block, kind, GROUP) for block in blocks]
    return Coarse(*(np.concatenate(parts) for parts in zip(*copies, strict=True)))


def stored_copy(
    path: Path, identity: str, blocks: Iterable[np.ndarray], shape: tuple[int, int], kind: str
) -> Coarse:
    """A copy in a file, memory-mapped; the file is made where it is missing, is cut, or is that of
    other vectors. Where its folder cannot be written to, the copy is made in memory.

    Args:
        path: the file.
        identity: what the vectors are; it is left in the file.
        blocks: the vectors in order, read only where the file is to be made.
        shape: `(m, d)`.
        kind: `"int8"` or `"bfloat16"`.
    """
    if is_intact(path, identity):
        return _mapped(path, shape, kind, "c")
    if not os.access(path.parent, os.W_OK):
        return coarse_copy(blocks, kind)
    remove_leftovers(path.parent, "index-*")
    with unfinished(path) as part:
        os.truncate(part, shape[0] * (12 + shape[1] * COARSE[kind].itemsize))
        copy = _mapped(part, shape, kind, "r+")
        _fill(copy, blocks, kind)
        del copy
        sign(part, identity)
        part.replace(path)
    return _mapped(path, shape, kind, "c")


def _fill(copy: Coarse, blocks: Iterable[np.ndarray], kind: str) -> None:
    start = 0
    for block in blocks:
        part = slice(start, start + len(block))
        copy.bounds[part], copy.codes[part] = coarsened(block, kind, GROUP)
        start += len(block)


def _mapped(path: Path, shape: tuple[int, int], kind: str, mode: str) -> Coarse:
    """What lies in a file: first the bounds, then the codes."""
    rows = shape[0]
    bounds = np.memmap(path, np.float32, mode, 0, (rows, 3))  # type: ignore[call-overload]
    codes = np.memmap(path, COARSE[kind], mode, rows * 12, shape)  # type: ignore[call-overload]
    return Coarse(np.asarray(bounds), np.asarray(codes))


def _int8(vectors: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -127 to 127, and what they are multiplied with."""
    largest = np.abs(vectors).max(axis=1, initial=0)
    of_group = np.maximum.reduceat(largest, np.arange(0, len(largest), group))
    largest = np.repeat(of_group, group)[: len(largest)]
    scales = (largest / _LARGEST).astype(np.float32)
    # So near to zero a quotient is not to be trusted: nothing is kept, everything is lost.
    scales[scales < np.finfo(np.float32).tiny] = 0
    divisors = np.where(scales > 0, scales, np.float32(np.inf))
    codes = np.rint(vectors / divisors[:, None]).clip(-_LARGEST, _LARGEST).astype(np.int8)
    return codes, scales


def _bfloat16(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upper 16 bits of each float, rounded to nearest, and a scale of 1."""
    import torch

    rounded = torch.from_numpy(np.ascontiguousarray(vectors)).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy(), np.ones(len(vectors), np.float32)


def _floats(codes: np.ndarray) -> np.ndarray:
    """The numbers that codes stand for, before scaling, float64."""
    if codes.dtype == np.int8:
        return codes.astype(np.float64)
    return (codes.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
