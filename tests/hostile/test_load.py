"""Several threads and processes do the same at once, over one cache, one index file, one output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rir_hf.cli.main import main
from tests.cli.conftest import read_lines, write_lines
from tests.hostile.test_faults import rows_of, unfinished_in
from tests.index.vectors import unit_vectors

WORKERS, THREADS = 4, 16

WORK = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from datasets import disable_progress_bars, load_from_disk
from rir_hf import MineNegatives, attach_index, run

disable_progress_bars()
# Loading is not for threads: tqdm loses its lock there (4.70, November 2026).
loaded = [
    [load_from_disk(f"{sys.argv[1]}/{name}") for name in ("corpus", "pairs")]
    for _ in range(int(sys.argv[2]))
]

def mined(given):
    corpus, pairs = given
    step = MineNegatives(attach_index(corpus), num_negatives=3)
    return run(pairs, step, rows_per_shard=20)["neg_ids"][:]

with ThreadPoolExecutor(len(loaded)) as pool:
    print(json.dumps(list(pool.map(mined, loaded))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("product", ["numpy", "int8"])
def test_threads_and_processes_that_mine_at_once_give_the_same_rows(
    product: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIR_HF_PRODUCT", product)
    vectors = unit_vectors(400, 16, 1)
    ids = [f"p{number}" for number in range(400)]
    corpus = {"id": ids, "text": [f"text {name}" for name in ids], "embedding": list(vectors)}
    pairs = {
        "query": [f"query {number}" for number in range(100)],
        "pos_ids": [[name] for name in ids[:100]],
        "embedding": list(unit_vectors(100, 16, 2)),
    }
    Dataset.from_dict(corpus).save_to_disk(tmp_path / "corpus")
    Dataset.from_dict(pairs).save_to_disk(tmp_path / "pairs")
    command = [sys.executable, "-c", WORK, str(tmp_path), str(THREADS)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(WORKERS)
    ]
    said = [process.communicate() for process in running]
    for process, (_, errors) in zip(running, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    found = [rows for output, _ in said for rows in json.loads(output)]
    assert len(found) == WORKERS * THREADS
    assert all(rows == found[0] for rows in found)
    alone = subprocess.run([*command[:-1], "1"], capture_output=True, text=True, check=True)
    assert json.loads(alone.stdout)[0] == found[0]
    left = [path.name for path in tmp_path.rglob("*.part")]
    assert left == []


@pytest.mark.slow
def test_of_two_runs_of_one_command_each_ends_well_or_says_that_the_other_runs(
    tiny_static: str, faq_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    faq = read_lines(faq_file)[:200]
    pairs = [{"query": row["q"], "pos": [row["a"]], "neg": ["No."]} for row in faq]
    write_lines(tmp_path / "corpus.jsonl", [{"_id": row["id"], "text": row["a"]} for row in faq])
    write_lines(tmp_path / "pairs.jsonl", pairs)
    corpus, model = ["--corpus", tmp_path / "corpus.jsonl"], ["--model", tiny_static]
    steps = ["--max_steps", 20, "--checkpoint_steps", 2]
    commands: dict[str, list[Any]] = {
        "mine": [*corpus, *model, "--pairs", tmp_path / "pairs.jsonl", "--num_negatives", 2],
        "train-retriever": ["--rows", tmp_path / "pairs.jsonl", *model, *steps],
        "boost": [
            *(*corpus, "--retriever", tiny_static, "--passages", 8, "--held_out", 20),
            *("--candidates", 3, *steps, "--training", "{batch_size: 2}"),
        ],
    }
    for name, options in commands.items():
        argv = [name, *map(str, options), "--output"]
        command = [sys.executable, "-m", "rir_hf.cli.main", *argv, str(tmp_path / name)]
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(2)
        ]
        said = [process.communicate()[0].decode() for process in running]
        codes = [process.returncode for process in running]
        refused = [text for text, code in zip(said, codes, strict=True) if code]
        assert set(codes) <= {0, 2}, said
        assert 0 in codes, said
        assert all("another process" in text or "holds a model" in text for text in refused), said
        assert main([*argv, str(tmp_path / "alone" / name)]) == 0
        assert rows_of(tmp_path / name) == rows_of(tmp_path / "alone" / name)
        assert unfinished_in(tmp_path) == []
