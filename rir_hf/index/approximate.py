"""The same question asked of any FAISS index: it proposes passages, exact scores rank them.

An index that is not flat cannot be asked for passages below a ceiling. It is asked for few
passages, for more only where a query has not yet enough, and what remains is searched exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rir_hf.index.devices import GPU_LIMIT, is_on_gpu
from rir_hf.index.exact import Asked, Marks, Nearest, Pairs, nearest_below, nothing
from rir_hf.index.passages import Vectors, similarities
from rir_hf.index.products import float32_error

if TYPE_CHECKING:
    import faiss

_SPARE = 8
_DEEPER = 4
_TRIES = 3


def nearest_by_index(
    index: faiss.Index,
    queries: np.ndarray,
    vectors: Vectors,
    k: int,
    ceilings: np.ndarray | None = None,
    marks: Marks | None = None,
    eligible: np.ndarray | None = None,
    device: str | None = None,
) -> Nearest:
    """Find for each query k good passages at or below its ceiling; as `nearest_below`, but only
    among those that the index returns.

    The counts are of what the index returned, lower bounds. A query for which it does not return
    enough is finished by an exact search.

    Args:
        index: the FAISS index, which may have been set to look more widely.
        queries, vectors, k, ceilings, marks, eligible, device: as in `nearest_below`.
    """
    asked = Asked.of(queries, ceilings, marks)
    result = nothing(len(queries), k)
    todo = np.arange(len(queries))
    for attempt in range(_TRIES):
        depth = min((k + _SPARE) * _DEEPER**attempt, len(vectors))
        if len(todo):
            some = asked.take(todo)
            proposed = _ask(index, some, vectors, depth, eligible)
            todo = todo[~_keep_best(result, todo, some, vectors, proposed)]
    if len(todo):
        some = asked.take(todo)
        rest_marks = Marks(some.mark_scores.astype(np.float32), some.mark_positions)
        rest = nearest_below(some.queries, vectors, k, some.ceilings, rest_marks, eligible, device)
        for values, found in zip(result, rest, strict=True):
            values[todo] = found
    return result


class _Proposed(NamedTuple):
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


def _keep_best(
    result: Nearest, rows: np.ndarray, asked: Asked, vectors: Vectors, proposed: _Proposed
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


def _ask(
    index: faiss.Index, asked: Asked, vectors: Vectors, depth: int, eligible: np.ndarray | None
) -> _Proposed:
    """What the index returns, with the counts among that, and what is certain of the rest."""
    depth = min(depth, GPU_LIMIT) if is_on_gpu(index) else depth
    scores, positions = index.search(np.ascontiguousarray(asked.queries), depth)
    above, before = _counts(asked, vectors, positions)
    floor = _floor(index, asked, vectors, scores, positions)
    if eligible is not None:
        positions = np.where(eligible[positions] & (positions >= 0), positions, -1)
    return _Proposed(positions, above, before, floor)


def _counts(asked: Asked, vectors: Vectors, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(positions >= 0)
    found = positions[rows, columns]
    pairs = Pairs(rows, found, similarities(asked.queries, vectors, rows, found))
    n = len(positions)
    above, before = (
        np.bincount(rows[marks.come_after(pairs)], minlength=n) for marks in asked.limits()
    )
    return above, before


def _floor(
    index: faiss.Index,
    asked: Asked,
    vectors: Vectors,
    scores: np.ndarray,
    positions: np.ndarray,
) -> np.ndarray:
    """Below which score something may be missing, see `_Proposed`; +inf where the answer does not
    count: it came padded, or ended before the mark.
    """
    import faiss

    slack = float32_error(asked.queries) * vectors.longest
    last = scores[:, -1].astype(np.float64)
    # A compressing index orders by rough scores, about which nothing is certain: enough will do.
    keeps_vectors = isinstance(index, (faiss.IndexIVFFlat, faiss.IndexHNSWFlat))
    floor = last + slack if keeps_vectors else np.full(len(scores), np.finfo(np.float64).min)
    if positions.shape[1] == len(vectors):
        floor = np.where((positions >= 0).all(axis=1), -np.inf, floor)
    has_mark = np.isfinite(asked.mark_scores)
    unreached = (positions[:, -1] < 0) | (has_mark & (asked.mark_scores <= last + slack))
    return np.where(unreached & (floor > -np.inf), np.inf, floor)
