"""The teacher's raw scores of one row, rescaled as a trainer wants them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rir_hf.core.columns import check_choice
from rir_hf.teaching.blend import z_scores

Rescale = Literal["none", "minmax", "zscore", "softmax"]


def rescaled(scores: np.ndarray, rescale: Rescale, temperature: float = 1.0) -> np.ndarray:
    """The scores of one row, `(passages,)`, rescaled over that row.

    `minmax` and `zscore` make zeros of scores that are all equal.

    Example:
        >>> rescaled(np.array([3.0, 1.0, 2.0]), "minmax").tolist()
        [1.0, 0.0, 0.5]
    """
    if rescale == "minmax":
        width = np.ptp(scores)
        return (scores - scores.min()) / width if width > 0 else np.zeros(len(scores))
    if rescale == "zscore":
        return z_scores(scores)
    if rescale == "softmax":
        weights = np.exp((scores - scores.max()) / temperature)
        return weights / weights.sum()
    return scores


def check_rescale(rescale: str, temperature: float) -> None:
    """Raise `ValueError` for an unknown way, or a temperature that does not go with it."""
    check_choice("rescale", rescale, ("none", "minmax", "zscore", "softmax"))
    if not temperature > 0 or (temperature != 1 and rescale != "softmax"):
        raise ValueError(
            f'temperature must be above 0 and goes with rescale="softmax", got {temperature} and '
            f"{rescale!r}."
        )
