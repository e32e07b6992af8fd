"""The rules of mining on arrays that a person can check by eye."""

from __future__ import annotations

import numpy as np

from rir_hf.mining.rules import ceilings_of, draw


def test_the_lowest_of_the_ceilings_counts_and_names_its_rule() -> None:
    ceilings = ceilings_of(np.array([1.0, 0.2]), 0.5, 0.25, 0.4)
    np.testing.assert_allclose(ceilings.scores, [0.4, -0.05])
    assert ceilings.rules == ["max_score", "absolute_margin"]
    assert ceilings_of(np.array([1.0]), None, None, None).scores.tolist() == [np.inf]


def test_a_draw_repeats_no_text_and_ends_with_the_corpus() -> None:
    keys = np.array([1, 1, 2, 3, 0, 4])
    drawn = draw(np.random.default_rng(0), keys, 9, [3], [5])
    assert sorted(keys[drawn].tolist()) == [1, 2]
