"""Texts in, those that are the same or nearly the same out: exact text first, then candidates by
MinHash, compared in full.
"""

from __future__ import annotations

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


class Sketches:
    """Texts by their MinHash signatures, and which of them are near each other.

    A signature takes 512 bytes. (datasketch's own `MinHashLSH` takes 9,000 for each text with
    enough bands to find what is at the threshold; by default it finds 40 % of that. Measured with
    datasketch 2.0.0, November 2026.)

    Args:
        texts: all different, none empty.
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
            for bucket in _buckets(self.signatures[:, start : start + width]):
                for place, row in enumerate(bucket.tolist()):
                    others = bucket[place + 1 :]
                    others = others[wanted(row, others)]
                    for other in self._likely(row, others, start, width).tolist():
                        similarity = jaccard(self._shingles(row), self._shingles(other))
                        if similarity >= self.threshold:
                            yield row, other, similarity

    def _likely(self, row: int, others: np.ndarray, start: int, width: int) -> np.ndarray:
        """Those of the others that may be near, and were not met in an earlier band."""
        equal = self.signatures[others] == self.signatures[row]
        earlier = equal[:, :start].reshape(len(others), start // width, width)
        is_new = ~earlier.all(axis=2).any(axis=1)
        return others[is_new & (equal.mean(axis=1) >= self.threshold - _ESTIMATE_ERROR)]


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
    plains = (plain(text).encode() for text in texts)
    keys = (xxhash.xxh64_intdigest(text) if text else 0 for text in plains)
    return np.fromiter(keys, np.uint64, len(texts))


def signatures_of(texts: Sequence[str | None], who: str) -> np.ndarray:
    """MinHash signatures, `(texts, 128)` uint32."""
    from datasketch import MinHash

    signatures = np.empty((len(texts), _PERMUTATIONS), np.uint32)
    shingles = map(shingles_of, tqdm(texts, desc=who, unit=" texts", delay=5))
    options = {"num_perm": _PERMUTATIONS, "seed": _SEED, "hashfunc": _digest}
    sketches = MinHash.generator(shingles, **options)
    for row, sketch in enumerate(sketches):
        signatures[row] = sketch.hashvalues
    return signatures


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


def check_threshold(threshold: float | None, who: str) -> None:
    """Raise `ValueError` where it is out of range, `ImportError` where datasketch is missing."""
    if threshold is None:
        return
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie above 0 and be at most 1, or None, got {threshold}.")
    try:
        import datasketch  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ImportError(
            f'{who} finds near texts with datasketch: pip install "rir-hf[audit]". '
            "threshold=None finds the same texts without it."
        ) from error


def _digest(shingle: str) -> int:
    """A number below 2**32, the same in every process, for MinHash."""
    return xxhash.xxh32_intdigest(shingle.encode())


def _hashed(shingles: set[str]) -> np.ndarray:
    """A number of 64 bits for each, the same in this process, which is compared faster."""
    return np.fromiter(map(hash, shingles), np.int64, len(shingles))


def _buckets(band: np.ndarray) -> Iterator[np.ndarray]:
    """Positions, in order, of the rows that are equal to another, and with which."""
    keys = np.fromiter(map(xxhash.xxh64_intdigest, np.ascontiguousarray(band)), np.uint64)
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return (bucket for bucket in np.split(order, cuts) if len(bucket) > 1)


def _first_near(sketches: Sketches) -> np.ndarray:
    """For each text the first one that it is near to, directly or by way of others."""
    parents = np.arange(len(sketches.signatures))
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
