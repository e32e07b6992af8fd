"""Fusion: as ranx does it, and by z-scores as written out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rir_hf import evaluate, fuse, write_run
from rir_hf.evaluation.fusion import scaled_by, z_scores

DENSE = {"q": {"a": 0.9, "b": 0.7, "c": 0.2}, "r": {"a": 1.0}}
WORDS = {"q": {"b": 12.0, "d": 9.0, "a": 3.0}}


def random_runs(seed: int) -> list[dict[str, dict[str, float]]]:
    """Three runs over the same queries, whose passages overlap; no two scores are equal."""
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(3):
        run = {}
        for query in "qrs":
            found = rng.choice(30, rng.integers(2, 20), replace=False)
            run[query] = {f"p{at}": float(rng.random()) for at in found}
        runs.append(run)
    return runs


def as_dict(fused: Dataset) -> dict[str, dict[str, float]]:
    rows = fused.to_list()
    return {
        row["query_id"]: dict(zip(row["hit_ids"], row["hit_scores"], strict=True)) for row in rows
    }


@pytest.mark.soak  # ranx compiles itself for half a minute
@pytest.mark.parametrize(("method", "norm", "share"), [("rrf", None, 1), ("minmax", "min-max", 3)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ranks_and_minmax_are_those_of_ranx(
    method: str, norm: str | None, share: int, seed: int
) -> None:
    ranx = pytest.importorskip("ranx")
    runs = random_runs(seed)
    theirs = ranx.fuse(
        [ranx.Run(run) for run in runs], norm=norm, method="rrf" if norm is None else "sum"
    ).to_dict()
    for query, hits in as_dict(fuse(runs, method=method)).items():
        assert {passage: pytest.approx(score * share) for passage, score in hits.items()} == dict(
            theirs[query]
        )


def test_a_passage_that_is_missing_has_the_lowest_z_score_of_the_run() -> None:
    dense, words = np.array([0.9, 0.7, 0.2]), np.array([12.0, 9.0, 3.0])
    a, b, c = (dense - dense.mean()) / dense.std()
    b2, d2, a2 = (words - words.mean()) / words.std()
    expected = {"a": (a + a2) / 2, "b": (b + b2) / 2, "c": (c + a2) / 2, "d": (c + d2) / 2}
    found = as_dict(fuse([DENSE, WORDS]))["q"]
    assert found == pytest.approx(expected)
    assert list(found) == sorted(expected, key=expected.get, reverse=True)


def test_ranks_count_from_one_and_minmax_runs_from_zero_to_one() -> None:
    found = as_dict(fuse([DENSE, WORDS], method="rrf"))["q"]
    assert found == pytest.approx(
        {"b": 1 / 62 + 1 / 61, "a": 1 / 61 + 1 / 63, "d": 1 / 62, "c": 1 / 63}
    )
    found = as_dict(fuse([DENSE, WORDS], method="minmax"))["q"]
    assert found == pytest.approx({"b": (5 / 7 + 1) / 2, "a": 0.5, "d": 1 / 3, "c": 0.0})


def test_weights_count_and_a_run_without_hits_has_no_say() -> None:
    found = as_dict(fuse([DENSE, WORDS], weights=[0, 1]))
    assert [*found["q"]][:2] == ["b", "d"]
    assert as_dict(fuse([{"q": {"a": 2.0, "b": 1.0}}, {}], method="minmax")) == {
        "q": {"a": 1.0, "b": 0.0}
    }


@pytest.mark.parametrize("method", ["zscore", "minmax"])
def test_one_hit_is_as_far_above_what_is_missing_as_the_better_of_two_above_the_worse(
    method: str,
) -> None:
    dense = {"q": {"a": 0.9, "b": 0.7, "c": 0.2}}
    two = as_dict(fuse([dense, {"q": {"c": 2.0, "a": 1.0}}], method=method))["q"]
    one = as_dict(fuse([dense, {"q": {"c": 25.0}}], method=method))["q"]
    assert [*one] == [*two]
    assert one["c"] - one["a"] == pytest.approx(two["c"] - two["a"])
    assert one["c"] - one["b"] == pytest.approx(two["c"] - two["b"])


def test_equal_hits_are_above_what_is_missing() -> None:
    runs = [{"q": {"b": 3.0, "c": 3.0}}, {"q": {"d": 1.0}}]
    found = as_dict(fuse(runs, method="minmax", weights=[2, 1]))["q"]
    assert found == pytest.approx({"b": 2 / 3, "c": 2 / 3, "d": 1 / 3})
    found = as_dict(fuse(runs, weights=[2, 1]))["q"]
    assert found == pytest.approx({"b": -2 / 3, "c": -2 / 3, "d": -4 / 3})


def test_depth_cuts_each_run_before_and_the_result_after() -> None:
    deep = {"q": {f"p{at:03}": float(-at) for at in range(200)}}
    found = as_dict(fuse([deep, {"q": {"x": 1.0, "y": 0.0}}], depth=3))["q"]
    assert len(found) == 3
    assert set(found) <= {"p000", "p001", "p002", "x", "y"}


def test_rows_of_search_trec_files_and_dicts_are_fused_alike(tmp_path: Path) -> None:
    write_run(WORDS, tmp_path / "words.txt")
    rows = Dataset.from_dict(
        {"query_id": ["q"], "hit_ids": [["b", "d", "a"]], "hit_scores": [[12.0, 9.0, 3.0]]}
    )
    expected = fuse([DENSE, WORDS]).to_list()
    assert fuse([DENSE, rows]).to_list() == expected
    assert fuse([DENSE, tmp_path / "words.txt"]).to_list() == expected


def test_what_comes_out_is_a_run() -> None:
    fused = fuse([DENSE, WORDS])
    assert evaluate(fused, {"q": {"b": 1}}, ["RR@10"]) == {"RR@10": 1.0}
    assert fuse([fused, WORDS])["query_id"][:] == ["q", "r"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9), st.floats(0.5, 100), st.floats(-9, 9)
)
def test_scale_and_offset_of_a_run_change_nothing(
    scores: list[float], scale: float, offset: float
) -> None:
    run = {f"p{at}": round(score, 2) for at, score in enumerate(scores)}
    moved = {passage: scale * score + offset for passage, score in run.items()}
    for method in ("zscore", "minmax"):
        one = as_dict(fuse([{"q": run}, WORDS], method=method))["q"]
        other = as_dict(fuse([{"q": moved}, WORDS], method=method))["q"]
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ([DENSE], {}, "two runs or more"),
        (DENSE, {}, "two runs or more"),
        ([DENSE, WORDS], {"method": "sum"}, "method must be one of"),
        ([DENSE, WORDS], {"weights": [1]}, "weights must be 2 numbers"),
        ([DENSE, WORDS], {"weights": [1, -1]}, "0 or more"),
        ([DENSE, WORDS], {"weights": [0, 0]}, "one at least above 0"),
        ([DENSE, WORDS], {"depth": 0}, "depth must be at least 1, got 0"),
        ([DENSE, {"q": {"a": float("nan")}}], {}, "NaN"),
    ],
)
def test_what_cannot_be_fused_is_named(runs: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fuse(runs, **options)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
@example([699051.5679535179] * 3)
@example([0.1 + 0.2, 0.3, 0.3])
def test_z_scores_have_mean_zero_and_keep_the_order(values: list[float]) -> None:
    found = z_scores(np.array(values))
    assert np.isfinite(found).all()
    assert abs(found.mean()) < 1e-6
    assert found.any() == (np.std(values) > 1e-7 * np.abs(values).max())
    order = np.argsort(values, kind="stable")
    assert (np.diff(found[order]) >= -1e-9).all()


def test_what_a_sample_does_not_reach_is_its_least_and_what_is_unknown_its_average() -> None:
    values, sample = np.array([9.0, 0.0, np.nan]), np.array([5.0, 3.0, 1.0])
    spread = np.std(sample)
    np.testing.assert_allclose(scaled_by(values, sample, "zscore"), [6 / spread, -2 / spread, 0])
    np.testing.assert_allclose(scaled_by(values, sample, "minmax"), [2, 0, 0.5])
