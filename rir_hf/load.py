"""Files, folders and Hub names in, datasets in the shapes of this package out: what every recipe starts with.

Everything comes back as a dataset on disk, so that the maps over it are cached.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, IterableDataset, Value

from rir_hf.evaluate import read_qrels
from rir_hf.hub import pull

_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
_IDS = ("id", "_id", "docid", "passage_id")
_TEXTS = ("text", "passage", "contents", "document")
_QUERIES = ("query", "question", "anchor", "q")
_POSITIVES = ("pos", "passage", "pos_ids", "positive")
_QUERY_IDS = ("query_id", "qid", "_id", "id")
_AS_TEXT = dict.fromkeys((*_IDS, *_TEXTS, *_QUERIES, *_POSITIVES, *_QUERY_IDS, "title", "answer"), str)


def load_rows(source: str | os.PathLike[str], split: str = "train", *, revision: str | None = None) -> Dataset:
    """Rows from wherever they are.

    Args:
        source: a file (`.jsonl`, `.json`, `.parquet`, `.csv`, `.tsv`), a folder written by `save_to_disk`, a folder of such files,
            or a Hub dataset, `"name"` or `"name:config"`.
        split: which split, where the source has several.
        revision: branch, tag or commit of a Hub dataset.

    Raises:
        FileNotFoundError, ValueError: nothing there, or no such split; the message says what there is.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix not in _READERS:
            raise ValueError(f"{path}: cannot read files ending in {path.suffix!r}, only {sorted(_READERS)}.")
        options = {}
        if _READERS[path.suffix] == "csv":  # ids keep their leading zeros, and a text "NA" is a text
            options = {"sep": "\t" if path.suffix == ".tsv" else ","}
            options |= {"converters": _AS_TEXT, "keep_default_na": False, "na_values": [""]}
        return datasets.load_dataset(_READERS[path.suffix], data_files=str(path), split="train", **options)
    if path.is_dir():
        saved = (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
        found = datasets.load_from_disk(path) if saved else datasets.load_dataset(str(path))
        return _choose_split(found, split, str(path))
    if path.suffix in _READERS or path.is_absolute():
        raise FileNotFoundError(f"{path} does not exist.")
    name, _, config = str(source).partition(":")
    return _choose_split(pull(name, config or None, revision=revision), split, str(source))


def load_corpus(source: str | os.PathLike[str], split: str = "train") -> Dataset:
    """A corpus with the columns `id` and `text`, from anything `load_rows` reads or from a folder in BEIR layout.

    The text of a row with a title is the title, a space and the text, as BEIR encodes it. The id is `id`, `_id`, `docid` or
    `passage_id`, as a string, or the row's number where there is none.
    """
    rows = load_rows(_beir_file(source, "corpus.jsonl") or source, split)
    names = {
        "text": _first_of(rows.column_names, _TEXTS, "text of the passages", source),
        "id": next((name for name in _IDS if name in rows.column_names), None),
        "title": "title" if "title" in rows.column_names else None,
    }
    kinds = Features({"id": Value("string"), "text": Value("string")})
    return rows.map(_passages, fn_kwargs=names, batched=True, with_indices=True, remove_columns=rows.column_names, features=kinds)


def load_pairs(source: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Pairs of query and positive, from anything `load_rows` reads or from a folder in BEIR layout.

    A BEIR folder (`queries.jsonl`, `qrels/SPLIT.tsv`) gives a row per judged query, with `query_id`, `query` and `pos_ids`;
    `MineNegatives` fills in the texts. In other sources the column of the query may be called `query`, `question`, `anchor` or
    `q`, that of the positive `pos`, `passage`, `pos_ids` or `positive`. All other columns stay.
    """
    if _beir_file(source, "queries.jsonl") is not None:
        qrels = {query: _relevant(judged) for query, judged in load_qrels(source, split).items()}
        rows = load_queries(source, split)
        rows = rows.map(_with_positives, fn_kwargs={"qrels": qrels}, batched=True)
        return rows.filter(_has_positives, batched=True, input_columns="pos_ids")
    rows = load_rows(source, split)
    renamed = _names_of_pairs(rows.column_names, source)
    return rows.rename_columns({old: new for old, new in renamed.items() if old != new})


def stream_pairs(source: str | os.PathLike[str], split: str = "train") -> IterableDataset:
    """Pairs of query and positive as `load_pairs` gives them, read as they are needed: none of them is held in memory.

    From a file, a folder or the Hub; a folder in BEIR layout is read at once, with `load_pairs`.
    """
    path = Path(source)
    if _beir_file(source, "queries.jsonl") is not None:
        raise ValueError(f"{source} is in BEIR layout, whose judgements are read at once: use load_pairs.")
    if path.is_file() and path.suffix in _READERS and _READERS[path.suffix] != "csv":
        rows = datasets.load_dataset(_READERS[path.suffix], data_files=str(path), split="train", streaming=True)
    elif path.exists():
        rows = load_rows(source, split).to_iterable_dataset()
    else:
        name, _, config = str(source).partition(":")
        rows = _choose_split(pull(name, config or None, streaming=True), split, str(source))
    names = list(next(iter(rows), {}))
    renamed = _names_of_pairs(names, source)
    return rows.rename_columns({old: new for old, new in renamed.items() if old != new})


def load_queries(source: str | os.PathLike[str], split: str = "test") -> Dataset:
    """Queries with the columns `query_id` and `query`, from anything `load_rows` reads or from a folder in BEIR layout.

    The id may be called `query_id`, `qid`, `_id` or `id`, the query `query`, `question`, `anchor`, `q` or `text`. All other
    columns stay.
    """
    beir = _beir_file(source, "queries.jsonl")
    rows = load_rows(beir or source, split)
    if beir and "metadata" in rows.column_names:  # often an empty struct, which parquet cannot hold
        rows = rows.remove_columns("metadata")
    renamed = {
        _first_of(rows.column_names, _QUERY_IDS, "query ids", source): "query_id",
        _first_of(rows.column_names, (*_QUERIES, "text"), "query", source): "query",
    }
    rows = rows.rename_columns({old: new for old, new in renamed.items() if old != new})
    return rows.cast_column("query_id", Value("string"))


def load_qrels(source: str | os.PathLike[str], split: str = "test") -> dict[str, dict[str, int]]:
    """Judgements `{query_id: {passage_id: grade}}` from a TREC or BEIR file, or from a folder in BEIR layout."""
    path = Path(source)
    if path.is_dir():
        path = path / "qrels" / f"{split}.tsv"
        if not path.exists():
            raise ValueError(f"{source} has no judgements for the split {split!r}, only {_splits(path.parent)}.")
    return read_qrels(path)


def _passages(
    batch: Mapping[str, list[Any]], indices: list[int], text: str, id: str | None, title: str | None
) -> dict[str, list[str]]:
    texts = ["" if value is None else str(value) for value in batch[text]]
    if title is not None:
        texts = [f"{head or ''} {body}".strip() for head, body in zip(batch[title], texts, strict=True)]
    return {"id": [str(value) for value in (indices if id is None else batch[id])], "text": texts}


def _with_positives(batch: Mapping[str, list[Any]], qrels: dict[str, list[str]]) -> dict[str, list[list[str]]]:
    return {"pos_ids": [qrels.get(query, []) for query in batch["query_id"]]}


def _has_positives(pos_ids: list[list[str]]) -> list[bool]:
    return [bool(ids) for ids in pos_ids]


def _relevant(judged: Mapping[str, int]) -> list[str]:
    return [passage for passage, grade in judged.items() if grade > 0]


def _beir_file(source: str | os.PathLike[str], name: str) -> Path | None:
    path = Path(source) / name
    return path if path.exists() else None


def _splits(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.tsv"))


def _names_of_pairs(columns: list[str], source: str | os.PathLike[str]) -> dict[str, str]:
    query = _first_of(columns, _QUERIES, "query", source)
    positive = _first_of(columns, _POSITIVES, "positive passage", source)
    return {query: "query", positive: positive if positive in ("pos", "pos_ids") else "passage"}


def _choose_split(found: Any, split: str, source: str) -> Any:
    if not isinstance(found, Mapping):
        return found
    if split not in found:
        raise ValueError(f"{source} has no split {split!r}, only {sorted(found)}.")
    return found[split]


def _first_of(columns: list[str], names: tuple[str, ...], what: str, source: str | os.PathLike[str]) -> str:
    for name in names:
        if name in columns:
            return name
    raise ValueError(f"{source}: no column for the {what} (one of {names}) among {columns}. Rename yours.")
