"""Passages in, those out from which queries are written."""

from __future__ import annotations

import numpy as np

from rir_hf.core.draws import generator_of


def cover(clusters: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Positions drawn from all clusters in turn, so that small ones count as much as large ones.

    Args:
        clusters: number of each passage's cluster, `(passages,)`, -1 for one that is not to be
            drawn.
        number: how many to draw; fewer where there are no more.
        seed: of the draw.

    Example:
        >>> cover(np.array([0, 0, 0, 1, -1]), 2, seed=0).tolist()
        [3, 0]
    """
    generator = generator_of(seed, "passages")
    order = generator.permutation(len(clusters))
    order = order[clusters[order] >= 0]
    turns = np.empty(len(order), np.int64)
    seen: dict[int, int] = {}
    for place, cluster in enumerate(clusters[order].tolist()):
        turns[place] = seen[cluster] = seen.get(cluster, -1) + 1
    return order[np.argsort(turns, kind="stable")][:number]
