"""The way of the generator with a real model: questions, its own answers, pairs, DPO, and what it then prefers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from rir_hf import ChatLLM, Retriever
from tests.test_recipes import read_lines, run, write_lines

QUESTIONS = 32


def hardest(rows: list[dict], retriever: Retriever) -> list[dict]:
    """The questions whose answer the retriever ranks worst: there an imagined answer can help."""
    queries, passages = retriever.encode_queries([row["q"] for row in rows]), retriever.encode_corpus([row["a"] for row in rows])
    ranks = (queries @ passages.T > (queries * passages).sum(1, keepdims=True)).sum(1)
    worst = np.argsort(-ranks, kind="stable")[:QUESTIONS]
    return [{"query": rows[place]["q"], "passage": rows[place]["a"]} for place in worst]


def summed(llm: ChatLLM, pairs: Dataset) -> np.ndarray:
    """Summed log-probabilities of the chosen and the rejected answer of each pair, `(2, pairs)`."""
    prompts = [row["prompt"] for row in pairs]
    return np.array(
        [
            [found.sum() for found in llm.sequence_logprobs(prompts, [row[name][0]["content"] for row in pairs])]
            for name in ("chosen", "rejected")
        ]
    )


@pytest.mark.slow
def test_dpo_teaches_a_real_generator_to_prefer_what_the_retriever_finds(
    faq_file: Path, minilm: str, retriever: Retriever, smollm: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "hard.jsonl", hardest(read_lines(faq_file), retriever))
    folder, file = smollm
    run(
        "generate.py", "--pairs", tmp_path / "hard.jsonl", "--generate_model_path", folder, "--gguf_file", file, "--answers", 4,
        "--words", 30, "--max_tokens", 48, "--temperature", 0.7, "--top_p", 0.9, "--output", tmp_path / "made", home=tmp_path,
    )  # fmt: skip
    run("preferences.py", "--rows", tmp_path / "made" / "rows", "--model", minilm, "--output", tmp_path / "pref", home=tmp_path)
    run(
        "train_generator.py", "--data", tmp_path / "pref" / "trl", "--model", folder, "--gguf_file", file, "--output",
        tmp_path / "adapter", "--merged_output", tmp_path / "merged", "--max_steps", 20, "--batch_size", 4, "--accumulate", 1,
        "--learning_rate", "6e-4", "--lora_r", 8, "--lora_alpha", 16, "--logging_steps", 4, home=tmp_path, timeout=900,
    )  # fmt: skip
    pairs = load_dataset(str(tmp_path / "pref" / "trl"), split="train")
    assert len(pairs) >= 16
    logged = [entry for entry in json.loads((tmp_path / "adapter" / "metrics.json").read_text()) if "loss" in entry]
    first, last = logged[0], logged[-1]
    before = summed(ChatLLM(folder, gguf_file=file), pairs)
    after, merged = (summed(ChatLLM(str(tmp_path / name)), pairs) for name in ("adapter", "merged"))
    rewards = 0.1 * (after - before)
    margins = rewards[0] - rewards[1]
    prefers = [float((found[0] > found[1]).mean()) for found in (before, after)]
    logs = {name: [float(first[name]), float(last[name])] for name in ("loss", "rewards/accuracies", "rewards/margins")}
    overall = {
        "pairs": len(pairs),
        "reward accuracy": round(float((margins > 0).mean()), 3),
        "reward margin": round(float(margins.mean()), 3),
        "chosen likelier, before and after": prefers,
        "by": [round(float((found[0] - found[1]).mean()), 2) for found in (before, after)],
    }
    with capsys.disabled():
        print(f"\nDPO, first and last lines of the log: {logs}\nOver all pairs: {overall}")  # noqa: T201 - what this test is for
    assert float(last["loss"]) < math.log(2) - 0.1
    assert float(last["rewards/accuracies"]) > float(first["rewards/accuracies"])
    assert float(last["rewards/margins"]) > float(first["rewards/margins"])
    assert (margins > 0).mean() > 0.9
    assert prefers[1] > prefers[0]
    np.testing.assert_allclose(after, merged, atol=1e-2)
