"""Exact search: what sorting every similarity gives, whatever ties, is left out or nearly ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rir_hf.index.exact import Marks, Nearest, nearest_below
from tests.index.vectors import exact_scores, ranking, unit_vectors


def assert_is_what_sorting_gives(
    found: Nearest,
    scores: np.ndarray,
    k: int,
    ceilings: np.ndarray,
    marked: np.ndarray,
    eligible: np.ndarray,
) -> None:
    """Compare with every score sorted, a row at a time."""
    for row, order in enumerate(ranking(scores[: len(found.scores)]).tolist()):
        allowed = [at for at in order if eligible[at] and scores[row, at] <= ceilings[row]][:k]
        padding = k - len(allowed)
        assert found.positions[row].tolist() == allowed + [-1] * padding
        assert found.scores[row].tolist() == scores[row, allowed].tolist() + [-np.inf] * padding
        assert found.above[row] == (scores[row] > ceilings[row]).sum()
        assert found.before[row] == order.index(marked[row])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 300),
    st.integers(1, 6),
    st.integers(0, 60),
    st.sampled_from([0, 1e-7, 1e-3]),
)
def test_it_finds_what_sorting_everything_finds_with_ties_near_ties_and_duplicates(
    seed: int, n: int, m: int, dimension: int, k: int, noise: float
) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (n, dimension)).astype(np.float32)
    passages = rng.integers(-2, 3, (m, dimension)) + noise * rng.standard_normal((m, dimension))
    passages = passages.astype(np.float32)
    scores = exact_scores(queries, passages)
    marked = rng.integers(0, m, n)
    marks = Marks(scores[np.arange(n), marked], marked)
    eligible = rng.random(m) < 0.7
    # Some ceilings are exactly the score of a passage.
    ceilings = np.where(rng.random(n) < 0.5, marks.scores, rng.integers(-4, 5, n)).astype(float)
    found = nearest_below(queries, passages, k, ceilings, marks, eligible)
    assert_is_what_sorting_gives(found, scores, k, ceilings, marked, eligible)


def test_over_several_blocks_and_groups_of_queries_it_finds_the_same() -> None:
    queries, passages = unit_vectors(1100, 16, 1), unit_vectors(9000, 16, 2)
    passages[5000:5100] = passages[10]
    scores = exact_scores(queries, passages)
    marked = np.random.default_rng(0).integers(0, 9000, 1100)
    ceilings = np.full(1100, 0.6)
    eligible = np.arange(9000) % 3 != 0
    marks = Marks(scores[np.arange(1100), marked], marked)
    found = nearest_below(queries, passages, 20, ceilings, marks, eligible)
    # A matrix product in float64 and a sum of one pair may differ in the last bit of float32.
    assert_is_what_sorting_gives(
        Nearest(*(values[:100] for values in found)), scores, 20, ceilings, marked, eligible
    )


@pytest.mark.parametrize("k", [5, 500])
def test_five_thousand_passages_that_nearly_tie_are_ordered_and_counted_exactly(k: int) -> None:
    base = unit_vectors(1, 32, 0)
    noise = np.random.default_rng(1).standard_normal((5000, 32))
    passages = (base + 1e-7 * noise).astype(np.float32)
    scores = exact_scores(base, passages)
    marked = ranking(scores)[:, 2500]
    marks = Marks(scores[[0], marked], marked)
    ceilings = marks.scores.astype(float)
    found = nearest_below(base, passages, k, ceilings, marks)
    everything = np.ones(5000, bool)
    assert_is_what_sorting_gives(found, scores, k, ceilings, marked, everything)


def test_ten_thousand_equal_passages_come_in_the_order_of_the_corpus() -> None:
    passages = np.repeat(unit_vectors(1, 8, 0), 10_000, axis=0)
    found = nearest_below(unit_vectors(3, 8, 1), passages, 5)
    assert found.positions.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_torch_proposes_the_same_as_numpy() -> None:
    queries, passages = unit_vectors(50, 16, 3), unit_vectors(5000, 16, 4)
    passages[100:200] = passages[7]
    by_numpy = nearest_below(queries, passages, 30, np.full(50, 0.5), device="cpu")
    by_torch = nearest_below(queries, passages, 30, np.full(50, 0.5), device="cpu:0")
    for expected, found in zip(by_numpy, by_torch, strict=True):
        np.testing.assert_array_equal(expected, found)


def test_vectors_that_are_not_finite_are_refused() -> None:
    passages = unit_vectors(3, 4, 0)
    passages[1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        nearest_below(passages[:1], passages, 1)
