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

    written = getattr(rir_hf, FORMATS[format])
    given = dict(options or {})
    check_options(written, given, f"--options: {format}", positional=2)
    if not overwrite and is_taken(Path(path)):
        raise FileExistsError(f"{path} is there already: --overwrite replaces it")
    check_writable(Path(path).absolute().parent, "--path")
    if isinstance(given.get("tokenizer"), str):
        from transformers import AutoTokenizer

        given["tokenizer"] = AutoTokenizer.from_pretrained(given["tokenizer"])
    found = rir_hf.load_rows(rows, split, limit=limit)
    if dry.dry_run:
        made = written(found, **given)
        dry.says(as_written(made, path, len(made)))
        return
    written(found, path, **given)
    logger.info("Written to %s", path)


def is_taken(path: Path) -> bool:
    """Whether a file, or a folder with something in it, is there."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))
