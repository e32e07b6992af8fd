"""Passages are drawn from all parts of a corpus."""

from __future__ import annotations

import numpy as np

from rir_hf.boosting.split import cover


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
