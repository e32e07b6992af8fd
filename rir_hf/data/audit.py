"""A corpus and splits of queries in; which passages repeat each other and which queries leak from
one split into another out, as columns to filter by and as a report.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from itertools import islice, permutations
from typing import Any, TypeAlias

import numpy as np
import xxhash
from datasets import Dataset, Value

from rir_hf.core.columns import (
    Batch,
    require_columns,
    require_dataset,
    with_valid_texts,
    without_indexes,
)
from rir_hf.core.texts import plain
from rir_hf.data.near import Sketches, check_threshold, first_of_each_group, keys_of
from rir_hf.mining.positives import read_positives
from rir_hf.reports.counts import as_table, codes_in
from rir_hf.schema import DUPLICATE_OF, ID, LEAK, PASSAGE, POS, POS_IDS, QUERY, QUERY_ID, TEXT

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1000

_KINDS = ("same_text", "near_text")
_NOT_FOUND = (None, None)
_LEAKS = tuple(dict(LEAK.codes))

Found: TypeAlias = "Sequence[tuple[str | None, str | None]]"
"""For each row a code and the id of what it repeats, or twice None."""


def near_duplicates(
    ds: Dataset,
    text: str = "text",
    *,
    id: str | None = "id",
    output: str = "duplicate_of",
    threshold: float | None = 0.8,
) -> Dataset:
    """Add a column that names, for each repeated text, the first row that has it.

    Texts are the same where they differ in nothing but case, white space and Unicode's ways to
    write a character (NFKC). They are nearly the same where of all runs of five characters in
    either at least the share `threshold` is in both (Jaccard similarity). Candidates for that come
    from MinHash and are then compared in full: whatever is reported holds, and a pair
    is overlooked with a probability of at most 0.001 at the threshold and far less above. What is
    nearly the same as a near duplicate belongs to its group too. An empty text repeats nothing.

    Args:
        ds: the rows, in their order: the first of a group is the one to keep.
        text: the column to compare.
        id: column of the ids that stand in the new column; None, as for a null: the row's number.
        output: name of the new column; one that is there is replaced.
        threshold: the similarity from which texts are nearly the same; None: the same texts alone.
            Below 0.7 large corpora take long.

    Returns:
        The rows with the new column: null for a text without a twin and for the first of a group.

    Raises:
        TypeError: several splits, or a stream.
        ValueError: a column is missing or holds no texts, or the threshold is out of range.

    Example:
        >>> corpus = Dataset.from_dict({
        ...     "id": ["a", "b", "c", "d"],
        ...     "text": ["Cats purr.", "Dogs bark.", "cats  purr.", "Cats purr"],
        ... })
        >>> marked = near_duplicates(corpus)
        >>> marked["duplicate_of"][:]
        [None, None, 'a', 'a']
        >>> marked.filter(lambda row: row["duplicate_of"] is None)["text"][:]
        ['Cats purr.', 'Dogs bark.']
    """
    texts = _only_texts(ds, text, "near_duplicates")
    check_threshold(threshold)
    if id is not None:
        require_columns(ds, [id], "near_duplicates")
    first = first_of_each_group(texts, text, threshold)
    twins = np.where(first == np.arange(len(first)), -1, first)
    return _with_texts(ds, {output: _names_at(ds, id, twins)})


def leaks(
    ds: Dataset,
    other: Dataset,
    *,
    query: str = "query",
    output: str = "leak",
    threshold: float | None = 0.8,
) -> Dataset:
    """Add columns that say how each row of `ds` leaks into `other`, and into which of its rows.

    `leaks(test, train)` marks the rows of the test set that training has seen. `leaks(train, test)`
    marks the rows to take out of the training data, so that the test set can stay as it is.

    Texts are compared as `near_duplicates` does. Positives are the same where they have the same
    id, so both datasets must be over one corpus (leave out `pos_ids` where they are not), or the
    same text.

    Args:
        ds: rows with a query, and where they are known its positives: `pos`, `passage`, `pos_ids`.
        other: rows of the same kind.
        query: the column of the queries, in both.
        output: name of the first new column; the second is called the same with `_of`. Those that
            are there are replaced.
        threshold: as for `near_duplicates`.

    Returns:
        The rows of `ds` with `leak`, a code (see `rir_hf.schema.LEAK`) or null, and `leak_of`, the
        `query_id` of the row of `other`, or its number where there is no such column: the first one
        with the same query or positive, the one with the nearest query.

    Raises:
        TypeError: several splits, or a stream.
        ValueError: a column is missing or holds no texts, or the threshold is out of range.

    Example:
        >>> train = Dataset.from_dict({
        ...     "query_id": ["t1", "t2"],
        ...     "query": ["who wrote the play hamlet", "how long do cats sleep"],
        ...     "pos_ids": [["p1"], ["p2"]],
        ... })
        >>> test = Dataset.from_dict({
        ...     "query": ["Who wrote the play Hamlet?", "Do cats dream?", "Do dogs dream?"],
        ...     "pos_ids": [["p1"], ["p2"], ["p3"]],
        ... })
        >>> marked = leaks(test, train)
        >>> marked["leak"][:], marked["leak_of"][:]
        (['near_query', 'same_positive', None], ['t1', 't2', None])
        >>> marked.filter(lambda row: row["leak"] is None)["query"][:]
        ['Do dogs dream?']
    """
    texts = _only_texts(ds, query, "leaks")[query]
    others = _only_texts(other, query, "leaks")[query]
    check_threshold(threshold)
    keys, other_keys = keys_of(texts), keys_of(others)
    same = _first_with(keys, other_keys)
    near = np.full(len(keys), -1)
    if threshold is not None:
        near = _nearest(texts, np.where(same < 0, keys, 0), others, other_keys, threshold)
    # The weakest first: what is stronger takes its place.
    codes: list[str | None] = [None] * len(ds)
    hits = np.full(len(ds), -1)
    for code, found in (
        ("same_positive", _same_positives(ds, other)),
        ("near_query", near),
        ("same_query", same),
    ):
        for row in np.flatnonzero(found >= 0).tolist():
            codes[row], hits[row] = code, found[row]
    names = _names_at(other, QUERY_ID.name, hits)
    return _with_texts(ds, {output: codes, f"{output}_of": names})


def audit(
    corpus: Dataset | None = None,
    train: Dataset | None = None,
    dev: Dataset | None = None,
    test: Dataset | None = None,
    *,
    threshold: float | None = 0.8,
    examples: int = 3,
) -> dict[str, Any]:
    """Count near duplicates in a corpus and leaks between splits, and write a table of them to the
    log (INFO).

    Args:
        corpus: passages with the columns `id` and `text`.
        train: rows with `query`, and where they are known `query_id` and positives, as for `leaks`.
        dev: rows of the same kind.
        test: rows of the same kind.
        threshold: as for `near_duplicates`.
        examples: how many examples of each code.

    Returns:
        A dict for each dataset that was given, and `examples`:

        - `corpus`: `rows`; `duplicates` by `same_text` (the text of an earlier row) and
          `near_text`; `groups`, how many texts these repeat.
        - each split: `rows`, and for each other split how many leak into it, by code:
          `test: {"rows": 3, "in_train": {"same_query": 1, ...}}`.
        - `examples`: dicts of `where`, `code`, `id` and `text` of the row, `of` and `of_text` of
          the other.

    Raises:
        TypeError, ValueError: as for `near_duplicates` and `leaks`; nothing to
            compare.

    Example:
        >>> corpus = Dataset.from_dict({"id": ["a", "b"], "text": ["Cats purr.", "cats purr."]})
        >>> found = audit(corpus)
        >>> for example in found.pop("examples"):
        ...     print(example["code"], example["id"], example["of"])
        same_text b a
        >>> print(as_table(found))
        corpus
          rows                                      2
          duplicates: same_text                     1
          duplicates: near_text                     0
          groups                                    1
    """
    given = {"train": train, "dev": dev, "test": test}
    splits = {name: rows for name, rows in given.items() if rows is not None}
    counts = count_marked(mark(corpus, splits, threshold), examples)
    figures = {name: value for name, value in counts.items() if name != "examples"}
    logger.info("Audit:\n%s", as_table(figures))
    return counts


def mark(
    corpus: Dataset | None, splits: Mapping[str, Dataset], threshold: float | None
) -> dict[str, Dataset]:
    """The datasets of an audit by name, each with its columns: `duplicate_of` of the corpus,
    `leak_train` and `leak_train_of` of every other split, and so on.
    """
    if corpus is None and len(splits) < 2:
        raise ValueError(
            "There is nothing to compare: an audit needs a corpus, or two of train, dev and test; "
            f"got {list(splits) or 'nothing'}."
        )
    marked = dict(splits)
    for name, other in permutations(splits, 2):
        marked[name] = leaks(
            marked[name], splits[other], output=f"{LEAK.name}_{other}", threshold=threshold
        )
    if corpus is None:
        return marked
    return {"corpus": near_duplicates(corpus, threshold=threshold), **marked}


def count_marked(marked: Mapping[str, Dataset], examples: int) -> dict[str, Any]:
    """What `audit` returns, of marked datasets."""
    marked = {name: without_indexes(rows).with_format(None) for name, rows in marked.items()}
    counts: dict[str, Any] = {name: {"rows": len(rows)} for name, rows in marked.items()}
    shown = []
    if "corpus" in marked:
        corpus = marked["corpus"]
        found = _kinds_of_duplicates(corpus)
        counts["corpus"]["duplicates"] = _tally(found, _KINDS)
        counts["corpus"]["groups"] = len({*corpus[DUPLICATE_OF.name][:]} - {None})
        shown += _examples("corpus", found, (corpus, corpus), (ID.name, TEXT.name), examples)
    for name, other in permutations([name for name in marked if name != "corpus"], 2):
        rows = marked[name]
        column = f"{LEAK.name}_{other}"
        pairs = zip(rows[column][:], rows[f"{column}_of"][:], strict=True)
        found = [_NOT_FOUND if code is None else (code, of) for code, of in pairs]
        counts[name][f"in_{other}"] = _tally(found, _LEAKS)
        pair = (rows, marked[other])
        shown += _examples(f"{name} in {other}", found, pair, (QUERY_ID.name, QUERY.name), examples)
    return {**counts, "examples": shown}


def _first_with(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each key the first place among the others that has it; -1 for 0 and where none has it."""
    distinct, firsts = np.unique(others, return_index=True)
    distinct, firsts = np.append(distinct, 0), np.append(firsts, -1)  # never empty
    at = np.minimum(np.searchsorted(distinct[:-1], keys), len(distinct) - 1)
    return np.where((distinct[at] == keys) & (keys != 0), firsts[at], -1)


def _nearest(
    texts: Sequence[str | None],
    keys: np.ndarray,
    others: Sequence[str | None],
    other_keys: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """The place of the nearest of the others, the first of equals, for each text that is near one;
    -1 for any other.

    Args:
        texts: the texts.
        keys: their keys, 0 for one that is not compared.
        others: texts, none of them the same as one that is compared.
        other_keys: their keys.
        threshold: as for `near_duplicates`.
    """
    first, other_first = _distinct(keys), _distinct(other_keys)
    between = len(other_first)
    sketches = Sketches(_Chosen([(others, other_first), (texts, first)]), threshold, "leaks")
    best: dict[int, tuple[float, int]] = {}
    for other, own, similarity in sketches.near_pairs(
        lambda row, later: (row < between) & (later >= between)
    ):
        best[own] = max(best.get(own, (0.0, 0)), (similarity, -other))
    nearest = np.full(len(first) + 1, -1)
    for own, (_, other) in best.items():
        nearest[own - between] = other_first[-other]
    return nearest[_first_with(keys, keys[first])]


def _distinct(keys: np.ndarray) -> np.ndarray:
    """The first place of each key but 0, in order."""
    names, firsts = np.unique(keys, return_index=True)
    return np.sort(firsts[names != 0])


class _Chosen(Sequence[str | None]):
    """Some texts of several columns, one column after the other, read when they are asked for."""

    def __init__(self, parts: Sequence[tuple[Sequence[str | None], np.ndarray]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(places) for _, places in self._parts)

    def __getitem__(self, which: Any) -> Any:
        if not isinstance(which, slice):
            return self[which : which + 1][0]
        start, end, _ = which.indices(len(self))
        found: list[str | None] = []
        for texts, places in self._parts:
            asked = places[max(0, start) : max(0, end)].tolist()
            found += [*texts[asked]] if asked else []
            start, end = start - len(places), end - len(places)
        return found


def _same_positives(ds: Dataset, other: Dataset) -> np.ndarray:
    """The first of the other rows with one of a row's positives; -1 for a row without such."""
    names, rows = _positives(other)
    own_names, own_rows = _positives(ds)
    hits = _first_with(own_names, names)
    known = hits >= 0
    first = np.full(len(ds), len(other))
    np.minimum.at(first, own_rows[known], rows[hits[known]])
    return np.where(first < len(other), first, -1)


def _positives(ds: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """What positives are known by, a number for each id and each text, and the rows of these."""
    names, owners = array("Q"), array("q")
    columns = {POS.name, PASSAGE.name, POS_IDS.name} & set(ds.column_names)
    rows = without_indexes(ds).select_columns(sorted(columns)).with_format("arrow")
    row = 0
    for table in rows.iter(_ROWS_AT_ONCE) if columns else ():
        for texts, ids in zip(*read_positives(Batch(table, "leaks")), strict=True):
            named = [f"id {name}" for name in ids if name is not None]
            named += [f"text {text}" for text in map(plain, texts) if text]
            names.extend(xxhash.xxh64_intdigest(name.encode()) for name in named)
            owners.extend([row] * len(named))
            row += 1
    return np.array(names, np.uint64), np.array(owners, np.int64)


def _only_texts(ds: Dataset, column: str, who: str) -> Dataset:
    """One column of a dataset; `ValueError` where it holds no texts."""
    require_dataset(ds, who)
    require_columns(ds, [column], who)
    kind = ds.features.arrow_schema.field(column).type
    if not TEXT.fits(kind):
        raise ValueError(
            f"{who}: the column {column!r} must hold texts, found {kind}. Name the column that "
            "holds the text."
        )
    return with_valid_texts(without_indexes(ds).select_columns([column]).with_format(None), who)


def _names_at(ds: Dataset, column: str | None, places: np.ndarray) -> list[str | None]:
    """The ids of the rows at some places as texts; the number of a row without one, None for -1."""
    wanted = np.unique(places[places >= 0])
    names = dict(zip(wanted.tolist(), map(str, wanted.tolist()), strict=True))
    if column in ds.column_names and len(wanted):
        rows = without_indexes(ds).select_columns([column]).with_format(None)
        ids = rows.select(wanted)[column][:]
        found = zip(names, ids, strict=True)
        names.update({row: str(name) for row, name in found if name is not None})
    return [names.get(row) for row in places.tolist()]


def _place_of(ds: Dataset, column: str, name: str) -> int:
    """The first row that is called so."""
    for start in range(0, len(ds), _ROWS_AT_ONCE):
        names = _names_at(ds, column, np.arange(start, min(len(ds), start + _ROWS_AT_ONCE)))
        if name in names:
            return start + names.index(name)
    raise ValueError(f"No row has the {column} {name!r}.")


def _with_texts(ds: Dataset, columns: Mapping[str, list[str | None]]) -> Dataset:
    """The rows with these columns of texts, in place of any of the same name."""
    ds = without_indexes(ds)
    ds = ds.remove_columns([name for name in columns if name in ds.column_names])
    for name, values in columns.items():
        ds = ds.add_column(name, values, feature=Value("string"))
    return ds


def _kinds_of_duplicates(corpus: Dataset) -> Found:
    """For each marked passage whether it has the text of an earlier one or nearly, and of which."""
    texts = _only_texts(corpus, TEXT.name, "audit")
    first = first_of_each_group(texts, TEXT.name, None)
    same = _names_at(corpus, ID.name, np.where(first == np.arange(len(first)), -1, first))
    found: list[tuple[str | None, str | None]] = []
    for text, of in zip(same, corpus[DUPLICATE_OF.name][:], strict=True):
        if text is not None:
            found.append(("same_text", text))
        else:
            found.append(_NOT_FOUND if of is None else ("near_text", of))
    return found


def _tally(found: Found, codes: Sequence[str]) -> dict[str, int]:
    """How often each code is there, none left out."""
    counts = codes_in(code for code, _ in found)
    return {code: counts.get(code, 0) for code in codes}


def _examples(
    where: str,
    found: Found,
    pair: tuple[Dataset, Dataset],
    columns: tuple[str, str],
    number: int,
) -> list[dict[str, Any]]:
    """The first so many rows of each code, beside what they repeat.

    Args:
        where: what the examples are of.
        found: what each row repeats.
        pair: the rows, and those that they repeat.
        columns: the column of ids and that of texts, in both.
        number: how many of each code.
    """
    (ds, other), (id, text) = pair, columns
    examples = []
    for code in (*_KINDS, *_LEAKS):
        hits = ((row, str(of)) for row, (its, of) in enumerate(found) if its == code)
        for row, of in islice(hits, number):
            name = _names_at(ds, id, np.array([row]))[0]
            said = {"where": where, "code": code, "id": name, "text": ds[row][text]}
            examples.append({**said, "of": of, "of_text": other[_place_of(other, id, of)][text]})
    return examples
