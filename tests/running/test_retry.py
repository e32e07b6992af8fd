"""Asking again for what failed, and only for that."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset

from rir_hf import Embed, ScorePassages, Similarities, Step, provenance, retry, run
from rir_hf.core.columns import Batch
from rir_hf.schema import QUERY, Column, note
from tests.running.test_turns import IN_TENS, Patchy, queries

ANSWER = Column("reply", pa.string(), "the reply")
ERROR = Column("reply_error", pa.string(), "why there is none")


class Ask(Step):
    """Asks a server that is down for the texts in a file."""

    inputs = (QUERY,)
    outputs = (ANSWER, ERROR)
    without_effect = ("folder",)
    failures = ("failed",)

    def __init__(self, folder: Path, name: str = "small") -> None:
        self.folder = folder
        self.name = name

    @property
    def note(self) -> Column:
        return ERROR

    def transform(self, batch: Batch) -> Mapping[str, Any]:
        down = (self.folder / "down").read_text().split()
        texts = [text or "" for text in batch.texts("query")]
        with (self.folder / "asked").open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        replies = [None if text in down or not text else text.upper() for text in texts]
        errors = [
            note("failed", "500") if text in down else None if text else note("empty")
            for text in texts
        ]
        return {"reply": replies, "reply_error": errors}


def asked(folder: Path) -> list[str]:
    lines = (folder / "asked").read_text().splitlines()
    (folder / "asked").unlink()
    return lines


def test_only_failed_rows_are_asked_again_until_none_fails(tmp_path: Path) -> None:
    down = tmp_path / "down"
    down.write_text("b c")
    ds = Dataset.from_dict({"query": ["a", "b", "", "c"], "place": [0, 1, 2, 3]})
    first = run(ds, Ask(tmp_path))
    assert first["reply"][:] == ["A", None, None, None]
    assert asked(tmp_path) == ["a", "b", "", "c"]
    down.write_text("c")
    second = retry(first, Ask(tmp_path))
    assert second["reply"][:] == ["A", "B", None, None]
    assert asked(tmp_path) == ["b", "c"]
    # The script runs once more from its beginning: what came is kept, what failed twice is asked.
    down.write_text("")
    third = retry(run(ds, Ask(tmp_path)), Ask(tmp_path))
    assert third["reply"][:] == ["A", "B", None, "C"]
    assert third["reply_error"][:] == [None, None, "empty", None]
    assert asked(tmp_path) == ["c"]
    assert retry(run(ds, Ask(tmp_path)), Ask(tmp_path))[:] == third[:]
    assert not (tmp_path / "asked").exists()
    assert third.column_names == first.column_names
    assert third["place"][:] == [0, 1, 2, 3]
    assert third.features == first.features
    assert retry(third, Ask(tmp_path)) is not None


def test_another_model_may_answer_what_failed_and_both_are_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "down").write_text("b")
    ds = Dataset.from_dict({"query": ["a", "b"]})
    first = run(ds, Ask(tmp_path))
    (tmp_path / "down").write_text("")
    second = retry(first, Ask(tmp_path, "large"))
    assert second["reply"][:] == ["A", "B"]
    assert [step["name"] for step in provenance(second)] == ["small", "large"]
    assert "Ask made the rows with other settings: name." in caplog.text


@pytest.fixture
def spawned() -> Iterator[None]:
    """Worker processes that are started anew, as GPUs need them, in place of forked ones."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_rows_that_all_fail_again_stop_no_worker(tmp_path: Path, spawned: None) -> None:
    """Twenty rows failed, and fail in two workers that have never had an answer."""
    rows = queries("good", *(f"bad {place}" for place in range(20)))
    first = run(rows, ScorePassages(Patchy(tmp_path)))
    asked(tmp_path)
    again = retry(first, ScorePassages(Patchy(tmp_path)), num_proc=2, **IN_TENS)
    assert again["teacher_error"][:] == [None] + ["failed: no"] * 20
    assert sorted(asked(tmp_path)) == sorted(rows["query"][1:])


def test_a_step_without_failures_and_rows_it_never_saw_are_refused(
    tmp_path: Path, minilm: str
) -> None:
    ds = Dataset.from_dict({"query": ["a"]})
    with pytest.raises(ValueError, match="Embed marks no rows as failed"):
        retry(ds, Embed(minilm, "query"))
    with pytest.raises(ValueError, match="no column 'reply_error': run Ask first"):
        retry(ds, Ask(tmp_path))


def test_a_stream_cannot_be_asked_again() -> None:
    rows = Dataset.from_dict({"query": ["q"]}).to_iterable_dataset()
    with pytest.raises(
        TypeError, match="retry takes a Dataset or DatasetDict, got IterableDataset"
    ):
        retry(rows, ScorePassages(Similarities()))  # type: ignore[arg-type]
