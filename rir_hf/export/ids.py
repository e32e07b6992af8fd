"""The ids of queries and passages, for formats that join texts by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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


class TwoTextsError(ValueError):
    """An id stands for more than one text.

    Args:
        name: the id.
        text: the second text.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)
        self.name = name
        self.text = text


class Distinct:
    """For a batched `map`: each id of the rows once, with its text. It remembers a digest of each
    text in place of the text.

    Args:
        column: name of the column of the ids; the other one is `text`.
        named: the ids and texts of a row.

    Raises:
        TwoTextsError: one id stands for two texts.
    """

    def __init__(
        self, column: str, named: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
    ) -> None:
        self.column = column
        self.named = named
        self.known: dict[str, int] = {}

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[str]]:
        """The ids that no earlier row had."""
        new: dict[str, str] = {}
        for values in zip(*batch.values(), strict=True):
            for name, text in self.named(dict(zip(batch, values, strict=True))):
                digest = xxhash.xxh3_64_intdigest(text.encode())
                if name not in self.known:
                    self.known[name] = digest
                    new[name] = text
                elif self.known[name] != digest:
                    raise TwoTextsError(name, text)
        return {self.column: [*new], "text": [*new.values()]}


def _id_of(name: Any, text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode()) if name in (None, "") else str(name)
