"""Where a command's result goes: a folder of rows, complete or not at all."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rir_hf.cli.checks import check_room
from rir_hf.cli.options import DryRun, HubOptions, Rows
from rir_hf.core.unfinished import alone_in, replacing, rewriting, take_place, write_text

logger = logging.getLogger(__name__)

_MARKS = ("dataset_info.json", "dataset_dict.json")
_WRITTEN = (
    "*.arrow",
    "*.jsonl",
    *_MARKS,
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
            check_kind(folder, *_MARKS)
            if not self.overwrite:
                raise FileExistsError(f"{folder} holds a result: --overwrite replaces it")
            check_no_other(folder)
        elif target != folder and target.exists() and not self.overwrite:
            raise FileExistsError(f"{target} is there: --overwrite replaces it")
        check_writable(folder.absolute().parent, "--output")
        check_room(folder)

    def finish(
        self,
        rows: Rows,
        dry: DryRun,
        hub: HubOptions | None,
        config: str,
        *,
        lines: str | None = None,
        stage: str | None = None,
        beside: Callable[[Path], None] | None = None,
        corpus: Rows = None,
    ) -> None:
        """End a command: say what would be written, or write rows and counts and push them.

        Args:
            rows: what the command made.
            dry: whether it says so alone.
            hub: where they go besides.
            config: what the rows are, a name for their config on the Hub and for the lines.
            lines: the name of the file of JSON lines where it is another, as for `save`.
            stage: what the command added, the stage of `report` that is shown; None: no report.
            beside: as for `save`.
            corpus: what goes to the Hub with the rows.
        """
        if dry.dry_run:
            dry.says(as_written(rows, self.output, dry.number_of(rows)))
            return
        counts = None
        if stage is not None:
            counts = counted(rows, stage)
        self.save(rows, f"{config}.jsonl" if lines is None else lines, counts, beside)
        if hub is not None:
            hub.push(rows, config, corpus=corpus)

    def save(
        self,
        rows: Rows,
        lines: str,
        summary: Mapping[str, Any] | None = None,
        beside: Callable[[Path], None] | None = None,
    ) -> Path:
        """Write rows as `save_to_disk` does, and as JSON lines beside.

        Args:
            rows: what is written, one dataset or several by name.
            lines: name of the file of JSON lines; empty: none, for rows with vectors.
            summary: what goes into `report.json`.
            beside: writes more into the folder that it is given.

        Returns:
            The folder.
        """
        folder = Path(self.output)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder, folder=True) as part:
            save_rows(rows, part)
            if lines:
                rows.to_json(part / lines, force_ascii=False)
            if summary is not None:
                write_json(summary, part / "report.json")
            if beside is not None:
                beside(part)
        number = sum(map(len, rows.values())) if isinstance(rows, Mapping) else len(rows)
        logger.info("Written to %s: %d rows", folder, number)
        return folder


def save_rows(rows: Rows, folder: Path) -> None:
    """`save_to_disk`, so that `datasets` can read what has no row too."""
    shards: Any = None if len(rows) else 1
    if isinstance(rows, Mapping):
        shards = {name: None if len(part) else 1 for name, part in rows.items()}
    rows.save_to_disk(folder, num_shards=shards)


def as_written(rows: Rows, place: str, number: int | None) -> str:
    """What a dry run says of rows that would be written.

    Args:
        rows: with their columns; several parts by name.
        place: where to.
        number: how many; None: not known.

    Example:
        >>> from datasets import Dataset
        >>> as_written(Dataset.from_dict({"query": ["q"], "pos": [["a"]]}), "out", 1)
        'write 1 rows with the columns query, pos to out'
    """
    said = "rows" if number is None else f"{number:,} rows"
    if isinstance(rows, Mapping):
        said = ", ".join(f"{len(part):,} rows as {name}" for name, part in rows.items())
        rows = next(iter(rows.values()))
    return f"write {said} with the columns {', '.join(rows.column_names)} to {place}"


def counted(rows: Rows, stage: str, negatives: str = "neg") -> dict[str, Any]:
    """What `report` counts; the stage that a command added is shown in the log.

    Args:
        rows: what the command made.
        stage: what it added.
        negatives: column of the negatives.
    """
    from rir_hf import as_table
    from rir_hf.reports.counts import count_stages

    counts = count_stages(rows, negatives)
    name = stage if negatives == "neg" else f"{stage} of {negatives}"
    logger.info("%s", as_table({"rows": counts["rows"], name: counts[stage]}))
    return counts


def check_no_other(folder: Path) -> None:
    """Raise `FileExistsError` where a folder holds what no command has written there."""
    for split in splits_in(folder):
        check_no_other(folder / split)
    others = sorted(
        each.name
        for each in folder.iterdir()
        if each.name not in splits_in(folder)
        and (each.is_dir() or not any(fnmatch(each.name, name) for name in _WRITTEN))
    )
    if others:
        raise FileExistsError(
            f"{folder} holds a result and {others[0]!r}, which would be lost: move it, or choose "
            "another --output"
        )


def splits_in(folder: Path) -> list[str]:
    """The splits of a saved folder, each a folder in it."""
    path = folder / "dataset_dict.json"
    return json.loads(path.read_text(encoding="utf-8"))["splits"] if path.exists() else []


@dataclass
class ModelOutput(DryRun):
    """Where a trained model goes.

    Args:
        overwrite: replace an earlier model at --output once the new one is complete.
    """

    overwrite: bool = False

    def check(self, output: str, *marks: str) -> None:
        """Raise `OSError` where a model cannot be written, or something else is there, before the
        work.

        Args:
            output: the folder.
            marks: files by one of which a model is known there. A training that was begun is gone
                on with.
        """
        folder = Path(output)
        check_kind(folder, *marks, "checkpoints.json")
        if not self.overwrite and any((folder / mark).exists() for mark in marks):
            raise FileExistsError(f"{folder} holds a model: --overwrite replaces it")
        check_writable(folder.absolute().parent, "--output")
        check_room(folder)

    @contextmanager
    def folder(self, output: str, *marks: str) -> Iterator[Path]:
        """The folder to train into; where a model is there already one beside it, which takes its
        place when it is complete. Several processes of one training may call it.
        """
        folder = Path(output)
        is_there = any((folder / mark).exists() for mark in marks)
        place = folder.with_name(f".{folder.name}.new") if is_there else folder
        is_first = os.environ.get("RANK", "0") == "0"
        with alone_in(place) if is_first else nullcontext():
            try:
                yield place
            except BaseException:
                if place.is_dir() and not any(place.iterdir()):
                    place.rmdir()
                raise
            if is_there and is_first:
                take_place(place, folder)


def check_kind(folder: Path, *marks: str) -> None:
    """Raise `FileExistsError` where a folder holds files and none of those that mark its kind."""
    is_filled = folder.is_dir() and any(folder.iterdir())
    if is_filled and not any((folder / mark).exists() for mark in marks):
        raise FileExistsError(f"{folder} holds other files: choose another --output")


def check_file(path: str | None, option: str) -> None:
    """Raise where a file cannot be written, before the work; folders that are missing are made.

    An earlier file is replaced where its ending says that it is of the kind; a run where it is one.
    """
    if path is None:
        return
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file as {option}")
    if option == "--run_file" and not is_run(Path(path)):
        raise FileExistsError(f"{path} is there, and is no run: name another {option}")
    endings = _ENDINGS.get(option)
    if option == "--plot" and Path(path).suffix not in _ENDINGS[option]:
        raise ValueError(f"{option} must end in {' or '.join(_ENDINGS[option])}, got {path!r}")
    if endings and Path(path).exists() and Path(path).suffix not in endings:
        raise FileExistsError(
            f"{path} is there, and does not end in {' or '.join(endings)}: name another {option}"
        )
    if Path(path).exists() and not Path(path).is_file():  # /dev/stdout
        return
    check_writable(Path(path).absolute().parent, f"{option} than {path}")
    if option != "--json":  # a few counts
        check_room(path)


def is_run(path: Path) -> bool:
    """Whether a file is a TREC run, by its first line; also where there is none."""
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open(encoding="utf-8", errors="replace") as lines:
        return len(lines.readline().split()) == 6


def check_writable(folder: Path, option: str) -> None:
    """Raise `OSError` where a folder cannot be made, or nothing be written into it."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(f"{place} is a file: choose another {option}")
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        message = f"{place} cannot be written into ({error.strerror}): choose another {option}"
        raise PermissionError(message) from None


def write_json(value: Any, path: str | Path | None) -> None:
    """Write a file of JSON, if one is named."""
    if path is not None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        write_text(text + "\n", Path(path))


def writing(*files: str | None) -> list[str]:
    """What a dry run says of the files that are named."""
    return [f"write {file}" for file in files if file is not None]


def write_lines(rows: Iterable[Mapping[str, Any]], target: Path) -> None:
    """Replace a file of JSON lines once all is written, as `rewriting` does."""
    with rewriting(target) as part, part.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(as_line(row) + "\n")


def as_line(row: Mapping[str, Any]) -> str:
    """A row as JSON; with escapes where it holds half a character, which UTF-8 cannot."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(row)
    return line
