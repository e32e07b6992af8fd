"""Files and folders that take their name when they are complete, and what killed processes left of
those that never were.
"""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()
"""Descriptors of this process that hold locks."""

_UNIQUE = "[0-9a-f]" * 32
_YOUNG = 2
_DAY = 24 * 3600


@contextmanager
def unfinished(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """An empty file or folder beside `path` to write to, which the caller moves there when it is
    complete; what was not moved is removed in the end.

    It is locked while it is written, by which `remove_leftovers` tells it from what a killed
    process left.

    Args:
        path: what it shall become.
        folder: make a folder.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "counts.txt"
        >>> with unfinished(path) as part:
        ...     _ = part.write_text("3")
        ...     _ = part.replace(path)
        >>> [file.name for file in path.parent.iterdir()]
        ['counts.txt']
    """
    part = path.with_name(f".{path.name}-{uuid4().hex}.part")
    lock = None
    try:
        if folder:
            part.mkdir()
        else:
            part.touch()
        with suppress(OSError):  # a file system without locks
            lock = _lock(part)
        yield part
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk names no file
            error.filename = os.fspath(path)
        raise
    finally:
        if lock is not None:
            _unlock(lock)
        _remove(part)


@contextmanager
def alone_in(folder: Path) -> Iterator[int | None]:
    """The one process of ours that writes into a folder, which is made where it is missing.

    Gives the descriptor of the lock, which a process of another program may inherit, to hold it
    too. Where the file system has no locks, nobody is kept out.

    Raises:
        BlockingIOError: another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = None
    try:
        lock = _lock(folder)
    except BlockingIOError:
        message = f"{folder} is written to by another process: wait for it, or name another output"
        raise BlockingIOError(message) from None
    except OSError:
        pass
    try:
        yield lock
    finally:
        if lock is not None:
            _unlock(lock)


@contextmanager
def replacing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A file or folder to write to, which takes the place of another where nothing failed.

    A process that is killed leaves the other as it was. What it had written is removed when the
    same is written again.

    Args:
        path: what is replaced; it need not be there.
        folder: write a folder.
    """
    remove_leftovers(path.parent, glob.escape(path.name))
    with unfinished(path, folder=folder) as part:
        yield part
        take_place(part, path)


@contextmanager
def rewriting(path: Path) -> Iterator[Path]:
    """A user's file to write to, which takes the place of the one there where nothing failed.

    A link stays a link, and the file's mode what it was. Folders that are missing are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.resolve()
    with replacing(file) as part:
        yield part
        if file.exists():
            shutil.copymode(file, part)


def write_text(text: str, path: Path) -> None:
    """Write a text as `rewriting` does; what is no file, such as /dev/stdout, is written to."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", newline="")
        return
    with rewriting(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def take_place(part: Path, path: Path) -> None:
    """Let a file or folder take the place of another, which is removed then."""
    if path.is_dir():
        _exchange(part, path)
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.replace(path)


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what killed processes left of `unfinished` files and folders.

    Where the file system has no locks, what was not written to for a day counts as left.

    Args:
        folder: where they lie.
        name: a shell pattern of the names that they should have got.
    """
    for part in folder.glob(f".{name}-{_UNIQUE}.part"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if _is_left(part):
                _remove(part)


def _is_left(part: Path) -> bool:
    """Whether the process that wrote it is gone."""
    age = time.time() - part.stat().st_mtime
    try:
        _unlock(_lock(part))
    except BlockingIOError:
        return False
    except OSError:
        return age > _DAY
    return age > _YOUNG  # a younger one may not be locked yet


def _lock(part: Path) -> int:
    """A descriptor that holds the lock of a file or folder until it is closed."""
    if fcntl is None:
        raise OSError("There are no locks here.")
    descriptor = os.open(part, os.O_RDONLY if part.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    _held.add(descriptor)
    return descriptor


def _unlock(descriptor: int) -> None:
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def _hold_nothing() -> None:
    """In a process that was forked, which may live on where this one is killed."""
    while _held:
        os.close(_held.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_hold_nothing)


def _exchange(part: Path, path: Path) -> None:
    """Let two folders change places: on Linux in one step, so that none is missing at any time."""
    if sys.platform == "linux":
        here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        rename = getattr(ctypes.CDLL(None), "renameat2", None)
        if rename and rename(here, os.fsencode(part), here, os.fsencode(path), both) == 0:
            return
    aside = path.with_name(f".{path.name}-{uuid4().hex}.part")
    path.rename(aside)
    try:
        part.rename(path)
    except OSError:
        aside.rename(path)
        raise
    aside.rename(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)
