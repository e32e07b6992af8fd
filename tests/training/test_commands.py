"""The trainers' commands, with held-out rows and settings of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard

from rir_hf.cli.main import main
from tests.training.jobs import scored


@pytest.mark.slow
def test_a_retriever_is_trained_with_a_split_held_out(tiny_bert: str, tmp_path: Path) -> None:
    splits = DatasetDict(train=scored(8), dev=scored(6, "held out"))
    splits.save_to_disk(str(tmp_path / "rows"))
    options = ["--eval_split", "dev", "--eval_steps", "1", "--max_steps", "2", "--lora_r", "2"]
    arguments = "{lr_scheduler_type: cosine, gradient_accumulation_steps: 2}"
    places = ["--rows", str(tmp_path / "rows"), "--output", str(tmp_path / "out")]
    command = ["train-retriever", *places, "--model", tiny_bert, *options]
    assert main([*command, "--arguments", arguments]) == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "- the best step was chosen by 6 held-out rows" in card.content
    assert "`lr_scheduler_type`: cosine" in card.content
    assert card.data.datasets is None
    assert not (tmp_path / "out" / "eval").exists()


@pytest.mark.slow
def test_a_generator_is_trained_with_pairs_held_out(tiny_lm: str, tmp_path: Path) -> None:
    for name, prompt in (("train", "What?"), ("dev", "Why?")):
        pairs = [{"prompt": prompt, "chosen": "That.", "rejected": "No."}] * 4
        Dataset.from_list(pairs).to_json(str(tmp_path / f"{name}.jsonl"))
    places = ["--rows", str(tmp_path / "train.jsonl"), "--output", str(tmp_path / "out")]
    options = ["--eval_rows", str(tmp_path / "dev.jsonl"), "--max_steps", "1"]
    command = ["train-generator", *places, "--model", tiny_lm, *options]
    assert main([*command, "--arguments", "{loss_type: ipo}"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- the best step was chosen by 4 held-out rows" in card
