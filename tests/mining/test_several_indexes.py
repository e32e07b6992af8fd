"""Negatives from vectors and words together: equal to a plain oracle, each with its origin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import MineNegatives, Search, attach_index, attach_lexical
from rir_hf.evaluation.fusion import fused_scores

BOTH = ["embedding", "bm25"]
WORDS = ["red", "fox", "car", "blue", "dog", "sleeps", "river", "stone"]


def texts_of(rows: int, rng: np.random.Generator) -> list[str]:
    return [" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(rows)]


@pytest.fixture(scope="module")
def corpus() -> Dataset:
    rng = np.random.default_rng(0)
    rows = {
        "id": [f"p{at}" for at in range(250)],
        "text": texts_of(250, rng),
        "embedding": rng.standard_normal((250, 4)).astype("f4").tolist(),
    }
    return attach_lexical(attach_index(Dataset.from_dict(rows)))


@pytest.fixture(scope="module")
def pairs(corpus: Dataset) -> Dataset:
    rng = np.random.default_rng(1)
    chosen = rng.integers(250, size=30)
    queries = [*dict.fromkeys(texts_of(60, rng))][:30]  # no query twice
    return Dataset.from_dict(
        {
            "query": queries,
            "pos_ids": [[f"p{at}"] for at in chosen],
            "embedding": rng.standard_normal((30, 4)).astype("f4").tolist(),
        }
    )


@pytest.fixture(scope="module")
def scores(corpus: Dataset, pairs: Dataset) -> dict[str, np.ndarray]:
    """Every score of every passage by each index."""
    index = corpus.get_index("bm25")
    dense = np.array(pairs["embedding"][:]) @ np.array(corpus["embedding"][:]).T
    words = [index.scores(index.known(query)) for query in pairs["query"]]
    return {"embedding": dense.astype("f4"), "bm25": np.array(words)}


def proposals(
    corpus: Dataset, row: dict[str, Any], scores: dict[str, np.ndarray], margin: dict[str, float]
) -> dict[str, list[int]]:
    """What each index proposes for a row, best first, written as plainly as it can be."""
    texts = corpus["text"][:]
    positive = int(row["pos_ids"][0][1:])
    ceilings = {}
    for name, of_passage in scores.items():
        p = of_passage[positive]
        if name == "embedding" or p > 0:  # words that miss the positive have no say
            ceilings[name] = p - margin[name] * abs(p)
    lanes: dict[str, list[int]] = {name: [] for name in scores}
    for name in ceilings:
        for at in sorted(range(250), key=lambda at: (-scores[name][at], at)):
            is_found = name == "embedding" or scores[name][at] > 0
            is_below = all(scores[other][at] <= ceilings[other] for other in ceilings)
            is_new = texts.index(texts[at]) == at and texts[at] not in (
                texts[positive],
                row["query"],
            )
            if is_found and is_below and is_new:
                lanes[name].append(at)
    return lanes


def by_turns(lanes: dict[str, list[int]], wanted: int) -> list[tuple[int, str]]:
    taken: list[tuple[int, str]] = []
    for turn in range(250):
        for name, lane in lanes.items():
            if turn < len(lane) and lane[turn] not in [at for at, _ in taken]:
                taken.append((lane[turn], name))
    return taken[:wanted]


@pytest.mark.parametrize(
    "margin", [{"embedding": 0.05, "bm25": 0.05}, {"embedding": 0.3, "bm25": 0.0}]
)
def test_negatives_taken_in_turn_are_those_of_the_oracle(
    corpus: Dataset, pairs: Dataset, scores: dict[str, np.ndarray], margin: dict[str, float]
) -> None:
    step = MineNegatives(corpus, index=BOTH, num_negatives=12, relative_margin=margin)
    mined = pairs.map(step, batched=True, batch_size=7)
    for number, row in enumerate(mined):
        of_row = {name: values[number] for name, values in scores.items()}
        expected = by_turns(proposals(corpus, pairs[number], of_row, margin), 12)
        assert row["neg_ids"] == [f"p{at}" for at, _ in expected]
        assert row["neg_from"] == [name for _, name in expected]
        dense = of_row["embedding"]
        assert row["neg_sims"] == pytest.approx([dense[at] for at, _ in expected], abs=1e-6)
        assert row["neg"] == [corpus[at]["text"] for at, _ in expected]
        positive = int(pairs[number]["pos_ids"][0][1:])
        assert row["pos_rank"] == np.count_nonzero(dense > dense[positive])
        assert (row["neg_note"] is None) == (len(expected) == 12)
    assert {name for row in mined["neg_from"] for name in row} == set(BOTH)


def test_rows_are_the_same_for_every_batch_size(corpus: Dataset, pairs: Dataset) -> None:
    for options in ({}, {"merge": "zscore"}, {"sampling_strategy": "random", "range_max": 40}):
        step = MineNegatives(corpus, index=BOTH, num_negatives=5, range_min=2, **options)
        one = pairs.map(step, batched=True, batch_size=1)
        assert one.to_list() == pairs.map(step, batched=True, batch_size=30).to_list()


def test_by_scores_the_first_hundred_below_the_ceilings_of_each_index_are_fused(
    corpus: Dataset, pairs: Dataset, scores: dict[str, np.ndarray]
) -> None:
    free = {"embedding": 0.0, "bm25": None}
    step = MineNegatives(corpus, index=BOTH, merge="zscore", relative_margin=free, num_negatives=9)
    expected = []
    for number, pair in enumerate(pairs):
        of_row = {name: values[number] for name, values in scores.items()}
        lanes = proposals(corpus, pair, of_row, {"embedding": 0.0, "bm25": -np.inf})
        hits = [{at: float(of_row[name][at]) for at in lane[:100]} for name, lane in lanes.items()]
        fused = fused_scores(hits, "zscore", [1.0, 1.0])
        best = sorted(fused, key=lambda at: (-fused[at], at))[:9]
        expected.append([f"p{at}" for at in best])
    for size in (1, 30):
        assert pairs.map(step, batched=True, batch_size=size)["neg_ids"][:] == expected


def test_by_scores_the_best_fused_passages_come_first(corpus: Dataset, pairs: Dataset) -> None:
    free = {"relative_margin": None, "num_negatives": 5, "merge": "zscore"}
    mined = pairs.map(MineNegatives(corpus, index=BOTH, **free), batched=True)
    fused = pairs.map(Search(corpus, index=BOTH, k=60), batched=True)
    shared = [
        len(set(negatives) & set(hits[:10])) >= 2
        for negatives, hits in zip(mined["neg_ids"], fused["hit_ids"], strict=True)
    ]
    assert np.mean(shared) > 0.8


def test_one_index_in_a_list_is_that_index(corpus: Dataset, pairs: Dataset) -> None:
    for name in BOTH:
        alone = pairs.map(MineNegatives(corpus, index=name, num_negatives=5), batched=True)
        listed = pairs.map(MineNegatives(corpus, index=[name], num_negatives=5), batched=True)
        assert alone.to_list() == listed.to_list()
        assert "neg_from" not in alone.column_names


def test_words_alone_are_mined_below_the_positive_s_own_score(
    corpus: Dataset, pairs: Dataset, scores: dict[str, np.ndarray]
) -> None:
    mined = pairs.map(MineNegatives(corpus, index="bm25", num_negatives=5), batched=True)
    for row, values, pair in zip(mined, scores["bm25"], pairs, strict=True):
        ceiling = 0.95 * values[int(pair["pos_ids"][0][1:])]
        assert all(0 < score <= ceiling for score in row["neg_sims"])
        assert row["neg_sims"] == sorted(row["neg_sims"], reverse=True)


def test_negatives_of_an_answer_are_found_by_its_own_words_and_vector(
    corpus: Dataset, pairs: Dataset
) -> None:
    answered = pairs.add_column("answer", pairs["query"][::-1]).add_column(
        "answer_embedding", pairs["embedding"][::-1]
    )
    step = MineNegatives(corpus, index=BOTH, output="neg_answer", num_negatives=4)
    swapped = Dataset.from_dict(
        {"query": answered["answer"][:], "embedding": answered["answer_embedding"][:],
         "pos_ids": answered["pos_ids"][:]}
    )  # fmt: skip
    expected = swapped.map(MineNegatives(corpus, index=BOTH, num_negatives=4), batched=True)
    found = answered.remove_columns("query").map(step, batched=True)
    assert found["neg_answer_from"][:] == expected["neg_from"][:]
    assert found["neg_answer_ids"][:] == expected["neg_ids"][:]


def test_what_another_index_forbids_is_counted() -> None:
    rows = {
        "id": ["pos", "words", "both", "far"],
        "text": ["red fox", "red fox river bank", "red car", "dog"],
        "embedding": [[1.0, 0.0], [0.5, 0.5], [0.4, 0.6], [0.0, 1.0]],
    }
    corpus = attach_lexical(attach_index(Dataset.from_dict(rows)))
    row = {"query": "red fox", "pos_ids": ["pos"], "embedding": [1.0, 0.0]}
    free = MineNegatives(corpus, index=BOTH, num_negatives=3).one(row)
    assert free["neg_ids"] == ["words", "both", "far"]
    assert free["neg_skipped"]["other_index"] == 0
    low = {"embedding": 0.45}
    limited = MineNegatives(corpus, index=BOTH, num_negatives=3, max_score=low).one(row)
    assert limited["neg_ids"] == ["both", "far"]
    assert limited["neg_skipped"]["other_index"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": BOTH, "sampling_strategy": "uniform"}, "uniform draws from the whole corpus"),
        ({"index": BOTH, "max_score": {"words": 1.0}}, "max_score names the index 'words'"),
        ({"index": BOTH, "merge": "best"}, "merge must be one of"),
        ({"index": BOTH, "query": "embedding"}, "names one column for 2 indexes"),
        ({"index": "bm25", "answer_weight": 0.5}, "answer_weight mixes vectors"),
    ],
)
def test_what_does_not_fit_several_indexes_is_named(
    corpus: Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MineNegatives(corpus, **options)


def test_a_row_without_a_vector_says_so_and_one_without_known_words_is_mined_by_vectors(
    corpus: Dataset,
) -> None:
    rows = Dataset.from_dict(
        {
            "query": ["fox", "unheard"],
            "pos_ids": [["p1"], ["p1"]],
            "embedding": [None, [1.0, 0.0, 0.0, 0.0]],
        }
    )
    step = MineNegatives(corpus, index=BOTH, num_negatives=3, relative_margin=None)
    first, second = rows.map(step, batched=True)
    assert first["neg_note"] == "no_vector"
    assert second["neg_from"] == ["embedding"] * 3


def test_a_positive_without_a_word_of_the_query_has_the_rank_that_words_give_it() -> None:
    rows = {
        "id": ["a", "b", "c"],
        "text": ["red fox", "blue car", "dog"],
        "embedding": [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]],
    }
    corpus = attach_lexical(attach_index(Dataset.from_dict(rows)))
    row = {"query": "blue thing", "pos_ids": ["a"], "embedding": [1.0, 0.0]}
    alone = MineNegatives(corpus, index="bm25", num_negatives=1).one(row)
    both = MineNegatives(corpus, index=["bm25", "embedding"], num_negatives=1).one(row)
    assert alone["pos_rank"] == both["pos_rank"] == 1


def test_a_query_without_a_known_word_is_asked_of_the_other_index() -> None:
    rows = {
        "id": ["a", "b", "c"],
        "text": ["red fox", "blue car", "dog"],
        "embedding": [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]],
    }
    corpus = attach_lexical(attach_index(Dataset.from_dict(rows)))
    row = {"query": "zebra", "pos_ids": ["a"], "embedding": [1.0, 0.0]}
    for index in (["bm25", "embedding"], ["embedding", "bm25"]):
        found = MineNegatives(corpus, index=index, num_negatives=2).one(row)
        assert (found["neg_ids"], found["neg_note"]) == (["c", "b"], None)
        assert found["neg_from"] == ["embedding"] * 2
        assert found["pos_rank"] == (3 if index[0] == "bm25" else 0)
