"""At which margins to move and to drop? An answer from rows of which the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf.teaching.relabel import RelabelNegatives
from rir_hf.teaching.thresholds import choose_thresholds, recommend_relabelling

Qrels = dict[str, dict[str, int]]


def planted(queries: int = 60, seed: int = 0) -> tuple[Dataset, Qrels]:
    """Rows of a positive, about two relevant negatives and eight others, with overlapping scores,
    and the truth.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    qrels: Qrels = {}
    for number in range(queries):
        relevant = rng.random(10) < 0.2
        scores = np.where(relevant, rng.normal(1, 1, 10), rng.normal(-2, 1, 10))
        ids = [f"{number}-{place}" for place in range(10)]
        rows.append(
            {
                "query_id": str(number),
                "query": f"query {number}",
                "pos": ["p"],
                "pos_scores": [0.25],
                "neg": ids,
                "neg_ids": ids,
                "neg_scores": scores.astype(np.float32).tolist(),
            }
        )
        qrels[str(number)] = dict(zip(ids, relevant.astype(int).tolist(), strict=True))
    return Dataset.from_list(rows), qrels


def truth_of(entries: list[str], qrels: Qrels) -> float:
    """The share of these negatives that is relevant."""
    return float(np.mean([qrels[name.split("-")[0]][name] for name in entries]))


@pytest.mark.parametrize(("precision", "max_false"), [(0.9, 0.05), (0.8, 0.02), (0.99, 0.1)])
def test_the_thresholds_are_those_of_a_search_by_hand(precision: float, max_false: float) -> None:
    rows, qrels = planted()
    thresholds = np.arange(-4, 4, 0.25).tolist()
    found = recommend_relabelling(
        rows, qrels, precision=precision, max_false=max_false, thresholds=thresholds
    )
    names = [name for row in rows["neg_ids"] for name in row]
    over = dict(zip(names, [s - 0.25 for row in rows["neg_scores"] for s in row], strict=True))
    sure, clean = [], []
    for threshold in thresholds:
        above = [name for name in names if over[name] > threshold]
        kept = [name for name in names if over[name] <= threshold]
        if len(above) >= 20 and truth_of(above, qrels) >= precision:
            sure.append(threshold)
        if kept and truth_of(kept, qrels) <= max_false:
            clean.append(threshold)
    assert found["move"] == min(sure)
    drop = max(threshold for threshold in clean if threshold <= min(sure))
    assert found["drop"] == (drop if drop < min(sure) else None)
    assert found["move_is_met"]
    assert found["drop_is_met"]
    assert found["false_negatives"] == truth_of(names, qrels)
    assert (found["rows"], found["negatives"]) == (60, 600)


def test_the_table_says_what_relabelling_with_its_thresholds_does() -> None:
    rows, qrels = planted()
    found = recommend_relabelling(rows, qrels, max_false=0.02)
    table = {row["threshold"]: row for row in found["thresholds"]}
    move, drop = table[found["move"]], table[found["drop"]]
    done = rows.map(RelabelNegatives(move=found["move"], drop=found["drop"]), batched=True)
    taken = [entry for row in done["relabelled"] for entry in row]
    moved = [entry["id"] for entry in taken if entry["action"] == "move"]
    assert len(moved) == move["negatives"]
    assert len(taken) == drop["negatives"]
    assert truth_of(moved, qrels) == pytest.approx(move["precision"])
    assert move["low"] < move["precision"] < move["high"]
    kept = [name for row in done["neg_ids"] for name in row]
    assert truth_of(kept, qrels) == pytest.approx(drop["false_left"])


def test_without_judgements_a_positive_of_each_row_that_has_several_is_hidden() -> None:
    """Of three positives one scores 5; whichever is hidden, its margin is 0 or 5."""
    several = {"pos_scores": [0.0, 0.0, 5.0], "neg_scores": [3.0, -1.0]}
    rows = [several] * 30 + [{"pos_scores": [0.0], "neg_scores": [9.0, 9.0]}]
    rows += [{"pos_scores": None, "neg_scores": None}]
    found = recommend_relabelling(Dataset.from_list(rows), thresholds=[-2.0, -0.5, 4.0])
    assert (found["rows"], found["negatives"]) == (30, 90)
    low, middle, high = found["thresholds"]
    assert (low["precision"], low["found"]) == (pytest.approx(1 / 3), 1.0)
    assert middle["precision"] == 0.5
    assert high["precision"] == 1.0
    assert 0 < high["found"] < 1


def test_targets_that_cannot_be_met_are_said_so() -> None:
    rows, qrels = planted()
    found = recommend_relabelling(rows, qrels, thresholds=[0.0, 4.0], precision=1, max_false=0)
    assert (found["move"], found["move_is_met"]) == (None, False)
    assert (found["drop"], found["drop_is_met"]) == (0.0, False)


def test_nothing_is_dropped_where_few_are_false_or_all_false_ones_are_moved() -> None:
    table = [{"threshold": 1.0, "negatives": 40, "precision": 0.9, "false_left": 0.0}]
    few = choose_thresholds(table, false_negatives=0.01, precision=0.95, max_false=0.05)
    assert (few["drop"], few["drop_is_met"]) == (None, True)
    moved = choose_thresholds(table, false_negatives=0.2, precision=0.9, max_false=0.05)
    assert (moved["move"], moved["drop"], moved["drop_is_met"]) == (1.0, None, True)


def test_a_share_of_a_handful_is_not_believed() -> None:
    table = [
        {"threshold": 1.0, "negatives": 40, "precision": 0.8, "false_left": 0.0},
        {"threshold": 2.0, "negatives": 19, "precision": 1.0, "false_left": 0.1},
    ]
    assert choose_thresholds(table, 0.2, precision=0.9, max_false=0.05)["move"] is None


def test_what_cannot_be_answered_is_refused() -> None:
    rows, qrels = planted()
    unjudged = {query: {"elsewhere": 1} for query in qrels}
    with pytest.raises(ValueError, match="By the qrels 0 of the 600 negatives of 60 judged rows"):
        recommend_relabelling(rows, unjudged)
    with pytest.raises(ValueError, match="0 scored rows have several positives"):
        recommend_relabelling(rows)
    with pytest.raises(ValueError, match="needs the column 'query_id'"):
        recommend_relabelling(rows.remove_columns("query_id"), qrels)
    with pytest.raises(ValueError, match="precision must be a share"):
        recommend_relabelling(rows, qrels, precision=90)
    wrong = rows.remove_columns("neg_ids").add_column("neg_ids", [["1"]] * len(rows))
    with pytest.raises(ValueError, match="'neg_ids'.* is not aligned with 'neg_scores'"):
        recommend_relabelling(wrong, qrels)
