"""`rir-hf audit`: folders in, a table and the marked datasets out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import load_from_disk

from rir_hf.cli.main import main
from tests.cli.conftest import write_lines


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Three passages, two of them the same, and five queries in BEIR layout, one of no split."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = {"a": "Cats purr.", "b": "Dogs bark.", "c": "CATS purr."}
    write_lines(
        folder / "corpus.jsonl",
        [{"_id": id, "title": "", "text": text} for id, text in texts.items()],
    )
    queries = {
        "1": "Why do cats purr at night?",
        "2": "Why do dogs bark at the moon?",
        "3": "why do cats purr at night",
        "4": "What do dogs say?",
        "5": "Why do cats purr at night?",
    }
    write_lines(
        folder / "queries.jsonl", [{"_id": id, "text": text} for id, text in queries.items()]
    )
    for split, judged in {"train": ["1\ta", "2\tb"], "test": ["3\tc", "4\tb"]}.items():
        lines = "".join(f"{line}\t1\n" for line in judged)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    return folder


def audit(*arguments: object) -> int:
    return main(["audit", *map(str, arguments)])


def test_a_folder_in_beir_layout_is_audited_and_marked(
    beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--corpus", beir, "--train", beir, "--test", beir, "--output", tmp_path / "out"]
    assert audit(*given, "--json", tmp_path / "audit.json") == 0
    said = capsys.readouterr().out.splitlines()
    table = [" ".join(line.split()) for line in said]
    assert table[:4] == [
        "corpus",
        "rows 3",
        "duplicates: same_text 1",
        "duplicates: near_text 0",
    ]
    assert "in_train: near_query 1" in table
    place = said.index("test in train: near_query")
    assert said[place + 1 : place + 3] == [
        "  3: why do cats purr at night",
        "  1: Why do cats purr at night?",
    ]
    corpus = load_from_disk(tmp_path / "out" / "corpus")
    assert corpus["duplicate_of"][:] == [None, None, "a"]
    test = load_from_disk(tmp_path / "out" / "test")
    assert test["query_id"][:] == ["3", "4"]
    assert test["leak_train"][:] == ["near_query", "same_positive"]
    assert test["leak_train_of"][:] == ["1", "2"]
    train = load_from_disk(tmp_path / "out" / "train")
    assert train["leak_test_of"][:] == ["3", "4"]
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["test"]["in_train"] == {"same_query": 0, "near_query": 1, "same_positive": 1}
    assert len(written["examples"]) == 5
    assert audit(*given) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert audit(*given, "--overwrite", "--threshold", "null") == 0
    assert load_from_disk(tmp_path / "out" / "test")["leak_train"][:] == [None, "same_positive"]


def test_queries_without_positives_are_audited_and_judgements_are_not_guessed(
    beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(
        tmp_path / "queries.jsonl", [{"query_id": 7, "query": "why do DOGS bark at the moon?"}]
    )
    assert audit("--train", beir, "--test", tmp_path / "queries.jsonl", "--examples", 1) == 0
    said = capsys.readouterr().out
    assert "test in train: same_query\n  7: why do DOGS bark at the moon?\n  2: Why" in said
    assert audit("--train", beir, "--dev", beir) == 2
    assert "no judgements for the split 'dev', only ['test', 'train']" in capsys.readouterr().err
    assert audit("--train", beir, "--dev", beir, "--dev_split", "test", "--examples", 0) == 0
    assert "dev\n  rows                                      2\n" in capsys.readouterr().out


def test_nothing_to_compare_is_an_error_of_one_line(
    beir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit("--test", beir) == 2
    assert "an audit needs a corpus, or two of train, dev and test" in capsys.readouterr().err
