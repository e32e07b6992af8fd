"""What is wrong with options of a training is said without a model, and numbers are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from rir_hf import train_generator, train_retriever
from rir_hf.cli.main import main
from rir_hf.export.retrievers import to_sentence_transformers
from rir_hf.training.generator import checked_generator_options
from rir_hf.training.retriever import checked_retriever_options
from tests.training.jobs import preferences, scored

BOTH = (checked_retriever_options, checked_generator_options)


@pytest.mark.parametrize("check", BOTH)
def test_numbers_that_yaml_reads_as_texts_become_numbers(
    check: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    given = {
        **{"learning_rate": "3e-5", "epochs": "2", "max_steps": "1e3"},
        **{"arguments": {"weight_decay": "1e-2", "dataloader_num_workers": "2", "tf32": None}},
        **{"lora_alpha": 8.0, "report_to": ["none"]},
    }  # fmt: skip
    found = check(given)
    assert found["arguments"] == {"weight_decay": 0.01, "dataloader_num_workers": 2, "tf32": None}
    assert found["learning_rate"] == 3e-5
    assert (found["epochs"], found["max_steps"], found["lora_alpha"]) == (2, 1000, 8)
    assert isinstance(found["max_steps"], int)
    assert check({}) == {}


@pytest.mark.parametrize("check", BOTH)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lerning_rate": 1}, r"train_\w+ has no option 'lerning_rate', only \['"),
        ({"learning_rate": "3e-x"}, r"train_\w+: learning_rate must be a number, got '3e-x'"),
        ({"learning_rate": True}, "learning_rate must be a number, got True"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number, got nan"),
        ({"learning_rate": -1e-5}, "learning_rate must be at least 0, got -1e-05"),
        ({"epochs": None}, "epochs must be a number, got None"),
        ({"epochs": 0}, "epochs must be above 0, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"eval_steps": 0}, "eval_steps must be above 0, got 0"),
        ({"lora_dropout": 1}, "lora_dropout must be at least 0 and below 1, got 1"),
        ({"gradient_checkpointing": "yes"}, "gradient_checkpointing must be true or false"),
        ({"arguments": ["bf16"]}, r"arguments must be settings by name, got \['bf16'\]"),
        ({"arguments": {"weight_decay": "much"}}, "arguments: weight_decay must be a number"),
        ({"arguments": {"bf16": "true"}}, "arguments: bf16 must be true or false, got 'true'"),
        ({"arguments": {"lr_scheduler_type": "cosin"}}, "lr_scheduler_type must be one of .*'cosi"),
        ({"arguments": {"seed": 1}}, "arguments: 'seed' is decided by an option of its own"),
        ({"arguments": {"eval_steps": 1}}, "'eval_steps' is decided by an option of its own"),
        ({"arguments": {"decay": 0.1}}, "has no setting 'decay'"),
        ({"report_to": "foo"}, "report_to: transformers logs to no 'foo'"),
        ({"report_to": "comet_ml"}, "report_to: 'comet_ml' is not installed"),
        ({"dataset_id": "a b"}, "a b"),
    ],
)
def test_a_wrong_option_is_named(
    check: Callable[[dict[str, Any]], dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "SoftmaxLoss"}, "train_retriever: loss must be one of .*'AnglELoss'"),
        ({"loss": {"labels": "Triplet"}}, "train_retriever: loss must be one of .*got 'Triplet'"),
        ({"rescale": "z"}, "rescale must be one of .*'zscore'.* got 'z'"),
        ({"loss": {"labels": "GISTEmbedLoss"}}, "GISTEmbedLoss needs a guide"),
        ({"guide": "me/one", "loss": {"labels": "TripletLoss"}}, "guide goes with Cached"),
        ({"freeze_passages": True, "loss": "CoSENTLoss"}, "loss with freeze_passages must be one "),
        ({"embedded": "corpus"}, "embedded is of use with freeze_passages=True alone"),
        ({"keep": 1.0}, "keep must be at least 0 and below 1, got 1.0"),
        ({"query_prompt": 3}, "query_prompt must be a text, got 3"),
        ({"teacher_temperature": 0}, "teacher_temperature must be above 0"),
        ({"num_negatives": -1}, "num_negatives must be at least 0"),
    ],
)
def test_what_does_not_go_together_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_retriever_options(options)


def test_a_guide_must_be_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"no model at ./none"):
        checked_retriever_options({"guide": "./none", "loss": "GISTEmbedLoss"})


def test_trainings_check_their_options_before_anything_is_read(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for train in (train_retriever, train_generator):
        with pytest.raises(ValueError, match=f"{train.__name__}: learning_rate must be a number"):
            train("no rows", "no-such-model", output, learning_rate="fast")
    assert not output.exists()


def test_a_command_names_a_setting_that_the_trainer_does_not_have_before_rows_are_read(
    tiny_bert: str, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text("no rows")
    rows = ["--rows", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out")]
    for command, model in (("train-retriever", tiny_bert), ("train-generator", tiny_lm)):
        assert main([command, *rows, "--model", model, "--arguments", "{decay: 1}"]) == 2
        assert "has no setting 'decay'" in capsys.readouterr().err


def test_a_learning_rate_as_yaml_reads_it_trains(tiny_lm: str, tmp_path: Path) -> None:
    options = {"max_steps": 1, "batch_size": 2, "accumulate": 1, "lora_r": 2}
    both = [
        train_generator(
            preferences(2), tiny_lm, tmp_path / str(rate), learning_rate=rate, **options
        )
        for rate in (1e-2, "1e-2")
    ]
    one, other = ((folder / "adapter_model.safetensors").read_bytes() for folder in both)
    assert one == other


@pytest.mark.parametrize(
    ("loss", "usual"),
    [
        ("DistillKLDivLoss", "zscore"),
        ("MarginMSELoss", "none"),
        ("CosineSimilarityLoss", "none"),
        ("CoSENTLoss", "none"),
    ],
)
def test_targets_stay_on_the_teacher_s_scale_where_a_loss_learns_its_numbers(
    loss: str, usual: str, tiny_bert: str, tmp_path: Path
) -> None:
    """Scores of which no two rows have the same spread."""
    SentenceTransformer(tiny_bert).save(str(tmp_path / "model"))
    rows = scored(8).map(lambda row, place: {"pos_scores": [0.2 + place / 10]}, with_indices=True)
    labels = [
        to_sentence_transformers(rows, loss=loss, rescale=way)["label"][:]
        for way in ("none", "zscore")
    ]
    assert labels[0] != labels[1]
    found = {
        way: load_file(
            train_retriever(
                rows,
                tmp_path / "model",
                tmp_path / str(way),
                loss=loss,
                rescale=way,
                max_steps=1,
                batch_size=8,
                arguments={"optim": "sgd"},
                learning_rate=0.1,
            )
            / "model.safetensors"
        )
        for way in (None, "none", "zscore")
    }
    other = {"none": "zscore", "zscore": "none"}[usual]
    same = {
        way: all(found[None][name].equal(value) for name, value in found[way].items())
        for way in (usual, other)
    }
    assert same == {usual: True, other: False}
