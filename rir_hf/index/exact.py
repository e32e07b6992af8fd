"""Queries and vectors in, the best passages below each query's ceiling out, in exact order.

The order is that of the similarities computed in double precision and rounded to float32; equal
ones stand by position. A fast product only proposes passages. It says how far each of its scores
can be from the exact one, so a passage is left out only where k others are certainly better.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rir_hf.index.passages import ArrayVectors, Vectors, similarities
from rir_hf.index.products import Product, way_to_multiply
from rir_hf.index.threads import in_threads, workers_for

_QUERIES = 1024  # a GPU reads all vectors for each so many
_LEAST = 256
_KEPT = 65_536  # pairs that stay in the cache of a core
_FIRST = 1024
_MOST = 4_000_000
_NONE = np.float32(-np.inf)


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
        device: a torch device on which to multiply. Default: for 20,000 passages or more the first
            GPU, else the CPU. The result does not depend on it.

    Example:
        >>> passages = np.array([[1, 0], [0.6, 0.8], [0, 1], [0.6, 0.8]], "float32")
        >>> found = nearest_below(np.array([[1, 0]], "float32"), passages, 2, np.array([0.9]))
        >>> found.positions, found.scores, found.above
        (array([[1, 3]]), array([[0.6, 0.6]], dtype=float32), array([1]))
    """
    passages = ArrayVectors(vectors) if isinstance(vectors, np.ndarray) else vectors
    asked = Asked.of(queries, ceilings, marks)
    multiply = way_to_multiply(passages, device, len(queries))

    def search(some: Asked) -> Nearest:
        product = multiply(some.queries)
        search = _Search(some, passages, k, eligible)
        for at, size in product:
            search.look_at(product, at, size)
        return search.result()

    result = nothing(len(queries), k)
    workers, at_once = 1, _QUERIES
    if multiply.in_threads:
        workers = workers_for(len(queries) // _LEAST)
        at_once = max(_LEAST, min(_QUERIES, _KEPT // max(k, 1)))
    parts = np.array_split(np.arange(len(queries)), max(workers, -(-len(queries) // at_once)))
    with in_threads(workers) as each:
        for part, found in zip(parts, each(search, map(asked.take, parts)), strict=True):
            for values, some in zip(result, found, strict=True):
                values[part] = some
    return result


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


def nothing(n: int, k: int) -> Nearest:
    """The result for n queries before anything is found."""
    return Nearest(
        np.full((n, k), -np.inf, np.float32),
        np.full((n, k), -1),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )


class _Rough(NamedTuple):
    """Pairs of a query and a passage, one entry each, whose score is known to lie within limits.

    rows, positions: as in `Pairs`.
    scores: `(pairs,)` float64.
    slack: `(pairs,)` float64, how far the score can be from the exact one; 0 where it is exact.
    """

    rows: np.ndarray
    positions: np.ndarray
    scores: np.ndarray
    slack: np.ndarray

    def take(self, which: np.ndarray) -> _Rough:
        """Some of them, by number or by a mask."""
        if which.dtype == bool:
            which = np.flatnonzero(which)
        return _Rough(*(values.take(which) for values in self))

    def made_exact(self, which: np.ndarray, queries: np.ndarray, vectors: Vectors) -> _Rough:
        """The same, with exact scores for some."""
        scores, slack = self.scores.copy(), self.slack.copy()
        rows, positions = self.rows[which], self.positions[which]
        scores[which] = similarities(queries, vectors, rows, positions)
        slack[which] = 0
        return self._replace(scores=scores, slack=slack)


class _Search:
    """What is found for some queries while the passages go by in blocks.

    Kept are the pairs that may still be among the k best. They are looked through each time that
    their number has doubled.
    """

    def __init__(self, asked: Asked, vectors: Vectors, k: int, eligible: np.ndarray | None) -> None:
        n = len(asked.queries)
        self.asked = asked
        self.vectors = vectors
        self.k = k
        self.eligible = eligible
        self.above, self.before = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._counted = np.minimum(asked.ceilings, asked.mark_scores)
        # No passage that is certainly worse can be among the k best of its query.
        self._lowest = np.full(n, -np.inf if k else np.inf)
        self._kept: list[_Rough] = []
        self._limit = 2 * n * max(k, 1)

    def look_at(self, product: Product, start: int, size: int) -> None:
        """Count and keep what matters of the block that the product computed last."""
        if start == 0:
            self._begin(*product.first(min(size, max(_FIRST, 16 * self.k))))
        rows, columns, scores, slack = product.above(np.minimum(self._lowest, self._counted))
        hits = _Rough(rows, columns + start, scores, slack)
        hits = self._count(hits)
        is_candidate = hits.scores + hits.slack >= self._lowest[hits.rows]
        is_candidate &= hits.scores - hits.slack <= self.asked.ceilings[hits.rows]
        if self.eligible is not None:
            is_candidate &= self.eligible[hits.positions]
        self._kept.append(hits.take(is_candidate))
        if sum(len(part.rows) for part in self._kept) > self._limit:
            self._look_through()

    def result(self) -> Nearest:
        """The best of what was kept, by their exact scores."""
        self._look_through()
        self._settle()
        n = len(self._lowest)
        result = nothing(n, self.k)._replace(above=self.above, before=self.before)
        best = self._kept[0]
        column = _place_in_row(best.rows, n)
        result.scores[best.rows, column] = best.scores
        result.positions[best.rows, column] = best.positions
        return result

    def _begin(self, scores: np.ndarray, slack: np.ndarray) -> None:
        """Take the k-th best of the first passages as a first limit."""
        if not 0 < self.k <= scores.shape[1]:
            return
        limits = np.nextafter((self.asked.ceilings - slack).astype(np.float32), _NONE)
        fits = scores <= limits[:, None]
        if self.eligible is not None:
            fits &= self.eligible[: scores.shape[1]]
        best = np.partition(np.where(fits, scores, _NONE), -self.k, axis=1)[:, -self.k]
        self._lowest = best - slack

    def _count(self, hits: _Rough) -> _Rough:
        """Count the hits before each limit; near one exact scores decide, which stay in place."""
        ceilings, marks = self.asked.limits()
        near = np.zeros(len(hits.rows), bool)
        for limit in (ceilings, marks):
            near |= np.abs(hits.scores - limit.scores[hits.rows]) <= hits.slack
        hits = hits.made_exact(np.flatnonzero(near), self.asked.queries, self.vectors)
        pairs = Pairs(hits.rows, hits.positions, hits.scores)
        n = len(self._lowest)
        self.above += np.bincount(hits.rows[ceilings.come_after(pairs)], minlength=n)
        self.before += np.bincount(hits.rows[marks.come_after(pairs)], minlength=n)
        return hits

    def _look_through(self) -> None:
        """Raise the limits to what is known by now, and keep only what is not below them."""
        kept = _Rough(*(np.concatenate(parts) for parts in zip(*self._kept, strict=True)))
        order = np.argsort(kept.rows.astype(np.int16), kind="stable")
        kept = kept.take(order)
        certain = kept.take(kept.scores + kept.slack <= self.asked.ceilings[kept.rows])
        worst = _kth_best(certain.rows, certain.scores - certain.slack, len(self._lowest), self.k)
        self._lowest = np.maximum(self._lowest, worst)
        kept = kept.take(kept.scores + kept.slack >= self._lowest[kept.rows])
        self._kept = [kept]
        if len(kept.rows) > _MOST:
            self._settle()
        self._limit = 2 * max(len(self._kept[0].rows), self._limit // 2)

    def _settle(self) -> None:
        """Keep the k best of what is kept, by exact scores, in order."""
        kept = self._kept[0]
        rough = np.flatnonzero(kept.slack > 0)
        kept = kept.made_exact(rough, self.asked.queries, self.vectors)
        kept = kept.take(kept.scores <= self.asked.ceilings[kept.rows])
        kept = kept.take(_best_first(kept))
        self._kept = [kept.take(_place_in_row(kept.rows, len(self._lowest)) < self.k)]


def _best_first(pairs: _Rough) -> np.ndarray:
    """The order of pairs by row, then by score, the highest first, then by position."""
    scores = pairs.scores.astype(np.float32) + np.float32(0)  # no zero below zero
    # Floats are in the order of their bits, those below zero in the opposite one: row and score
    # make one whole number, which is sorted several times as fast as both.
    bits = scores.view(np.int32).astype(np.int64)
    key = (pairs.rows << 33) + np.where(bits < 0, bits & 0x7FFFFFFF, ~bits)
    by_position = np.argsort(pairs.positions)
    return by_position[np.argsort(key[by_position], kind="stable")]


def _place_in_row(rows: np.ndarray, n: int) -> np.ndarray:
    """For pairs that are sorted by row: the how-manieth of its row each is, from 0."""
    counts = np.bincount(rows, minlength=n)
    return np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def _kth_best(rows: np.ndarray, scores: np.ndarray, n: int, k: int) -> np.ndarray:
    """The k-th highest score of each row, `(n,)`, for pairs that are sorted by row; -inf where a
    row has fewer than k.
    """
    worst = np.full(n, np.inf if k == 0 else -np.inf)
    counts = np.bincount(rows, minlength=n)
    if k == 0 or counts.max(initial=0) < k:
        return worst
    is_full = counts >= k
    number = np.cumsum(is_full) - 1
    some = np.flatnonzero(is_full[rows])
    table = np.full((is_full.sum(), counts.max()), -np.inf)
    table[number[rows[some]], _place_in_row(rows, n)[some]] = scores[some]
    worst[is_full] = np.partition(table, -k, axis=1)[:, -k]
    return worst
