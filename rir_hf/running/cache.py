"""What long runs leave on the disk, and how it is deleted by name: shards and indexes in the
`datasets` cache, the stages of a boost run in its folder.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import datasets

_INDEX = re.compile(
    r"index-[0-9a-f]+\.(faiss(\.int8|\.bfloat16)?|bm25)|\.index-[0-9a-f]+\.(faiss|bm25).*\.part"
)


class Cached(NamedTuple):
    """A folder or a file that can be deleted: it is made anew where it is needed again.

    kind: `shards` of a step (with an index that lies among them; `mapped` are rows that exports and
        `unnest` made), `index` of a corpus, `stage` of a boost run, or `leftover` of a process that
        was killed.
    name: what it is called; of a stage the round and the stage, `round-1:queries`; of an index that
        lies beside its corpus the corpus's folder too, `json/default-1f2e3d/index-a0b1c2.faiss`,
        since the same texts in another file have an index of the same name.
    files: how many files it has.
    size: of all files together, in bytes.
    written: when the newest was written, in seconds since 1970.
    path: where it lies.
    """

    kind: str
    name: str
    files: int
    size: int
    written: float
    path: Path


def cached(run: str | os.PathLike[str] | None = None) -> list[Cached]:
    """What shards and indexes occupy in the `datasets` cache, the largest first.

    An index that lies beside a corpus in a folder of the user's own is none of the cache, and not
    in the list.

    Args:
        run: folder of a boost run, whose stages and leftovers are listed too. Symbolic links in it
            are not followed.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder is none of a boost run.

    Example:
        >>> for entry in cached():                                                # doctest: +SKIP
        ...     print(entry.name, entry.size)
        Embed-0f1e2d3c4b5a6978 153600312
    """
    found = [_entry(name, path) for name, path in _in_cache()]
    if run is not None:
        found += [_entry(name, path) for name, path in _in_run(Path(run))]
    return sorted(found, key=lambda entry: (-entry.size, entry.name))


def delete(
    names: Sequence[str], run: str | os.PathLike[str] | None = None, *, dry_run: bool = False
) -> list[Cached]:
    """Delete what is named, and nothing else; a link is deleted, never what it leads to.

    Args:
        names: of entries in the list, or shell patterns of such (`"MineNegatives-*"`). The name of
            an index without its folder means all of this name.
        run: as in `cached`.
        dry_run: delete nothing.

    Returns:
        What was deleted, or would be.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a name that nothing in the list has, so paths too: nothing is deleted then.
    """
    entries = cached(run)
    for name in names:
        if not any(_is_called(entry, name) for entry in entries):
            raise ValueError(
                f"Nothing in the list is called {name!r}: give names as the list has them, or a "
                "pattern such as 'MineNegatives-*'."
            )
    named = [entry for entry in entries if any(_is_called(entry, name) for name in names)]
    for entry in [] if dry_run else named:
        _delete(entry)
    return named


def _delete(entry: Cached) -> None:
    """Delete a file or folder. A stage loses its name first: its record does not say that files
    are missing, as shards and indexes do.
    """
    path = entry.path
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        return
    if entry.kind == "stage":
        path = path.rename(path.with_name(f"{path.name}-{uuid4().hex}.part"))
    shutil.rmtree(path)


def _is_called(entry: Cached, name: str) -> bool:
    """Whether it has the name; an index also without the folder of its corpus."""
    called = (entry.name, entry.name.rpartition("/")[2])
    return any(own == name or fnmatchcase(own, name) for own in called)


def _in_cache() -> Iterator[tuple[str, Path]]:
    """The shards, and the indexes, which lie beside them or beside the rows of their corpus, each
    with its name.
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    own = cache / "rir_hf"
    if own.is_dir():
        yield from ((path.name, path) for path in own.iterdir())
    for folder, inside, files in os.walk(cache):
        indexes = [Path(folder, name) for name in (*inside, *files) if _INDEX.fullmatch(name)]
        corpus = Path(folder).relative_to(cache).parts[:2]  # below lie version and digest
        yield from (("/".join((*corpus, path.name)), path) for path in indexes)
        others = {own, cache / "downloads", *indexes}
        inside[:] = [name for name in inside if Path(folder, name) not in others]


def _in_run(folder: Path) -> Iterator[tuple[str, Path]]:
    """The stages of a boost run and what is half written, each with its name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    parts = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink()]
    parts = [path for path in parts if path.match("round-*") or path.name == "held_out"]
    if not parts:
        raise ValueError(
            f"{folder} is no folder of a boost run: it has neither round-1 nor held_out."
        )
    yield from ((path.name, path) for path in folder.iterdir() if path.suffix == ".part")
    for part in parts:
        for path in part.iterdir():
            if path.is_dir() or path.suffix == ".part":  # files beside them are records
                yield f"{part.name}:{path.name}", path


def _entry(name: str, path: Path) -> Cached:
    """A folder or file with what it occupies; a link counts as itself."""
    files = [path]
    if path.is_dir() and not path.is_symlink():
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    stats = []
    for file in files:
        with suppress(FileNotFoundError):  # another process has finished or deleted it meanwhile
            stats.append(file.lstat())
    size = sum(stat.st_size for stat in stats)
    written = max((stat.st_mtime for stat in stats), default=0.0)
    return Cached(_kind_of(name, path), name, len(stats), size, written, path)


def _kind_of(name: str, path: Path) -> str:
    if path.suffix == ".part":
        return "leftover"
    if ":" in name:
        return "stage"
    return "index" if _INDEX.fullmatch(path.name) else "shards"
