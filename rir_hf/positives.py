"""Rows and judgements in, the corpus positions that must never become negatives out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from datasets import Dataset
from datasets.fingerprint import Hasher

from rir_hf.index import CorpusIndex
from rir_hf.transform import read_column, read_lists, read_texts, require_columns

logger = logging.getLogger(__name__)

Qrels = Mapping[str, Mapping[str, int]] | Dataset


class Positives(NamedTuple):
    """The positives of one row.

    texts, ids: the row's own, null where unknown.
    places: corpus position of each of them, None where it is not in the corpus.
    known: corpus positions of every known positive of the row's query.
    keys: keys of their texts, as in `CorpusIndex.text_keys`.
    """

    texts: list[str | None]
    ids: list[str | None]
    places: list[int | None]
    known: list[int]
    keys: set[int]


class KnownPositives:
    """The known positives of each query, from a qrels dict, a BEIR qrels dataset or the pairs themselves."""

    def __init__(self, qrels: Qrels) -> None:
        if not isinstance(qrels, (Mapping, Dataset)):
            raise TypeError(f"qrels must be a dict or a Dataset, got {type(qrels).__name__}.")
        if isinstance(qrels, Dataset):
            columns = set(qrels.column_names)
            own = "query_id" in columns and columns & {"pos", "passage", "pos_ids"}
            if not own and not {"query-id", "corpus-id"} <= columns:
                raise ValueError(
                    "qrels must have the columns query-id, corpus-id and score, or query_id with pos, passage or pos_ids, found "
                    f"{sorted(columns)}."
                )
        elif not all(isinstance(judged, Mapping) for judged in qrels.values()):
            raise ValueError("qrels must be a dict of dicts, {query_id: {passage_id: relevance}}.")
        self.qrels = qrels

    def identity(self) -> str:
        """Fingerprint of the dataset, or digest of the dict."""
        if isinstance(self.qrels, Dataset):
            return self.qrels._fingerprint
        if "_digest" not in self.__dict__:
            self._digest = Hasher.hash(sorted((str(query), sorted(docs.items())) for query, docs in self.qrels.items()))
        return self._digest

    def record(self) -> dict[str, int]:
        """What provenance says of the judgements: their number, or that of the queries."""
        return {"rows" if isinstance(self.qrels, Dataset) else "queries": len(self.qrels)}

    def of(self, query_id: str) -> tuple[list[str], list[str]]:
        """Texts and ids of the passages that are right for a query."""
        if "_by_query" not in self.__dict__:
            self._by_query: dict[str, tuple[list[str], list[str]]] = {}
            for query, texts, ids in self._rows():
                if query is None:
                    continue
                known_texts, known_ids = self._by_query.setdefault(query, ([], []))
                known_texts.extend(texts)
                known_ids.extend(ids)
        return self._by_query.get(query_id, ([], []))

    def __getstate__(self) -> dict[str, Any]:
        return {"qrels": self.qrels}

    def _rows(self) -> Iterator[tuple[str | None, list[str], list[str]]]:
        if not isinstance(self.qrels, Dataset):
            for query, judged in self.qrels.items():
                yield str(query), [], [str(passage) for passage, relevance in judged.items() if relevance > 0]
            return
        if "query_id" not in self.qrels.column_names:
            for row in self.qrels:
                if row.get("score", 1) > 0:
                    yield str(row["query-id"]), [], [str(row["corpus-id"])]
            return
        names = [name for name in ("query_id", "pos", "passage", "pos_ids") if name in self.qrels.column_names]
        for batch in self.qrels.select_columns(names).with_format(None).iter(1000):
            own = zip(batch["query_id"], *read_positives(batch), strict=True)
            for query, texts, ids in own:
                yield as_id(query), [text for text in texts if text], [passage for passage in ids if passage]


def read_positives(batch: Mapping[str, Any]) -> tuple[list[list[str | None]], list[list[str | None]]]:
    """The texts and ids of each row's own positives, aligned; null for what the row does not say.

    Raises:
        ValueError: `pos` or `pos_ids` that is not a list, or lists of different lengths.
    """
    texts: list[list[str | None]] | None = None
    ids: list[list[str | None]] | None = None
    if "pos" in batch:
        texts = [list(row) for row in read_lists(batch, "pos")]
    elif "passage" in batch:
        texts = [[text or None] for text in read_texts(batch, "passage", "MineNegatives")]
    if "pos_ids" in batch:
        ids = [[None if value is None else str(value) for value in row] for row in read_lists(batch, "pos_ids")]
    if texts is None and ids is None:
        raise ValueError(
            "MineNegatives needs each row's positives: a column pos (list of texts), passage (text) or pos_ids (list of ids), or "
            f"qrels=... with a column query_id. The dataset has only {sorted(batch)}."
        )
    texts = texts if texts is not None else [[None] * len(row) for row in ids or []]
    ids = ids if ids is not None else [[None] * len(row) for row in texts]
    for row_texts, row_ids in zip(texts, ids, strict=True):
        if len(row_texts) != len(row_ids):
            raise ValueError(
                f"pos and pos_ids must be aligned, found {len(row_texts)} texts and {len(row_ids)} ids in one row: {row_ids}."
            )
    return texts, ids


def locate(batch: Mapping[str, Any], corpus: CorpusIndex, qrels: KnownPositives | None) -> list[Positives]:
    """Find the positives of each row of a batch, and all other known positives of its query, in the corpus."""
    query_ids = [as_id(value) for value in read_column(batch, "query_id")] if "query_id" in batch else None
    if qrels is not None:
        require_columns(batch, ["query_id"], "MineNegatives(qrels=...)")
    if qrels is not None and not {"pos", "passage", "pos_ids"} & set(batch):
        judged = [qrels.of(query) if query is not None else ([], []) for query in query_ids or []]
        texts: list[list[str | None]] = [[*row_texts, *[None] * len(row_ids)] for row_texts, row_ids in judged]
        ids: list[list[str | None]] = [[*[None] * len(row_texts), *row_ids] for row_texts, row_ids in judged]
    else:
        texts, ids = read_positives(batch)
    known = [
        ({text for text in row if text}, {passage for passage in found if passage}) for row, found in zip(texts, ids, strict=True)
    ]
    if query_ids is not None:
        known = _share_by_query(known, query_ids, qrels)
    by_text = _find(corpus.positions_of_texts, (text for row, _ in known for text in row))
    by_id = _find(corpus.positions_of_ids, (passage for _, row in known for passage in row))
    rows = []
    for own_texts, own_ids, (all_texts, all_ids) in zip(texts, ids, known, strict=True):
        places = {place for text in all_texts for place in by_text[text]}
        places |= {place for passage in all_ids for place in by_id[passage]}
        keys = {hash(text) for text in all_texts} | set(corpus.text_keys[sorted(places)].tolist())
        own = [
            next(iter([*by_id.get(passage, ()), *by_text.get(text, ())]), None)
            for text, passage in zip(own_texts, own_ids, strict=True)
        ]
        rows.append(Positives(own_texts, own_ids, own, sorted(places), keys - {0}))
    return rows


def _share_by_query(
    known: list[tuple[set[str], set[str]]], query_ids: list[str | None], qrels: KnownPositives | None
) -> list[tuple[set[str], set[str]]]:
    """Give the rows of one query, and what qrels says of it, to each of its rows; a row with a null id stands alone."""
    shared: dict[str, tuple[set[str], set[str]]] = {}
    for query, (texts, ids) in zip(query_ids, known, strict=True):
        if query is None:
            continue
        known_texts, known_ids = shared.setdefault(query, (set(), set()))
        known_texts.update(texts)
        known_ids.update(ids)
    if qrels is not None:
        for query, (known_texts, known_ids) in shared.items():
            more_texts, more_ids = qrels.of(query)
            known_texts.update(more_texts)
            known_ids.update(more_ids)
    return [own if query is None else shared[query] for query, own in zip(query_ids, known, strict=True)]


def as_id(value: object) -> str | None:
    """An id as a string; None for a null."""
    return None if value is None else str(value)


def _find(find: Any, values: Iterator[str]) -> dict[str, list[int]]:
    """Positions of each distinct value, in corpus order."""
    distinct = list(dict.fromkeys(values))
    return dict(zip(distinct, find(distinct), strict=True))
