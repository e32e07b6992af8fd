"""What `push` and `pull` agree on: what lies where in a repository."""

from __future__ import annotations

import re
from urllib.parse import quote

CARD = "README.md"
FOLDER = "rir_hf"
"""Where a push keeps what is not rows: provenance and plot."""
_DEFAULT = "data"
_NOT_IN_NAMES = frozenset("<>:/\\|?*")
_LONGEST = 150
"""Bytes of a name in the name of a file, which may have 255."""


def check_config(name: str, option: str = "config_name") -> None:
    """Raise `ValueError` for a name of a config that `datasets` does not take, or that cannot be
    shown or written; `option` gave it.
    """
    if not name.strip() or not name.isprintable() or _NOT_IN_NAMES & set(name):
        raise ValueError(
            f"{option} must be printable, without any of {''.join(sorted(_NOT_IN_NAMES))}, got "
            f"{name!r:.80}."
        )
    check_length(option, slug_of(name))


def check_length(what: str, name: str) -> None:
    """Raise `ValueError` for a name that is too long for the name of a file."""
    if len(name.encode()) > _LONGEST:
        raise ValueError(f"{what} is too long for the name of a file: {name!r:.80}")


def check_revision(name: str | None) -> None:
    """Raise `ValueError` for what can be no branch, tag or commit."""
    if name is not None and not (name.strip() and name.isprintable() and len(name) <= _LONGEST):
        raise ValueError(f"revision must be a branch, tag or commit, got {name!r:.80}.")


def slug_of(config: str) -> str:
    """The name of a config as one for folders and comments, another for each config.

    Example:
        >>> slug_of("mined"), slug_of("my data"), slug_of("data")
        ('mined', 'my%20data', '%64ata')
    """
    if config in (_DEFAULT, FOLDER, ".", ".."):
        return f"%{ord(config[0]):02x}{config[1:]}"
    return quote(config, safe="")


def folder_of(config: str) -> str:
    """Where the rows of a config lie.

    Example:
        >>> folder_of("default"), folder_of("mined")
        ('data', 'mined')
    """
    return _DEFAULT if config == "default" else slug_of(config)


def beside(config: str, name: str) -> str:
    """Where what is not rows of a config lies: `provenance.json` and `report.png`."""
    return f"{FOLDER}/{slug_of(config)}/{name}"


def belongs_to(path: str, config: str) -> bool:
    """Whether a file in the repository was written by a push of this config.

    Example:
        >>> belongs_to("data/train-00000-of-00001.parquet", "default")
        True
        >>> belongs_to("mined/notes.md", "mined")
        False
    """
    shard = rf"{re.escape(folder_of(config))}/[\w.]+-\d{{5}}-of-\d{{5}}\.parquet"
    return path.startswith(beside(config, "")) or re.fullmatch(shard, path) is not None
