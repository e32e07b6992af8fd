"""Any other FAISS index: exact scores, full rows, and no more asked than needed."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from datasets import Dataset

from rir_hf import Search, attach_index
from rir_hf.index.attach import built_as
from tests.index.vectors import corpus_of, exact_scores, queries_of, ranking, unit_vectors


def searched(corpus: Dataset, queries: np.ndarray, k: int) -> Dataset:
    """The hits of these queries."""
    return queries_of(queries).map(Search(corpus, k=k), batched=True)


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW16,Flat", "SQ8"])
def test_scores_are_the_exact_similarities_over_every_kind_of_index(factory: str) -> None:
    vectors, queries = unit_vectors(600, 16, 3), unit_vectors(12, 16, 4)
    run = searched(attach_index(corpus_of(vectors), factory=factory), queries, 10)
    for query, ids, scores in zip(queries, run["hit_ids"], run["hit_scores"], strict=True):
        positions = [int(name[1:]) for name in ids]
        assert len(set(positions)) == 10
        assert scores == exact_scores(query[None], vectors[positions])[0].tolist()
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW32,Flat"])
def test_an_index_that_may_see_everything_finds_what_the_flat_one_finds(factory: str) -> None:
    vectors, queries = unit_vectors(500, 8, 5), unit_vectors(20, 8, 6)
    corpus = attach_index(corpus_of(vectors), factory=factory)
    index = corpus.get_index("embedding").faiss_index
    if factory.startswith("IVF"):
        index.nprobe = 8
    else:
        index.hnsw.efSearch = 500
    flat = attach_index(corpus_of(vectors))
    assert searched(corpus, queries, 15)["hit_ids"][:] == searched(flat, queries, 15)["hit_ids"][:]


def test_a_row_for_which_the_index_returns_too_few_is_finished_by_an_exact_search() -> None:
    vectors, queries = unit_vectors(64, 8, 7), unit_vectors(5, 8, 8)
    corpus = attach_index(corpus_of(vectors), factory="IVF16,Flat")
    assert corpus.get_index("embedding").faiss_index.nprobe == 1
    expected = ranking(exact_scores(queries, vectors)).tolist()
    found = searched(corpus, queries, 64)["hit_ids"][:]
    assert found == [[f"p{position}" for position in row] for row in expected]


def test_the_index_is_asked_for_more_only_where_rows_need_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = attach_index(corpus_of(unit_vectors(2000, 8, 11)), factory="IVF4,Flat")
    asked: list[tuple[int, int]] = []
    plain = faiss.IndexIVFFlat.search

    def search(self: faiss.IndexIVFFlat, queries: np.ndarray, k: int) -> object:
        asked.append((len(queries), k))
        return plain(self, queries, k)

    monkeypatch.setattr(faiss.IndexIVFFlat, "search", search)
    searched(corpus, unit_vectors(40, 8, 12), 10)
    assert asked == [(40, 18)]


@pytest.mark.parametrize(
    "index",
    [
        faiss.index_factory(8, "NSG8,Flat", faiss.METRIC_INNER_PRODUCT),
        faiss.index_factory(8, "PCAW4,Flat", faiss.METRIC_INNER_PRODUCT),
        faiss.IndexScalarQuantizer(
            8, faiss.ScalarQuantizer.QT_4bit_eden, faiss.METRIC_INNER_PRODUCT
        ),
        faiss.IndexScalarQuantizer(
            8, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT
        ),
    ],
    ids=["a kind of index", "whitening", "a kind of codes", "a name that FAISS does not read"],
)
def test_what_no_factory_string_builds_is_built_as_nothing(index: faiss.Index) -> None:
    vectors = unit_vectors(300, 8, 3)
    index.train(vectors)
    corpus = corpus_of(vectors)
    corpus.add_faiss_index("embedding", custom_index=index)
    assert built_as(corpus, "embedding") == {}
    corpus.drop_index("embedding")
    corpus.add_faiss_index(
        "embedding", string_factory="HNSW8", metric_type=faiss.METRIC_INNER_PRODUCT
    )
    assert built_as(corpus, "embedding") == {"factory": "HNSW8"}


def test_an_index_that_no_factory_string_names_is_searched_all_the_same() -> None:
    vectors = unit_vectors(600, 16, 3)
    index = faiss.index_factory(16, "PCAW8,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    corpus = corpus_of(vectors)
    corpus.add_faiss_index("embedding", custom_index=index)
    assert searched(corpus, vectors[:5], 600)["hit_ids"][0][0] == "p0"
