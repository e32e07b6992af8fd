"""Preference pairs in the formats of trainers, read by the trainers themselves where they install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_dataset

from rir_hf import to_llamafactory, to_trl, trl_lengths


@pytest.fixture
def pairs() -> Dataset:
    """Three pairs, the last of them long, and a row without one."""
    rows = [
        ("What is a truss?", "A frame of triangles.", "A cat.", 0.7, None),
        ("What is a slab?", None, None, None, "no gain"),
        ("What is\na beam?", "A beam carries loads.", "Beams of light.", 0.6, None),
        ("What is a wall? " * 20, "A wall stands.", "A wall is a wall. " * 20, 0.5, None),
    ]
    names = ("prompt", "chosen", "rejected", "chosen_score", "pair_error")
    found = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    return Dataset.from_dict({"query_id": ["1", "2", "3", "4"], "messages": ["m"] * 4, "rejected_score": [0.1] * 4, **found})


def test_rows_are_conversations_with_nothing_that_the_trainer_does_not_know(
    pairs: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    rows = to_trl(pairs)
    assert sorted(rows.column_names) == ["chosen", "chosen_score", "prompt", "rejected", "rejected_score"]
    assert rows[1] == {
        "prompt": [{"role": "user", "content": "What is\na beam?"}],
        "chosen": [{"role": "assistant", "content": "A beam carries loads."}],
        "rejected": [{"role": "assistant", "content": "Beams of light."}],
        "chosen_score": 0.6,
        "rejected_score": 0.1,
    }
    assert "1 of 4 rows are left out, since they have no pair: {'no gain': 1}" in caplog.text
    assert to_trl(rows).to_list() == rows.to_list()
    assert to_trl(DatasetDict(train=pairs))["train"].to_list() == rows.to_list()


def test_plain_rows_join_with_one_space(pairs: Dataset) -> None:
    ending = pairs.map(lambda row: {"prompt": row["prompt"] + "\n"})
    assert to_trl(pairs, conversational=False)[0]["chosen"] == " A frame of triangles."
    assert to_trl(ending, conversational=False)[0]["chosen"] == "A frame of triangles."
    spaced = to_trl(pairs.map(lambda row: {"prompt": row["prompt"] + "  "}), conversational=False)
    plain = to_trl(to_trl(pairs, conversational=False))
    assert [plain[name][:] for name in ("chosen", "rejected")] == [to_trl(pairs)[name][:] for name in ("chosen", "rejected")]
    assert spaced.to_list() == to_trl(pairs.map(lambda row: {"prompt": row["prompt"].rstrip()}), conversational=False).to_list()
    with pytest.raises(ValueError, match="conversational=False needs plain texts, but 'prompt' holds messages"):
        to_trl(to_trl(pairs), conversational=False)


def test_what_cannot_be_exported_is_told(pairs: Dataset) -> None:
    with pytest.raises(ValueError, match="needs the column 'rejected'"):
        to_trl(pairs.remove_columns("rejected"))
    with pytest.raises(ValueError, match="None of the 1 rows has a pair: report_generation says why"):
        to_trl(pairs.select([1]))
    with pytest.raises(ValueError, match="There is no row to export"):
        to_trl(pairs.select([]))
    for name in ("my/pairs", ""):
        with pytest.raises(ValueError, match="name must be the name of a file"):
            to_llamafactory(pairs, "nowhere", name=name)
    with pytest.raises(TypeError, match="got IterableDataset"):
        to_llamafactory(pairs.to_iterable_dataset(), "nowhere")
    with pytest.raises(ValueError, match="template_arguments go with conversational=True"):
        to_trl(pairs, conversational=False, template_arguments={"enable_thinking": False})


def trainer_of(rows: Dataset, model: str, folder: Path, max_length: int) -> Any:
    """A DPOTrainer that has tokenized the rows."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(
        output_dir=str(folder), per_device_train_batch_size=1, max_steps=2, max_length=max_length, bf16=False, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(model)
    return DPOTrainer(model=loaded, args=settings, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(model))


@pytest.mark.parametrize("conversational", [True, False])
def test_the_trainer_takes_the_rows_and_cuts_what_the_report_says(
    conversational: bool, pairs: Dataset, tiny_lm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    for max_length in (20, 40, 100, 1000):
        rows = to_trl(pairs, conversational=conversational)
        found = trl_lengths(rows, tokenizer, max_length)
        assert ("leaves out" in caplog.text) == (found["rows_left_out"] + found["chosen_cut"] + found["rejected_cut"] > 0)
        caplog.clear()
        trainer = trainer_of(rows, tiny_lm, tmp_path, max_length)
        tokenized = trainer.train_dataset
        assert found["rows"] - found["rows_left_out"] == len(tokenized)
        for name in ("chosen", "rejected"):
            lengths = [len(row["prompt_ids"]) + len(row[f"{name}_ids"]) for row in tokenized]
            assert found[f"{name}_cut"] == sum(length > max_length for length in lengths)
        assert found["boundary_moved"] == 0
        assert not [record for record in caplog.records if record.name.startswith("trl") and record.levelname == "WARNING"]
        if max_length == 1000:
            assert found["longest"] == max(len(row["prompt_ids"]) + len(row["rejected_ids"]) for row in tokenized)
            assert trainer.train().training_loss < 1
        caplog.clear()


def test_template_arguments_reach_the_template_and_the_lengths(pairs: Dataset, tiny_lm: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.chat_template = "{% if loud %}" + "LOUD " * 40 + "{% endif %}" + tokenizer.chat_template
    quiet = trl_lengths(to_trl(pairs), tokenizer)
    rows = to_trl(pairs, template_arguments={"loud": True}, tokenizer=tokenizer)
    assert rows["chat_template_kwargs"][:] == [{"loud": True}] * 3
    assert to_trl(rows).to_list() == rows.to_list()
    assert trl_lengths(rows, tokenizer)["longest"] > quiet["longest"] + 40


def test_a_template_that_renders_the_prompt_otherwise_is_told(
    pairs: Dataset, tiny_lm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    assert trl_lengths(to_trl(pairs), tokenizer)["boundary_moved"] == 0
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>{% endif", "<|assistant|>think{% endif")
    caplog.clear()
    assert trl_lengths(to_trl(pairs), tokenizer)["boundary_moved"] == 3
    assert "In 3 of 3 pairs the prompt's last tokens change once an answer follows" in caplog.text


def test_trls_own_script_takes_the_folder_without_a_warning_about_it(pairs: Dataset, tiny_lm: str, tmp_path: Path) -> None:
    to_trl(pairs).to_parquet(tmp_path / "data" / "train.parquet")
    command = [
        sys.executable, "-m", "trl.cli.main", "dpo", "--dataset_name", str(tmp_path / "data"), "--model_name_or_path", tiny_lm,
        "--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--per_device_train_batch_size", "1", "--report_to", "none",
        "--bf16", "False", "--use_cpu", "--use_peft", "--logging_steps", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "HF_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "Training completed" in said
    assert "not a prefix" not in said
    warnings = [line for line in said.splitlines() if "Warning" in line or "warning" in line]
    assert not [
        line for line in warnings if any(word in line.lower() for word in ("column", "token", "dataset", "prompt", "truncat"))
    ]
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_llamafactory_finds_its_ranking_file(pairs: Dataset, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    path = to_llamafactory(pairs, tmp_path, name="answers")
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["mine"] == {"file_name": "mine.json"}
    entry = info["answers"]
    assert (entry["formatting"], entry["ranking"]) == ("sharegpt", True)
    assert tmp_path / entry["file_name"] == path
    rows = load_dataset("json", data_files=str(path), split="train")
    columns = entry["columns"]
    assert rows[0][columns["messages"]] == [{"from": "human", "value": "What is a truss?"}]
    assert rows[0][columns["chosen"]] == {"from": "gpt", "value": "A frame of triangles."}
    assert rows[0][columns["rejected"]] == {"from": "gpt", "value": "A cat."}
    assert len(rows) == 3
    assert to_llamafactory(to_trl(pairs), tmp_path, name="again").read_text() == path.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.jsonl", "answers.jsonl", "dataset_info.json"]


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "must hold an object")])
def test_a_broken_dataset_info_is_left_alone(text: str, message: str, pairs: Dataset, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(ValueError, match=rf"dataset_info\.json {message}"):
        to_llamafactory(pairs, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["dataset_info.json"]
