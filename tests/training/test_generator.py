"""Tuning a generator: DPO on preference pairs, the adapter and the merged model that come out."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf.cli.main import main
from rir_hf.models.local import ChatLLM
from rir_hf.training.generator import check_no_adapter, train_generator

QUICK = {"max_steps": 6, "batch_size": 4, "accumulate": 1, "learning_rate": 1e-2, "lora_r": 4}
QUESTIONS = 32


@pytest.fixture(scope="module")
def pairs(faq_file: Path) -> Dataset:
    """Eight pairs of real text, and one that is none."""
    faq = Dataset.from_json(str(faq_file)).select(range(9))
    return Dataset.from_dict(
        {
            "prompt": faq["q"][:],
            "chosen": [*(text[:40] for text in faq["a"][:8]), None],
            "rejected": [*["Cats sleep."] * 8, None],
        }
    )


def sums(llm: ChatLLM, prompts: list[Any], answers: list[str]) -> np.ndarray:
    """The summed log-probabilities of the answers."""
    return np.array([found.sum() for found in llm.sequence_logprobs(prompts, answers)])


@pytest.fixture(scope="module")
def tuned(pairs: Dataset, tiny_lm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapter and the merged model of six steps."""
    folder = tmp_path_factory.mktemp("tuned")
    outputs = {"output": folder / "adapter", "merged_output": folder / "merged"}
    made = train_generator(pairs, tiny_lm, **outputs, logging_steps=1, **QUICK)
    assert made == folder / "adapter"
    return folder


def test_the_loss_starts_at_the_log_of_two_and_falls(tuned: Path) -> None:
    history = json.loads((tuned / "adapter" / "metrics.json").read_text())
    losses = [float(entry["loss"]) for entry in history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
    assert losses[-1] < losses[0]


def test_adapter_and_merged_model_load_and_say_the_same(
    tuned: Path, pairs: Dataset, tiny_lm: str
) -> None:
    prompts, chosen = pairs["prompt"][:8], pairs["chosen"][:8]
    adapter, merged, base = (
        sums(ChatLLM(str(folder)), prompts, chosen)
        for folder in (tuned / "adapter", tuned / "merged", tiny_lm)
    )
    assert adapter == pytest.approx(merged, abs=1e-3)
    assert adapter != pytest.approx(base, abs=1e-1)
    assert ChatLLM(str(tuned / "adapter")).generate(["What is a truss?"], max_tokens=4)[0][0]


def test_the_same_seed_trains_the_same_adapter(
    tuned: Path, pairs: Dataset, tiny_lm: str, tmp_path: Path
) -> None:
    train_generator(pairs, tiny_lm, tmp_path, **QUICK)
    name = "adapter_model.safetensors"
    assert (tmp_path / name).read_bytes() == (tuned / "adapter" / name).read_bytes()


def test_all_weights_are_trained_where_that_is_asked(
    pairs: Dataset, tiny_lm: str, tmp_path: Path
) -> None:
    train_generator(pairs, tiny_lm, tmp_path, full=True, **QUICK)
    assert (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "adapter_config.json").exists()


@pytest.mark.parametrize("more", [{}, {"merged_output": "merged"}, {"full": True}])
def test_an_adapter_is_not_trained_further_but_refused_at_once(
    more: dict[str, Any], tuned: Path, pairs: Dataset, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(ValueError, match=r"adapter holds an adapter, .* merged_output .*--merged"):
        train_generator(pairs, tuned / "adapter", output, **more)
    assert not output.exists()
    command = ["train-generator", "--rows", str(tmp_path), "--model", str(tuned / "adapter")]
    assert main([*command, "--output", str(output)]) == 2
    check_no_adapter(tuned / "merged")


@pytest.mark.parametrize("where", ["output", "merged_output"])
def test_no_file_of_an_earlier_adapter_is_loaded_with_the_new_model(
    where: str, tuned: Path, pairs: Dataset, tiny_lm: str, tmp_path: Path
) -> None:
    """A model is written where an adapter was that says something else."""
    folder = tmp_path / "there"
    shutil.copytree(tuned / "adapter", folder)
    (folder / "notes.txt").touch()
    step = {"max_steps": 1, "learning_rate": 0.0, "batch_size": 4, "accumulate": 1}
    outputs = {"output": tmp_path / "other", where: folder}
    train_generator(pairs, tiny_lm, **outputs, full=where == "output", **step)
    assert not list(folder.glob("adapter*"))
    assert (folder / "notes.txt").exists()
    both = (ChatLLM(str(each)) for each in (folder, tiny_lm))
    prompts, chosen = pairs["prompt"][:8], pairs["chosen"][:8]
    found, expected = (sums(llm, prompts, chosen) for llm in both)
    assert found == pytest.approx(expected, abs=1e-3)


def test_wrong_input_is_named_before_training(pairs: Dataset, tiny_lm: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="All 8 prompts have max_length=3 tokens or more"):
        train_generator(pairs, tiny_lm, tmp_path, max_length=3)
    with pytest.raises(ValueError, match="merged_output goes with LoRA"):
        train_generator(pairs, tiny_lm, tmp_path, full=True, merged_output=tmp_path / "merged")
    with pytest.raises(ValueError, match="merged_output must be another folder than output"):
        train_generator(pairs, tiny_lm, tmp_path, merged_output=tmp_path)
    with pytest.raises(FileNotFoundError, match="no model at ./none"):
        train_generator(pairs, "./none", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        train_generator(pairs, tiny_lm, tmp_path / "file")


def hardest(faq_file: Path, retriever: Any) -> Dataset:
    """The questions whose answer the retriever ranks worst: there an imagined answer can help."""
    faq = Dataset.from_json(str(faq_file))
    queries, passages = (
        retriever.encode_queries(faq["q"][:]),
        retriever.encode_corpus(faq["a"][:]),
    )
    own = (queries * passages).sum(1, keepdims=True)
    ranks = (queries @ passages.T > own).sum(1)
    worst = faq.select(np.argsort(-ranks, kind="stable")[:QUESTIONS])
    return worst.select_columns(["q", "a"]).rename_columns({"q": "query", "a": "passage"})


# Last run on 2026-11-25: passed, 19 minutes on 2 busy cores.
@pytest.mark.soak
def test_dpo_teaches_a_real_generator_to_prefer_what_the_retriever_finds(
    faq_file: Path, retriever: Any, smollm: tuple[Path, str], tmp_path: Path
) -> None:
    from rir_hf import GenerateAnswers, PreferencePairs, to_trl

    folder, file = smollm
    llm = ChatLLM(os.fspath(folder), gguf_file=file)
    write = GenerateAnswers(llm, n=4, words=30, max_tokens=48, temperature=0.7, top_p=0.9)
    rows = hardest(faq_file, retriever).map(write, batched=True)
    pairs = to_trl(rows.map(PreferencePairs(retriever), batched=True))
    assert len(pairs) >= 16
    train_generator(
        pairs,
        folder,
        tmp_path / "adapter",
        gguf_file=file,
        merged_output=tmp_path / "merged",
        max_steps=20,
        accumulate=1,
        learning_rate=6e-4,
        lora_r=8,
        lora_alpha=16,
        logging_steps=4,
    )
    history = json.loads((tmp_path / "adapter" / "metrics.json").read_text())
    logged = [entry for entry in history if "loss" in entry]
    adapter, merged = (ChatLLM(str(tmp_path / name)) for name in ("adapter", "merged"))
    answers = [[row[0]["content"] for row in pairs[name]] for name in ("chosen", "rejected")]
    before, after, whole = (
        np.array([sums(model, pairs["prompt"][:], side) for side in answers])
        for model in (llm, adapter, merged)
    )
    rewards = 0.1 * (after - before)
    assert float(logged[-1]["loss"]) < math.log(2) - 0.1
    for name in ("rewards/accuracies", "rewards/margins"):
        assert float(logged[-1][name]) > float(logged[0][name])
    assert (rewards[0] > rewards[1]).mean() > 0.9
    assert (after[0] > after[1]).mean() > (before[0] > before[1]).mean()
    np.testing.assert_allclose(after, whole, atol=1e-2)
