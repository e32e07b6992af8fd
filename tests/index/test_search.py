"""`search` and `Search`: the exact order, no padding, a place for rows that cannot be searched."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import Search, attach_index, attach_lexical, fuse, search
from tests.index.vectors import corpus_of, exact_scores, queries_of, ranking, unit_vectors


def test_search_equals_sorting_everything_ties_by_row() -> None:
    rng = np.random.default_rng(0)
    queries = rng.integers(-2, 3, (9, 4)).astype(np.float32)
    passages = rng.integers(-2, 3, (200, 4)).astype(np.float32)
    scores, indices = search(queries, passages, topk=30)
    every = exact_scores(queries, passages)
    assert indices.tolist() == ranking(every)[:, :30].tolist()
    assert scores.tolist() == np.take_along_axis(every, indices, 1).tolist()


def test_search_gives_no_padding_when_the_corpus_is_smaller_than_topk() -> None:
    scores, indices = search(unit_vectors(2, 4, 0), unit_vectors(3, 4, 1), topk=100)
    assert scores.shape == indices.shape == (2, 3)
    assert sorted(indices[0].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("queries", "passages", "topk", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), 1, r"\(2, 3\) and \(2, 4\)"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), 1, "NaN"),
        (np.ones((2, 3)), np.ones((2, 3)), 0, "topk must be at least 1, got 0"),
    ],
)
def test_wrong_arrays_are_named(
    queries: np.ndarray, passages: np.ndarray, topk: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        search(queries, passages, topk=topk)


def test_rows_without_a_usable_vector_get_no_hits_and_keep_their_place() -> None:
    corpus = attach_index(corpus_of(unit_vectors(5, 3, 0)))
    vectors = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], None, [float("nan"), 0.0, 1.0]]
    rows = Dataset.from_dict({"embedding": vectors})
    run = rows.map(Search(corpus, k=2), batched=True, batch_size=1)
    assert [len(hits) for hits in run["hit_ids"]] == [0, 2, 0, 0]
    assert run.features["hit_ids"].feature.dtype == "string"


def test_vectors_of_another_dimension_are_refused() -> None:
    corpus = attach_index(corpus_of(unit_vectors(5, 3, 0)))
    with pytest.raises(ValueError, match=r"vectors of 3 numbers.* found vectors of \['4'\]"):
        Dataset.from_dict({"embedding": [[1.0] * 4]}).map(Search(corpus), batched=True)


def test_one_row_and_a_stream_give_what_the_map_gives() -> None:
    corpus = attach_index(corpus_of(unit_vectors(5, 3, 0)))
    queries = queries_of(unit_vectors(4, 3, 1))
    step = Search(corpus, k=2)
    expected = queries.map(step, batched=True)["hit_ids"][:]
    assert step.one(queries[0])["hit_ids"] == expected[0]
    stream = queries.to_iterable_dataset().map(step, batched=True)
    assert [row["hit_ids"] for row in stream] == expected


WORDS = ["red", "fox", "car", "blue", "dog", "sleeps"]


def mixed(rows: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts of a few words, and vectors that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(rows)]
    return texts, unit_vectors(rows, 4, seed)


def test_two_indexes_together_are_their_fused_runs() -> None:
    texts, vectors = mixed(300, 0)
    corpus = Dataset.from_dict(
        {"id": [f"p{999 - at}" for at in range(300)], "text": texts, "embedding": list(vectors)}
    )  # trec_eval puts equal scores in descending order of ids: here that is the corpus's
    corpus = attach_lexical(attach_index(corpus))
    texts, vectors = mixed(12, 1)
    rows = {"query_id": [str(at) for at in range(12)], "query": texts, "embedding": list(vectors)}
    queries = Dataset.from_dict(rows)
    runs = [queries.map(Search(corpus, index=name), batched=True) for name in ("embedding", "bm25")]
    for options in ({}, {"method": "rrf"}, {"weights": [1, 3], "depth": 20}):
        step = Search(corpus, index=["embedding", "bm25"], k=10, **options)
        found = queries.map(step, batched=True, batch_size=5)
        expected = fuse(runs, **options)
        for row, fused in zip(found, expected, strict=True):
            scores = dict(zip(fused["hit_ids"], np.float32(fused["hit_scores"]), strict=True))
            order = sorted(scores, reverse=True, key=lambda passage: (scores[passage], passage))
            assert row["hit_ids"] == order[:10]
            assert row["hit_scores"] == pytest.approx([scores[name] for name in order[:10]])


def test_a_row_that_one_index_cannot_be_asked_about_has_the_hits_of_the_other() -> None:
    rows = {"id": ["a", "b"], "text": ["red fox", "blue car"], "embedding": [[1.0, 0], [0, 1.0]]}
    corpus = attach_lexical(attach_index(Dataset.from_dict(rows)))
    queries = Dataset.from_dict({"query": ["car", "the"], "embedding": [None, [1.0, 0.0]]})
    found = queries.map(Search(corpus, index=["embedding", "bm25"]), batched=True)["hit_ids"][:]
    assert found == [["b"], ["a", "b"]]


def test_columns_are_named_by_index_and_what_does_not_fit_is_named() -> None:
    rows = {"id": ["a", "b"], "text": ["red fox", "blue car"], "embedding": [[1.0, 0], [0, 1.0]]}
    corpus = attach_lexical(attach_index(Dataset.from_dict(rows)))
    both = ["embedding", "bm25"]
    step = Search(corpus, index=both, query={"bm25": "claim"})
    assert step.one({"claim": "car", "embedding": [0.0, 1.0]})["hit_ids"] == ["b", "a"]
    with pytest.raises(ValueError, match="Search needs the column 'claim'"):
        step.one({"query": "car", "embedding": [0.0, 1.0]})
    for options, message in [
        ({"index": both, "query": "claim"}, "names one column for 2 indexes"),
        ({"index": both, "query": {"words": "claim"}}, "query names the index 'words'"),
        ({"index": []}, "index must name one index or several different ones"),
        ({"index": ["bm25", "bm25"]}, "several different ones"),
        ({"index": ["embedding", "splade"]}, "no index 'splade'"),
        ({"index": both, "weights": [1]}, "weights must be 2 numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            Search(corpus, **options)
