"""What `push` and `pull` agree on: what lies where in a repository, and what an index matches."""

from __future__ import annotations

import re

from datasets import Dataset

from rir_hf.core.columns import digest_of_rows, without_indexes

CARD = "README.md"
FOLDER = "rir_hf"
"""Where a push keeps what is not rows: provenance, index, plot."""
_NAME = re.compile(r"[\w.-]+")


def check_config(name: str) -> None:
    """Raise `ValueError` for a name of a config that cannot be a folder of its own."""
    if not _NAME.fullmatch(name) or name in (FOLDER, ".", ".."):
        raise ValueError(
            f"config_name must be letters, digits, _, - and ., and not {FOLDER!r}, got {name!r}."
        )
    if name == "data":
        raise ValueError(
            "config_name='data' would share a folder with the config 'default': choose another."
        )


def folder_of(config: str) -> str:
    """Where the rows of a config lie."""
    return "data" if config == "default" else config


def beside(config: str, name: str) -> str:
    """Where what is not rows of a config lies: `provenance.json`, `report.png` and the index."""
    return f"{FOLDER}/{config}/{name}"


def belongs_to(path: str, config: str) -> bool:
    """Whether a file in the repository was written by a push of this config.

    Example:
        >>> belongs_to("data/train-00000-of-00001.parquet", "default")
        True
        >>> belongs_to("mined/notes.md", "mined")
        False
    """
    shard = rf"{re.escape(folder_of(config))}/[\w.]+-\d{{5}}-of-\d{{5}}\.parquet"
    return path.startswith(f"{FOLDER}/{config}/") or re.fullmatch(shard, path) is not None


def digest_without_lists(ds: Dataset) -> str:
    """Digest of the texts and numbers of all rows.

    Columns of lists are left out: the vectors are checked against the index itself.
    """
    names = [name for name, feature in ds.features.items() if not hasattr(feature, "feature")]
    return digest_of_rows(without_indexes(ds).select_columns(names))
