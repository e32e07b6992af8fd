"""Queries and vectors in, the best passages below each query's ceiling out, in exact order.

The order is that of the similarities computed in double precision and rounded to float32; equal
ones stand by position. A float32 matrix product, whose last bits change with its shape, only
proposes passages: always enough that none of the best is missed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rir_hf.index.devices import TorchProduct, gpu_count

_QUERIES = 1024
_PASSAGES = 4096
_FIRST = 512
_SPARE = 8
_DEEPER = 4
_TRIES = 3
_PAIRS = 2048


class Nearest(NamedTuple):
    """What was found for n queries.

    scores: `(n, k)` float32, descending, -inf where there are fewer than k.
    positions: `(n, k)` int64, the rows of these passages, -1 where there are fewer than k.
    above: `(n,)` int64, how many passages score above the ceiling.
    before: `(n,)` int64, how many passages rank before the mark.
    """

    scores: np.ndarray
    positions: np.ndarray
    above: np.ndarray
    before: np.ndarray


class Marks(NamedTuple):
    """One passage for each query, whose place in the ranking is asked for.

    scores: `(n,)` float32, its similarity, NaN for no mark.
    positions: `(n,)` int64, its row.
    """

    scores: np.ndarray
    positions: np.ndarray

    def come_after(self, pairs: Pairs) -> np.ndarray:
        """Which of the pairs' passages rank before their query's mark, `(pairs,)` bool."""
        scores, positions = self.scores[pairs.rows], self.positions[pairs.rows]
        is_tie = (pairs.scores == scores) & (pairs.positions < positions)
        return (pairs.scores > scores) | is_tie


class Pairs(NamedTuple):
    """Queries and passages with a score, one entry for each pair, by query.

    rows: `(pairs,)` int64, the query, from 0 to n - 1.
    positions: `(pairs,)` int64, the passage.
    scores: `(pairs,)` float32.
    """

    rows: np.ndarray
    positions: np.ndarray
    scores: np.ndarray

    def take(self, which: np.ndarray) -> Pairs:
        """Some of them."""
        return Pairs(*(values[which] for values in self))

    def split(self, n: int) -> list[np.ndarray]:
        """The scores of each of n queries."""
        ends = np.cumsum(np.bincount(self.rows, minlength=n))
        return np.split(self.scores, ends[:-1])


class Vectors(ABC):
    """Vectors that are read by block and by position."""

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
        for block in self.blocks(2 * _PASSAGES):
            squares = np.einsum("nd,nd->n", block, block, dtype=np.float64)
            if not np.isfinite(squares).all():
                raise ValueError(
                    "The index holds vectors with NaN or infinite values; rebuild it with "
                    "attach_index."
                )
            longest = max(longest, float(squares.max(initial=0)))
        return float(np.sqrt(longest))


class ArrayVectors(Vectors):
    """Vectors in memory, or in a file that is mapped to memory.

    Args:
        vectors: `(m, d)` float32, row after row.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

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


def nearest_below(
    queries: np.ndarray,
    vectors: np.ndarray | Vectors,
    k: int,
    ceilings: np.ndarray | None = None,
    marks: Marks | None = None,
    eligible: np.ndarray | None = None,
    device: str | None = None,
) -> Nearest:
    """Find the k best passages of each query whose similarity is not above the query's ceiling.

    Args:
        queries: `(n, d)` float32, finite.
        vectors: the passages' vectors, `(m, d)` float32, finite.
        k: passages per query.
        ceilings: `(n,)` float64; None for none.
        marks: a passage for each query; how many rank before it is counted. None for none.
        eligible: `(m,)` bool, which passages may be found; the others are counted all the same.
            None for all.
        device: a torch device on which to multiply. Default: the first GPU that FAISS sees, else
            the CPU. The result does not depend on it.

    Example:
        >>> passages = np.array([[1, 0], [0.6, 0.8], [0, 1], [0.6, 0.8]], "float32")
        >>> found = nearest_below(np.array([[1, 0]], "float32"), passages, 2, np.array([0.9]))
        >>> found.positions, found.scores, found.above
        (array([[1, 3]]), array([[0.6, 0.6]], dtype=float32), array([1]))
    """
    passages = ArrayVectors(vectors) if isinstance(vectors, np.ndarray) else vectors
    asked = Asked.of(queries, ceilings, marks)
    result = nothing(len(queries), k)
    todo = np.arange(len(queries))
    for attempt in range(_TRIES):
        depth = (k + _SPARE) * _DEEPER**attempt
        todo = todo[~_fill(result, todo, asked, passages, depth, eligible, device)]
    for row in todo:  # more near-ties than any depth
        _fill(result, np.array([row]), asked, passages, len(passages), eligible, device)
    return result


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


class Asked(NamedTuple):
    """The queries and what is asked about each, as `nearest_below` takes it, with no None.

    A query without a ceiling has one of +inf; without a mark one whose score is +inf, so that
    nothing ranks before it.
    """

    queries: np.ndarray
    ceilings: np.ndarray
    mark_scores: np.ndarray
    mark_positions: np.ndarray

    @classmethod
    def of(cls, queries: np.ndarray, ceilings: np.ndarray | None, marks: Marks | None) -> Asked:
        """What the arguments of `nearest_below` ask."""
        n = len(queries)
        if ceilings is None:
            ceilings = np.full(n, np.inf)
        if marks is None:
            marks = Marks(np.full(n, np.nan, np.float32), np.full(n, -1))
        scores = np.where(np.isnan(marks.scores), np.inf, marks.scores)
        return cls(queries, ceilings.astype(np.float64), scores.astype(np.float64), marks.positions)

    def take(self, rows: np.ndarray) -> Asked:
        """Those of some queries."""
        return Asked(*(values[rows] for values in self))

    def limits(self) -> tuple[Marks, Marks]:
        """What is counted for each query: the passages above the ceiling (which no passage ties
        with), and those before the mark.
        """
        no_tie = np.full(len(self.queries), -1)
        return Marks(self.ceilings, no_tie), Marks(self.mark_scores, self.mark_positions)

    def rounding(self, longest: float) -> np.ndarray:
        """How far a float32 product can be from the exact score, `(n,)` float64.

        A product of d terms, in whatever order it is summed, is off by less than d rounding errors;
        the other 16 cover the rounding of thresholds and of the exact score.
        """
        lengths = np.linalg.norm(self.queries.astype(np.float64), axis=1)
        return (self.queries.shape[1] + 16) * 2.0**-24 * lengths * longest


class Proposed(NamedTuple):
    """Passages that are worth an exact score.

    positions: `(n, depth)` int64, -1 where there are fewer.
    above, before: `(n,)` int64, as in `Nearest`.
    floor: `(n,)` float64; no eligible passage that is missing here scores both below the ceiling
        and above this. -inf where none is missing.
    """

    positions: np.ndarray
    above: np.ndarray
    before: np.ndarray
    floor: np.ndarray


def nothing(n: int, k: int) -> Nearest:
    """The result for n queries before anything is found."""
    return Nearest(
        np.full((n, k), -np.inf, np.float32),
        np.full((n, k), -1),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )


def keep_best(
    result: Nearest, rows: np.ndarray, asked: Asked, vectors: Vectors, proposed: Proposed
) -> np.ndarray:
    """Score what is proposed exactly and write the best into these rows of the result.

    Returns:
        For each of the rows whether it is certain: nothing that was left out can be among its best.
    """
    k = result.scores.shape[1]
    scores, positions = _in_order(asked, vectors, proposed.positions)
    width = min(k, scores.shape[1])
    result.scores[rows, :width] = scores[:, :width]
    result.positions[rows, :width] = positions[:, :width]
    result.above[rows] = proposed.above
    result.before[rows] = proposed.before
    if k == 0:
        return proposed.floor < np.inf
    last = result.scores[rows, k - 1]
    return (proposed.floor == -np.inf) | (last > proposed.floor)


def _fill(
    result: Nearest,
    rows: np.ndarray,
    asked: Asked,
    vectors: Vectors,
    depth: int,
    eligible: np.ndarray | None,
    device: str | None,
) -> np.ndarray:
    """One pass over all vectors for some of the queries; whether each is certain."""
    certain = np.zeros(len(rows), bool)
    for start in range(0, len(rows), _QUERIES):
        part = slice(start, start + _QUERIES)
        some = asked.take(rows[part])
        proposed = _propose(some, vectors, depth, eligible, device)
        certain[part] = keep_best(result, rows[part], some, vectors, proposed)
    return certain


def _in_order(
    asked: Asked, vectors: Vectors, proposed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exact scores and positions `(n, depth)` of what lies at or below the ceilings, best first."""
    rows, columns = np.nonzero(proposed >= 0)
    scores = np.full(proposed.shape, -np.inf, np.float32)
    scores[rows, columns] = similarities(asked.queries, vectors, rows, proposed[rows, columns])
    fits = (scores <= asked.ceilings[:, None]) & (proposed >= 0)
    scores = np.where(fits, scores, -np.inf).astype(np.float32)
    positions = np.where(fits, proposed, -1)
    order = np.lexsort((positions, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)


def _propose(
    asked: Asked, vectors: Vectors, depth: int, eligible: np.ndarray | None, device: str | None
) -> Proposed:
    """The `depth` passages with the best float32 products under each ceiling, and both counts.

    The vectors go by in blocks. Only products above a query's threshold leave a block: the lowest
    that is kept so far, or the mark or the ceiling where these are lower.
    """
    n = len(asked.queries)
    slack = asked.rounding(vectors.longest)
    high = (asked.ceilings + slack).astype(np.float32)
    counted = (np.minimum(asked.ceilings, asked.mark_scores) - slack).astype(np.float32)
    counted = np.nextafter(counted, np.float32(-np.inf))  # what equals it leaves the block too
    ceilings, marks = asked.limits()
    above, before = np.zeros(n, np.int64), np.zeros(n, np.int64)
    best = _Best(n, depth)
    waiting: list[Pairs] = []
    product = _product_for(asked.queries, device)
    start, first = 0, 0
    for block in vectors.blocks(_PASSAGES):
        product.multiply(block)
        if start == 0:
            first = min(len(block), max(_FIRST, 2 * depth))
            best.start(product.first(first), high, eligible)
        hits = Pairs(*product.above(np.minimum(best.lowest, counted)))
        hits = hits._replace(positions=hits.positions + start)
        above += _count(asked, vectors, hits, ceilings, slack)
        before += _count(asked, vectors, hits, marks, slack)
        waiting.append(hits.take(_fits(hits, best.lowest, high, eligible, first)))
        if sum(len(part.rows) for part in waiting) > best.scores.size:
            best.merge(waiting)
            waiting = []
        start += len(block)
    if waiting:
        best.merge(waiting)
    is_full = (best.positions >= 0).all(axis=1) & (depth < start)
    floor = np.where(is_full, best.lowest + slack, -np.inf)
    return Proposed(best.positions, above, before, floor)


def _count(
    asked: Asked, vectors: Vectors, hits: Pairs, marks: Marks, slack: np.ndarray
) -> np.ndarray:
    """How many of the hits rank before each query's mark; near it exact scores decide."""
    distance = hits.scores - marks.scores[hits.rows]
    near = hits.take(np.abs(distance) <= slack[hits.rows])
    exact = similarities(asked.queries, vectors, near.rows, near.positions)
    better = marks.come_after(near._replace(scores=exact))
    certain = hits.rows[distance > slack[hits.rows]]
    n = len(slack)
    return np.bincount(certain, minlength=n) + np.bincount(near.rows[better], minlength=n)


def _fits(
    hits: Pairs, lowest: np.ndarray, high: np.ndarray, eligible: np.ndarray | None, first: int
) -> np.ndarray:
    """Which hits may be among the best; the first passages have been looked at already."""
    fits = (hits.scores <= high[hits.rows]) & (hits.scores > lowest[hits.rows])
    fits &= hits.positions >= first
    return fits if eligible is None else fits & eligible[hits.positions]


class _Best:
    """The `depth` best products of each of n queries so far, in no order, -inf and -1 where there
    are fewer; and the lowest of them, `(n,)`.
    """

    def __init__(self, n: int, depth: int) -> None:
        self.scores = np.full((n, depth), -np.inf, np.float32)
        self.positions = np.full((n, depth), -1)
        self.lowest = np.full(n, -np.inf, np.float32)

    def start(self, scores: np.ndarray, high: np.ndarray, eligible: np.ndarray | None) -> None:
        """Take the first passages, `(n, passages)`, whole: nothing is known yet that could keep any
        of them out.
        """
        allowed = scores <= high[:, None]
        if eligible is not None:
            allowed &= eligible[: scores.shape[1]]
        scores = np.where(allowed, scores, np.float32(-np.inf))
        positions = np.where(allowed, np.arange(scores.shape[1]), -1)
        self._replace(np.arange(len(scores)), scores, positions)

    def merge(self, waiting: list[Pairs]) -> None:
        """Keep the best of these and of what there is."""
        hits = Pairs(*(np.concatenate(parts) for parts in zip(*waiting, strict=True)))
        if not len(hits.rows):
            return
        order = np.argsort(hits.rows, kind="stable")
        rows, which, counts = np.unique(hits.rows[order], return_inverse=True, return_counts=True)
        column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        scores = np.full((len(rows), counts.max()), -np.inf, np.float32)
        positions = np.full(scores.shape, -1)
        scores[which, column] = hits.scores[order]
        positions[which, column] = hits.positions[order]
        self._replace(
            rows,
            np.concatenate([self.scores[rows], scores], axis=1),
            np.concatenate([self.positions[rows], positions], axis=1),
        )

    def _replace(self, rows: np.ndarray, scores: np.ndarray, positions: np.ndarray) -> None:
        """In these rows the best of the given products in place of what was kept."""
        depth = self.scores.shape[1]
        if scores.shape[1] > depth:
            chosen = np.argpartition(scores, -depth, axis=1)[:, -depth:]
            scores = np.take_along_axis(scores, chosen, 1)
            positions = np.take_along_axis(positions, chosen, 1)
        width = scores.shape[1]
        self.scores[rows, :width] = scores
        self.positions[rows, :width] = positions
        self.lowest = self.scores.min(axis=1)


class _Product:
    """Scores of some queries against one block of passages after another, on the CPU, in one
    buffer; `TorchProduct` is the same on a GPU.
    """

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = np.ascontiguousarray(queries)
        self._buffer = np.empty(len(queries) * _PASSAGES, np.float32)
        self._passes = np.empty(len(queries) * _PASSAGES, bool)
        self._aligned = np.empty((_PASSAGES, queries.shape[1]), np.float32)
        self._scores = self._buffer.reshape(len(queries), _PASSAGES)

    def multiply(self, block: np.ndarray) -> None:
        """Compute the scores of a block."""
        if not block.flags.aligned:  # as in a memory-mapped index: BLAS would be slower
            np.copyto(self._aligned[: len(block)], block)
            block = self._aligned[: len(block)]
        n = len(self._queries)
        self._scores = self._buffer[: n * len(block)].reshape(n, len(block))
        np.matmul(self._queries, block.T, out=self._scores)

    def first(self, passages: int) -> np.ndarray:
        """Scores of the first passages of the block, `(queries, passages)`."""
        return self._scores[:, :passages]

    def above(self, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, column and score of each score above its row's threshold, by row."""
        passes = self._passes[: self._scores.size].reshape(self._scores.shape)
        flat = np.flatnonzero(np.greater(self._scores, low[:, None], out=passes))
        rows, columns = np.divmod(flat, self._scores.shape[1])
        return rows, columns, self._scores.ravel()[flat]


def _product_for(queries: np.ndarray, device: str | None) -> _Product | TorchProduct:
    if device is None and gpu_count():
        device = "cuda:0"
    on_cpu = device is None or device == "cpu"
    return _Product(queries) if on_cpu else TorchProduct(queries, device or "cpu")
