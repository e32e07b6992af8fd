"""What an export writes: rows as a file of JSON lines or parquet, complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset

LINES = (".jsonl", ".json")
PARQUET = ".parquet"


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
    file = Path(path)
    if not file.suffix and not lines_only:
        file = file / "train.parquet"
    endings = LINES if lines_only else (*LINES, PARQUET)
    if file.suffix not in endings:
        raise ValueError(f"path must end in one of {endings}, got {os.fspath(path)!r}.")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise PermissionError(f"{file} cannot be written: choose another path.")
    return file


def write_rows(rows: Dataset, file: Path) -> Path:
    """Write rows as JSON lines or parquet, as the file's ending says.

    An older file is replaced once the new one is complete.
    """
    with replacing(file) as part:
        if file.suffix == PARQUET:
            rows.to_parquet(part)
        else:
            rows.to_json(part, force_ascii=False)
    return file


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A name to write under, which becomes that of the file where nothing failed.

    A killed run leaves an older file as it was.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
