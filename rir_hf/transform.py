"""What every map function of this package shares: it takes a batch of a `Dataset.map` and gives back the columns it adds.

`BatchTransform` fixes four things once, so that each step holds only its own arithmetic: the identity that the `datasets` cache
sees, one-row or batched calls, the reading of columns without a detour over Python lists, and safe threads in forked workers.
"""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset
from datasets.fingerprint import Hasher
from datasets.formatting.formatting import LazyRow
from datasets.utils._dill import pklregister

from rir_hf.provenance import record_of

_parent_process = os.getpid()


class BatchTransform(ABC):
    """Base class of the map functions.

    A subclass stores its settings as public attributes, keeps whatever it loads or builds in attributes that start with an
    underscore, names its first required column in `first_column` and implements `transform`. It then

    - hashes by `identity` (class, `version`, settings), so that a second run is a cache hit in any process, with the model
      loaded or not, wherever the files lie;
    - travels to other processes with its settings only;
    - can be called with a batch (`map(..., batched=True)`) or with one example.
    """

    version: ClassVar[int] = 1
    """Raised whenever the output for the same input changes: older cached results are then computed again."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hash_by_identity(cls)

    @property
    @abstractmethod
    def first_column(self) -> str:
        """Name of a required column, by whose value one example is told from a batch."""

    @abstractmethod
    def transform(self, batch: Mapping[str, Any], rank: int | None) -> dict[str, Any]:
        """Compute the added columns, each as long as the batch."""

    def __call__(self, batch: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """Return only the added columns.

        Args:
            batch: columns by name, as `Dataset.map(..., batched=True)` passes them, or one example.
            rank: number of the worker process, passed by `map(..., with_rank=True)`; puts each worker on a GPU of its own.
        """
        limit_threads_in_forked_process()
        if not isinstance(batch, Mapping):
            kind = type(batch).__name__
            raise TypeError(
                f"{type(self).__name__} got a {kind}: the dataset is formatted as a table. Call with_format(None) first."
            )
        require_columns(batch, [self.first_column], type(self).__name__)
        if not _is_single_example(batch, self.first_column):
            return self.finish(batch, self.transform(batch, rank))
        columns = self.transform({name: [batch[name]] for name in batch}, rank)
        if any(len(values) != 1 for values in columns.values()):
            raise ValueError(f"{type(self).__name__} makes several rows of one: map it with batched=True.")
        return {name: values[0] for name, values in columns.items()}

    def finish(self, batch: Mapping[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
        """What a batch gives back: the added columns, unless a step that drops or repeats rows says otherwise (`take_rows`)."""
        return columns

    def __getstate__(self) -> dict[str, Any]:
        return public_attributes(self)

    def identity(self) -> dict[str, Any]:
        """What the cache key is made of: class, version and settings, never a path, a device or a loaded model."""
        return {"version": self.version, **describe(self)}

    def record(self) -> dict[str, Any]:
        """What the provenance of the rows says of this step: its name and settings."""
        return {"map": type(self).__name__, **record_of(public_attributes(self))}


class Column(list[Any]):
    """A list of values with the Arrow type of its column.

    `datasets` takes the type of a column from the first batch it writes: one without any value would fix the type "null" and
    fail at the first value that follows. A list that tells its type does not.
    """

    def __init__(self, values: Iterable[Any], kind: pa.DataType) -> None:
        super().__init__(values)
        self.kind = kind

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return pa.array(list(self), type=type or self.kind)


TEXTS = pa.list_(pa.string())
SCORES = pa.list_(pa.float32())


def take_rows(batch: Mapping[str, Any], columns: dict[str, Column], kept: list[bool]) -> dict[str, Column]:
    """The kept rows of the added columns with the batch's own columns beside them, so that a map may change the number of rows.

    Args:
        batch: what the map was given.
        columns: the added columns, with one row or the same number of rows for each row of the batch.
        kept: which of their rows stay.
    """
    size = len(batch[next(iter(batch))])
    repeats = len(kept) // size if size else 1
    places = [place for place, is_kept in enumerate(kept) if is_kept]
    own = {}
    for name in batch:
        if name not in columns:
            arrow = _arrow_column(batch, name)
            values = read_column(batch, name)
            taken = [values[place // repeats] for place in places]
            own[name] = taken if arrow is None else Column(taken, arrow.type)
    return own | {name: Column([values[place] for place in places], values.kind) for name, values in columns.items()}


def public_attributes(obj: object) -> dict[str, Any]:
    """Attributes of `obj` whose name does not start with an underscore."""
    return {name: value for name, value in vars(obj).items() if not name.startswith("_")}


def describe(obj: object, without: tuple[str, ...] = (), **replaced: Any) -> dict[str, Any]:
    """Class and settings of `obj` as plain JSON values; whatever has an `identity()` of its own is replaced by it."""
    settings = {name: value for name, value in public_attributes(obj).items() if name not in without} | replaced
    return {
        "class": f"{type(obj).__module__}.{type(obj).__qualname__}",
        "settings": {name: _identity_of(value) for name, value in settings.items()},
    }


def _identity_of(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [_identity_of(item) for item in value]
    if callable(getattr(value, "identity", None)):
        return value.identity()
    return f"hash:{Hasher.hash(value)}"


def hash_by_identity(cls: type) -> None:
    """Make `datasets` hash instances of `cls` by their `identity()`, while other pickles keep all they need to be rebuilt.

    The two must differ: a worker process needs the paths of a checkpoint or of an index file, a cache key must not depend on
    them.
    """

    @pklregister(cls)
    def save(pickler: Any, obj: Any) -> None:
        pickler.save_reduce(str, (json.dumps(obj.identity(), sort_keys=True),), obj=obj)


def digest_of_files(files: Iterable[Path]) -> str:
    """Digest of the content of files, in the order given."""
    digest = xxhash.xxh3_128()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def limit_threads_in_forked_process() -> None:
    """In a forked worker, let FAISS and torch use one thread.

    Their OpenMP pools do not survive a fork: a worker whose parent has already searched or multiplied would wait for ever.
    """
    if os.getpid() == _parent_process:
        return
    for module, setter in (("faiss", "omp_set_num_threads"), ("torch", "set_num_threads")):
        if module in sys.modules:
            getattr(sys.modules[module], setter)(1)


def check_at_least(name: str, value: float, least: int) -> None:
    """Raise `ValueError` for a parameter below its least value."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")


def require_dataset(rows: Any, who: str) -> None:
    """Raise `TypeError` where several splits or a stream are given."""
    if not isinstance(rows, Dataset):
        raise TypeError(f"{who} takes one Dataset, got {type(rows).__name__}: name the split, or load the stream.")


def require_columns(batch: Mapping[str, Any], names: list[str], who: str) -> None:
    """Raise `ValueError` when a column is missing, naming those that are there."""
    missing = [name for name in names if name not in batch]
    if missing:
        raise ValueError(f"{who} needs the column {missing[0]!r}, but the dataset has only {sorted(batch)}.")


def _is_single_example(batch: Mapping[str, Any], column: str) -> bool:
    if hasattr(batch, "pa_table"):
        return isinstance(batch, LazyRow)
    value = batch[column]
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return True
    if hasattr(value, "ndim"):  # an array, or a tensor of some framework
        return value.ndim == 1 and not (isinstance(value, np.ndarray) and value.dtype.kind not in "fiu")
    return len(value) > 0 and isinstance(value[0], (int, float, np.number))


def read_column(batch: Mapping[str, Any], name: str) -> list[Any]:
    """Values of a column as a Python list, whatever the dataset's format."""
    values = _arrow_column(batch, name)
    if values is not None:
        return values.to_pylist()
    return [_plain(value) for value in _plain(batch[name])]


def _plain(value: Any) -> Any:
    """An array or tensor as a list; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def read_texts(batch: Mapping[str, Any], name: str, who: str) -> list[str | None]:
    """Values of a text column; `ValueError` when one is neither a string nor null."""
    values = read_column(batch, name)
    for value in values:
        if value is not None and not isinstance(value, str):
            raise ValueError(
                f"{who}: the column {name!r} must hold strings, found {type(value).__name__} {value!r:.60}. "
                "Name the column that holds the text."
            )
    return values


def read_lists(batch: Mapping[str, Any], name: str) -> list[list[Any]]:
    """Values of a column of lists; a null becomes an empty list.

    Raises:
        ValueError: a value that is not a list.
    """
    rows = read_column(batch, name)
    for row in rows:
        if row is not None and not isinstance(row, (list, tuple)):
            raise ValueError(
                f"The column {name!r} must hold a list per row, found {type(row).__name__} {row!r:.60}. Put a single value into a "
                "list of one."
            )
    return [[] if row is None else list(row) for row in rows]


def read_vectors(batch: Mapping[str, Any], name: str, who: str, dimension: int) -> np.ndarray:
    """Values of a vector column as one `(rows, dimension)` float32 array; a null becomes a row of NaN.

    Raises:
        ValueError: something that is not a vector, or vectors of another dimension.
    """
    column = _arrow_column(batch, name)
    if column is not None:
        vectors = vectors_from_arrow(column)
        values = column.to_pylist() if vectors is None else [vectors[0]]
    else:
        vectors, values = None, list(batch[name])
    is_vector = [hasattr(value, "__len__") and not isinstance(value, str) for value in values]
    found = {len(value) if fits else None for value, fits in zip(values, is_vector, strict=True) if value is not None}
    if found - {dimension}:
        raise ValueError(
            f"{who}: the column {name!r} must hold vectors of {dimension} numbers, as those of the index, found "
            f"{'something else' if None in found else f'vectors of {sorted(found)}'}. Both must come from the same retriever."
        )
    if vectors is not None:
        return vectors
    missing = np.full(dimension, np.nan, np.float32)
    return np.array([missing if value is None else value for value in values], np.float32).reshape(len(values), dimension)


def vectors_from_arrow(column: pa.ChunkedArray) -> np.ndarray | None:
    """A list-of-floats Arrow column as a `(rows, dimension)` float32 array, or None when it has nulls or uneven lengths."""
    array = column.combine_chunks()
    kind = array.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type) or len(array) == 0 or array.null_count:
        return None
    flat = array.flatten()
    if flat.null_count or len(flat) == 0 or len(flat) % len(array):
        return None
    dimension = len(flat) // len(array)
    if not pa.types.is_fixed_size_list(kind):
        lengths = np.diff(array.offsets.to_numpy())
        if not (lengths == dimension).all():
            return None
    return flat.to_numpy(zero_copy_only=False).reshape(len(array), dimension).astype(np.float32, copy=False)


def _arrow_column(batch: Mapping[str, Any], name: str) -> pa.ChunkedArray | None:
    """The stored Arrow column behind a lazy batch of `Dataset.map`: reading it leaves the batch's other values untouched."""
    if name in getattr(batch, "keys_to_format", ()):
        return batch.pa_table.column(name)  # type: ignore[attr-defined]
    return None
