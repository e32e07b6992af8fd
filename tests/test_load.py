"""Loading: every kind of source gives the same rows, and a source that cannot be read says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from rir_hf import load_corpus, load_pairs, load_qrels, load_queries, load_rows

PASSAGES = [{"_id": "p1", "title": "Cats", "text": "They purr."}, {"_id": "p2", "title": "", "text": "Dogs bark."}]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A collection in BEIR layout: two passages, three queries, one judged only as irrelevant, one not judged at all."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PASSAGES))
    queries = [{"_id": name, "text": f"query {name}", "metadata": {}} for name in ("q1", "q2", "q3")]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp2\t1\nq1\tp1\t2\nq2\tp1\t0\n")
    return folder


def test_a_beir_folder_gives_corpus_judged_pairs_and_qrels(beir: Path) -> None:
    assert load_corpus(beir).to_list() == [{"id": "p1", "text": "Cats They purr."}, {"id": "p2", "text": "Dogs bark."}]
    assert load_pairs(beir, "test").to_list() == [{"query_id": "q1", "query": "query q1", "pos_ids": ["p2", "p1"]}]
    assert load_queries(beir)["query_id"][:] == ["q1", "q2", "q3"]
    assert load_qrels(beir, "test") == {"q1": {"p2": 1, "p1": 2}, "q2": {"p1": 0}}
    with pytest.raises(ValueError, match=r"no judgements for the split 'train', only \['test'\]"):
        load_pairs(beir, "train")


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "tsv", "saved", "saved splits", "folder"])
def test_every_kind_of_source_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"question": ["who?", "what, then?"], "positive": ["he", "it"], "extra": [1, 2]})
    source = tmp_path / f"rows.{kind}"
    if kind in ("jsonl", "json"):
        rows.to_json(source)
    elif kind == "parquet":
        rows.to_parquet(source)
    elif kind in ("csv", "tsv"):
        rows.to_csv(source, sep="," if kind == "csv" else "\t")
    elif kind == "saved":
        rows.save_to_disk(source)
    elif kind == "saved splits":
        DatasetDict(train=rows, test=rows.select([0])).save_to_disk(source)
    else:
        source.mkdir()
        rows.to_json(source / "train.jsonl")
    expected = [{"query": "who?", "passage": "he", "extra": 1}, {"query": "what, then?", "passage": "it", "extra": 2}]
    loaded = load_pairs(source)
    assert loaded.to_list() == expected
    assert loaded.cache_files


def test_a_corpus_without_ids_is_numbered_and_one_with_integers_gets_strings(tmp_path: Path) -> None:
    Dataset.from_dict({"passage": ["a", "b"]}).to_json(tmp_path / "texts.jsonl")
    assert load_corpus(tmp_path / "texts.jsonl")["id"][:] == ["0", "1"]
    (tmp_path / "zeros.csv").write_text("id,text\n007,NA\n010,42\n")
    assert load_corpus(tmp_path / "zeros.csv").to_list() == [{"id": "007", "text": "NA"}, {"id": "010", "text": "42"}]
    Dataset.from_dict({"id": [1, 2], "text": ["a", "b"]}).to_json(tmp_path / "integers.jsonl")
    assert load_corpus(tmp_path / "integers.jsonl")["id"][:] == ["1", "2"]
    Dataset.from_dict({"docid": [7, 8], "contents": ["a", None]}).to_json(tmp_path / "numbers.jsonl")
    assert load_corpus(tmp_path / "numbers.jsonl").to_list() == [{"id": "7", "text": "a"}, {"id": "8", "text": ""}]


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    Dataset.from_dict({"x": ["a"]}).to_json(tmp_path / "x.jsonl")
    (tmp_path / "x.txt").write_text("a")
    DatasetDict(dev=Dataset.from_dict({"x": [1]})).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match=r"no column for the text of the passages .* among \['x'\]"):
        load_corpus(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="no column for the query"):
        load_pairs(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="cannot read files ending in '.txt'"):
        load_rows(tmp_path / "x.txt")
    with pytest.raises(ValueError, match=r"no split 'train', only \['dev'\]"):
        load_rows(tmp_path / "splits")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_rows(tmp_path / "none.jsonl")
