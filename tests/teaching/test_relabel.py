"""Negatives that the teacher takes for positives."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from rir_hf.teaching.relabel import RelabelNegatives


@pytest.fixture
def rows() -> Dataset:
    """A row with one false negative, one without ids' similarities, one of two positives, and one
    without scores.
    """
    return Dataset.from_dict(
        {
            "query": ["a", "b", "c", "d"],
            "pos": [["p"], ["p"], ["p", "r"], ["p"]],
            "pos_ids": [["0"], ["0"], ["0", "9"], ["0"]],
            "pos_sims": [[0.75], [None], [0.75, 0.25], [0.75]],
            "pos_scores": [[1.0], [2.0], [1.0, 3.0], None],
            "neg": [["x", "y", "z"], ["x"], ["x", "y"], ["x"]],
            "neg_ids": [["1", "2", "3"], ["1"], ["1", "2"], ["1"]],
            "neg_sims": [[0.5, 0.25, 0.125], [0.5], [0.5, 0.25], [0.5]],
            "neg_scores": [[1.5, 0.0, 1.0], [9.0], [2.0, 3.5], None],
        }
    )


def test_false_negatives_move_to_the_positives_with_everything_that_is_theirs(
    rows: Dataset,
) -> None:
    moved = rows.map(RelabelNegatives(), batched=True)
    assert moved["relabelled"][:] == [["1"], ["1"], ["2"], []]
    assert moved["pos"][:] == [["p", "x"], ["p", "x"], ["p", "r", "y"], ["p"]]
    assert moved["pos_ids"][:] == [["0", "1"], ["0", "1"], ["0", "9", "2"], ["0"]]
    assert moved["pos_sims"][:] == [[0.75, 0.5], [None, 0.5], [0.75, 0.25, 0.25], [0.75]]
    assert moved["pos_scores"][:] == [[1.0, 1.5], [2.0, 9.0], [1.0, 3.0, 3.5], None]
    assert moved["neg"][:] == [["y", "z"], [], ["x"], ["x"]]
    assert moved["neg_ids"][0] == ["2", "3"]
    assert moved["neg_scores"][:] == [[0.0, 1.0], [], [2.0], None]
    assert rows["neg"][0] == ["x", "y", "z"]


def test_dropped_negatives_are_gone_and_the_positives_stay(rows: Dataset) -> None:
    dropped = rows.map(RelabelNegatives(action="drop", margin=0.5), batched=True)
    assert dropped["pos"][:] == rows["pos"][:]
    assert dropped["neg"][:] == [["x", "y", "z"], [], ["x", "y"], ["x"]]
    assert dropped["relabelled"][:] == [[], ["1"], [], []]


def test_only_the_columns_that_are_there_are_rewritten(rows: Dataset) -> None:
    bare = rows.remove_columns(["neg_ids", "pos_sims"])
    moved = bare.map(RelabelNegatives(), batched=True)
    assert sorted(moved.column_names) == sorted([*bare.column_names, "relabelled"])
    assert moved["relabelled"][0] == ["x"]
    assert moved["pos_ids"][0] == ["0", None]  # still aligned with pos
    assert moved["neg_sims"][0] == [0.25, 0.125]


def test_a_margin_below_zero_takes_out_what_comes_near_the_positive(rows: Dataset) -> None:
    near = rows.select([0]).map(RelabelNegatives(margin=-0.25), batched=True)
    assert near["relabelled"][0] == ["1", "3"]


def test_one_positive_as_a_text_becomes_a_list_and_ids_that_are_numbers_become_texts() -> None:
    rows = Dataset.from_dict(
        {
            "query": ["q"],
            "pos": ["p"],
            "pos_ids": [[7]],
            "neg": [["x", "y"]],
            "neg_ids": [[8, 9]],
            "pos_scores": [[0.5]],
            "neg_scores": [[0.75, 0.25]],
        }
    )
    step = RelabelNegatives()
    step.check(rows.features)
    row = step.one(rows[0])
    assert (row["pos"], row["pos_ids"]) == (["p", "x"], ["7", "8"])
    assert (row["neg_ids"], row["relabelled"]) == (["9"], ["8"])


def test_scores_that_are_not_aligned_are_refused(rows: Dataset) -> None:
    wrong: list[dict[str, Any]] = [{"neg_ids": ["1"]}, {"neg_scores": [1.5, None, 1.0]}]
    for columns in wrong:
        with pytest.raises(ValueError, match="is not aligned with 'neg_scores'"):
            RelabelNegatives().one({**rows[0], **columns})


def test_bad_settings_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="action must be one of"):
        RelabelNegatives(action="keep")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="margin must be a number"):
        RelabelNegatives(margin=float("nan"))
