"""Trainings from a file: one process, two processes, and files that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rir_hf.models.retriever import Retriever
from rir_hf.training.__main__ import main
from tests.training.jobs import pairs, scored, start, write_job

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.slow
def test_two_processes_train_one_model(minilm: str, tmp_path: Path) -> None:
    options = {"batch_size": 2, "train_length": 8, "checkpoint_steps": 1, "keep": 0.5}
    parts = {"scored": scored(6), "pairs": pairs(4)}  # five batches: one process has one more
    job = write_job(tmp_path, "train_retriever", parts, model=minilm, **options)
    assert start(job, *TORCHRUN).wait(300) == 0, (tmp_path / "log").read_text()
    assert Retriever(str(tmp_path / "out")).encode_queries(["a question"]).shape == (1, 384)
    assert not list((tmp_path / "out").glob("checkpoint*"))


def test_a_file_that_is_no_job_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    job = {"function": "train", "rows": "rows", "options": {}}
    for content, message in (
        ({"rows": "rows"}, r"must hold function, rows and options, found \['rows'\]"),
        (job, "function must be one of"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            main(str(path))
