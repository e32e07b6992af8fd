"""Which of the passages below a ceiling are negatives: arrays in, arrays out.

Everything is about n queries at once; `found` is what `nearest_below` gave for them, `(n, k)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rir_hf.core.columns import check_at_least
from rir_hf.index.exact import Marks, Nearest, Pairs
from rir_hf.mining.positives import Positives
from rir_hf.schema import SKIP_RULES, note

RELATIVE_MARGIN = 0.05
NOTHING_SKIPPED = dict.fromkeys(SKIP_RULES, 0)
_AFTER_ALL = np.iinfo(np.int64).max


class Row(NamedTuple):
    """A row of which negatives are asked.

    positives: its query's.
    own_key: the key of the query's own text, as in `CorpusView.text_keys`, 0 for none.
    content: what its draws depend on.
    """

    positives: Positives
    own_key: int
    content: tuple[Any, ...]


class Limits(NamedTuple):
    """What no negative may be above or below, for one index, as in `MineNegatives`."""

    relative_margin: float | None = None
    absolute_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None


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


class Pools(NamedTuple):
    """From which of the found passages the negatives of each query are taken.

    taken: `(n, k)` bool, the pool.
    looked_at: `(n, k)` bool, what ranks before the end of the pool; all where it is not full.
    is_full: `(n,)` bool, whether it is as large as it may be.
    """

    taken: np.ndarray
    looked_at: np.ndarray
    is_full: np.ndarray


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


def limits_of(
    names: Sequence[str], **options: float | Mapping[str, float | None] | None
) -> list[Limits]:
    """The limits of each index, from options that are one number for all or a dict by index, in
    which an index that is missing has the default.

    Raises:
        ValueError: no number, a negative margin, or an index that is not there.

    Example:
        >>> limits_of(["embedding", "bm25"], min_score={"embedding": 0.5})[1].min_score is None
        True
    """
    by_index: list[dict[str, float | None]] = [{} for _ in names]
    for option, given in options.items():
        if isinstance(given, Mapping) and set(given) - set(names):
            unknown = sorted(set(given) - set(names))[0]
            raise ValueError(f"{option} names the index {unknown!r}, but index={list(names)}.")
        for name, limits in zip(names, by_index, strict=True):
            default = RELATIVE_MARGIN if option == "relative_margin" else None
            value = given.get(name, default) if isinstance(given, Mapping) else given
            if value is not None and math.isnan(value):
                raise ValueError(f"{option} must be a number, got {value}.")
            if value is not None and option.endswith("margin"):
                check_at_least(option, value, 0)
            limits[option] = value
    return [Limits(**limits) for limits in by_index]


def ceilings_of(positives: np.ndarray, given: Limits) -> Ceilings:
    """The lowest of the ceilings that the limits of an index set for each query.

    Args:
        positives: `(n,)` float64, the similarity that the margins are counted from.
        given: the limits.
    """
    limits = {"": np.full(len(positives), np.inf)}
    if given.relative_margin is not None:
        limits["relative_margin"] = ceiling_below(positives, given.relative_margin)
    if given.absolute_margin is not None:
        limits["absolute_margin"] = positives - given.absolute_margin
    if given.max_score is not None:
        limits["max_score"] = np.full(len(positives), float(given.max_score))
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
    rows: Sequence[Row],
    min_score: float | None,
) -> Left:
    """Apply the rules that look at one passage alone.

    Args:
        found: the passages below the ceilings.
        keys: `(n, k)` int64, equal for equal texts.
        rows: the queries and their positives.
        min_score: as in `MineNegatives`.
    """
    is_there = found.positions >= 0
    is_positive = in_row(keys, [row.positives.keys for row in rows])
    own_keys = np.array([row.own_key for row in rows])
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


def pools_of(left: Left, first: int, size: int) -> Pools:
    """Of the allowed passages of each query, best first, `size` from the `first` on.

    Example:
        >>> left = Left(np.array([[True, False, True, True]]), *[np.zeros((1, 4), bool)] * 2)
        >>> pools_of(left, 1, 1).taken, pools_of(left, 1, 1).looked_at
        (array([[False, False,  True, False]]), array([[ True,  True,  True, False]]))
    """
    end = first + size
    place = left.allowed.cumsum(axis=1)
    taken = left.allowed & (place > first) & (place <= end)
    return Pools(taken, place - left.allowed < end, place[:, -1] >= end)


def pick(size: int, wanted: int, strategy: str, generator: np.random.Generator) -> list[int]:
    """Which of `size` passages, best first, to take, in order: a random choice or one from each of
    so many slices.

    Example:
        >>> pick(2, 3, "random", np.random.default_rng(0))
        [0, 1]
    """
    if size <= wanted:
        return list(range(size))
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
    pools: Pools,
    known: Pairs,
    ceilings: Ceilings,
    range_min: int,
    min_score: float | None,
) -> list[dict[str, int]]:
    """How many passages each rule left out that rank before the last one that was looked at.

    Over an approximate index, which may not return a positive above the ceiling, what the ceiling
    left out is a lower bound.

    Args:
        found: the passages below the ceilings.
        left: what the rules say of them.
        pools: from which of them the negatives are taken.
        known: the known positives of the queries.
        ceilings: what set `found` apart from the passages above.
        range_min, min_score: as in `MineNegatives`.
    """
    n = len(pools.is_full)
    is_above = known.scores > ceilings.scores[known.rows]
    is_before = _last_looked_at(found, pools, min_score).come_after(known)
    above = np.bincount(known.rows[is_above], minlength=n)
    positives = np.bincount(known.rows[is_above | is_before], minlength=n)
    own_text = (left.own_text & pools.looked_at).sum(axis=1)
    in_range = np.minimum(range_min, left.allowed.sum(axis=1))
    skipped = []
    for row, rule in enumerate(ceilings.rules):
        counts = dict(NOTHING_SKIPPED)
        counts["positive"] = int(positives[row])
        counts["own_text"] = int(own_text[row])
        counts["range_min"] = int(in_range[row])
        if rule:
            counts[rule] = max(0, int(found.above[row] - above[row]))
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


def _last_looked_at(found: Nearest, pools: Pools, min_score: float | None) -> Marks:
    """The last passage that was looked at; where the pool is not full, what lies behind everything
    down to `min_score`.
    """
    rows = np.arange(len(pools.is_full))
    last = pools.looked_at.sum(axis=1) - 1
    end = -np.inf if min_score is None else min_score
    return Marks(
        np.where(pools.is_full, found.scores[rows, last], end),
        np.where(pools.is_full, found.positions[rows, last], _AFTER_ALL),
    )


def _in_random_order(generator: np.random.Generator, size: int, wanted: int) -> Iterator[int]:
    """Every position below `size` in random order; the first few, repeats included, without
    shuffling them all.
    """
    yield from generator.integers(size, size=4 * wanted).tolist()
    yield from generator.permutation(size).tolist()
