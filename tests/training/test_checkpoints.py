"""A training that is killed goes on from its last checkpoint and ends as if nothing had been."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rir_hf.training.__main__ import main
from rir_hf.training.checkpoints import RECORD, last_checkpoint, remove_checkpoints
from rir_hf.training.retriever import train_retriever
from tests.training.jobs import pairs, preferences, scored, start, weights_of, write_job

RETRIEVER = {"batch_size": 2, "epochs": 2, "train_length": 8, "learning_rate": 1e-3}
GENERATOR = {"batch_size": 2, "accumulate": 1, "epochs": 10, "learning_rate": 1e-2, "lora_r": 4}


def kill_after(checkpoint: str, job: Path) -> None:
    """Start a training, and end it with SIGKILL as soon as this checkpoint is complete."""
    process, state = start(job), job.parent / "out" / checkpoint / "trainer_state.json"
    while process.poll() is None and not state.exists():
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9, (job.parent / "log").read_text()


def assert_ends_as_uninterrupted(
    folder: Path, at: str, file: str, function: str, rows: Any, **options: Any
) -> None:
    """Train in one go without checkpoints, and in two around a kill: the same weights."""
    whole = write_job(folder / "whole", function, rows, **options)
    killed = write_job(folder / "killed", function, rows, checkpoint_steps=2, **options)
    main(str(whole))
    kill_after(at, killed)
    assert not (killed.parent / "out" / file).exists()
    if function == "train_retriever":  # whose card is slower to write than its weights
        assert not list((killed.parent / "out").rglob("README.md"))
    (killed.parent / "out" / "checkpoint-999").mkdir()  # one that a kill left incomplete
    (killed.parent / "out" / ".tmpT1Q6TN").touch()  # weights that a kill left incomplete
    main(str(killed))
    expected, found = weights_of(whole, file), weights_of(killed, file)
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        np.testing.assert_allclose(found[name], weights, atol=1e-6, err_msg=name)
    assert not list((killed.parent / "out").glob("checkpoint*"))
    assert not list((killed.parent / "out").glob(".tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("several", "checkpoint"),
    [
        (False, "checkpoint-2"),
        (True, "checkpoint-6"),
        pytest.param(False, "checkpoint-6", marks=pytest.mark.soak),
        pytest.param(True, "checkpoint-2", marks=pytest.mark.soak),
    ],
)
def test_a_killed_retriever_ends_with_the_same_weights(
    several: bool, checkpoint: str, minilm: str, tmp_path: Path
) -> None:
    # Five batches an epoch: checkpoint 2 lies in the first one, checkpoint 6 in the second.
    rows = {"scored": scored(6), "pairs": pairs(4)} if several else scored(10)
    options = {"model": minilm, "keep": 0.25, **RETRIEVER}
    file = "model.safetensors"
    assert_ends_as_uninterrupted(tmp_path, checkpoint, file, "train_retriever", rows, **options)


@pytest.mark.slow
@pytest.mark.parametrize("freeze_passages", [False, True])
def test_a_killed_retriever_with_lora_ends_with_the_same_weights(
    freeze_passages: bool, minilm: str, tmp_path: Path
) -> None:
    file = "query_0_Transformer/model.safetensors" if freeze_passages else "model.safetensors"
    options = {**RETRIEVER, "lora_r": 4, "lora_dropout": 0.1, "freeze_passages": freeze_passages}
    assert_ends_as_uninterrupted(
        tmp_path, "checkpoint-6", file, "train_retriever", scored(10), model=minilm, **options
    )


@pytest.mark.slow
def test_a_killed_training_knows_its_best_weights(minilm: str, tmp_path: Path) -> None:
    """Those of the start, since each step of this learning rate does harm."""
    scored(12, "held out").save_to_disk(str(tmp_path / "dev"))
    options = {**RETRIEVER, "learning_rate": 0.1, "eval_steps": 1, "dev": str(tmp_path / "dev")}
    file = "model.safetensors"
    assert_ends_as_uninterrupted(
        tmp_path, "checkpoint-6", file, "train_retriever", scored(10), model=minilm, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_killed_generator_ends_with_the_same_weights(
    full: bool, tiny_lm: str, tmp_path: Path
) -> None:
    rows = preferences(10)
    options = {"model": tiny_lm, "full": full, **GENERATOR}
    file = "model.safetensors" if full else "adapter_model.safetensors"
    assert_ends_as_uninterrupted(tmp_path, "checkpoint-8", file, "train_generator", rows, **options)


def test_the_last_checkpoint_is_the_one_of_most_steps_whose_state_can_be_read(
    tmp_path: Path,
) -> None:
    assert last_checkpoint(tmp_path) is None
    states = {"checkpoint-9": "{}", "checkpoint-10": "{}", "checkpoint-11": '{"epoch": 1.'}
    for name, state in {**states, "checkpoint-best": "{}"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-12").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_a_checkpoint_that_a_kill_left_half_removed_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RECORD).write_text("{}")
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == checkpoint

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_checkpoints(tmp_path)
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("record", [None, '{"rows": {}, "seed": 7}'])
def test_checkpoints_of_another_training_are_refused_and_left(
    record: str | None, minilm: str, tmp_path: Path
) -> None:
    state = tmp_path / "checkpoint-2" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text("{}")
    if record is not None:
        (tmp_path / "checkpoints.json").write_text(record)
    with pytest.raises(ValueError, match="checkpoints of another training: .*rows, .*seed, .*dif"):
        train_retriever(scored(4), minilm, tmp_path, checkpoint_steps=1, max_steps=1)
    assert state.exists()
