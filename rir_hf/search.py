"""Query vectors in, ranked passages out, over any FAISS index that is attached to a corpus.

The order is always that of the similarities computed in double precision from the stored vectors, rounded to float32; equal
ones rank by corpus position. A float32 matrix product only proposes candidates: its last bits change with its shape.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from datasets import Dataset

from rir_hf.index import CorpusIndex, is_on_gpu
from rir_hf.transform import SCORES, TEXTS, BatchTransform, Column, check_at_least, read_vectors

logger = logging.getLogger(__name__)

_QUERIES = 1024
_PASSAGES = 4096
_FIRST = 512
_SPARE = 8
_DEEPER = 4
_TRIES = 3
_PAIRS = 2048
_GPU_LIMIT = 2048


def search(queries_emb: np.ndarray, doc_emb: np.ndarray, topk: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Find the best passages of each query by inner product, exactly.

    Args:
        queries_emb: `(n, d)` query vectors.
        doc_emb: `(m, d)` passage vectors.
        topk: passages per query; never more than `m` come back, and never a padding id.

    Returns:
        scores `(n, min(topk, m))` float32 in descending order, and the rows of `doc_emb` they belong to, int64; ties by row.

    Raises:
        ValueError: arrays that are not two-dimensional or of different `d`, NaN or infinite values, `topk` below 1.

    Example:
        >>> docs = np.array([[1, 0], [0, 1], [0.6, 0.8]], "float32")
        >>> scores, indices = search(np.array([[0, 1]], "float32"), docs, topk=2)
        >>> indices.tolist(), scores.round(2).tolist()
        ([[1, 2]], [[1.0, 0.800000011920929]])
    """
    queries, passages = np.asarray(queries_emb, np.float32), np.ascontiguousarray(doc_emb, np.float32)
    if queries.ndim != 2 or passages.ndim != 2 or queries.shape[1] != passages.shape[1]:
        raise ValueError(
            f"queries_emb and doc_emb must be (n, d) and (m, d) arrays with one d, got {queries.shape} and {passages.shape}."
        )
    check_at_least("topk", topk, 1)
    if not np.isfinite(queries).all() or not np.isfinite(passages).all():
        raise ValueError("queries_emb and doc_emb must be finite, found NaN or infinity.")
    k = min(topk, len(passages))
    ranked = rank(_Array(passages), queries, k)
    scores = np.array([scores for scores, _ in ranked], np.float32).reshape(len(queries), k)
    return scores, np.array([positions for _, positions in ranked], np.int64).reshape(len(queries), k)


class Search(BatchTransform):
    """Map function that adds the best passages of each query: `hit_ids` and `hit_scores`, best first.

    A row whose vector is missing, zero or not finite gets empty lists.

    Args:
        corpus: dataset with an index attached (`attach_index`).
        index: name of the index.
        query: column of query vectors.
        k: passages per query; fewer only when the corpus is smaller.
        id: the corpus's id column.

    Example:
        >>> run = queries.map(Search(corpus, k=100), batched=True, batch_size=512)     # doctest: +SKIP
        >>> run[0]["hit_ids"][:2], run[0]["hit_scores"][:2]                            # doctest: +SKIP
        (['doc-17', 'doc-4'], [0.8214, 0.7743])
    """

    def __init__(
        self, corpus: Dataset, *, index: str = "embedding", query: str = "embedding", k: int = 100, id: str = "id"
    ) -> None:
        check_at_least("k", k, 1)
        self.corpus = CorpusIndex.shared(corpus, index, id, text=None)
        self.query = query
        self.k = k

    @property
    def first_column(self) -> str:
        """The column of query vectors."""
        return self.query

    def transform(self, batch: Mapping[str, Any], worker: int | None) -> dict[str, Any]:
        """Return `{"hit_ids": lists of str, "hit_scores": lists of float}`."""
        queries = read_vectors(batch, self.query, "Search", self.corpus.dimension)
        usable = np.flatnonzero(np.isfinite(queries).all(axis=1) & queries.any(axis=1))
        if len(usable) < len(queries):
            logger.warning("Search: %d rows have no usable vector in %r: no hits.", len(queries) - len(usable), self.query)
        positions = [np.empty(0, np.int64)] * len(queries)
        scores = [np.empty(0, np.float32)] * len(queries)
        for row, found in zip(usable, rank(self.corpus, queries[usable], self.k, worker), strict=True):
            scores[row], positions[row] = found
        return {
            "hit_ids": Column(read_nested(self.corpus, [self.corpus.id], positions)[0], TEXTS),
            "hit_scores": Column([row.tolist() for row in scores], SCORES),
        }


def read_nested(corpus: CorpusIndex, columns: list[str], positions: list[np.ndarray]) -> list[list[list[str]]]:
    """For each column its values at the positions of each row, all read at once."""
    ends = np.cumsum([len(row) for row in positions]).tolist()
    read = corpus.values(columns, np.concatenate([*positions, np.empty(0, np.int64)]).astype(np.int64))
    return [[values[end - len(row) : end] for row, end in zip(positions, ends, strict=True)] for values in read]


class Vectors(Protocol):
    """What is searched: vectors by block and by position, and a FAISS index where they are not searched directly."""

    flat: np.ndarray | None
    longest: float
    index: Any

    def __len__(self) -> int: ...

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All vectors in order."""

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        """Vectors at these positions."""


class _Array:
    """Vectors in memory, as `search` takes them."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.flat = vectors
        self.longest = float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64).max(initial=0)))

    def __len__(self) -> int:
        return len(self.flat)

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        return (self.flat[start : start + rows] for start in range(0, len(self), rows))

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        return self.flat.take(positions, axis=0)


class Candidates(NamedTuple):
    """What one pass found for n queries.

    scores: per query, float32, descending, none above the query's ceiling.
    positions: the corpus positions of these scores.
    above: `(n,)` how many passages score above the ceiling.
    better: `(n,)` how many passages rank before the query's mark.
    floor: `(n,)` no passage that is missing here scores both below the ceiling and above this; -inf when none is missing.
    """

    scores: list[np.ndarray]
    positions: list[np.ndarray]
    above: np.ndarray
    better: np.ndarray
    floor: np.ndarray


class Bounds(NamedTuple):
    """What is asked about each of n queries besides its best passages.

    ceilings: `(n,)` float64, passages above it are counted and left out; +inf for none.
    mark_scores: `(n,)` float32, the score of the passage whose rank is wanted; NaN for none.
    mark_positions: `(n,)` int64, its corpus position.
    """

    ceilings: np.ndarray
    mark_scores: np.ndarray
    mark_positions: np.ndarray

    @classmethod
    def none(cls, n: int) -> Bounds:
        """Bounds that ask for nothing."""
        return cls(np.full(n, np.inf), np.full(n, np.nan, np.float32), np.full(n, -1))

    def take(self, rows: np.ndarray) -> Bounds:
        """The bounds of these queries."""
        return Bounds(*(values[rows] for values in self))


def rank(corpus: Vectors, queries: np.ndarray, k: int, worker: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each query the scores and positions of its `k` best passages, of all when there are fewer."""
    best: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0))] * len(queries)

    def keep(row: int, found: Candidates, at: int) -> bool:
        if not is_settled(found.scores[at], k, found.floor[at]):
            return False
        best[row] = found.scores[at][:k], found.positions[at][:k]
        return True

    settle(corpus, queries, Bounds.none(len(queries)), k, keep, worker)
    return best


def settle(
    corpus: Vectors,
    queries: np.ndarray,
    bounds: Bounds,
    k: int,
    choose: Callable[[int, Candidates, int], bool],
    worker: int | None = None,
) -> None:
    """Propose passages for every query, deeper and deeper for those that need it, until `choose` has what it wants.

    The index is asked first, where it is not flat, then all vectors are scanned with a limit, and in the end, for the rare query
    with more near-ties than any limit, without one.

    Args:
        corpus: what is searched.
        queries: `(n, d)` finite vectors.
        bounds: what is asked about each query.
        k: passages per query that will usually do.
        choose: called with the number of a query, the candidates of a pass and the place of the query in them; returns whether
            it is done with the query. With `floor` at -inf it must be.
        worker: rank of this process, which picks its GPU.
    """
    todo = np.arange(len(queries))
    for by_index in (False,) if corpus.flat is not None else (True, False):
        for attempt in range(_TRIES):
            if not len(todo):
                return
            depth = (k + _SPARE) * _DEEPER**attempt
            found = _candidates(corpus, queries[todo], bounds.take(todo), depth, by_index, worker)
            todo = np.array([row for at, row in enumerate(todo) if not choose(int(row), found, at)], np.int64)
    for row in todo:
        one = np.array([row])
        choose(int(row), _candidates(corpus, queries[one], bounds.take(one), len(corpus), False, worker), 0)


def is_settled(scores: np.ndarray, k: int, floor: float) -> bool:
    """Whether the first `k` scores are certain to be the best: no passage that was left out reaches the last of them."""
    return floor == -np.inf or (len(scores) >= k and scores[k - 1] > floor)


def similarities(corpus: Vectors, queries: np.ndarray, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Inner products of query `rows[i]` with passage `positions[i]`, summed in float64, as float32.

    Each is computed for itself, so it is the same whatever it is asked together with.
    """
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        passages = corpus.vectors(positions[part]).astype(np.float64)
        scores[part] = np.einsum("nd,nd->n", passages, queries[rows[part]].astype(np.float64))
    return scores


def _candidates(corpus: Vectors, queries: np.ndarray, bounds: Bounds, depth: int, by_index: bool, worker: int | None) -> Candidates:
    """One pass: propose about `depth` passages for each query, score them exactly, sort them."""
    # A float32 product of d terms, in whatever order it is summed, is off by less than d rounding errors; the other 16 cover
    # the rounding of thresholds and of the exact score.
    slack = (queries.shape[1] + 16) * 2.0**-24 * np.linalg.norm(queries.astype(np.float64), axis=1) * corpus.longest
    if by_index:
        proposed = _ask_index(corpus, queries, bounds, depth, slack)
    else:
        parts = [slice(start, start + _QUERIES) for start in range(0, len(queries), _QUERIES)]
        scans = [_scan(corpus, queries[part], Bounds(*(b[part] for b in bounds)), depth, slack[part], worker) for part in parts]
        proposed = _Proposed(*(np.concatenate(arrays) for arrays in zip(*scans, strict=True)))
    return _score_exactly(corpus, queries, bounds, proposed, counted=not by_index)


class _Proposed(NamedTuple):
    """Positions worth an exact score, `(n, m)` with -1 where there are fewer; the rest as in `Candidates`."""

    positions: np.ndarray
    above: np.ndarray
    better: np.ndarray
    floor: np.ndarray


def _score_exactly(corpus: Vectors, queries: np.ndarray, bounds: Bounds, proposed: _Proposed, counted: bool) -> Candidates:
    """Exact scores in exact order; those above the ceiling move to `above`, and to `better` unless it is `counted` already."""
    rows, columns = np.nonzero(proposed.positions >= 0)
    positions = proposed.positions[rows, columns]
    scores = similarities(corpus, queries, rows, positions)
    order = np.lexsort((positions, -scores, rows))
    rows, positions, scores = rows[order], positions[order], scores[order]
    n = len(queries)
    over = scores > bounds.ceilings[rows]
    better = proposed.better
    if not counted:
        better = better + np.bincount(rows[_ranks_before(scores, positions, bounds, rows)], minlength=n)
    ends = np.cumsum(np.bincount(rows[~over], minlength=n))[:-1]
    return Candidates(
        scores=np.split(scores[~over], ends),
        positions=np.split(positions[~over], ends),
        above=proposed.above + np.bincount(rows[over], minlength=n),
        better=better,
        floor=proposed.floor,
    )


def _ranks_before(scores: np.ndarray, positions: np.ndarray, bounds: Bounds, rows: np.ndarray) -> np.ndarray:
    mark, place = bounds.mark_scores[rows], bounds.mark_positions[rows]
    return (scores > mark) | ((scores == mark) & (positions < place))


def _ask_index(corpus: Vectors, queries: np.ndarray, bounds: Bounds, depth: int, slack: np.ndarray) -> _Proposed:
    """Proposals of a FAISS index that is not flat, ceiling or not: it cannot be told to leave anything out."""
    import faiss

    index = corpus.index
    n, k = len(queries), min(depth, len(corpus))
    if is_on_gpu(index):
        k = min(k, _GPU_LIMIT)
    scores, positions = index.search(np.ascontiguousarray(queries), k)
    exact = isinstance(index, (faiss.IndexIVFFlat, faiss.IndexHNSWFlat))
    last = scores[:, -1].astype(np.float64)
    # A compressing index orders by rough scores, about which nothing is certain: a full row will do.
    floor = last + slack if exact else np.full(n, np.finfo(np.float64).min)
    if k == len(corpus):
        floor = np.where((positions >= 0).all(axis=1), -np.inf, floor)
    unreached = (positions[:, -1] < 0) | (bounds.mark_scores <= last + slack)
    floor = np.where(unreached & (floor > -np.inf), np.inf, floor)
    return _Proposed(positions, np.zeros(n, np.int64), np.zeros(n, np.int64), floor)


def _scan(corpus: Vectors, queries: np.ndarray, bounds: Bounds, depth: int, slack: np.ndarray, worker: int | None) -> _Proposed:
    """Proposals from the product with all vectors, block by block: the `depth` best under each ceiling, and both counts.

    Only scores that pass a query's threshold leave the block: the lowest score kept so far, or the mark if that is lower.
    """
    best = _Best(len(queries), depth)
    high = (bounds.ceilings + slack).astype(np.float32)
    mark = np.where(np.isnan(bounds.mark_scores), np.inf, bounds.mark_scores).astype(np.float64)
    above = np.zeros(len(queries), np.int64)
    better = np.zeros(len(queries), np.int64)
    product = _product(queries, worker)
    start = 0
    for block in corpus.blocks(_PASSAGES):
        product.multiply(block)
        if start == 0:
            best.start(product.scores(_FIRST), high)
        rows, columns, scores = product.hits(np.minimum(best.lowest, (mark - slack).astype(np.float32)))
        positions = columns + start
        above += np.bincount(rows[scores > high[rows]], minlength=len(above))
        distance = scores - mark[rows]
        better += np.bincount(rows[distance > slack[rows]], minlength=len(above))
        close = np.abs(distance) <= slack[rows]
        better += _count_exactly(corpus, queries, bounds, rows[close], positions[close])
        fits = (scores <= high[rows]) & (scores > best.lowest[rows]) & (positions >= _FIRST)
        best.add(rows[fits], positions[fits], scores[fits])
        start += len(block)
    best.merge()
    full = (best.positions >= 0).all(axis=1) & (depth < start)
    return _Proposed(best.positions, above, better, np.where(full, best.lowest + slack, -np.inf))


def _count_exactly(corpus: Vectors, queries: np.ndarray, bounds: Bounds, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    scores = similarities(corpus, queries, rows, positions)
    return np.bincount(rows[_ranks_before(scores, positions, bounds, rows)], minlength=len(queries))


class _Best:
    """The `depth` best scores of each of n queries, and their positions, while blocks of passages go by.

    What passes is gathered, and merged when it is as much as what is kept: the thresholds rise late, but merging costs little.
    """

    def __init__(self, n: int, depth: int) -> None:
        self.depth = depth
        self.scores = np.full((n, 0), -np.inf, np.float32)
        self.positions = np.full((n, 0), -1)
        self.lowest = np.full(n, -np.inf, np.float32)
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._count = 0

    def start(self, scores: np.ndarray, high: np.ndarray) -> None:
        """Take the first passages whole, `(n, passages)`."""
        allowed = np.where(scores <= high[:, None], scores, -np.inf)
        positions = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        self._keep(np.arange(len(scores)), allowed, positions)
        self.positions[self.scores == -np.inf] = -1

    def add(self, rows: np.ndarray, positions: np.ndarray, scores: np.ndarray) -> None:
        """Offer scores, ordered by row."""
        self._waiting.append((rows, positions, scores))
        self._count += len(rows)
        if self._count > self.scores.size:
            self.merge()

    def merge(self) -> None:
        """Let what was offered take its place."""
        if not self._count:
            return
        rows, positions, scores = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        order = np.argsort(rows, kind="stable")
        touched, inverse, counts = np.unique(rows[order], return_inverse=True, return_counts=True)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        new_scores = np.full((len(touched), counts.max()), -np.inf, np.float32)
        new_positions = np.full(new_scores.shape, -1)
        new_scores[inverse, place] = scores[order]
        new_positions[inverse, place] = positions[order]
        self._keep(
            touched,
            np.concatenate([self.scores[touched], new_scores], axis=1),
            np.concatenate([self.positions[touched], new_positions], axis=1),
        )

    def _keep(self, rows: np.ndarray, scores: np.ndarray, positions: np.ndarray) -> None:
        if scores.shape[1] > self.depth:
            chosen = np.argpartition(scores, -self.depth, axis=1)[:, -self.depth :]
            scores, positions = np.take_along_axis(scores, chosen, 1), np.take_along_axis(positions, chosen, 1)
        if scores.shape[1] > self.scores.shape[1]:
            wider = ((0, 0), (0, scores.shape[1] - self.scores.shape[1]))
            self.scores = np.pad(self.scores, wider, constant_values=-np.inf)
            self.positions = np.pad(self.positions, wider, constant_values=-1)
        self.scores[rows, : scores.shape[1]] = scores
        self.positions[rows, : scores.shape[1]] = positions
        if self.scores.shape[1] == self.depth:
            self.lowest = self.scores.min(axis=1)


class _Product:
    """Scores of some queries against one block of passages after another, on the CPU, in one buffer."""

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = np.ascontiguousarray(queries)
        self._buffer = np.empty(len(queries) * _PASSAGES, np.float32)
        self._passes = np.empty(len(queries) * _PASSAGES, bool)
        self._aligned = np.empty((_PASSAGES, queries.shape[1]), np.float32)

    def multiply(self, block: np.ndarray) -> None:
        """Compute the scores of a block."""
        if not block.flags.aligned:  # as in a memory-mapped index: BLAS would be slower
            np.copyto(self._aligned[: len(block)], block)
            block = self._aligned[: len(block)]
        self._scores = self._buffer[: len(self._queries) * len(block)].reshape(len(self._queries), len(block))
        np.matmul(self._queries, block.T, out=self._scores)

    def scores(self, passages: int) -> np.ndarray:
        """Scores of the first passages of the block, `(queries, passages)`."""
        return self._scores[:, :passages]

    def hits(self, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, column and score of each score above its row's threshold, by row."""
        passes = self._passes[: self._scores.size].reshape(self._scores.shape)
        places = np.flatnonzero(np.greater(self._scores, low[:, None], out=passes))
        rows, columns = np.divmod(places, self._scores.shape[1])
        return rows, columns, self._scores.ravel()[places]


class _GpuProduct(_Product):
    """The same on a GPU: only what passes the threshold is copied back."""

    def __init__(self, queries: np.ndarray, device: str) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._queries = torch.from_numpy(np.ascontiguousarray(queries)).to(device)

    def multiply(self, block: np.ndarray) -> None:
        torch = self._torch
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        self._scores = self._queries @ torch.from_numpy(np.ascontiguousarray(block)).to(self._device).T
        torch.set_float32_matmul_precision(precision)

    def scores(self, passages: int) -> np.ndarray:
        return self._scores[:, :passages].cpu().numpy()

    def hits(self, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        threshold = self._torch.from_numpy(low).to(self._device)
        rows, columns = (self._scores > threshold[:, None]).nonzero(as_tuple=True)
        return rows.cpu().numpy(), columns.cpu().numpy(), self._scores[rows, columns].cpu().numpy()


def _product(queries: np.ndarray, worker: int | None) -> _Product:
    """On a GPU where FAISS sees one, the worker's own."""
    import faiss

    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return _GpuProduct(queries, f"cuda:{(worker or 0) % gpus}") if gpus else _Product(queries)
