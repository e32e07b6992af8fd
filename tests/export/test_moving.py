"""What the guide for people from other tools says of them, held against the tools themselves; the
script hn_mine.py, which no package has, against its rule.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import (
    CrossEncoderTeacher,
    MineNegatives,
    Retriever,
    ScorePassages,
    to_flagembedding,
    to_sentence_transformers,
    to_trl,
)
from tests.export.wheels import from_wheel


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"relative_margin": 0.05}, {"relative_margin": None, "range_min": 3}]
)
def test_the_negatives_are_those_of_mine_hard_negatives(
    options: dict[str, Any], faq_corpus: Dataset, faq_pairs: Dataset, minilm: str
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    theirs = mine_hard_negatives(
        faq_pairs.select_columns(["query", "passage"]),
        SentenceTransformer(minilm),
        num_negatives=3,
        range_max=len(faq_corpus),
        output_format="n-tuple",
        verbose=False,
        **options,
    )
    mined = faq_pairs.map(MineNegatives(faq_corpus, num_negatives=3, **options), batched=True)
    ours = to_sentence_transformers(mined, loss="n-tuple", num_negatives=3)
    assert [[*row.values()] for row in ours] == [[*row.values()] for row in theirs]


def test_random_negatives_come_from_the_ranks_that_hn_mine_draws_from(
    faq_corpus: Dataset, faq_pairs: Dataset, retriever: Retriever
) -> None:
    """`--range_for_sampling 2-8` counts the positive, `range_min` and `range_max` do not."""
    rows = faq_pairs.select(range(20))
    step = MineNegatives(
        faq_corpus,
        num_negatives=3,
        range_min=2,
        range_max=8,
        sampling_strategy="random",
        relative_margin=None,
    )
    vectors = np.array(faq_corpus["embedding"])
    for row in rows.map(step, batched=True):
        order = np.argsort(-vectors @ np.array(row["embedding"]))
        ranked = [faq_corpus[int(place)]["text"] for place in order]
        others = [text for text in ranked if text != row["passage"]]
        assert len(row["neg"]) == 3
        assert set(row["neg"]) <= set(others[2:8])


@pytest.mark.slow
def test_scores_are_those_of_the_reranker_that_add_reranker_score_asks(
    faq_file: Path, minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script calls `compute_score` on each query with its passages, the positives first."""
    import torch
    from sentence_transformers import CrossEncoder

    spec = importlib.util.find_spec("FlagEmbedding")
    if spec is None:
        pytest.skip("pip install --no-deps FlagEmbedding")
    # Not executed: it imports what is no longer in transformers (5.24, November 2026).
    monkeypatch.setitem(sys.modules, "FlagEmbedding", importlib.util.module_from_spec(spec))
    flag = from_wheel("FlagEmbedding", "inference/reranker/encoder_only", "base")
    torch.manual_seed(0)
    CrossEncoder(minilm, num_labels=1, device="cpu").save_pretrained(str(tmp_path))
    faq = Dataset.from_json(str(faq_file)).select(range(6))
    answers = faq["a"][:]
    rows = Dataset.from_dict(
        {
            "query": faq["q"][:2],
            "pos": [answers[:1], answers[1:3]],
            "neg": [answers[3:], answers[:1]],
        }
    )
    pairs = [(row["query"], text) for row in rows for text in (*row["pos"], *row["neg"])]
    theirs = flag.BaseReranker(str(tmp_path), use_fp16=False, devices="cpu").compute_score(pairs)
    teacher = CrossEncoderTeacher(str(tmp_path))
    lines = to_flagembedding(rows.map(ScorePassages(teacher), batched=True))
    ours = [score for row in lines for score in (*row["pos_scores"], *row["neg_scores"])]
    assert len({round(score, 4) for score in theirs}) > 3
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.slow
def test_what_distilabel_formats_for_dpo_goes_on_here() -> None:
    pytest.importorskip("distilabel", reason="pip install distilabel")
    from distilabel.steps import FormatTextGenerationDPO

    rows = [
        {
            "instruction": "What is a truss?",
            "generations": ["A cat.", "A frame."],
            "ratings": [1, 5],
        },
    ]
    made = Dataset.from_list(next(FormatTextGenerationDPO().process(rows)))
    last = made.map(lambda row: {name: row[name][-1:] for name in ("chosen", "rejected")})
    assert to_trl(last).to_list() == [
        {
            "prompt": [{"role": "user", "content": "What is a truss?"}],
            "chosen": [{"role": "assistant", "content": "A frame."}],
            "rejected": [{"role": "assistant", "content": "A cat."}],
        }
    ]
