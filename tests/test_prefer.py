"""Preference pairs: the arithmetic is that of a plain oracle, each text is encoded once, and each lost row has its reason."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.fingerprint import Hasher
from hypothesis import example, given
from hypothesis import strategies as st

from rir_hf import GenerateAnswers, PreferencePairs, Retriever, report_generation
from rir_hf.generate import EMPTY_PASSAGE, EMPTY_QUERY, answer_prompt
from rir_hf.prefer import EQUAL_SCORES, NO_GAIN, NOT_A_NUMBER, PREFIX, SMALL_GAP, TOO_FEW

REASONS = {EMPTY_QUERY, EMPTY_PASSAGE, TOO_FEW, EQUAL_SCORES, SMALL_GAP, NO_GAIN}


class Numbers:
    """An encoder of texts that end in the numbers of their vectors; it remembers what it encoded."""

    def __init__(self) -> None:
        self._encoded: Counter[tuple[str, str]] = Counter()

    def identity(self) -> str:
        return "numbers"

    def encode_queries(self, texts: list[str], **_: Any) -> np.ndarray:
        self._encoded.update(("query", text) for text in texts)
        return np.array([[float(number) for number in text.split()[-2:]] for text in texts], np.float32)

    def encode_corpus(self, texts: list[str], **_: Any) -> np.ndarray:
        self._encoded.update(("passage", text) for text in texts)
        return np.array([[float(number) for number in text.split()[-2:]] for text in texts], np.float32)


def oracle(query: str, answers: list[str], passage: str, threshold: float, weight: float, require_gain: bool) -> dict[str, Any]:
    """The pair as DESIGN's formulas have it, in plain NumPy."""

    def vector(text: str) -> np.ndarray:
        return np.array(text.split()[-2:], np.float32).astype(np.float64)

    distinct = [answer for place, answer in enumerate(answers) if answer.strip() and answer not in answers[:place]]
    if not query.strip() or not passage.strip():
        return {"error": EMPTY_QUERY if not query.strip() else EMPTY_PASSAGE}
    if len(distinct) < 2:
        return {"error": TOO_FEW}
    raw = vector(query) @ vector(passage)
    scores = [((1 - weight) * vector(query) + weight * vector(PREFIX + answer)) @ vector(passage) for answer in distinct]
    best, worst = max(scores), min(scores)
    if best - worst < 1e-6:
        return {"error": EQUAL_SCORES}
    if not (best - (1 - weight) * raw) * threshold >= worst - (1 - weight) * raw:
        return {"error": SMALL_GAP}
    if require_gain and not best > raw:
        return {"error": NO_GAIN}
    near = [abs(score - best) < 1e-6 for score in scores], [abs(score - worst) < 1e-6 for score in scores]
    chosen, rejected = (distinct[places.index(True)] for places in near)
    return {"error": None, "chosen": chosen, "rejected": rejected, "scores": (best, worst, raw)}


steps = st.integers(-8, 8).map(lambda number: number / 8)  # exact in float32, so that ties and borders are exact too
texts = st.tuples(steps, steps).map(lambda pair: f"text {pair[0]} {pair[1]}")
rows = st.tuples(st.one_of(texts, texts, st.just("")), st.lists(st.one_of(texts, texts, st.just(" ")), max_size=5), texts)


@given(
    st.lists(rows, min_size=1, max_size=6), st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.sampled_from([0.25, 0.5, 1.0]), st.booleans()
)
@example([("q 0.0 0.0", ["a 0.5 0", "b 0.25 0"], "p 1 0")], 0.95, 0.25, True)
@example([("q -0.5 0.0", ["a -0.25 0", "b -0.5 0"], "p 1 0")], 0.95, 0.25, True)
@example([("q 0.5 0.0", ["a 0.5 1", "b 0.5 0"], "p 1 0")], 1.0, 0.25, False)
@example([("q 0.5 0.0", ["a 1 0", "b 0 0"], "p 1 0")], 0.0, 0.25, True)
@example([("q 0.5 0.0", ["a 1 0", "b 0.125 0"], "p 1 0")], 0.0, 0.25, True)
@example([("q 0.5 0.0", ["a 1 0"], "p 1 0"), ("q 0.5 0.0", ["a 1 0", "a 1 0"], "p 1 0")], 0.95, 0.25, True)
@example([("q 0.5 0.0", ["x 1 0", "y 1 0", "z 0 0", "w 0 0"], "p 1 0")], 0.95, 0.25, True)
def test_pairs_equal_a_plain_oracle(
    found: list[tuple[str, list[str], str]], threshold: float, weight: float, require_gain: bool
) -> None:
    dataset = Dataset.from_dict(
        {"query": [q for q, *_ in found], "answers": [a for _, a, _ in found], "passage": [p for *_, p in found]},
        features=Features({"query": Value("string"), "answers": List(Value("string")), "passage": Value("string")}),
    )
    function = PreferencePairs(Numbers(), threshold=threshold, answer_weight=weight, require_gain=require_gain, drop=False)
    for row, got in zip(found, dataset.map(function, batched=True), strict=True):
        expected = oracle(*row, threshold, weight, require_gain)
        assert got["pair_error"] == expected["error"]
        if expected["error"] is not None:
            assert got["chosen"] is got["rejected"] is got["chosen_score"] is None
            continue
        assert (got["chosen"], got["rejected"]) == (expected["chosen"], expected["rejected"])
        assert [got[f"{name}_score"] for name in ("chosen", "rejected", "query")] == pytest.approx(expected["scores"], abs=1e-12)


@pytest.fixture
def answered() -> Dataset:
    """One row for each reason, and three pairs; the passage of all is the same text."""
    rows = [
        ("q 0.5 0", ["a 0.9 0", "b 0.1 0"]),
        ("q 0.5 0", ["a 0.9 0"]),
        ("q 0.5 0", ["a 0.9 0", "b 0.9 0.5"]),
        ("q 0.5 0", ["a 0.9 0", "b 0.89 0"]),
        ("q 0.5 0", ["a 0.4 0", "b 0.1 0"]),
        ("", ["a 0.9 0", "b 0.1 0"]),
        ("q 0.0 0", ["a 0.9 0", "b 0.1 0", "a 0.9 0", ""]),
        ("q -0.5 0", ["a -0.3 0", "b -0.8 0"]),
    ]
    return Dataset.from_dict(
        {
            "id": list(range(len(rows))),
            "query": [query for query, _ in rows],
            "answers": [answers for _, answers in rows],
            "passage": ["p 1 0"] * len(rows),
            "embedding": [[1.0, 2.0]] * len(rows),
        },
        features=Features(
            {
                "id": Value("int32"),
                "query": Value("string"),
                "answers": List(Value("string")),
                "passage": Value("string"),
                "embedding": List(Value("float32"), length=2),
            }
        ),
    )


def test_every_row_without_a_pair_is_counted_by_its_reason(answered: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    every = answered.map(PreferencePairs(Numbers(), drop=False), batched=True)
    report = report_generation(every)
    with caplog.at_level("INFO", "rir_hf"):
        kept = answered.map(PreferencePairs(Numbers()), batched=True)
    assert report["no_pair_because"] == dict.fromkeys([TOO_FEW, EQUAL_SCORES, SMALL_GAP, NO_GAIN, EMPTY_QUERY], 1)
    assert len(answered) == len(kept) + sum(report["no_pair_because"].values())
    assert len(kept) == report["pairs"] == 3
    assert f"5 of 8 rows give no pair: {report['no_pair_because']}" in caplog.text
    assert report["gap"]["max"] == pytest.approx(0.2 * 0.8)
    assert report["gain"]["min"] == pytest.approx(0.2 * 0.2)


def test_dropping_rows_chains_with_other_maps_and_keeps_their_columns(answered: Dataset) -> None:
    chained = (
        answered.map(PreferencePairs(Numbers()), batched=True, batch_size=3)
        .map(lambda row: {"twice": 2 * row["id"]})
        .map(PreferencePairs(Numbers(), drop=False), batched=True)
    )
    assert chained["twice"][:] == [0, 12, 14]
    assert {name: chained.features[name] for name in answered.column_names} == answered.features
    assert chained["pair_error"][:] == [None] * 3


def test_the_same_pairs_for_every_batch_size_order_and_kind_of_dataset(answered: Dataset) -> None:
    whole = answered.map(PreferencePairs(Numbers()), batched=True).to_list()
    for size in (1, 3):
        assert answered.map(PreferencePairs(Numbers()), batched=True, batch_size=size).to_list() == whole
    backwards = answered.select(range(7, -1, -1)).map(PreferencePairs(Numbers()), batched=True).to_list()
    assert backwards[::-1] == whole
    assert list(answered.to_iterable_dataset().map(PreferencePairs(Numbers()), batched=True)) == whole
    assert DatasetDict(a=answered).map(PreferencePairs(Numbers()), batched=True)["a"].to_list() == whole
    assert answered.map(PreferencePairs(Numbers()), batched=True, num_proc=2).to_list() == whole
    single = answered.map(PreferencePairs(Numbers()))
    assert [row for row in single.to_list() if row["pair_error"] is None] == whole


def test_a_dataset_without_any_pair_is_empty(answered: Dataset) -> None:
    assert len(answered.select([1, 2]).map(PreferencePairs(Numbers()), batched=True)) == 0


def test_each_distinct_text_is_encoded_once(answered: Dataset) -> None:
    encoder = Numbers()
    function = PreferencePairs(encoder, drop=False)
    for start in range(0, 8, 2):
        function(answered[start : start + 2])
    assert set(encoder._encoded.values()) == {1}
    assert ("passage", "p 1 0") in encoder._encoded
    assert ("query", f"{PREFIX}a 0.9 0") in encoder._encoded


def test_the_prompt_is_what_the_generator_was_asked(answered: Dataset) -> None:
    pairs = answered.map(PreferencePairs(Numbers(), task="fiqa"), batched=True)
    assert pairs["prompt"][0] == answer_prompt("fiqa").format(query="q 0.5 0")
    asked = answered.add_column("prompt", [f"ask {place}" for place in range(8)])
    assert asked.map(PreferencePairs(Numbers()), batched=True)["prompt"][:] == ["ask 0", "ask 6", "ask 7"]


def test_the_passage_may_be_the_first_of_pos(answered: Dataset) -> None:
    nested = answered.map(lambda row: {"pos": [row["passage"], "p 0 1"]}, remove_columns="passage")
    pairs = nested.map(PreferencePairs(Numbers(), passage="pos"), batched=True)
    assert pairs["chosen"][:] == answered.map(PreferencePairs(Numbers()), batched=True)["chosen"][:]
    empty = nested.map(lambda row: {"pos": []}, features=nested.features).map(
        PreferencePairs(Numbers(), passage="pos", drop=False), batched=True
    )
    assert set(empty["pair_error"][:]) == {EMPTY_PASSAGE, EMPTY_QUERY}


def test_a_broken_encoder_fails_its_rows_only() -> None:
    rows = Dataset.from_dict({"query": ["q 1 0", "q nan 0"], "answers": [["a 1 1", "b 0 0"]] * 2, "passage": ["p 1 1"] * 2})
    pairs = rows.map(PreferencePairs(Numbers(), drop=False, require_gain=False), batched=True)
    assert pairs["pair_error"][:] == [None, NOT_A_NUMBER]


def test_real_texts_give_the_pair_that_the_retriever_sees(retriever: Retriever) -> None:
    row = {
        "query": "How is radon measured?",
        "passage": "Radon is measured with track-film detectors that stay in the home for two months in winter.",
        "answers": ["The Eiffel Tower is in Paris.", "Detectors placed indoors over winter record the radon level.", "Cats sleep."],
    }
    pair = PreferencePairs(retriever)(row)
    vectors = retriever.encode_queries([row["query"], *(PREFIX + answer for answer in row["answers"])]).astype(np.float64)
    similar = vectors @ retriever.encode_corpus([row["passage"]])[0].astype(np.float64)
    scores = 0.8 * similar[0] + 0.2 * similar[1:]
    assert pair["chosen"] == row["answers"][1]
    assert pair["rejected"] == row["answers"][scores.argmin()]
    assert pair["chosen_score"] == pytest.approx(scores.max(), abs=1e-6)
    assert pair["rejected_score"] == pytest.approx(scores.min(), abs=1e-6)
    assert pair["query_score"] == pytest.approx(similar[0], abs=1e-6)


def test_the_chain_from_queries_to_pairs_loses_no_row_without_a_count(
    faq_pairs: Dataset, retriever: Retriever, tiny_lm: str
) -> None:
    rows = Dataset.from_dict(faq_pairs.select_columns(["query", "passage"])[:8])
    answered = rows.map(GenerateAnswers(tiny_lm, n=3, max_tokens=8), batched=True)
    every = answered.map(PreferencePairs(retriever, drop=False, require_gain=False), batched=True)
    kept = answered.map(PreferencePairs(retriever, require_gain=False), batched=True)
    report = report_generation(every)
    assert report["answers"] + sum(report["answers_dropped"].values()) == 3 * 8
    assert len(kept) + sum(report["no_pair_because"].values()) == len(rows)
    assert all(pair["chosen"] in pair["answers"] and pair["rejected"] in pair["answers"] for pair in kept)
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in kept)
    assert len(kept) > 0


def test_the_hash_is_stable_in_use_and_knows_the_settings(answered: Dataset) -> None:
    function = PreferencePairs(Numbers())
    before = Hasher.hash(function)
    answered.map(function, batched=True)
    assert Hasher.hash(function) == before
    others = [
        PreferencePairs(Numbers(), threshold=0.9),
        PreferencePairs(Numbers(), task="fiqa"),
        PreferencePairs(Numbers(), drop=False),
    ]
    assert len({before, *map(Hasher.hash, others)}) == 4


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({}, {"threshold": 1.1}, "threshold must lie between 0 and 1, got 1.1"),
        ({}, {"answer_weight": 0.0}, "answer_weight must be above 0"),
        ({}, {"answers": "replies"}, "needs the column 'replies'"),
        ({"answers": ["one text"]}, {}, "'answers' must hold a list per row"),
        ({"answers": [[1, 2]]}, {}, "'answers' must hold lists of strings, found 1"),
        ({"passage": [7]}, {}, "'passage' must hold strings"),
    ],
)
def test_bad_input_is_told_by_its_name(columns: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    rows = Dataset.from_dict({"query": ["q 1 0"], "answers": [["a 1 0", "b 0 0"]], "passage": ["p 1 0"]} | columns)
    with pytest.raises(ValueError, match=message):
        rows.map(PreferencePairs(Numbers(), **settings), batched=True)
