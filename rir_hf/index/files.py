"""What an index file is and whose: where it lies, how it is written whole or not at all, and how a
file that is damaged or belongs to something else is told before FAISS reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np
import xxhash
from datasets import Dataset

from rir_hf.core.digests import blocks_of, remembered
from rir_hf.core.unfinished import remove_leftovers, unfinished
from rir_hf.index.devices import on_cpu

if TYPE_CHECKING:
    import faiss

_MAGIC = b"rir-hf\x00i"
_BLOCK = 1 << 16


class IndexFile(NamedTuple):
    """Where an attached index is stored and what it was made of; kept on the object that
    `corpus.get_index(name)` returns, as its attribute `file`.

    path: the file.
    identity: what the vectors and the kind of index are, the same wherever the file lies.
    column: the corpus's column with the vectors.
    vectors: digest of the vectors, in order; see `digest_of_blocks`.
    built: the settings of `attach_index`, where that built it; see `built_as`.
    """

    path: str
    identity: str
    column: str
    vectors: str
    built: dict[str, Any] | None = None


class Signature(NamedTuple):
    """What stands at the end of an index file of ours, behind what FAISS looks at.

    identity: as in `IndexFile`.
    vectors: digest of the vectors that it was built from; None where that is not known.
    size: how many bytes stand before it.
    checksum: of these bytes.
    """

    identity: str
    vectors: str | None
    size: int
    checksum: str


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


def write_index(index: faiss.Index, path: Path, identity: str, vectors: str | None = None) -> None:
    """Write an index from whatever device it is on; the file is there whole or not at all.

    Args:
        index: the index.
        path: the file; an older one is replaced.
        identity, vectors: what is left in it, see `Signature`.
    """
    import faiss

    with _signed(path, identity, vectors) as file:
        # Given a path, FAISS takes a full disk for a success (1.15, September 2026).
        writer = faiss.PyCallbackIOWriter(file.write)  # type: ignore[attr-defined]
        faiss.write_index(on_cpu(index), writer)


def write_flat(
    head: bytes, blocks: Iterable[np.ndarray], path: Path, identity: str, vectors: str
) -> None:
    """Write a flat index of vectors that come block by block, which are never all in memory.

    Args:
        head: what stands before them, see `flat_head`.
        blocks: `(rows, d)` float32 each.
        path, identity, vectors: as in `write_index`.
    """
    with _signed(path, identity, vectors) as file:
        file.write(head)
        for block in blocks:
            file.write(np.ascontiguousarray(block, np.float32).data)


def flat_head(dimension: int, rows: int) -> bytes | None:
    """What FAISS writes before the vectors of a flat index with inner product: their number and
    length. None where this FAISS writes something else, which is looked at with one vector.

    Example:
        >>> len(flat_head(384, 100_000_000))
        45
    """
    import faiss

    index = faiss.IndexFlatIP(dimension)
    empty = faiss.serialize_index(index).tobytes()
    vector = np.ones((1, dimension), np.float32)
    index.add(vector)

    def head(rows: int) -> bytes:
        number, floats = (count.to_bytes(8, "little") for count in (rows, rows * dimension))
        return empty[:8] + number + empty[16:-8] + floats

    is_so = faiss.serialize_index(index).tobytes() == head(1) + vector.tobytes()
    return head(rows) if is_so else None


@contextmanager
def _signed(path: Path, identity: str, vectors: str | None) -> Iterator[IO[bytes]]:
    """A file to write an index to, which is signed and takes its name at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, "index-*")
    with unfinished(path) as part:
        with part.open("wb") as file:
            yield file
        sign(part, identity, vectors)
        part.replace(path)


def read_index(path: Path) -> faiss.Index:
    """The index in a file, memory-mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut, is no index, or refers to files elsewhere.
    """
    import faiss

    if not path.exists():
        raise FileNotFoundError(f"There is no index file at {path}.")
    if signature_in(path) is None:
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


def sign(path: Path, identity: str, vectors: str | None = None) -> None:
    """Leave size, checksum and identity at the end of a complete file; see `Signature`."""
    size = path.stat().st_size
    signature = Signature(identity, vectors, size, _checksum(path, size))
    signed = json.dumps(signature._asdict()).encode()
    with path.open("ab") as file:
        file.write(signed + len(signed).to_bytes(8, "little") + _MAGIC)
        file.flush()
        os.fsync(file.fileno())


def signature_in(path: Path) -> Signature | None:
    """What `sign` left in a file that has its full size; None for any other file."""
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
        try:
            signature = Signature(**json.loads(file.read(length)))
        except (ValueError, TypeError):  # damaged, or of an older version
            return None
    return signature if signature.size == size - 16 - length else None


def is_intact(path: Path, identity: str | None = None) -> bool:
    """Whether a file is there and holds byte for byte what was signed, with this identity.

    The checksum is computed anew only where the file has changed.
    """
    signature = signature_in(path) if path.exists() else None
    if signature is None or identity not in (None, signature.identity):
        return False
    size = signature.size
    found = remembered([f"first {size} bytes"], [path], lambda: _checksum(path, size))
    return found == signature.checksum


def digest_of_blocks(blocks: Iterable[np.ndarray]) -> str:
    """The digest of vectors that come block by block, `(rows, d)` float32, however they are cut.

    Example:
        >>> vectors = np.eye(3, dtype="float32")
        >>> digest_of_blocks([vectors]) == digest_of_blocks([vectors[:1], vectors[1:]])
        True
    """
    digest = xxhash.xxh3_128()
    width = 0
    for block in blocks:
        width = block.shape[1]
        digest.update(np.ascontiguousarray(block, np.float32).view(np.uint8).data)
    digest.update(str(width).encode())
    return digest.hexdigest()


def digest_in(index: faiss.Index) -> str | None:
    """The digest of the vectors in an index; None where it does not keep them as they were."""
    import faiss

    if not isinstance(index, (faiss.IndexFlat, faiss.IndexHNSWFlat, faiss.IndexIVFFlat)):
        return None
    return digest_of_blocks(
        index.reconstruct_n(start, min(_BLOCK, index.ntotal - start))
        for start in range(0, index.ntotal, _BLOCK)
    )


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


def _checksum(path: Path, size: int) -> str:
    digest = xxhash.xxh3_128()
    for block in blocks_of(path, size):
        digest.update(block)
    return digest.hexdigest()
