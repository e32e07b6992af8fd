"""At which margins to move and to drop negatives, from scored rows of which the truth is known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import require_columns, require_dataset
from rir_hf.evaluation.comparison import interval_of_mean
from rir_hf.evaluation.runs import Qrels, as_qrels
from rir_hf.teaching.relabel import margins_over_weakest

logger = logging.getLogger(__name__)

LEAST = 20
"""A share of fewer negatives than this says nothing."""

_QUANTILES = np.arange(0, 100, 5) / 100


def recommend_relabelling(
    scored: Dataset,
    qrels: Qrels | None = None,
    *,
    precision: float = 0.9,
    max_false: float = 0.05,
    thresholds: Sequence[float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit `move` and `drop` of `RelabelNegatives` on rows of which the relevant passages are known.

    There are two ways to know them. With `qrels`, a negative is false where they say that it is
    relevant; one that they do not name counts as right, so the precision is rather better than
    said. Without, one of the positives of each row that has several, drawn at random, plays the
    unlabelled one: its margin over the weakest of the others is that of a false negative. Each of
    these rows then has one; where your rows have fewer, the precision is worse than said.

    Args:
        scored: rows from `ScorePassages`, with `query_id` and `neg_ids` where there are `qrels`.
        qrels: judgements of the negatives; a grade above 0 is relevant. Rows whose query is not
            judged are left out. Mining leaves known positives out, so mine the rows without those
            that are to be found here.
        precision: the share of the moved negatives that must be relevant.
        max_false: the share of false negatives among the kept ones to put up with.
        thresholds: the margins to choose from; None: those above which 5, 10, ... 100 % of the
            false negatives lie, to three digits.
        seed: of the draws and the bootstrap.

    Returns:
        - `move`, the smallest margin above which at least `precision` of the negatives are
          relevant, counted where there are 20 or more; `move_is_met`; None where no margin is.
        - `drop`, the largest margin (so that the fewest are dropped), up to which at most
          `max_false` of the negatives are relevant, or the one with the smallest share where there
          is none; `drop_is_met`, which of the two; None where nothing need be dropped.
        - `rows`, how many were judged, `negatives`, theirs, and `false_negatives`, the share of
          relevant ones among them.
        - `thresholds`, a dataset of a row per margin: `threshold`; `negatives`, how many lie above
          it, and `above`, their share; `precision`, the share of relevant ones among them, null for
          none, with its 95 % bootstrap interval over rows, `low` to `high`; `found`, the share of
          the relevant ones that lies above; `false_left`, the share of relevant ones among those
          that do not. Above `move` is what is moved; above `drop`, less that, what is dropped.

    Raises:
        TypeError: several splits or a stream.
        ValueError: an option out of range; a missing column; fewer than 20 false negatives are
            known.

    Example:
        >>> row = {"query": "q", "pos": ["a"], "pos_scores": [0.0], "query_id": "q",
        ...        "neg": ["b", "c", "d", "e"], "neg_ids": ["1", "2", "3", "4"],
        ...        "neg_scores": [3.0, 2.0, 1.0, -1.0]}
        >>> found = recommend_relabelling(
        ...     Dataset.from_list([row] * 20), {"q": {"1": 1, "3": 1}}, thresholds=[-2, 0, 2]
        ... )
        >>> found["move"], found["drop"], found["false_negatives"]
        (2.0, 0.0, 0.5)
        >>> [round(share, 2) for share in found["thresholds"]["precision"]]
        [0.5, 0.67, 1.0]
    """
    require_dataset(scored, "recommend_relabelling")
    for name, share in (("precision", precision), ("max_false", max_false)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be a share from 0 to 1, got {share}.")
    cases = _hidden(scored, seed) if qrels is None else _judged(scored, qrels)
    if cases.relevant.sum() < LEAST:
        raise ValueError(_too_few(cases, qrels is not None))
    if thresholds is None:
        thresholds = _thresholds_of(cases)
    table = [shares_at(float(value), cases, seed) for value in sorted(set(thresholds))]
    false_negatives = float(cases.relevant.mean())
    shown = Dataset.from_list(table)
    logger.info(
        "%d rows, %.1f %% of their negatives are false. By threshold:\n%s",
        cases.rows,
        100 * false_negatives,
        shown.to_pandas().to_string(index=False),
    )
    return {
        **choose_thresholds(table, false_negatives, precision, max_false),
        "rows": cases.rows,
        "negatives": len(cases.margins),
        "false_negatives": false_negatives,
        "thresholds": shown,
    }


class Cases(NamedTuple):
    """Negatives of which the truth is known.

    margins: `(negatives,)`, how far each scores above the weakest positive of its row.
    relevant: `(negatives,)` bool, whether it is a positive in truth.
    row: `(negatives,)`, the number of its row.
    rows: how many rows there are.
    """

    margins: np.ndarray
    relevant: np.ndarray
    row: np.ndarray
    rows: int


def shares_at(threshold: float, cases: Cases, seed: int = 0) -> dict[str, Any]:
    """What a threshold does to the negatives: a row of the table.

    Example:
        >>> cases = Cases(np.array([2.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False]),
        ...               np.array([0, 0, 1, 1]), rows=2)
        >>> found = shares_at(0.5, cases)
        >>> found["above"], round(found["precision"], 2), found["found"], found["false_left"]
        (0.75, 0.67, 1.0, 0.0)
    """
    is_above = cases.margins > threshold
    above = np.bincount(cases.row[is_above], minlength=cases.rows)
    right = np.bincount(cases.row[is_above & cases.relevant], minlength=cases.rows)
    negatives, found = int(above.sum()), int(right.sum())
    kept, relevant = len(cases.margins) - negatives, int(cases.relevant.sum())
    share, low, high = share_over_rows(right, above, seed) if negatives else (None, None, None)
    return {
        "threshold": threshold,
        "negatives": negatives,
        "above": negatives / len(cases.margins),
        "precision": share,
        "low": low,
        "high": high,
        "found": found / relevant,
        "false_left": (relevant - found) / kept if kept else 0.0,
    }


def share_over_rows(parts: np.ndarray, wholes: np.ndarray, seed: int) -> tuple[float, float, float]:
    """The share of all parts in all wholes, `(rows,)` each, and its bootstrap interval over rows.

    Example:
        >>> share_over_rows(np.array([1, 1]), np.array([2, 2]), seed=0)
        (0.5, 0.5, 0.5)
    """
    share = float(parts.sum() / wholes.sum())
    # What each row adds to the share: their mean is the share, and their spread that of a ratio of
    # two sums, to the first order.
    of_row = share + (parts - share * wholes) / wholes.mean()
    low, high = interval_of_mean(of_row, seed=seed)
    return share, max(low, 0.0), min(high, 1.0)


def choose_thresholds(
    table: Sequence[dict[str, Any]], false_negatives: float, precision: float, max_false: float
) -> dict[str, Any]:
    """The thresholds that meet the targets, of those of the table.

    Example:
        >>> table = [{"threshold": 0.0, "negatives": 50, "precision": 0.6, "false_left": 0.0},
        ...          {"threshold": 1.0, "negatives": 30, "precision": 0.8, "false_left": 0.04},
        ...          {"threshold": 2.0, "negatives": 20, "precision": 0.9, "false_left": 0.1}]
        >>> choose_thresholds(table, 0.2, precision=0.9, max_false=0.05)
        {'move': 2.0, 'move_is_met': True, 'drop': 1.0, 'drop_is_met': True}
        >>> choose_thresholds(table, 0.2, precision=0.95, max_false=0.2)
        {'move': None, 'move_is_met': False, 'drop': None, 'drop_is_met': True}
    """
    sure = [row for row in table if row["negatives"] >= LEAST and row["precision"] >= precision]
    move = min((row["threshold"] for row in sure), default=None)
    if false_negatives <= max_false:
        return {"move": move, "move_is_met": bool(sure), "drop": None, "drop_is_met": True}
    below = [row for row in table if move is None or row["threshold"] <= move]
    clean = [row["threshold"] for row in below if row["false_left"] <= max_false]
    least = min(below, key=lambda row: row["false_left"])["threshold"]
    drop = max(clean, default=least)
    return {
        "move": move,
        "move_is_met": bool(sure),
        "drop": None if drop == move else drop,  # then all that lies above is moved
        "drop_is_met": bool(clean),
    }


def _judged(scored: Dataset, qrels: Qrels) -> Cases:
    """The negatives of rows whose query is judged, as the qrels have them."""
    judged = as_qrels(qrels)
    names = ("query_id", "neg_ids", "pos_scores", "neg_scores")
    margins: list[list[float]] = []
    relevant: list[list[bool]] = []
    for query, ids, positives, negatives in _values(scored, names):
        grades = judged.get(str(query))
        if grades is None or not positives or negatives is None:
            continue
        if len(ids or []) != len(negatives):
            raise ValueError(
                f"recommend_relabelling: 'neg_ids' {ids!r:.60} is not aligned with 'neg_scores' "
                f"{negatives!r:.60}."
            )
        margins.append(margins_over_weakest(positives, negatives))
        relevant.append([grades.get(str(passage), 0) > 0 for passage in ids])
    return _together(margins, relevant)


def _hidden(scored: Dataset, seed: int) -> Cases:
    """The negatives of rows of several positives, of which one is hidden among them."""
    rng = np.random.default_rng(seed)
    margins: list[list[float]] = []
    relevant: list[list[bool]] = []
    for positives, negatives in _values(scored, ("pos_scores", "neg_scores")):
        if negatives is None or len(positives or []) < 2:
            continue
        hidden = positives.pop(rng.integers(len(positives)))
        margins.append(margins_over_weakest(positives, [hidden, *negatives]))
        relevant.append([True] + [False] * len(negatives))
    return _together(margins, relevant)


def _values(scored: Dataset, names: Sequence[str]) -> Any:
    require_columns(scored, names, "recommend_relabelling")
    columns = scored.select_columns(list(names)).with_format(None)
    return zip(*(columns[name][:] for name in names), strict=True)


def _together(margins: list[list[float]], relevant: list[list[bool]]) -> Cases:
    rows = np.repeat(np.arange(len(margins)), [len(row) for row in margins])
    return Cases(
        np.array([margin for row in margins for margin in row], np.float64),
        np.array([value for row in relevant for value in row], bool),
        rows,
        len(margins),
    )


def _thresholds_of(cases: Cases) -> list[float]:
    """Margins of relevant negatives at even steps, to three digits, for people to read."""
    found = np.quantile(cases.margins[cases.relevant], _QUANTILES)
    return [float(f"{value:.3g}") for value in found]


def _too_few(cases: Cases, by_qrels: bool) -> str:
    relevant = int(cases.relevant.sum())
    if by_qrels:
        return (
            f"By the qrels {relevant} of the {len(cases.margins)} negatives of {cases.rows} judged "
            f"rows are false, and thresholds need {LEAST}. Score more rows, or rows that were "
            "mined without telling MineNegatives of the passages that the qrels name; or leave the "
            "qrels out, and a positive of each row that has several is hidden instead."
        )
    return (
        f"{relevant} scored rows have several positives, of which one can be hidden, and "
        f"thresholds need {LEAST}. Score more such rows, or pass qrels that judge the negatives."
    )
