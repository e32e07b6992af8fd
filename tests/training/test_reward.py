"""What a text is worth to a retriever, as a reward that GRPO takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import RetrievalReward, Retriever


@pytest.fixture(scope="module")
def asked(faq_pairs: Dataset) -> Dataset:
    """Questions and the ids of their answers."""
    rows = faq_pairs.select(range(6)).select_columns(["query_id", "query"])
    return rows.map(lambda row: {"pos_ids": [row["query_id"]]}, remove_columns="query_id")


@pytest.mark.parametrize("weight", [1.0, 0.2])
def test_the_reward_is_the_reciprocal_rank_of_the_passage(
    weight: float, faq_corpus: Dataset, retriever: Retriever, asked: Dataset
) -> None:
    """Against plain NumPy: the completions are other questions of the list."""
    written = [*asked["query"][1:], asked["query"][0]]
    reward = RetrievalReward(retriever, faq_corpus, k=len(faq_corpus), answer_weight=weight)
    vectors = np.array(faq_corpus["embedding"], np.float64)
    queries, answers = (
        retriever.encode_queries(texts).astype(np.float64) for texts in (asked["query"][:], written)
    )
    scores = ((1 - weight) * queries + weight * answers) @ vectors.T
    wanted = []
    for row, names in zip(scores, asked["pos_ids"], strict=True):
        place = faq_corpus["id"].index(names[0])
        rank = 1 + (row > row[place]).sum()
        wanted.append(1 / rank if rank <= 100 else 0.0)
    found = reward(completions=written, pos_ids=asked["pos_ids"][:], query=asked["query"][:])
    assert found == pytest.approx(wanted)
    assert len(set(found)) > 1


def test_conversations_are_read_and_no_text_is_worth_nothing(
    faq_corpus: Dataset, retriever: Retriever, asked: Dataset
) -> None:
    reward = RetrievalReward(retriever, faq_corpus, measure="nDCG@10")
    text = asked["query"][0]
    completions = [[{"role": "assistant", "content": text}], text, " ", []]
    first, second, *others = reward(completions=completions, pos_ids=[asked["pos_ids"][0]] * 4)
    assert first == second > 0
    assert others == [0.0, 0.0]
    assert reward(completions=[text], pos_ids=asked["pos_ids"][0]) == [first]  # an id, no list


def test_what_is_missing_is_said(faq_corpus: Dataset, retriever: Retriever, asked: Dataset) -> None:
    with pytest.raises(ValueError, match="needs the column 'pos_ids' .* found \\['label'\\]"):
        RetrievalReward(retriever, faq_corpus)(completions=["a"], label=[1])
    reward = RetrievalReward(retriever, faq_corpus)
    with pytest.raises(ValueError, match="none of the pos_ids is in the corpus, \\['x'\\]"):
        reward(completions=["a"], pos_ids=[["x"]])
    with pytest.raises(ValueError, match="got 1 completions and 2 pos_ids"):
        reward(completions=["a"], pos_ids=[["x"], ["y"]])
    both = RetrievalReward(retriever, faq_corpus, answer_weight=0.2)
    with pytest.raises(ValueError, match="needs the column 'query'"):
        both(completions=["a"], pos_ids=[["x"]])
    with pytest.raises(ValueError, match="answer_weight"):
        RetrievalReward(retriever, faq_corpus, answer_weight=1.5)


@pytest.mark.slow
def test_grpo_trains_with_it(
    faq_corpus: Dataset, retriever: Retriever, asked: Dataset, tiny_lm: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    reward = RetrievalReward(retriever, faq_corpus, answer_weight=0.2)
    settings: dict[str, Any] = {
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 8,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    rows = asked.map(lambda row: {"prompt": [{"role": "user", "content": row["query"]}]})
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_lm),
        processing_class=AutoTokenizer.from_pretrained(tiny_lm),
        reward_funcs=reward,
        train_dataset=rows,
        args=GRPOConfig(str(tmp_path), **settings),
    )
    trainer.train()
    logged = [row for row in trainer.state.log_history if "rewards/retrieval_RR@100/mean" in row]
    assert len(logged) == 3
    assert all(0 <= row["rewards/retrieval_RR@100/mean"] <= 1 for row in logged)
