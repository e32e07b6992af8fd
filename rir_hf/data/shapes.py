"""Rows with whatever columns in; a corpus, queries or pairs with this package's columns out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import xxhash
from datasets import ClassLabel, Dataset, Features, Json, LargeList, List, Value

from rir_hf.core.columns import cached
from rir_hf.data.names import MissingColumnError, recognise
from rir_hf.data.sources import first_rows
from rir_hf.schema import ID, PASSAGE, POS, POS_IDS, QUERY, QUERY_ID, TEXT, TITLE

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000

Chosen = Mapping[str, str] | None
"""Columns set by hand, by role."""


def as_corpus(rows: Dataset, columns: Chosen, source: object, limit: int | None = None) -> Dataset:
    """Passages with `id`, `text` and, where there is one, `title`; see `load_corpus`."""
    names = recognise(rows.column_names, "corpus", columns, source, required=["text"])
    if not len(rows):
        raise ValueError(f"{source} has no rows.")
    _require_texts(rows, names.values(), source)
    text, title = names["text"], names.get("title")
    if "id" not in names:
        _warn_of_numbers(source, rows)
    is_joined = title is None or _begin_with(rows, text, title)
    rows = first_rows(rows.with_format(None), limit)
    kept = (ID, TEXT) if title is None else (ID, TITLE, TEXT)
    rows = cached(
        rows,
        "map",
        _passages,
        fn_kwargs={"id": names.get("id"), "text": text, "title": title, "is_joined": is_joined},
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        features=Features({column.name: Value("string") for column in kept}),
        desc="load_corpus",
    )
    return _without_repeats(rows, source)


def as_queries(rows: Dataset, columns: Chosen, source: object) -> Dataset:
    """Queries with `query_id` and `query`; see `load_queries`."""
    names = recognise(rows.column_names, "queries", columns, source, required=["query"])
    _require_texts(rows, names.values(), source)
    if "query_id" not in names:
        _warn_of_numbers(source, rows)
        rows = rows.add_column(QUERY_ID.name, [str(number) for number in range(len(rows))])
    rows = _renamed(rows, rows.column_names, {name: role for role, name in names.items()}, source)
    features = {**rows.features, QUERY_ID.name: Value("string")}
    rows = cached(rows, "cast", Features(features))
    texts: dict[str, str] = {}
    for row, (id, query) in enumerate(_values(rows, QUERY_ID.name, QUERY.name)):
        if not id:
            raise ValueError(f"{source}: row {row} has no id: give each query one of its own.")
        if texts.setdefault(id, query) != query:
            raise ValueError(
                f"{source}: the query_id {id!r} stands for {texts[id]!r:.80} and {query!r:.80}: "
                "give each query an id of its own."
            )
    return rows


def as_pairs(rows: Any, columns: Chosen, source: object) -> Any:
    """Pairs, a dataset or a stream, with `query` and `passage`, `pos` or `pos_ids`; see
    `load_pairs`.
    """
    kinds: Mapping[str, Any] = rows.features or next(iter(rows), {})
    seen = list(kinds)
    if {POS.name, PASSAGE.name} <= kinds.keys() - {*(columns or {}).values()}:
        seen.remove(PASSAGE.name)  # one of `pos`
    names = recognise(seen, "pairs", columns, source, required=["query"])
    positive, ids = names.get("positive"), names.get("pos_ids")
    if positive is None and ids is None:
        raise MissingColumnError(
            f"{source}: no column for the positive or its id among {list(kinds)}. Say which it is, "
            "with columns={'positive': 'NAME'} or --pairs_columns '{positive: NAME}' on the "
            "command line."
        )
    targets = {name: role for role, name in names.items() if role != "positive"}
    if positive is not None:
        is_pos = positive == POS.name or _is_list(kinds[positive])
        targets[positive] = POS.name if is_pos else PASSAGE.name
    own = () if positive in (None, POS.name) else (POS.name, PASSAGE.name)
    rows = _renamed(rows, kinds, targets, source, displaced=own)
    single = [
        target
        for name, target in targets.items()
        if target in (POS.name, POS_IDS.name) and not _is_list(kinds[name])
    ]
    return _with_lists(rows, single) if single else rows


def with_positives(
    batch: Mapping[str, list[Any]], qrels: Mapping[str, Mapping[str, float]]
) -> dict[str, list[list[str]]]:
    """The ids of the passages that are relevant to each query."""
    judged = [qrels.get(query, {}) for query in batch[QUERY_ID.name]]
    relevant = [[passage for passage, grade in each.items() if grade > 0] for each in judged]
    return {POS_IDS.name: relevant}


def _require_texts(rows: Dataset, names: Iterable[str], source: object) -> None:
    """Raise `ValueError` where a column of texts or ids holds lists or objects."""
    for name in names:
        kind = rows.features[name]
        if isinstance(kind, Json):
            raise ValueError(
                f"{source}: column {name!r} holds numbers in some rows and texts in others, or "
                "objects: write them all as texts."
            )
        if not isinstance(kind, (Value, ClassLabel)):
            raise ValueError(
                f"{source}: column {name!r} holds {kind} in place of texts. A JSON "
                "file has an object for each row (pandas: orient='records')."
            )


def _warn_of_numbers(source: object, rows: Dataset) -> None:
    logger.warning(
        "%s has no column of ids among %s: the ids are the numbers of the rows, from 0. Where one "
        "of them holds ids, name it with columns= (on the command line --corpus_columns, "
        "--pairs_columns, --queries_columns).",
        source,
        rows.column_names,
    )


def _begin_with(rows: Dataset, text: str, title: str) -> bool:
    """Whether every text with a title begins with it, as in a corpus that was loaded before."""
    for head, body in _values(rows, title, text):
        if head and not f"{body} ".startswith(f"{str(head).strip()} ".lstrip()):
            return False
    return True


def _values(rows: Dataset, *names: str) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, row by row: faster than they are read one by one."""
    tables = rows.select_columns(list(names)).with_format("arrow")
    for table in tables.iter(batch_size=_ROWS_AT_ONCE):
        yield from zip(*(table.column(name).to_pylist() for name in names), strict=True)


def _passages(
    batch: Mapping[str, list[Any]],
    numbers: list[int],
    id: str | None,
    text: str,
    title: str | None,
    is_joined: bool,
) -> dict[str, list[str | None]]:
    found = {ID.name: _as_texts(numbers if id is None else batch[id])}
    texts = ["" if value is None else str(value) for value in batch[text]]
    if title is not None:
        found[TITLE.name] = _as_texts(batch[title])
    if not is_joined:
        both = zip(found[TITLE.name], texts, strict=True)
        texts = [f"{head or ''} {body}".strip() for head, body in both]
    return {**found, TEXT.name: [*texts]}


def _as_texts(values: Iterable[Any]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]


def _without_repeats(corpus: Dataset, source: object) -> Dataset:
    """The corpus with each id once.

    Raises:
        ValueError: a row without an id, or two that differ with the same.
    """
    digests = np.empty(len(corpus), np.uint64)
    for row, (id,) in enumerate(_values(corpus, ID.name)):
        if not id:
            raise ValueError(f"{source}: row {row} has no id: give each passage one of its own.")
        digests[row] = xxhash.xxh3_64_intdigest(id.encode())
    if len(np.unique(digests)) == len(corpus):
        return corpus
    return _first_of_each(corpus, source)


def _first_of_each(corpus: Dataset, source: object) -> Dataset:
    """The first row of each id; `ValueError` where another one differs."""
    first: dict[str, int] = {}
    repeats = 0
    for row, (id,) in enumerate(_values(corpus, ID.name)):
        other = first.setdefault(id, row)
        if other != row and corpus[row] != corpus[other]:
            raise ValueError(
                f"{source}: the rows {other} and {row} have the id {id!r} and different texts: "
                "give each passage an id of its own."
            )
        repeats += other != row
    if not repeats:
        return corpus
    logger.warning("%s: %d rows repeat another, which is kept once.", source, repeats)
    return cached(corpus.select([*first.values()]), "flatten_indices")


def _renamed(
    rows: Any,
    columns: Iterable[str],
    targets: Mapping[str, str],
    source: object,
    displaced: Iterable[str] = (),
) -> Any:
    """The rows with columns renamed; those that are in their way are left out, said in the log."""
    taken = {*targets.values(), *displaced} & set(columns) - set(targets)
    if taken:
        message = "%s: the columns %s give way to those that were named."
        logger.warning(message, source, sorted(taken))
        rows = rows.remove_columns(sorted(taken))
    return rows.rename_columns({old: new for old, new in targets.items() if old != new})


def _is_list(kind: Any) -> bool:
    """Whether a column holds lists, by its type or by a value."""
    return isinstance(kind, (list, List, LargeList))


def _with_lists(rows: Any, names: list[str]) -> Any:
    """The rows with single values as lists of one, an empty or missing one as null."""
    options: dict[str, Any] = {"fn_kwargs": {"names": names}, "batched": True}
    if not isinstance(rows, Dataset):
        return rows.map(_in_lists, **options)
    features = Features({**rows.features, **dict.fromkeys(names, List(Value("string")))})
    options |= {"features": features, "desc": "load_pairs"}
    return cached(rows, "map", _in_lists, **options)


def _in_lists(
    batch: Mapping[str, list[Any]], names: list[str]
) -> dict[str, list[list[str] | None]]:
    return {name: [_in_list(value) for value in batch[name]] for name in names}


def _in_list(value: Any) -> list[str] | None:
    if isinstance(value, list):
        return value
    return None if value in (None, "") else [str(value)]
