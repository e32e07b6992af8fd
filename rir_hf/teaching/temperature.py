"""Scored rows whose positives are known in, the temperature at which the scores are probabilities
out.
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import require_columns, require_dataset, without_indexes
from rir_hf.schema import NEG_SCORES, POS_SCORES

LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(rows: Dataset) -> float:
    """The temperature of a teacher's softmax that makes known positives likeliest.

    A student of `DistillKLDivLoss` learns `softmax(scores / temperature)`: too low a temperature
    says that the teacher's favourite is always right, too high a one that it knows nothing. This is
    temperature scaling (Guo et al. 2017), fitted on rows with labels, a dev split for example; of
    several positives their probabilities are added.

    Args:
        rows: with `pos_scores` and `neg_scores`, as `ScorePassages` adds them. Rows without scores,
            or with one that is not a number, are not looked at.

    Returns:
        The temperature, from 0.05 to 20: pass it to `train_retriever(..., rescale="none",
        teacher_temperature=...)`.

    Raises:
        TypeError: several splits, or a stream.
        ValueError: a column is missing, or no row has a positive and a negative with scores.

    Example:
        >>> rows = {"pos_scores": [[2.0], [1.0], [2.0]], "neg_scores": [[1.0], [2.0], [0.5]]}
        >>> round(fit_temperature(Dataset.from_dict(rows)), 2)
        1.31
    """
    from scipy.optimize import minimize_scalar

    scored = _scored(rows)

    def unlikelihood(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        return -sum(log_share(scores / temperature, first) for scores, first in scored)

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    return float(np.exp(minimize_scalar(unlikelihood, bounds=bounds, method="bounded").x))


def gain_over_chance(rows: Dataset, temperature: float) -> float:
    """How much likelier the softmax of a teacher makes known positives than chance does: the mean
    over the rows of `fit_temperature`, in nats. 0: the teacher knows nothing of them.

    Example:
        >>> rows = Dataset.from_dict({"pos_scores": [[2.0]], "neg_scores": [[1.0, 1.0]]})
        >>> round(gain_over_chance(rows, 0.5), 2)
        0.86
    """
    gains = [
        log_share(scores / temperature, first) - np.log(first / len(scores))
        for scores, first in _scored(rows)
    ]
    return float(np.mean(gains))


def _scored(rows: Dataset) -> list[tuple[np.ndarray, int]]:
    """The scores of each row that has some, positives first, and the number of these."""
    require_dataset(rows, "fit_temperature")
    require_columns(rows, [POS_SCORES.name, NEG_SCORES.name], "fit_temperature")
    rows = without_indexes(rows).with_format(None)
    scored = [
        (np.array([*positives, *negatives], np.float64), len(positives))
        for positives, negatives in zip(rows["pos_scores"], rows["neg_scores"], strict=True)
        if positives and negatives
    ]
    scored = [(scores, first) for scores, first in scored if np.isfinite(scores).all()]
    if not scored:
        raise ValueError("fit_temperature: no row has scores of a positive and of a negative.")
    return scored


def log_share(scores: np.ndarray, first: int) -> float:
    """The logarithm of what the first so many have of the softmax of all.

    Example:
        >>> round(float(np.exp(log_share(np.array([0.0, 0.0, 0.0, 0.0]), 1))), 2)
        0.25
    """
    return float(np.logaddexp.reduce(scores[:first]) - np.logaddexp.reduce(scores))
