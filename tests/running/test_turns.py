"""When a run stops since its model fails on every row, and when it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import Dataset

from rir_hf import ScorePassages, Teacher, run
from rir_hf.schema import note
from rir_hf.teaching.teacher import Row, Scored


class Patchy(Teacher):
    """Fails at once on queries that begin with "bad", answers others after a while, and writes down
    all; ends the run at a bad one while there is a file "stop" in its folder.
    """

    without_effect = ("folder",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        is_bad = [row.query.startswith("bad") for row in rows]
        if any(is_bad) and (self.folder / "stop").exists():
            raise ConnectionError("ended")
        time.sleep(0 if all(is_bad) else 1)
        with (self.folder / "asked").open("a") as file:
            file.write("".join(f"{row.query}\n" for row in rows))
        answer = Scored([1.0, 0.0])
        return [Scored(error=note("failed", "no")) if bad else answer for bad in is_bad]


class PatchyInTwo(Patchy):
    """Waits until two processes are asked: else one of a pool may take both of the first shards."""

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        (self.folder / f"{os.getpid()}.process").touch()
        end = time.monotonic() + 60
        while len([*self.folder.glob("*.process")]) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        return super().score(rows)


def queries(*names: str) -> Dataset:
    rows = {"query": list(names), "pos": [["a"]] * len(names), "neg": [["b"]] * len(names)}
    return Dataset.from_dict(rows)


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


IN_TENS = {"batch_size": 10, "rows_per_shard": 10}


def test_a_worker_that_only_fails_waits_until_another_has_an_answer(tmp_path: Path) -> None:
    names = [*(f"good {place}" for place in range(10)), *(f"bad {place}" for place in range(30))]
    rows = queries(*names)
    made = run(rows, ScorePassages(Patchy(tmp_path)), num_proc=2, **IN_TENS)
    assert made["teacher_error"][:] == [None] * 10 + ["failed: no"] * 30
    assert made["query"][:] == names
    before = asked(tmp_path).index("good 0")
    assert before in (0, 10)  # one batch, and not all of the others
    assert set(asked(tmp_path)) == set(names)


def test_a_run_stops_once_the_models_of_all_workers_have_failed(tmp_path: Path) -> None:
    rows = queries(*(f"bad {place}" for place in range(100)))
    with pytest.raises(RuntimeError, match="ScorePassages: the teacher failed on all 10 rows"):
        run(rows, ScorePassages(PatchyInTwo(tmp_path)), num_proc=2, **IN_TENS)
    assert len(asked(tmp_path)) <= 20


def test_a_resumed_run_goes_on_where_a_cached_row_has_an_answer(tmp_path: Path) -> None:
    names = [*["good"] * 10, *["bad"] * 30]
    rows = queries(*names)
    (tmp_path / "stop").touch()
    with pytest.raises(ConnectionError):
        run(rows, ScorePassages(Patchy(tmp_path)), **IN_TENS)
    assert asked(tmp_path) == ["good"] * 10
    (tmp_path / "stop").unlink()
    made = run(rows, ScorePassages(Patchy(tmp_path)), **IN_TENS)
    assert made["teacher_error"][:] == [None] * 10 + ["failed: no"] * 30
    assert asked(tmp_path) == names


def test_a_resumed_run_of_which_all_cached_rows_failed_stops_again(tmp_path: Path) -> None:
    rows = queries(*["bad"] * 40)
    with pytest.raises(RuntimeError, match="failed on all 8 rows"):
        run(rows, ScorePassages(Patchy(tmp_path)), batch_size=1, rows_per_shard=1)
    with pytest.raises(RuntimeError, match="failed on all 10 rows"):
        run(rows, ScorePassages(Patchy(tmp_path)), **IN_TENS)
    assert len(asked(tmp_path)) == 18
