"""What an export writes: rows as a file of JSON lines or parquet, complete or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Any

from datasets import Dataset

from rir_hf.core.unfinished import replacing

LINES = (".jsonl", ".json")
PARQUET = ".parquet"
_GROUP = 16 << 20


def check_path(path: str | os.PathLike[str], *, lines_only: bool = False) -> Path:
    """Where rows can be written, with its folder made; to be called before the work starts.

    Args:
        path: a file ending in `.jsonl`, `.json` or `.parquet`, or a folder, which then gets
            `train.parquet`.
        lines_only: take only a file of JSON lines, as trainers do that read these alone.

    Returns:
        The file to write.

    Raises:
        ValueError: a file name with another ending.
        PermissionError, OSError: the folder cannot be made or written into.
    """
    file = file_at(path, lines_only=lines_only)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise PermissionError(f"{file} cannot be written: choose another path.")
    return file


def file_at(path: str | os.PathLike[str], *, lines_only: bool = False, name: str = "path") -> Path:
    """The file of a path as `check_path` gives it, without a look at the disk.

    Raises:
        ValueError: a file name with another ending; `name` is what the path is called in the error.

    Example:
        >>> file_at("rows").as_posix(), file_at("rows.jsonl", lines_only=True).name
        ('rows/train.parquet', 'rows.jsonl')
    """
    file = Path(path)
    if not file.suffix and not lines_only:
        file = file / "train.parquet"
    endings = LINES if lines_only else (*LINES, PARQUET)
    if file.suffix not in endings:
        raise ValueError(f"{name} must end in one of {endings}, got {os.fspath(path)!r}.")
    return file


def write_rows(rows: Dataset, file: Path) -> Path:
    """Write rows as JSON lines or parquet, as the file's ending says.

    An older file is replaced once the new one is complete.
    """
    with replacing(file) as part:
        if file.suffix == PARQUET:
            write_parquet(rows, part)
        else:
            rows.to_json(part, force_ascii=False)
    return file


def write_parquet(rows: Dataset, path: Path) -> int:
    """Write rows as one parquet file; the number of bytes before compression.

    Raises:
        OSError: the disk is full.
    """
    with path.open("wb") as file:
        patient = _Patient(file)
        size = rows.to_parquet(patient, batch_size=_rows_of_a_group(rows))
    if patient.error is not None:
        raise patient.error
    return size


def _rows_of_a_group(rows: Dataset) -> int:
    """Rows that take about 16 MB in memory. A reader holds some groups at once: with those of
    `datasets` (100 MB) loading a million rows took 450 MB more.
    """
    size = rows.data.nbytes / max(1, rows.data.num_rows)
    return max(1, int(_GROUP / max(1, size)))


class _Patient(io.RawIOBase):
    """A file that keeps an error until the writer is done: Arrow ends the process where a write
    fails in the middle of a column (25, October 2026).
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if self.error is None:
            try:
                self.file.write(content)
                self.file.flush()
            except OSError as error:
                self.error = error
        return len(content)
