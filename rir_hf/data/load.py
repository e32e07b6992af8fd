"""Corpora, queries, pairs and judgements in, in the shapes that the steps of this package read.

Everything comes back as a dataset on disk, so that the maps over it are cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import datasets
from datasets import Dataset, IterableDataset

from rir_hf.core.columns import cached
from rir_hf.core.packed import check_packing
from rir_hf.data.layouts import Collection, collection_of, read_topics
from rir_hf.data.paths import Source, kind_of
from rir_hf.data.qrels import qrels_of
from rir_hf.data.shapes import as_corpus, as_pairs, as_queries, with_positives
from rir_hf.data.sources import (
    check_split_of,
    choose_split,
    first_rows,
    is_dataset,
    pulled,
    read,
)
from rir_hf.schema import POS_IDS, QUERY_ID


def load_corpus(
    source: Source | Dataset,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Dataset:
    """A corpus with the columns `id`, `text` and, where it has titles, `title`.

    Args:
        source: as in `load_rows`; or a folder or Hub dataset in the layout of BEIR or MTEB,
            `"irds:ID"` of ir_datasets, or a `Dataset`, whose columns are named anew. `text` is the
            title, a space and the text, as BEIR encodes it; where every text begins with its title
            already, it stays as it is. The columns are found by the names that the field uses
            (`_id`, `doc_id`, `docno`, `contents`, `body`, ...), and the log says which they are.
            Ids become strings.
        split: which split, where there are several. Default: `train`.
        columns: columns under other names, `{"id": "doc_id", "text": "abstract"}`; the keys are
            `id`, `text` and `title`.
        limit: the first so many passages. Default: all.

    Returns:
        The passages. Without a column of ids they are row numbers, which is said as a warning; rows
        that are the same in all columns are kept once.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no column for the text or two that may be it, a row without an id, or two
            different texts with one id.

    Example:
        >>> load_corpus("scifact")[0]                                             # doctest: +SKIP
        {'id': '4983', 'title': 'Microstructural development of human newborn ...', 'text': ...}
        >>> load_corpus("texts.csv", columns={"id": "number"})                    # doctest: +SKIP
    """
    if is_dataset(source, split):
        return as_corpus(source, columns, "the dataset", limit)
    found = collection_of(source, "corpus")
    rows = found.rows("corpus", split) if found else _read(source, split, columns)
    return as_corpus(rows, columns, source, limit)


def load_queries(
    source: Source | Dataset,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Queries with the columns `query_id` and `query`; all other columns stay.

    Args:
        source: as in `load_corpus`; or a file of TREC topics (`<top>` with `<num>` and `<title>`,
            or lines of an id, a tab and the query), with any ending that `load_rows` does not read.
        split: which split, where there are several. Default: `test`. Of a folder in BEIR's or
            MTEB's layout only the queries that are judged in the split: its one file of queries
            holds those of all splits.
        columns: columns under other names, `{"query": "claim"}`; the keys are `query_id` and
            `query`.
        limit: the first so many queries. Default: all.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no column for the query or two that may be it, two different queries with one
            id, or a folder with judgements of other splits alone.

    Example:
        >>> load_queries("scifact")[0]                                            # doctest: +SKIP
        {'query_id': '0', 'query': '0-dimensional biomaterials lack inductive properties.'}
    """
    if is_dataset(source, split):
        return first_rows(as_queries(source, columns, "the dataset"), limit)
    found = collection_of(source, "queries")
    if found is not None:
        rows = _queries_of(found, split, "test", columns, source)
    else:
        is_topics = Path(source).is_file() and kind_of(source) is None
        rows = read_topics(Path(source)) if is_topics else _read(source, split, columns, "test")
        rows = as_queries(rows, columns, source)
    return first_rows(rows, limit)


def load_pairs(
    source: Source | Dataset,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Pairs of a query and its positives; all other columns stay.

    Args:
        source: as in `load_rows`; or a folder or Hub dataset in the layout of BEIR or MTEB, or
            `"irds:ID"`, which give a row per judged query with `query_id`, `query` and `pos_ids`,
            into which `MineNegatives` fills the texts.
        split: which split, where there are several. Default: `train`.
        columns: columns under other names, `{"query": "claim", "positive": "evidence"}`; the keys
            are `query`, `positive` (texts), `pos_ids` and `query_id`.
        limit: the first so many rows. Default: all.

    Returns:
        Rows with `query`, and with `passage` (one positive), `pos` (a list) or `pos_ids` (a list).

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no column for the query or the positive or two that may be it, or no judgements
            for the split.

    Example:
        >>> load_pairs("scifact")[0]                                              # doctest: +SKIP
        {'query_id': '0', 'query': '0-dimensional biomaterials lack ...', 'pos_ids': ['31715818']}
    """
    if is_dataset(source, split):
        return first_rows(as_pairs(source, columns, "the dataset"), limit)
    found = collection_of(source, "queries")
    if found is not None:
        if columns:
            raise ValueError(f"columns: the pairs of {source} come from its queries and qrels.")
        rows = _queries_of(found, split, "train", None, source)
        qrels = qrels_of(found, split or "train", source)
        if qrels is None:
            raise ValueError(f"{source} has no qrels, which say the positives of its queries.")
        rows = cached(rows, "map", with_positives, fn_kwargs={"qrels": qrels}, batched=True)
        rows = cached(rows, "filter", bool, input_columns=POS_IDS.name)
    else:
        rows = as_pairs(_read(source, split, columns), columns, source)
    return first_rows(rows, limit)


def stream_pairs(
    source: Source, split: str | None = None, *, columns: Mapping[str, str] | None = None
) -> IterableDataset:
    """Pairs of query and positive as `load_pairs` gives them, read as they are needed.

    They are never all in memory.

    Args:
        source: a file, a folder or a Hub dataset as in `load_pairs`, but none in BEIR's layout.
        split: which split, where there are several. Default: `train`.
        columns: as in `load_pairs`.

    Raises:
        ValueError: a folder in BEIR's layout, or as `load_pairs`.

    Example:
        >>> stream_pairs("me/my-dataset:mined").map(step, batched=True)           # doctest: +SKIP
    """
    path = Path(source)
    if collection_of(source, "queries") is not None:
        raise ValueError(
            f"{source} is in BEIR's layout, whose judgements are read at once: use load_pairs."
        )
    kind = kind_of(path)
    if path.is_file() and (kind == "json" or path.suffix == ".parquet"):
        check_packing(path)
        check_split_of(path, split)
        split = None
        rows = datasets.load_dataset(kind, data_files=str(path), streaming=True)
    elif path.exists():
        rows = _read(source, split, columns).to_iterable_dataset()
        split = None
    else:
        rows = pulled(source, streaming=True)
    return as_pairs(choose_split(rows, split, "train", source), columns, source)


def _read(
    source: Source, split: str | None, columns: Mapping[str, str] | None, default: str = "train"
) -> Dataset:
    """The rows of a source that holds nothing else."""
    return read(source, split, default, texts=set((columns or {}).values()))


def _queries_of(
    found: Collection,
    split: str | None,
    default: str,
    columns: Mapping[str, str] | None,
    source: Source,
) -> Dataset:
    """The queries of a collection that are judged in the split; all where it judges none."""
    rows = found.rows("queries", split, default)
    if "metadata" in rows.column_names:
        rows = rows.remove_columns("metadata")  # often an empty struct, which parquet cannot hold
    rows = as_queries(rows, columns, source)
    judged = qrels_of(found, split or default, source)
    if judged is None:
        return rows
    kept = [place for place, name in enumerate(rows[QUERY_ID.name][:]) if name in judged]
    return rows.select(kept)
