"""Rows in, parts of them out that share no query, no near query and no positive: to train on, to
choose by and to measure with.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset, DatasetDict

from rir_hf.core.columns import Batch, as_id, require_columns, require_dataset
from rir_hf.core.draws import generator_of
from rir_hf.data.near import check_threshold, first_of_each_group
from rir_hf.mining.positives import read_positives
from rir_hf.schema import ID, PASSAGE, POS, POS_IDS, QUERY_ID, TEXT

logger = logging.getLogger(__name__)

NEAR = 0.8
"""From this Jaccard similarity on two texts are one; see `near_duplicates`."""

_ROWS_AT_ONCE = 1000


def split_by_group(
    rows: Dataset,
    shares: Mapping[str, float],
    *,
    corpus: Dataset | None = None,
    query: str = "query",
    threshold: float | None = NEAR,
    seed: int = 0,
) -> DatasetDict:
    """Split rows so that what is measured on one side was not seen on another.

    Rows stay together that have the same `query_id`, the same or nearly the same query, or a
    positive in common, by id or by the same or nearly the same text (`pos`, `passage`, `pos_ids`);
    directly, or by way of other rows. The split depends on the seed and on what the rows hold, not
    on their order.

    Args:
        rows: pairs, mined or scored rows, or queries alone.
        shares: the share of the rows that each part has, which add up to 1. The largest part takes
            the groups that fit into no other, so that the others have at most their share.
        corpus: passages with `id` and `text`: with them, positives that are known by `pos_ids`
            alone are one where their texts are nearly the same, too.
        query: column of the queries.
        threshold: from which similarity texts are nearly the same, as for `near_duplicates`; None:
            the same texts alone.
        seed: of the draw, 0 or more.

    Returns:
        The parts under their names, each with its rows in their order.

    Raises:
        TypeError: several splits, or a stream.
        ValueError: a column is missing, or the shares are not above 0 or do not add up to 1.

    Example:
        >>> rows = Dataset.from_dict({
        ...     "query": ["who wrote it", "Who wrote it?", "when was it", "how long is it", "why"],
        ...     "pos_ids": [["a"], ["b"], ["b"], ["c"], ["d"]],
        ... })
        >>> parts = split_by_group(rows, {"train": 0.6, "dev": 0.2, "test": 0.2})
        >>> {name: part["query"][:] for name, part in parts.items()}["train"]
        ['who wrote it', 'Who wrote it?', 'when was it']
    """
    require_dataset(rows, "split_by_group")
    require_columns(rows, [query], "split_by_group")
    check_threshold(threshold)
    if not shares or min(shares.values()) <= 0 or not math.isclose(sum(shares.values()), 1):
        raise ValueError(f"shares must be above 0 and add up to 1, got {dict(shares)}.")
    if corpus is not None:
        require_columns(corpus, [ID.name, TEXT.name], "split_by_group")
    groups = _in_order_of_content(*_groups_and_digests(rows, query, threshold, corpus))
    largest = max(shares, key=lambda name: shares[name])
    others = [name for name in shares if name != largest]
    drawn = draw_groups(groups, [round(shares[name] * len(rows)) for name in others], seed)
    positions = dict(zip(others, drawn, strict=True))
    positions[largest] = np.setdiff1d(np.arange(len(rows)), np.concatenate([[], *drawn]))
    for name in shares:
        if not len(positions[name]):
            logger.warning("split_by_group: %r is empty: no group of rows is that small.", name)
    return DatasetDict({name: rows.select(positions[name]) for name in shares})


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


def groups_of_pairs(pairs: Dataset) -> np.ndarray:
    """For each pair a number that it shares with all that have the same or nearly the same query,
    or one of its positives by id, directly or by way of others.

    Example:
        >>> pairs = Dataset.from_dict({
        ...     "query": ["who wrote it", "Who wrote it?", "other", "else"],
        ...     "pos_ids": [["a"], ["b"], ["b", "c"], ["d"]],
        ... })
        >>> groups_of_pairs(pairs).tolist()
        [0, 0, 0, 3]
    """
    return joined(first_of_each_group(pairs, "query", NEAR), pairs["pos_ids"])


def joined(groups: np.ndarray, names: Iterable[Sequence[Hashable] | None]) -> np.ndarray:
    """The groups, those made one whose rows have a name in common.

    Args:
        groups: for each row the first one of its group, `(rows,)`.
        names: of each row.

    Example:
        >>> joined(np.array([0, 0, 2, 3]), [["a"], ["b"], ["b", "c"], ["d"]]).tolist()
        [0, 0, 0, 3]
    """
    parents = groups.tolist()

    def root(row: int) -> int:
        while parents[row] != row:
            row = parents[row]
        return row

    first: dict[Hashable, int] = {}
    for row, of_row in enumerate(names):
        for name in of_row or []:
            one, other = sorted((root(row), root(first.setdefault(name, row))))
            parents[other] = one
    return np.array([root(row) for row in range(len(parents))], np.int64)


def _groups_and_digests(
    rows: Dataset, query: str, threshold: float | None, corpus: Dataset | None
) -> tuple[np.ndarray, np.ndarray]:
    """The group of each row, and a number of its content."""
    found = rows.select_columns(
        [name for name in (query, QUERY_ID.name, POS.name, PASSAGE.name, POS_IDS.name)
         if name in rows.column_names]
    ).with_format(None)  # fmt: skip
    names: list[list[tuple[str, Any]]] = []
    digests: list[int] = []
    for start in range(0, len(found), _ROWS_AT_ONCE):
        batch = Batch(found[start : start + _ROWS_AT_ONCE], "split_by_group")
        for queried, of_row in zip(batch.texts(query), _names_of(batch), strict=True):
            names.append(of_row)
            digests.append(xxhash.xxh64_intdigest(repr((queried, of_row)).encode()))
    if corpus is not None:
        _add_texts(names, corpus)
    elif threshold is not None and {POS.name, PASSAGE.name}.isdisjoint(found.column_names):
        _warn_of_ids(names)
    texts = sorted({text for of_row in names for kind, text in of_row if kind == "text"})
    near = first_of_each_group(Dataset.from_dict({"text": texts}), "text", threshold)
    first = dict(zip(texts, near.tolist(), strict=True))
    near_names = (
        [(kind, first[name] if kind == "text" else name) for kind, name in of_row]
        for of_row in names
    )
    groups = joined(first_of_each_group(found, query, threshold), near_names)
    return groups, np.array(digests, np.uint64)


def _warn_of_ids(names: Iterable[Iterable[tuple[str, Any]]]) -> None:
    if any(kind == "id" for of_row in names for kind, _ in of_row):
        logger.warning(
            "split_by_group: the positives are known by id alone, so nearly the same passages may "
            "be on two sides: give the corpus (--corpus)."
        )


def _add_texts(names: list[list[tuple[str, Any]]], corpus: Dataset) -> None:
    """Add to the ids among the names of each row the texts that a corpus has for them."""
    wanted = {name for of_row in names for kind, name in of_row if kind == "id"}
    known: dict[str | None, str | None] = {}
    for batch in corpus.select_columns([ID.name, TEXT.name]).with_format(None).iter(_ROWS_AT_ONCE):
        pairs = zip(batch[ID.name], batch[TEXT.name], strict=True)
        known.update((as_id(id), text) for id, text in pairs if as_id(id) in wanted)
    for of_row in names:
        ids = [name for kind, name in of_row if kind == "id"]
        of_row += [("text", known[id]) for id in ids if known.get(id)]


def _names_of(batch: Batch) -> list[list[tuple[str, Any]]]:
    """What each row of a batch must not share with another side: its query's id, its positives."""
    queries: list[str | None] = [None] * len(batch)
    if QUERY_ID.name in batch:
        queries = [as_id(value) for value in batch.values_of(QUERY_ID.name)]
    texts: Sequence[Sequence[str | None]] = [()] * len(batch)
    ids = texts
    if any(column.name in batch for column in (POS, PASSAGE, POS_IDS)):
        texts, ids = read_positives(batch)
    found = []
    for query, row_texts, row_ids in zip(queries, texts, ids, strict=True):
        named = [("query", query), *(("text", text) for text in row_texts)]
        named += [("id", id) for id in row_ids]
        found.append([(kind, name) for kind, name in named if name])
    return found


def _in_order_of_content(groups: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """The groups numbered by the least digest of their rows, whatever the order of these."""
    names, own = np.unique(groups, return_inverse=True)
    least = np.full(len(names), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, own, digests)
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(least, kind="stable")] = np.arange(len(names))
    return rank[own]
