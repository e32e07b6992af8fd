"""A batch of a dataset in, its columns as texts, lists and vectors out; and what `Dataset` keeps
under private names.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher
from datasets.search import BaseIndex

from rir_hf.core.texts import is_whole, whole

logger = logging.getLogger(__name__)

_ROWS_PER_DIGEST = 8192
_ROWS_AT_ONCE = 1000


class Batch:
    """The columns of some rows, as a step reads them.

    Columns are read from Arrow where they lie in it (a batch of `Dataset.map`, a table), so that
    reading one leaves the others alone. Every method says in its errors which step wanted which
    column.

    Args:
        columns: a dict of lists, the lazy batch that `Dataset.map` hands to a function, or an Arrow
            table.
        who: name of the step, for errors.
    """

    def __init__(self, columns: Mapping[str, Any] | pa.Table, who: str) -> None:
        self.who = who
        self._columns = columns
        self._table: pa.Table | None = (
            columns if isinstance(columns, pa.Table) else getattr(columns, "pa_table", None)
        )

    def __getitem__(self, name: str) -> list[Any]:
        return self.values_of(name)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(
            self._columns.column_names if isinstance(self._columns, pa.Table) else self._columns
        )

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __len__(self) -> int:
        """The number of rows."""
        if self._table is not None:
            return int(self._table.num_rows)
        return len(self._columns[self.names[0]]) if self.names else 0

    def require(self, *names: str) -> None:
        """Raise `ValueError` where a column is missing, naming those that are there."""
        missing = [name for name in names if name not in self]
        if missing:
            raise ValueError(
                f"{self.who} needs the column {missing[0]!r}, but the dataset has only "
                f"{sorted(self.names)}."
            )

    def values_of(self, name: str) -> list[Any]:
        """The values of a column as a Python list, whatever the dataset's format.

        A text that is no valid Unicode has halves of surrogate pairs in place of what is not, as
        `rir_hf.core.texts.is_whole` tells.
        """
        self.require(name)
        stored = self._stored(name)
        if stored is not None:
            return values_in(stored)
        return [_plain(value) for value in _plain(self._columns[name])]

    def texts(self, name: str) -> list[str | None]:
        """The values of a text column; `ValueError` where one is neither a text nor null."""
        values = self.values_of(name)
        for value in values:
            if value is not None and not isinstance(value, str):
                raise ValueError(
                    f"{self.who}: the column {name!r} must hold texts, found "
                    f"{type(value).__name__} {value!r:.60}. Name the column that holds the text."
                )
        return values

    def is_of_lists(self, name: str) -> bool:
        """Whether a column holds lists: by its Arrow type, or where it has none by its values."""
        self.require(name)
        stored = self._stored(name)
        if stored is not None:
            return pa.types.is_list(stored.type) or pa.types.is_large_list(stored.type)
        return any(isinstance(value, (list, tuple)) for value in self.values_of(name))

    def lists(self, name: str) -> list[list[Any]]:
        """The values of a column of lists, a null as an empty list; `ValueError` where one is no
        list.
        """
        rows = self.values_of(name)
        for row in rows:
            if row is not None and not isinstance(row, (list, tuple)):
                raise ValueError(
                    f"{self.who}: the column {name!r} must hold a list per row, found "
                    f"{type(row).__name__} {row!r:.60}. Put a single value into a list of one."
                )
        return [[] if row is None else list(row) for row in rows]

    def lists_of_texts(self, name: str) -> list[list[Any]]:
        """The same, `ValueError` where a list holds something that is neither a text nor null."""
        return self.checked_texts(name, self.lists(name))

    def checked_texts(self, name: str, rows: list[list[Any]]) -> list[list[Any]]:
        """Lists that were made of a column's values, if they hold texts and nulls alone."""
        for row in rows:
            for value in row:
                if value is not None and not isinstance(value, str):
                    raise ValueError(
                        f"{self.who}: the column {name!r} must hold lists of texts, found "
                        f"{type(value).__name__} {value!r:.60} in one."
                    )
        return rows

    def vectors(self, name: str, dimension: int) -> np.ndarray:
        """The values of a vector column, `(rows, dimension)` float32; a null is a row of NaN.

        Raises:
            ValueError: something that is not a vector, or vectors of another dimension.
        """
        self.require(name)
        stored = self._stored(name)
        if stored is not None:
            vectors = vectors_of(stored)
            if vectors is not None and vectors.shape[1] == dimension:
                return vectors
        values = self._columns[name] if stored is None else stored.to_pylist()
        found = {_length_of(value) for value in values if value is not None}
        if found - {dimension}:
            seen = "something else" if None in found else f"vectors of {sorted(map(str, found))}"
            raise ValueError(
                f"{self.who}: the column {name!r} must hold vectors of {dimension} numbers, as "
                f"those of the index, found {seen}. Both must come from the same retriever."
            )
        missing = np.full(dimension, np.nan, np.float32)
        rows = [missing if value is None else np.asarray(value, np.float32) for value in values]
        return np.array(rows, np.float32).reshape(len(rows), dimension)

    def _stored(self, name: str) -> pa.ChunkedArray | None:
        """The Arrow column, unless the value was set after the batch was read."""
        unread = getattr(self._columns, "keys_to_format", (name,))
        is_stored = self._table is not None and name in unread and name in self._table.column_names
        return self._table.column(name) if self._table is not None and is_stored else None


class Typed(list[Any]):
    """A list of values that knows the Arrow type of its column.

    `datasets` takes the type of a column from the first batch it writes: one without any value
    would fix the type "null" and fail at the first value that follows. A list that tells its type
    does not. A half of a surrogate pair, which Arrow cannot store, becomes the replacement
    character.
    """

    def __init__(self, values: Iterable[Any], kind: pa.DataType) -> None:
        super().__init__(values)
        self.kind = kind

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        try:
            return pa.array(list(self), type=type or self.kind)
        except UnicodeEncodeError:
            return pa.array([_storable(value) for value in self], type=type or self.kind)


def arrow_of(values: Any, kind: pa.DataType) -> pa.Array:
    """The values of a batch as an array of the column's type; a matrix goes without lists."""
    if not (isinstance(values, np.ndarray) and values.ndim == 2):
        return pa.array(values, kind)
    rows, width = values.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * width
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def values_in(column: pa.ChunkedArray) -> list[Any]:
    """The values of an Arrow column, also where a text in it is no valid Unicode; see
    `Batch.values_of`.
    """
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_decoded(value) for value in column.cast(_of_bytes(column.type)).to_pylist()]


def stored_values(ds: Dataset, name: str) -> Iterator[Any]:
    """The values of a column one by one, read many at a time: several times faster than going
    through it, and never all in memory.
    """
    rows = without_indexes(ds).select_columns([name]).with_format("arrow")
    for table in rows.iter(_ROWS_AT_ONCE):
        yield from values_in(table.column(0))


def is_of_tables(ds: IterableDataset) -> bool:
    """Whether a stream is read as Arrow tables, as files are, and not value by value."""
    return getattr(ds._ex_iterable, "iter_arrow", None) is not None


def valid_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts, null in place of one that is no valid Unicode."""
    if are_valid(column):
        return column
    texts = [text if text and is_whole(text) else None for text in values_in(column)]
    return pa.chunked_array([pa.array(texts, column.type)])


def vectors_of(column: pa.ChunkedArray) -> np.ndarray | None:
    """A list-of-floats Arrow column as `(rows, dimension)` float32; None where it has nulls or
    uneven lengths, or no row.
    """
    array = column.combine_chunks()
    kind = array.type
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    if (
        not is_list
        or not pa.types.is_floating(kind.value_type)
        or len(array) == 0
        or array.null_count
    ):
        return None
    flat = array.flatten()
    if flat.null_count or len(flat) == 0 or len(flat) % len(array):
        return None
    dimension = len(flat) // len(array)
    if (
        not pa.types.is_fixed_size_list(kind)
        and not (np.diff(array.offsets.to_numpy()) == dimension).all()
    ):
        return None
    return (
        flat.to_numpy(zero_copy_only=False)
        .reshape(len(array), dimension)
        .astype(np.float32, copy=False)
    )


def fingerprint_of(ds: Dataset) -> str:
    """What `datasets` knows a dataset by.

    The public way, `Hasher.hash(ds)`, depends on the path of the Arrow files and pickles an
    attached index; only the private attribute is the same wherever the files lie (datasets 5.2,
    September 2026).
    """
    return ds._fingerprint


def digest_of_rows(ds: Dataset) -> str:
    """The digest of the columns and values of a dataset, wherever its files lie.

    Example:
        >>> rows, same = Dataset.from_dict({"text": ["a", "b"]}), Dataset.from_dict({"text": ["a"]})
        >>> digest_of_rows(rows.select([0])) == digest_of_rows(same)
        True
    """
    digest = xxhash.xxh3_128()
    for table in without_indexes(ds).with_format("arrow").iter(_ROWS_PER_DIGEST):
        columns = {name: values_in(table.column(name)) for name in table.column_names}
        values = json.dumps(columns, ensure_ascii=False, default=str)
        digest.update(values.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def with_valid_texts(ds: Dataset, who: str) -> Dataset:
    """The same rows, the replacement character in place of what is no valid Unicode in their texts;
    a warning says which columns have such texts.
    """
    broken = [name for name in ds.column_names if not are_valid(ds.data.column(name))]
    if not broken:
        return ds
    message = "%s: texts in %s are not all valid UTF-8; U+FFFD stands in place of what is not."
    logger.warning(message, who, broken)
    rows = cached(ds.with_format("arrow"), "map", mended, batched=True, desc="mended")
    return rows.with_format(None)


def cached(ds: Dataset, method: str, *given: Any, **options: Any) -> Dataset:
    """`ds.METHOD(...)` with its file in the `datasets` cache: alone it writes beside the file of
    the rows, into a user's folder where `load_from_disk` has read them.

    Args:
        ds: the rows; what is made of rows in memory stays there.
        method: `map`, `filter`, `cast` or `flatten_indices`.
        given: its arguments.
        options: its options.

    Example:
        >>> cached(Dataset.from_dict({"number": [1, 0]}), "filter", bool, input_columns="number")[:]
        {'number': [1]}
    """
    if ds.cache_files and datasets.is_caching_enabled():
        key = Hasher.hash([fingerprint_of(ds), method, given, options])
        file = Path(datasets.config.HF_DATASETS_CACHE, "rir_hf", "mapped", f"cache-{key}.arrow")
        options["cache_file_name"] = str(file)
    return getattr(ds, method)(*given, **options)


def without_indexes(ds: Dataset) -> Dataset:
    """The same rows without attached indexes, nothing copied: safe to pickle and to map over.

    `drop_index` would drop them from the caller's dataset too, and `with_format` copies them; hence
    the private attribute.
    """
    bare = copy.copy(ds)
    bare._indexes = {}
    return bare


def with_index(ds: Dataset, name: str, index: BaseIndex) -> Dataset:
    """The same rows with one more index under this name, nothing copied.

    The public `add_faiss_index_from_external_arrays` changes the dataset that it is called on.
    """
    indexed = copy.copy(ds)
    indexed._indexes = {**ds._indexes, name: index}
    return indexed


def stored_rows(ds: Dataset, positions: np.ndarray) -> np.ndarray:
    """Where the rows at these positions lie in `ds.data`, which knows nothing of `select`; no
    public name tells.
    """
    selected = ds._indices
    return (
        positions
        if selected is None
        else selected.column(0).take(pa.array(positions)).to_numpy().astype(np.int64)
    )


def require_dataset(rows: Any, who: str) -> None:
    """Raise `TypeError` where several splits or a stream are given."""
    if not isinstance(rows, Dataset):
        raise TypeError(
            f"{who} takes one Dataset, got {type(rows).__name__}: name the split, or load the "
            "stream."
        )


def require_columns(ds: Dataset, names: Iterable[str], who: str) -> None:
    """Raise `ValueError` where a dataset lacks a column, naming those that are there."""
    missing = [name for name in names if name not in ds.column_names]
    if missing:
        raise ValueError(
            f"{who} needs the column {missing[0]!r}, but the dataset has only "
            f"{sorted(ds.column_names)}."
        )


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise `ValueError` for an option below its least value, or not a number."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise `ValueError` for an option that is none of its choices."""
    if value not in tuple(choices):
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {value!r}.")


def mended(table: pa.Table) -> pa.Table:
    """A table in which each text is valid Unicode, the replacement character in place of what is
    not; the same one where nothing is.
    """
    for place, name in enumerate(table.column_names):
        column = table.column(name)
        if not are_valid(column):
            values = [_storable(value) for value in values_in(column)]
            table = table.set_column(place, name, pa.array(values, column.type))
    return table


def are_valid(column: pa.ChunkedArray) -> bool:
    """Whether all texts in a column are valid Unicode; Arrow does not look when it reads one."""
    if _of_bytes(column.type) == column.type:
        return True
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _of_bytes(kind: pa.DataType) -> pa.DataType:
    """The same type with bytes in place of texts."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_of_bytes(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_of_bytes(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_of_bytes(kind.value_type))
    return kind


def _decoded(value: Any) -> Any:
    """A value with bytes as texts."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return _with_texts(value, _decoded)


def _storable(value: Any) -> Any:
    """A value with each text in it as Arrow can store it."""
    return whole(value) if isinstance(value, str) else _with_texts(value, _storable)


def _with_texts(value: Any, change: Callable[[Any], Any]) -> Any:
    """A list or dict with its values changed; anything else as it is."""
    if isinstance(value, Mapping):
        return {name: change(item) for name, item in value.items()}
    return [change(item) for item in value] if isinstance(value, (list, tuple)) else value


def as_id(value: object) -> str | None:
    """An id as a text; None for a null. Integers beside nulls are floats in pandas, where a null is
    NaN.

    Example:
        >>> [as_id(value) for value in (7, 7.0, float("nan"), "7.0")]
        ['7', '7', None, '7.0']
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)


def _plain(value: Any) -> Any:
    """An array or tensor as a list, also in a dict; anything else as it is."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list) and not isinstance(next(iter(value), None), (int, float, str)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _length_of(value: Any) -> int | None:
    return len(value) if hasattr(value, "__len__") and not isinstance(value, str) else None
