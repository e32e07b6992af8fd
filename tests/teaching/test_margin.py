"""Which margin? An answer from the user's own data."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from rir_hf.index.attach import attach_index
from rir_hf.mining.negatives import MineNegatives
from rir_hf.teaching.margin import judge, recommend_margin
from rir_hf.teaching.pointwise import YesNo
from tests.teaching.judge import Judge

SIMILARITIES = [0.99, 0.97, 0.94, 0.92, 0.85, 0.7, 0.5, 0.3]
WORTH = [9, 0, 8, 0, 0, 0, 0, 0]  # two unlabelled positives, 1 % and 6 % below the positive


@pytest.fixture(scope="module")
def planted() -> tuple[Dataset, Dataset]:
    """A corpus of groups of nine: a positive and eight passages at known similarities; the queries
    are the positives' vectors.
    """
    rows, queries = [], []
    for group in range(20):
        axis = np.zeros((2, 40), np.float32)
        axis[0, 2 * group] = axis[1, 2 * group + 1] = 1
        text = f"positive {group} worth 5"
        vector = axis[0].tolist()
        queries.append({"query": f"query{group} x", "pos": [text], "embedding": vector})
        rows.append({"text": text, "embedding": vector})
        for similarity, worth in zip(SIMILARITIES, WORTH, strict=True):
            near = similarity * axis[0] + np.sqrt(1 - similarity**2) * axis[1]
            text = f"passage {group} {similarity} worth {worth}"
            rows.append({"text": text, "embedding": near.tolist()})
    corpus = Dataset.from_list([{"id": str(place), **row} for place, row in enumerate(rows)])
    return attach_index(corpus), Dataset.from_list(queries)


@pytest.fixture(scope="module")
def mined(planted: tuple[Dataset, Dataset]) -> Dataset:
    """The queries with all their negatives."""
    corpus, pairs = planted
    return pairs.map(MineNegatives(corpus, relative_margin=0.0, num_negatives=8), batched=True)


def test_shares_difficulties_and_the_margin_are_those_planted(
    planted: tuple[Dataset, Dataset],
) -> None:
    corpus, pairs = planted
    found = recommend_margin(
        pairs,
        Judge(),
        corpus=corpus,
        margins=[0.1, 0.0, 0.02],
        num_negatives=2,
        max_false=0.2,
        sample=12,
    )
    table = found["margins"].to_list()
    assert [row["margin"] for row in table] == [0.0, 0.02, 0.1]
    assert [row["false_negatives"] for row in table] == [0.5, 0.5, 0.0]
    means = pytest.approx([0.98, 0.955, 0.775], abs=1e-6)
    assert [row["similarity"] for row in table] == means
    assert [row["difficulty"] for row in table] == means
    assert {(row["rows"], row["negatives"]) for row in table} == {(12, 24)}
    assert all(row["low"] <= row["false_negatives"] <= row["high"] for row in table)
    assert (found["margin"], found["is_met"]) == (0.1, True)


def test_where_no_margin_is_good_enough_it_is_the_best_one_and_says_so(mined: Dataset) -> None:
    found = recommend_margin(mined, Judge(), margins=[0.0, 0.02], num_negatives=2, max_false=0.2)
    assert (found["margin"], found["is_met"]) == (0.0, False)


def test_rows_mined_without_margin_answer_without_the_corpus(
    planted: tuple[Dataset, Dataset], mined: Dataset
) -> None:
    corpus, pairs = planted
    teacher, margins = YesNo(Judge()), [0.0, 0.02, 0.1, 0.2]
    own = recommend_margin(mined, teacher, 20, margins=margins, num_negatives=3)
    searched = recommend_margin(pairs, teacher, 20, margins=margins, num_negatives=3, corpus=corpus)
    assert own["margins"].to_list() == searched["margins"].to_list()


def test_of_margins_that_the_rows_cannot_tell_apart_the_greatest_is_taken(
    planted: tuple[Dataset, Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    corpus, pairs = planted
    rows = pairs.map(MineNegatives(corpus, relative_margin=0.1, num_negatives=5), batched=True)
    margins = [0.0, 0.05, 0.1, 0.2]
    found = recommend_margin(rows, Judge(), margins=margins, num_negatives=2, max_false=0.2)
    assert (found["margin"], found["is_met"]) == (0.1, True)
    assert found["margins"]["margin"][:] == margins
    assert "[0.1, 0.2] differ" in caplog.text
    caplog.clear()
    recommend_margin(pairs, Judge(), corpus=corpus, margins=[0.03, 0.04], num_negatives=2)
    assert "differ" not in caplog.text


def test_a_negative_is_false_where_relabelling_would_drop_it() -> None:
    """Above the weaker positive, and in a row that has scores, whatever its notes say."""
    row = {"pos_sims": [0.9, 0.8], "neg_sims": [0.7, 0.6], "pos_scores": [3.0, 1.0]}
    noted = {**row, "neg_scores": [2.0, 1.0], "teacher_error": "failed: one teacher of two"}
    failed = {**row, "pos_scores": None, "neg_scores": None, "teacher_error": "failed: gone"}
    found = judge([noted, failed], margin=0.0, num_negatives=2, seed=0)
    assert (found["false_negatives"], found["rows"], found["negatives"]) == (0.5, 1, 2)


def test_the_sample_and_the_interval_are_the_same_every_time(mined: Dataset) -> None:
    first = recommend_margin(mined, Judge(), 5, seed=3)
    second = recommend_margin(mined, Judge(), 5, seed=3)
    assert first["margins"].to_list() == second["margins"].to_list()


def test_what_cannot_be_answered_is_refused(
    planted: tuple[Dataset, Dataset], mined: Dataset
) -> None:
    _, pairs = planted
    with pytest.raises(ValueError, match="No row of the sample has a negative at margin 0.99"):
        recommend_margin(mined, Judge(), margins=[0.99])
    with pytest.raises(ValueError, match=r"numbers of at least 0, got \[-0.1, 0.1\]"):
        recommend_margin(mined, Judge(), margins=[-0.1, 0.1])
    with pytest.raises(ValueError, match="rows from MineNegatives, or the corpus"):
        recommend_margin(pairs, Judge())
    with pytest.raises(TypeError, match="QueryLikelihood needs a model with sequence_logprobs"):
        recommend_margin(mined, object())  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="sample and num_negatives must be at least 1"):
        recommend_margin(mined, Judge(), 0)
