"""Where a command's result goes: a folder of rows, complete or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rir_hf.cli.options import Rows

logger = logging.getLogger(__name__)

_WRITTEN = (
    "*.arrow",
    "*.jsonl",
    "dataset_info.json",
    "state.json",
    "report.json",
    "report.png",
    "embedding.faiss",
)
_ENDINGS = {"--json": (".json",), "--html": (".html", ".htm"), "--plot": (".png", ".svg", ".pdf")}


@dataclass
class OutputOptions:
    """Output.

    Args:
        output: folder for the result, which `load_from_disk` and all commands read.
        overwrite: replace an earlier result.
    """

    output: str
    overwrite: bool = False

    def check(self, file: str | None = None) -> None:
        """Raise `OSError` where the result cannot be written, or another is there, before the work.

        Args:
            file: the one file in the folder that is to be written; None: the folder as a whole.
        """
        folder = Path(self.output)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file: name a folder as --output")
        target = folder if file is None else folder / file
        if target == folder and folder.exists() and any(folder.iterdir()):
            check_kind(folder, "dataset_info.json")
            if not self.overwrite:
                raise FileExistsError(f"{folder} holds a result: --overwrite replaces it")
            check_no_other(folder)
        elif target != folder and target.exists() and not self.overwrite:
            raise FileExistsError(f"{target} is there: --overwrite replaces it")
        make_writable(folder.absolute().parent, "--output")

    def save(self, rows: Rows, lines: str, summary: Mapping[str, Any] | None = None) -> Path:
        """Write rows as `save_to_disk` does, and as JSON lines beside.

        Args:
            rows: what is written.
            lines: name of the file of JSON lines; empty: none, for rows with vectors.
            summary: what goes into `report.json`.

        Returns:
            The folder.
        """
        folder = Path(self.output)
        with replacing_folder(folder) as part:
            rows.save_to_disk(part)
            if lines:
                rows.to_json(part / lines, force_ascii=False)
            if summary is not None:
                write_json(summary, part / "report.json")
        logger.info("Written to %s: %d rows", folder, len(rows))
        return folder


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the other's place when all is written; the other is
    deleted last.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = part.with_suffix(".old")
    try:
        yield part
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(part, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_no_other(folder: Path) -> None:
    """Raise `FileExistsError` where a folder holds what no command has written there."""
    others = sorted(
        each.name
        for each in folder.iterdir()
        if each.is_dir() or not any(fnmatch(each.name, name) for name in _WRITTEN)
    )
    if others:
        raise FileExistsError(
            f"{folder} holds a result and {others[0]!r}, which would be lost: move it, or choose "
            "another --output"
        )


def check_model_folder(output: str, *marks: str) -> None:
    """Raise `FileExistsError` where a folder holds files, but neither a model with one of these
    marks nor a training that was begun, before the work.
    """
    check_kind(Path(output), *marks, "checkpoints.json")


def check_kind(folder: Path, *marks: str) -> None:
    """Raise `FileExistsError` where a folder holds files and none of those that mark its kind."""
    is_filled = folder.is_dir() and any(folder.iterdir())
    if is_filled and not any((folder / mark).exists() for mark in marks):
        raise FileExistsError(f"{folder} holds other files: choose another --output")


def check_file(path: str | None, option: str) -> None:
    """Raise `OSError` where a file cannot be written, and make its folder, before the work.

    An earlier file is replaced where its ending says that it is of the kind.
    """
    if path is None:
        return
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file as {option}")
    endings = _ENDINGS.get(option)
    if endings and Path(path).exists() and Path(path).suffix not in endings:
        raise FileExistsError(
            f"{path} is there, and does not end in {' or '.join(endings)}: name another {option}"
        )
    make_writable(Path(path).absolute().parent, option)


def make_writable(folder: Path, option: str) -> None:
    """Make a folder; `OSError` where that fails or nothing can be written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written into: choose another {option}")


def write_json(value: Any, path: str | Path | None) -> None:
    """Write a file of JSON, if one is named."""
    if path is not None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")


def write_lines(rows: Iterable[Mapping[str, Any]], target: Path) -> None:
    """Replace a file of JSON lines once all is written.

    A link stays a link, and the file's mode what it was.
    """
    from rir_hf.export.files import replacing

    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.resolve()
    with replacing(file) as part:
        with part.open("w", encoding="utf-8") as lines:
            for row in rows:
                lines.write(as_line(row) + "\n")
        if file.exists():
            shutil.copymode(file, part)


def as_line(row: Mapping[str, Any]) -> str:
    """A row as JSON; with escapes where it holds half a character, which UTF-8 cannot."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(row)
    return line
