"""Embedding: one float32 array per batch, the same whatever the batch, rows that cannot be embedded kept in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset

from rir_hf import Embed, Retriever

TEXTS = ["one", "two words", "now three words", "and there are four", "five five five five five", "six"]


class Lengths:
    """An encoder of another make: the number of characters, and which method was called."""

    def encode_queries(self, texts: list[str], **_: object) -> list[list[float]]:
        return [[len(text), 1.0] for text in texts]

    def encode_corpus(self, texts: list[str], **_: object) -> np.ndarray:
        assert [len(text) for text in texts] == sorted((len(text) for text in texts), reverse=True)
        return np.array([[len(text), 2.0] for text in texts], np.float64)

    def identity(self) -> str:
        return "lengths"


def test_a_batch_comes_back_as_one_float32_array_of_the_model_s_vectors(retriever: Retriever) -> None:
    column = Embed(retriever)({"text": TEXTS})
    assert list(column) == ["embedding"]
    assert column["embedding"].dtype == np.float32
    np.testing.assert_allclose(column["embedding"], retriever.encode_corpus(TEXTS), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_vectors_do_not_depend_on_the_batch_size(retriever: Retriever, batch_size: int) -> None:
    rows = Dataset.from_dict({"text": TEXTS}).map(Embed(retriever), batched=True, batch_size=batch_size)
    assert rows.features["embedding"].feature.dtype == "float32"
    np.testing.assert_allclose(rows.with_format("numpy")["embedding"][:], retriever.encode_corpus(TEXTS), atol=1e-6)


def test_the_role_picks_prompt_and_method_and_the_output_its_name() -> None:
    rows = Dataset.from_dict({"query": TEXTS})
    rows = rows.map(Embed(Lengths(), "query", role="query", output="q"), batched=True)
    rows = rows.map(Embed(Lengths(), "query", output="p"), batched=True)
    assert rows["q"][:] == [[float(len(text)), 1.0] for text in TEXTS]
    assert rows["p"][:] == [[float(len(text)), 2.0] for text in TEXTS]


def test_an_empty_text_keeps_its_row_with_a_vector_of_zeros_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_dict({"text": ["", "ab", None, " \n", "abc"]}).map(Embed(Lengths()), batched=True, batch_size=2)
    assert rows["embedding"][:] == [[0, 0], [2, 2], [0, 0], [0, 0], [3, 2]]
    assert "empty texts in 'text' get a vector of zeros" in caplog.text


def test_one_example_a_single_map_and_a_stream_give_the_same(retriever: Retriever) -> None:
    rows = Dataset.from_dict({"text": TEXTS})
    expected = retriever.encode_corpus(TEXTS)
    np.testing.assert_allclose(Embed(retriever)(rows[0])["embedding"], expected[0], atol=1e-6)
    np.testing.assert_allclose(rows.map(Embed(retriever))["embedding"][:], expected, atol=1e-6)
    stream = rows.to_iterable_dataset().map(Embed(retriever), batched=True, batch_size=4)
    np.testing.assert_allclose([row["embedding"] for row in stream], expected, atol=1e-6)


def test_wrong_columns_and_settings_are_named() -> None:
    rows = Dataset.from_dict({"text": ["a"], "number": [1], "list": [["a"]]})
    with pytest.raises(ValueError, match=r"needs the column 'body', but the dataset has only \['list', 'number', 'text'\]"):
        rows.map(Embed(Lengths(), "body"), batched=True)
    for column in ("number", "list"):
        with pytest.raises(ValueError, match=f"column '{column}' must hold strings"):
            rows.map(Embed(Lengths(), column), batched=True)
    with pytest.raises(ValueError, match="role must be"):
        Embed(Lengths(), role="document")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got int"):
        Embed(3)  # type: ignore[arg-type]


def test_an_encoder_that_loses_texts_is_found_out() -> None:
    class Careless(Lengths):
        def encode_corpus(self, texts: list[str], **_: object) -> np.ndarray:
            return np.ones((1, 2))

    with pytest.raises(ValueError, match=r"shape \(1, 2\) for 6 texts"):
        Dataset.from_dict({"text": TEXTS}).map(Embed(Careless()), batched=True)


def test_each_worker_s_rank_picks_its_own_gpu_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []

    class Movable(Lengths):
        def to(self, device: str) -> None:
            moved.append(device)

    Embed(Movable())({"text": ["a"]}, rank=5)
    assert moved == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for rank in (0, 1, 5):
        Embed(Movable())({"text": ["a"]}, rank=rank)
    Embed(Movable())({"text": ["a"]})
    assert moved == ["cuda:0", "cuda:1", "cuda:1"]
