"""Training a retriever: scored rows are distilled, others contrasted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from rir_hf.models.retriever import Retriever
from rir_hf.training.retriever import train_retriever

QUICK = {"max_steps": 2, "batch_size": 4, "max_length": 32, "learning_rate": 1e-3}

# All eight rows are a batch, so that an epoch has one step for each dataset.
EACH = {"epochs": 1, "batch_size": 8, "train_length": 16, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def rows(faq_file: Path) -> Dataset:
    """Scored rows of real text, with two negatives."""
    faq = Dataset.from_json(str(faq_file)).select(range(10))
    texts = faq["a"][:]
    return Dataset.from_dict(
        {
            "query": faq["q"][:8],
            "pos": [[text] for text in texts[:8]],
            "neg": [texts[number + 1 : number + 3] for number in range(8)],
            "pos_scores": [[-1.0]] * 8,
            "neg_scores": [[-2.0, -4.0]] * 8,
            "id": list(range(8)),
        }
    )


def vector(model: str | Path) -> np.ndarray:
    return Retriever(str(model), query_prompt="").encode_queries(["How is radon measured?"])


@pytest.mark.parametrize("scored", [True, False])
def test_a_retriever_is_trained_by_what_the_rows_hold_and_saved(
    scored: bool, rows: Dataset, minilm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from sentence_transformers import SentenceTransformer

    rows = rows if scored else rows.remove_columns(["pos_scores", "neg_scores"])
    with caplog.at_level(logging.INFO, "rir_hf"):
        folder = train_retriever(rows, minilm, tmp_path / "tuned", train_length=16, **QUICK)
    names = "query, positive, negative_1, negative_2"
    distilled = f"DistillKLDivLoss on 8 rows: {names}, label"
    contrasted = f"MultipleNegativesRankingLoss on 8 rows: {names}"
    assert caplog.messages[0] == (distilled if scored else contrasted)
    assert folder == tmp_path / "tuned"
    assert SentenceTransformer(str(folder)).max_seq_length == 32  # not train_length
    assert not np.allclose(vector(minilm), vector(folder), atol=1e-3)


@pytest.mark.slow
def test_the_same_seed_trains_the_same_model_and_prompts_train_another(
    rows: Dataset, minilm: str, tmp_path: Path
) -> None:
    options: dict[str, dict[str, Any]] = {"one": {}, "two": {}, "prompted": {"query_prompt": "Q: "}}
    vectors = {
        name: vector(train_retriever(rows, minilm, tmp_path / name, **QUICK, **more))
        for name, more in options.items()
    }
    np.testing.assert_array_equal(vectors["one"], vectors["two"])
    assert not np.allclose(vectors["one"], vectors["prompted"], atol=1e-3)


def test_several_datasets_are_trained_together_each_with_its_loss(
    rows: Dataset, minilm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = rows.remove_columns(["pos_scores", "neg_scores"])
    parts = {"query": rows, "query_answer": labels.remove_columns("neg"), "labels": labels}
    options = {"loss": {"labels": "CachedGISTEmbedLoss"}, "guide": minilm, "query_prompt": "Q: "}
    with caplog.at_level(logging.INFO, "rir_hf"):
        folder = train_retriever(parts, minilm, tmp_path, **EACH, **options)
    assert caplog.messages[:3] == [
        "query: DistillKLDivLoss on 8 rows: query, positive, negative_1, negative_2, label",
        "query_answer: MultipleNegativesRankingLoss on 8 rows: query, positive",
        "labels: CachedGISTEmbedLoss on 8 rows: query, positive, negative_1, negative_2",
    ]
    assert not np.allclose(vector(minilm), vector(folder), atol=1e-3)


@pytest.mark.parametrize("freeze_passages", [True, False])
def test_prompts_are_stored_with_the_model(
    freeze_passages: bool, rows: Dataset, minilm: str, tmp_path: Path
) -> None:
    short = {**QUICK, "max_steps": 1, "batch_size": 2, "train_length": 8}
    prompts = {"query_prompt": "Q: ", "passage_prompt": "P: "}
    sides = {"freeze_passages": freeze_passages}
    folder = train_retriever(rows, minilm, tmp_path, **short, **prompts, **sides)
    stored, given = Retriever(folder), Retriever(folder, **prompts)
    texts = ["who wrote hamlet"]
    np.testing.assert_array_equal(stored.encode_queries(texts), given.encode_queries(texts))
    np.testing.assert_array_equal(stored.encode_corpus(texts), given.encode_corpus(texts))
    assert SentenceTransformer(str(folder)).prompts == {"query": "Q: ", "document": "P: "}


@pytest.mark.slow
def test_each_dataset_has_the_prompts(rows: Dataset, minilm: str, tmp_path: Path) -> None:
    """A prompt, and the same text written before the queries of every dataset, train one model."""
    labels = rows.remove_columns(["pos_scores", "neg_scores"])
    parts = {"query": rows, "labels": labels}
    written = {
        name: part.map(lambda row: {"query": f"Q: {row['query']}"}) for name, part in parts.items()
    }

    def trained(name: str, parts: dict[str, Dataset], **more: Any) -> np.ndarray:
        return vector(train_retriever(parts, minilm, tmp_path / name, **{**EACH, **more}))

    prompted = trained("prompted", parts, query_prompt="Q: ")
    np.testing.assert_allclose(trained("written", written), prompted, atol=1e-6)
    for name in parts:
        half = trained(name, {**parts, name: written[name]})
        assert not np.allclose(half, prompted, atol=1e-4), name


def test_keep_mixes_the_starting_weights_into_the_trained_ones(
    rows: Dataset, minilm: str, tmp_path: Path
) -> None:
    short = {**QUICK, "max_steps": 1, "batch_size": 2, "train_length": 8}
    started, trained, kept = (
        load_file(folder / "model.safetensors")
        for folder in (
            Path(minilm),
            train_retriever(rows, minilm, tmp_path / "trained", **short),
            train_retriever(rows, minilm, tmp_path / "kept", keep=0.75, **short),
        )
    )
    changed = 0
    for name, weights in kept.items():
        mixed = 0.75 * started[name] + 0.25 * trained[name]
        np.testing.assert_allclose(weights, mixed, rtol=1e-6, atol=1e-7)
        changed += not np.array_equal(weights, started[name])
    assert changed > 90


def test_wrong_input_is_named_before_a_model_is_loaded(rows: Dataset, tmp_path: Path) -> None:
    for options, message in (
        ({"loss": "SoftmaxLoss"}, "loss must be one of"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_negatives": 3}, "none of the 8 rows can be used"),
        ({"keep": 1.0}, "keep must be at least 0 and below 1, got 1.0"),
        ({"checkpoint_steps": 0}, "checkpoint_steps must be at least 1"),
        ({"loss": "GISTEmbedLoss"}, "GISTEmbedLoss needs a guide"),
        ({"guide": "no-such-model"}, "guide goes with CachedGISTEmbedLoss and GISTEmbedLoss"),
    ):
        with pytest.raises(ValueError, match=message):
            train_retriever(rows, "no-such-model", tmp_path / "tuned", **options)
    for parts, loss, message in (
        ({}, None, "got an empty dict"),
        ({"a.b": rows}, None, "a printable text without a point, got 'a.b'"),
        ({"a": rows}, {"b": "TripletLoss"}, "A name in loss must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            train_retriever(parts, "no-such-model", tmp_path / "tuned", loss=loss)
    with pytest.raises(TypeError, match="name the split to be trained on"):
        train_retriever(DatasetDict(train=rows), "no-such-model", tmp_path / "tuned")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="no model at ./none"):
        train_retriever(rows, "./none", tmp_path / "tuned")
    with pytest.raises(NotADirectoryError, match="is a file"):
        train_retriever(rows, "no-such-model", tmp_path / "file")
