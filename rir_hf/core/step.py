"""A batch in, the columns that a step adds out: what all steps are for `Dataset.map`."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features

from rir_hf.core.columns import Batch, Typed, arrow_of, stored_values
from rir_hf.core.configured import Configured
from rir_hf.core.secrets import without_secrets
from rir_hf.schema import Column, OneOf, code_of

_parent_process = os.getpid()


class Step(Configured, ABC):
    """Base class of the steps: `ds.map(step, batched=True)`, or `run(ds, step)`, which resumes,
    records and scales.

    A subclass stores its settings (see `Configured`), declares the columns it reads and adds, and
    implements `transform`. A step adds columns and never changes the number of rows: a row that
    cannot be used has its reason in the column `note`.

    Example:
        >>> from rir_hf.schema import QUERY, Column
        >>> class CountWords(Step):
        ...     '''Adds `words`, the number of words of the query.'''
        ...     inputs = (QUERY,)
        ...     outputs = (Column("words", pa.int64(), "words of the query"),)
        ...     def transform(self, batch):
        ...         return {"words": [len((query or "").split()) for query in batch.texts("query")]}
        >>> Dataset.from_dict({"query": ["who wrote hamlet"]}).map(CountWords(), batched=True)[0]
        {'query': 'who wrote hamlet', 'words': 3}
        >>> CountWords().one({"query": "who"})
        {'words': 1}
    """

    failures: ClassVar[tuple[str, ...]] = ()
    """Codes of the column `note` that mark a row as failed: `retry` asks again for these."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[Column | OneOf, ...]:
        """The columns that must be there, under the names that the settings give them."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[Column, ...]:
        """The columns that are added, or written anew where they are there."""

    @property
    def note(self) -> Column | None:
        """The column that says why a row is not usable, if the step adds one."""
        return None

    def outdated(self, columns: Collection[str]) -> tuple[Column, ...]:
        """Columns that later steps add about what this one writes anew: where they are among the
        columns of a dataset, they become null.
        """
        return ()

    @property
    def reads_batch(self) -> bool:
        """Whether a row's result depends on the rows beside it: then `run` keeps results of another
        batch size apart.
        """
        return False

    @abstractmethod
    def transform(self, batch: Batch) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """Compute the added columns, each as long as the batch."""

    def outputs_for(self, columns: Collection[str]) -> tuple[Column, ...]:
        """The columns added to a dataset with these columns, or with these `Features`: `outputs`,
        and what is `outdated` there.
        """
        left = set(columns) - {column.name for column in self.outputs}
        gone = (column for column in self.outdated(columns) if column.name in left)
        return (*self.outputs, *gone)

    def remark(self) -> str:
        """What `run` says at the end of what this process did; empty for nothing."""
        return ""

    def notes_of(self, row: Any) -> list[str | None]:
        """The notes in one value of the column `note`, where that holds more than one."""
        return [row]

    def __call__(
        self, batch: Mapping[str, Any] | pa.Table, rank: int | None = None
    ) -> dict[str, Any] | pa.Table:
        """Return the added columns; of an Arrow table the table with them, as `Dataset.map` wants
        it of a dataset in the format "arrow".

        Args:
            batch: columns by name, as `Dataset.map(..., batched=True)` passes them.
            rank: number of the worker process, passed by `map(..., with_rank=True)`; puts each
                worker on a GPU of its own.

        Raises:
            TypeError: one example in place of a batch, or the row numbers of `with_indices` in
                place of a rank.
            ValueError: a column is missing or holds something else.
        """
        if not isinstance(batch, pa.Table):
            return self.added(batch, rank)
        added = self.added(batch, rank) if len(batch) else {}
        for column in self.outputs_for(Features.from_arrow_schema(batch.schema)):
            values = arrow_of(added.get(column.name, []), column.type)
            if column.name in batch.column_names:
                place = batch.column_names.index(column.name)
                batch = batch.set_column(place, column.name, values)
            else:
                batch = batch.append_column(column.name, values)
        return batch

    def added(self, batch: Mapping[str, Any] | pa.Table, rank: int | None = None) -> dict[str, Any]:
        """The added columns of a batch; see `__call__`."""
        limit_threads_in_forked_process()
        name = type(self).__name__
        if rank is not None and not isinstance(rank, int):
            raise TypeError(
                f"{name} takes a batch of all columns and a rank: map it without with_indices=True "
                "and without input_columns."
            )
        if not isinstance(batch, (Mapping, pa.Table)):
            raise TypeError(
                f"{name} got a {type(batch).__name__}: call with_format(None) on the dataset first."
            )
        columns = Batch(batch, name)
        self._check_names(columns.names)
        self._check_is_batch(batch)
        if rank is not None and (device := device_of_rank(rank)) is not None:
            self.to(device)
        added = self.transform(columns)
        gone = {column.name for column in self.outdated(columns.names)}
        gone -= {column.name for column in self.outputs}
        added = {**added, **dict.fromkeys(gone, [None] * len(columns))}
        outputs = self.outputs_for(columns.names)
        missing = [column.name for column in outputs if column.name not in added]
        if missing:
            raise ValueError(f"{name}.transform did not make the column {missing[0]!r}.")
        if self.note is not None and self.note.name in added:
            added = {**added, self.note.name: without_secrets([*added[self.note.name]])}
        return {
            column.name: _typed(added[column.name], column, len(columns), name)
            for column in outputs
        }

    def one(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The added columns of one row."""
        return {
            name: values[0]
            for name, values in self.added({name: [value] for name, value in row.items()}).items()
        }

    def check(self, features: Features) -> None:
        """Raise `ValueError` where a dataset with these features lacks a column, or holds something
        else in it.

        `run` calls this before anything is loaded.
        """
        self._check_names(features)
        schema = features.arrow_schema
        for wanted in self.inputs:
            for column in wanted if isinstance(wanted, OneOf) else (wanted,):
                if column.name in features and not column.fits(schema.field(column.name).type):
                    raise ValueError(
                        f"{type(self).__name__}: the column {column.name!r} must hold "
                        f"{column.type}, "
                        f"found {schema.field(column.name).type} ({column.says})."
                    )

    def counts(self, ds: Dataset) -> Counter[str]:
        """How many rows have each code in the column `note` of what this step made."""
        if self.note is None or self.note.name not in ds.column_names:
            return Counter()
        counts: Counter[str] = Counter()
        for row in stored_values(ds, self.note.name):
            codes = {code_of(text) for text in self.notes_of(row)}
            counts.update(code for code in codes if code is not None)
        return counts

    def has_failed(self, row: Any) -> bool:
        """Whether a value of the column `note` marks its row as failed."""
        return any(code_of(text) in self.failures for text in self.notes_of(row))

    def _check_names(self, columns: Collection[str]) -> None:
        for wanted in self.inputs:
            names = [column.name for column in (wanted if isinstance(wanted, OneOf) else (wanted,))]
            if not set(names) & set(columns):
                needed = " or ".join(map(repr, names))
                raise ValueError(
                    f"{type(self).__name__} needs the column {needed}, but the dataset has only "
                    f"{sorted(columns)}."
                )

    def _check_is_batch(self, given: Mapping[str, Any] | pa.Table) -> None:
        """Tell one example from a batch by its values: a text or a number where a list of them
        should be.
        """
        one_row = type(given).__name__ == "LazyRow"
        if (
            not one_row
            and not isinstance(given, pa.Table)
            and getattr(given, "pa_table", None) is None
        ):
            values = [given[name] for name in given]
            one_row = any(value is None or isinstance(value, (str, int, float)) for value in values)
        if one_row:
            raise TypeError(
                f"{type(self).__name__} got one example: map it with batched=True, or call "
                "one(row)."
            )


def device_of_rank(rank: int) -> str | None:
    """The GPU of a worker, `"cuda:1"` for rank 1; None where there is none."""
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{rank % gpus}" if gpus else None


def limit_threads_in_forked_process() -> None:
    """In a forked worker, let FAISS and torch use one thread.

    Their OpenMP pools do not survive a fork: a worker whose parent has already searched or
    multiplied would wait for ever.
    """
    if os.getpid() == _parent_process:
        return
    for module, setter in (("faiss", "omp_set_num_threads"), ("torch", "set_num_threads")):
        if module in sys.modules:
            getattr(sys.modules[module], setter)(1)


def _typed(values: Sequence[Any] | np.ndarray, column: Column, rows: int, who: str) -> Any:
    """The values with the type of their column, unless they bring their own; a matrix stays one,
    which `datasets` stores many times faster than lists.
    """
    if len(values) != rows:
        raise ValueError(f"{who} made {len(values)} values of {column.name!r} for {rows} rows.")
    is_matrix = isinstance(values, np.ndarray) and values.ndim == 2 and rows
    return values if is_matrix or isinstance(values, Typed) else Typed(values, column.type)
