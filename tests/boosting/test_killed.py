"""A run that is killed with SIGKILL and started again, by the command line and with real models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk

from rir_hf import boost

ROUND = ("queries", "answers", "preferences", "tuned_answers", "negatives", "scored", "lists")


def command_for(folder: Path, minilm: str, smollm: tuple[Path, str]) -> list[str]:
    """A small run of `rir-hf boost` with all its stages."""
    options = {
        "corpus": folder / "corpus.jsonl",
        "pairs": folder / "pairs.jsonl",
        "retriever": minilm,
        "generator": smollm[0],
        "gguf_file": smollm[1],
        "kinds": "[question, sentence]",
        "passages": 4,
        "queries_per_passage": 1,
        "dev": folder / "dev.jsonl",
        "test": folder / "test.jsonl",
        "answers": 2,
        "answer_words": 6,
        "require_gain": "false",
        "candidates": 4,
        "max_steps": 3,
        "checkpoint_steps": 1,
        "training": "{batch_size: 2, train_length: 24, learning_rate: 1.0e-3}",
        "tuning": "{batch_size: 1, accumulate: 1, max_length: 128}",
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "rir_hf.cli.main", "boost", *given]


def start(command: list[str], output: Path, home: Path) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with a cache of its own."""
    environment = {**os.environ, "HF_HOME": str(home)}
    with output.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [*command, f"--output={output}"], env=environment, stdout=log, stderr=log
        )


def kill_when(process: subprocess.Popen[bytes], is_time: Callable[[], bool], log: Path) -> None:
    """End a process with SIGKILL as soon as something is there."""
    while process.poll() is None and not is_time():
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9, log.read_text()[-3000:]


def share_unpacked(home: Path) -> None:
    """Let a cache have the GGUF files that other tests have unpacked."""
    own, shared = home / "rir_hf", Path(os.environ["HF_HOME"]) / "rir_hf" / "gguf"
    own.mkdir(parents=True)
    shared.mkdir(parents=True, exist_ok=True)
    (own / "gguf").symlink_to(shared)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_datasets(
    minilm: str, smollm: tuple[Path, str], faq_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in faq_file.open()][:60]
    rows = [{**row, "a": row["a"][:300]} for row in rows]
    corpus = [{"id": row["id"], "text": row["a"]} for row in rows]
    pairs = [{"query_id": row["id"], "query": row["q"], "pos_ids": [row["id"]]} for row in rows]
    Dataset.from_list(corpus).to_json(tmp_path / "corpus.jsonl")
    for name, some in (("pairs", pairs[:4]), ("dev", pairs[20:30]), ("test", pairs[40:50])):
        Dataset.from_list(some).to_json(tmp_path / f"{name}.jsonl")
    command = command_for(tmp_path, minilm, smollm)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    log, home = killed.with_suffix(".log"), tmp_path / "home"
    for each in (home, tmp_path / "other"):
        share_unpacked(each)

    first = killed / "round-1"
    kill_when(start(command, killed, home), (first / "queries.json").exists, log)
    assert not (first / "answers.json").exists()

    def is_training() -> bool:
        return any(first.glob("retriever-*.part/checkpoint-1/trainer_state.json"))

    kill_when(start(command, killed, home), is_training, log)
    made = {path: path.stat().st_mtime_ns for path in first.glob("*.json")}
    assert not (first / "retriever.json").exists()

    (tmp_path / "corpus.jsonl").touch()  # as where it is copied to another machine
    assert start(command, killed, home).wait() == 0, log.read_text()[-3000:]
    for path, time_ns in made.items():
        assert path.stat().st_mtime_ns == time_ns, f"{path} was made again"
    assert start(command, whole, tmp_path / "other").wait() == 0
    for stage in ROUND:
        found = load_from_disk(first / stage)
        assert found.to_list() == load_from_disk(whole / "round-1" / stage).to_list(), stage
    assert (killed / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "launch",
    [
        "torchrun --nproc_per_node 2",
        pytest.param(
            "accelerate launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no"
            " --dynamo_backend no",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_trainers_run_in_processes_of_a_launcher(
    launch: str, minilm: str, faq_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = Dataset.from_json(str(faq_file)).select(range(60))
    found = boost(
        rows.rename_column("a", "text").select_columns(["id", "text"]),
        minilm,
        output=tmp_path / "run",
        passages=16,
        queries_per_passage=1,
        held_out=12,
        candidates=4,
        max_steps=2,
        training={"batch_size": 2, "train_length": 24},
        launch=launch,
    )
    retriever = next(row for row in found.rounds if row["stage"] == "retriever")
    assert json.loads(retriever["counts"]) == {"lists": 16}
    (weights,) = (tmp_path / "run/round-1/retriever").glob("query_*/model.safetensors")
    assert weights.stat().st_size > 1e6


@pytest.mark.slow
def test_a_trainer_that_outlives_its_run_keeps_its_folder(
    tmp_path: Path, minilm: str, faq_file: Path
) -> None:
    started, ended, script = (tmp_path / name for name in ("started", "ended", "launch.sh"))
    script.write_text(f"#!/bin/sh\ntouch {started}\nuntil [ -e {ended} ]; do sleep 0.1; done\n")
    script.chmod(0o755)
    rows = Dataset.from_json(str(faq_file)).select(range(60)).rename_column("a", "text")
    rows.select_columns(["id", "text"]).to_json(tmp_path / "corpus.jsonl")
    options = {
        "corpus": tmp_path / "corpus.jsonl",
        "retriever": minilm,
        "passages": 16,
        "queries_per_passage": 1,
        "held_out": 12,
        "launch": script,
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "rir_hf.cli.main", "boost", *given]
    output = tmp_path / "run"
    try:
        first = start(command, output, tmp_path / "home")
        kill_when(first, started.exists, output.with_suffix(".log"))
        assert start(command, output, tmp_path / "home").wait() != 0
        said = output.with_suffix(".log").read_text()
        assert "part is written to by another process" in said
    finally:
        ended.touch()


@pytest.mark.soak
def test_steps_run_on_ray(minilm: str, faq_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='ray is not here: pip install "rir-hf[ray]"')
    rows = Dataset.from_json(str(faq_file)).select(range(60))
    corpus = rows.rename_column("a", "text").select_columns(["id", "text"])
    options: dict[str, Any] = {"passages": 8, "held_out": 12, "candidates": 4, "max_steps": 1}
    training = {"batch_size": 2, "train_length": 24}
    made = [
        boost(
            corpus,
            minilm,
            output=tmp_path / engine,
            engine=engine,
            training=training,
            **options,
        )
        for engine in ("ray", "datasets")
    ]
    tables = [load_from_disk(tmp_path / name / "round-1/lists") for name in ("ray", "datasets")]
    assert tables[0]["passage_ids"][:] == tables[1]["passage_ids"][:]
    assert {row["stage"] for row in made[0].rounds} == {row["stage"] for row in made[1].rounds}
