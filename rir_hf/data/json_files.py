"""JSON files as Arrow can read them: not nested too deep, and without halves of characters."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from rir_hf.core.packed import open_bytes, packing_explained, without_packing

_DEEPEST = 60
# An escape of a whole surrogate pair, of one half, or of a backslash.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\\\"
)


def has_halves(path: Path) -> bool:
    """Whether a file has halves of surrogate pairs, which Arrow refuses.

    Raises:
        ValueError: the file cannot be unpacked, or a value in it is nested so deep that Arrow
            refuses it, or ends the process (at a few thousand levels; pyarrow 26, November 2026).
    """
    has_any = False
    with packing_explained(path), open_bytes(path) as file:
        is_lines = without_packing(path).suffix == ".jsonl"
        for number, text in enumerate(file if is_lines else [file.read()], 1):
            if text.count(b"[") + text.count(b"{") > _DEEPEST and depth_of(text) > _DEEPEST:
                where = f"{path}, line {number}" if is_lines else str(path)
                raise ValueError(
                    f"{where}: a value is nested {depth_of(text):,} deep, and {_DEEPEST} is what "
                    "can be read: leave the column out, or write it as text."
                )
            has_any = has_any or (b"\\u" in text and without_halves(text) != text)
    return has_any


def depth_of(text: bytes) -> int:
    r"""How deep the brackets and braces of a JSON text are nested, outside its strings.

    Example:
        >>> depth_of(b'{"a": [1, "[[\\"[["]}')
        2
    """
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    signs = np.frombuffer(b"".join(bare.split(b'"')[::2]), np.uint8)
    opened = np.isin(signs, list(b"[{")).astype(np.int64)
    return int((opened - np.isin(signs, list(b"]}"))).cumsum().max(initial=0))


def without_halves(line: bytes) -> bytes:
    r"""A JSON text with the replacement character in place of each half of a surrogate pair.

    Example:
        >>> without_halves(rb'"\ud83d \ud83d\ude00 \\ud83d"')
        b'"\\ufffd \\ud83d\\ude00 \\\\ud83d"'
    """
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], line)
