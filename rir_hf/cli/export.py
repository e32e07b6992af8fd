"""`rir-hf export`: mined, scored or preferred rows in, a trainer's own format out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from rir_hf.cli.checks import check_room
from rir_hf.cli.options import DryRun, check_options
from rir_hf.cli.output import as_written, check_writable
from rir_hf.core.unfinished import replacing

logger = logging.getLogger(__name__)

FORMATS = {
    "sentence-transformers": "to_sentence_transformers",
    "flagembedding": "to_flagembedding",
    "pylate": "to_pylate",
    "tevatron": "to_tevatron",
    "automodel": "to_automodel",
    "trl": "to_trl",
    "llamafactory": "to_llamafactory",
}
_LINES = ("flagembedding", "tevatron")
"""Formats that are a file of JSON lines."""
_FOLDERS = {
    "pylate": ("queries/train.parquet", "documents/train.parquet", "train/train.parquet"),
    "automodel": ("train.json", "corpus/train.parquet", "corpus/merlin_metadata.json"),
}
"""Formats that are a folder, with its files."""
_SHARED = "llamafactory"
"""The format whose folder holds other data sets too, which stay."""
_ALONE = "train.parquet"
"""The file in a folder of any other format."""


def command(
    dry: DryRun,
    rows: str,
    format: Literal[
        "sentence-transformers",
        "flagembedding",
        "pylate",
        "tevatron",
        "automodel",
        "trl",
        "llamafactory",
    ],
    path: str,
    split: str | None = None,
    limit: int | None = None,
    options: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write rows as a trainer reads them. Rows that it cannot use are left out and counted.

    rir-hf export --rows scored --format sentence-transformers --path train.parquet
        --options '{loss: MarginMSELoss, num_negatives: 7}'
    rir-hf export --rows mined --format flagembedding --path train.jsonl
    rir-hf export --rows preferred --format trl --path preferences

    Args:
        rows: a file, a folder, a Hub name.
        format: whose.
        path: file or folder to write; to that of llamafactory, which may hold other data, it adds.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        options: those of the format's function, `rir_hf.to_FORMAT`: loss (needed) and num_negatives
            of sentence-transformers, for example; rescale and temperature of most; tokenizer (a
            name or folder), conversational and max_length of trl.
        overwrite: replace an earlier export.
    """
    import rir_hf
    from rir_hf.export.shapes import SHAPE_OF_LOSS

    written = getattr(rir_hf, FORMATS[format])
    given = dict(options or {})
    losses = {"loss": list(SHAPE_OF_LOSS)}
    check_options(written, given, f"--options: {format}", positional=2, choices=losses)
    check_place(format, path)
    target = Path(path)
    check_apart(target, Path(rows))
    if format == _SHARED:
        check_shared(target, given.get("name", "preferences"), overwrite)
    else:
        check_own(target, _FOLDERS.get(format, (_ALONE,)), overwrite)
    check_writable(target.absolute().parent, "--path")
    check_room(target)
    if isinstance(given.get("tokenizer"), str):
        from transformers import AutoTokenizer

        try:
            given["tokenizer"] = AutoTokenizer.from_pretrained(given["tokenizer"])
        except (OSError, ValueError) as error:
            raise ValueError(f"--options: tokenizer {given['tokenizer']!r}: {error}") from None
    found = rir_hf.load_rows(rows, split, limit=limit)
    if dry.dry_run:
        made = written(found, **given)
        dry.says(as_written(made, path, len(made)))
        return
    if format in _FOLDERS or (format != _SHARED and not target.suffix):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, folder=True) as part:
            written(found, part if format in _FOLDERS else part / _ALONE, **given)
    else:
        written(found, path, **given)
    logger.info("Written to %s", path)


def check_place(format: str, path: str) -> None:
    """Raise `ValueError` where a format is no file with this ending, or no file."""
    from rir_hf.export.files import LINES, PARQUET, file_at

    if format not in (*_FOLDERS, _SHARED):
        file_at(path, lines_only=format in _LINES, name="--path")
    elif Path(path).suffix in (*LINES, PARQUET):
        raise ValueError(f"--path must be a folder for {format}, got {path!r}")


def check_apart(target: Path, source: Path) -> None:
    """Raise `FileExistsError` where what would be replaced is, holds or lies in what is read."""
    if not target.exists() or not source.exists():
        return
    one, other = target.resolve(), source.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise FileExistsError(f"{target} is among what --rows reads: choose another --path")


def check_own(target: Path, files: tuple[str, ...], overwrite: bool) -> None:
    """Raise `OSError` where a file or an export is there that may not be replaced, or something
    else.

    Args:
        target: the file, or the folder.
        files: what an export writes into a folder.
        overwrite: whether an earlier export may be replaced.
    """
    if target.is_dir():
        for path in target.rglob("*"):
            name = path.relative_to(target).as_posix()
            if name not in files and (path.is_symlink() or not path.is_dir()):
                raise FileExistsError(
                    f"{target} holds {name!r}, which no such export writes: choose another --path"
                )
    is_taken = any(target.iterdir()) if target.is_dir() else target.exists()
    if is_taken and not overwrite:
        raise FileExistsError(f"{target} is there already: --overwrite replaces it")


def check_shared(folder: Path, name: str, overwrite: bool) -> None:
    """Raise `FileExistsError` where a folder is none of LLaMA-Factory's, or where it holds data of
    that name.
    """
    from rir_hf.export.generators import read_info

    entry = read_info(folder).get(name)
    is_filled = folder.is_dir() and any(file.suffix != ".part" for file in folder.iterdir())
    if is_filled and not (folder / "dataset_info.json").exists():
        raise FileExistsError(
            f"{folder} holds other files, and no dataset_info.json: choose another --path"
        )
    if entry is None and (folder / f"{name}.jsonl").exists():
        raise FileExistsError(
            f"{folder} holds {name}.jsonl, which dataset_info.json does not name: give another "
            "name in --options"
        )
    if entry is not None and not overwrite:
        raise FileExistsError(f"{folder} holds data called {name!r}: --overwrite replaces them")
