"""Several threads and processes do the same at once, over one cache and one index file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

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
