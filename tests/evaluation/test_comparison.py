"""Intervals and paired tests: exact where they can be enumerated, honest where they are drawn."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import compare, confidence_interval, evaluate
from rir_hf.evaluation.comparison import interval_of_mean, paired_test


def some_rows(seed: int, size: int = 40) -> Dataset:
    values = np.random.default_rng(seed).random(size)
    return Dataset.from_dict({"query_id": [f"q{n}" for n in range(size)], "RR@10": values})


def run_with_ranks(ranks: list[int]) -> dict[str, dict[str, float]]:
    """A run that finds `x`, the one relevant passage of each query, at the given rank from 1."""
    return {
        f"q{number}": {"x": 0.0} | {f"p{above}": 1.0 for above in range(rank - 1)}
        for number, rank in enumerate(ranks)
    }


def test_two_runs_are_compared_measure_by_measure() -> None:
    qrels = {f"q{number}": {"x": 1} for number in range(8)}
    better, worse = run_with_ranks([1] * 8), run_with_ranks([2] * 8)
    found = compare(better, worse, qrels, ["RR@10", "R@10"])
    assert found == {
        "RR@10": {
            "mean": 1.0,
            "other": 0.5,
            "difference": 0.5,
            "low": 0.5,
            "high": 0.5,
            "p_value": 2 / 2**8,
        },
        "R@10": {
            "mean": 1.0,
            "other": 1.0,
            "difference": 0.0,
            "low": 0.0,
            "high": 0.0,
            "p_value": 1.0,
        },
    }
    assert compare(worse, better, qrels, ["RR@10"])["RR@10"]["difference"] == -0.5


def test_runs_are_paired_by_query_and_not_by_row_and_a_missing_query_counts_zero() -> None:
    qrels = {f"q{number}": {"x": 1} for number in range(4)}
    run, other = run_with_ranks([1, 2, 3, 4]), run_with_ranks([2, 2, 2, 2])
    turned = dict(reversed(other.items()))
    expected = compare(run, other, qrels)
    assert compare(run, turned, qrels) == expected
    missing = {query: hits for query, hits in run.items() if query != "q0"}
    found = compare(missing, other, qrels, ["RR@10"])["RR@10"]
    assert found["mean"] == pytest.approx(expected["RR@10"]["mean"] - 1 / 4)


def test_a_comparison_is_the_paired_test_of_the_values_per_query() -> None:
    qrels = {f"q{number}": {"x": 1} for number in range(12)}
    run, other = run_with_ranks([1, 2, 3] * 4), run_with_ranks([2, 2, 1, 3] * 3)
    values = [evaluate(one, qrels, ["RR"], per_query=True)["RR"][:] for one in (run, other)]
    differences = np.subtract(*values)
    found = compare(run, other, qrels, ["RR"], level=0.9, resamples=500, seed=7)["RR"]
    low_high = interval_of_mean(differences, level=0.9, resamples=500, seed=7)
    assert (found["low"], found["high"]) == low_high
    tested = paired_test(differences, level=0.9, resamples=500, seed=7)
    assert {name: found[name] for name in tested} == tested


@pytest.mark.parametrize("seed", range(2))
def test_the_p_value_of_few_queries_equals_the_enumeration_of_all_sign_flips(seed: int) -> None:
    eighths = np.random.default_rng(seed).integers(-8, 9, size=8)
    differences = [Fraction(int(value), 8) for value in eighths]
    flips = [
        sum((sign * value for sign, value in zip(signs, differences, strict=True)), Fraction(0))
        for signs in itertools.product((1, -1), repeat=8)
    ]
    total = sum(differences, Fraction(0))
    as_large = sum(abs(flip) >= abs(total) for flip in flips)
    found = paired_test(eighths / 8, seed=seed)
    assert found["p_value"] == float(Fraction(as_large, len(flips)))
    assert found["difference"] == float(total / 8)


def test_a_run_better_on_every_query_has_the_smallest_p_value_in_both_directions() -> None:
    differences = 0.1 + np.random.default_rng(1).random(40) / 10
    found, turned = paired_test(differences), paired_test(-differences)
    assert found["p_value"] == turned["p_value"] == 2 / 10_001
    assert 0.1 < found["low"] < found["difference"] < found["high"] < 0.2
    assert turned["difference"] == pytest.approx(-found["difference"], rel=1e-12)


def test_the_interval_holds_the_mean_and_depends_on_its_level_and_seed_alone() -> None:
    rows = some_rows(0)
    mean = np.mean(rows["RR@10"][:])
    (low_80, high_80), (low_99, high_99) = (
        confidence_interval(rows, "RR@10", level=level) for level in (0.8, 0.99)
    )
    assert 0 <= low_99 < low_80 < mean < high_80 < high_99 <= 1
    first = confidence_interval(rows, "RR@10", seed=3)
    assert confidence_interval(rows, "RR@10", seed=3) == first
    assert confidence_interval(rows, "RR@10", seed=4) != first


def test_the_interval_is_made_of_quantiles_of_the_resampled_means() -> None:
    # A resample's mean is a tenth of a binomial(10, 0.1): 2.5 % lies at 0 (34.9 % are), 97.5 % at
    # 3 (93.0 % to 98.7 %).
    found = interval_of_mean(np.array([0.0] * 9 + [1.0]))
    assert found == pytest.approx((0.0, 0.3), rel=1e-12, abs=0)
    assert interval_of_mean(np.array([0.25, 0.25])) == (0.25, 0.25)
    assert interval_of_mean(np.array([0.25])) == (0.25, 0.25)


def test_rows_that_are_not_per_query_are_refused() -> None:
    rows = some_rows(0)
    with pytest.raises(ValueError, match=r"No measure 'P@1' in the rows, only \['query_id', 'RR"):
        confidence_interval(rows, "P@1")
    with pytest.raises(ValueError, match="There are no queries to compare"):
        confidence_interval(rows.select([]), "RR@10")
    means: Any = {"RR@10": 0.5}
    with pytest.raises(ValueError, match=r"from evaluate\(..., per_query=True\); got dict"):
        confidence_interval(means, "RR@10")


def test_a_single_judged_query_is_too_few_for_a_test() -> None:
    run = run_with_ranks([1])
    with pytest.raises(ValueError, match="A single query is judged"):
        compare(run, run, {"q0": {"x": 1}}, ["RR@10"])
