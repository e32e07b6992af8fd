"""Files that may be compressed with gzip or Zstandard, as their endings `.gz` and `.zst` say."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    """Raise `ImportError` where the package that unpacks a file is missing."""
    if Path(path).suffix != ".zst":
        return
    try:
        import zstandard  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ImportError(
            f'{path} is packed with Zstandard: pip install "rir-hf[zstd]", or unpack it.'
        ) from error


@contextmanager
def packing_explained(path: _PATH) -> Iterator[None]:
    """Raise `ValueError` with the file's name where it cannot be unpacked."""
    errors: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error)
    with suppress(ImportError):
        import zstandard

        errors = (*errors, zstandard.ZstdError)
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
    check_packing(path)
    if Path(path).suffix == ".gz":
        return gzip.open(path, mode, **options)
    if Path(path).suffix == ".zst":
        import zstandard

        _require_whole(Path(path))
        return zstandard.open(path, mode, **options)
    return Path(path).open(mode, **options)


def _require_whole(path: Path) -> None:
    """Raise `EOFError` where a Zstandard file ends within a frame, which its readers do not say."""
    import zstandard

    frame = None
    with path.open("rb") as file:
        while left := file.read(_CHUNK):
            while left:
                if frame is None or frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                frame.decompress(left)
                left = frame.unused_data
    if frame is not None and not frame.eof:
        raise EOFError("it ends before its last frame does")
