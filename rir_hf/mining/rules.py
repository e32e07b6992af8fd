"""Which of the passages below a ceiling are negatives: arrays in, arrays out.

Everything is about n queries at once; `found` is what `nearest_below` gave for them, `(n, k)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rir_hf.index.exact import Marks, Nearest
from rir_hf.schema import SKIP_RULES, note

_AFTER_ALL = np.iinfo(np.int64).max


class Pairs(NamedTuple):
    """Queries and passages with their similarity, one entry for each pair.

    rows: `(pairs,)` int64, the query, from 0 to n - 1.
    positions: `(pairs,)` int64, the passage.
    scores: `(pairs,)` float32.
    """

    rows: np.ndarray
    positions: np.ndarray
    scores: np.ndarray

    def split(self, n: int) -> list[np.ndarray]:
        """The scores of each query, where the pairs stand by query."""
        ends = np.cumsum(np.bincount(self.rows, minlength=n))
        return np.split(self.scores, ends[:-1]) if n else []

    def by_position(self, n: int) -> list[dict[int, float]]:
        """For each query its passages with their similarities."""
        found: list[dict[int, float]] = [{} for _ in range(n)]
        values = (array.tolist() for array in self)
        for row, position, score in zip(*values, strict=True):
            found[row][position] = score
        return found


class Ceilings(NamedTuple):
    """scores: `(n,)` float64, what no negative may exceed; rules: which option sets it."""

    scores: np.ndarray
    rules: list[str]


class Left(NamedTuple):
    """What the rules say of each passage that was found, `(n, k)` bool each.

    allowed: no rule leaves it out.
    own_text: it is the query's own text.
    below: allowed but for `min_score`.
    """

    allowed: np.ndarray
    own_text: np.ndarray
    below: np.ndarray


def positive_scores(known: Pairs, n: int, which: str) -> np.ndarray:
    """The lowest, mean or highest similarity among each query's known positives, `(n,)` float64.

    Example:
        >>> known = Pairs(np.array([0, 0]), np.array([4, 7]), np.array([0.5, 0.75], "float32"))
        >>> positive_scores(known, 1, "lowest"), positive_scores(known, 1, "mean")
        (array([0.5]), array([0.625]))
    """
    scores = known.scores.astype(np.float64)
    if which == "mean":
        total = np.bincount(known.rows, weights=scores, minlength=n)
        return total / np.bincount(known.rows, minlength=n)
    keep = np.minimum if which == "lowest" else np.maximum
    best = np.full(n, np.inf if which == "lowest" else -np.inf)
    keep.at(best, known.rows, scores)
    return best


def ceiling_below(positives: np.ndarray, margin: float) -> np.ndarray:
    """The similarities that lie a share of `margin` below those of positives, `(n,)`.

    Example:
        >>> ceiling_below(np.array([0.5, -0.5]), 0.5)
        array([ 0.25, -0.75])
    """
    return positives - margin * np.abs(positives)


def ceilings_of(
    positives: np.ndarray,
    relative_margin: float | None,
    absolute_margin: float | None,
    max_score: float | None,
) -> Ceilings:
    """The lowest of the ceilings that the options set for each query.

    Args:
        positives: `(n,)` float64, the similarity that the margins are counted from.
        relative_margin, absolute_margin, max_score: as in `MineNegatives`.
    """
    limits = {"": np.full(len(positives), np.inf)}
    if relative_margin is not None:
        limits["relative_margin"] = ceiling_below(positives, relative_margin)
    if absolute_margin is not None:
        limits["absolute_margin"] = positives - absolute_margin
    if max_score is not None:
        limits["max_score"] = np.full(len(positives), float(max_score))
    names = list(limits)
    table = np.array(list(limits.values()))
    lowest = table.argmin(axis=0)
    return Ceilings(table.min(axis=0), [names[number] for number in lowest])


def best_of(own: Pairs, n: int) -> Marks:
    """The best of each query's own positives, equal ones by position; NaN and -1 for none.

    Args:
        own: the positives of the rows that are in the corpus.
        n: number of queries.
    """
    order = np.lexsort((own.positions, -own.scores, own.rows))
    rows, first = np.unique(own.rows[order], return_index=True)
    marks = Marks(np.full(n, np.nan, np.float32), np.full(n, -1))
    marks.scores[rows] = own.scores[order][first]
    marks.positions[rows] = own.positions[order][first]
    return marks


def leave_out(
    found: Nearest,
    keys: np.ndarray,
    positive_keys: Sequence[np.ndarray],
    own_keys: np.ndarray,
    min_score: float | None,
) -> Left:
    """Apply the rules that look at one passage alone.

    Args:
        found: the passages below the ceilings.
        keys: `(n, k)` int64, equal for equal texts.
        positive_keys: for each query the keys of its positives' texts.
        own_keys: `(n,)` int64, the key of the query's own text, 0 for none.
        min_score: as in `MineNegatives`.
    """
    is_there = found.positions >= 0
    is_positive = in_row(keys, positive_keys)
    is_own = is_there & ~is_positive & (keys == own_keys[:, None]) & (own_keys != 0)[:, None]
    is_left = is_there & ~is_positive & ~is_own
    is_low = found.scores < (-np.inf if min_score is None else min_score)
    return Left(is_left & ~is_low, is_own, is_left & is_low)


def in_row(keys: np.ndarray, of_row: Sequence[np.ndarray]) -> np.ndarray:
    """Which of the keys `(n, k)` are among those of their row.

    Example:
        >>> in_row(np.array([[7, 8], [7, 8]]), [np.array([8]), np.array([], int)])
        array([[False,  True],
               [False, False]])
    """
    n, k = keys.shape
    rows = [np.repeat(np.arange(n), k), np.repeat(np.arange(n), [len(own) for own in of_row])]
    every = np.concatenate([keys.ravel(), *of_row])
    distinct, numbers = np.unique(every, return_inverse=True)
    pairs = np.concatenate(rows) * len(distinct) + numbers
    return np.isin(pairs[: n * k], pairs[n * k :]).reshape(n, k)


def within(allowed: np.ndarray, first: int, size: int) -> np.ndarray:
    """Of the allowed passages of each query, best first, `size` from the `first` on.

    Example:
        >>> within(np.array([[True, False, True, True]]), 1, 1)
        array([[False, False,  True, False]])
    """
    place = allowed.cumsum(axis=1) - 1
    return allowed & (place >= first) & (place < first + size)


def pick(size: int, wanted: int, strategy: str, generator: np.random.Generator | None) -> list[int]:
    """Which of `size` passages, best first, to take, in order.

    Example:
        >>> pick(9, 2, "top", None)
        [0, 1]
    """
    if strategy == "top" or generator is None or size <= wanted:
        return list(range(min(size, wanted)))
    if strategy == "random":
        return sorted(generator.choice(size, wanted, replace=False).tolist())
    return [int(generator.choice(part)) for part in np.array_split(np.arange(size), wanted)]


def draw(
    generator: np.random.Generator,
    keys: np.ndarray,
    wanted: int,
    taboo_keys: Sequence[int],
    taboo: Sequence[int],
) -> np.ndarray:
    """Draw positions uniformly, no text twice.

    Args:
        generator: the row's.
        keys: `(corpus,)` int64, equal for equal texts, 0 for an empty one.
        wanted: how many.
        taboo_keys: keys of texts that are not to be drawn.
        taboo: positions that are not to be drawn.

    Returns:
        `(wanted,)` int64, or fewer where the corpus has no more.
    """
    avoid, known = {0, *taboo_keys}, set(taboo)
    drawn: list[int] = []
    for position in _in_random_order(generator, len(keys), wanted):
        if len(drawn) == wanted:
            break
        key = int(keys[position])
        if key not in avoid and position not in known:
            avoid.add(key)
            drawn.append(position)
    return np.array(drawn, np.int64)


def count_skipped(
    found: Nearest,
    left: Left,
    pool: np.ndarray,
    size: int,
    known: Pairs,
    ceilings: Ceilings,
    range_min: int,
    min_score: float | None,
) -> list[dict[str, int]]:
    """How many passages each rule left out that rank before the last one that was looked at.

    Args:
        found: the passages below the ceilings.
        left: what the rules say of them.
        pool: `(n, k)` bool, those from which the negatives are taken.
        size: how many a full pool has. Where it is not full everything was looked at.
        known: the known positives of the queries.
        ceilings: what set `found` apart from the passages above.
        range_min, min_score: as in `MineNegatives`.
    """
    n, k = pool.shape
    is_full = pool.sum(axis=1) == size
    last = np.where(is_full, k - 1 - pool[:, ::-1].argmax(axis=1), k - 1) if k else np.zeros(n, int)
    is_above = known.scores > ceilings.scores[known.rows]
    is_before = _rank_before(known, _last_looked_at(found, last, is_full, min_score))
    positives_above = np.bincount(known.rows[is_above], minlength=n)
    positives = np.bincount(known.rows[is_above | is_before], minlength=n)
    looked_at = np.arange(k) <= last[:, None]
    own_text = (left.own_text & looked_at).sum(axis=1)
    skipped = []
    for row in range(n):
        counts = dict.fromkeys(SKIP_RULES, 0)
        counts["positive"] = int(positives[row])
        counts["own_text"] = int(own_text[row])
        counts["range_min"] = min(range_min, int(left.allowed[row].sum()))
        if ceilings.rules[row]:
            counts[ceilings.rules[row]] = int(found.above[row] - positives_above[row])
        skipped.append(counts)
    return skipped


def why_short(ceiling: float, is_below: bool) -> str:
    """The note of a query with fewer negatives than asked.

    Args:
        ceiling: what no negative may exceed, +inf for none.
        is_below: whether passages were left out by `min_score`.
    """
    if is_below:
        return note("below_min_score")
    if np.isinf(ceiling):
        return note("corpus_exhausted")
    return note("corpus_exhausted", f"nothing more lies below the ceiling of {ceiling:.4g}")


def _last_looked_at(
    found: Nearest, last: np.ndarray, is_full: np.ndarray, min_score: float | None
) -> Marks:
    """Score and position of the last passage that was looked at; where the pool is not full, what
    lies behind everything down to `min_score`.
    """
    n = len(last)
    end = -np.inf if min_score is None else min_score
    if not found.scores.size:
        return Marks(np.full(n, end), np.full(n, _AFTER_ALL))
    scores = found.scores[np.arange(n), last]
    positions = found.positions[np.arange(n), last]
    return Marks(np.where(is_full, scores, end), np.where(is_full, positions, _AFTER_ALL))


def _rank_before(pairs: Pairs, marks: Marks) -> np.ndarray:
    """Which of the pairs' passages rank before their query's mark."""
    scores, positions = marks.scores[pairs.rows], marks.positions[pairs.rows]
    is_tie = (pairs.scores == scores) & (pairs.positions < positions)
    return (pairs.scores > scores) | is_tie


def _in_random_order(generator: np.random.Generator, size: int, wanted: int) -> Iterator[int]:
    """Every position below `size` in random order; the first few, repeats included, without
    shuffling them all.
    """
    yield from generator.integers(size, size=4 * wanted).tolist()
    yield from generator.permutation(size).tolist()
