"""Weights of a blend, fitted on judged rows."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import fit_blend
from rir_hf.teaching.weights import best_weights


def scored_rows(queries: int, noise: dict[str, float], seed: int = 0) -> tuple[Dataset, dict]:
    """Lists of ten passages of which one is right; each member sees it through its own noise."""
    rng = np.random.default_rng(seed)
    rows, qrels = [], {}
    for number in range(queries):
        right = int(rng.integers(10))
        truth = np.eye(10)[right] * 2
        said = {name: (truth + rng.normal(0, much, 10)).tolist() for name, much in noise.items()}
        ids = [f"p{at}" for at in range(10)]
        rows.append({"query_id": f"q{number}", "passage_ids": ids, "teacher_scores": said})
        qrels[f"q{number}"] = {ids[right]: 1}
    return Dataset.from_list(rows), qrels


def test_the_better_member_gets_more_weight_and_the_gain_is_told_with_an_interval() -> None:
    scored, qrels = scored_rows(120, {"Good": 0.7, "Bad": 5.0})
    found = fit_blend(scored, qrels)
    assert found["weights"]["Good"] > 0.6
    assert sum(found["weights"].values()) == pytest.approx(1, abs=1e-3)
    assert found["fitted"] - found["equal"] == pytest.approx(found["difference"])
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["p_value"] < 0.05
    assert found["queries"] == 120


def test_what_is_only_chance_is_no_gain_on_queries_that_were_held_out() -> None:
    scored, qrels = scored_rows(60, {"One": 3.0, "Two": 3.0, "Three": 3.0})
    found = fit_blend(scored, qrels)
    assert found["low"] < 0.02
    assert found["p_value"] > 0.05


def test_coordinate_search_finds_what_trying_everything_finds() -> None:
    grid = [(a / 10, (10 - a) / 10) for a in range(11)]

    def quality(weights: tuple[float, ...]) -> np.ndarray:
        return np.array([-((weights[0] - 0.3) ** 2)] * 4)

    assert best_weights(quality, np.arange(4), 2) == max(grid, key=lambda w: quality(w)[0])


def test_rows_of_positives_and_negatives_will_do_and_gaps_are_left_out() -> None:
    scored, qrels = scored_rows(40, {"A": 1.0, "B": 1.0})
    rows = scored.to_list()
    for row in rows:
        ids = row.pop("passage_ids")
        row["pos_ids"], row["neg_ids"] = ids[:1], ids[1:]
    rows[0]["teacher_scores"]["A"] = None
    assert fit_blend(Dataset.from_list(rows), qrels)["queries"] == 39


def test_what_is_missing_is_named() -> None:
    scored, qrels = scored_rows(10, {"A": 1.0, "B": 1.0})
    with pytest.raises(ValueError, match="needs the column 'teacher_scores'"):
        fit_blend(scored.remove_columns("teacher_scores"), qrels)
    with pytest.raises(ValueError, match="needs the column 'pos_ids'"):
        fit_blend(scored.remove_columns("passage_ids"), qrels)
    with pytest.raises(ValueError, match="5 judged and scored queries or more.*found 1 in 10 rows"):
        fit_blend(scored, {"q3": {"p0": 1}})
    with pytest.raises(ValueError, match=r"two members or more, found \['A'\]"):
        fit_blend(scored_rows(10, {"A": 1.0})[0], qrels)
