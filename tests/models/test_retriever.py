"""The retriever: the model's own vectors, prompts and limits; its identity is its content."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from rir_hf import Embed, Retriever
from rir_hf.models.retriever import as_encoder, vectors_in

TEXTS = [
    "a short one",
    "somewhat longer text about building permits in Sweden",
    "what is a roof?",
]


def static(minilm: str, seed: int) -> StaticEmbedding:
    """A random vector of 384 numbers for each token of MiniLM's tokenizer."""
    tokenizer = SentenceTransformer(minilm, device="cpu").tokenizer
    weights = np.random.default_rng(seed).standard_normal((len(tokenizer), 384), np.float32)
    return StaticEmbedding(tokenizer, embedding_weights=weights)


@pytest.fixture(scope="module")
def router(minilm: str) -> SentenceTransformer:
    """Queries are encoded by static embeddings, passages by MiniLM."""
    ways = Router.for_query_document(
        query_modules=[static(minilm, 0), Normalize()],
        document_modules=list(SentenceTransformer(minilm, device="cpu")),
    )
    return SentenceTransformer(modules=[ways], device="cpu")


def test_vectors_are_those_of_sentence_transformers(minilm: str, retriever: Retriever) -> None:
    expected = SentenceTransformer(minilm).encode(TEXTS, normalize_embeddings=True)
    found = retriever.encode_corpus(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(retriever.encode_queries(TEXTS), found)
    assert retriever.encode_queries([]).shape == (0, 384)


def test_prompts_go_before_queries_and_passages(minilm: str, retriever: Retriever) -> None:
    prompted = Retriever(minilm, query_prompt="query: ", passage_prompt="passage: ")
    for encode, plain, prompt in (
        (prompted.encode_queries, retriever.encode_queries, "query: "),
        (prompted.encode_corpus, retriever.encode_corpus, "passage: "),
    ):
        expected = plain([prompt + text for text in TEXTS])
        np.testing.assert_allclose(encode(TEXTS), expected, atol=1e-6)


def test_a_prompt_stored_with_the_model_is_used_unless_another_is_given(
    minilm: str, retriever: Retriever
) -> None:
    model = SentenceTransformer(minilm, prompts={"query": "find: "}, default_prompt_name="query")
    plain = retriever.encode_queries(TEXTS)
    find = retriever.encode_queries([f"find: {text}" for text in TEXTS])
    doc = retriever.encode_queries([f"doc: {text}" for text in TEXTS])
    found = Retriever(model)
    np.testing.assert_allclose(found.encode_queries(TEXTS), find, atol=1e-6)
    # the model's default prompt is that of queries alone
    np.testing.assert_allclose(found.encode_corpus(TEXTS), plain, atol=1e-6)
    for name in ("document", "passage", "corpus"):
        model.prompts = {"query": "find: ", "document": "", name: "doc: "}
        np.testing.assert_allclose(found.encode_corpus(TEXTS), doc, atol=1e-6)
    without = Retriever(model, query_prompt="", passage_prompt="")
    np.testing.assert_allclose(without.encode_queries(TEXTS), plain, atol=1e-6)
    np.testing.assert_allclose(without.encode_corpus(TEXTS), plain, atol=1e-6)


def test_max_length_cuts_but_never_beyond_the_model_s_own_limit(minilm: str) -> None:
    long = ["word " * 400 + "end", "word " * 400 + "other"]
    model = SentenceTransformer(minilm)
    vectors = Retriever(model, max_length=100_000).encode_corpus(long)
    assert model.max_seq_length == 256
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    short = Retriever(model).encode_corpus(["one two three four", "one two"], max_length=4)
    np.testing.assert_allclose(short[0], short[1], atol=1e-6)


def test_a_router_encodes_queries_and_passages_in_its_two_ways(
    router: SentenceTransformer, minilm: str, retriever: Retriever
) -> None:
    found = Retriever(router)
    queries = SentenceTransformer(modules=[static(minilm, 0)], device="cpu")
    expected = queries.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(found.encode_queries(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(
        found.encode_corpus(TEXTS), retriever.encode_corpus(TEXTS), atol=1e-6
    )
    cut = found.encode_corpus(["one two three four", "one two"], max_length=4)
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
    assert router[0].sub_modules["document"][0].max_seq_length == 256


def test_each_way_of_a_router_keeps_its_own_limit(minilm: str) -> None:
    ways = {}
    for name, limit in (("query", 4), ("document", 256)):
        model = SentenceTransformer(minilm, device="cpu")
        model.max_seq_length = limit
        ways[name] = list(model)
    router = SentenceTransformer(modules=[Router(ways, default_route="document")], device="cpu")
    found = Retriever(router).encode_queries(["one two three four", "one two"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    limits = {name: ways[name][0].max_seq_length for name in ways}
    assert limits == {"query": 4, "document": 256}


def test_static_embeddings_are_encoded_and_identified_by_their_weights(
    minilm: str, tmp_path: Path
) -> None:
    model = SentenceTransformer(modules=[static(minilm, 0)], device="cpu")
    expected = model.encode(TEXTS, normalize_embeddings=True)
    found = Retriever(model)
    before = Hasher.hash(found)
    np.testing.assert_allclose(found.encode_queries(TEXTS), expected, atol=1e-6)
    assert Hasher.hash(found) == before
    assert Hasher.hash(
        Retriever(SentenceTransformer(modules=[static(minilm, 1)], device="cpu"))
    ) != Hasher.hash(found)
    model.save(str(tmp_path / "static"))
    stored = Retriever(tmp_path / "static", device="cpu")
    np.testing.assert_allclose(stored.encode_queries(TEXTS), expected, atol=1e-6)
    assert str(tmp_path) not in str(stored.key())


def test_pooling_replaces_the_model_s_own(minilm: str) -> None:
    model = SentenceTransformer(minilm)
    tokens = model.encode(TEXTS[0], output_value="token_embeddings")
    first = tokens[0].numpy() / np.linalg.norm(tokens[0].numpy())
    found = Retriever(minilm, pooling="cls").encode_corpus(TEXTS)
    np.testing.assert_allclose(found[0], first, atol=1e-5)
    with pytest.raises(ValueError, match="nonsense"):
        Retriever(minilm, pooling="nonsense").encode_corpus(TEXTS)


def test_without_normalisation_vectors_keep_their_length(minilm: str) -> None:
    modules = [
        module for module in SentenceTransformer(minilm) if not isinstance(module, Normalize)
    ]
    model = SentenceTransformer(modules=modules)
    raw = Retriever(model, normalize=False).encode_corpus(TEXTS)
    unit = Retriever(model).encode_corpus(TEXTS)
    assert np.linalg.norm(raw, axis=1).min() > 1.5
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_half_precision_weights_give_float32_unit_vectors(
    minilm: str, retriever: Retriever
) -> None:
    half = Retriever(minilm, dtype="bfloat16").encode_corpus(TEXTS)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert (half * retriever.encode_corpus(TEXTS)).sum(axis=1).min() > 0.99


def test_texts_that_are_not_a_list_of_strings_are_refused(retriever: Retriever) -> None:
    wrong: list[Any] = ["a string", [1, 2], ["fine", None]]
    for texts in wrong:
        with pytest.raises(TypeError, match="must be a list of strings"):
            retriever.encode_queries(texts)


def test_a_copy_of_a_checkpoint_is_the_same_retriever_until_its_weights_change(
    minilm: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(minilm, copy)
    loaded = Retriever(copy)
    loaded.encode_queries(TEXTS)
    before = Hasher.hash(loaded)
    assert before == Hasher.hash(Retriever(minilm))
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert Hasher.hash(Retriever(copy)) != before
    # what was loaded is still what it was
    assert Hasher.hash(loaded) == before


def test_a_backend_that_is_not_here_is_named(minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rir_hf.models.retriever.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs optimum: pip .*sentence-transformers\[onnx\]"):
        Retriever(minilm, backend="onnx").encode_queries(["a"])
    with pytest.raises(ValueError, match="backend must be"):
        Retriever(minilm, backend="tf")  # type: ignore[arg-type]  # that is the point


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
    assert minilm not in str(Retriever(minilm).key())


def test_a_loaded_model_is_identified_by_its_weights_and_its_use_does_not_count(
    minilm: str,
) -> None:
    model = SentenceTransformer(minilm)
    found = Retriever(model, max_length=16)
    before = Hasher.hash(found)
    found.encode_queries(TEXTS)
    assert Hasher.hash(found) == before
    assert Hasher.hash(Retriever(SentenceTransformer(minilm), max_length=16)) == before
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    assert Hasher.hash(found) != before


def test_a_pickled_retriever_leaves_its_model_behind_and_still_encodes(minilm: str) -> None:
    used = Retriever(minilm, query_prompt="query: ")
    expected = used.encode_queries(TEXTS)
    sent = pickle.dumps(used)
    assert len(sent) < 10_000
    np.testing.assert_array_equal(pickle.loads(sent).encode_queries(TEXTS), expected)  # noqa: S301


def test_settings_out_of_range_and_paths_with_nothing_there_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0 and 64"):
        Retriever("any", max_length=0)
    with pytest.raises(FileNotFoundError, match="There is no model at /nowhere"):
        Retriever("/nowhere")


class Lengths:
    """An encoder of another make: the number of characters, and which method was called."""

    def __init__(self, model: str = "some model", given: Callable[[Any], Any] = np.asarray) -> None:
        self.model = model
        self.given = given

    def encode_query(self, texts: list[str], **_: object) -> Any:
        return self.given([[len(text), 1.0] for text in texts])

    def encode_document(self, texts: list[str], **_: object) -> Any:
        return self.given([[len(text), 2.0] for text in texts])

    def identity(self) -> dict[str, str]:
        return {"lengths": self.model}


class FlagLengths(Lengths):
    """The same under the names that FlagEmbedding uses."""

    encode_queries = Lengths.encode_query
    encode_corpus = Lengths.encode_document


WAYS_TO_GIVE_VECTORS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "float64": np.float64,
    "bfloat16": lambda rows: torch.tensor(rows, dtype=torch.bfloat16, requires_grad=True),
    "flagembedding": lambda rows: {
        "dense_vecs": np.array(rows, np.float16),
        "lexical_weights": [{"a": 1.0} for _ in rows],
        "colbert_vecs": None,
    },
    "sentence-transformers": lambda rows: {
        "input_ids": torch.ones(len(rows), 4, dtype=torch.long),
        "token_embeddings": torch.ones(len(rows), 4, 2),
        "sentence_embedding": torch.tensor(rows),
    },
}


@pytest.mark.parametrize("way", WAYS_TO_GIVE_VECTORS)
def test_encoders_of_other_makes_are_taken_whatever_they_return(way: str) -> None:
    kind = FlagLengths if way == "flagembedding" else Lengths
    encoder = as_encoder(kind(given=WAYS_TO_GIVE_VECTORS[way]))
    for found, role in ((encoder.encode_queries, 1.0), (encoder.encode_corpus, 2.0)):
        vectors = found(["a", "abc"], batch_size=8, max_length=None)
        assert vectors.dtype == np.float32
        assert vectors.tolist() == [[1.0, role], [3.0, role]]


def test_an_encoder_with_a_model_and_an_identity_is_known_by_that_identity() -> None:
    first, same, other = Embed(Lengths()), Embed(Lengths()), Embed(Lengths("another"))
    assert Hasher.hash(first) == Hasher.hash(same) != Hasher.hash(other)
    assert first.record()["retriever"] == {
        "class": "EncoderAdapter",
        "encoder": {"class": "Lengths", "identity": {"lengths": "some model"}},
    }
    rows = Dataset.from_dict({"text": ["a"]}).map(first, batched=True)
    assert rows["embedding"][:] == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("found", "seen"),
    [
        (np.ones((1, 2)), r"an array of shape \(1, 2\)"),
        (np.ones(2), r"an array of shape \(2,\)"),
        ([[1.0], [1.0, 2.0]], "list"),
        (torch.eye(2).to_sparse(), r"an array of shape \(2, 2\)"),
        ({"a": np.ones((2, 1)), "b": np.ones((2, 1))}, r"of which \['a', 'b'\] hold one vector"),
        ({"ids": np.ones((2, 1), int)}, r"a dict with \['ids'\], of which none hold one vector"),
    ],
)
def test_what_is_not_one_vector_for_each_text_is_refused(found: Any, seen: str) -> None:
    with pytest.raises(ValueError, match=seen):
        vectors_in(found, 2)


def test_what_does_not_encode_is_refused(minilm: str) -> None:
    with pytest.raises(TypeError, match="with encode_query and encode_document; got int"):
        as_encoder(3)
    assert as_encoder(minilm).key() == Retriever(minilm).key()
    assert isinstance(as_encoder(SentenceTransformer(minilm)), Retriever)
