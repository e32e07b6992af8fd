"""Loading: every kind of source gives the same rows, and a source that cannot be read says why."""

from __future__ import annotations

import gzip
import json
import logging
import re
import sys
from pathlib import Path

import pytest
import zstandard
from datasets import Dataset, DatasetDict

from rir_hf import load_corpus, load_pairs, load_qrels, load_queries, load_rows, stream_pairs
from tests.hub_server import HubServer

PASSAGES = [
    {"_id": "p1", "title": "Cats", "text": "They purr."},
    {"_id": "p2", "title": "", "text": "Dogs bark."},
]
KINDS = ["jsonl", "json", "parquet", "csv", "tsv", "saved", "saved splits", "folder"]
PLAIN = ["jsonl", "json", "parquet", "csv", "tsv"]
PACKED = [f"{kind}.{packing}" for kind in PLAIN for packing in ("gz", "zst")]
KINDS += PACKED


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
        {"id": "p1", "title": "Cats", "text": "Cats They purr."},
        {"id": "p2", "title": "", "text": "Dogs bark."},
    ]
    assert load_pairs(beir, "test").to_list() == [
        {"query_id": "q1", "query": "query q1", "pos_ids": ["p2", "p1"]}
    ]
    assert load_corpus(beir, limit=1)["id"][:] == ["p1"]
    assert load_queries(beir)["query_id"][:] == ["q1", "q2"]  # those judged in the split
    assert load_queries(beir / "queries.jsonl")["query_id"][:] == ["q1", "q2", "q3"]
    with pytest.raises(ValueError, match=r"split 'train', only \['test'\].*queries.jsonl for all"):
        load_queries(beir, "train")
    assert load_qrels(beir, "test") == {"q1": {"p2": 1, "p1": 2}, "q2": {"p1": 0}}
    with pytest.raises(ValueError, match=r"no judgements for the split 'train', only \['test'\]"):
        load_pairs(beir, "train")
    with pytest.raises(ValueError, match="is in BEIR's layout"):
        stream_pairs(beir)


def write(rows: Dataset, kind: str, source: Path) -> None:
    """Write the rows as this kind of source."""
    kind, _, packing = kind.partition(".")
    target, source = source, source.with_name("plain") if packing else source
    if kind in ("jsonl", "json"):
        rows.to_json(source, lines=kind == "jsonl")
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
    if packing:
        pack = gzip.compress if packing == "gz" else zstandard.compress
        target.write_bytes(pack(source.read_bytes()))


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
    assert load_pairs(source, "train", limit=1).to_list() == expected[:1]
    for load in (load_pairs, stream_pairs):
        with pytest.raises(ValueError, match=r"no split 'dev', only \["):
            load(source, "dev")


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_file_that_is_cut_off_is_named(kind: str, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"question": [f"who? {row**9}" for row in range(200)]})
    source = tmp_path / f"rows.{kind}"
    write(rows, kind, source)
    source.write_bytes(source.read_bytes()[:-9])
    with pytest.raises(ValueError, match=re.escape(str(source))):
        load_queries(source)


def test_a_stream_too_is_read_from_whole_files_alone(tmp_path: Path) -> None:
    pairs = Dataset.from_dict({"question": ["who?", "what?"], "positive": ["he", "it"]})
    write(pairs, "jsonl.zst", tmp_path / "rows.jsonl.zst")
    packed = (tmp_path / "rows.jsonl.zst").read_bytes()
    (tmp_path / "rows.jsonl.zst").write_bytes(packed + packed[:-5])
    with pytest.raises(ValueError, match=r"rows\.jsonl\.zst is cut off"):
        stream_pairs(tmp_path / "rows.jsonl.zst")


@pytest.mark.parametrize("line", ["1,a,", "1,Hello, world"])
def test_a_line_with_more_fields_than_the_header_is_an_error(line: str, tmp_path: Path) -> None:
    (tmp_path / "first.csv").write_text(f"id,text\n{line}\n2,b\n")
    (tmp_path / "later.csv").write_text(f"id,text\n2,b\n{line}\n")
    for name in ("first.csv", "later.csv"):
        with pytest.raises(ValueError, match=rf"{name}.*[Ff]ields"):
            load_corpus(tmp_path / name)


def test_a_file_of_columns_in_place_of_rows_is_an_error(tmp_path: Path) -> None:
    for number, columns in enumerate(({"0": "a", "1": "b"}, ["a", "b"])):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps({"id": columns, "text": columns}))
        for load in (load_corpus, load_queries):
            with pytest.raises(ValueError, match=r"column '\w+' holds .* in place of texts"):
                load(file)


def test_what_has_no_rows_or_ids_of_two_types_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the dataset has no rows"):
        load_corpus(Dataset.from_dict({"id": [], "text": []}))
    (tmp_path / "mixed.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": 1, "text": "y"}\n')
    with pytest.raises(ValueError, match=r"mixed.jsonl: column 'id' holds numbers in some rows"):
        load_corpus(tmp_path / "mixed.jsonl")
    numbers = "\n".join(map(str, range(10_001)))
    (tmp_path / "mixed.csv").write_text(f"number\n{numbers}\nx\n")
    with pytest.raises(ValueError, match=r"mixed.csv cannot be read: .* numbers and texts, write"):
        load_rows(tmp_path / "mixed.csv")


def test_nothing_is_written_beside_rows_that_were_saved(tmp_path: Path) -> None:
    corpus = Dataset.from_dict({"id": [7, 8, 8], "text": ["a", "b", "b"]})
    corpus.save_to_disk(tmp_path / "corpus")
    pairs = Dataset.from_dict({"query_id": [1, 2], "query": ["x", "y"], "pos_ids": ["7", "8"]})
    pairs.save_to_disk(tmp_path / "pairs")
    before = sorted(tmp_path.rglob("*"))
    assert load_corpus(tmp_path / "corpus")["id"][:] == ["7", "8"]
    assert load_queries(tmp_path / "pairs")["query_id"][:] == ["1", "2"]
    assert load_pairs(tmp_path / "pairs")["pos_ids"][:] == [["7"], ["8"]]
    assert sorted(tmp_path.rglob("*")) == before


def test_each_query_has_an_id() -> None:
    rows = Dataset.from_dict({"query_id": ["a", None], "query": ["x", "y"]})
    with pytest.raises(ValueError, match=r"row 1 has no id"):
        load_queries(rows)


def test_a_corpus_without_ids_is_numbered_and_integers_become_strings(tmp_path: Path) -> None:
    Dataset.from_dict({"passage": ["a", "b"]}).to_json(tmp_path / "texts.jsonl")
    assert load_corpus(tmp_path / "texts.jsonl")["id"][:] == ["0", "1"]
    Dataset.from_dict({"docid": [7, 8], "contents": ["a", None]}).to_json(tmp_path / "some.jsonl")
    assert load_corpus(tmp_path / "some.jsonl").to_list() == [
        {"id": "7", "text": "a"},
        {"id": "8", "text": ""},
    ]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_csv_with_other_marks_between_its_fields_is_read(mark: str, tmp_path: Path) -> None:
    lines = [["id", "text"], ["1", "cats, and dogs"], ["2", "a;b" if mark == "\t" else "owls"]]
    (tmp_path / "rows.csv").write_text("\n".join(mark.join(fields) for fields in lines) + "\n")
    assert load_corpus(tmp_path / "rows.csv")["text"][:] == [lines[1][1], lines[2][1]]


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
    no_text = r"no column for the text .* among \['x'\].*--corpus_columns '{text: NAME}'"
    with pytest.raises(ValueError, match=no_text):
        load_corpus(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="no column for the query"):
        load_pairs(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="cannot read files ending in '.txt'"):
        load_rows(tmp_path / "x.txt")
    with pytest.raises(ValueError, match=r"no split 'train', only \['dev'\]"):
        load_rows(tmp_path / "splits", "train")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_rows(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_rows("my/own/rows")  # no name on the Hub


def test_a_file_without_rows_or_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "header.csv").write_text("id,text\n")
    for name in ("empty.jsonl is empty", "header.csv has no rows"):
        with pytest.raises(ValueError, match=name):
            load_rows(tmp_path / name.split()[0])


def test_a_packed_file_that_changed_is_read_anew_and_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("a", "other"):
        write(Dataset.from_dict({"text": [text]}), "parquet.gz", tmp_path / "x.parquet.gz")
        assert load_rows(tmp_path / "x.parquet.gz")["text"][:] == [text]
    write(Dataset.from_dict({"text": ["a"]}), "jsonl.zst", tmp_path / "x.jsonl.zst")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ImportError, match=r"x.jsonl.zst is packed .* \"rir-hf\[zstd\]\""):
        load_rows(tmp_path / "x.jsonl.zst")


def test_quotation_marks_between_tabs_are_characters_where_a_line_leaves_one_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "bare.tsv"
    file.write_text('id\ttext\n1\t"Hamlet\n2\tthe "Globe"\n3\t"All" is well\n4\tend"\n')
    texts = ['"Hamlet', 'the "Globe"', '"All" is well', 'end"']
    assert load_corpus(file)["text"][:] == texts
    assert "bare.tsv: quotation marks are characters" in caplog.text
    assert load_rows(tmp_path)["text"][:] == texts
    caplog.clear()
    quoted = Dataset.from_dict(
        {"id": ["1", "2"], "text": ['"Hamlet', 'two\nlines, "more"\tin tabs\n']}
    )
    for kind in ("tsv", "csv"):
        write(quoted, kind, tmp_path / f"quoted.{kind}")
        assert load_corpus(tmp_path / f"quoted.{kind}").to_list() == quoted.to_list()
    one = Dataset.from_dict({"text": ["two\nlines", "one"]})
    write(one, "tsv", tmp_path / "one.tsv")
    assert load_rows(tmp_path / "one.tsv").to_list() == one.to_list()
    assert "characters" not in caplog.text
    (tmp_path / "both.tsv").write_text('id\ttext\n1\t"Hamlet\n2\tGlobe"\n')
    with pytest.raises(ValueError, match=r"both\.tsv can be read in two ways"):
        load_rows(tmp_path / "both.tsv")


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.json"])
def test_a_byte_order_mark_never_reaches_an_id(name: str, tmp_path: Path) -> None:
    row = {"id": "007", "text": "a"}
    content = {
        "x.csv": "id,text\n007,a\n",
        "x.tsv": "id\ttext\n007\ta\n",
        "x.jsonl": json.dumps(row) + "\n",
        "x.json": json.dumps([row]),
    }
    (tmp_path / name).write_text(content[name], encoding="utf-8-sig")
    assert load_corpus(tmp_path / name).to_list() == [row]


def test_columns_with_names_of_the_field_are_found_and_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "docs.csv").write_text("DocNo,Title,body,year\n007,Cats,Purr.,1999\n")
    with caplog.at_level(logging.INFO, "rir_hf"):
        corpus = load_corpus(tmp_path / "docs.csv")
    assert corpus.to_list() == [{"id": "007", "title": "Cats", "text": "Cats Purr."}]
    [line] = caplog.messages
    assert line.endswith("corpus: id is 'DocNo', text is 'body', title is 'Title'.")

    (tmp_path / "queries.csv").write_text("qid,question\n01,why?\n")
    assert load_queries(tmp_path / "queries.csv").to_list() == [{"query_id": "01", "query": "why?"}]
    (tmp_path / "pairs.csv").write_text("query-id,anchor,answer_passage\n01,why?,so\n")
    assert load_pairs(tmp_path / "pairs.csv").to_list() == [
        {"query_id": "01", "query": "why?", "passage": "so"}
    ]


def test_columns_are_set_by_hand_and_then_hold_texts(tmp_path: Path) -> None:
    (tmp_path / "docs.csv").write_text("number,doc_id,abstract\n007,a,Purr.\n")
    by_hand = {"id": "number", "text": "abstract"}
    assert load_corpus(tmp_path / "docs.csv", columns=by_hand).to_list() == [
        {"id": "007", "text": "Purr."}
    ]
    write_lines(tmp_path / "pairs.jsonl", [{"query": "x", "claim": "c", "proof": ["a", "b"]}])
    by_hand = {"query": "claim", "positive": "proof"}
    expected = [{"query": "c", "pos": ["a", "b"]}]
    assert load_pairs(tmp_path / "pairs.jsonl", columns=by_hand).to_list() == expected
    assert list(stream_pairs(tmp_path / "pairs.jsonl", columns=by_hand)) == expected
    assert load_queries(tmp_path / "pairs.jsonl", columns={"query": "claim"})["query"][:] == ["c"]
    with pytest.raises(ValueError, match=r"there is no 'key', only id, text, title"):
        load_corpus(tmp_path / "docs.csv", columns={"key": "number"})
    with pytest.raises(ValueError, match=r"no column 'nr' for the id, only \['number', 'doc_id'"):
        load_corpus(tmp_path / "docs.csv", columns={"id": "nr"})


def test_two_columns_for_one_role_are_named_with_the_option(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", [{"id": "1", "doc_id": "a", "text": "x"}])
    with pytest.raises(ValueError, match=r"'id' and 'doc_id' may each be the id.*--corpus_columns"):
        load_corpus(tmp_path / "x.jsonl")
    assert load_corpus(tmp_path / "x.jsonl", columns={"id": "doc_id"})["id"][:] == ["a"]
    write_lines(tmp_path / "y.jsonl", [{"query": "q", "pos": ["a"], "positive": "b"}])
    with pytest.raises(ValueError, match="'pos' and 'positive' may each be the positive"):
        load_pairs(tmp_path / "y.jsonl")


def test_row_numbers_in_place_of_ids_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lines(tmp_path / "x.jsonl", [{"text": "a", "number": 7}])
    assert load_corpus(tmp_path / "x.jsonl")["id"][:] == ["0"]
    assert "no column of ids among ['text', 'number']" in caplog.text


def test_one_id_stands_for_one_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_lines(tmp_path / "x.jsonl", [{"id": "a", "text": "one"}, {"id": "a", "text": "two"}])
    with pytest.raises(ValueError, match="rows 0 and 1 have the id 'a' and different texts"):
        load_corpus(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="'a' stands for 'one' and 'two'"):
        load_queries(tmp_path / "x.jsonl")
    rows = [{"id": "a", "text": "one"}, {"id": "b", "text": "one"}, {"id": "a", "text": "one"}]
    write_lines(tmp_path / "y.jsonl", rows)
    assert load_corpus(tmp_path / "y.jsonl").to_list() == rows[:2]
    assert "1 rows repeat another" in caplog.text
    write_lines(tmp_path / "z.jsonl", [{"id": "a", "text": "one"}, {"id": None, "text": "two"}])
    with pytest.raises(ValueError, match="row 1 has no id"):
        load_corpus(tmp_path / "z.jsonl")


def test_positives_in_lists_and_as_single_values_are_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "lists.jsonl", [{"query": "q", "positive": ["a", "b"]}])
    assert load_pairs(tmp_path / "lists.jsonl").to_list() == [{"query": "q", "pos": ["a", "b"]}]
    (tmp_path / "single.csv").write_text("query,pos,pos_ids\nq,a,01\nr,,02\n")
    expected = [
        {"query": "q", "pos": ["a"], "pos_ids": ["01"]},
        {"query": "r", "pos": None, "pos_ids": ["02"]},
    ]
    assert load_pairs(tmp_path / "single.csv").to_list() == expected
    assert list(stream_pairs(tmp_path / "single.csv")) == expected


def test_a_corpus_that_was_loaded_before_does_not_get_its_titles_twice(tmp_path: Path) -> None:
    write_lines(tmp_path / "corpus.jsonl", [*PASSAGES, {"_id": "p3", "title": " A ", "text": ""}])
    corpus = load_corpus(tmp_path / "corpus.jsonl")
    corpus.to_json(tmp_path / "again.jsonl")
    assert load_corpus(tmp_path / "again.jsonl").to_list() == corpus.to_list()


def test_a_folder_of_csv_files_keeps_leading_zeros(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"id,text\n007,{split}\n")
    assert load_corpus(tmp_path, "test").to_list() == [{"id": "007", "text": "test"}]


def test_a_dataset_is_taken_as_it_is_and_what_is_none_is_named() -> None:
    rows = Dataset.from_dict({"doc_id": ["a"], "contents": ["A text."]})
    assert load_corpus(rows).to_list() == [{"id": "a", "text": "A text."}]
    asked = Dataset.from_dict({"qid": [1], "question": ["Why?"], "positive": ["So."]})
    assert load_queries(asked)[0]["query_id"] == "1"
    assert load_pairs(asked).select_columns(["query", "passage"]).to_list() == [
        {"query": "Why?", "passage": "So."}
    ]
    with pytest.raises(ValueError, match="has no splits, got split='dev'"):
        load_corpus(rows, "dev")
    with pytest.raises(TypeError, match="A source is a path, a Hub name or a Dataset, got list"):
        load_corpus([{"id": "a"}])  # type: ignore[arg-type]  # what a user may try


def test_a_file_has_the_same_fingerprint_however_it_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    write_lines(tmp_path / "a" / "rows.jsonl", PASSAGES)
    names = ["a/rows.jsonl", "b/../a/rows.jsonl"]
    found = {load_rows(tmp_path / name)._fingerprint for name in names}
    found |= {
        load_rows(tmp_path / "b" / "../a")._fingerprint,
        load_rows(tmp_path / "a")._fingerprint,
    }
    assert len(found) == 2  # the file, and the folder of files


def test_a_collection_is_not_taken_for_rows(beir: Path) -> None:
    with pytest.raises(ValueError, match="holds a corpus, queries and qrels: name the file"):
        load_rows(beir)


def test_a_folder_of_files_with_other_columns_says_how_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "queries").mkdir()
    (tmp_path / "corpus" / "test.jsonl").write_text('{"_id": "a", "text": "A text."}\n')
    (tmp_path / "queries" / "test.jsonl").write_text('{"qid": 1, "question": ["Why?"]}\n')
    with pytest.raises(ValueError, match="is read by load_corpus, load_queries"):
        load_rows(tmp_path)


def test_a_name_that_is_no_folder_and_no_dataset_is_said_to_be_neither(hub: HubServer) -> None:
    for load in (load_rows, load_corpus):
        with pytest.raises(FileNotFoundError, match="typo is no file or folder here, and no data"):
            load("typo")


def test_pairs_without_ids_are_judged_by_the_numbers_of_their_rows(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "a", "pos_ids": ["x"]}\n{"query": "b", "pos_ids": ["y"]}\n')
    assert load_qrels(pairs) == {"0": {"x": 1}, "1": {"y": 1}}
    assert load_queries(pairs)["query_id"][:] == ["0", "1"]
    pairs.write_text('{"query": "a", "passage": "A text."}\n')
    with pytest.raises(ValueError, match="judgements need the ids of the relevant passages"):
        load_qrels(pairs)


def test_the_format_of_a_dataset_does_not_get_into_its_ids() -> None:
    rows = Dataset.from_dict({"id": [1, 2], "text": ["one", "two"]})
    assert load_corpus(rows.with_format("torch"))["id"][:] == ["1", "2"]


def test_a_saved_dataset_without_rows_is_told(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"query": ["q"], "pos": [["p"]]})
    DatasetDict({"train": rows, "dev": rows.select([])}).save_to_disk(tmp_path / "parts")
    with pytest.raises(ValueError, match=r"parts cannot be read: a dataset or a split .* no row"):
        load_pairs(tmp_path / "parts", "train")


@pytest.mark.parametrize("names", [("support", "training"), ("tickets_2023", "tickets_test")])
def test_files_of_a_folder_that_would_be_left_out_are_told(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": name}))
    with pytest.raises(ValueError, match=rf"2 files, of which 1 would be left out, '{names[0]}"):
        load_corpus(tmp_path)
    (tmp_path / f"{names[1]}.jsonl").rename(tmp_path / "others.jsonl")
    assert len(load_corpus(tmp_path)) == 2
    (tmp_path / "more.csv").write_text("id,text\n1,one\n")
    with pytest.raises(ValueError, match="files of several kinds"):
        load_corpus(tmp_path)
