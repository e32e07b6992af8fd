"""Long maps: the rows of `map`, kept shard by shard, whatever kills them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import (
    Dataset,
    DatasetDict,
    Value,
    concatenate_datasets,
    disable_caching,
    enable_caching,
)
from hypothesis import given
from hypothesis import strategies as st

from rir_hf import Embed, Step, provenance, run
from rir_hf.core.columns import Batch
from rir_hf.running.shards import plan
from rir_hf.schema import QUERY, Column, code_of, note

LENGTH = Column("length", pa.int64(), "letters of the query")
NOTE = Column("length_note", pa.string(), "why there is none")


class Lengths(Step):
    """Adds the length of the query, notes empty ones, and writes down each call."""

    inputs = (QUERY,)
    outputs = (LENGTH, NOTE)
    without_effect = ("calls", "dies_at")

    def __init__(
        self, calls: Path | None = None, dies_at: str | None = None, factor: int = 1
    ) -> None:
        self.calls = calls
        self.dies_at = dies_at
        self.factor = factor

    @property
    def note(self) -> Column:
        return NOTE

    def transform(self, batch: Batch) -> Mapping[str, Any]:
        texts = batch.texts("query")
        if self.dies_at is not None and self.dies_at in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.calls is not None:
            with self.calls.open("a") as file:
                file.write(f"{len(texts)}\n")
        lengths = [self.factor * len(text) if text else None for text in texts]
        return {
            "length": lengths,
            "length_note": [None if text else note("empty") for text in texts],
        }


class Slow(Lengths):
    """Takes its time."""

    def transform(self, batch: Batch) -> Mapping[str, Any]:
        time.sleep(1)
        return super().transform(batch)


class Breaks(Lengths):
    """Fails on one text with an error whose class cannot be sent back."""

    def transform(self, batch: Batch) -> Mapping[str, Any]:
        if "bad" in batch.texts("query"):
            raise UnsendableError("a", "b")
        return super().transform(batch)


class UnsendableError(Exception):
    """An error that cannot be unpickled, as those of API clients."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def rows(number: int = 100, prefix: str = "q") -> Dataset:
    texts = [None if place % 10 == 3 else prefix * (place % 7 + 1) for place in range(number)]
    return Dataset.from_dict({"query": texts, "place": list(range(number))})


def calls_of(path: Path) -> list[int]:
    return list(map(int, path.read_text().split())) if path.exists() else []


@pytest.mark.parametrize(
    "options",
    [{}, {"rows_per_shard": 32}, {"batch_size": 7}, {"num_proc": 2, "rows_per_shard": 20}],
)
def test_the_rows_columns_and_types_are_those_of_map(options: dict[str, int]) -> None:
    ds = rows(prefix=str(options))
    mapped = ds.map(Lengths(), batched=True)
    made = run(ds, Lengths(), **options)
    assert made[:] == mapped[:]
    assert made.column_names == mapped.column_names
    assert made.features == mapped.features


def test_columns_that_are_written_anew_stay_in_their_place() -> None:
    ds = rows(prefix="anew").add_column("length", [0] * 100).select_columns(["length", "query"])
    made = run(ds, Lengths())
    assert made.column_names == ds.map(Lengths(), batched=True).column_names
    assert made["length"][0] == len("anew")


def test_a_second_run_calls_nothing_in_any_process(tmp_path: Path) -> None:
    ds = rows(prefix="second")
    made = run(ds, Lengths(tmp_path / "calls"), rows_per_shard=40)
    assert len(calls_of(tmp_path / "calls")) == 3
    again = run(ds, Lengths(tmp_path / "calls"), rows_per_shard=7, num_proc=2)
    assert len(calls_of(tmp_path / "calls")) == 3
    assert again[:] == made[:]
    assert (
        again.map(Lengths(factor=2), batched=True).cache_files
        == made.map(Lengths(factor=2), batched=True).cache_files
    )


def test_a_dataset_after_select_filter_and_shuffle_maps_like_map() -> None:
    ds = rows(prefix="mixed").shuffle(seed=1).filter(lambda row: row["place"] % 2 == 0)
    assert run(ds, Lengths(), rows_per_shard=16)[:] == ds.map(Lengths(), batched=True)[:]


def test_splits_streams_and_no_rows_work_too() -> None:
    ds = rows(prefix="parts")
    both = run(DatasetDict(train=ds, test=ds.select(range(5))), Lengths())
    assert {name: len(part) for name, part in both.items()} == {"train": 100, "test": 5}
    stream = run(ds.to_iterable_dataset(), Lengths(), batch_size=16)
    assert list(stream) == run(ds, Lengths()).to_list()
    assert stream.features["length"] == Value("int64")
    empty = run(ds.select([]), Lengths())
    assert len(empty) == 0
    assert empty.features == run(ds, Lengths()).features


def test_the_record_of_each_step_is_left_and_the_users_words_stay() -> None:
    ds = rows(prefix="record")
    ds.info.description = "By hand."
    made = run(run(ds, Lengths()), Lengths(factor=3))
    steps = [{"step": "Lengths", "factor": 1}, {"step": "Lengths", "factor": 3}]
    assert provenance(made) == steps
    assert made.info.description.startswith("By hand.\n")
    assert provenance(ds) == []
    assert provenance(concatenate_datasets([made, made]).filter(lambda row: True)) == steps
    assert provenance(run(ds.to_iterable_dataset(), Lengths())) == steps[:1]


def test_a_run_of_which_nothing_is_cached_says_nothing_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    run(rows(prefix="new"), Lengths(), rows_per_shard=50)
    assert "cached" not in caplog.text


def test_notes_are_counted_once_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = run(rows(prefix="notes"), Lengths(), batch_size=5)
    assert [record.getMessage() for record in caplog.records] == [
        "Lengths: length_note of 100 rows: 10 empty."
    ]
    assert {code_of(text) for text in made["length_note"]} == {None, "empty"}


def test_a_format_is_kept() -> None:
    ds = rows(prefix="format").with_format("numpy", columns=["query"])
    made = run(ds, Lengths())
    assert made.format["type"] == "numpy"
    plain = ds.map(Lengths(), batched=True)
    assert set(made.format["columns"]) == set(plain.format["columns"])


def test_wrong_arguments_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    calls = Lengths(tmp_path / "calls")
    with pytest.raises(TypeError, match="run takes a step, got function"):
        run(rows(), lambda batch: batch)  # type: ignore[arg-type] # what is tested
    with pytest.raises(ValueError, match="rows_per_shard must be at least 1, got 0"):
        run(rows(), calls, rows_per_shard=0)
    with pytest.raises(ValueError, match="engine must be one of"):
        run(rows(), calls, engine="spark")
    with pytest.raises(TypeError, match="num_gpus goes with"):
        run(rows(), calls, num_gpus=1)
    with pytest.raises(ValueError, match="needs the column 'query'"):
        run(rows().rename_column("query", "q"), calls)
    with pytest.raises(ValueError, match="must hold string, found int64"):
        run(Dataset.from_dict({"query": [1]}), calls)
    assert calls_of(tmp_path / "calls") == []


@pytest.mark.parametrize("damage", ["truncated", "garbage", "rows missing"])
def test_a_damaged_shard_is_made_again(damage: str, tmp_path: Path) -> None:
    ds = rows(prefix=damage)
    made = run(ds, Lengths(tmp_path / "calls"), batch_size=10)
    want = made.to_list()
    file = Path(
        next(
            file["filename"]
            for file in made.cache_files
            if file["filename"].endswith("0-100.arrow")
        )
    )
    content = file.read_bytes()
    if damage == "rows missing":  # cut between two record batches
        with pa.ipc.open_stream(content) as stream:
            batches = [stream.read_next_batch() for _ in range(3)]
        with pa.ipc.new_stream(str(file), batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    else:
        file.write_bytes(content[:200] if damage == "truncated" else b"not arrow at all")
    before = len(calls_of(tmp_path / "calls"))
    assert run(ds, Lengths(tmp_path / "calls"), batch_size=10).to_list() == want
    assert len(calls_of(tmp_path / "calls")) == before + 10


def test_without_caching_every_run_works_anew(tmp_path: Path) -> None:
    ds = rows(prefix="off")
    disable_caching()
    try:
        made = [run(ds, Lengths(tmp_path / "calls"))[:] for _ in range(2)]
    finally:
        enable_caching()
    assert made[0] == made[1]
    assert len(calls_of(tmp_path / "calls")) == 2


def test_errors_come_back_from_workers_and_finished_shards_stay(tmp_path: Path) -> None:
    texts = ["good"] * 40 + ["bad"]
    ds = Dataset.from_dict({"query": texts})
    with pytest.raises(RuntimeError, match="UnsendableError: a b"):
        run(ds, Breaks(tmp_path / "calls"), rows_per_shard=10, num_proc=2)
    assert sum(calls_of(tmp_path / "calls")) == 40
    mended = Breaks(tmp_path / "calls")
    with pytest.raises(UnsendableError):
        run(ds, mended, rows_per_shard=10)
    assert sum(calls_of(tmp_path / "calls")) == 40


def test_a_killed_worker_is_told_and_finished_shards_stay(tmp_path: Path) -> None:
    texts = [f"text {place}" for place in range(40)]
    ds = Dataset.from_dict({"query": texts})
    with pytest.raises(RuntimeError, match="killed for its memory. Finished shards are kept"):
        run(ds, Lengths(tmp_path / "calls", dies_at="text 35"), rows_per_shard=10, num_proc=2)
    made = run(ds, Lengths(tmp_path / "calls"), rows_per_shard=10)
    assert made["length"][:] == [len(text) for text in texts]
    assert sum(calls_of(tmp_path / "calls")) <= 50


def test_what_a_killed_worker_left_half_written_is_removed_by_the_next_run(tmp_path: Path) -> None:
    ds = Dataset.from_dict({"query": [f"half {place}" for place in range(40)]})
    before = set(_cache().glob("Lengths-*"))
    with pytest.raises(RuntimeError, match="Finished shards are kept"):
        run(ds, Lengths(dies_at="half 35"), rows_per_shard=10, num_proc=2)
    (folder,) = set(_cache().glob("Lengths-*")) - before
    left = list(folder.glob(".*.part"))
    assert left
    for part in left:
        os.utime(part, (0, 0))
    run(ds, Lengths(), rows_per_shard=10)
    assert [path.name for path in folder.iterdir()] == ["0-40.arrow"]


def _cache() -> Path:
    return Path(os.environ["HF_HOME"]) / "datasets" / "rir_hf"


KILLED = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from datasets import Dataset
from rir_hf import Embed, run
from tests.running.test_run import texts_of_the_killed_run
print("started", flush=True)
step = Embed(sys.argv[1], "query", role="query")
rows = run(texts_of_the_killed_run(), step, rows_per_shard=16, batch_size=16)
print("done", len(rows), flush=True)
"""


def texts_of_the_killed_run() -> Dataset:
    texts = [f"how thick must a wall of storey {place} be" for place in range(400)]
    return Dataset.from_dict({"query": texts})


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_one_shard_at_most(minilm: str) -> None:
    command = [sys.executable, "-c", KILLED, minilm]

    def finished() -> set[Path]:
        return set(_cache().glob("Embed-*/*.arrow"))

    before = finished()
    for number in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(finished() - before) < 3 * (number + 1) and time.monotonic() < deadline:
            time.sleep(0.05)
        kept = finished()
        process.kill()
        process.wait()
        assert len(kept - before) >= 3 * (number + 1)
    kept = len(finished() - before)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "done 400"
    assert f"Embed: {kept} of 25 shards are cached." in done.stderr
    want = texts_of_the_killed_run().map(
        Embed(minilm, "query", role="query"), batched=True, batch_size=16
    )
    found = run(texts_of_the_killed_run(), Embed(minilm, "query", role="query"), rows_per_shard=16)
    assert found["embedding"][:] == want["embedding"][:]


@given(st.integers(0, 40), st.integers(1, 50), st.lists(st.integers(1, 40), max_size=5))
def test_a_plan_covers_every_row_once(number: int, size: int, cuts: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        edges = sorted({0, *(cut for cut in cuts if cut < number), number})
        kept = [pair for place, pair in enumerate(pairwise(edges)) if place % 2]
        for start, end in kept:
            (folder / f"{start}-{end}.arrow").touch()
        shards = plan(folder, number, size)
        covered = [row for shard in shards for row in range(shard.start, shard.end)]
        assert covered == list(range(number))
        assert {(shard.start, shard.end) for shard in shards} >= set(kept)


SLEEPS = """
from datasets import Dataset
from rir_hf import run
from tests.running.test_run import Slow
run(Dataset.from_dict({"query": [str(number) for number in range(40)]}), Slow(), num_proc=2,
    rows_per_shard=1, batch_size=1)
"""


def is_alive(process: str) -> bool:
    """Whether a process runs; one that nobody has asked for its exit code does not."""
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_a_process_that_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPS], stdout=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers: list[str] = []
    while len(workers) < 2:
        assert process.poll() is None
        workers = children.read_text().split()
        time.sleep(0.1)
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while any(is_alive(worker) for worker in workers):
        assert time.monotonic() < end, "workers outlived the process that started them"
        time.sleep(0.1)
