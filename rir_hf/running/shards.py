"""Some rows and a step in, an Arrow file with the columns that the step adds out: the unit in which
a long map is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from datasets import Dataset
from datasets.table import MemoryMappedTable

from rir_hf.core.columns import arrow_of
from rir_hf.core.step import Step
from rir_hf.core.unfinished import remove_leftovers, unfinished

_ROWS_TOGETHER = 2048
"""Rows of a record batch: Arrow keeps some kilobytes in memory for each of a file."""


class Shard(NamedTuple):
    """The rows `start` to `end` (not included) of a dataset, and the file of what was made."""

    start: int
    end: int
    path: Path

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.end - self.start


class Job(NamedTuple):
    """What is done to every shard; it travels to workers."""

    ds: Dataset
    step: Step
    batch_size: int

    def make(self, shard: Shard, rank: int | None = None) -> Iterator[int]:
        """Map a shard into its file, which takes its name when it is complete; give the rows of
        each batch.

        Args:
            shard: which rows.
            rank: number of the worker, which picks its GPU.
        """
        schema = schema_of(self.step, self.ds.features)
        rows = self.ds.select(range(shard.start, shard.end)).with_format("arrow")
        with unfinished(shard.path) as part:
            with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for batch in rows.iter(self.batch_size):
                    added = self.step.added(batch, rank)
                    arrays = [arrow_of(added[field.name], field.type) for field in schema]
                    writer.write_batch(pa.record_batch(arrays, schema=schema))
                    yield len(batch)
            part.replace(shard.path)


def schema_of(step: Step, columns: Collection[str]) -> pa.Schema:
    """The columns that a step adds to a dataset with these columns."""
    return pa.schema([(column.name, column.type) for column in step.outputs_for(columns)])


def plan(folder: Path, rows: int, rows_per_shard: int) -> list[Shard]:
    """The shards of a dataset, first to last.

    Files that an earlier run left stay in use, whatever its `rows_per_shard` was; new shards fill
    the gaps between them.
    """
    ends: dict[int, int] = {}
    for file in sorted(folder.glob("[0-9]*-[0-9]*.arrow")):
        start, end = map(int, file.stem.split("-"))
        ends[start] = max(end, ends.get(start, 0))
    shards: list[Shard] = []
    start = 0
    while start < rows or not shards:
        later = [other for other in ends if other > start]
        end = ends.get(start) or min([start + rows_per_shard, rows, *later])
        shards.append(Shard(start, end, folder / f"{start}-{end}.arrow"))
        start = end
    return shards


def read(shard: Shard) -> MemoryMappedTable | None:
    """The columns of a shard, memory-mapped; None where its file is not there, or damaged."""
    if not shard.path.exists():
        return None
    try:
        made = MemoryMappedTable.from_file(str(shard.path))
    except (pa.ArrowInvalid, OSError):
        return None
    return made if len(made) == shard.rows else None


def merged(shards: list[Shard]) -> MemoryMappedTable:
    """The columns of all shards, from one file that takes their place.

    A hundred files cost half a second each time they are opened, one costs nothing.
    """
    folder = shards[0].path.parent
    start, end = shards[0].start, shards[-1].end
    whole = Shard(start, end, folder / f"{start}-{end}.arrow")
    made = read(whole)
    if made is None:
        with suppress(FileNotFoundError):  # another run of the same has put them together meanwhile
            _write_together(shards, whole.path)
        made = read(whole)
    if made is None:
        raise RuntimeError(f"Files in {folder} were deleted or damaged meanwhile: run it again.")
    for shard in shards:
        if shard.path != whole.path:
            shard.path.unlink(missing_ok=True)
    remove_leftovers(folder, "*.arrow")
    return made


def _write_together(shards: list[Shard], path: Path) -> None:
    with unfinished(path) as part:
        with pa.OSFile(str(part), "wb") as sink, ExitStack() as stack:
            writer = None
            for shard in shards:
                with pa.memory_map(str(shard.path)) as file, pa.ipc.open_stream(file) as batches:
                    if writer is None:
                        writer = stack.enter_context(pa.ipc.new_stream(sink, batches.schema))
                    made = batches.read_all()
                    for start in range(0, len(made), _ROWS_TOGETHER):
                        writer.write_table(made.slice(start, _ROWS_TOGETHER).combine_chunks())
        part.replace(path)
