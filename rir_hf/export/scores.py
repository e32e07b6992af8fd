"""The teacher's raw scores of one row, rescaled as a trainer wants them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rir_hf.core.columns import check_choice
from rir_hf.evaluation.fusion import min_max, z_scores

Rescale = Literal["none", "minmax", "zscore", "softmax"]


def rescaled(scores: np.ndarray, rescale: Rescale, temperature: float = 1.0) -> np.ndarray:
    """The scores of one row, `(passages,)`, rescaled over that row and divided by a temperature.

    `minmax` and `zscore` make zeros of scores that are all equal; `softmax` is taken of what was
    divided.

    Example:
        >>> rescaled(np.array([3.0, 1.0, 2.0]), "minmax").tolist()
        [1.0, 0.0, 0.5]
    """
    if rescale == "softmax":
        weights = np.exp((scores - scores.max()) / temperature)
        return weights / weights.sum()
    if rescale == "minmax":
        scores = min_max(scores)
    elif rescale == "zscore":
        scores = z_scores(scores)
    return scores / temperature


def check_rescale(rescale: str, temperature: float) -> None:
    """Raise `ValueError` for an unknown way, or a temperature that is not above 0."""
    check_choice("rescale", rescale, ("none", "minmax", "zscore", "softmax"))
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
