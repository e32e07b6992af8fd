"""What an index file is and whose: where it lies, how it is written whole or not at all, and how a
file that is damaged or belongs to something else is told before FAISS reads it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np
from datasets import Dataset

from rir_hf.index.devices import on_cpu

if TYPE_CHECKING:
    import faiss

_MAGIC = b"rir-hf\x00i"
_DAY = 24 * 3600


class IndexFile(NamedTuple):
    """Where an attached index is stored and what it was made of; kept on the object that
    `corpus.get_index(name)` returns, as its attribute `file`.

    path: the file.
    identity: what the vectors and the kind of index are, the same wherever the file lies.
    column: the corpus's column with the vectors.
    """

    path: str
    identity: str
    column: str


def index_path(corpus: Dataset, identity: str, ending: str = ".faiss") -> Path:
    """Where the index is, or shall be, written: beside the cache files of the corpus, or in the
    datasets cache where that cannot be.
    """
    name = f"index-{identity}{ending}"
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "rir_hf"
    beside = [Path(file["filename"]).parent for file in corpus.cache_files[:1]]
    for folder in (*beside, cache):
        if (folder / name).exists():
            return folder / name
    writable = (folder for folder in beside if os.access(folder, os.W_OK))
    return next(writable, cache) / name


def write_index(index: faiss.Index, path: Path, identity: str) -> None:
    """Write an index from whatever device it is on; the file is there whole or not at all.

    Behind what FAISS writes, and does not look at when it reads, stand the size and the identity,
    by which a file that was cut or exchanged is told.
    """
    import faiss

    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    unfinished = path.with_name(f".{path.name}-{os.getpid()}.part")
    try:
        faiss.write_index(on_cpu(index), str(unfinished))
        _sign(unfinished, identity)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_index(path: Path) -> faiss.Index:
    """The index in a file, memory-mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut, is no index, or refers to files elsewhere.
    """
    import faiss

    if not path.exists():
        raise FileNotFoundError(f"There is no index file at {path}.")
    if identity_in(path) is None:
        # Reading a damaged file memory-mapped can end the process (FAISS 1.15, September 2026):
        # one that `write_index` did not sign is read in the ordinary way before.
        _read(path, 0)
    index = _read(path, faiss.IO_FLAG_MMAP_IFC)
    ivf = faiss.try_extract_index_ivf(index)
    lists = None if ivf is None else ivf.invlists
    if lists is not None and "OnDisk" in type(faiss.downcast_InvertedLists(lists)).__name__:
        raise ValueError(
            f"The index {path} keeps its lists in another file that it names. Write it as one "
            "file: read it with FAISS, make its lists ArrayInvertedLists, and save it again."
        )
    return index


def identity_in(path: Path) -> str | None:
    """The identity that `write_index` left in a complete file; None for any other file."""
    size = path.stat().st_size
    if size < 16:
        return None
    with path.open("rb") as file:
        file.seek(size - 16)
        tail = file.read(16)
        length = int.from_bytes(tail[:8], "little")
        if tail[8:] != _MAGIC or length > size - 16:
            return None
        file.seek(size - 16 - length)
        signed = json.loads(file.read(length))
    return signed["identity"] if signed["size"] == size - 16 - length else None


def vectors_in(index: faiss.IndexFlat) -> np.ndarray:
    """The vectors of a flat index, `(rows, d)`, not copied; the array keeps the index alive."""
    return np.asarray(_KeepsIndex(index)).reshape(index.ntotal, index.d)


def search_settings(index: faiss.Index) -> dict[str, int]:
    """How widely an index looks, where that can be set after it is built: `nprobe`, `efSearch`.

    An index file does not keep it.
    """
    return {name: int(getattr(owner, name)) for owner, name in _adjustable(index)}


def set_search_settings(index: faiss.Index, settings: dict[str, int]) -> None:
    """The counterpart of `search_settings`."""
    for owner, name in _adjustable(index):
        if name in settings:
            setattr(owner, name, settings[name])


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written more than a day ago."""
    for leftover in folder.glob(".index-*.part"):
        if time.time() - leftover.stat().st_mtime < _DAY:
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


class _KeepsIndex:
    """An array interface that holds on to the index whose memory it shows."""

    def __init__(self, index: faiss.IndexFlat) -> None:
        import faiss

        self.index = index
        vectors = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
        self.__array_interface__ = vectors.__array_interface__


def _adjustable(index: faiss.Index) -> list[tuple[Any, str]]:
    import faiss

    lists = index if hasattr(index, "nprobe") else faiss.try_extract_index_ivf(index)
    graph = getattr(index, "hnsw", None)
    owners = [(lists, "nprobe"), (graph, "efSearch")]
    return [(owner, name) for owner, name in owners if owner is not None]


def _read(path: Path, flags: int) -> faiss.Index:
    import faiss

    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise ValueError(
            f"{path} is not a complete FAISS index; it may have been cut. Delete it and build it "
            f"again with attach_index. FAISS says: {error}"
        ) from error


def _sign(path: Path, identity: str) -> None:
    signed = json.dumps({"identity": identity, "size": path.stat().st_size}).encode()
    with path.open("ab") as file:
        file.write(signed + len(signed).to_bytes(8, "little") + _MAGIC)
        file.flush()
        os.fsync(file.fileno())
