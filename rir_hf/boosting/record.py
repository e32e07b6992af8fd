"""The folder of a run: what each stage made, with a record that says whether it still holds."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from datasets import Dataset, Features, load_from_disk

logger = logging.getLogger(__name__)

VERSION = 3
"""Raised whenever a stage makes something else of the same input."""


_OF_A_RUN = ("held_out", "round-1", "settings.json")
"""What a run has, sooner or later."""


@dataclass(frozen=True)
class Stage:
    """What a stage made, and of what.

    name: its path below the folder of the run, `round-1/queries`.
    key: the same for the same settings and the same input, in any process.
    path: where it lies.
    seconds: what the call took that finished it.
    counts: what went in and what was lost, for the report.
    """

    name: str
    key: str
    path: Path
    seconds: float = 0.0
    counts: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> Dataset:
        """Its rows, memory-mapped."""
        return load_from_disk(self.path)


class RunFolder:
    """The stages of a run, each made once.

    A stage lies under its name, beside it a file with its record. The record is written last: a
    stage without one, or with that of another key, is made anew. What follows from a stage has the
    stage's key in its own, so that a changed option makes anew what depends on it, and nothing
    else.

    Args:
        root: the folder, which is made when there is something to write.

    Raises:
        NotADirectoryError: `root` is a file.
        FileExistsError: it is a folder of something else.
    """

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(f"output={root} is a file: name a folder for the run.")
        found = {path.name for path in root.iterdir()} if root.exists() else set()
        found = {name for name in found if not name.startswith(".")}  # of the file system
        found = {name for name in found if not name.endswith((".log", ".out", ".err"))}
        if found and found.isdisjoint(_OF_A_RUN):
            raise FileExistsError(
                f"output={root} holds other files, {min(found)!r} for one: name another folder."
            )
        self.root = root.resolve()  # checkpoints know a model by its path

    def rows(
        self, name: str, key: Any, make: Callable[[], tuple[Dataset, Mapping[str, Any]]]
    ) -> Stage:
        """A stage whose result is a dataset.

        Args:
            name: its path below the root.
            key: plain values that decide what comes out.
            make: makes the rows and the counts of what was lost.
        """

        def write(part: Path) -> Mapping[str, Any]:
            rows, counts = make()
            if not len(rows):
                raise ValueError(f"{name}: no row is left. {_said(counts)}")
            shutil.rmtree(part, ignore_errors=True)
            rows.save_to_disk(part)
            return {"rows": len(rows), **counts}

        return self._stage(name, key, write)

    def model(self, name: str, key: Any, make: Callable[[Path], Mapping[str, Any]]) -> Stage:
        """A stage whose result is the folder of a model.

        Args:
            name: its path below the root.
            key: plain values that decide what comes out.
            make: writes the model into the folder that it is given, where it finds the checkpoints
                of an earlier call that was killed.
        """
        return self._stage(name, key, make)

    def value(self, name: str, key: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A stage whose result is a few plain values, kept in its record."""
        path, digest = self.root / name, digest_of_key([VERSION, key])
        record = self._record_of(path)
        if record is None or record["key"] != digest:
            with _timed() as seconds:
                found = make()
            record = {"stage": name, "key": digest, "seconds": seconds(), "value": found}
            self._write(path, record)
        return dict(record["value"])

    def has_other(self, name: str, key: Any) -> bool:
        """Whether a stage of this name was made with another key."""
        record = self.record(name)
        return record is not None and record["key"] != digest_of_key([VERSION, key])

    def record(self, name: str) -> dict[str, Any] | None:
        """The record of a stage; None where it is not finished."""
        return self._record_of(self.root / name)

    def _stage(self, name: str, key: Any, write: Callable[[Path], Mapping[str, Any]]) -> Stage:
        path, digest = self.root / name, digest_of_key([VERSION, key])
        record = self._record_of(path)
        if record is None or record["key"] != digest or not path.is_dir():
            logger.info("%s: begins.", name)
            part = path.with_name(f"{path.name}-{digest[:12]}.part")
            path.parent.mkdir(parents=True, exist_ok=True)
            with _timed() as seconds:
                counts = write(part)
            self._file_of(path).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
            part.rename(path)
            self._remove_other_parts(path)
            record = {"stage": name, "key": digest, "seconds": seconds(), "counts": dict(counts)}
            self._write(path, record)
            logger.info("%s: done in %.0f s. %s", name, record["seconds"], _said(counts))
        return Stage(name, digest, path, record["seconds"], record["counts"])

    def _record_of(self, path: Path) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._file_of(path).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def _write(self, path: Path, record: Mapping[str, Any]) -> None:
        write_json(self._file_of(path), record)

    def _file_of(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.json")

    def _remove_other_parts(self, path: Path) -> None:
        """Delete what calls with other settings had begun."""
        for part in path.parent.glob(f"{path.name}-*.part*"):
            shutil.rmtree(part, ignore_errors=True)


def digest_of_key(key: Any) -> str:
    """The digest of plain values.

    Example:
        >>> digest_of_key({"a": 1, "b": [2]}) == digest_of_key({"b": [2], "a": 1})
        True
    """
    return xxhash.xxh3_128_hexdigest(json.dumps(key, sort_keys=True).encode())


def rows_of(rows: Sequence[Mapping[str, Any]], features: Features) -> Dataset:
    """Rows as a dataset with these columns, also where there is none (`Dataset.from_list` fails);
    null where a row lacks one.

    Example:
        >>> import datasets
        >>> rows_of([], Features({"query": datasets.Value("string")})).column_names
        ['query']
    """
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in features}, features)


def write_json(path: Path, value: Any) -> None:
    """Replace a file of JSON, at once."""
    part = path.with_name(f".{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    start = time.monotonic()
    yield lambda: round(time.monotonic() - start, 1)


def _said(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in counts.items())
