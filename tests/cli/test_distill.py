"""`rir-hf distill`, which takes the options of the seed's script and files as it does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rir_hf.cli.main import main
from tests.cli.conftest import read_lines, write_lines
from tests.openai_server import OpenAIServer, Reply, completion, failure, late


@pytest.fixture
def data(collection: Path, tmp_path: Path) -> Path:
    """Two datasets of eight rows."""
    pairs = read_lines(collection / "pairs.jsonl")
    texts = [pair["passage"] for pair in pairs]
    rows = [
        {"query": pair["query"], "pos": [texts[place]], "neg": texts[place + 1 : place + 5]}
        for place, pair in enumerate(pairs[:16])
    ]
    for name, part in (("first", rows[:8]), ("second", rows[8:])):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_lines(tmp_path / "data" / name / "train.jsonl", part)
    return tmp_path / "data"


def distill(server: OpenAIServer, *options: object) -> None:
    """A run that succeeds, with a judge behind a server."""
    model = ["--generate_model_path", "judge", "--model_type", "gpt", "--base_url", server.base_url]
    assert main(["distill", *model, "--api_key", "none", *map(str, options)]) == 0


def judge(_: dict[str, Any], __: int) -> Reply:
    return completion("[1] > [3] > [2] > [4] > [5]")


def test_every_dataset_is_scored_and_nothing_asked_twice(data: Path, tmp_path: Path) -> None:
    before = {name: read_lines(data / name / "train.jsonl") for name in ("first", "second")}
    with OpenAIServer(judge) as server:
        distill(server, "--dataset_path", data, "--output_dir", tmp_path / "out")
        for name, rows in before.items():
            assert read_lines(data / name / "train.jsonl") == rows
            scored = read_lines(tmp_path / "out" / name / "train.jsonl")
            assert [{key: row[key] for key in rows[0]} for row in scored] == rows
            assert {(len(row["pos_scores"]), len(row["neg_scores"])) for row in scored} == {(1, 4)}
        assert len(server.requests) == 16
        assert {request.body["temperature"] for request in server.requests} == {0.2}
        distill(server, "--dataset_path", data, "--dataset_name", "first")
        distill(server, "--dataset_path", data / "first")
        assert len(server.requests) == 16
        assert read_lines(data / "first" / "train.jsonl") == read_lines(
            tmp_path / "out" / "first" / "train.jsonl"
        )
        assert read_lines(data / "second" / "train.jsonl") == before["second"]
        distill(server, "--dataset_path", data / "first", "--overwrite")
        assert len(server.requests) == 24


def test_in_place_nothing_else_changes(data: Path, tmp_path: Path) -> None:
    row = read_lines(data / "first" / "train.jsonl")[0]
    more = {"date": "2024-01-31", "weight": 0.1234567890123456789, "big": 2**60, "half": "\ud83d"}
    file = tmp_path / "store" / "rows.jsonl"
    file.parent.mkdir()
    write_lines(file, [{**row, **more, "tags": [1, "a"]}, {**row, "query": "Why \ud83d?"}])
    file.chmod(0o640)
    link = data / "linked" / "train.jsonl"
    link.parent.mkdir()
    link.symlink_to(file)
    with OpenAIServer(judge) as server:
        distill(server, "--dataset_path", data, "--dataset_name", "linked")
    first, second = read_lines(file)
    assert {name: first[name] for name in more} == more
    assert first["tags"] == [1, "a"]
    assert "tags" not in second
    assert second["query"] == "Why \ud83d?"
    assert len(second["neg_scores"]) == 4
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640


def test_rows_that_failed_are_asked_again(data: Path) -> None:
    file = data / "first" / "train.jsonl"
    refused = read_lines(file)[3]["query"]

    def refuse(body: dict[str, Any], tries: int) -> Reply:
        return failure(400) if refused in str(body["messages"]) else judge(body, tries)

    first = ["--dataset_path", data, "--dataset_name", "first", "--seed", 7]
    with OpenAIServer(refuse) as server:
        distill(server, *first)
        assert [row["query"] for row in read_lines(file) if row["teacher_error"]] == [refused]
        server.answer = judge
        asked = len(server.requests)
        distill(server, *first)
        assert len(server.requests) == asked + 1
    assert not [row for row in read_lines(file) if row["teacher_error"]]


def test_each_method_is_its_teacher(data: Path, tiny_lm: str, tmp_path: Path) -> None:
    for method in ("query_likelihood", "yes_no", "listwise_logits"):
        command = ["distill", "--dataset_path", data / "first", "--generate_model_path", tiny_lm]
        command += ["--method", method, "--max_passage_tokens", 20]
        command += ["--output_dir", tmp_path / method]
        assert main(list(map(str, command))) == 0
        assert len(read_lines(tmp_path / method / "first" / "train.jsonl")[0]["neg_scores"]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset_name", "third"], "no train.jsonl in"),
        (["--base_url", "http://localhost"], "--base_url goes with --model_type gpt"),
        (["--window", "4", "--step", "5"], "step between 1 and window"),
    ],
)
def test_what_cannot_be_done_is_said_first(
    options: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", "--dataset_path", str(data), "--generate_model_path", "some/model"]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_line_that_is_no_row_is_named(
    data: Path, tiny_lm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data / "first" / "train.jsonl"
    file.write_text(file.read_text() + "[1\n")
    command = ["distill", "--dataset_path", str(data), "--generate_model_path", tiny_lm]
    assert main([*command, "--dataset_name", "first"]) == 2
    assert "train.jsonl, line 9: no JSON" in capsys.readouterr().err


def test_what_is_wrong_with_the_last_file_is_said_before_the_first_is_scored(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (data / "first" / "train.jsonl").read_bytes()
    file = data / "second" / "train.jsonl"
    whole = file.read_text()
    command = ["distill", "--dataset_path", str(data), "--generate_model_path", "judge"]
    command += ["--model_type", "gpt", "--api_key", "none"]
    with OpenAIServer(judge) as server:
        for content, message in (
            (whole + "[1\n", "second/train.jsonl, line 9: no JSON"),
            (whole.replace('"query"', '"question"'), "second/train.jsonl: ScorePassages needs the"),
        ):
            file.write_text(content)
            assert main([*command, "--base_url", server.base_url]) == 2
            assert message in capsys.readouterr().err.splitlines()[-1]
        assert not server.requests
    assert (data / "first" / "train.jsonl").read_bytes() == before


def test_a_killed_run_leaves_the_file_as_it_was(data: Path) -> None:
    asked = threading.Event()

    def hang(_: dict[str, Any], __: int) -> Reply:
        asked.set()
        return late(60, completion("[1]"))

    path = data / "first" / "train.jsonl"
    before = path.read_bytes()
    with OpenAIServer(hang) as server:
        command = [sys.executable, "-m", "rir_hf.cli.main", "distill", "--dataset_path", str(data)]
        command += ["--dataset_name", "first", "--base_url", server.base_url, "--api_key", "none"]
        command += ["--model_type", "gpt", "--generate_model_path", "any"]
        running = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL)
        assert asked.wait(120)
        running.kill()
        running.wait()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["train.jsonl"]
