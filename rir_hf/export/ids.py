"""The ids of queries and passages, for formats that join texts by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xxhash

from rir_hf.schema import NEG, POS, QUERY_ID


def passages_of(row: Mapping[str, Any]) -> list[str]:
    """The row's passages, the positives first."""
    return [*row[POS.name], *row[NEG.name]]


def passage_ids(row: Mapping[str, Any]) -> list[str]:
    """The ids of the row's passages, the positives' first; a digest of the text for one without."""
    given: list[Any] = []
    for name in (POS.name, NEG.name):
        given += row.get(f"{name}_ids") or [None] * len(row[name])
    return [_id_of(name, text) for name, text in zip(given, passages_of(row), strict=True)]


def query_id(row: Mapping[str, Any], query: str) -> str:
    """The row's `query_id`; a digest of the query where there is none."""
    return _id_of(row.get(QUERY_ID.name), row[query])


def learn(known: dict[str, str], names: Sequence[str], texts: Sequence[str]) -> None:
    """Note which text each id stands for; `ValueError` where one stands for two."""
    for name, text in zip(names, texts, strict=True):
        if known.setdefault(name, text) != text:
            raise ValueError(
                f"The id {name!r} stands for two texts: {known[name]!r:.60} and {text!r:.60}."
            )


def _id_of(name: Any, text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode()) if name in (None, "") else str(name)
