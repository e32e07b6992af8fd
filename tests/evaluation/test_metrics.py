"""Every measure equals plain arithmetic in trec_eval's order, in whatever form a run comes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from rir_hf import evaluate, write_qrels, write_run
from tests.evaluation.plain import plain

EVERY = ["nDCG@3", "nDCG@10", "R@1", "R@100", "RR", "RR@2", "RR@10", "P@3", "P@10", "AP", "AP@3"]
EVERY += ["Success@1", "Success@5", "Rprec"]

ONE = {"q": {"a": 1}}

passages = st.integers(0, 14).map(str)
scores = st.sampled_from([0.0, 0.5, 0.5 + 1e-10, 0.75, -1.0, 1e-3, 3.0])
whole = st.integers(-1, 4)
fractions = st.sampled_from([-0.5, 0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0, 2.5, 1e-9, 1e12])
runs = st.dictionaries(
    st.integers(0, 7).map(str), st.dictionaries(passages, scores, max_size=15), max_size=6
)


def qrels_of(grades: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, dict[str, Any]]]:
    judged = st.dictionaries(passages, grades, max_size=8)
    return st.dictionaries(st.integers(0, 5).map(str), judged, min_size=1, max_size=5)


@settings(max_examples=60)
@given(qrels=qrels_of(whole) | qrels_of(fractions), run=runs)
def test_every_measure_equals_plain_arithmetic(
    qrels: dict[str, dict[str, float]], run: dict[str, dict[str, float]]
) -> None:
    rows = evaluate(run, qrels, EVERY, per_query=True)
    means = evaluate(run, qrels, EVERY)
    assert rows.column_names == ["query_id", *EVERY, "num_relevant"]
    assert rows["query_id"][:] == list(qrels)
    for measure in EVERY:
        expected = [plain(grades, run.get(query, {}), measure) for query, grades in qrels.items()]
        assert rows[measure][:] == pytest.approx(expected, rel=1e-9, abs=1e-15)
        assert means[measure] == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-15)


@settings(max_examples=60)
@given(qrels=qrels_of(st.integers(0, 4)), run=runs)
def test_whole_grades_give_what_pytrec_eval_gives_to_the_last_bit(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> None:
    measured = {"nDCG@3": "ndcg_cut_3", "R@100": "recall_100", "AP": "map", "Rprec": "Rprec"}
    asked = {"ndcg_cut.3", "recall.100", "map", "Rprec"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run)
    ours = evaluate(run, qrels, list(measured), per_query=True)
    for row in ours:
        expected = theirs.get(row["query_id"], {})
        for measure, name in measured.items():
            assert row[measure] == expected.get(name, 0.0)


def test_the_example_worked_by_hand_comes_out() -> None:
    # Query 0 has its 2 relevant passages at ranks 1 and 3, query 1 its 3 at ranks 1, 2 and 4.
    qrels = {"0": {"0": 1, "5": 1}, "1": {"2": 1, "7": 1, "9": 1}}
    rows = {
        "query_id": ["0", "1"],
        "hit_ids": [["0", "3", "5", "1", "8"], ["2", "7", "1", "9", "0"]],
        "hit_scores": [[1.0, 0.9, 0.8, 0.7, 0.6]] * 2,
    }
    by_hand = {
        "R@1": (1 / 2 + 1 / 3) / 2,
        "R@5": 1.0,
        "P@5": (2 / 5 + 3 / 5) / 2,
        "RR@10": 1.0,
        "Success@1": 1.0,
        "Rprec": (1 / 2 + 2 / 3) / 2,
        "AP": ((1 + 2 / 3) / 2 + (1 + 1 + 3 / 4) / 3) / 2,
        # 1.5 / 1.6309298 and 2.0616063 / 2.1309298
        "nDCG@5": (0.9197208 + 0.9674680) / 2,
    }
    found = evaluate(Dataset.from_dict(rows), qrels, list(by_hand))
    assert found == pytest.approx(by_hand, abs=1e-7)


def test_fractional_grades_worked_by_hand_come_out() -> None:
    run = {"q": {"b": 0.9, "c": 0.8, "a": 0.7}}
    qrels = {"q": {"a": 1.0, "b": 0.5, "c": -0.5}}
    found = evaluate(run, qrels, ["nDCG@10", "P@1", "R@2", "RR"])
    ndcg = (0.5 + 1 / 2) / (1 + 0.5 / math.log2(3))
    assert found == pytest.approx({"nDCG@10": ndcg, "P@1": 1.0, "R@2": 0.5, "RR": 1.0}, rel=1e-12)


@pytest.mark.parametrize("grade", [1, 0.5])
def test_ties_in_single_precision_fall_by_descending_id_as_text(grade: float) -> None:
    run = {"q": {"10": 0.5 + 1e-9, "9": 0.5}}
    first = evaluate(run, {"q": {"9": grade}}, ["RR@1", "RR@2", "nDCG@1"])
    second = evaluate(run, {"q": {"10": grade}}, ["RR@1", "RR@2", "nDCG@1"])
    assert first == {"RR@1": 1.0, "RR@2": 1.0, "nDCG@1": 1.0}
    assert second == {"RR@1": 0.0, "RR@2": 0.5, "nDCG@1": 0.0}


def test_queries_without_hits_count_zero_and_unjudged_ones_not_at_all_and_both_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = {"a": {"x": 1.0}, "b": {}, "other": {"x": 1.0}}
    qrels = {query: {"x": 1} for query in "abc"}
    found = evaluate(run, qrels, EVERY)
    assert found["RR"] == found["Rprec"] == found["nDCG@10"] == pytest.approx(1 / 3)
    assert caplog.messages == [
        "1 queries of the run are not in the qrels and do not count, 'other' for one.",
        "2 judged queries have no hits and count as zero, 'b' for one.",
    ]


def test_a_query_without_a_relevant_passage_counts_as_zero() -> None:
    run = {query: {"x": 1.0, "y": 0.5} for query in "abcd"}
    qrels: dict[str, dict[str, float]] = {"a": {"x": 1}, "b": {"x": 0, "y": -1}, "c": {"x": -0.5}}
    rows = evaluate(run, qrels | {"d": {}}, EVERY, per_query=True)
    for column in ("RR", "nDCG@3", "R@1", "Success@1", "Rprec", "num_relevant"):
        assert rows[column][:] == [1, 0, 0, 0]


def test_padding_is_ignored_and_of_a_repeated_id_the_best_score_counts() -> None:
    rows = {
        "query_id": [0, 1],
        "hit_ids": [[7, -1, -1], [-1, 4, 3, 3]],
        "hit_scores": [[0.1, math.nan, 9.0], [3.0, 1.0, 0.0, 2.0]],
    }
    found = evaluate(Dataset.from_dict(rows), {"0": {"7": 1}, "1": {"3": 1}}, ["RR@1", "P@2"])
    assert found == {"RR@1": 1.0, "P@2": 0.5}


def test_a_run_and_qrels_give_the_same_in_every_form(tmp_path: Path) -> None:
    run = {"1": {"10": 0.5, "11": 0.75}, "2": {"12": 0.25}}
    qrels = {"1": {"10": 2, "12": 0}, "2": {"12": 1, "10": 1}}
    expected = evaluate(run, qrels, EVERY)
    rows = Dataset.from_dict(
        {
            "query_id": [1, 2],
            "hit_ids": [[11, 10], [12, -1]],
            "hit_scores": [[0.75, 0.5], [0.25, -3e38]],
        }
    )
    write_run(run, tmp_path / "run.txt")
    stream = rows.to_iterable_dataset().map(lambda row: {"more": 1})
    for form in (rows, rows.with_format("numpy"), stream, tmp_path / "run.txt"):
        assert evaluate(form, qrels, EVERY) == expected
    write_qrels(qrels, tmp_path / "qrels.txt")
    beir = Dataset.from_dict(
        {"query-id": [1, 1, 2, 2], "corpus-id": [10, 12, 12, 10], "score": [2, 0, 1, 1]}
    )
    for judged in (beir, beir.to_iterable_dataset(), tmp_path / "qrels.txt"):
        assert evaluate(run, judged, EVERY) == expected


def test_positives_are_judgements_of_grade_1() -> None:
    pairs = {"query_id": ["1", "2", "1"], "pos_ids": [["10", None], None, ["11"]]}
    found = evaluate({"1": {"10": 0.5}}, Dataset.from_dict(pairs), ["R@1"], per_query=True)
    assert found[:] == {"query_id": ["1", "2"], "R@1": [0.5, 0.0], "num_relevant": [2, 0]}


def test_rows_of_one_query_must_have_the_same_hits_up_to_rounding() -> None:
    rows = {
        "query_id": ["q", "q"],
        "hit_ids": [["a", "b"], ["a", "c"]],
        "hit_scores": [[1.0, 0.5], [1.0 + 1e-7, 0.5 + 1e-7]],
    }
    assert evaluate(Dataset.from_dict(rows), ONE, ["RR"]) == {"RR": 1.0}
    different = Dataset.from_dict({**rows, "hit_ids": [["a", "b"], ["c", "b"]]})
    with pytest.raises(ValueError, match="several rows with query_id 'q' and different hits"):
        evaluate(different, ONE, ["RR"])


def test_the_highest_grade_costs_nothing() -> None:
    found = evaluate({"q": {"b": 1.0, "a": 0.5}}, {"q": {"a": 2**40, "b": 2**39}}, ["nDCG@1", "AP"])
    assert found == {"nDCG@1": 0.5, "AP": 1.0}


def a_run(**columns: Any) -> Dataset:
    return Dataset.from_dict(columns)


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: evaluate({}, ONE, ["F1"]), "Unknown measure 'F1': choose from nDCG@k, R@k, RR@k"),
    (lambda: evaluate({}, ONE, ["nDCG"]), "Unknown measure 'nDCG'"),
    (lambda: evaluate({}, ONE, []), "measures must not be empty"),
    (lambda: evaluate({}, ONE, "RR"), "measures must be a list, as in ['RR']"),
    (lambda: evaluate({}, {}), "The qrels are empty"),
    (lambda: evaluate({}, {"q": {"a": math.nan}}), "a grade that is no number for the query"),
    (lambda: evaluate({"q": {"a": math.nan}}, ONE), "score that is NaN for the query 'q'"),
    (
        lambda: evaluate(a_run(query_id=["q"], hit_ids=[["a"]]), ONE),
        "needs the columns query_id, hit_ids and hit_scores; ['hit_scores'] are missing",
    ),
    (
        lambda: evaluate({}, a_run(query_id=["q"])),
        "query_id and pos_ids, but the dataset has only ['query_id']",
    ),
    (
        lambda: evaluate(DatasetDict(test=a_run(query_id=["q"])), ONE),
        "A run cannot be several splits: choose one of ['test']",
    ),
]


def test_bad_input_gets_a_clear_error() -> None:
    for call, complaint in ERRORS:
        with pytest.raises(ValueError, match=re.escape(complaint)):
            call()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([math.nan, 0.5], "a score that is no number .NaN. for query_id 'q'"),
        ([0.5], "2 hit_ids and 1 hit_scores for query_id 'q': they must be aligned"),
    ],
)
def test_a_run_that_cannot_be_ranked_is_told(scores: list[float], message: str) -> None:
    rows = {"query_id": ["q"], "hit_ids": [["a", "b"]], "hit_scores": [scores]}
    with pytest.raises(ValueError, match=message):
        evaluate(Dataset.from_dict(rows), {"q": {"a": 1}})
