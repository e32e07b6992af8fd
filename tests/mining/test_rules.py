"""The rules of mining on arrays that a person can check by eye."""

from __future__ import annotations

import numpy as np
import pytest

from rir_hf.mining.rules import Limits, ceilings_of, draw, limits_of


def test_the_lowest_of_the_ceilings_counts_and_names_its_rule() -> None:
    ceilings = ceilings_of(np.array([1.0, 0.2]), Limits(0.5, 0.25, 0.4))
    np.testing.assert_allclose(ceilings.scores, [0.4, -0.05])
    assert ceilings.rules == ["max_score", "absolute_margin"]
    assert ceilings_of(np.array([1.0]), Limits()).scores.tolist() == [np.inf]


def test_a_draw_repeats_no_text_and_ends_with_the_corpus() -> None:
    keys = np.array([1, 1, 2, 3, 0, 4])
    drawn = draw(np.random.default_rng(0), keys, 9, [3], [5])
    assert sorted(keys[drawn].tolist()) == [1, 2]


def test_limits_are_one_number_for_all_indexes_or_one_by_name() -> None:
    found = limits_of(["embedding", "bm25"], relative_margin=0.1, max_score={"bm25": 9.0})
    assert found == [Limits(0.1), Limits(0.1, max_score=9.0)]
    by_name = limits_of(["embedding", "bm25"], relative_margin={"bm25": None}, min_score={})
    assert by_name == [Limits(0.05), Limits(None)]
    with pytest.raises(ValueError, match="max_score names the index 'words'"):
        limits_of(["embedding"], max_score={"words": 1.0})
    with pytest.raises(ValueError, match="absolute_margin must be at least 0, got -1"):
        limits_of(["bm25"], absolute_margin={"bm25": -1})
