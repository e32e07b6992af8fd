"""Values of a model on held-out queries, against plain arithmetic; and what a comparison says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import run
from rir_hf.boosting.held_out import FEATURES
from rir_hf.boosting.judge import ANSWER_WEIGHT, MEASURE, Judge, qrels_of, verdict_on
from rir_hf.boosting.record import rows_of
from tests.evaluation.plain import plain
from tests.generation.stand_ins import Numbers


def corpus_of(*vectors: tuple[float, float]) -> Dataset:
    """Passages p0, p1, ... whose texts end in the numbers of their vectors."""
    texts = [f"passage {x} {y}" for x, y in vectors]
    return Dataset.from_dict({"id": [f"p{n}" for n in range(len(texts))], "text": texts})


def held_out_of(*queries: tuple[str, dict[str, float], str | None]) -> Dataset:
    """Held-out queries q0, q1, ...: text, grades, and what stands in place of their passage."""
    rows = [
        {
            "query_id": f"q{number}",
            "query": text,
            "kind": None,
            "pos_ids": [*grades],
            "grades": [*grades.values()],
            "lacking": None if passage is None else [passage],
            "source": None,
            "synthetic": passage is not None,
            "trained_on": None,
            "weight": 1.0,
        }
        for number, (text, grades, passage) in enumerate(queries)
    ]
    return rows_of(rows, FEATURES)


def vector_of(text: str) -> np.ndarray:
    """The numbers at the end of a text."""
    return np.array(text.split()[-2:], np.float64)


def test_values_are_those_of_a_plain_search() -> None:
    draws = np.random.default_rng(0)
    corpus = corpus_of(*draws.normal(size=(30, 2)).round(3).tolist())
    queries = [
        (f"query {x} {y}", {f"p{number}": 2.0, f"p{number + 7}": 1.0}, None)
        for number, (x, y) in enumerate(draws.normal(size=(6, 2)).round(3).tolist())
    ]
    found = Judge(corpus, held_out_of(*queries), run).values(Numbers())
    expected = {}
    for number, (text, grades, _) in enumerate(queries):
        hits = {row["id"]: float(vector_of(row["text"]) @ vector_of(text)) for row in corpus}
        expected[f"q{number}"] = plain(grades, hits, MEASURE)
    assert found == pytest.approx(expected)
    assert 0 < sum(found.values()) < 6


def test_answers_are_searched_with_beside_the_query() -> None:
    corpus = corpus_of((1.0, 0.0), (0.9, 0.3), (0.0, 1.0))
    held_out = held_out_of(("query 1.0 0.0", {"p1": 1.0}, None))
    judge = Judge(corpus, held_out, run)
    answered = held_out.add_column("answers", [["answer 0.0 1.0", "answer 0.0 0.6"]])
    asked = (1 - ANSWER_WEIGHT) * np.array([1.0, 0.0]) + ANSWER_WEIGHT * np.array([0.0, 0.8])
    hits = {row["id"]: float(vector_of(row["text"]) @ asked) for row in corpus}
    assert judge.values(Numbers(), answered) == pytest.approx(
        {"q0": plain({"p1": 1.0}, hits, MEASURE)}
    )


def test_a_passage_is_searched_without_the_query_that_was_taken_from_it() -> None:
    corpus = corpus_of((9.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    query = ("query 1.0 0.0", {"p0": 1.0})
    whole = Judge(corpus, held_out_of((*query, None)), run)
    lacking = Judge(corpus, held_out_of((*query, "the rest 0.5 0.0")), run)
    assert whole.values(Numbers()) == {"q0": 1.0}
    assert lacking.values(Numbers())["q0"] == pytest.approx(1 / np.log2(3))  # second


def test_only_that_passage_changes_and_each_is_encoded_once() -> None:
    corpus = corpus_of((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))
    held_out = held_out_of(
        ("query 1.0 0.1", {"p0": 1.0}, "the rest 0.1 0.0"),
        ("query 0.1 1.0", {"p1": 1.0}, None),
    )
    assert Judge(corpus, held_out, run).values(Numbers()) == pytest.approx(
        {"q0": 1 / np.log2(4), "q1": 1.0}  # behind the two others; first
    )


def test_each_of_several_queries_of_a_passage_is_searched_for_in_what_is_left_without_it() -> None:
    corpus = corpus_of((1.0, 1.0), (0.6, 0.6), (-0.1, 0.1))
    held_out = held_out_of(
        ("query 1.0 0.0", {"p0": 1.0}, "the rest 0.0 1.0"),
        ("query 0.0 1.0", {"p0": 1.0}, "the rest 0.7 0.0"),
        ("query 1.0 0.1", {"p0": 1.0}, "the rest 0.7 0.0"),
        ("query 0.0 1.0", {"p1": 1.0}, None),
    )
    assert Judge(corpus, held_out, run).values(Numbers()) == pytest.approx(
        # The other's words find the passage, its own do not; p1 is behind the rest of the first.
        {"q0": 1 / np.log2(3), "q1": 1 / np.log2(4), "q2": 1.0, "q3": 1 / np.log2(3)}
    )


def test_grades_are_gains() -> None:
    held_out = held_out_of(("query", {"a": 2.0, "b": 0.0}, None), ("other", {"b": 1.0}, None))
    assert qrels_of(held_out) == {"q0": {"a": 2.0, "b": 0.0}, "q1": {"b": 1.0}}


def verdict_of(
    *differences: float,
    kinds: list[str | None] | None = None,
    passages: str | None = None,
    synthetic: bool = True,
    trained_on: list[bool] | None = None,
    weights: list[float] | None = None,
) -> dict[str, Any]:
    """The verdict where each query changes by so much from 0.5, each made of another passage where
    these are not named by letters.
    """
    names = [f"q{number}" for number in range(len(differences))]
    rows = {
        "query_id": names,
        "pos_ids": [[name] for name in passages or names],
        "kind": kinds or [None] * len(names),
        "synthetic": [synthetic] * len(names),
        "trained_on": trained_on or [None] * len(names),
        "weight": weights or [1.0] * len(names),
    }
    after = {name: 0.5 + change for name, change in zip(names, differences, strict=True)}
    return verdict_on(after, dict.fromkeys(names, 0.5), Dataset.from_dict(rows))


def test_a_model_is_kept_where_nothing_is_lost_and_gains_where_that_is_no_chance() -> None:
    same, lost = verdict_of(*[0.0] * 8), verdict_of(*[0.25] * 3, *[-0.25] * 4)
    maybe, sure = verdict_of(0.25, 0.0, 0.0, 0.0), verdict_of(*[0.25] * 8)
    assert (same["difference"], same["kept"], same["gain"]) == (0.0, True, False)
    assert (lost["kept"], lost["gain"]) == (False, False)
    assert (maybe["p_value"], maybe["kept"], maybe["gain"]) == (1.0, True, False)
    assert (sure["p_value"], sure["kept"], sure["gain"]) == (2 / 2**8, True, True)


def test_what_is_made_of_one_passage_counts_once_and_what_people_ask_each_time() -> None:
    changes = (0.25, 0.0, 0.5, 0.25, 0.25)
    made = verdict_of(*changes, passages="abaab")
    asked = verdict_of(*changes, passages="abaab", synthetic=False)
    assert (made["difference"], made["queries"]) == (pytest.approx((1 / 3 + 1 / 8) / 2), 5)
    assert made["after"] - made["before"] == pytest.approx(made["difference"])
    assert asked["difference"] == pytest.approx(0.25)


def test_a_query_counts_by_its_weight_and_passages_that_were_not_trained_on_stand_apart() -> None:
    found = verdict_of(
        *(0.25, 0.25, -0.25, -0.5),
        passages="abcc",
        trained_on=[True, True, False, False],
        weights=[1.5, 1.5, 1.0, 1.0],
    )
    assert found["difference"] == pytest.approx((3 * 0.25 - (0.25 + 0.5) / 2) / 4)
    assert found["after"] - found["before"] == pytest.approx(found["difference"])
    assert (found["before"], found["kept"]) == (0.5, True)
    kinds = {"passage trained on": [0.5, 0.75], "passage not trained on": [0.5, 0.125]}
    assert json.loads(found["kinds"]) == kinds


def test_generated_queries_that_find_next_to_nothing_keep_no_model() -> None:
    found = verdict_of(*[-0.5] * 40, -0.25)
    assert (found["after"], found["difference"] < 0) == (pytest.approx(0.25 / 41), True)
    names = [f"q{number}" for number in range(41)]
    better = dict.fromkeys(names, 0.0) | {"q0": 0.25}
    for synthetic in (True, False):
        rows = {
            "query_id": names,
            "pos_ids": [[name] for name in names],
            "kind": [None] * 41,
            "synthetic": [synthetic] * 41,
            "trained_on": [None] * 41,
            "weight": [1.0] * 41,
        }
        found = verdict_on(better, dict.fromkeys(names, 0.0), Dataset.from_dict(rows))
        assert found["difference"] > 0
        assert found["kept"] is not synthetic


def test_a_significant_loss_is_no_gain() -> None:
    found = verdict_of(*[-0.25] * 8)
    assert (found["p_value"], found["kept"], found["gain"]) == (2 / 2**8, False, False)


def test_a_verdict_says_before_and_after_in_all_and_by_kind() -> None:
    found = verdict_of(0.5, 0.0, 0.25, kinds=["claim", "claim", "title"])
    assert (found["before"], found["after"], found["difference"]) == (0.5, 0.75, 0.25)
    assert found["kinds"] == '{"claim": [0.5, 0.75], "title": [0.5, 0.75]}'
    assert (found["measure"], found["queries"], found["synthetic"]) == ("nDCG@10", 3, True)
    assert verdict_of(0.25, 0.25)["kinds"] is None
