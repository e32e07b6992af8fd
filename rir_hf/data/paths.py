"""What the name of a source says before anything is read: a path, and which reader it takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from rir_hf.core.packed import without_packing

Source: TypeAlias = str | os.PathLike[str]

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
_OF_TREC = (".txt", ".topics", ".qrels", ".run", ".trec", ".xml")
IRDS = "irds:"
"""Before the name of a dataset of ir_datasets."""


def kind_of(path: Source) -> str | None:
    """What reads a file, by its ending; None where nothing does.

    Example:
        >>> kind_of("corpus.tsv.gz"), kind_of("topics.txt")
        ('csv', None)
    """
    return READERS.get(without_packing(path).suffix)


def is_path(source: Source) -> bool:
    """Whether a source is on this machine, or looks as if it should be: no name on the Hub.

    Example:
        >>> is_path("corpus.jsonl"), is_path("./corpus"), is_path("my/own/corpus")
        (True, True, True)
        >>> is_path("scifact"), is_path("me/corpus:mined"), is_path("irds:beir/nq/dev")
        (False, False, False)
    """
    name, path = os.fspath(source), Path(source)
    if name.startswith(IRDS):
        return False
    has_ending = kind_of(path) is not None or without_packing(path).suffix in _OF_TREC
    looks_local = name.startswith((".", "~")) or name.endswith("/") or name.count("/") > 1
    return has_ending or looks_local or path.is_absolute() or path.exists()
