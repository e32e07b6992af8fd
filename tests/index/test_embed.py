"""Embedding: one float32 array per batch, the same in any batch, empty texts kept in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, Value

from rir_hf import Embed, Retriever, run

TEXTS = ["one", "two words", "now three words", "and there are four", "five five five", "six"]


class Lengths:
    """The number of characters, and which method was called; texts come longest first."""

    def encode_queries(self, texts: list[str], **_: object) -> list[list[float]]:
        return [[len(text), 1.0] for text in texts]

    def encode_corpus(self, texts: list[str], **_: object) -> np.ndarray:
        lengths = [len(text) for text in texts]
        assert lengths == sorted(lengths, reverse=True)
        assert len(set(texts)) == len(texts)
        return np.array([[length, 2.0] for length in lengths], np.float64)

    def identity(self) -> str:
        return "lengths"


def test_vectors_are_the_model_s_in_one_float32_array_whatever_the_batch(
    retriever: Retriever,
) -> None:
    rows, step = Dataset.from_dict({"text": TEXTS}), Embed(retriever)
    expected = retriever.encode_corpus(TEXTS)
    assert step({"text": TEXTS})["embedding"].dtype == np.float32
    found = rows.map(step, batched=True, batch_size=4)
    assert found.data.schema.field("embedding").type == pa.list_(pa.float32())
    np.testing.assert_allclose(found["embedding"][:], expected, atol=1e-6)
    np.testing.assert_allclose(step.one(rows[0])["embedding"], expected[0], atol=1e-6)
    stream = rows.to_iterable_dataset().map(step, batched=True, batch_size=2)
    np.testing.assert_allclose([row["embedding"] for row in stream], expected, atol=1e-6)


def test_the_role_picks_the_method_and_the_output_its_name() -> None:
    rows = Dataset.from_dict({"query": TEXTS})
    rows = rows.map(Embed(Lengths(), "query", role="query", output="q"), batched=True)
    rows = rows.map(Embed(Lengths(), "query", output="p"), batched=True)
    assert rows["q"][:] == [[float(len(text)), 1.0] for text in TEXTS]
    assert rows["p"][:] == [[float(len(text)), 2.0] for text in TEXTS]


@pytest.mark.parametrize("batch_size", [1, 1000])
def test_empty_texts_keep_their_rows_with_zeros_and_equal_texts_share_a_vector(
    batch_size: int,
) -> None:
    rows = Dataset.from_dict({"text": ["", None, "ab", " \n", "abc", "ab"]})
    rows = rows.map(Embed(Lengths()), batched=True, batch_size=batch_size)
    assert rows["embedding"][:] == [[0, 0], [0, 0], [2, 2], [0, 0], [3, 2], [2, 2]]
    assert rows.data.schema.field("embedding").type == pa.list_(pa.float32())


def test_a_dataset_without_a_text_or_without_a_row_has_vectors_of_the_right_type() -> None:
    features = Features({"text": Value("string")})
    empty = Dataset.from_dict({"text": [None, None]}, features=features)
    assert empty.map(Embed(Lengths()), batched=True)["embedding"][:] == [[0, 0], [0, 0]]
    added = Embed(Lengths())({"text": []})["embedding"]
    assert pa.array(added).type == pa.list_(pa.float32())


def test_lists_of_texts_get_lists_of_vectors_in_their_order() -> None:
    rows = [["ab", "a", ""], [], None, ["abc"], [None, "ab"]]
    expected = [[[2, 1], [1, 1], [0, 0]], [], [], [[3, 1]], [[0, 0], [2, 1]]]
    step = Embed(Lengths(), "answers", role="query", output="vectors")
    answers = Dataset.from_dict({"answers": rows})
    step.check(answers.features)
    kind = pa.list_(pa.list_(pa.float32()))
    for batch_size in (1, 5):
        found = answers.map(step, batched=True, batch_size=batch_size)
        assert found["vectors"][:] == expected
        assert found.data.schema.field("vectors").type == kind
        shards = run(answers, step, batch_size=batch_size, rows_per_shard=2)
        assert shards["vectors"][:] == expected
        assert shards.data.schema.field("vectors").type == kind
    assert [step.one(row)["vectors"] for row in answers if row["answers"]] == [
        row for row in expected if row
    ]
    stream = run(answers.to_iterable_dataset(), step)
    assert [row["vectors"] for row in stream] == expected


def test_wrong_columns_and_settings_are_named() -> None:
    columns = {"text": ["a"], "number": [1], "list": [[2]], "lists": [[["a"]]]}
    rows = Dataset.from_dict(columns)
    with pytest.raises(ValueError, match=r"needs the column 'body', but the dataset has only"):
        rows.map(Embed(Lengths(), "body"), batched=True)
    for column in ("number", "list", "lists"):
        with pytest.raises(ValueError, match=f"column '{column}' must hold (lists of )?texts"):
            rows.map(Embed(Lengths(), column), batched=True)
        with pytest.raises(ValueError, match=f"column '{column}' must hold string"):
            Embed(Lengths(), column).check(rows.features)
    role: Any = "document"
    with pytest.raises(ValueError, match="role must be"):
        Embed(Lengths(), role=role)
    number: Any = 3
    with pytest.raises(TypeError, match="got int"):
        Embed(number)


def test_an_encoder_that_loses_texts_is_noticed() -> None:
    class Careless(Lengths):
        def encode_corpus(self, texts: list[str], **_: object) -> np.ndarray:
            return np.ones((1, 2))

    with pytest.raises(ValueError, match=r"Careless gave an array of shape \(1, 2\) for 6 texts"):
        Dataset.from_dict({"text": TEXTS}).map(Embed(Careless()), batched=True)


def test_each_worker_puts_its_encoder_on_a_gpu_of_its_own_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved: list[str] = []

    class Movable(Lengths):
        def to(self, device: str) -> None:
            moved.append(device)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    Embed(Movable())({"text": ["a"]}, rank=5)
    assert moved == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for rank in (0, 1, 5):
        Embed(Movable())({"text": ["a"]}, rank=rank)
    Embed(Movable())({"text": ["a"]})
    assert moved == ["cuda:0", "cuda:1", "cuda:1"]


def test_a_run_says_once_how_many_texts_were_cut(
    minilm: str, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["a short one", "one " * 40, "two " * 40, "", "one " * 40]
    embed = Embed(Retriever(minilm, max_length=8))
    run(Dataset.from_dict({"text": texts}), embed, batch_size=2)
    said = [message for message in caplog.messages if "cut" in message]
    assert said == ["Embed: 3 of 4 texts fill max_length and were cut (75%)"]
    caplog.clear()
    run(Dataset.from_dict({"text": texts[:1]}), embed)
    assert "cut" not in caplog.text
