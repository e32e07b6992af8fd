"""Corpus, queries and qrels under one name: the same rows, whatever the layout."""

from __future__ import annotations

import gzip
import json
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from rir_hf import load_corpus, load_pairs, load_qrels, load_queries, load_rows, read_run
from rir_hf.evaluation.runs import as_qrels
from tests.hub_server import HubServer

CORPUS = [{"_id": "01", "title": "Cats", "text": "Purr."}, {"_id": "02", "title": "", "text": "B"}]
QUERIES = [{"_id": "q1", "text": "why?"}, {"_id": "q2", "text": "how?"}]
QRELS = [
    {"query-id": "q1", "corpus-id": "01", "score": 0.5},
    {"query-id": "q1", "corpus-id": "02", "score": 0.0},
]
OF_BEIR = "query-id\tcorpus-id\tscore\nq1\t01\t0.5\nq1\t02\t0\n"


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def made(folder: Path, layout: str) -> None:
    """Write the collection in a layout."""
    if layout == "BEIR":
        write(folder / "corpus.jsonl", lines(CORPUS))
        write(folder / "queries.jsonl", lines(QUERIES))
        write(folder / "qrels" / "test.tsv", OF_BEIR.encode())
    elif layout == "BEIR, packed":
        write(folder / "corpus.jsonl.gz", lines(CORPUS))
        write(folder / "queries.jsonl.gz", lines(QUERIES))
        write(folder / "qrels" / "test.tsv.gz", OF_BEIR.encode())
    elif layout == "MTEB, lines":
        write(folder / "corpus.jsonl", lines(CORPUS))
        write(folder / "queries.jsonl", lines(QUERIES))
        write(folder / "qrels" / "test.jsonl", lines(QRELS))
    else:
        qrels = "default" if layout == "MTEB, default" else "qrels"
        parts = {"corpus": CORPUS, "queries": QUERIES, qrels: QRELS}
        for name, rows in parts.items():
            (folder / name).mkdir(parents=True)
            split = "test" if name == qrels else name
            Dataset.from_list(rows).to_parquet(folder / name / f"{split}-00000-of-00001.parquet")


def check(source: str | Path) -> None:
    """The collection comes back."""
    assert load_corpus(source).to_list() == [
        {"id": "01", "title": "Cats", "text": "Cats Purr."},
        {"id": "02", "title": "", "text": "B"},
    ]
    assert load_queries(source).to_list() == [{"query_id": "q1", "query": "why?"}]
    assert load_qrels(source) == {"q1": {"01": 0.5, "02": 0}}
    assert load_pairs(source, "test").to_list() == [
        {"query_id": "q1", "query": "why?", "pos_ids": ["01"]}
    ]
    for load in (load_queries, load_qrels, load_pairs):
        with pytest.raises(ValueError, match="'dev'"):
            load(source, "dev")
    with pytest.raises(ValueError, match="'train'"):
        load_pairs(source)  # never those of the test split unasked


@pytest.mark.parametrize("layout", ["BEIR", "BEIR, packed", "MTEB", "MTEB, default", "MTEB, lines"])
def test_a_folder_gives_corpus_queries_and_qrels(layout: str, tmp_path: Path) -> None:
    made(tmp_path / "data", layout)
    check(tmp_path / "data")


def test_the_hub_gives_them_by_config(hub: HubServer) -> None:
    Dataset.from_list(CORPUS).push_to_hub("me/mteb", "corpus", split="corpus")
    Dataset.from_list(QUERIES).push_to_hub("me/mteb", "queries", split="queries")
    DatasetDict(test=Dataset.from_list(QRELS)).push_to_hub("me/mteb", "default")
    check("me/mteb")
    assert load_rows("me/mteb:queries", "queries")["_id"][:] == ["q1", "q2"]
    with pytest.raises(ValueError, match=r"no split 'test', only \['queries'\]"):
        load_rows("me/mteb:queries", "test")


def test_queries_are_never_passages(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl.gz", lines(CORPUS))
    with pytest.raises(ValueError, match="has no queries: name the file"):
        load_queries(tmp_path)
    write(tmp_path / "queries.jsonl.gz", lines(QUERIES))
    assert load_queries(tmp_path)["query"][:] == ["why?", "how?"]  # nothing is judged
    with pytest.raises(ValueError, match="has no qrels"):
        load_pairs(tmp_path)


class StandIn:
    """Stands in for ir_datasets, which downloads: the same calls and records."""

    Doc = namedtuple("Doc", ["doc_id", "text", "title"])
    Topic = namedtuple("Topic", ["query_id", "title", "description"])
    Topic.default_text = lambda self: self.title
    Qrel = namedtuple("Qrel", ["query_id", "doc_id", "relevance", "iteration"])

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def load(self, name: str) -> SimpleNamespace:
        docs = [self.Doc(row["_id"], row["text"], row["title"]) for row in CORPUS]
        asked = [self.Topic(row["_id"], row["text"], "about it") for row in QUERIES]
        judged = [self.Qrel(*row.values(), "0") for row in QRELS]
        own = {"docs_iter": lambda: iter(docs), "queries_iter": lambda: iter(asked)}
        return {
            self.folder: SimpleNamespace(**own, has_qrels=lambda: False),
            f"{self.folder}/test": SimpleNamespace(
                **own, has_qrels=lambda: True, qrels_iter=lambda: iter(judged)
            ),
        }[name]


def test_ir_datasets_gives_them_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(ImportError, match=r'needs ir_datasets: pip install "rir-hf\[irds\]"'):
        load_corpus("irds:beir/cats")
    monkeypatch.setitem(sys.modules, "ir_datasets", StandIn("beir/cats"))
    for name in ("irds:beir/cats", "irds:beir/cats/test"):
        assert load_corpus(name)["text"][:] == ["Cats Purr.", "B"]
        assert load_qrels(name) == {"q1": {"01": 0.5, "02": 0}}
        [query] = load_queries(name).to_list()
        assert (query["query_id"], query["query"]) == ("q1", "why?")
        assert load_pairs(name, "test")["pos_ids"][:] == [["01"]]
    with pytest.raises(ValueError, match="has no queries of the split 'train'"):
        load_pairs("irds:beir/cats")
    with pytest.raises(ValueError, match="ir_datasets has no 'beir/dogs'"):
        load_corpus("irds:beir/dogs")


def test_topics_of_trec_are_queries(tmp_path: Path) -> None:
    tagged = "<top>\n<num> Number: 301\n<title> Organized\n Crime\n\n<desc> Which ...\n</top>\n"
    short = "<top><num>302</num><title>Polio</title></top>"
    write(tmp_path / "topics.txt.gz", (tagged + short).encode("utf-8-sig"))
    expected = [
        {"query_id": "301", "query": "Organized Crime"},
        {"query_id": "302", "query": "Polio"},
    ]
    assert load_queries(tmp_path / "topics.txt.gz").to_list() == expected
    for name in ("topics.tsv", "topics.txt"):
        write(tmp_path / name, b'301\tOrganized Crime\n302\tPo"lio\n')
        assert load_queries(tmp_path / name)["query"][:] == ["Organized Crime", 'Po"lio']
    write(tmp_path / "wrong.topics", b"no tab\n")
    with pytest.raises(ValueError, match=r"wrong.topics, line 1: expected <top>"):
        load_queries(tmp_path / "wrong.topics")


@pytest.mark.parametrize("grade", [None, "good", float("nan")])
def test_a_grade_that_is_no_number_is_named_with_its_place(grade: Any, tmp_path: Path) -> None:
    row = {"query_id": "q1", "passage_id": "p1", "score": grade}
    write(tmp_path / "qrels.jsonl", lines([{**row, "score": grade and str(grade)}]))
    with pytest.raises(ValueError, match=r"qrels.jsonl, row 0: the grade must be a finite number"):
        load_qrels(tmp_path / "qrels.jsonl")
    with pytest.raises(ValueError, match=r"grade of 'p1' for query 'q1' must be a finite number"):
        load_qrels({"q1": {"p1": grade}})


def test_a_pair_is_judged_once(tmp_path: Path) -> None:
    row = {"query_id": "q1", "passage_id": "p1"}
    write(tmp_path / "qrels.jsonl", lines([{**row, "score": 1}, {**row, "score": 2}]))
    write(tmp_path / "qrels.txt", b"q1 0 p1 1\nq1 0 p1 1\nq1 0 p1 2\n")
    for name, place in (("qrels.jsonl", "row 1"), ("qrels.txt", "line 3")):
        with pytest.raises(ValueError, match=rf"{name}, {place}: 'p1' has the grade 1 for query"):
            load_qrels(tmp_path / name)
    with pytest.raises(ValueError, match="needs its grades by passage"):
        load_qrels({"q1": ["p1"]})  # type: ignore[dict-item]


def test_qrels_are_a_dict_a_file_or_a_dataset(tmp_path: Path) -> None:
    expected = {"q1": {"01": 0.5, "02": 0}}
    plain = b"q1 0 01 0.5\nq1 0 02 0\n"
    table = b"docno,topic,relevance\n01,q1,0.5\n02,q1,0\n"
    files = {
        "qrels.txt": plain,
        "qrels.trec.gz": plain,
        "beir.tsv": OF_BEIR.encode("utf-8-sig"),
        "swapped.tsv": table.replace(b",", b"\t"),
        "table.csv": table,
        "lines.jsonl.gz": lines(QRELS),
    }
    for name, content in files.items():
        write(tmp_path / name, content)
        assert load_qrels(tmp_path / name) == expected, name
        with pytest.raises(ValueError, match="no split 'dev'"):
            load_qrels(tmp_path / name, "dev")
    assert as_qrels(tmp_path / "qrels.trec.gz") == expected
    assert load_qrels(expected) == load_qrels(Dataset.from_list(QRELS)) == expected
    pairs = Dataset.from_dict({"query_id": ["q1"], "pos_ids": [["01"]]})
    assert load_qrels(pairs) == {"q1": {"01": 1}}
    write(tmp_path / "own.csv", b"q,paper,rating\nq1,01,0.5\nq1,02,0\n")
    by_hand = {"query_id": "q", "passage_id": "paper", "score": "rating"}
    assert load_qrels(tmp_path / "own.csv", columns=by_hand) == expected
    with pytest.raises(ValueError, match="no column for the query_id.*--qrels_columns"):
        load_qrels(tmp_path / "own.csv")
    with pytest.raises(FileNotFoundError):
        load_qrels("none.txt")


def test_a_packed_run_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.run.gz", b"q Q0 d 1 0.5 tag\n")
    assert read_run(tmp_path / "a.run.gz") == {"q": {"d": 0.5}}


@pytest.mark.parametrize("load", [load_rows, load_corpus])
def test_a_misspelt_path_is_said_to_be_none_where_the_hub_is_away(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("couldn't reach it")

    monkeypatch.setattr("rir_hf.hub.calls.TRIES", 1)
    monkeypatch.setattr("datasets.get_dataset_config_names", away)
    monkeypatch.setattr("rir_hf.hub.pull.pull", away)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", away)
    with pytest.raises(ConnectionError, match="nothere is no file or folder here, and the Hub"):
        load("nothere")
