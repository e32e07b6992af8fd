"""Training the queries' side alone: passages keep their vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from rir_hf.models.retriever import Retriever
from rir_hf.training.batches import Batches
from rir_hf.training.frozen import TwoSides
from rir_hf.training.retriever import train_retriever

QUICK: dict[str, Any] = {
    "freeze_passages": True,
    "batch_size": 4,
    "learning_rate": 1e-4,
    "rescale": "none",
}


@pytest.fixture(scope="module")
def rows(faq_file: Path) -> Dataset:
    """Eight questions; the teacher wants the passage of the next one."""
    faq = Dataset.from_json(str(faq_file)).select(range(8))
    texts = [text[:200] for text in faq["a"]]
    return Dataset.from_dict(
        {
            "query": faq["q"][:],
            "passages": [[texts[at], texts[(at + 1) % 8]] for at in range(8)],
            "passage_scores": [[0.0, 3.0]] * 8,
        }
    )


@pytest.fixture(scope="module")
def trained(rows: Dataset, minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The retriever after ten passes."""
    output = tmp_path_factory.mktemp("frozen") / "model"
    return train_retriever(rows, minilm, output, epochs=10, **QUICK)


def margins(model: str | Path, rows: Dataset) -> np.ndarray:
    """By how much each query prefers the passage that the teacher wants."""
    retriever = Retriever(str(model))
    queries = retriever.encode_queries(rows["query"][:])
    first, second = (
        retriever.encode_corpus([texts[at] for texts in rows["passages"]]) for at in (0, 1)
    )
    return ((second - first) * queries).sum(axis=1)


def test_queries_of_about_one_length_come_together(minilm: str) -> None:
    words = np.random.default_rng(0).integers(1, 40, size=64)
    queries = [" ".join(["cats"] * number) for number in words]
    corpus = Dataset.from_dict({"query": queries, "positive": ["a passage"] * 64})
    sides = TwoSides(SentenceTransformer(minilm), [corpus], "", 16, None)
    lengths = sides.lengths(queries)
    assert lengths == [number + 2 for number in words]  # and the tokens that begin and end a text
    batches, shuffled = (
        [*made(corpus, batch_size=8, drop_last=False, generator=torch.Generator().manual_seed(0))]
        for made in (Batches([], sides.lengths), Batches([]))
    )
    assert sorted(row for batch in batches for row in batch) == [*range(64)]
    padded, otherwise = (
        sum(8 * max(lengths[row] for row in batch) for batch in each)
        for each in (batches, shuffled)
    )
    assert padded < 0.9 * otherwise


def test_queries_learn_and_passages_keep_their_vectors(
    rows: Dataset, minilm: str, trained: Path
) -> None:
    texts = [text for texts in rows["passages"] for text in texts]
    before, after = Retriever(minilm), Retriever(str(trained))
    np.testing.assert_array_equal(before.encode_corpus(texts), after.encode_corpus(texts))
    assert (margins(minilm, rows) < 0).sum() == 7
    assert (margins(trained, rows) > 0.1).all()


def test_the_model_is_one_of_sentence_transformers_with_two_sides(
    rows: Dataset, minilm: str, trained: Path
) -> None:
    model, query = SentenceTransformer(str(trained)), rows["query"][:1]
    own = Retriever(str(trained))
    np.testing.assert_allclose(model.encode_query(query), own.encode_queries(query), atol=1e-6)
    np.testing.assert_allclose(model.encode_document(query), own.encode_corpus(query), atol=1e-6)
    assert not np.allclose(model.encode_query(query), model.encode_document(query), atol=0.01)
    assert model.max_seq_length == SentenceTransformer(minilm).max_seq_length


def test_trained_again_the_passages_are_still_those_of_the_first_model(
    rows: Dataset, minilm: str, trained: Path, tmp_path: Path
) -> None:
    again = train_retriever(rows, trained, tmp_path, epochs=2, **QUICK)
    texts = rows["passages"][0]
    first, last = Retriever(minilm), Retriever(str(again))
    np.testing.assert_array_equal(first.encode_corpus(texts), last.encode_corpus(texts))
    assert margins(again, rows).mean() > margins(minilm, rows).mean() + 0.2  # still trained


def test_the_first_step_is_that_of_a_whole_model_without_the_passages_gradient(
    rows: Dataset, minilm: str, tmp_path: Path
) -> None:
    """Against plain torch: the vectors of passages are constants of the loss."""
    import torch

    step: dict[str, Any] = {"max_steps": 1, **QUICK, "batch_size": 8}
    folder = train_retriever(rows, minilm, tmp_path, **step)
    model = SentenceTransformer(minilm, device="cpu").train(False)
    passages = [model.encode([texts[at] for texts in rows["passages"]]) for at in (0, 1)]
    with torch.enable_grad():
        features = model.preprocess(rows["query"][:])
        queries = model(features)["sentence_embedding"]
        cosines = torch.stack([(queries * torch.tensor(each)).sum(1) for each in passages], 1)
        wanted = torch.tensor(rows["passage_scores"][:]).softmax(1)
        loss = -(wanted * (20 * cosines).log_softmax(1)).sum(1).mean()
        loss.backward()
    name = "0.model.encoder.layer.5.output.dense.weight"
    gradient = dict(model.named_parameters())[name].grad.numpy()
    start = SentenceTransformer(minilm).state_dict()[name].numpy()
    end = SentenceTransformer(str(folder))[0].sub_modules["query"][0].state_dict()
    moved = end[name.removeprefix("0.")].cpu().numpy() - start
    sure = np.abs(gradient) > np.quantile(np.abs(gradient), 0.9)
    assert (np.sign(moved[sure]) == -np.sign(gradient[sure])).mean() > 0.9


def test_vectors_of_an_embedded_corpus_are_taken_as_they_are(
    rows: Dataset, minilm: str, tmp_path: Path
) -> None:
    """Vectors that no model made, beside one of the model by which it knows the corpus: the query
    moves towards the one that the teacher wants.
    """
    one = rows.select([0])
    own = Retriever(minilm).encode_corpus(["another passage"])
    towards = np.concatenate([own, np.eye(384, dtype=np.float32)[[1, 0]]])
    texts = ["another passage", *one["passages"][0]]
    embedded = Dataset.from_dict({"text": texts, "embedding": towards})
    embedded.save_to_disk(tmp_path / "corpus")
    trained = train_retriever(
        one, minilm, tmp_path / "model", epochs=20, embedded=tmp_path / "corpus", **QUICK
    )
    before, after = (
        Retriever(str(model)).encode_queries(one["query"][:])[0] for model in (minilm, trained)
    )
    assert before[0] - before[1] < 0
    assert after[0] - after[1] > 0.05  # the teacher's scores lie 3 apart, the cosines then 0.15


def test_vectors_that_another_model_made_are_refused(
    rows: Dataset, minilm: str, tiny_bert: str, tmp_path: Path
) -> None:
    texts = Dataset.from_dict({"text": [text for texts in rows["passages"] for text in texts]})
    drawn = np.random.default_rng(0).normal(size=(16, 384)).astype(np.float32)
    for vectors in (drawn, Retriever(tiny_bert).encode_corpus(texts["text"][:])):
        embedded = texts.add_column("embedding", vectors.tolist())
        with pytest.raises(
            ValueError, match="embedded does not hold this model's vectors, of .A byg"
        ):
            train_retriever(rows, minilm, tmp_path, embedded=embedded, **QUICK)
    own = Retriever(minilm, normalize=False).encode_corpus(texts["text"][:])
    longer = texts.add_column("embedding", (3 * own).tolist())
    train_retriever(rows, minilm, tmp_path, embedded=longer, max_steps=1, **QUICK)


def test_rows_may_name_their_passages_by_id(rows: Dataset, minilm: str, tmp_path: Path) -> None:
    texts = sorted({text for passages in rows["passages"] for text in passages})
    vectors = Retriever(minilm).encode_corpus(texts)
    corpus = Dataset.from_dict({"id": [f"d{at}" for at in range(8)], "text": texts})
    corpus = corpus.add_column("embedding", vectors.tolist())
    ids = [[f"d{texts.index(text)}" for text in passages] for passages in rows["passages"]]
    by_id = rows.remove_columns("passages").add_column("passage_ids", ids)
    one, two = (
        SentenceTransformer(
            str(train_retriever(part, minilm, tmp_path / name, embedded=corpus, **QUICK))
        ).state_dict()
        for name, part in (("by_text", rows), ("by_id", by_id))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ValueError, match=r"have 'passage_ids' and no texts of passages. Give "):
        train_retriever(by_id, minilm, tmp_path, **QUICK)
    fewer = corpus.select(range(1, len(corpus)))
    with pytest.raises(ValueError, match="'d0' is no id of embedded: give it the corpus"):
        train_retriever(by_id, minilm, tmp_path, embedded=fewer, **QUICK)


def test_a_text_that_is_the_id_of_a_passage_is_not_that_passage(
    rows: Dataset, minilm: str, tmp_path: Path
) -> None:
    texts = sorted({text for passages in rows["passages"] for text in passages})
    corpus = Dataset.from_dict({"id": ["Berlin", *"abcdefg"], "text": texts})
    vectors = Retriever(minilm).encode_corpus(texts)
    corpus = corpus.add_column("embedding", vectors.tolist())
    answers = Dataset.from_dict({"positive": ["Berlin", "\x1fBerlin"]})
    sides = TwoSides(SentenceTransformer(minilm), [answers], "", 256, corpus)
    berlin = sides.vectors[sides.places["Berlin"]].numpy()
    np.testing.assert_allclose(berlin, Retriever(minilm).encode_corpus(["Berlin"])[0], atol=1e-5)
    np.testing.assert_array_equal(sides.vectors[sides.places["\x1fBerlin"]].numpy(), vectors[0])


def test_a_corpus_without_vectors_is_refused(rows: Dataset, minilm: str, tmp_path: Path) -> None:
    texts = Dataset.from_dict({"text": ["a"]})
    with pytest.raises(ValueError, match="needs the column 'embedding'"):
        train_retriever(rows, minilm, tmp_path, embedded=texts, **QUICK)


def test_what_does_not_fit_together_is_said(
    rows: Dataset, minilm: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="embedded is of use with freeze_passages=True alone"):
        train_retriever(rows, minilm, tmp_path, embedded=tmp_path)
    with pytest.raises(ValueError, match="has a Router .* freeze_passages=True trains that"):
        train_retriever(rows, trained, tmp_path, max_steps=1)


def test_a_loss_that_needs_the_texts_of_passages_is_refused(
    rows: Dataset, minilm: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="loss with freeze_passages must be one of"):
        train_retriever(rows, minilm, tmp_path, loss="CachedMultipleNegativesRankingLoss", **QUICK)
