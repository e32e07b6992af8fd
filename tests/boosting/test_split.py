"""What is set aside goes as whole groups, and passages are drawn from all parts of a corpus."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rir_hf.boosting.split import cover, draw_groups, groups_of_pairs, groups_of_passages


@given(
    groups=st.lists(st.integers(0, 8), min_size=1, max_size=40).map(np.array),
    sizes=st.lists(st.integers(0, 10), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_no_group_is_in_two_parts_or_in_the_rest(
    groups: np.ndarray, sizes: list[int], seed: int
) -> None:
    parts = draw_groups(groups, sizes, seed)
    rest = np.setdiff1d(np.arange(len(groups)), np.concatenate(parts))
    assert sum(map(len, parts)) + len(rest) == len(groups)
    members = [set(groups[part].tolist()) for part in (*parts, rest)]
    assert sum(map(len, members)) == len(set(groups.tolist()))


@given(
    groups=st.lists(st.integers(0, 8), min_size=1, max_size=40).map(np.array),
    sizes=st.lists(st.integers(0, 10), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
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


def test_passages_that_are_nearly_the_same_are_one_group() -> None:
    texts = ["Cats purr when they are content.", "Dogs bark.", "cats purr when they are content"]
    assert groups_of_passages(Dataset.from_dict({"text": texts})).tolist() == [0, 1, 0]


def test_a_small_cluster_counts_as_much_as_a_large_one() -> None:
    clusters = np.array([0] * 90 + [1] * 5 + [2] * 5)
    assert np.bincount(clusters[cover(clusters, 15, seed=0)]).tolist() == [5, 5, 5]
    assert np.bincount(clusters[cover(clusters, 20, seed=0)]).tolist() == [10, 5, 5]


def test_what_is_marked_is_never_drawn_and_nothing_is_drawn_twice() -> None:
    clusters = np.array([0, -1, 0, 1, -1])
    assert sorted(cover(clusters, 100, seed=0).tolist()) == [0, 2, 3]
    assert cover(np.array([-1, -1]), 2, seed=0).tolist() == []


def test_the_draw_of_passages_is_that_of_its_seed() -> None:
    clusters = np.zeros(100, np.int64)
    drawn, again, other = (cover(clusters, 10, seed).tolist() for seed in (0, 0, 1))
    assert drawn == again
    assert drawn != other
