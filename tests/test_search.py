"""Search: the exact order over any index, complete whatever the index leaves out, with memory that stays in bounds."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rir_hf import Search, attach_index, search
from rir_hf.search import Bounds, rank, settle


def exact(queries: np.ndarray, passages: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and positions by sorting every similarity, computed in double precision."""
    scores = (queries.astype(np.float64) @ passages.astype(np.float64).T).astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(len(passages)), scores.shape), -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), order


def unit_vectors(rows: int, dimension: int, seed: int) -> np.ndarray:
    """Random directions."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def corpus_of(vectors: np.ndarray) -> Dataset:
    """A corpus of these vectors."""
    return Dataset.from_dict({"id": [f"p{n}" for n in range(len(vectors))], "embedding": list(vectors)})


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 200), st.integers(1, 6), st.integers(1, 60))
def test_search_equals_sorting_everything_ties_by_row(seed: int, queries: int, passages: int, dimension: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    asked = rng.integers(-2, 3, (queries, dimension)).astype(np.float32)
    given_ = rng.integers(-2, 3, (passages, dimension)).astype(np.float32)
    scores, indices = search(asked, given_, topk=k)
    expected_scores, expected = exact(asked, given_, k)
    assert indices.tolist() == expected.tolist()
    assert scores.tolist() == expected_scores.tolist()


def test_search_over_several_blocks_and_query_groups_equals_sorting_everything() -> None:
    queries, passages = unit_vectors(1100, 16, 1), unit_vectors(9000, 16, 2)
    passages[5000:5100] = passages[10]
    scores, indices = search(queries, passages, topk=20)
    expected_scores, expected = exact(queries, passages, 20)
    assert (indices == expected).mean() > 0.9999
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_ten_thousand_equal_passages_come_in_corpus_order() -> None:
    passages = np.repeat(unit_vectors(1, 8, 0), 10_000, axis=0)
    _, indices = search(unit_vectors(3, 8, 1), passages, topk=5)
    assert indices.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_search_gives_no_padding_when_the_corpus_is_smaller_than_topk() -> None:
    scores, indices = search(unit_vectors(2, 4, 0), unit_vectors(3, 4, 1), topk=100)
    assert scores.shape == indices.shape == (2, 3)
    assert sorted(indices[0].tolist()) == [0, 1, 2]


def test_search_of_no_queries_is_empty() -> None:
    scores, indices = search(np.empty((0, 4), np.float32), unit_vectors(3, 4, 1), topk=2)
    assert scores.shape == indices.shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "passages", "topk", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), 1, r"\(2, 3\) and \(2, 4\)"),
        (np.ones(3), np.ones((2, 3)), 1, "must be"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), 1, "NaN"),
        (np.ones((2, 3)), np.ones((2, 3)), 0, "topk must be at least 1, got 0"),
    ],
)
def test_wrong_arrays_are_named(queries: np.ndarray, passages: np.ndarray, topk: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(queries, passages, topk=topk)


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW16,Flat", "SQ8", "PQ4x4", "IVF8,SQ8"])
def test_search_scores_are_the_exact_similarities_over_every_kind_of_index(factory: str) -> None:
    vectors = unit_vectors(600, 16, 3)
    corpus = attach_index(corpus_of(vectors), factory=factory)
    queries = unit_vectors(12, 16, 4)
    run = Dataset.from_dict({"embedding": list(queries)}).map(Search(corpus, k=10), batched=True)
    for query, ids, scores in zip(queries, run["hit_ids"], run["hit_scores"], strict=True):
        places = [int(name[1:]) for name in ids]
        assert len(set(places)) == 10
        np.testing.assert_allclose(scores, vectors[places].astype(np.float64) @ query.astype(np.float64), atol=1e-6)
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW32,Flat"])
def test_an_index_that_may_see_everything_finds_what_the_flat_one_finds(factory: str) -> None:
    vectors = unit_vectors(500, 8, 5)
    queries = Dataset.from_dict({"embedding": list(unit_vectors(20, 8, 6))})
    corpus = attach_index(corpus_of(vectors), factory=factory)
    index = corpus.get_index("embedding").faiss_index
    if hasattr(index, "nprobe"):
        index.nprobe = 8
    else:
        index.hnsw.efSearch = 500
    flat = queries.map(Search(attach_index(corpus_of(vectors)), k=15), batched=True)
    other = queries.map(Search(corpus, k=15), batched=True)
    assert other["hit_ids"][:] == flat["hit_ids"][:]


def test_an_index_that_returns_too_few_is_finished_by_an_exact_search() -> None:
    vectors = unit_vectors(64, 8, 7)
    corpus = attach_index(corpus_of(vectors), factory="IVF16,Flat")
    assert corpus.get_index("embedding").faiss_index.nprobe == 1
    queries = unit_vectors(5, 8, 8)
    run = Dataset.from_dict({"embedding": list(queries)}).map(Search(corpus, k=64), batched=True)
    _, expected = exact(queries, vectors, 64)
    assert run["hit_ids"][:] == [[f"p{place}" for place in row] for row in expected.tolist()]


def test_rows_without_a_usable_vector_get_no_hits_and_keep_their_place() -> None:
    corpus = attach_index(corpus_of(unit_vectors(5, 3, 0)))
    rows = Dataset.from_dict({"embedding": [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], None, [float("nan"), 0.0, 1.0]]})
    run = rows.map(Search(corpus, k=2), batched=True, batch_size=1)
    assert [len(hits) for hits in run["hit_ids"]] == [0, 2, 0, 0]
    assert run.features["hit_ids"].feature.dtype == "string"


def test_vectors_of_another_dimension_are_refused() -> None:
    corpus = attach_index(corpus_of(unit_vectors(5, 3, 0)))
    with pytest.raises(ValueError, match=r"vectors of 3 numbers, as those of the index, found vectors of \[4\]"):
        Dataset.from_dict({"embedding": [[1.0] * 4]}).map(Search(corpus), batched=True)


def test_search_works_on_one_example_and_on_a_stream() -> None:
    corpus = attach_index(corpus_of(unit_vectors(5, 3, 0)))
    queries = Dataset.from_dict({"embedding": list(unit_vectors(4, 3, 1))})
    expected = queries.map(Search(corpus, k=2), batched=True)["hit_ids"][:]
    assert Search(corpus, k=2)(queries[0])["hit_ids"] == expected[0]
    assert queries.map(Search(corpus, k=2))["hit_ids"][:] == expected
    assert [row["hit_ids"] for row in queries.to_iterable_dataset().map(Search(corpus, k=2), batched=True)] == expected


def test_ranks_and_counts_are_exact_where_scores_nearly_tie() -> None:
    base = unit_vectors(1, 32, 0)[0]
    noise = np.random.default_rng(1).standard_normal((5000, 32)).astype(np.float32)
    passages = base + 1e-7 * noise
    query = base[None]
    scores = (passages.astype(np.float64) @ query[0].astype(np.float64)).astype(np.float32)
    mark = int(np.argsort(scores)[2500])
    found: dict[str, int] = {}

    class Vectors:
        flat = passages
        longest = float(np.linalg.norm(passages.astype(np.float64), axis=1).max())

        def __len__(self) -> int:
            return len(passages)

        def blocks(self, rows: int):  # noqa: ANN202
            return (passages[start : start + rows] for start in range(0, len(passages), rows))

        def vectors(self, positions: np.ndarray) -> np.ndarray:
            return passages[positions]

    bounds = Bounds(np.array([float(scores[mark])]), scores[[mark]], np.array([mark]))

    def keep(_row: int, candidates, at: int) -> bool:  # noqa: ANN001
        found.update(better=int(candidates.better[at]), above=int(candidates.above[at]), listed=len(candidates.scores[at]))
        return candidates.floor[at] == -np.inf

    settle(Vectors(), query, bounds, 5, keep)
    assert found["above"] == int((scores > scores[mark]).sum())
    assert found["better"] == int(((scores > scores[mark]) | ((scores == scores[mark]) & (np.arange(5000) < mark))).sum())
    assert found["listed"] == int((scores <= scores[mark]).sum())


def test_rank_proposes_nothing_twice() -> None:
    corpus = attach_index(corpus_of(unit_vectors(3000, 8, 9)))
    search_map = Search(corpus, k=50)
    for scores, positions in rank(search_map.corpus, unit_vectors(30, 8, 10), 50):
        assert len(set(positions.tolist())) == len(scores) == 50


def test_faiss_is_only_asked_for_more_where_rows_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(2000, 8, 11)
    corpus = attach_index(corpus_of(vectors), factory="IVF4,Flat")
    asked: list[tuple[int, int]] = []
    plain = faiss.IndexIVFFlat.search
    monkeypatch.setattr(faiss.IndexIVFFlat, "search", lambda self, x, k: asked.append((len(x), k)) or plain(self, x, k))
    Dataset.from_dict({"embedding": list(unit_vectors(40, 8, 12))}).map(Search(corpus, k=10), batched=True)
    assert asked == [(40, 18)]
