"""Loading: every kind of source gives the same rows, and a source that cannot be read says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from rir_hf.data.load import (
    load_corpus,
    load_pairs,
    load_qrels,
    load_queries,
    load_rows,
    stream_pairs,
)

PASSAGES = [
    {"_id": "p1", "title": "Cats", "text": "They purr."},
    {"_id": "p2", "title": "", "text": "Dogs bark."},
]
KINDS = ["jsonl", "parquet", "tsv", "saved", "saved splits", "folder"]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Two passages and three queries in BEIR layout: q2 has no relevant one, q3 no judgement."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", PASSAGES)
    names = ("q1", "q2", "q3")
    queries = [{"_id": name, "text": f"query {name}", "metadata": {}} for name in names]
    write_lines(folder / "queries.jsonl", queries)
    judgements = "query-id\tcorpus-id\tscore\nq1\tp2\t1\nq1\tp1\t2\nq2\tp1\t0\n"
    (folder / "qrels" / "test.tsv").write_text(judgements)
    return folder


def test_a_beir_folder_gives_corpus_judged_pairs_and_qrels(beir: Path) -> None:
    assert load_corpus(beir).to_list() == [
        {"id": "p1", "text": "Cats They purr."},
        {"id": "p2", "text": "Dogs bark."},
    ]
    assert load_pairs(beir, "test").to_list() == [
        {"query_id": "q1", "query": "query q1", "pos_ids": ["p2", "p1"]}
    ]
    assert load_queries(beir)["query_id"][:] == ["q1", "q2"]  # those judged in the split
    assert load_queries(beir / "queries.jsonl")["query_id"][:] == ["q1", "q2", "q3"]
    with pytest.raises(ValueError, match=r"split 'train', only \['test'\].*queries.jsonl for all"):
        load_queries(beir, "train")
    assert load_qrels(beir, "test") == {"q1": {"p2": 1, "p1": 2}, "q2": {"p1": 0}}
    with pytest.raises(ValueError, match=r"no judgements for the split 'train', only \['test'\]"):
        load_pairs(beir, "train")
    with pytest.raises(ValueError, match="is in BEIR layout"):
        stream_pairs(beir)


def write(rows: Dataset, kind: str, source: Path) -> None:
    """Write the rows as this kind of source."""
    if kind == "jsonl":
        rows.to_json(source)
    elif kind == "parquet":
        rows.to_parquet(source)
    elif kind == "tsv":
        rows.to_csv(source, sep="\t")
    elif kind == "saved":
        rows.save_to_disk(source)
    elif kind == "saved splits":
        DatasetDict(train=rows, test=rows.select([0])).save_to_disk(source)
    else:
        source.mkdir()
        rows.to_json(source / "train.jsonl")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    rows = Dataset.from_dict(
        {"question": ["who?", "what, then?"], "positive": ["he", "it"], "extra": [1, 2]}
    )
    source = tmp_path / f"rows.{kind}"
    write(rows, kind, source)
    expected = [
        {"query": "who?", "passage": "he", "extra": 1},
        {"query": "what, then?", "passage": "it", "extra": 2},
    ]
    loaded = load_pairs(source)
    assert loaded.to_list() == expected
    assert loaded.cache_files
    assert list(stream_pairs(source)) == expected


def test_a_corpus_without_ids_is_numbered_and_integers_become_strings(tmp_path: Path) -> None:
    Dataset.from_dict({"passage": ["a", "b"]}).to_json(tmp_path / "texts.jsonl")
    assert load_corpus(tmp_path / "texts.jsonl")["id"][:] == ["0", "1"]
    Dataset.from_dict({"docid": [7, 8], "contents": ["a", None]}).to_json(tmp_path / "some.jsonl")
    assert load_corpus(tmp_path / "some.jsonl").to_list() == [
        {"id": "7", "text": "a"},
        {"id": "8", "text": ""},
    ]


def test_a_csv_keeps_leading_zeros_and_the_text_na(tmp_path: Path) -> None:
    (tmp_path / "zeros.csv").write_text("id,text\n007,NA\n010,42\n")
    assert load_corpus(tmp_path / "zeros.csv").to_list() == [
        {"id": "007", "text": "NA"},
        {"id": "010", "text": "42"},
    ]


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    Dataset.from_dict({"x": ["a"]}).to_json(tmp_path / "x.jsonl")
    (tmp_path / "x.txt").write_text("a")
    DatasetDict(dev=Dataset.from_dict({"x": [1]})).save_to_disk(tmp_path / "splits")
    no_text = r"no column for the text of the passages .* among \['x'\]"
    with pytest.raises(ValueError, match=no_text):
        load_corpus(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="no column for the query"):
        load_pairs(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="cannot read files ending in '.txt'"):
        load_rows(tmp_path / "x.txt")
    with pytest.raises(ValueError, match=r"no split 'train', only \['dev'\]"):
        load_rows(tmp_path / "splits")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_rows(tmp_path / "none.jsonl")


def test_a_file_without_rows_or_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "header.csv").write_text("id,text\n")
    for name in ("empty.jsonl", "header.csv"):
        with pytest.raises(ValueError, match=name):
            load_rows(tmp_path / name)
