"""`rir-hf export`: mined, scored or preferred rows in, a trainer's own format out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from rir_hf.cli.options import DryRun, check_options
from rir_hf.cli.output import as_written, check_writable

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
_FOLDERS = ("pylate", "automodel", "llamafactory")
"""Formats that are a folder."""


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
        path: file or folder to write.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        options: those of the format's function, `rir_hf.to_FORMAT`: loss (needed) and num_negatives
            of sentence-transformers, for example; rescale and temperature of most; tokenizer (a
            name or folder), conversational and max_length of trl.
        overwrite: replace what is there.
    """
    import rir_hf
    from rir_hf.export.shapes import SHAPE_OF_LOSS

    written = getattr(rir_hf, FORMATS[format])
    given = dict(options or {})
    losses = {"loss": list(SHAPE_OF_LOSS)}
    check_options(written, given, f"--options: {format}", positional=2, choices=losses)
    check_place(format, path)
    if not overwrite and is_taken(Path(path)):
        raise FileExistsError(f"{path} is there already: --overwrite replaces it")
    check_writable(Path(path).absolute().parent, "--path")
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
    written(found, path, **given)
    logger.info("Written to %s", path)


def check_place(format: str, path: str) -> None:
    """Raise `ValueError` where a format is no file with this ending, or no file."""
    from rir_hf.export.files import LINES, PARQUET, file_at

    if format not in _FOLDERS:
        file_at(path, lines_only=format in _LINES, name="--path")
    elif Path(path).suffix in (*LINES, PARQUET):
        raise ValueError(f"--path must be a folder for {format}, got {path!r}")


def is_taken(path: Path) -> bool:
    """Whether a file, or a folder with something in it, is there."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))
