"""Evaluation: every metric equals plain arithmetic in trec_eval's order, files come back as written, bad input has its word."""

from __future__ import annotations

import importlib
import itertools
import math
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rir_hf import (
    compare_runs,
    confidence_interval,
    evaluate,
    evaluate_better,
    evaluate_mrr,
    evaluate_queries,
    read_qrels,
    read_run,
    write_qrels,
    write_run,
)

METRICS = ["recall", "mrr", "ndcg", "map", "precision"]
SHOWN = {"recall": "Recall", "mrr": "MRR", "ndcg": "NDCG", "map": "MAP", "precision": "Precision"}

HAND_TRUTHS = {"0": {"0": 1, "5": 1}, "1": {"2": 1, "7": 1, "9": 1}}
HAND_PREDICTS = [[0, 3, 5, 1, 8, 4, 2, 6, 7, 9], [2, 7, 1, 9, 0, 5, 3, 4, 6, 8]]
HAND_SCORES = [[1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]] * 2


def single(score: float) -> float:
    """A score in single precision, as trec_eval holds it."""
    return struct.unpack("f", struct.pack("f", score))[0]


def ranking(hits: dict[str, float]) -> list[str]:
    """Trec_eval's order: score descending, then passage id descending."""
    return sorted(hits, key=lambda passage: (single(hits[passage]), passage), reverse=True)


def oracle(grades: dict[str, int], hits: dict[str, float], metric: str, k: int) -> float:
    """One metric of one query, written as plainly as it can be."""
    found = [grades.get(passage, 0) for passage in ranking(hits)[:k]]
    relevant = sum(grade > 0 for grade in grades.values())
    if relevant == 0:
        return 0.0
    if metric == "recall":
        return sum(grade > 0 for grade in found) / relevant
    if metric == "precision":
        return sum(grade > 0 for grade in found) / k
    if metric == "mrr":
        return next((1 / rank for rank, grade in enumerate(found, 1) if grade > 0), 0.0)
    if metric == "map":
        at_relevant = [sum(grade > 0 for grade in found[:rank]) / rank for rank, grade in enumerate(found, 1) if grade > 0]
        return sum(at_relevant) / relevant
    gains = [grade / math.log2(rank + 1) for rank, grade in enumerate(found, 1)]
    ideal = [grade / math.log2(rank + 1) for rank, grade in enumerate(sorted(grades.values(), reverse=True)[:k], 1)]
    return sum(gains) / sum(ideal)


def assert_equals_oracle(
    qrels: dict[str, dict[str, int]],
    hits: dict[str, dict[str, float]],
    k_values: list[int],
    rows: Dataset,
    totals: dict[str, dict[str, float]],
) -> None:
    """Every value of every query is the oracle's to the last bits, and every total is their mean to five places."""
    assert rows["query_id"][:] == list(qrels)
    assert list(totals) == METRICS
    for metric in METRICS:
        assert list(totals[metric]) == [f"{SHOWN[metric]}@{k}" for k in k_values]
        for k in k_values:
            name = f"{SHOWN[metric]}@{k}"
            expected = [oracle(grades, hits.get(query, {}), metric, k) for query, grades in qrels.items()]
            assert rows[name][:] == pytest.approx(expected, rel=1e-12, abs=0)
            assert abs(totals[metric][name] - sum(expected) / len(expected)) <= 0.5e-5 + 1e-12
            assert totals[metric][name] == round(totals[metric][name], 5)


cut_offs = st.lists(st.integers(1, 12) | st.just(100), min_size=1, max_size=4, unique=True)
passages = st.integers(0, 14)
some_scores = st.sampled_from([0.0, 0.5, 0.5 + 1e-10, 0.75, -1.0, 1e-3, 3.0])
judgements = st.dictionaries(passages, st.integers(0, 3), max_size=8)


@st.composite
def list_problems(draw: Callable) -> tuple[dict, list[list], list[list], dict[str, dict[str, float]]]:
    """Judgements, ragged rows of ids (ints or texts, repeated, padded) and their scores, and what these rows say as a dict."""
    kind = draw(st.sampled_from([int, str]))
    judged_rows = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5, unique=True))
    qrels = {kind(row): {kind(passage): grade for passage, grade in draw(judgements).items()} for row in judged_rows}
    predicts, scores, said = [], [], {}
    for row in range(draw(st.integers(0, 5))):
        hits = draw(st.lists(st.tuples(passages | st.just(-1), some_scores), max_size=15))
        predicts.append([kind(passage) for passage, _ in hits])
        scores.append([score for _, score in hits])
        said[str(row)] = {
            str(passage): max(score for other, score in hits if other == passage) for passage, _ in hits if passage != -1
        }
    return qrels, predicts, scores, said


@settings(max_examples=150, deadline=None, derandomize=True)
@given(list_problems(), cut_offs)
def test_every_metric_of_lists_equals_the_oracle(problem: tuple[dict, list, list, dict], k_values: list[int]) -> None:
    qrels, predicts, scores, said = problem
    as_texts = {str(query): {str(passage): grade for passage, grade in docs.items()} for query, docs in qrels.items()}
    rows = evaluate_queries(METRICS, k_values, qrels, said)
    assert_equals_oracle(as_texts, said, k_values, rows, evaluate(METRICS, k_values, qrels, predicts, scores))
    assert rows["num_relevant"][:] == [sum(grade > 0 for grade in docs.values()) for docs in as_texts.values()]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.integers(0, 5), judgements, min_size=1, max_size=5),
    st.dictionaries(st.integers(0, 8), st.dictionaries(passages, some_scores, max_size=15), max_size=6),
    cut_offs,
)
def test_lists_a_dict_and_a_dataset_agree_with_the_oracle(qrels: dict, run: dict, k_values: list[int]) -> None:
    judged = {str(query): {str(passage): grade for passage, grade in docs.items()} for query, docs in qrels.items()}
    hits = {str(query): {str(passage): score for passage, score in found.items()} for query, found in run.items()}
    columns: dict[str, list] = {
        "query_id": list(run),
        "hit_ids": [list(found) for found in run.values()],
        "hit_scores": [list(found.values()) for found in run.values()],
    }
    as_lists = [list(run.get(row, {})) for row in range(9)], [list(run.get(row, {}).values()) for row in range(9)]
    of_dict = evaluate_better(METRICS, k_values, qrels, run)
    assert_equals_oracle(judged, hits, k_values, evaluate_queries(METRICS, k_values, qrels, run), of_dict)
    assert evaluate_better(METRICS, k_values, judged, hits) == of_dict
    assert evaluate_better(METRICS, k_values, qrels, Dataset.from_dict(columns)) == of_dict
    assert evaluate_better(METRICS, k_values, qrels, Dataset.from_dict(columns).with_format("numpy")) == of_dict
    assert evaluate(METRICS, k_values, qrels, *as_lists) == of_dict
    assert evaluate_mrr(qrels, run, k_values) == of_dict["mrr"]


def test_the_example_worked_by_hand_comes_out() -> None:
    # Query 0 has its 2 relevant passages at ranks 1 and 3, query 1 its 3 at ranks 1, 2 and 4.
    by_hand = {
        "recall": {"Recall@1": 0.41667, "Recall@5": 1.0, "Recall@10": 1.0},  # (1/2 + 1/3) / 2
        "mrr": {"MRR@1": 1.0, "MRR@5": 1.0, "MRR@10": 1.0},
        # From 5 on, query 0: (1 + 1/log2(4)) / (1 + 1/log2(3)) = 1.5 / 1.6309298 = 0.9197208,
        # query 1: (1 + 1/log2(3) + 1/log2(5)) / (1 + 1/log2(3) + 1/log2(4)) = 2.0616063 / 2.1309298 = 0.9674680.
        "ndcg": {"NDCG@1": 1.0, "NDCG@5": 0.94359, "NDCG@10": 0.94359},
        # At 1: (1/2 + 1/3) / 2. From 5 on: query 0 (1/1 + 2/3) / 2 = 5/6, query 1 (1/1 + 2/2 + 3/4) / 3 = 11/12.
        "map": {"MAP@1": 0.41667, "MAP@5": 0.875, "MAP@10": 0.875},
        "precision": {"Precision@1": 1.0, "Precision@5": 0.5, "Precision@10": 0.25},  # (2/5 + 3/5) / 2 and (2/10 + 3/10) / 2
    }
    assert evaluate(METRICS, [1, 5, 10], HAND_TRUTHS, HAND_PREDICTS, HAND_SCORES) == by_hand
    assert evaluate(METRICS, [1, 5, 10], HAND_TRUTHS, np.array(HAND_PREDICTS), np.float32(HAND_SCORES)) == by_hand


def test_scores_decide_the_order_and_not_the_places_in_the_lists() -> None:
    turned = [row[::-1] for row in HAND_PREDICTS], [row[::-1] for row in HAND_SCORES]
    expected = evaluate(METRICS, [1, 5, 10], HAND_TRUTHS, HAND_PREDICTS, HAND_SCORES)
    assert evaluate(METRICS, [1, 5, 10], HAND_TRUTHS, *turned) == expected


@pytest.mark.parametrize("hits", [{"9": 0.5, "10": 0.5}, {"10": 0.5, "9": 0.5}, {"10": 0.5 + 1e-9, "9": 0.5}])
def test_ties_in_single_precision_fall_by_descending_id_as_text(hits: dict[str, float]) -> None:
    assert evaluate_mrr({"q": {"9": 1}}, {"q": hits}, [1, 2]) == {"MRR@1": 1.0, "MRR@2": 1.0}
    assert evaluate_mrr({"q": {"10": 1}}, {"q": hits}, [1, 2]) == {"MRR@1": 0.0, "MRR@2": 0.5}


@pytest.mark.parametrize("hits", [{}, {"b": {}}, {"b": {"x": 1.0}}])
def test_a_query_without_hits_counts_as_zero(hits: dict[str, dict[str, float]], caplog: pytest.LogCaptureFixture) -> None:
    run = {"a": {"x": 1.0}, **hits}
    expected = 1.0 if hits.get("b") else 0.5
    totals = evaluate_better(METRICS, [1], {"a": {"x": 1}, "b": {"x": 1}}, run)
    assert {name: value for row in totals.values() for name, value in row.items()} == dict.fromkeys(
        ["Recall@1", "MRR@1", "NDCG@1", "MAP@1", "Precision@1"], expected
    )
    told = [message for message in caplog.messages if "no hits and count as zero, 'b'" in message]
    assert len(told) == (not hits.get("b"))


@pytest.mark.parametrize("grades", [{"x": 0, "y": 0}, {}])
def test_a_query_without_a_relevant_passage_counts_as_zero(grades: dict[str, int]) -> None:
    run = {"a": {"x": 1.0}, "b": {"x": 1.0, "y": 0.5}}
    rows = evaluate_queries(METRICS, [1, 5], {"a": {"x": 1}, "b": grades}, run)
    assert rows["MRR@5"][:] == rows["NDCG@1"][:] == rows["Recall@5"][:] == rows["num_relevant"][:] == [1, 0]
    assert evaluate_mrr({"b": grades}, run, [1]) == {"MRR@1": 0.0}


def test_a_query_that_is_not_judged_does_not_count_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    run = {"a": {"x": 1.0}, "other": {"x": 1.0}}
    assert evaluate_mrr({"a": {"x": 1}}, run, [1]) == {"MRR@1": 1.0}
    assert caplog.messages == ["1 queries of the run are not in the qrels and do not count, 'other' for one."]


def test_padding_is_ignored_whatever_its_score() -> None:
    padded = [[7, -1, -1], [-1, -1, 3]], [[0.1, math.nan, math.inf], [-math.inf, 2.0, 0.0]]
    totals = evaluate(["mrr", "precision"], [1, 2], {"0": {"7": 1}, "1": {"3": 1}}, *padded)
    assert totals == {"mrr": {"MRR@1": 1.0, "MRR@2": 1.0}, "precision": {"Precision@1": 1.0, "Precision@2": 0.5}}


def test_rows_per_query_average_to_the_totals() -> None:
    rng = np.random.default_rng(5)
    qrels = {f"q{n}": {f"p{p}": int(rng.integers(4)) for p in rng.integers(30, size=5)} for n in range(40)}
    run = {f"q{n}": {f"p{p}": float(rng.integers(6)) for p in rng.integers(30, size=12)} for n in range(3, 45)}
    rows = evaluate_queries(METRICS, [1, 3, 10], qrels, run)
    totals = evaluate_better(METRICS, [1, 3, 10], qrels, run)
    averages = {name: round(sum(rows[name]) / 40, 5) for name in rows.column_names if "@" in name}
    assert averages == {name: value for row in totals.values() for name, value in row.items()}
    assert len(averages) == 15
    assert all(0 < value < 1 for value in averages.values())


def some_rows(seed: int, size: int = 40) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset.from_dict({"query_id": [f"q{n}" for n in range(size)], "MRR@10": rng.random(size)})


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_mean_and_widens_with_its_level(seed: int) -> None:
    rows = some_rows(seed)
    mean = sum(rows["MRR@10"]) / len(rows)
    (low_80, high_80), (low_99, high_99) = (confidence_interval(rows, "MRR@10", level=level, seed=seed) for level in (0.8, 0.99))
    assert 0 <= low_99 < low_80 < mean < high_80 < high_99 <= 1


def test_the_interval_depends_on_its_seed_alone() -> None:
    assert confidence_interval(some_rows(1), "MRR@10", seed=3) == confidence_interval(some_rows(1), "MRR@10", seed=3)
    assert confidence_interval(some_rows(1), "MRR@10", seed=3) != confidence_interval(some_rows(1), "MRR@10", seed=4)


def test_resampling_in_pieces_gives_what_resampling_at_once_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for at_once in (100, 1 << 30):
        monkeypatch.setattr(importlib.import_module("rir_hf.evaluate"), "_RESAMPLED_AT_ONCE", at_once)
        found.append((confidence_interval(some_rows(1), "MRR@10"), compare_runs(some_rows(1), some_rows(2), "MRR@10")))
    assert found[0] == found[1]


def test_the_interval_of_equal_values_is_that_value() -> None:
    rows = Dataset.from_dict({"query_id": ["a", "b"], "MRR@10": [0.25, 0.25]})
    assert confidence_interval(rows, "MRR@10") == (0.25, 0.25)
    assert confidence_interval(rows.select([0]), "MRR@10") == (0.25, 0.25)


def test_the_interval_is_made_of_quantiles_of_the_resampled_means() -> None:
    # The mean of a resample is a tenth of a binomial(10, 0.1): 2.5 % lies at 0 (34.9 % are), 97.5 % at 3 (93.0 % to 98.7 %).
    rows = Dataset.from_dict({"MRR@10": [0.0] * 9 + [1.0]})
    assert confidence_interval(rows, "MRR@10") == pytest.approx((0.0, 0.3), rel=1e-12, abs=0)


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for draw in range(200):
        rows = Dataset.from_dict({"MRR@10": (rng.random(60) < 0.7).astype(float)})
        low, high = confidence_interval(rows, "MRR@10", level=0.95, resamples=1000, seed=draw)
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_identical_runs_differ_by_nothing() -> None:
    found = compare_runs(some_rows(1), some_rows(1), "MRR@10")
    assert found == {"difference": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}


def test_a_run_better_on_every_query_has_a_small_p_value_in_both_directions() -> None:
    better = some_rows(1).map(lambda row: {"MRR@10": row["MRR@10"] + 0.1 + row["MRR@10"] / 10})
    found, turned = compare_runs(better, some_rows(1), "MRR@10"), compare_runs(some_rows(1), better, "MRR@10")
    assert found["p_value"] == turned["p_value"] == 2 / 10_001
    assert 0.1 < found["low"] < found["difference"] < found["high"] < 0.2
    assert turned["difference"] == pytest.approx(-found["difference"], rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_the_p_value_of_few_queries_equals_the_enumeration_of_all_sign_flips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, size=(2, 8)) / 8
    ids = [f"q{n}" for n in range(8)]
    one, other = (Dataset.from_dict({"query_id": ids, "NDCG@10": row}) for row in values)
    differences = [Fraction(a) - Fraction(b) for a, b in values.T.tolist()]
    flips = [sum(map(lambda s, d: s * d, signs, differences)) for signs in itertools.product((1, -1), repeat=8)]
    expected = Fraction(sum(abs(flip) >= abs(sum(differences)) for flip in flips), len(flips))
    found = compare_runs(one, other, "NDCG@10", seed=seed)
    assert found["p_value"] == float(expected)
    assert found["difference"] == float(sum(differences) / 8)


def test_runs_are_paired_by_query_id_and_not_by_row() -> None:
    order = np.random.default_rng(9).permutation(40)
    assert compare_runs(some_rows(1), some_rows(2).select(order), "MRR@10") == compare_runs(some_rows(1), some_rows(2), "MRR@10")


def test_the_interval_of_the_difference_is_that_of_the_paired_differences() -> None:
    one, other = some_rows(1), some_rows(2)
    differences = Dataset.from_dict({"D": [a - b for a, b in zip(one["MRR@10"], other["MRR@10"], strict=True)]})
    found = compare_runs(one, other, "MRR@10", level=0.9, resamples=500, seed=7)
    assert (found["low"], found["high"]) == confidence_interval(differences, "D", level=0.9, resamples=500, seed=7)


def test_runs_over_different_queries_are_refused() -> None:
    for other in (some_rows(2, size=39), some_rows(2, size=41)):
        with pytest.raises(ValueError, match="must cover the same queries"):
            compare_runs(some_rows(1), other, "MRR@10")


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda name: len(name.split()) == 1)
names = names.map(lambda name: name.split()[0])
any_scores = st.floats(allow_nan=False) | some_scores


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trec") / "file.txt"


@settings(max_examples=80, deadline=None, derandomize=True)
@given(run=st.dictionaries(names, st.dictionaries(names, any_scores, min_size=1, max_size=6), max_size=4))
def test_a_written_run_is_read_back_exactly(file: Path, run: dict[str, dict[str, float]]) -> None:
    write_run(run, file)
    assert read_run(file) == run
    written = [line.split() for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    assert {(fields[1], fields[5]) for fields in written} <= {("Q0", "rir_hf")}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(qrels=st.dictionaries(names, st.dictionaries(names, st.integers(-1, 9), min_size=1, max_size=6), max_size=4))
def test_written_judgements_are_read_back_exactly(file: Path, qrels: dict[str, dict[str, int]]) -> None:
    write_qrels(qrels, file)
    assert read_qrels(file) == qrels
    with file.open(encoding="utf-8") as lines:
        assert pytrec_eval.parse_qrel(lines) == qrels


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    qrels=st.dictionaries(st.integers(0, 5).map(str), judgements.filter(len), min_size=1, max_size=5),
    run=st.dictionaries(st.integers(0, 8).map(str), st.dictionaries(passages.map(str), some_scores, min_size=1), max_size=6),
)
def test_a_written_run_has_the_same_metrics_when_pytrec_eval_reads_it(file: Path, qrels: dict, run: dict) -> None:
    write_run(run, file)
    with file.open(encoding="utf-8") as lines:
        parsed = pytrec_eval.parse_run(lines)
    assert evaluate_better(METRICS, [1, 5], qrels, parsed) == evaluate_better(METRICS, [1, 5], qrels, run)
    for query, hits in run.items():
        written = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.split()[0] == query]
        assert [fields[2] for fields in written] == ranking(hits)
        assert [fields[3] for fields in written] == [str(rank) for rank in range(1, len(hits) + 1)]


def test_a_dataset_of_hits_is_written_without_padding_and_repeats(file: Path) -> None:
    columns = {"query_id": [7], "hit_ids": [[3, -1, 10, 3]], "hit_scores": [[0.5, 9.0, 0.75, 1.5]]}
    write_run(Dataset.from_dict(columns), file, tag="mine")
    assert file.read_text(encoding="utf-8") == "7 Q0 3 1 1.5 mine\n7 Q0 10 2 0.75 mine\n"


def test_judgements_of_beir_are_read_without_their_header(file: Path) -> None:
    file.write_bytes(b"query-id\tcorpus-id\tscore\r\nq1\td1\t2\r\nq1\td2\t0\r\n\r\nq2\td1\t1\r\n")
    assert read_qrels(file) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    file.write_text("q1 0 d1 2\n\nq1 0 d2 0\nq2\t0\td1\t1.0", encoding="utf-8")
    assert read_qrels(file) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("q2 d1", "expected 3 (BEIR) or 4 (TREC) fields, found 2: 'q2 d1"),
        ("q2 0 d1 1 more", "expected 3 (BEIR) or 4 (TREC) fields, found 5: 'q2 0 d1 1 more"),
        ("q2 0 d1 high", "expected a number, found 'high'"),
        ("q2\td1\thigh", "expected a number, found 'high'"),
        ("query-id\tcorpus-id\tscore", "expected a number, found 'score'"),
        ("q2 0 d1 nan", "expected a whole number, found 'nan'"),
        ("q2 0 d1 inf", "expected a whole number, found 'inf'"),
        ("q2 0 d1 0.5", "expected a whole number, found '0.5'"),
    ],
)
def test_a_malformed_judgement_is_told_with_file_and_line(file: Path, line: str, complaint: str) -> None:
    file.write_text(f"q1 0 d1 1\n\n{line}\nq3 0 d1 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="^" + re.escape(f"{file}, line 3: {complaint}")):
        read_qrels(file)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("q2 Q0 d1 1 0.5", "expected 6 fields, found 5: 'q2 Q0 d1 1 0.5"),
        ("q2 Q0 d1 1 0.5 my tag", "expected 6 fields, found 7: 'q2 Q0 d1 1 0.5 my tag"),
        ("q2 Q0 d1 1 high tag", "expected a number, found 'high'"),
    ],
)
def test_a_malformed_hit_is_told_with_file_and_line(file: Path, line: str, complaint: str) -> None:
    file.write_text(f"q1 Q0 d1 1 0.5 tag\n\n{line}\nq3 Q0 d1 1 0.5 tag\n", encoding="utf-8")
    with pytest.raises(ValueError, match="^" + re.escape(f"{file}, line 3: {complaint}")):
        read_run(file)


@pytest.mark.parametrize("name", ["", " ", "a b", "a\t", "\na", "a\u00a0b", "a\x85"])
def test_an_id_that_a_file_cannot_hold_is_refused_on_writing(tmp_path: Path, name: str) -> None:
    complaint = re.escape(f"cannot hold the id {name!r}")
    for query, passage in ((name, "d"), ("q", name)):
        with pytest.raises(ValueError, match=complaint):
            write_run({query: {passage: 1.0}}, tmp_path / "run")
        with pytest.raises(ValueError, match=complaint):
            write_qrels({query: {passage: 1}}, tmp_path / "qrels")
    with pytest.raises(ValueError, match=complaint):
        write_run({"q": {"d": 1.0}}, tmp_path / "run", tag=name)


ONE_QUERY = {"0": {"1": 1}}
ROWS = Dataset.from_dict({"query_id": ["a"], "MRR@10": [1.0]})


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: evaluate(["f1"], [1], ONE_QUERY, [[1]], [[1.0]]), "Unknown metric 'f1': choose from ['map', 'mrr', 'ndcg'"),
        (lambda: evaluate_better(["NDCG"], [1], ONE_QUERY, {}), "Unknown metric 'NDCG': choose from"),
        (lambda: evaluate([], [1], ONE_QUERY, [[1]], [[1.0]]), "metrics and k_values must not be empty"),
        (lambda: evaluate(["mrr"], [], ONE_QUERY, [[1]], [[1.0]]), "metrics and k_values must not be empty"),
        (lambda: evaluate(["mrr"], [5, 0], ONE_QUERY, [[1]], [[1.0]]), "every k at least 1, got ['mrr'] and [5, 0]"),
        (lambda: evaluate(["ndcg"], [-1], ONE_QUERY, [[1]], [[1.0]]), "every k at least 1, got ['ndcg'] and [-1]"),
        (lambda: evaluate(["mrr"], [1], {}, [[1]], [[1.0]]), "The qrels are empty"),
        (lambda: evaluate(["mrr"], [1], ONE_QUERY, [[1], [2]], [[1.0]]), "must be of one length, got 2 and 1"),
        (
            lambda: evaluate(["mrr"], [1], ONE_QUERY, [[1], [2, 3]], [[1.0], [1.0]]),
            "must be of one shape, row 1 has 2 ids and 1 scores",
        ),
        (lambda: evaluate(["mrr"], [1], ONE_QUERY, [[1, 2]], [[1.0, math.nan]]), "score that is NaN for the query '0'"),
        (lambda: evaluate_mrr({"q": {"a": 1}}, {"q": {"a": math.nan}}, [1]), "score that is NaN for the query 'q'"),
        (
            lambda: evaluate_mrr({"q": {"a": 1}}, Dataset.from_dict({"query_id": ["q"], "hit_ids": [["a"]]}), [1]),
            "needs the columns query_id, hit_ids and hit_scores; ['hit_scores'] are missing",
        ),
        (lambda: confidence_interval(ROWS, "NDCG@10"), "No metric 'NDCG@10' in the rows, only ['query_id', 'MRR@10']"),
        (lambda: confidence_interval(ROWS.select([]), "MRR@10"), "There are no queries to compare"),
        (lambda: compare_runs(ROWS, ROWS.rename_column("MRR@10", "MRR@5"), "MRR@10"), "No metric 'MRR@10' in the rows"),
        (lambda: compare_runs(ROWS.select([]), ROWS.select([]), "MRR@10"), "There are no queries to compare"),
    ],
)
def test_bad_input_gets_a_clear_error(call: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        call()


def test_a_stream_is_a_run_too() -> None:
    run = Dataset.from_dict({"query_id": ["q"], "hit_ids": [["a", "b"]], "hit_scores": [[2.0, 1.0]]})
    qrels = {"q": {"b": 1}}
    stream = run.to_iterable_dataset().map(lambda row: {"more": 1})
    assert evaluate_better(["mrr"], [10], qrels, stream) == evaluate_better(["mrr"], [10], qrels, run)


def test_a_run_with_two_different_rows_of_one_query_is_refused() -> None:
    rows = {"query_id": ["q", "q"], "hit_ids": [["a", "b"], ["a", "c"]], "hit_scores": [[1.0, 0.5], [1.0 + 1e-7, 0.5 + 1e-7]]}
    assert evaluate_better(["mrr"], [1], {"q": {"a": 1}}, Dataset.from_dict(rows)) == {"mrr": {"MRR@1": 1.0}}
    with pytest.raises(ValueError, match="several rows with query_id 'q' and different hits"):
        evaluate_better(["mrr"], [1], {"q": {"a": 1}}, Dataset.from_dict({**rows, "hit_ids": [["a", "b"], ["c", "b"]]}))


def test_tab_separated_ids_may_contain_spaces(tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq 1\td\t1\n")
    assert read_qrels(tmp_path / "qrels.tsv") == {"q 1": {"d": 1}}
