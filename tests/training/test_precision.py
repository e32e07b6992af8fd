"""Weights are trained in float32, and written in the precision in which the model was stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from rir_hf.models.retriever import Retriever
from rir_hf.training.retriever import train_retriever
from tests.training.jobs import pairs

QUICK = {"max_steps": 4, "batch_size": 4, "max_length": 16}
WEIGHTS = "model.safetensors"


def stored_in(dtype: torch.dtype, model: str | Path, folder: Path) -> Path:
    """The same model with weights of this precision, all of whose precisions have their values."""
    encoder = SentenceTransformer(str(model))
    encoder.to(torch.float16).to(torch.bfloat16).to(dtype).save(str(folder))
    return folder


@pytest.mark.parametrize(
    "more", [{}, {"keep": 0.5}, {"lora_r": 2, "learning_rate": 1e-3}, {"dev": True}]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_precision_of_storage_decides_nothing_but_the_rounding_at_the_end(
    dtype: torch.dtype, more: dict[str, Any], tiny_bert: str, tmp_path: Path
) -> None:
    """Against the same weights stored in float32."""
    rows, dev = pairs(16), pairs(6, "held out")
    options = {**QUICK, **more} | ({"dev": dev, "eval_steps": 1} if "dev" in more else {})
    plain = stored_in(torch.float32, tiny_bert, tmp_path / "plain")
    low = stored_in(dtype, plain, tmp_path / "low")
    start, found, whole = (
        load_file(folder / WEIGHTS)
        for folder in (
            plain,
            train_retriever(rows, low, tmp_path / "a", **options),
            train_retriever(rows, plain, tmp_path / "b", **options),
        )
    )
    assert found.keys() == whole.keys()
    assert {weights.dtype for weights in found.values()} == {dtype}
    assert {weights.dtype for weights in whole.values()} == {torch.float32}
    for name, weights in found.items():
        torch.testing.assert_close(weights, whole[name].to(dtype), msg=name)
    if "dev" not in more:  # whose best step is the start
        assert any(not torch.equal(start[name], weights) for name, weights in whole.items())


@pytest.mark.parametrize("dev", [None, pairs(6, "held out")])
def test_frozen_passages_keep_their_vectors_and_queries_their_precision(
    dev: Dataset | None, minilm: str, tmp_path: Path
) -> None:
    model = stored_in(torch.bfloat16, minilm, tmp_path / "stored")
    rows, options = pairs(8), {**QUICK, "dev": dev, "eval_steps": 2, "learning_rate": 1e-3}
    folder = train_retriever(rows, model, tmp_path / "trained", freeze_passages=True, **options)
    old = load_file(model / WEIGHTS)
    for side in ("query", "document"):
        weights = load_file(folder / f"{side}_0_Transformer" / WEIGHTS)
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}
        same = all(torch.equal(value, old[name]) for name, value in weights.items())
        assert same == (side == "document" or dev is not None)  # whose best step is the start
    texts = [text for texts in rows["pos"] for text in texts]
    before, after = (Retriever(str(each)).encode_corpus(texts) for each in (model, folder))
    np.testing.assert_array_equal(before, after)
