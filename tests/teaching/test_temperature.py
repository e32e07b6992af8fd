"""The temperature of a teacher, against a search of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from rir_hf.teaching.temperature import HIGHEST, LOWEST, fit_temperature, log_share


def rows_of(*pairs: tuple[list[float] | None, list[float] | None]) -> Dataset:
    """Rows with the scores of positives and negatives."""
    return Dataset.from_dict(
        {"pos_scores": [pos for pos, _ in pairs], "neg_scores": [neg for _, neg in pairs]}
    )


def best_of_grid(rows: Dataset) -> float:
    """The likeliest of 2,000 temperatures."""
    grid = np.geomspace(LOWEST, HIGHEST, 2000)
    likelihoods = np.zeros(len(grid))
    for pos, neg in zip(rows["pos_scores"], rows["neg_scores"], strict=True):
        own = sum(np.exp(score / grid) for score in pos)
        others = sum(np.exp(score / grid) for score in neg)
        likelihoods += np.log(own / (own + others))
    return float(grid[likelihoods.argmax()])


@pytest.mark.parametrize("scale", [0.5, 1.0, 5.0])
def test_the_fit_is_the_best_of_a_plain_search(scale: float) -> None:
    draws = np.random.default_rng(0)
    pairs = []
    for row in range(40):
        pos = draws.normal(1.0, 1.0, 1 + row % 2) * scale
        neg = draws.normal(0.0, 1.0, 5) * scale
        pairs.append((pos.tolist(), neg.tolist()))
    rows = rows_of(*pairs)
    assert fit_temperature(rows) == pytest.approx(best_of_grid(rows), rel=0.01)


def test_a_teacher_whose_scores_are_twice_as_far_apart_gets_twice_the_temperature() -> None:
    pairs = [([2.0], [1.0]), ([1.0], [2.0]), ([2.0], [0.5])]
    twice = [([2 * x for x in pos], [2 * x for x in neg]) for pos, neg in pairs]
    assert fit_temperature(rows_of(*twice)) == pytest.approx(2 * fit_temperature(rows_of(*pairs)))


def test_a_teacher_that_is_always_right_gets_the_lowest_and_one_that_is_not_the_highest() -> None:
    assert fit_temperature(rows_of(([1.0], [0.0]))) == pytest.approx(LOWEST, rel=0.01)
    assert fit_temperature(rows_of(([0.0], [1.0]))) == pytest.approx(HIGHEST, rel=0.01)


def test_rows_without_scores_do_not_count() -> None:
    pairs = [([2.0], [1.0]), ([1.0], [2.0]), ([2.0], [0.5])]
    others = [(None, None), ([9.0], []), ([9.0], None), ([], [9.0])]
    assert fit_temperature(rows_of(*pairs, *others)) == fit_temperature(rows_of(*pairs))


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(ValueError, match="no row has scores of a positive and of a negative"):
        fit_temperature(rows_of((None, None)))
    with pytest.raises(ValueError, match="fit_temperature needs the column 'neg_scores'"):
        fit_temperature(Dataset.from_dict({"pos_scores": [[1.0]]}))
    with pytest.raises(TypeError, match="fit_temperature takes one Dataset, got DatasetDict"):
        fit_temperature(DatasetDict())


def test_a_share_of_several_positives_is_their_sum() -> None:
    scores = np.log([1.0, 2.0, 5.0])
    assert np.exp(log_share(scores, 1)) == pytest.approx(1 / 8)
    assert np.exp(log_share(scores, 2)) == pytest.approx(3 / 8)
    assert log_share(np.array([1000.0, 0.0]), 2) == 0.0
