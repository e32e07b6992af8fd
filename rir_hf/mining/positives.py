"""Rows and judgements in, the known positives of each row's query and where they lie in the corpus
out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher

from rir_hf.core.columns import Batch, as_id, fingerprint_of
from rir_hf.core.configured import Configured
from rir_hf.evaluation.runs import Qrels, as_qrels
from rir_hf.index.corpus import CorpusView
from rir_hf.schema import PASSAGE, POS, POS_IDS, QUERY, QUERY_ID

Judged: TypeAlias = "Mapping[str, Mapping[str, float]] | Dataset"
Names: TypeAlias = tuple[set[str], set[str]]
"""Texts and ids of passages."""
Named: TypeAlias = tuple[str | None, str | None]
"""Text and id of a passage, null where unknown."""
Judgement: TypeAlias = tuple[str | None, list[Named]]
"""A query, and passages that are right for it."""
Values: TypeAlias = list[list[str | None]]
"""Texts or ids of the positives of each row, null where unknown."""

_OF_A_ROW = (POS.name, PASSAGE.name, POS_IDS.name)
_OF_BEIR = ("query-id", "corpus-id")


class Positives(NamedTuple):
    """The positives of one row.

    texts, ids: its own positives, null where unknown.
    positions: `(own,)` int64, where each of them is in the corpus, -1 where it is not.
    known: int64, positions of every known positive of the row's query, in order.
    keys: int64, the distinct keys of the texts of all of these, as in `CorpusView.text_keys`.
    """

    texts: list[str | None]
    ids: list[str | None]
    positions: np.ndarray
    known: np.ndarray
    keys: np.ndarray


def find_positives(
    batch: Batch, corpus: CorpusView, qrels: KnownPositives | None = None
) -> list[Positives]:
    """Find the positives of each row, and all other known positives of its query, in the corpus.

    Args:
        batch: rows with `pos` or `passage`, `pos_ids`; with `qrels` what tells the query is enough.
            Without `qrels`, rows with the same `query_id`, or without that column the same `query`,
            are of one query.
        corpus: the corpus.
        qrels: what is known beside the positives of each row.

    Raises:
        ValueError: `pos` and `pos_ids` of different lengths.
    """
    queries = _values_of(batch, QUERY_ID.name if QUERY_ID.name in batch else QUERY.name)
    judged: list[list[Named]] = [[]] * len(batch)
    if qrels is not None:
        judged = [qrels.of(query) for query in _values_of(batch, qrels.by)]
    has_own = qrels is None or any(name in batch for name in _OF_A_ROW)
    texts, ids = read_positives(batch) if has_own else _unzipped(judged)
    # What is judged of a query is the same in any batch, its other rows are not.
    shared = queries if qrels is None else [None] * len(batch)
    names = _shared_by_query(texts, ids, shared, judged)
    by_text = _find(corpus.positions_of_texts, [row_texts for row_texts, _ in names])
    by_id = _find(corpus.positions_of_ids, [row_ids for _, row_ids in names])
    found = []
    for row_texts, row_ids, row_names in zip(texts, ids, names, strict=True):
        positions = _own_positions(row_texts, row_ids, by_text, by_id)
        known = _known_of(row_names, by_text, by_id)
        keys = {*map(hash, row_names[0]), *corpus.text_keys[known].tolist()} - {0}
        own = Positives(row_texts, row_ids, positions, known, np.array([*keys], np.int64))
        found.append(own if has_own else _without_repeats(own))
    return found


def read_positives(batch: Batch) -> tuple[Values, Values]:
    """The texts and ids of each row's own positives, aligned; null for what the row does not say.

    A single value in place of a list is one positive.

    Raises:
        ValueError: lists of different lengths.
    """
    texts = _own_texts(batch)
    ids = None
    if POS_IDS.name in batch:
        rows = [as_list(value) for value in batch.values_of(POS_IDS.name)]
        ids = [[as_id(value) for value in row] for row in rows]
    texts = [[None] * len(row) for row in ids or []] if texts is None else texts
    ids = [[None] * len(row) for row in texts] if ids is None else ids
    texts = [row or [None] * len(other) for row, other in zip(texts, ids, strict=True)]
    ids = [row or [None] * len(other) for row, other in zip(ids, texts, strict=True)]
    for row_texts, row_ids in zip(texts, ids, strict=True):
        if len(row_texts) != len(row_ids):
            raise ValueError(
                f"{batch.who}: pos and pos_ids must be aligned, found {len(row_texts)} texts and "
                f"{len(row_ids)} ids in one row: {row_ids}."
            )
    return texts, ids


class KnownPositives(Configured):
    """The known positives of each query.

    Args:
        qrels: a dict `{query_id: {passage_id: relevance}}`, a dataset with the columns `query-id,
            corpus-id, score` (BEIR), the pairs themselves, or a file of TREC or BEIR. The queries
            of pairs without `query_id` are told apart by their text.

    Raises:
        TypeError, ValueError: anything else.

    Example:
        >>> KnownPositives({"q": {"a": 1, "b": 0}}).of("q")
        [(None, 'a')]
    """

    without_effect = ("qrels",)

    def __init__(self, qrels: Qrels) -> None:
        judged = as_qrels(qrels) if isinstance(qrels, (str, os.PathLike)) else qrels
        self.qrels = _checked(judged)
        self.content = _digest_of(self.qrels)
        self.size = len(self.qrels)

    @property
    def by(self) -> str:
        """The column of a row that tells its query: `query_id`, or `query`."""
        by_text = isinstance(self.qrels, Dataset) and _query_column(self.qrels) == QUERY.name
        return QUERY.name if by_text else QUERY_ID.name

    def of(self, query: str | None) -> list[Named]:
        """The passages that are right for a query, each once."""
        return [*self._by_query.get(query, ())]

    @cached_property
    def _by_query(self) -> dict[str | None, dict[Named, None]]:
        by_query: dict[str | None, dict[Named, None]] = {}
        for query, passages in self._rows():
            if query:
                by_query.setdefault(query, {}).update(dict.fromkeys(passages))
        return by_query

    def _rows(self) -> Iterator[Judgement]:
        if not isinstance(self.qrels, Dataset):
            return _rows_of_dict(self.qrels)
        column = _query_column(self.qrels)
        is_beir = column == _OF_BEIR[0]
        return _rows_of_beir(self.qrels) if is_beir else _rows_of_pairs(self.qrels, column)


def _rows_of_dict(
    qrels: Mapping[str, Mapping[str, float]],
) -> Iterator[Judgement]:
    for query, judged in qrels.items():
        right = [as_id(passage) for passage, relevance in judged.items() if relevance > 0]
        yield as_id(query), [(None, passage) for passage in right]


def _rows_of_beir(qrels: Dataset) -> Iterator[Judgement]:
    names = [name for name in (*_OF_BEIR, "score") if name in qrels.column_names]
    for row in qrels.select_columns(names).with_format(None):
        if row.get("score", 1) > 0:
            yield as_id(row["query-id"]), [(None, as_id(row["corpus-id"]))]


def _rows_of_pairs(qrels: Dataset, column: str) -> Iterator[Judgement]:
    names = [name for name in (column, *_OF_A_ROW) if name in qrels.column_names]
    for columns in qrels.select_columns(names).with_format(None).iter(1000):
        batch = Batch(columns, "MineNegatives(qrels=...)")
        queries, positives = _values_of(batch, column), read_positives(batch)
        for query, texts, ids in zip(queries, *positives, strict=True):
            pairs = [
                (text or None, passage or None) for text, passage in zip(texts, ids, strict=True)
            ]
            yield query, [pair for pair in pairs if any(pair)]


def _checked(qrels: Any) -> Judged:
    if not isinstance(qrels, (Mapping, Dataset)):
        raise TypeError(f"qrels must be a dict or a Dataset, got {type(qrels).__name__}.")
    if isinstance(qrels, Mapping):
        if not all(isinstance(judged, Mapping) for judged in qrels.values()):
            raise ValueError("qrels must be a dict of dicts, {query_id: {passage_id: relevance}}.")
        return qrels
    _ = _query_column(qrels)  # what is missing is told at once
    return qrels


def _query_column(qrels: Dataset) -> str:
    """The column that tells the queries of judgements apart."""
    columns = set(qrels.column_names)
    are_pairs = not columns.isdisjoint(_OF_A_ROW)
    if are_pairs and QUERY_ID.name in columns:
        return QUERY_ID.name
    if columns.issuperset(_OF_BEIR):
        return _OF_BEIR[0]
    if are_pairs and QUERY.name in columns:
        return QUERY.name
    raise ValueError(
        "qrels must have the columns query-id, corpus-id and score, or query_id or query with pos, "
        f"passage or pos_ids, found {sorted(columns)}."
    )


def _digest_of(qrels: Judged) -> str:
    if isinstance(qrels, Dataset):
        return fingerprint_of(qrels)
    judged = [(str(query), sorted(passages.items())) for query, passages in qrels.items()]
    return Hasher.hash(sorted(judged))


def as_list(value: Any) -> list[Any]:
    """A list, one value as a list of it, a null as an empty one."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return [] if value is None else [value]


def _own_texts(batch: Batch) -> Values | None:
    """The texts of each row's own positives; None without a column of them."""
    if POS.name not in batch:
        if PASSAGE.name not in batch:
            return None
        return [[text or None] for text in batch.texts(PASSAGE.name)]
    rows = [as_list(value) for value in batch.values_of(POS.name)]
    for row in rows:
        for text in row:
            if text is not None and not isinstance(text, str):
                raise ValueError(
                    f"{batch.who}: the column 'pos' must hold texts, found {type(text).__name__} "
                    f"{text!r:.60}. Ids belong into the column 'pos_ids'."
                )
    return rows


def _values_of(batch: Batch, column: str) -> list[str | None]:
    """What tells each row's query; None for a null or empty one, or without the column."""
    if column not in batch:
        return [None] * len(batch)
    return [as_id(value) or None for value in batch.values_of(column)]


def _unzipped(rows: Sequence[Sequence[Named]]) -> tuple[Values, Values]:
    """The texts of each row, and the ids."""
    return [[text for text, _ in row] for row in rows], [[each for _, each in row] for row in rows]


def _shared_by_query(
    texts: Values,
    ids: Values,
    queries: Sequence[str | None],
    judged: Sequence[Sequence[Named]],
) -> list[Names]:
    """Texts and ids of all known positives of each row's query: those of all its rows, and what is
    judged of it. A row of which nothing tells the query stands alone.
    """
    shared: dict[str, Names] = {}
    names: list[Names] = []
    for row_texts, row_ids, query, right in zip(texts, ids, queries, judged, strict=True):
        known: Names = (set(), set())
        if query is not None:
            known = shared.setdefault(query, known)
        known[0].update(filter(None, [*row_texts, *(text for text, _ in right)]))
        known[1].update(filter(None, [*row_ids, *(passage for _, passage in right)]))
        names.append(known)
    return names


def _find(
    find: Callable[[list[str]], list[np.ndarray]], rows: Iterable[set[str]]
) -> dict[str, list[int]]:
    """Positions of each distinct value, in corpus order."""
    distinct = list(set().union(*rows))
    if not distinct:
        return {}  # and the corpus's values are not read for nothing
    return {value: at.tolist() for value, at in zip(distinct, find(distinct), strict=True)}


def _known_of(
    names: Names, by_text: dict[str, list[int]], by_id: dict[str, list[int]]
) -> np.ndarray:
    texts, ids = names
    found: set[int] = set()
    found.update(*(by_text[text] for text in texts))
    found.update(*(by_id[passage] for passage in ids))
    return np.array(sorted(found), np.int64)


def _own_positions(
    texts: list[str | None],
    ids: list[str | None],
    by_text: dict[str, list[int]],
    by_id: dict[str, list[int]],
) -> np.ndarray:
    """For each positive the first passage with its id, or else with its text; -1 for none."""
    found = [
        by_id.get(passage or "") or by_text.get(text or "") or [-1]
        for text, passage in zip(texts, ids, strict=True)
    ]
    return np.array([positions[0] for positions in found], np.int64)


def _without_repeats(own: Positives) -> Positives:
    """The positives of a row, each passage of the corpus once."""
    firsts = np.unique(own.positions, return_index=True)[1]
    kept = [at for at, place in enumerate(own.positions) if place < 0 or at in firsts]
    texts, ids = [own.texts[at] for at in kept], [own.ids[at] for at in kept]
    return own._replace(texts=texts, ids=ids, positions=own.positions[kept])
