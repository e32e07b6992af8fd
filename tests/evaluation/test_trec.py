"""Files come back as they were written, and bad ones are named by file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytrec_eval
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rir_hf import evaluate, read_qrels, read_run, write_qrels, write_run
from tests.evaluation.plain import ranking

letters = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
names = letters.filter(lambda name: name == "".join(name.split()) and name[0] != "\ufeff")
scores = st.floats(allow_nan=False) | st.sampled_from([0.5, 0.5 + 1e-10, -1.0])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trec") / "file.txt"


@settings(max_examples=40)
@given(run=st.dictionaries(names, st.dictionaries(names, scores, min_size=1), max_size=4))
def test_a_written_run_is_read_back_exactly_and_ranked_as_trec_eval_ranks(
    file: Path, run: dict[str, dict[str, float]]
) -> None:
    write_run(run, file)
    assert read_run(file) == run
    lines = [line.split() for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    for query, hits in run.items():
        written = [fields for fields in lines if fields[0] == query]
        assert [fields[2] for fields in written] == ranking(hits)
        assert [int(fields[3]) for fields in written] == list(range(1, len(hits) + 1))
    assert {(fields[1], fields[5]) for fields in lines} <= {("Q0", "rir_hf")}


@settings(max_examples=40)
@given(
    qrels=st.dictionaries(names, st.dictionaries(names, st.integers(-1, 9), min_size=1), max_size=4)
)
def test_written_judgements_are_read_back_exactly_and_by_pytrec_eval(
    file: Path, qrels: dict[str, dict[str, int]]
) -> None:
    write_qrels(qrels, file)
    assert read_qrels(file) == qrels
    with file.open(encoding="utf-8") as lines:
        assert pytrec_eval.parse_qrel(lines) == qrels


def test_a_written_run_has_the_same_measures_when_pytrec_eval_reads_it(file: Path) -> None:
    run = {"q": {"10": 0.5, "9": 0.5 + 1e-10, "11": 0.75}, "r": {"9": -1.0}}
    qrels = {"q": {"9": 1, "10": 2}, "r": {"9": 1}}
    write_run(run, file)
    with file.open(encoding="utf-8") as lines:
        parsed = pytrec_eval.parse_run(lines)
    assert evaluate(parsed, qrels) == evaluate(run, qrels)


def test_fractional_judgements_are_written_and_read(file: Path) -> None:
    qrels = {"q": {"a": 0.5, "b": 2.0, "c": 1 / 3}}
    write_qrels(qrels, file)
    assert file.read_text().splitlines()[:2] == ["q 0 a 0.5", "q 0 b 2"]
    assert read_qrels(file) == qrels
    assert type(read_qrels(file)["q"]["b"]) is int


def test_a_dataset_of_hits_is_written_without_padding_and_repeats(file: Path) -> None:
    columns = {"query_id": [7], "hit_ids": [[3, -1, 10, 3]], "hit_scores": [[0.5, 9.0, 0.75, 1.5]]}
    write_run(Dataset.from_dict(columns), file, tag="mine")
    assert file.read_text(encoding="utf-8") == "7 Q0 3 1 1.5 mine\n7 Q0 10 2 0.75 mine\n"


@pytest.mark.parametrize(("mark", "ending"), [(b"", b"\n"), (b"\xef\xbb\xbf", b"\r\n")])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(
    file: Path, mark: bytes, ending: bytes
) -> None:
    def write(*lines: bytes) -> Path:
        file.write_bytes(mark + ending.join(lines))
        return file

    expected = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    judged = [b"q1\td1\t2", b"q1\td2\t0", b"", b"q2\td1\t1.0"]
    assert read_qrels(write(b"query-id\tcorpus-id\tscore", *judged)) == expected
    assert read_qrels(write(*judged)) == expected
    assert read_qrels(write(b"q1 0 d1 2", b"", b"q1 0 d2 0", b"q2\t0\td1\t1")) == expected
    assert read_run(write(b"q1 Q0 d1 1 0.5 tag", b"")) == {"q1": {"d1": 0.5}}


def test_ids_separated_by_tabs_may_contain_spaces(file: Path) -> None:
    file.write_text("query-id\tcorpus-id\tscore\nq 1\td\t1\n", encoding="utf-8")
    assert read_qrels(file) == {"q 1": {"d": 1}}


def test_a_malformed_line_is_named_by_file_and_line(file: Path) -> None:
    judgements = {
        "q2 d1": "expected 3 (BEIR) or 4 (TREC) fields, found 2: 'q2 d1",
        "q2 0 d1 1 more": "expected 3 (BEIR) or 4 (TREC) fields, found 5: 'q2 0 d1 1 more",
        "q2 0 d1 high": "expected a number, found 'high'",
        "query-id\tcorpus-id\tscore": "expected a number, found 'score'",
        "q2 0 d1 nan": "expected a finite number, found 'nan'",
    }
    hits = {
        "q2 Q0 d1 1 0.5": "expected 6 fields, found 5: 'q2 Q0 d1 1 0.5",
        "q2 Q0 d1 1 high tag": "expected a number, found 'high'",
        "q1 Q0 d1 2 0.25 tag": "the passage 'd1' comes twice for the query 'q1'",
    }
    cases = [(read_qrels, "q1 0 d1 1", *case) for case in judgements.items()]
    cases += [(read_run, "q1 Q0 d1 1 0.5 tag", *case) for case in hits.items()]
    for read, good, line, complaint in cases:
        file.write_text(f"{good}\n\n{line}\n{good}\n", encoding="utf-8")
        with pytest.raises(ValueError, match="^" + re.escape(f"{file}, line 3: {complaint}")):
            read(file)


@pytest.mark.parametrize("name", ["", "a\u00a0b", "\na", "\ufeffa"])
def test_an_id_that_a_file_cannot_hold_is_refused_on_writing(tmp_path: Path, name: str) -> None:
    complaint = re.escape(f"cannot hold the id {name!r}")
    for query, passage in ((name, "d"), ("q", name)):
        with pytest.raises(ValueError, match=complaint):
            write_run({query: {passage: 1.0}}, tmp_path / "run")
        with pytest.raises(ValueError, match=complaint):
            write_qrels({query: {passage: 1}}, tmp_path / "qrels")
    with pytest.raises(ValueError, match=complaint):
        write_run({"q": {"d": 1.0}}, tmp_path / "run", tag=name)
    assert not list(tmp_path.iterdir())
