"""Where a command's result goes: a folder of rows, complete or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rir_hf.cli.options import Rows

logger = logging.getLogger(__name__)


@dataclass
class OutputOptions:
    """Output.

    Args:
        output: folder for the result, which `load_from_disk` and all commands read.
        overwrite: replace an earlier result.
    """

    output: str
    overwrite: bool = False

    def check(self, lines: str | None = None) -> None:
        """Raise `OSError` where the folder cannot be written or holds something already.

        To be called before the work starts.

        Args:
            lines: the one file in it that is to be written; None: the folder as a whole.
        """
        folder = Path(self.output)
        if lines is not None and (folder / lines).exists() and not self.overwrite:
            raise FileExistsError(f"{folder / lines} is there: --overwrite replaces it")
        if lines is None and folder.is_dir() and any(folder.iterdir()):
            self._check_replaceable(folder)
        elif folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file: name a folder as --output")
        parent = folder.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        if not os.access(parent, os.W_OK):
            raise PermissionError(f"{parent} cannot be written into: choose another --output")

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
                text = json.dumps(summary, indent=2, ensure_ascii=False)
                (part / "report.json").write_text(text + "\n", encoding="utf-8")
        logger.info("Written to %s: %d rows", folder, len(rows))
        return folder

    def _check_replaceable(self, folder: Path) -> None:
        if not (folder / "dataset_info.json").exists():
            raise FileExistsError(f"{folder} holds other files: choose another --output")
        if not self.overwrite:
            raise FileExistsError(f"{folder} holds a result: --overwrite replaces it")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the other's place when all is written."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = part.with_suffix(".old")
    try:
        yield part
        if folder.exists():
            os.rename(folder, old)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_file(path: str | None, option: str) -> None:
    """Raise `OSError` where a file cannot be written, and make its folder, before the work."""
    if path is None:
        return
    file = Path(path).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file as {option}")
    if not os.access(file.parent, os.W_OK):
        raise PermissionError(f"{file.parent} cannot be written into: choose another {option}")


def write_json(value: Any, path: str) -> None:
    """A file of JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")
