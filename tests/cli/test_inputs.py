"""A command reads columns under whatever names, and so many rows as asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import load_from_disk

from rir_hf import load_corpus
from rir_hf.cli.main import main


def write(folder: Path) -> None:
    """Tables whose columns bear names that nobody could guess."""
    (folder / "docs.csv").write_text("nr,abstract\n007,cats purr\n008,dogs bark\n009,cats sleep\n")
    (folder / "pairs.csv").write_text("nr,claim,proof\n1,do cats purr,007\n2,do dogs bark,008\n")
    (folder / "qrels.csv").write_text("claim,doc,rating\n1,007,1\n2,008,1\n")


def test_own_names_of_columns_and_a_limit_reach_the_negatives(tmp_path: Path) -> None:
    write(tmp_path)
    command = [
        *(
            "mine",
            "--corpus",
            tmp_path / "docs.csv",
            "--corpus_columns",
            "{id: nr, text: abstract}",
        ),
        *("--pairs", tmp_path / "pairs.csv"),
        *("--pairs_columns", "{query_id: nr, query: claim, pos_ids: proof}"),
        *("--qrels", tmp_path / "qrels.csv"),
        *("--qrels_columns", "{query_id: claim, passage_id: doc, score: rating}"),
        *("--index", "bm25", "--num_negatives", 1, "--relative_margin", 0, "--limit", 1),
        *("--output", tmp_path / "mined"),
    ]
    assert main([*map(str, command)]) == 0
    [row] = load_from_disk(tmp_path / "mined").to_list()
    assert (row["query_id"], row["pos"], row["neg_ids"]) == ("1", ["cats purr"], ["009"])


def test_search_and_evaluate_read_queries_and_judgements_with_own_names(tmp_path: Path) -> None:
    write(tmp_path)
    inputs = [
        *("--corpus", tmp_path / "docs.csv", "--corpus_columns", "{id: nr, text: abstract}"),
        *("--queries", tmp_path / "pairs.csv", "--queries_columns", "{query_id: nr, query: claim}"),
    ]
    found = ["--index", "bm25", "--output", tmp_path / "found", "--limit", 1]
    assert main([*map(str, ["search", *inputs, *found])]) == 0
    assert load_from_disk(tmp_path / "found")["hit_ids"][0][0] == "007"
    judged = [
        *("--qrels", tmp_path / "qrels.csv"),
        *("--qrels_columns", "{query_id: claim, passage_id: doc, score: rating}"),
        *("--index", "bm25", "--measures", "RR@10", "--json", tmp_path / "measures.json"),
    ]
    assert main([*map(str, ["evaluate", *inputs, *judged])]) == 0
    assert json.loads((tmp_path / "measures.json").read_text()) == {"RR@10": 1.0}


def test_what_is_not_recognised_names_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    command = ["search", "--corpus", tmp_path / "docs.csv", "--queries", tmp_path / "pairs.csv"]
    command += ["--index", "bm25", "--output", tmp_path / "found"]
    assert main([*map(str, command)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # of both inputs at once
    assert "--corpus_columns '{text: NAME}'" in said
    assert "--queries_columns '{query: NAME}'" in said
    wrong = ["--corpus_columns", "{text: abstrakt}", "--queries_columns", "{querry: claim}"]
    assert main([*map(str, [*command, *wrong])]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--corpus_columns): " + f"{tmp_path / 'docs.csv'} has no column 'abstrakt'" in said
    assert "--queries_columns): there is no 'querry', only query_id, query" in said
    command += [
        "--corpus_columns",
        "{id: nr, text: abstract}",
        "--queries_columns",
        "{query: claim}",
    ]
    assert main([*map(str, [*command, "--split", "nope"])]) == 2
    assert "has no split 'nope'" in capsys.readouterr().err.splitlines()[-1]


def test_boost_judges_by_columns_of_other_names(
    collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"number": f"q{place}", "claim": f"claim {place}"} for place in range(12)]
    ids = load_corpus(collection)["id"][:]
    lines = [json.dumps({**row, "paper": ids[place % len(ids)]}) for place, row in enumerate(rows)]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    command = ["boost", "--corpus", str(collection), "--retriever", minilm, "--dry_run"]
    command += ["--output", str(tmp_path / "run"), "--test", str(tmp_path / "test.jsonl")]
    assert main(command) == 2
    assert "--judged_columns" in capsys.readouterr().err
    names = "{query: claim, query_id: number, pos_ids: paper}"
    assert main([*command, "--judged_columns", names]) == 0
    assert "and last on 12 queries" in capsys.readouterr().out
    assert main([*command, "--generator", "./none"]) == 2
    assert "boost: --generator ./none" in capsys.readouterr().err


def test_split_reads_queries_alone_under_another_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = [f"claim {number} {'abcdefghij'[number] * 9}" for number in range(10)]
    (tmp_path / "claims.csv").write_text("\n".join(["claim", *claims]))
    command = ["split", "--rows", tmp_path / "claims.csv", "--shares", "{a: 0.5, b: 0.5}"]
    assert main(list(map(str, [*command, "--output", tmp_path / "out"]))) == 2
    assert "--pairs_columns '{query: NAME}'" in capsys.readouterr().err
    command += ["--pairs_columns", "{query: claim}", "--output", tmp_path / "out"]
    assert main(list(map(str, command))) == 0
    parts = load_from_disk(tmp_path / "out")
    assert sorted(parts["a"]["query"][:] + parts["b"]["query"][:]) == claims
