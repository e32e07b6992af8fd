"""Which margin? An answer from the user's own data."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import MineNegatives, ScorePassages, attach_index, recommend_margin
from tests.test_teach import Judge

SIMILARITIES = [0.99, 0.97, 0.94, 0.92, 0.85, 0.7, 0.5, 0.3]
WORTH = [9, 0, 8, 0, 0, 0, 0, 0]  # two unlabelled positives, at 1 % and 6 % below the positive


@pytest.fixture
def planted() -> tuple[Dataset, Dataset]:
    """A corpus of groups of nine: a positive and eight passages at known similarities; queries are the positives' vectors."""
    rows, queries = [], []
    for group in range(20):
        axis = np.zeros((2, 40), np.float32)
        axis[0, 2 * group], axis[1, 2 * group + 1] = 1, 1
        queries.append({"query": f"query{group} x", "pos": [f"positive {group} worth 5"], "embedding": axis[0].tolist()})
        rows.append({"text": f"positive {group} worth 5", "embedding": axis[0].tolist()})
        for similarity, worth in zip(SIMILARITIES, WORTH, strict=True):
            vector = similarity * axis[0] + np.sqrt(1 - similarity**2) * axis[1]
            rows.append({"text": f"passage {group} {similarity} worth {worth}", "embedding": vector.tolist()})
    corpus = Dataset.from_list([{"id": str(place), **row} for place, row in enumerate(rows)])
    return attach_index(corpus), Dataset.from_list(queries)


def test_shares_difficulties_and_the_margin_are_those_planted(planted: tuple[Dataset, Dataset]) -> None:
    corpus, pairs = planted
    found = recommend_margin(pairs, Judge(), corpus=corpus, margins=[0.1, 0.0, 0.02], num_negatives=2, max_false=0.2, sample=12)
    table = found["margins"].to_list()
    assert [row["margin"] for row in table] == [0.0, 0.02, 0.1]
    assert [row["false_negatives"] for row in table] == [0.5, 0.5, 0.0]
    assert [row["similarity"] for row in table] == pytest.approx([0.98, 0.955, 0.775], abs=1e-6)
    assert [row["difficulty"] for row in table] == pytest.approx([0.98, 0.955, 0.775], abs=1e-6)
    assert {(row["rows"], row["negatives"]) for row in table} == {(12, 24)}
    assert all(row["low"] <= row["false_negatives"] <= row["high"] for row in table)
    assert (found["margin"], found["is_met"]) == (0.1, True)
    strict = recommend_margin(pairs, Judge(), corpus=corpus, margins=[0.0, 0.02], num_negatives=2, max_false=0.2)
    assert (strict["margin"], strict["is_met"]) == (0.0, False)


def test_rows_mined_without_margin_answer_without_the_corpus(planted: tuple[Dataset, Dataset]) -> None:
    corpus, pairs = planted
    mined = pairs.map(MineNegatives(corpus, margin=0.0, num_negatives=8), batched=True)
    teacher = ScorePassages(Judge(), method="yes_no")
    for margins in ([0.0, 0.02, 0.05, 0.1], [0.2]):
        own = recommend_margin(mined, teacher, 20, margins=margins, num_negatives=3)
        searched = recommend_margin(pairs, teacher, 20, margins=margins, num_negatives=3, corpus=corpus)
        assert own["margins"].to_list() == searched["margins"].to_list()


def test_the_sample_and_the_interval_are_the_same_every_time(planted: tuple[Dataset, Dataset]) -> None:
    corpus, pairs = planted
    mined = pairs.map(MineNegatives(corpus, margin=0.0, num_negatives=8), batched=True)
    first, second = (recommend_margin(mined, Judge(), 5, seed=3)["margins"].to_list() for _ in range(2))
    assert first == second


def test_what_cannot_be_answered_is_said(planted: tuple[Dataset, Dataset]) -> None:
    corpus, pairs = planted
    mined = pairs.map(MineNegatives(corpus, margin=0.0, num_negatives=2), batched=True)
    with pytest.raises(ValueError, match="No row of the sample has a negative at margin 0.5"):
        recommend_margin(mined, Judge(), margins=[0.5])
    with pytest.raises(ValueError, match="rows from MineNegatives, or the corpus"):
        recommend_margin(pairs, Judge())
    with pytest.raises(TypeError, match="A str cannot judge by query likelihood"):
        recommend_margin(mined, "some-cross-encoder")
    with pytest.raises(ValueError, match="sample and num_negatives must be at least 1"):
        recommend_margin(mined, Judge(), 0)
