"""What a training that goes on after a kill evaluates, and by what it knows its models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import Trainer

from rir_hf import Embed
from rir_hf.training.generator import train_generator
from rir_hf.training.retriever import train_retriever
from tests.training.jobs import pairs, preferences

Train = Callable[..., Path]
RETRIEVER = {"batch_size": 4, "checkpoint_steps": 2}
GENERATOR = {"batch_size": 2, "accumulate": 1, "checkpoint_steps": 3, "lora_r": 2}


class KilledError(Exception):
    """What ends a training in the middle."""


def killed(steps: int, train: Train, *args: Any, **options: Any) -> None:
    """Begin a training, and end it after so many steps."""
    done = 0
    step = Trainer.training_step

    def counted(*inputs: Any, **more: Any) -> Any:
        nonlocal done
        if done == steps:
            raise KilledError
        done += 1
        return step(*inputs, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", counted)
        with pytest.raises(KilledError):
            train(*args, **options)


@pytest.fixture(scope="module")
def stored(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny retriever, all of whose weights are stored."""
    folder = tmp_path_factory.mktemp("stored")
    SentenceTransformer(tiny_bert).save(str(folder))
    return folder


def scaled(model: str | Path, folder: Path, by: float) -> Path:
    """A copy of a model whose weights are multiplied."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    file = folder / "model.safetensors"
    weights = {name: value * by for name, value in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    return folder


def evaluated(folder: Path) -> dict[int, float]:
    """The steps at which held-out pairs were looked at, with their loss."""
    history = json.loads((folder / "metrics.json").read_text())
    return {entry["step"]: float(entry["eval_loss"]) for entry in history if "eval_loss" in entry}


def test_a_resumed_training_evaluates_where_a_whole_one_does(tiny_lm: str, tmp_path: Path) -> None:
    """The best step is none that a whole training never looks at."""
    dev = preferences(24).select(range(16, 24))
    options = {**GENERATOR, "learning_rate": 1e-2, "dev": dev, "eval_steps": 4}
    rows = preferences(16)
    whole = train_generator(rows, tiny_lm, tmp_path / "whole", **options)
    killed(3, train_generator, rows, tiny_lm, tmp_path / "killed", **options)
    resumed = train_generator(rows, tiny_lm, tmp_path / "killed", **options)
    assert list(evaluated(whole)) == [0, 4, 8]
    assert evaluated(resumed) == pytest.approx(evaluated(whole), abs=1e-4)
    expected, found = (load_file(each / "adapter_model.safetensors") for each in (whole, resumed))
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, msg=name)


def test_a_model_is_known_by_its_content_and_not_by_its_path(stored: Path, tmp_path: Path) -> None:
    rows, model, output = pairs(32), tmp_path / "model", tmp_path / "out"
    scaled(stored, model, 1.0)
    killed(5, train_retriever, rows, model, output, **RETRIEVER)
    scaled(stored, model, 1.5)
    with pytest.raises(ValueError, match="checkpoints of another training: model differ"):
        train_retriever(rows, model, output, **RETRIEVER)
    whole = train_retriever(rows, stored, tmp_path / "whole", batch_size=4)
    resumed = train_retriever(rows, stored, output, **RETRIEVER)  # the old one, elsewhere
    found = load_file(resumed / "model.safetensors")
    for name, weights in load_file(whole / "model.safetensors").items():
        torch.testing.assert_close(found[name], weights, msg=name)


def test_a_generator_too_is_known_by_its_content(tiny_lm: str, tmp_path: Path) -> None:
    rows, output = preferences(16), tmp_path / "out"
    killed(3, train_generator, rows, tiny_lm, output, **GENERATOR)
    other = scaled(tiny_lm, tmp_path / "other", 1.5)
    with pytest.raises(ValueError, match="checkpoints of another training: model differ"):
        train_generator(rows, other, output, **GENERATOR)
    same = scaled(tiny_lm, tmp_path / "same", 1.0)
    assert train_generator(rows, same, output, **GENERATOR) == output


def test_so_are_a_guide_and_the_vectors_of_a_corpus(stored: Path, tmp_path: Path) -> None:
    rows, output = pairs(32), tmp_path / "guided"
    options = {**RETRIEVER, "loss": "GISTEmbedLoss"}
    killed(3, train_retriever, rows, stored, output, guide=stored, **options)
    other = scaled(stored, tmp_path / "other", 1.5)
    with pytest.raises(ValueError, match="checkpoints of another training: guide differ"):
        train_retriever(rows, stored, output, guide=other, **options)
    texts = Dataset.from_dict({"text": [texts[0] for texts in rows["pos"]]})
    corpus = texts.map(Embed(str(stored)), batched=True)
    frozen = {**RETRIEVER, "freeze_passages": True, "max_length": 512}
    killed(3, train_retriever, rows, stored, tmp_path / "out", embedded=corpus, **frozen)
    with pytest.raises(ValueError, match="checkpoints of another training: embedded differ"):
        train_retriever(rows, stored, tmp_path / "out", embedded=corpus.take(9), **frozen)
    vectors = np.nextafter(np.array(corpus["embedding"][:], np.float32), np.float32(1))
    elsewhere = texts.add_column("embedding", vectors.tolist())  # by another machine
    train_retriever(rows, stored, tmp_path / "out", embedded=elsewhere, **frozen)


def test_checkpoints_in_the_folder_of_the_model_are_refused(
    stored: Path, tiny_lm: str, tmp_path: Path
) -> None:
    for train, model, rows in (
        (train_retriever, stored, pairs(4)),
        (train_generator, Path(tiny_lm), preferences(4)),
    ):
        before = sorted(model.rglob("*"))
        for output in (model, model / "tuned"):
            with pytest.raises(ValueError, match="checkpoint_steps needs another output than"):
                train(rows, model, output, checkpoint_steps=1)
        assert sorted(model.rglob("*")) == before
