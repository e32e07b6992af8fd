"""The rules of mining on arrays that a person can check by eye."""

from __future__ import annotations

import numpy as np

from rir_hf.index.exact import Nearest
from rir_hf.mining.rules import (
    Pairs,
    best_of,
    ceilings_of,
    draw,
    leave_out,
    pick,
    within,
)


def found_of(scores: list[list[float]]) -> Nearest:
    """Passages 0, 1, 2, ... with these scores; -inf is padding."""
    table = np.array(scores, np.float32)
    positions = np.where(table > -np.inf, np.arange(table.shape[1]), -1)
    zeros = np.zeros(len(table), np.int64)
    return Nearest(table, positions, zeros, zeros)


def test_the_lowest_of_the_ceilings_counts_and_names_its_rule() -> None:
    ceilings = ceilings_of(np.array([1.0, 0.2]), 0.5, 0.25, 0.4)
    np.testing.assert_allclose(ceilings.scores, [0.4, -0.05])
    assert ceilings.rules == ["max_score", "absolute_margin"]
    assert ceilings_of(np.array([1.0]), None, None, None).scores.tolist() == [np.inf]


def test_the_best_positive_is_the_first_of_equal_ones() -> None:
    scores = np.array([0.5, 0.5, 0.2], np.float32)
    own = Pairs(np.array([1, 1, 2]), np.array([9, 4, 0]), scores)
    marks = best_of(own, 3)
    assert marks.positions.tolist() == [-1, 4, 0]
    assert np.isnan(marks.scores[0])


def test_positives_the_own_text_low_scores_and_padding_are_left_out() -> None:
    found = found_of([[0.9, 0.8, 0.7, 0.1, -np.inf]])
    keys = np.array([[11, 12, 13, 14, 12]])
    left = leave_out(found, keys, [np.array([11])], np.array([13]), 0.5)
    assert left.allowed.tolist() == [[False, True, False, False, False]]
    assert left.own_text.tolist() == [[False, False, True, False, False]]
    assert left.below.tolist() == [[False, False, False, True, False]]


def test_a_range_counts_what_the_rules_left() -> None:
    allowed = np.array([[True, False, True, True, True]])
    assert within(allowed, 1, 2).tolist() == [[False, False, True, True, False]]


def test_a_choice_from_too_few_is_all_of_them() -> None:
    generator = np.random.default_rng(0)
    for strategy in ("top", "random", "stratified"):
        assert pick(2, 3, strategy, generator) == [0, 1]


def test_a_draw_repeats_no_text_and_ends_with_the_corpus() -> None:
    keys = np.array([1, 1, 2, 3, 0, 4])
    drawn = draw(np.random.default_rng(0), keys, 9, [3], [5])
    assert sorted(keys[drawn].tolist()) == [1, 2]
