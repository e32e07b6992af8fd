"""Texts in, those that are the same or nearly the same out: exact text first, then candidates by
MinHash, compared in full.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import xxhash
from datasets import Dataset
from datasets.utils import tqdm

from rir_hf.core.texts import plain, shingles_of

_PERMUTATIONS = 128
_SEED = 1
_MISSED = 0.001
_ESTIMATE_ERROR = 0.15
# An estimate by 128 permutations has a standard deviation of 0.044 at most.
_TEXTS_AT_ONCE = 1000
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Sketches:
    """Texts by their MinHash signatures, and which of them are near each other.

    A signature takes 512 bytes, in a temporary file. (datasketch 2.0.0 makes one after the other,
    several times slower, and its `MinHashLSH` takes 9,000 bytes of memory for each text with enough
    bands to find what is at the threshold. November 2026.)

    Args:
        texts: all different, none empty; a list, or a column of a dataset.
        threshold: the least Jaccard similarity.
        who: what the progress bar is called.

    Example:
        >>> sketches = Sketches(["cats purr", "dogs bark", "cats purr."], 0.8, "example")
        >>> list(sketches.near_pairs(lambda row, others: others > 0))
        [(0, 2, 0.8333333333333334)]
    """

    def __init__(self, texts: Sequence[str | None], threshold: float, who: str) -> None:
        self.threshold = threshold
        self.signatures = signatures_of(texts, who)
        self._shingles = lru_cache(maxsize=8192)(lambda row: _hashed(shingles_of(texts[row])))

    def near_pairs(
        self, wanted: Callable[[int, np.ndarray], np.ndarray]
    ) -> Iterator[tuple[int, int, float]]:
        """Positions of two texts that are near, the first one first, and their similarity.

        Args:
            wanted: takes a position and an array of later ones, and says which pairs to look at;
                asked as the search goes on, it may know what has been found by then.
        """
        width = band_width(self.threshold)
        for start in range(0, _PERMUTATIONS - width + 1, width):
            for bucket in _buckets(self.signatures[start : start + width]):
                for place, row in enumerate(bucket.tolist()):
                    others = bucket[place + 1 :]
                    others = others[wanted(row, others)]
                    for other in self._likely(row, others, start, width).tolist():
                        similarity = jaccard(self._shingles(row), self._shingles(other))
                        if similarity >= self.threshold:
                            yield row, other, similarity

    def _likely(self, row: int, others: np.ndarray, start: int, width: int) -> np.ndarray:
        """Those of the others that may be near, and were not met in an earlier band."""
        equal = self.signatures[:, others] == self.signatures[:, [row]]
        earlier = equal[:start].reshape(start // width, width, len(others))
        is_new = ~earlier.all(axis=1).any(axis=0)
        return others[is_new & (equal.mean(axis=0) >= self.threshold - _ESTIMATE_ERROR)]


def first_of_each_group(ds: Dataset, text: str, threshold: float | None) -> np.ndarray:
    """For each row the first one of its group, itself where it has no twin.

    Example:
        >>> rows = Dataset.from_dict({"text": ["Cats purr.", "", "cats purr.", ""]})
        >>> first_of_each_group(rows, "text", None).tolist()
        [0, 1, 0, 3]
    """
    keys = keys_of(ds[text])
    _, firsts, group = np.unique(keys, return_index=True, return_inverse=True)
    own = np.arange(len(keys))
    first = np.where(keys == 0, own, firsts[group])
    if threshold is None:
        return first
    distinct = np.flatnonzero((first == own) & (keys != 0))
    sketches = Sketches(ds.select(distinct)[text], threshold, "near_duplicates")
    near = own.copy()
    near[distinct] = distinct[_first_near(sketches)]
    return near[first]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """The share of all elements of two sets, arrays without repeats, that is in both.

    Example:
        >>> jaccard(np.array([3, 1]), np.array([1, 2]))
        0.3333333333333333
    """
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def keys_of(texts: Sequence[str | None]) -> np.ndarray:
    """A number for each text, uint64: equal for the same texts, 0 for an empty one."""
    plains = (plain(text).encode() for part in _parts_of(texts) for text in part)
    keys = (xxhash.xxh64_intdigest(text) if text else 0 for text in plains)
    return np.fromiter(keys, np.uint64, len(texts))


def signatures_of(texts: Sequence[str | None], who: str) -> np.ndarray:
    """MinHash signatures, `(128, texts)` uint32, in a file that has no name and ends with them."""
    draw = np.random.default_rng(_SEED)
    factors, shifts = draw.integers(0, 2**64, (2, _PERMUTATIONS), np.uint64)
    start = 0
    with (
        tempfile.TemporaryFile() as file,
        tqdm(total=len(texts), desc=who, unit=" texts", delay=5) as bar,
    ):
        for part in _parts_of(texts):
            sets = [*map(shingles_of, part)]
            digests = [xxhash.xxh64_intdigest(one.encode()) for each in sets for one in each]
            numbers = np.array(digests, np.uint64)
            begins = np.cumsum([0, *map(len, sets[:-1])])
            for place, (factor, shift) in enumerate(zip(factors | 1, shifts, strict=True)):
                least = np.minimum.reduceat(numbers * factor + shift, begins) >> np.uint64(32)
                file.seek(4 * (place * len(texts) + start))
                file.write(least.astype(np.uint32).tobytes())
            start += len(part)
            bar.update(len(part))
        file.flush()
        shape = (_PERMUTATIONS, len(texts))
        return np.memmap(file, np.uint32, "r", shape=shape) if start else np.empty(shape, np.uint32)


def band_width(threshold: float) -> int:
    """How many permutations a band has: as many as still overlook at most one in a thousand of the
    pairs at the threshold.

    Example:
        >>> band_width(0.8), band_width(1.0)
        (5, 128)
    """
    widths = range(_PERMUTATIONS, 1, -1)
    missed = ((1 - threshold**width) ** (_PERMUTATIONS // width) for width in widths)
    fitting = (width for width, chance in zip(widths, missed, strict=True) if chance <= _MISSED)
    return next(fitting, 1)


def check_threshold(threshold: float | None) -> None:
    """Raise `ValueError` where it is out of range."""
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie above 0 and be at most 1, or None, got {threshold}.")


def _parts_of(texts: Sequence[str | None]) -> Iterator[Sequence[str | None]]:
    """Some texts at a time: a column of a dataset gives them so much faster than one by one."""
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        yield texts[start : start + _TEXTS_AT_ONCE]


def _hashed(shingles: set[str]) -> np.ndarray:
    """A number of 64 bits for each, the same in this process, which is compared faster."""
    return np.fromiter(map(hash, shingles), np.int64, len(shingles))


def _buckets(band: np.ndarray) -> Iterator[np.ndarray]:
    """Positions, in order, of the texts that are equal in a band to another, and with which."""
    keys = np.zeros(band.shape[1], np.uint64)
    for values in band:
        keys = (keys + values) * _ODD
    order = np.argsort(keys, kind="stable")
    is_equal = np.diff(keys[order]) == 0
    edges = np.flatnonzero(np.diff(is_equal, prepend=False, append=False))
    for first, last in edges.reshape(-1, 2).tolist():
        yield order[first : last + 1]


def _first_near(sketches: Sketches) -> np.ndarray:
    """For each text the first one that it is near to, directly or by way of others."""
    parents = np.arange(sketches.signatures.shape[1])
    for row, other, _ in sketches.near_pairs(lambda row, others: parents[others] != parents[row]):
        _join(parents, row, other)
    while (parents[parents] != parents).any():
        parents = parents[parents]
    return parents


def _join(parents: np.ndarray, one: int, other: int) -> None:
    """Make one group of two; its root is the first of all."""
    roots = sorted((_root(parents, one), _root(parents, other)))
    parents[[one, other, roots[1]]] = roots[0]


def _root(parents: np.ndarray, row: int) -> int:
    while parents[row] != row:
        row = int(parents[row])
    return row
