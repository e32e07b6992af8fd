"""Negatives that the teacher takes for positives, or is not sure of."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rir_hf import run
from rir_hf.teaching.relabel import RelabelNegatives


@pytest.fixture
def rows() -> Dataset:
    """A row with one negative of each kind, one without the positive's similarity, one of two
    positives, and one without scores.
    """
    return Dataset.from_dict(
        {
            "query": ["a", "b", "c", "d"],
            "pos": [["p"], ["p"], ["p", "r"], ["p"]],
            "pos_ids": [["0"], ["0"], ["0", "9"], ["0"]],
            "pos_sims": [[0.75], [None], [0.75, 0.25], [0.75]],
            "pos_scores": [[1.0], [2.0], [3.0, 1.0], None],
            "neg": [["x", "y", "z"], ["x"], ["x", "y"], ["x"]],
            "neg_ids": [["1", "2", "3"], ["1"], ["1", "2"], ["1"]],
            "neg_sims": [[0.5, 0.25, 0.125], [0.5], [0.5, 0.25], [0.5]],
            "neg_from": [["a", "b", "c"], ["a"], ["a", "b"], ["a"]],
            "neg_scores": [[2.5, 1.0, 1.5], [9.0], [2.0, 0.5], None],
        }
    )


def actions(rows: Dataset) -> list[list[tuple[str, str]]]:
    """Id and action of what was taken out of each row."""
    return [[(taken["id"], taken["action"]) for taken in row] for row in rows["relabelled"]]


def test_the_margin_over_the_weakest_positive_decides(rows: Dataset) -> None:
    found = rows.map(RelabelNegatives(move=1.0, drop=0.0), batched=True)
    assert found["relabelled"][0] == [
        {"id": "1", "action": "move", "margin": 1.5},
        {"id": "3", "action": "drop", "margin": 0.5},
    ]
    # in the third row 2.0 is 1.0 above the weaker positive: not more than move
    assert actions(found)[1:] == [[("1", "move")], [("1", "drop")], []]


def test_what_moves_goes_to_the_end_of_the_positives_with_everything_that_is_its(
    rows: Dataset,
) -> None:
    found = rows.map(RelabelNegatives(move=1.0, drop=0.0), batched=True)
    assert found["pos"][:] == [["p", "x"], ["p", "x"], ["p", "r"], ["p"]]
    assert found["pos_ids"][:] == [["0", "1"], ["0", "1"], ["0", "9"], ["0"]]
    assert found["pos_sims"][:] == [[0.75, 0.5], [None, 0.5], [0.75, 0.25], [0.75]]
    assert found["pos_scores"][:] == [[1.0, 2.5], [2.0, 9.0], [3.0, 1.0], None]
    assert found["neg"][:] == [["y"], [], ["y"], ["x"]]
    assert found["neg_ids"][:] == [["2"], [], ["2"], ["1"]]
    assert found["neg_sims"][:] == [[0.25], [], [0.25], [0.5]]
    assert found["neg_from"][:] == [["b"], [], ["b"], ["a"]]
    assert found["neg_scores"][:] == [[1.0], [], [0.5], None]
    assert rows["neg"][0] == ["x", "y", "z"]


def test_by_default_doubtful_negatives_are_dropped_and_none_is_moved(rows: Dataset) -> None:
    dropped = rows.map(RelabelNegatives(), batched=True)
    assert dropped["pos"][:] == rows["pos"][:]
    assert dropped["neg"][:] == [["y"], [], ["y"], ["x"]]
    moved = rows.map(RelabelNegatives(move=0.0, drop=None), batched=True)
    assert moved["neg"][:] == dropped["neg"][:]
    assert moved["pos"][:] == [["p", "x", "z"], ["p", "x"], ["p", "r", "x"], ["p"]]
    near = rows.select([0]).map(RelabelNegatives(drop=-0.25), batched=True)
    assert near["neg"][0] == []


def test_a_dry_run_says_what_would_change_and_changes_nothing(rows: Dataset) -> None:
    done = rows.map(RelabelNegatives(move=1.0), batched=True)
    looked = rows.map(RelabelNegatives(move=1.0, dry=True), batched=True)
    assert looked["relabelled"][:] == done["relabelled"][:]
    assert looked.remove_columns("relabelled").to_list() == rows.to_list()
    after_the_look = looked.map(RelabelNegatives(move=1.0), batched=True)
    assert after_the_look.to_list() == done.to_list()


def test_a_second_pass_adds_to_what_the_first_one_took_out(rows: Dataset) -> None:
    first = rows.map(RelabelNegatives(move=1.0, drop=None), batched=True)
    second = first.map(RelabelNegatives(drop=0.0), batched=True)
    assert actions(second) == [[("1", "move"), ("3", "drop")], [("1", "move")], [("1", "drop")], []]
    at_once = rows.map(RelabelNegatives(move=1.0, drop=0.0), batched=True)
    assert second["relabelled"][:] == at_once["relabelled"][:]


def test_what_is_moved_is_a_negative_of_no_other_row_of_its_query() -> None:
    """In the first row x is moved, and leaves the second one of the query, by its text where its id
    is another, and the third, which has no scores; another query and a row without one keep it.
    """
    rows = Dataset.from_list(
        [
            {"query_id": query, "pos": ["p"], "pos_scores": positive, "neg": ["x", name],
             "neg_ids": ids, "neg_scores": negative}
            for query, name, ids, positive, negative in (
                (1, "a", ["1", "2"], [0.5], [2.0, 0.0]),
                (1, "b", ["9", "3"], [4.0], [1.0, 0.0]),
                (1, "c", ["1", "4"], None, None),
                (2, "d", ["1", "5"], [4.0], [1.0, 0.0]),
                (None, "e", ["1", "6"], [4.0], [1.0, 0.0]),
            )
        ]
    )  # fmt: skip
    step = RelabelNegatives(move=1.0, drop=None)
    found = rows.map(step, batched=True)
    assert found["pos"][:] == [["p", "x"], ["p"], ["p"], ["p"], ["p"]]
    assert found["neg"][:] == [["a"], ["b"], ["c"], ["x", "d"], ["x", "e"]]
    assert found["neg_ids"][:] == [["2"], ["3"], ["4"], ["1", "5"], ["1", "6"]]
    assert found["neg_scores"][:] == [[0.0], [0.0], None, [1.0, 0.0], [1.0, 0.0]]
    taken = [{"id": "9", "action": "drop", "margin": 1.5}]
    assert found["relabelled"][1:] == [taken, [{**taken[0], "id": "1"}], [], []]
    looked = rows.map(RelabelNegatives(move=1.0, drop=None, dry=True), batched=True)
    assert looked["relabelled"][:] == found["relabelled"][:]
    by_text = rows.rename_column("query_id", "query").map(step, batched=True)
    assert by_text["neg"][:] == found["neg"][:]
    renamed = rows.map(lambda row, at: {"neg": [f"x{at}", row["neg"][1]]}, with_indices=True)
    by_id = renamed.map(step, batched=True)
    assert by_id["neg"][:] == [["a"], ["x1", "b"], ["c"], ["x3", "d"], ["x4", "e"]]


def test_only_the_columns_that_are_there_are_rewritten(rows: Dataset) -> None:
    bare = rows.remove_columns(["neg_ids", "pos_sims"])
    moved = bare.map(RelabelNegatives(move=1.0), batched=True)
    assert sorted(moved.column_names) == sorted([*bare.column_names, "relabelled"])
    assert actions(moved)[0] == [("x", "move"), ("z", "drop")]
    assert moved["pos_ids"][0] == ["0", None]  # still aligned with pos
    assert moved["neg_sims"][0] == [0.25]


def test_rows_without_a_positive_or_without_scores_stay_as_they_are(rows: Dataset) -> None:
    none: list[dict[str, Any]] = [
        {"pos": [], "pos_ids": [], "pos_sims": [], "pos_scores": []},
        {"pos_scores": None, "neg_scores": None, "neg_ids": None},
    ]
    for columns in none:
        row = {**rows[0], **columns}
        found = RelabelNegatives().one(row)
        assert found.pop("relabelled") == []
        assert found == {name: row[name] for name in found}


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
    step = RelabelNegatives(move=0.0)
    step.check(rows.features)
    row = step.one(rows[0])
    assert (row["pos"], row["pos_ids"]) == (["p", "x"], ["7", "8"])
    assert (row["neg_ids"], row["relabelled"][0]["id"]) == (["9"], "8")


_SCORES = st.lists(st.integers(-4, 4).map(float), max_size=6)


@given(_SCORES, _SCORES, st.integers(-3, 3), st.integers(0, 3))
def test_every_negative_is_kept_or_named_and_every_column_stays_aligned(
    positives: list[float], negatives: list[float], drop: int, more: int
) -> None:
    row = {"pos": [f"p{place}" for place in range(len(positives))], "pos_scores": positives}
    row |= {"neg": [f"n{place}" for place in range(len(negatives))], "neg_scores": negatives}
    move = drop + more
    found = RelabelNegatives(move=move, drop=drop).one(row)
    score = dict(zip(row["neg"], negatives, strict=True))
    over = {name: score[name] - min(positives, default=float("inf")) for name in score}
    moved = [name for name in row["neg"] if over[name] > move]
    assert found["neg"] == [name for name in row["neg"] if over[name] <= drop]
    assert found["pos"] == [*row["pos"], *moved]
    assert found["pos_scores"] == [*positives, *(score[name] for name in moved)]
    assert found["neg_scores"] == [score[name] for name in found["neg"]]
    taken = {entry["id"]: (entry["action"], entry["margin"]) for entry in found["relabelled"]}
    assert taken == {
        name: ("move" if name in moved else "drop", over[name])
        for name in row["neg"]
        if over[name] > drop
    }


def test_scores_that_are_not_aligned_are_refused_by_a_dry_run_too(rows: Dataset) -> None:
    wrong: list[dict[str, Any]] = [{"neg_ids": ["1"]}, {"neg_scores": [1.5, None, 1.0]}]
    for columns in wrong:
        for dry in (False, True):
            with pytest.raises(ValueError, match="is not aligned with 'neg_scores'"):
                RelabelNegatives(dry=dry).one({**rows[0], **columns})


def test_bad_settings_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="both None"):
        RelabelNegatives(drop=None)
    with pytest.raises(ValueError, match="drop must be at most move, got 1.0 and 0.5"):
        RelabelNegatives(move=0.5, drop=1.0)
    with pytest.raises(ValueError, match="move must be a number or None"):
        RelabelNegatives(move=float("nan"))


def test_what_members_of_a_blend_said_follows_the_passages() -> None:
    rows = Dataset.from_list(
        [
            {"pos": ["a"], "neg": ["b", "c", "d"], "pos_scores": [0.0],
             "neg_scores": [2.0, 0.5, -1.0],
             "teacher_scores": {"One": [0.0, 1.0, 2.0, 3.0], "Two": None}},
            {"pos": ["a"], "neg": ["b"], "pos_scores": None, "neg_scores": None,
             "teacher_scores": {"One": None, "Two": None}},
        ]
    )  # fmt: skip
    step = RelabelNegatives(move=1.0, drop=0.0)
    for found in (rows.map(step, batched=True), run(rows, step)):
        assert found[0]["pos"] == ["a", "b"]
        assert found[0]["neg"] == ["d"]
        assert found[0]["teacher_scores"] == {"One": [0.0, 1.0, 3.0], "Two": None}
        assert found[1]["teacher_scores"] == {"One": None, "Two": None}


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_rows_in_a_format_of_tensors_are_relabelled_alike(rows: Dataset, kind: str) -> None:
    said = [{"A": [1.0] * len(row["pos"] + row["neg"])} for row in rows]
    some = rows.add_column("teacher_scores", said).select([0, 2])  # one has a null, there NaN
    wanted = run(some, RelabelNegatives(drop=0.0))
    found = some.with_format(kind).map(RelabelNegatives(drop=0.0), batched=True).with_format(None)
    assert found.select_columns(wanted.column_names).to_list() == wanted.to_list()
