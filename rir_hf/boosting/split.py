"""Rows and their groups in, the rows of a few whole groups out: what is set aside to judge with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from rir_hf.core.draws import generator_of
from rir_hf.data.near import first_of_each_group

NEAR = 0.8
"""From this Jaccard similarity on two texts are one; see `near_duplicates`."""


def draw_groups(groups: np.ndarray, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Whole groups drawn for several parts, so that no group is in two of them or in the rest.

    Args:
        groups: number of each row's group, `(rows,)`.
        sizes: rows that each part has at most; a group that does not fit stays in the rest.
        seed: of the draw.

    Returns:
        For each part the positions of its rows, in order.

    Example:
        >>> dev, test = draw_groups(np.array([0, 0, 1, 2, 3]), [1, 2], seed=0)
        >>> dev.tolist(), test.tolist()
        ([3], [0, 1])
    """
    names, counts = np.unique(groups, return_counts=True)
    order = generator_of(seed, "groups").permutation(len(names))
    parts: list[np.ndarray] = []
    taken: set[int] = set()
    for size in sizes:
        chosen: list[int] = []
        room = size
        for group in order:
            if group not in taken and counts[group] <= room:
                chosen.append(names[group])
                taken.add(group)
                room -= counts[group]
        parts.append(np.flatnonzero(np.isin(groups, chosen)))
    return parts


def groups_of_passages(corpus: Dataset) -> np.ndarray:
    """For each passage the first one with the same or nearly the same text."""
    return first_of_each_group(corpus, "text", NEAR)


def groups_of_pairs(pairs: Dataset) -> np.ndarray:
    """For each pair a number that it shares with all that have the same or nearly the same query,
    or one of its positives, directly or by way of others.

    Example:
        >>> pairs = Dataset.from_dict({
        ...     "query": ["who wrote it", "Who wrote it?", "other", "else"],
        ...     "pos_ids": [["a"], ["b"], ["b", "c"], ["d"]],
        ... })
        >>> groups_of_pairs(pairs).tolist()
        [0, 0, 0, 3]
    """
    parents = first_of_each_group(pairs, "query", NEAR).tolist()

    def root(row: int) -> int:
        while parents[row] != row:
            row = parents[row]
        return row

    first: dict[str, int] = {}
    for row, names in enumerate(pairs["pos_ids"]):
        for name in names or []:
            one, other = sorted((root(row), root(first.setdefault(name, row))))
            parents[other] = one
    return np.array([root(row) for row in range(len(parents))], np.int64)


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
