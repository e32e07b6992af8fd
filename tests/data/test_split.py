"""Groups stay whole: what is measured with was not trained on."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rir_hf import split_by_group
from rir_hf.data.split import draw_groups, groups_of_pairs

SHARES = {"train": 0.6, "dev": 0.2, "test": 0.2}


def test_rows_with_a_near_query_or_a_common_positive_stay_together() -> None:
    names = ("query", "query_id", "pos")
    sets = [
        ("who wrote the play hamlet", "q1", ["It is by Shakespeare, as are other plays."]),
        ("Who wrote the play Hamlet?", "q2", ["A text of its own."]),  # near the first query
        ("how long is it", "q3", ["It is by Shakespeare, as are other plays!"]),  # near the first's
        ("an entirely other one", "q3", ["Another text of its own."]),  # the third's id
        ("why is the sky blue", "q4", ["Light is scattered."]),
        ("how tall is a giraffe", "q5", ["Six metres."]),
    ]
    rows = Dataset.from_list([dict(zip(names, row, strict=True)) for row in sets])
    for seed in range(5):
        parts = split_by_group(rows, SHARES, seed=seed)
        assert parts["train"]["query_id"][:] == ["q1", "q2", "q3", "q3"]
        assert len(parts["dev"]) == len(parts["test"]) == 1


def test_the_corpus_tells_which_positives_are_nearly_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers = range(12)
    texts = [f"Passage {number // 2} of {number // 2 * 7919}, long enough." for number in numbers]
    corpus = Dataset.from_dict(
        {"id": [f"p{number}" for number in numbers], "text": [f"{text} " for text in texts]}
    )
    rows = Dataset.from_dict(
        {
            "query": [f"{number * 104729}" for number in numbers],
            "pos_ids": [[id] for id in corpus["id"]],
        }
    )
    for seed in range(5):
        parts = split_by_group(rows, {"train": 0.5, "test": 0.5}, corpus=corpus, seed=seed)
        for part in parts.values():
            found = [int(id[1:]) for [id] in part["pos_ids"]]
            assert {number // 2 * 2 for number in found} <= set(found)
            assert len(found) == 6
    assert not caplog.records
    split_by_group(rows, SHARES)
    assert "give the corpus" in caplog.text


def test_shares_and_seed_decide() -> None:
    rows = Dataset.from_dict({"query": [f"{number} {number * 7919}" for number in range(100)]})
    parts, again, other = (
        split_by_group(rows, SHARES, threshold=None, seed=seed) for seed in (0, 0, 1)
    )
    assert {name: len(part) for name, part in parts.items()} == {"train": 60, "dev": 20, "test": 20}
    assert list(parts) == list(SHARES)
    assert parts["test"]["query"][:] == again["test"]["query"][:] != other["test"]["query"][:]
    for wrong in ({"train": 0.5}, {"train": 1.5, "test": -0.5}, {}):
        with pytest.raises(ValueError, match="shares must be above 0 and add up to 1"):
            split_by_group(rows, wrong)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "query": st.sampled_from(["", "a", "A ", "b", "c", "d", "e", "f"]),
            "pos_ids": st.lists(st.sampled_from("uvwxyz"), max_size=2),
        }
    ),
    min_size=1,
    max_size=25,
)


@given(rows=ROWS, seed=st.integers(0, 100), order=st.randoms(use_true_random=False))
def test_no_query_and_no_positive_is_on_two_sides_whatever_the_order(
    rows: list[dict[str, Any]], seed: int, order: Any
) -> None:
    def split(given: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        queries = [row["query"] for row in given]
        ids = [row["pos_ids"] or None for row in given] + [["u"]]
        made = Dataset.from_dict({"query": [*queries, "a"], "pos_ids": ids})
        parts = split_by_group(made, SHARES, threshold=None, seed=seed)
        return {name: part.to_list() for name, part in parts.items()}

    parts = split(rows)
    assert sum(map(len, parts.values())) == len(rows) + 1
    for one, other in combinations(parts.values(), 2):
        for row in one:
            for twin in other:
                same_query = row["query"].strip().lower() == twin["query"].strip().lower()
                assert not (same_query and row["query"])
                assert not set(row["pos_ids"] or []) & set(twin["pos_ids"] or [])
    shuffled = order.sample(rows, len(rows))
    assert {name: sorted(map(str, part)) for name, part in split(shuffled).items()} == {
        name: sorted(map(str, part)) for name, part in parts.items()
    }


groups_and_sizes = given(
    groups=st.lists(st.integers(0, 8), min_size=1, max_size=40).map(np.array),
    sizes=st.lists(st.integers(0, 10), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)


@groups_and_sizes
def test_no_group_is_in_two_parts_or_in_the_rest(
    groups: np.ndarray, sizes: list[int], seed: int
) -> None:
    parts = draw_groups(groups, sizes, seed)
    rest = np.setdiff1d(np.arange(len(groups)), np.concatenate(parts))
    assert sum(map(len, parts)) + len(rest) == len(groups)
    members = [set(groups[part].tolist()) for part in (*parts, rest)]
    assert sum(map(len, members)) == len(set(groups.tolist()))


@groups_and_sizes
def test_a_part_is_never_larger_than_asked_and_takes_every_group_that_fits(
    groups: np.ndarray, sizes: list[int], seed: int
) -> None:
    parts = draw_groups(groups, sizes, seed)
    taken = np.concatenate(parts)
    rest = np.setdiff1d(np.arange(len(groups)), taken)
    for part, size in zip(parts, sizes, strict=True):
        assert len(part) <= size
        assert part.tolist() == sorted(part.tolist())
    if len(rest):
        smallest = min(np.unique(groups[rest], return_counts=True)[1])
        assert smallest > sizes[-1] - len(parts[-1])


def test_a_group_that_is_too_large_stays_in_the_rest() -> None:
    groups = np.array([0] * 50 + list(range(1, 11)))
    for seed in range(4):
        dev, test = draw_groups(groups, [5, 5], seed)
        assert sorted([*dev, *test]) == list(range(50, 60))


def test_another_seed_draws_other_groups_and_the_same_one_the_same() -> None:
    groups = np.arange(100)
    drawn, again, other = (draw_groups(groups, [10], seed)[0].tolist() for seed in (0, 0, 1))
    assert drawn == again
    assert drawn != other


def test_pairs_with_a_near_query_or_a_common_positive_are_one_group() -> None:
    pairs = Dataset.from_dict(
        {
            "query": [
                "who wrote the play hamlet",
                "how long do cats sleep",
                "Who wrote the play Hamlet?",  # near the first
                "when was hamlet written",  # has the second's positive
                "why is the sky blue",
                "which play is the longest",  # joins the first to the second
                "how tall is a giraffe",
            ],
            "pos_ids": [["a"], ["b"], ["c"], ["b", "d"], None, ["c", "d"], []],
        }
    )
    assert groups_of_pairs(pairs).tolist() == [0, 0, 0, 0, 4, 0, 6]
