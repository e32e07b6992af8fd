"""Digests of files: content in a short text, computed again only where the files have changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import xxhash
from huggingface_hub.constants import HF_HOME

from rir_hf.core.unfinished import unfinished

_NOT_CONTENT = {".git", ".cache", "README.md", ".gitattributes"}
_BLOCK = 1 << 22
_COARSEST_CLOCK = 2_000_000_000
_known: dict[str, str] = {}


def digest_of(root: Path) -> str:
    """Digest of the content of a file, or of all files in a folder with their names below it."""
    files = [root] if root.is_file() else sorted(_files_in(root))
    names = [path.relative_to(root).as_posix() for path in files]

    def compute() -> str:
        digest = xxhash.xxh3_128()
        for name, path in zip(names, files, strict=True):
            digest.update(f"{name} {path.stat().st_size}\n".encode())
            for block in blocks_of(path):
                digest.update(block)
        return digest.hexdigest()

    return remembered(["content", *names], files, compute)


def by_content(*paths: Path) -> dict[str, str]:
    """What `load_dataset` must be given so that it caches rows of local files by their content.

    It goes by their times alone, which a copy may keep; a `description` counts as well and changes
    nothing (datasets 5.2, November 2026).
    """
    return {"description": _hash([digest_of(path) for path in paths])}


def blocks_of(path: Path, size: int | None = None) -> Iterator[bytes]:
    """The content of a file, or the first `size` bytes of it, a few megabytes at a time."""
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while block := file.read(min(_BLOCK, left)):
            left -= len(block)
            yield block


def remembered(what: Sequence[str], files: Sequence[Path], compute: Callable[[], str]) -> str:
    """What `compute` gives, from memory for as long as each file's resolved path, inode, size and
    both times stay the same.

    It is kept for later processes too, as a line in the cache of Hugging Face, in `rir_hf/digests`.

    Args:
        what: what is computed of these files, and from what else.
        files: what it is computed from.
        compute: the long way to it.
    """
    try:
        states = [_state_of(path) for path in files]
    except FileNotFoundError:  # mapped to memory, and deleted since
        return compute()
    key = _hash([*what, *(path for path, *_ in states)])
    state = _hash(states)
    note = Path(HF_HOME, "rir_hf", "digests", key)
    known = _known.get(key) or _text_of(note)
    if known.startswith(f"{state} "):
        _known[key] = known
        return known.removeprefix(f"{state} ")
    start = time.time_ns()
    found = compute()
    # The clock of a file system may stand still while a file that was just written changes again.
    if all(start - times[-1] > _COARSEST_CLOCK for times in states):
        _known[key] = f"{state} {found}"
        with suppress(OSError):  # of no use where the cache cannot be written
            note.parent.mkdir(parents=True, exist_ok=True)
            with unfinished(note) as part:
                part.write_text(_known[key], encoding="utf-8")
                part.replace(note)
    return found


def _text_of(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _files_in(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_file() and not _NOT_CONTENT & set(path.relative_to(root).parts):
            yield path


def _state_of(path: Path) -> tuple[str, int, int, int, int]:
    real = path.resolve()
    found = real.stat()
    return str(real), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _hash(values: object) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(values).encode())
