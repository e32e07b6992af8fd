"""Files that may be compressed with gzip or Zstandard, as their endings `.gz` and `.zst` say."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_PACKINGS = (".gz", ".zst")

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
def open_text(path: _PATH) -> Iterator[IO[str]]:
    """A text file to read, unpacked, without the mark (BOM) that some editors put first.

    Raises:
        ValueError: it is not UTF-8.
    """
    with _opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: {error}. Convert it (iconv).") from error


def open_bytes(path: _PATH) -> IO[bytes]:
    """A file to read, unpacked."""
    return _opened(path, "rb")


def _opened(path: _PATH, mode: str, **options: Any) -> Any:
    check_packing(path)
    if Path(path).suffix == ".gz":
        return gzip.open(path, mode, **options)
    if Path(path).suffix == ".zst":
        import zstandard

        return zstandard.open(path, mode, **options)
    return Path(path).open(mode, **options)
