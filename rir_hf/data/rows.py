"""Rows with lists in, a row for each element out: how the queries of a passage become pairs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    List,
    Value,
)

from rir_hf.core.columns import cached, is_of_tables, without_indexes

logger = logging.getLogger(__name__)

Rows = TypeVar("Rows", Dataset, DatasetDict, IterableDataset, IterableDatasetDict)

_CORPUS_TO_PAIRS = {"text": "passage", "id": "pos_ids"}
_ROWS_AT_ONCE = 1000


def unnest(ds: Rows, columns: Mapping[str, str]) -> Rows:
    """Make a row of each element of lists: `{"queries": "query"}` makes pairs of a corpus.

    The listed columns are unfolded together and renamed, all others repeated; types stay as they
    are. A row whose list is empty or null gives no row; the log says how many there are. The result
    is kept in the `datasets` cache.

    Of a corpus (it has `text` and neither `passage` nor `pos`) that is unfolded into `query`, pairs
    are made: `text` becomes `passage`, `id` becomes `pos_ids`, a list of one id, and the passage's
    `embedding` is left out, since mining would read it as the query's.

    Args:
        ds: a `Dataset`, `DatasetDict`, `IterableDataset` or `IterableDatasetDict`.
        columns: the columns to unfold, each with its new name. Several must have lists of equal
            lengths in each row.

    Returns:
        The rows, of the same class. A stream counts nothing in the log.

    Raises:
        ValueError: a column is missing, holds no lists or would be there twice; lists of one row
            differ in length. For a stream without `features`, when it is read.

    Example:
        >>> corpus = Dataset.from_list([
        ...     {"id": "a", "text": "Sun.", "queries": ["What shines?", "Hot?"]},
        ...     {"id": "b", "text": "Rain.", "queries": []},
        ... ])
        >>> for row in unnest(corpus, {"queries": "query"}):
        ...     print(row)
        {'pos_ids': ['a'], 'passage': 'Sun.', 'query': 'What shines?'}
        {'pos_ids': ['a'], 'passage': 'Sun.', 'query': 'Hot?'}
    """
    if not columns:
        raise ValueError("unnest needs the columns to unfold, got none.")
    if isinstance(ds, (DatasetDict, IterableDatasetDict)):
        return type(ds)({name: unnest(part, columns) for name, part in ds.items()})
    if isinstance(ds, IterableDataset):
        return _unnest_stream(ds, columns)
    return _unnest_rows(ds, columns)


def unfold(table: pa.Table, row_numbers: list[int], columns: dict[str, str]) -> pa.Table:
    """The rows that `unnest` makes of a batch, for `map` on a dataset in Arrow's format.

    Args:
        table: the batch.
        row_numbers: of its rows in the dataset, for errors.
        columns: as for `unnest`.
    """
    targets = target_names(table.column_names, columns)
    _check_lists(table.schema, columns)
    lists = {source: _as_lists(table.column(source)) for source in columns}
    _check_equal_lengths(lists, row_numbers)
    parents = pc.list_parent_indices(next(iter(lists.values())))
    unfolded = {}
    for source, target in targets.items():
        if source in lists:
            unfolded[target] = pc.list_flatten(lists[source])
        else:
            repeated = table.column(source).take(parents)
            unfolded[target] = (
                _lists_of_one(repeated) if target == "pos_ids" != source else repeated
            )
    return pa.table(unfolded)


def target_names(names: Iterable[str], columns: Mapping[str, str]) -> dict[str, str]:
    """The name that each column has afterwards, for those that stay.

    Raises:
        ValueError: a column is missing, or two would have the same name.

    Example:
        >>> target_names(["id", "text", "embedding", "queries"], {"queries": "query"})
        {'id': 'pos_ids', 'text': 'passage', 'queries': 'query'}
        >>> target_names(["id", "passage", "answers"], {"answers": "answer"})
        {'id': 'id', 'passage': 'passage', 'answers': 'answer'}
    """
    names = list(names)
    missing = [source for source in columns if source not in names]
    if missing:
        raise ValueError(
            f"unnest needs the column {missing[0]!r}, but the dataset has only {sorted(names)}."
        )
    is_corpus = "text" in names and not {"pos", "passage"} & set(names)
    renamed = dict(columns)
    if is_corpus and "query" in columns.values():
        names = [name for name in names if name != "embedding" or name in columns]
        renamed = {**_CORPUS_TO_PAIRS, **columns}
    targets = {name: renamed.get(name, name) for name in names}
    twice = [name for name, count in Counter(targets.values()).items() if count > 1]
    if twice:
        raise ValueError(
            f"unnest would make two columns {twice[0]!r} of {sorted(targets)}: rename or remove "
            "the one that is there."
        )
    return targets


def _unnest_rows(ds: Dataset, columns: Mapping[str, str]) -> Dataset:
    features = _features_after(ds.features, columns)
    format_before = ds.format
    ds = without_indexes(ds)
    if len(ds) == 0:
        return _without_rows(ds, features)
    options = {"features": features, "desc": "unnest", **_how_to_map(columns)}
    rows = cached(ds.with_format("arrow"), "map", unfold, **options)
    _log_empty_lists(ds, next(iter(columns)))
    return rows.with_format(format_before["type"], **format_before["format_kwargs"])


def _unnest_stream(ds: IterableDataset, columns: Mapping[str, str]) -> IterableDataset:
    how = _how_to_map(columns)
    if ds.features is None:
        # Neither types nor columns are known before it is read.
        names = list(next(iter(ds), {}))
        return ds.map(_unfold_values, remove_columns=names, **how)
    features = _features_after(ds.features, columns)
    if is_of_tables(ds):
        return ds.with_format("arrow").map(unfold, features=features, **how).with_format(None)
    # A stream that was mapped has values, and as tables it would fail at a batch of nulls alone.
    how["fn_kwargs"]["schema"] = ds.features.arrow_schema
    names = list(ds.features)
    return ds.with_format(None).map(_unfold_values, features=features, remove_columns=names, **how)


def _how_to_map(columns: Mapping[str, str]) -> dict[str, Any]:
    return {
        "batched": True,
        "batch_size": _ROWS_AT_ONCE,
        "with_indices": True,
        "fn_kwargs": {"columns": dict(columns)},
    }


def _unfold_values(
    batch: dict[str, list[Any]],
    row_numbers: list[int],
    columns: dict[str, str],
    schema: pa.Schema | None = None,
) -> dict[str, list[Any]]:
    """`unfold` for a batch of Python values."""
    return unfold(pa.Table.from_pydict(batch, schema), row_numbers, columns).to_pydict()


def _features_after(features: Features, columns: Mapping[str, str]) -> Features:
    """The columns and types of the result; the checks that need no row are made here."""
    targets = target_names(features, columns)
    _check_lists(features.arrow_schema, columns)
    after = {}
    for source, target in targets.items():
        feature = features[source]
        if source in columns:
            after[target] = feature if feature == Value("null") else feature.feature
        else:
            after[target] = List(feature) if target == "pos_ids" != source else feature
    return Features(after)


def _without_rows(ds: Dataset, features: Features) -> Dataset:
    """A dataset of these columns without a row, which `map` does not make of one."""
    info = ds.info.copy()
    info.features = features
    return Dataset.from_dict({name: [] for name in features}, info=info, split=ds.split)


def _log_empty_lists(ds: Dataset, source: str) -> None:
    empty = 0
    for table in ds.select_columns([source]).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        lengths = _lengths_of(_as_lists(table.column(source)))
        empty += int((lengths == 0).sum())
    if empty:
        message = "unnest: %d of %d rows have an empty list in %r and give no row."
        logger.warning(message, empty, len(ds), source)


def _check_lists(schema: pa.Schema, columns: Iterable[str]) -> None:
    for source in columns:
        kind = schema.field(source).type
        is_list = (
            pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)
            or pa.types.is_null(kind)
        )
        if not is_list:
            raise ValueError(f"unnest: the column {source!r} must hold lists, found {kind}.")


def _check_equal_lengths(lists: Mapping[str, pa.ChunkedArray], row_numbers: list[int]) -> None:
    first, *others = lists
    lengths = _lengths_of(lists[first])
    for other in others:
        found = _lengths_of(lists[other])
        wrong = np.flatnonzero(found != lengths)
        if len(wrong):
            row = wrong[0]
            raise ValueError(
                f"unnest: row {row_numbers[row]} has {lengths[row]} elements in {first!r} and "
                f"{found[row]} in {other!r}; columns unfold together only where their lists are "
                "equally long."
            )


def _lengths_of(lists: pa.ChunkedArray) -> np.ndarray:
    """The length of each list, 0 for a null."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy()


def _as_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column itself; one of nulls alone, which has no type yet, as lists of nothing."""
    return column.cast(pa.list_(pa.null())) if pa.types.is_null(column.type) else column


def _lists_of_one(column: pa.ChunkedArray) -> pa.Array:
    """Each value in a list of its own; null for a null."""
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    offsets = pa.array(np.arange(len(values) + 1), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=values.is_null())
