"""Negatives from several indexes: what each proposes below the ceilings of all, merged into one
ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rir_hf.evaluation.fusion import fused_scores
from rir_hf.index.corpus import CorpusView
from rir_hf.index.exact import Marks, Nearest, Pairs, nothing
from rir_hf.mining.rules import Ceilings, Left, Pools, Row, count_skipped, leave_out


class Question(NamedTuple):
    """What one index is asked for n queries.

    view: the index.
    queries: as `view.queries_in` reads them.
    asks: `(n,)` bool; for the others it proposes nothing and forbids nothing.
    known: the known positives, with its scores.
    ceilings: what it allows.
    min_score: as in `MineNegatives`.
    """

    view: CorpusView
    queries: np.ndarray
    asks: np.ndarray
    known: Pairs
    ceilings: Ceilings
    min_score: float | None


class Lane(NamedTuple):
    """What one index proposes for n queries.

    found: the passages below its own ceilings, `(n, k)`.
    left: what the rules say of each; one above another index's ceiling is not allowed.
    known, ceilings, min_score: as in `Question`.
    vetoed: `(n, k)` bool, what another index's ceiling leaves out.
    asks: `(n,)` bool, which queries it was searched for.
    """

    found: Nearest
    left: Left
    known: Pairs
    ceilings: Ceilings
    min_score: float | None
    vetoed: np.ndarray
    asks: np.ndarray


class Merged(NamedTuple):
    """One ranking of a query, best first.

    lanes: which lane each passage comes from.
    places: where it stands there.
    """

    lanes: list[int]
    places: list[int]

    def take(self, which: Sequence[int]) -> Merged:
        """Some of it."""
        return Merged([self.lanes[at] for at in which], [self.places[at] for at in which])


def lanes_of(
    questions: Sequence[Question], rows: Sequence[Row], k: int, marks: Marks
) -> list[Lane]:
    """What each index proposes, k passages for each query at most.

    Args:
        questions: to each index.
        rows: the queries and their positives.
        k: how deep each is searched.
        marks: whose rank in the first index is asked for.
    """
    lanes = []
    corpus = questions[0].view
    for number, question in enumerate(questions):
        found = _found(question, k, None if number else marks, corpus.first_of_each_text)
        left = leave_out(found, corpus.text_keys[found.positions], rows, question.min_score)
        vetoed = np.zeros(found.positions.shape, bool)
        for other in questions:
            if other is not question:
                vetoed |= above_ceiling(other, found.positions, left.allowed)
        left = left._replace(allowed=left.allowed & ~vetoed)
        of_question = (question.known, question.ceilings, question.min_score)
        lanes.append(Lane(found, left, *of_question, vetoed, question.asks))
    return lanes


def above_ceiling(question: Question, positions: np.ndarray, is_allowed: np.ndarray) -> np.ndarray:
    """Which of the allowed passages, `(n, k)`, an index scores above its own ceiling, bool."""
    limits = np.where(question.asks, question.ceilings.scores, np.inf)
    rows, places = np.nonzero(is_allowed & np.isfinite(limits)[:, None])
    scores = question.view.similarities(question.queries, rows, positions[rows, places])
    is_above = np.zeros(positions.shape, bool)
    is_above[rows, places] = scores > limits[rows]
    return is_above


def have_enough(lanes: Sequence[Lane], wanted: int) -> np.ndarray:
    """For which queries no deeper search can change the first `wanted` of the ranking, `(n,)`."""
    is_enough = [
        (lane.left.allowed.sum(axis=1) >= wanted) | (lane.found.positions[:, -1] < 0)
        for lane in lanes
    ]
    return np.logical_and.reduce(is_enough)


def merge(
    lanes: Sequence[Lane], row: int, keys: Mapping[int, int], by: str, first: int, size: int
) -> Merged:
    """One ranking of what the lanes allow for a query, no text twice.

    Args:
        lanes: of the indexes, in their order.
        row: the query.
        keys: equal for equal texts, by position.
        by: `"turns"` or `"zscore"`.
        first: so many of each lane, however deep it was searched.
        size: how many passages at most.
    """
    places = [np.flatnonzero(lane.left.allowed[row])[:first].tolist() for lane in lanes]
    order = in_turns(places) if by == "turns" else by_scores(lanes, row, places)
    merged = Merged([], [])
    seen: set[int] = set()
    for number, place in order:
        key = keys[int(lanes[number].found.positions[row, place])]
        if key not in seen and len(merged.places) < size:
            seen.add(key)
            merged.lanes.append(number)
            merged.places.append(place)
    return merged


def in_turns(lists: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Number of the list and item: the first of each list, the second of each, and so on.

    Example:
        >>> in_turns([[7, 8, 9], [4]])
        [(0, 7), (1, 4), (0, 8), (0, 9)]
    """
    longest = max(map(len, lists))
    rounds = [(number, turn) for turn in range(longest) for number in range(len(lists))]
    return [(number, lists[number][turn]) for number, turn in rounds if turn < len(lists[number])]


def by_scores(
    lanes: Sequence[Lane], row: int, places: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    """The same in the order of the mean z-score, equal ones by position; each passage under the
    first lane that has it.
    """
    hits: list[dict[int, float]] = []
    origin: dict[int, tuple[int, int]] = {}
    for number, lane in enumerate(lanes):
        positions = lane.found.positions[row, places[number]].tolist()
        scores = lane.found.scores[row, places[number]].tolist()
        hits.append(dict(zip(positions, scores, strict=True)))
        for position, place in zip(positions, places[number], strict=True):
            origin.setdefault(position, (number, place))
    fused = fused_scores(hits, "zscore", [1.0] * len(lanes))
    return [origin[position] for position in sorted(fused, key=lambda at: (-fused[at], at))]


def count_skipped_by(
    lanes: Sequence[Lane], row: int, merged: Merged, is_full: bool
) -> dict[str, int]:
    """How many passages each rule left out before the last one that was looked at, added up over
    the lanes.

    Args:
        lanes: of the indexes.
        row: the query.
        merged: its ranking, as far as it was looked at.
        is_full: whether that is as far as it may go.
    """
    total: dict[str, int] = {}
    for number, lane in enumerate(lanes):
        one = _lane_of_row(lane, row)
        width = one.left.allowed.shape[1]
        mine = [at for at, of in zip(merged.places, merged.lanes, strict=True) if of == number]
        is_taken = np.zeros((1, width), bool)
        is_taken[0, mine] = True
        end = max(mine, default=-1) + 1 if is_full else width
        pools = Pools(is_taken, np.arange(width)[None] < end, np.array([is_full and end > 0]))
        limits = (one.known, one.ceilings, 0, one.min_score)
        counts = count_skipped(one.found, one.left, pools, *limits)[0]
        counts["other_index"] = int(one.vetoed[0, :end].sum())
        for rule, count in counts.items():
            total[rule] = total.get(rule, 0) + count
    return total


def _found(question: Question, k: int, marks: Marks | None, eligible: np.ndarray) -> Nearest:
    """What an index finds below its ceilings, `(n, k)`; nothing for queries that do not ask it."""
    asks = question.asks
    result = nothing(len(asks), k)
    some = None if marks is None else Marks(marks.scores[asks], marks.positions[asks])
    ceilings = question.ceilings.scores[asks]
    found = question.view.nearest_below(question.queries[asks], k, ceilings, some, eligible)
    for all_values, values in zip(result, found, strict=True):
        all_values[asks] = values
    return result


def _lane_of_row(lane: Lane, row: int) -> Lane:
    """What a lane says of one query."""
    some = slice(row, row + 1)
    known = lane.known.take(lane.known.rows == row)
    return Lane(
        Nearest(*(values[some] for values in lane.found)),
        Left(*(values[some] for values in lane.left)),
        known._replace(rows=known.rows - row),
        Ceilings(lane.ceilings.scores[some], lane.ceilings.rules[some]),
        lane.min_score,
        lane.vetoed[some],
        lane.asks[some],
    )


def most_texts(rows: Sequence[Row]) -> int:
    """The most texts that a row's positives take out of a ranking."""
    return max(len(row.positives.keys) for row in rows)
