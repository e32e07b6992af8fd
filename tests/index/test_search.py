"""`search` and `Search`: the exact order, no padding, a place for rows that cannot be searched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import Embed, Search, attach_index, attach_lexical, fuse, run, search
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


def test_several_indexes_are_fused_as_deep_as_passages_are_asked_for() -> None:
    texts, vectors = mixed(300, 0)
    texts = [f"red {text}" for text in texts]
    names = [f"p{999 - at}" for at in range(300)]
    corpus = {"id": names, "text": texts, "embedding": list(vectors)}
    corpus = attach_lexical(attach_index(Dataset.from_dict(corpus)))
    asked = {"query_id": list("abcd"), "query": ["red fox", "car", "dog", "red"]}
    queries = Dataset.from_dict({**asked, "embedding": list(unit_vectors(4, 4, 1))})
    both = ["embedding", "bm25"]
    found = queries.map(Search(corpus, index=both, k=250), batched=True)
    runs = [queries.map(Search(corpus, index=name, k=250), batched=True) for name in both]
    for row, fused in zip(found, fuse(runs, depth=250), strict=True):
        assert len(row["hit_ids"]) == 250
        assert row["hit_scores"] == pytest.approx(fused["hit_scores"], abs=1e-5)
    shallow = queries.map(Search(corpus, index=both, k=250, depth=3), batched=True)
    assert max(map(len, shallow["hit_ids"])) <= 6


@pytest.mark.parametrize("method", ["zscore", "minmax", "rrf"])
def test_the_only_passage_with_a_word_of_the_query_rises_above_those_without(method: Any) -> None:
    texts = ["a red car", "a blue car", "error E4521 means no fuel", "a green car"]
    vectors = [[0.9, 0.1], [0.8, 0.2], [0.79, 0.3], [0.7, 0.4]]
    corpus = Dataset.from_dict({"id": list("abcd"), "text": texts, "embedding": vectors})
    corpus = attach_lexical(attach_index(corpus))
    row = {"query": "what is E4521", "embedding": [1.0, 0.0]}
    assert Search(corpus).one(row)["hit_ids"] == ["a", "b", "c", "d"]
    assert Search(corpus, index="bm25").one(row)["hit_ids"] == ["c"]
    assert Search(corpus, index=["embedding", "bm25"], method=method).one(row)["hit_ids"][0] == "c"


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


ANSWERS = [
    [[0.0, 1.0]],
    [[0.0, 1.0], [1.0, 0.0]],  # the mean is (0.5, 0.5)
    [[0.0, 0.0], None, [0.0, 1.0], [float("nan"), 1.0]],  # one is left
    [[0.0, 0.0]],
    [],
    None,
]
MEANS = [[0.0, 1.0], [0.5, 0.5], [0.0, 1.0], None, None, None]


def axes(rows: int, **columns: Any) -> Dataset:
    """Queries that all point along the first axis."""
    return Dataset.from_dict({"embedding": [[1.0, 0.0]] * rows, **columns})


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.75, 1.0])
def test_answers_are_averaged_and_added_with_their_weight_and_bad_ones_do_not_count(
    weight: float,
) -> None:
    passages = unit_vectors(30, 2, 0)
    corpus = attach_index(corpus_of(passages))
    step = Search(corpus, k=30, answer="answer_embedding", answer_weight=weight)
    rows = axes(6, answer_embedding=ANSWERS)
    found = rows.map(step, batched=True, batch_size=4)
    query = np.array([1.0, 0.0])
    for row, mean in zip(found, MEANS, strict=True):
        mixed = query if mean is None else (1 - weight) * query + weight * np.array(mean)
        scores = passages @ mixed
        assert row["hit_ids"] == [f"p{place}" for place in np.argsort(-scores, kind="stable")]
        assert row["hit_scores"] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    assert run(rows, step)["hit_ids"][:] == found["hit_ids"][:]
    assert step({"embedding": [], "answer_embedding": []})["hit_ids"] == []
    assert [step.one(row)["hit_ids"] for row in rows] == found["hit_ids"][:]


def test_one_answer_may_be_a_vector_and_without_answers_all_is_as_before() -> None:
    corpus = attach_index(corpus_of(unit_vectors(30, 2, 0)))
    vectors = [[0.0, 1.0], [0.6, 0.8], None, [], [0.0, 0.0]]
    lists = [[vector] if vector else [] for vector in vectors]
    step = Search(corpus, k=5, answer="a", answer_weight=0.5)
    found = axes(5, a=vectors).map(step, batched=True)["hit_ids"][:]
    assert found == axes(5, a=lists).map(step, batched=True)["hit_ids"][:]
    alone = axes(5).map(Search(corpus, k=5), batched=True)["hit_ids"][:]
    assert found[0] != alone[0]
    assert found[2:] == alone[2:]


def test_a_query_that_cannot_be_searched_with_is_not_searched_with_its_answer() -> None:
    corpus = attach_index(corpus_of(unit_vectors(5, 2, 0)))
    rows = {"embedding": [[0.0, 0.0], None], "answer_embedding": [[[1.0, 0.0]]] * 2}
    found = Dataset.from_dict(rows).map(Search(corpus, answer="answer_embedding"), batched=True)
    assert found["hit_ids"][:] == [[], []]


def test_of_several_indexes_that_of_words_does_not_read_the_answers() -> None:
    rows = {"id": ["a", "b", "c"], "text": ["red fox", "blue car", "dog"]}
    vectors = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]
    corpus = attach_lexical(attach_index(Dataset.from_dict({**rows, "embedding": vectors})))
    both, queries = ["embedding", "bm25"], axes(1, query=["dog"], answer_embedding=[[0.0, 1.0]])
    step = Search(corpus, index=both, answer="answer_embedding", answer_weight=0.75)
    found = queries.map(step, batched=True)
    mixed = Dataset.from_dict({"query": ["dog"], "embedding": [[0.25, 0.75]]})
    expected = mixed.map(Search(corpus, index=both), batched=True)
    assert found["hit_ids"][:] == expected["hit_ids"][:]
    assert found["hit_scores"][:] == expected["hit_scores"][:]
    with pytest.raises(ValueError, match="answer='answer_embedding' mixes vectors, but index='bm2"):
        Search(corpus, index="bm25", answer="answer_embedding")


def test_answers_that_do_not_fit_are_named() -> None:
    corpus = attach_index(corpus_of(unit_vectors(5, 2, 0)))
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="answer_weight must be between 0 and 1, got"):
            Search(corpus, answer="a", answer_weight=weight)
    step = Search(corpus, answer="a")
    with pytest.raises(ValueError, match="Search needs the column 'a'"):
        axes(1).map(step, batched=True)
    values: Any
    for values in (["a text"], [["a", "text"]], [3]):
        with pytest.raises(ValueError, match="Search: the column 'a' must hold list<"):
            step.check(axes(1, a=values).features)
    for values in ([["a", "text"]], [[[1.0] * 3]], [[1.0] * 3]):
        with pytest.raises(ValueError, match="column 'a' must hold vectors of 2 numbers"):
            axes(1, a=values).map(step, batched=True)


def test_generated_answers_are_embedded_and_searched_with_by_two_steps() -> None:
    class Suns:
        def encode_queries(self, texts: list[str]) -> np.ndarray:
            return np.array([[text.count("sun"), text.count("moon")] for text in texts])

        encode_corpus = encode_queries

    rows = Dataset.from_dict({"id": ["day", "night"], "text": ["sun", "moon"]})
    corpus = attach_index(rows.map(Embed(Suns()), batched=True))
    asked = {"query": ["sun or moon"] * 2, "answers": [["the moon", "moon"], []]}
    queries = Dataset.from_dict(asked).map(Embed(Suns(), "query", role="query"), batched=True)
    embed = Embed(Suns(), "answers", role="query", output="answer_embedding")
    found = queries.map(embed, batched=True).map(
        Search(corpus, answer="answer_embedding"), batched=True
    )
    assert found["hit_ids"][:] == [["night", "day"], ["day", "night"]]
