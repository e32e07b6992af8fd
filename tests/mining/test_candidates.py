"""Lists for a teacher to rank: the best of the fused ranking and a draw of what follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import CandidateLists, Search, attach_index, attach_lexical

BOTH = ["embedding", "bm25"]
WORDS = ["red", "fox", "car", "blue", "dog", "sleeps", "river", "stone"]


def texts_of(rows: int, rng: np.random.Generator) -> list[str]:
    return [" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(rows)]


@pytest.fixture(scope="module")
def corpus() -> Dataset:
    rng = np.random.default_rng(0)
    rows = {
        "id": [f"p{at}" for at in range(300)],
        "text": [f"{text} {at}x" for at, text in enumerate(texts_of(300, rng))],
        "embedding": rng.standard_normal((300, 4)).astype("f4").tolist(),
    }
    return attach_lexical(attach_index(Dataset.from_dict(rows)))


@pytest.fixture(scope="module")
def queries() -> Dataset:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20, 4)).astype("f4").tolist()
    names = [f"q{at}" for at in range(20)]
    rows = {"query_id": names, "query": texts_of(20, rng), "embedding": vectors}
    return Dataset.from_dict(rows)


@pytest.mark.parametrize("index", [BOTH, "bm25", "embedding"])
def test_a_list_is_the_best_and_a_draw_down_to_depth(
    corpus: Dataset, queries: Dataset, index: Any
) -> None:
    lists = queries.map(CandidateLists(corpus, index=index, size=8, top=3, depth=20), batched=True)
    hits = queries.map(Search(corpus, index=index), batched=True)["hit_ids"][:]
    drawn = []
    for row, ranking in zip(lists, hits, strict=True):
        places = [ranking.index(passage) for passage in row["passage_ids"]]
        assert places[:3] == [0, 1, 2]
        assert places == sorted(set(places))
        assert len(places) == 8
        assert places[-1] < 20
        texts = [corpus[int(passage[1:])]["text"] for passage in row["passage_ids"]]
        assert row["passages"] == texts
        assert row["passages_note"] is None
        drawn += places[3:]
    assert set(drawn) == set(range(3, 20))  # 100 draws of 17 places: each comes


def test_a_draw_depends_on_seed_and_query_alone(corpus: Dataset, queries: Dataset) -> None:
    step = CandidateLists(corpus, size=8, top=3)
    one = queries.map(step, batched=True, batch_size=3)
    reversed_ = queries.select(range(19, -1, -1)).map(step, batched=True, batch_size=20)
    assert one["passage_ids"][:] == reversed_["passage_ids"][::-1]
    other = queries.map(CandidateLists(corpus, size=8, top=3, seed=1), batched=True)
    assert one["passage_ids"][:] != other["passage_ids"][:]


def test_own_text_repeats_and_excluded_passages_are_no_candidates() -> None:
    texts = ["red fox", "red fox sleeps", "red fox sleeps", "red fox river", "red dog"]
    corpus = attach_lexical(
        Dataset.from_dict({"id": ["own", "a", "twin", "source", "b"], "text": texts})
    )
    row = {"query": "red fox", "pos_ids": "source"}
    step = CandidateLists(corpus, index="bm25", size=4, top=4)
    assert step.one(row)["passage_ids"] == ["a", "source", "b"]
    assert step.one(row)["passages_note"] == "corpus_exhausted"
    without = CandidateLists(corpus, index="bm25", size=4, top=4, exclude="pos_ids")
    assert without.one(row)["passage_ids"] == ["a", "b"]
    assert without.one({"query": "red fox", "pos_ids": ["source", "b"]})["passage_ids"] == ["a"]


def test_what_is_excluded_does_not_come_under_another_id_of_its_text() -> None:
    texts = ["red fox", "red fox", "red car", "red dog"]
    corpus = attach_lexical(Dataset.from_dict({"id": ["a", "b", "c", "d"], "text": texts}))
    step = CandidateLists(corpus, index="bm25", size=4, top=4, exclude="source")
    for source in ("a", "b", ["b", "a"]):
        assert step.one({"query": "red", "source": source})["passage_ids"] == ["c", "d"]


def test_lists_are_as_deep_as_is_asked_whatever_is_in_the_batch(
    corpus: Dataset, queries: Dataset
) -> None:
    step = CandidateLists(corpus, size=250, top=250, depth=250, exclude="source")
    lost = [[f"p{at}" for at in range(number)] for number in range(20)]
    rows = queries.add_column("source", lost)
    found = rows.map(step, batched=True)
    assert [len(ids) for ids in found["passage_ids"]] == [250] * 20
    assert found["passages_note"][:] == [None] * 20
    one = rows.map(step, batched=True, batch_size=1)
    assert one["passage_ids"][:] == found["passage_ids"][:]
    hits = queries.map(Search(corpus, index=BOTH, k=251), batched=True)["hit_ids"][0]
    assert found["passage_ids"][0] == hits[:250]  # nothing is excluded from the first row's


def test_a_row_that_no_index_can_be_asked_about_stays_and_says_so(corpus: Dataset) -> None:
    rows = Dataset.from_dict({"query": ["unheard", "fox", None], "embedding": [None, None, None]})
    rows = rows.cast_column("embedding", corpus.features["embedding"])
    found = rows.map(CandidateLists(corpus, size=2, top=1), batched=True)
    assert found["passages_note"][:] == ["no_query", None, "no_query"]
    assert [len(ids) for ids in found["passage_ids"]] == [0, 2, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": 5, "top": 6}, "top=6 must not be above size=5"),
        ({"size": 60}, "not above depth=50"),
        ({"method": "sum"}, "method must be one of"),
        ({"index": "splade"}, "no index 'splade'"),
    ],
)
def test_what_does_not_fit_is_named(corpus: Dataset, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CandidateLists(corpus, **options)
