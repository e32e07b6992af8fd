"""The retriever: the model's own vectors, prompts and limits, and an identity that is its content."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from rir_hf import Embed, Retriever

TEXTS = ["a short one", "somewhat longer text about building permits in Sweden", "what is a roof?"]


def test_vectors_are_those_of_sentence_transformers(minilm: str, retriever: Retriever) -> None:
    expected = SentenceTransformer(minilm).encode(TEXTS, normalize_embeddings=True)
    found = retriever.encode_corpus(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_prompts_go_before_queries_and_passages(minilm: str, retriever: Retriever) -> None:
    prompted = Retriever(minilm, query_prompt="query: ", passage_prompt="passage: ")
    np.testing.assert_allclose(
        prompted.encode_queries(TEXTS), retriever.encode_queries([f"query: {text}" for text in TEXTS]), atol=1e-6
    )
    np.testing.assert_allclose(
        prompted.encode_corpus(TEXTS), retriever.encode_corpus([f"passage: {text}" for text in TEXTS]), atol=1e-6
    )


def test_a_prompt_stored_with_the_model_is_used_unless_another_is_given(minilm: str, retriever: Retriever) -> None:
    model = SentenceTransformer(minilm, prompts={"query": "find: ", "document": ""})
    np.testing.assert_allclose(
        Retriever(model).encode_queries(TEXTS), retriever.encode_queries([f"find: {text}" for text in TEXTS]), atol=1e-6
    )
    np.testing.assert_allclose(Retriever(model, query_prompt="").encode_queries(TEXTS), retriever.encode_queries(TEXTS), atol=1e-6)


def test_max_length_cuts_but_never_beyond_the_model_s_own_limit(minilm: str) -> None:
    long = ["word " * 400 + "end", "word " * 400 + "other"]
    model = SentenceTransformer(minilm)
    vectors = Retriever(model, max_length=100_000).encode_corpus(long)
    assert model.max_seq_length == 256
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    short = Retriever(model).encode_corpus(["one two three four", "one two"], max_length=4)
    np.testing.assert_allclose(short[0], short[1], atol=1e-6)


def test_pooling_replaces_the_model_s_own(minilm: str) -> None:
    model = SentenceTransformer(minilm)
    tokens = model.encode(TEXTS[0], output_value="token_embeddings")
    first = tokens[0].numpy() / np.linalg.norm(tokens[0].numpy())
    np.testing.assert_allclose(Retriever(minilm, pooling="cls").encode_corpus(TEXTS)[0], first, atol=1e-5)
    with pytest.raises(ValueError, match="nonsense"):
        Retriever(minilm, pooling="nonsense").encode_corpus(TEXTS)


def test_without_normalisation_vectors_keep_their_length(minilm: str) -> None:
    model = SentenceTransformer(modules=[module for module in SentenceTransformer(minilm) if type(module).__name__ != "Normalize"])
    raw = Retriever(model, normalize=False).encode_corpus(TEXTS)
    unit = Retriever(model).encode_corpus(TEXTS)
    assert np.linalg.norm(raw, axis=1).min() > 1.5
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_half_precision_weights_give_float32_unit_vectors(minilm: str, retriever: Retriever) -> None:
    half = Retriever(minilm, dtype="bfloat16").encode_corpus(TEXTS)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert (half * retriever.encode_corpus(TEXTS)).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("texts", ["a string", [1, 2], ["fine", None]])
def test_texts_that_are_not_a_list_of_strings_are_refused(retriever: Retriever, texts: object) -> None:
    with pytest.raises(TypeError, match="must be a list of strings"):
        retriever.encode_queries(texts)  # type: ignore[arg-type]


def test_a_copy_of_a_checkpoint_is_the_same_retriever_and_changed_weights_are_another(minilm: str, tmp_path: Path) -> None:
    shutil.copytree(minilm, tmp_path / "copy")
    copied = Retriever(tmp_path / "copy")
    assert Hasher.hash(copied) == Hasher.hash(Retriever(minilm))
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    assert Hasher.hash(copied) != Hasher.hash(Retriever(minilm))


def test_what_changes_the_vectors_changes_the_identity_and_nothing_else_does(minilm: str) -> None:
    plain = Hasher.hash(Retriever(minilm))
    for other in (
        Retriever(minilm, query_prompt="query: "),
        Retriever(minilm, passage_prompt="p"),
        Retriever(minilm, max_length=64),
        Retriever(minilm, pooling="cls"),
        Retriever(minilm, normalize=False),
        Retriever(minilm, dtype="float16"),
        Retriever(minilm, backend="onnx"),
        Retriever("sentence-transformers/all-MiniLM-L6-v2"),
    ):
        assert Hasher.hash(other) != plain
    assert Hasher.hash(Retriever(minilm, device="cpu", batch_size=3)) == plain
    hub = "sentence-transformers/all-MiniLM-L6-v2"
    assert Hasher.hash(Retriever(hub)) != Hasher.hash(Retriever(hub, revision="abc"))
    assert minilm not in str(Retriever(minilm).identity())


def test_using_a_retriever_does_not_change_its_identity(minilm: str) -> None:
    for retriever in (Retriever(minilm), Retriever(SentenceTransformer(minilm), max_length=16)):
        before = Hasher.hash(Embed(retriever))
        retriever.encode_queries(TEXTS)
        assert Hasher.hash(Embed(retriever)) == before


def test_a_loaded_model_is_identified_by_its_weights(minilm: str) -> None:
    model = SentenceTransformer(minilm)
    before = Hasher.hash(Embed(model))
    assert before == Hasher.hash(Embed(SentenceTransformer(minilm)))
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    assert Hasher.hash(Embed(model)) != before


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0 and 64"):
        Retriever("any", max_length=0)


def test_a_path_with_nothing_there_is_told_at_once() -> None:
    with pytest.raises(FileNotFoundError, match="There is no model at /nowhere"):
        Retriever("/nowhere")
