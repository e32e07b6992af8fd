"""Files, folders and Hub datasets, loaded in the shapes that the steps of this package read.

Everything comes back as a dataset on disk, so that the maps over it are cached.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, IterableDataset, Value

from rir_hf.evaluation.trec import read_qrels
from rir_hf.schema import PASSAGE, POS, POS_IDS, QUERY, QUERY_ID

_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
_ID_NAMES = ("id", "_id", "docid", "passage_id")
_TEXT_NAMES = ("text", "passage", "contents", "document")
_QUERY_NAMES = ("query", "question", "anchor", "q")
_POSITIVE_NAMES = ("pos", "passage", "pos_ids", "positive")
_QUERY_ID_NAMES = ("query_id", "qid", "_id", "id")
_TEXTS = (*_ID_NAMES, *_TEXT_NAMES, *_QUERY_NAMES, *_POSITIVE_NAMES, *_QUERY_ID_NAMES)
_CSV = {
    # Ids keep their leading zeros, and a text "NA" is a text.
    "converters": dict.fromkeys((*_TEXTS, "title", "answer"), str),
    "keep_default_na": False,
    "na_values": [""],
}

Source = str | os.PathLike[str]


def load_rows(source: Source, split: str = "train", *, revision: str | None = None) -> Dataset:
    """Rows from wherever they are.

    Args:
        source: a file (`.jsonl`, `.json`, `.parquet`, `.csv`, `.tsv`), a folder written by
            `save_to_disk`, a folder of such files, or a Hub dataset, `"name"` or `"name:config"`.
        split: which split, where the source has several.
        revision: branch, tag or commit of a Hub dataset.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a file with another ending, or no such split; the message says what there is.

    Example:
        >>> load_rows("mined.jsonl")                                              # doctest: +SKIP
        >>> load_rows("me/my-dataset:mined", "test")                              # doctest: +SKIP
    """
    path = Path(source)
    if path.is_file():
        return _read_file(path)
    if path.is_dir():
        saved = [path / "dataset_info.json", path / "dataset_dict.json"]
        is_saved = any(file.exists() for file in saved)
        loaded = datasets.load_from_disk(path) if is_saved else datasets.load_dataset(str(path))
        return _choose_split(loaded, split, source)
    if path.suffix in _READERS or path.is_absolute():
        raise FileNotFoundError(f"{path} does not exist.")
    return _choose_split(_pulled(source, revision=revision), split, source)


def load_corpus(source: Source, split: str = "train") -> Dataset:
    """A corpus with the columns `id` and `text`, from a file, a folder, the Hub or a BEIR folder.

    Args:
        source: as in `load_rows`, or a folder with `corpus.jsonl`. The text may be called `text`,
            `passage`, `contents` or `document`. A row with a `title` gets the title, a space and
            the text, as BEIR encodes it. The id may be called `id`, `_id`, `docid` or `passage_id`;
            it becomes a string, and where there is none it is the row's number.
        split: which split, where the source has several.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no column for the text; the message names the columns that are there.

    Example:
        >>> load_corpus("scifact")[0]                                             # doctest: +SKIP
        {'id': '4983', 'text': 'Microstructural development of human newborn cerebral ...'}
    """
    rows = load_rows(_beir_file(source, "corpus.jsonl") or source, split)
    names = {
        "text": _first_of(rows.column_names, _TEXT_NAMES, "text of the passages", source),
        "id": next((name for name in _ID_NAMES if name in rows.column_names), None),
        "title": "title" if "title" in rows.column_names else None,
    }
    return rows.map(
        _passages,
        fn_kwargs=names,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        features=Features({"id": Value("string"), "text": Value("string")}),
        desc="load_corpus",
    )


def load_pairs(source: Source, split: str = "train") -> Dataset:
    """Pairs of query and positive, from what `load_rows` reads or from a folder in BEIR layout.

    Args:
        source: as in `load_rows`; the query may be called `query`, `question`, `anchor` or `q`, the
            positive `pos`, `passage`, `pos_ids` or `positive`, and all other columns stay. A folder
            in BEIR layout (`queries.jsonl`, `qrels/SPLIT.tsv`) gives a row per judged query, with
            `query_id`, `query` and `pos_ids`, into which `MineNegatives` fills the texts.
        split: which split, where the source has several.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no column for the query or the positive, or no judgements for the split.

    Example:
        >>> load_pairs("scifact", "train")[0]                                     # doctest: +SKIP
        {'query_id': '0', 'query': '0-dimensional biomaterials lack ...', 'pos_ids': ['31715818']}
    """
    if _beir_file(source, "queries.jsonl") is not None:
        qrels = load_qrels(source, split)
        rows = load_queries(source, split)
        rows = rows.map(_with_positives, fn_kwargs={"qrels": qrels}, batched=True)
        return rows.filter(bool, input_columns=POS_IDS.name)
    rows = load_rows(source, split)
    return _renamed(rows, _names_of_pairs(rows.column_names, source))


def stream_pairs(source: Source, split: str = "train") -> IterableDataset:
    """Pairs of query and positive as `load_pairs` gives them, read as they are needed.

    They are never all in memory.

    Args:
        source: a file, a folder or a Hub dataset as in `load_pairs`, but no folder in BEIR layout.
        split: which split, where the source has several.

    Raises:
        ValueError: a folder in BEIR layout, or no column for the query or the positive.

    Example:
        >>> stream_pairs("me/my-dataset:mined").map(step, batched=True)           # doctest: +SKIP
    """
    path = Path(source)
    if _beir_file(source, "queries.jsonl") is not None:
        raise ValueError(
            f"{source} is in BEIR layout, whose judgements are read at once: use load_pairs."
        )
    if path.is_file() and _READERS.get(path.suffix) in ("json", "parquet"):
        rows = datasets.load_dataset(
            _READERS[path.suffix], data_files=str(path), split="train", streaming=True
        )
    elif path.exists():
        rows = load_rows(source, split).to_iterable_dataset()
    else:
        rows = _choose_split(_pulled(source, streaming=True), split, source)
    first: Mapping[str, Any] = next(iter(rows), {})
    return _renamed(rows, _names_of_pairs(list(first), source))


def load_queries(source: Source, split: str = "test") -> Dataset:
    """Queries with the columns `query_id` and `query`, from wherever `load_rows` reads.

    Args:
        source: as in `load_rows`, or a folder with `queries.jsonl`. The id may be called
            `query_id`, `qid`, `_id` or `id`, the query `query`, `question`, `anchor`, `q` or
            `text`; without an id it is the row's number. All other columns stay.
        split: which split, where the source has several. Of a folder in BEIR layout with
            `qrels/SPLIT.tsv` only the queries that are judged there: its one file of queries,
            `queries.jsonl`, holds those of all splits.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no column for the query; a folder with judgements of other splits alone.

    Example:
        >>> load_queries("scifact")[0]                                            # doctest: +SKIP
        {'query_id': '0', 'query': '0-dimensional biomaterials lack inductive properties.'}
    """
    beir = _beir_file(source, "queries.jsonl")
    rows = load_rows(beir or source, split)
    if beir and "metadata" in rows.column_names:
        rows = rows.remove_columns("metadata")  # often an empty struct, which parquet cannot hold
    query = _first_of(rows.column_names, (*_QUERY_NAMES, "text"), "query", source)
    id = next((name for name in _QUERY_ID_NAMES if name in rows.column_names), None)
    if id is None:
        id = QUERY_ID.name
        rows = rows.add_column(id, [str(number) for number in range(len(rows))])
    rows = _renamed(rows, {id: QUERY_ID.name, query: QUERY.name}).cast_column(
        QUERY_ID.name, Value("string")
    )
    return _of_split(rows, beir.parent / "qrels" / f"{split}.tsv") if beir else rows


def load_qrels(source: Source, split: str = "test") -> dict[str, dict[str, float]]:
    """Judgements `{query_id: {passage_id: grade}}` from a TREC or BEIR file, or a BEIR folder.

    Args:
        source: the file, or a folder with `qrels/SPLIT.tsv`.
        split: which split, of a folder.

    Raises:
        ValueError: the folder has no judgements for the split; the message names those it has.

    Example:
        >>> load_qrels("scifact")["1"]                                            # doctest: +SKIP
        {'31715818': 1}
    """
    path = Path(source)
    if path.is_dir():
        path = path / "qrels" / f"{split}.tsv"
        if not path.exists():
            splits = sorted(file.stem for file in path.parent.glob("*.tsv"))
            raise ValueError(f"{source} has no judgements for the split {split!r}, only {splits}.")
    return read_qrels(path)


def _of_split(queries: Dataset, qrels: Path) -> Dataset:
    """The queries that a file judges; all where the folder judges none."""
    splits = sorted(file.stem for file in qrels.parent.glob("*.tsv"))
    if not splits:
        return queries
    if not qrels.exists():
        raise ValueError(
            f"{qrels.parents[1]} has no judgements for the split {qrels.stem!r}, only {splits}. "
            "Name one of these, or the file queries.jsonl for all queries."
        )
    judged = read_qrels(qrels)
    kept = [place for place, name in enumerate(queries[QUERY_ID.name]) if name in judged]
    return queries.select(kept)


def _read_file(path: Path) -> Dataset:
    if path.suffix not in _READERS:
        raise ValueError(
            f"{path}: cannot read files ending in {path.suffix!r}, only {sorted(_READERS)}."
        )
    options: dict[str, Any] = {}
    if _READERS[path.suffix] == "csv":
        options = {**_CSV, "sep": "\t" if path.suffix == ".tsv" else ","}
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty.")
    try:
        return datasets.load_dataset(
            _READERS[path.suffix], data_files=str(path), split="train", **options
        )
    except ValueError as error:  # which does not say in which file
        raise ValueError(f"{path} cannot be read: {error}") from error


def _pulled(source: Source, **options: Any) -> Any:
    """What the Hub has under `"name"` or `"name:config"`."""
    from rir_hf.hub.pull import pull

    name, _, config = str(source).partition(":")
    return pull(name, config or None, **options)


def _passages(
    batch: Mapping[str, list[Any]], numbers: list[int], text: str, id: str | None, title: str | None
) -> dict[str, list[str]]:
    texts = ["" if value is None else str(value) for value in batch[text]]
    if title is not None:
        titled = zip(batch[title], texts, strict=True)
        texts = [f"{head or ''} {body}".strip() for head, body in titled]
    return {"id": [str(value) for value in (numbers if id is None else batch[id])], "text": texts}


def _with_positives(
    batch: Mapping[str, list[Any]], qrels: dict[str, dict[str, float]]
) -> dict[str, list[list[str]]]:
    judged = [qrels.get(query, {}) for query in batch[QUERY_ID.name]]
    relevant = [[passage for passage, grade in each.items() if grade > 0] for each in judged]
    return {POS_IDS.name: relevant}


def _beir_file(source: Source, name: str) -> Path | None:
    path = Path(source) / name
    return path if path.exists() else None


def _names_of_pairs(columns: Sequence[str], source: Source) -> dict[str, str]:
    query = _first_of(columns, _QUERY_NAMES, "query", source)
    positive = _first_of(columns, _POSITIVE_NAMES, "positive passage", source)
    is_list = positive in (POS.name, POS_IDS.name)
    return {query: QUERY.name, positive: positive if is_list else PASSAGE.name}


def _renamed(rows: Any, names: Mapping[str, str]) -> Any:
    return rows.rename_columns({old: new for old, new in names.items() if old != new})


def _choose_split(loaded: Any, split: str, source: Source) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    if split not in loaded:
        raise ValueError(f"{source} has no split {split!r}, only {sorted(loaded)}.")
    return loaded[split]


def _first_of(columns: Sequence[str], names: Sequence[str], what: str, source: Source) -> str:
    for name in names:
        if name in columns:
            return name
    raise ValueError(
        f"{source}: no column for the {what} (one of {tuple(names)}) among {list(columns)}. Rename "
        "yours."
    )
