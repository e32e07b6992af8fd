"""A corpus and an attached index as search and mining see them: ids and texts by position,
positions by id and by text, and what every kind of index answers.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from rir_hf.core.columns import (
    Batch,
    require_dataset,
    stored_rows,
    valid_texts,
    without_indexes,
)
from rir_hf.core.configured import Configured
from rir_hf.core.provenance import provenance
from rir_hf.index.attach import arrow_columns
from rir_hf.index.exact import Marks, Nearest
from rir_hf.schema import Column

_BLOCK = 8192
_INTEGERS = tuple(f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u"))
View = TypeVar("View", bound="CorpusView")


class CorpusView(Configured, ABC):
    """A corpus with an attached index: `VectorView` or `WordView`.

    It travels to other processes as the dataset and the path of the index file. Its key is the
    corpus's fingerprint and the index's identity.

    Args:
        corpus: dataset with an index attached.
        id: column of passage ids, texts or integers; they come back as texts.
        text: column of passage texts, or None where no texts are needed.

    Raises:
        TypeError: not a dataset.
        ValueError: no such column.
    """

    reads: ClassVar[Column]
    """What it is asked with: the kind of column that a query's vector or words stand in."""

    def __init__(self, corpus: Dataset, id: str, text: str | None) -> None:
        require_dataset(corpus, "A search")
        check_is_text(corpus, id, ("string", "large_string", *_INTEGERS))
        if text is not None:
            check_is_text(corpus, text, ("string", "large_string"))
        self.corpus = without_indexes(corpus)
        self.id = id
        self.text = text
        self.made_by = provenance(corpus)

    @abstractmethod
    def queries_in(self, batch: Batch, column: str) -> np.ndarray:
        """What a column of rows asks, `(rows, ...)`, as the methods below take it."""

    @abstractmethod
    def are_usable(self, queries: np.ndarray) -> np.ndarray:
        """Which queries can be searched with, `(rows,)` bool."""

    @abstractmethod
    def nearest_below(
        self,
        queries: np.ndarray,
        k: int,
        ceilings: np.ndarray | None = None,
        marks: Marks | None = None,
        eligible: np.ndarray | None = None,
    ) -> Nearest:
        """The k best passages of each query at or below its ceiling; see `exact.nearest_below`."""

    @abstractmethod
    def similarities(
        self, queries: np.ndarray, rows: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Similarity of query `rows[i]` with the passage at `positions[i]`, `(pairs,)` float32."""

    def __len__(self) -> int:
        """The number of passages."""
        return len(self.corpus)

    @property
    def text_keys(self) -> np.ndarray:
        """A number per row, `(rows,)` int64: equal for equal texts, 0 for an empty one.

        It is `hash(text)` inside this process, without a text column the row's place, from 1.

        Eight bytes per row stand in for the texts, so that repeats are noticed without holding the
        corpus in memory. The chance that any two of ten million different texts share a number is
        below 1 in 100,000.
        """
        return self._by_text.keys

    @property
    def first_of_each_text(self) -> np.ndarray:
        """Which rows are the first with their text, and not empty, `(rows,)` bool."""
        return self._by_text.is_first

    def values(self, column: str, positions: np.ndarray) -> list[str]:
        """Values of a column at these positions as texts, `""` for a null and for what is no valid
        Unicode.
        """
        if column not in self._columns:
            self._columns[column] = StoredColumn(self.corpus, column)
        taken = self._columns[column].take(positions)
        texts = valid_texts(pa.chunked_array([taken]).cast(pa.large_string()))
        return list(texts.fill_null("").to_pylist())

    def lists_of(self, column: str, positions: Sequence[np.ndarray]) -> list[list[str]]:
        """The values of a column at the positions of each row, all read at once."""
        joined = np.concatenate([*positions, np.empty(0, np.int64)]).astype(np.int64)
        values = self.values(column, joined)
        ends = np.cumsum([len(row) for row in positions]).tolist()
        return [values[end - len(row) : end] for row, end in zip(positions, ends, strict=True)]

    def positions_of_ids(self, ids: list[str]) -> list[np.ndarray]:
        """For each id the positions that bear it, in order; none for an unknown one."""
        return self._by_id.find(ids)

    def positions_of_texts(self, texts: list[str]) -> list[np.ndarray]:
        """For each text the positions of the passages with exactly this text, in order; none
        without a text column.
        """
        if self.text is None:
            return [np.empty(0, np.int64)] * len(texts)
        return self._by_text.find(texts)

    @cached_property
    def _columns(self) -> dict[str, StoredColumn]:
        return {}

    @cached_property
    def _by_id(self) -> _Lookup:
        return _Lookup(_hashes(self.corpus, self.id))

    @cached_property
    def _by_text(self) -> _Lookup:
        if self.text is None:
            return _Lookup(np.arange(1, len(self) + 1))
        return _Lookup(_hashes(self.corpus, self.text))


_shared: WeakValueDictionary[str, CorpusView] = WeakValueDictionary()


def shared(view: View, *more: Any) -> View:
    """The view that is already in use for the same corpus, index and columns, or this one: what it
    has looked up is kept once.

    Args:
        view: the new one.
        more: what tells two views of one key apart in this process.
    """
    key = json.dumps([view.key(), *more], sort_keys=True)
    return _shared.setdefault(key, view)  # type: ignore[return-value]  # the key holds the class


class StoredColumn:
    """A column of a corpus from which values are taken chunk by chunk, many times faster than with
    `ChunkedArray.take` or row by row.

    Where its chunks begin is worked out once: `run` leaves one for each batch, and of a hundred
    million passages it takes a second or two.

    Args:
        corpus: the corpus, which may be a selection.
        name: the column.

    Example:
        >>> column = StoredColumn(Dataset.from_dict({"id": ["a", "b", "c"]}), "id")
        >>> column.take(np.array([2, 0, 2])).to_pylist()
        ['c', 'a', 'c']
    """

    def __init__(self, corpus: Dataset, name: str) -> None:
        self._corpus = corpus
        self._column = corpus.data.column(name)
        self._starts = np.cumsum([0, *map(len, self._column.iterchunks())])

    def take(self, positions: np.ndarray) -> pa.Array:
        """The values at these positions."""
        rows = stored_rows(self._corpus, positions)
        order = np.argsort(rows, kind="stable")
        of_chunk = np.searchsorted(self._starts, rows[order], side="right") - 1
        touched, first = np.unique(of_chunk, return_index=True)
        parts = []
        for chunk, part in zip(touched.tolist(), np.split(order, first[1:]), strict=False):
            at = pa.array(rows[part] - self._starts[chunk])
            parts.append(self._column.chunk(chunk).take(at))
        taken = pa.concat_arrays(parts) if parts else pa.array([], self._column.type)
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return taken.take(pa.array(back))


class _Lookup:
    """Positions by the hash of a text, over an array of hashes, in 24 bytes per row."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys
        # Equal keys in any order: that is sorted several times as fast as in the order they have.
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]

    @cached_property
    def is_first(self) -> np.ndarray:
        """Which rows are the first with their key, and it is not 0."""
        is_first = np.zeros(len(self.keys), bool)
        starts = np.flatnonzero(np.append(True, self._sorted[1:] != self._sorted[:-1]))
        is_first[np.minimum.reduceat(self._order, starts)] = True
        return is_first & (self.keys != 0)

    def find(self, values: list[str]) -> list[np.ndarray]:
        wanted = np.fromiter(map(hash, values), np.int64, len(values))
        starts = np.searchsorted(self._sorted, wanted, "left").tolist()
        ends = np.searchsorted(self._sorted, wanted, "right").tolist()
        return [np.sort(self._order[start:end]) for start, end in zip(starts, ends, strict=True)]


def _hashes(corpus: Dataset, column: str) -> np.ndarray:
    """`hash` of each value as a text, 0 where it is null, blank or no valid Unicode."""
    hashes = np.empty(len(corpus), np.int64)
    start = 0
    for table in arrow_columns(corpus, [column]).iter(_BLOCK):
        values = valid_texts(table.column(0).cast(pa.large_string()))
        part = hashes[start : start + len(values)]
        part[:] = np.fromiter(map(hash, values.to_pylist()), np.int64, len(values))
        blank = pc.equal(pc.utf8_trim_whitespace(values), "").fill_null(True)
        part[blank.to_numpy()] = 0
        start += len(values)
    return hashes


def check_is_text(corpus: Dataset, column: str, kinds: tuple[str, ...]) -> None:
    """Raise `ValueError` where a corpus lacks a column, or holds something else in it."""
    if column not in corpus.column_names:
        raise ValueError(f"The corpus has no column {column!r}, only {corpus.column_names}.")
    kind = getattr(corpus.features[column], "dtype", None)
    if kind not in kinds:
        raise ValueError(
            f"The column {column!r} of the corpus must be one of {kinds}, found "
            f"{corpus.features[column]}."
        )
