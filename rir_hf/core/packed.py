"""Files that may be compressed with gzip or Zstandard, as their endings `.gz` and `.zst` say."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_PACKINGS = (".gz", ".zst")
_CHUNK = 1 << 14

_PATH = str | os.PathLike[str]


def without_packing(path: _PATH) -> Path:
    """The path that a file has when it is unpacked.

    Example:
        >>> without_packing("corpus.jsonl.gz").name, without_packing("corpus.jsonl").name
        ('corpus.jsonl', 'corpus.jsonl')
    """
    path = Path(path)
    return path.with_suffix("") if path.suffix in _PACKINGS else path


def check_packing(path: _PATH) -> None:
    """Look at a file before it is read: of `.zst` once through, since its readers do not say where
    it ends within a frame.

    Raises:
        ImportError: the package that unpacks it is missing.
        ValueError: it is cut off, or not packed as its name says.
    """
    if Path(path).suffix == ".zst":
        with packing_explained(path):
            _require_whole(Path(path))


@contextmanager
def packing_explained(path: _PATH) -> Iterator[None]:
    """Raise `ValueError` with the file's name where it cannot be unpacked."""
    errors: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error)
    if Path(path).suffix == ".zst":
        errors = (*errors, _zstandard(path).ZstdError)
    try:
        yield
    except errors as error:
        raise ValueError(f"{path} is cut off or not packed as it says: {error}") from error


@contextmanager
def open_text(path: _PATH) -> Iterator[IO[str]]:
    """A text file to read, unpacked, without the mark (BOM) that some editors put first.

    Raises:
        ValueError: it is not UTF-8, or cannot be unpacked.
    """
    with packing_explained(path), _opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: {error}. Convert it (iconv).") from error


def open_bytes(path: _PATH) -> IO[bytes]:
    """A file to read, unpacked."""
    opened = _opened(path, "rb")
    # What zstandard opens cannot be read line by line.
    return io.BufferedReader(opened) if Path(path).suffix == ".zst" else opened


def _opened(path: _PATH, mode: str, **options: Any) -> Any:
    if Path(path).suffix == ".gz":
        return gzip.open(path, mode, **options)
    if Path(path).suffix == ".zst":
        return _zstandard(path).open(path, mode, **options)
    return Path(path).open(mode, **options)


def _zstandard(path: _PATH) -> Any:
    """The package that unpacks a file; `ImportError` with the extra where it is missing."""
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(
            f'{path} is packed with Zstandard: pip install "rir-hf[zstd]", or unpack it.'
        ) from error
    return zstandard


def _require_whole(path: Path) -> None:
    """Raise `EOFError` where a Zstandard file ends within a frame."""
    unpacker, frame = _zstandard(path).ZstdDecompressor(), None
    with path.open("rb") as file:
        while left := file.read(_CHUNK):
            while left:
                if frame is None or frame.eof:
                    frame = unpacker.decompressobj()
                frame.decompress(left)
                left = frame.unused_data
    if frame is not None and not frame.eof:
        raise EOFError("it ends before its last frame does")
