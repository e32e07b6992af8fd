"""`search` and `Search`: the exact order, no padding, a place for rows that cannot be searched."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import Search, attach_index, search
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
