"""Preference pairs: the arithmetic of a plain oracle, and a code for each row without a pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from hypothesis import example, given
from hypothesis import strategies as st

from rir_hf.export.generators import to_trl
from rir_hf.generation.answers import GenerateAnswers
from rir_hf.generation.preferences import PREFIX, PreferencePairs
from rir_hf.models.local import ChatLLM
from rir_hf.models.prompts import answer_prompt
from rir_hf.models.retriever import Retriever
from tests.generation.stand_ins import Numbers


def oracle(
    query: str,
    answers: list[str],
    passage: str,
    threshold: float,
    weight: float,
    require_gain: bool,
) -> dict[str, Any]:
    """The pair by the formulas of the docstring, in plain NumPy."""

    def vector(text: str) -> np.ndarray:
        return np.array(text.split()[-2:], np.float32).astype(np.float64)

    if not query.strip() or not passage.strip():
        return {"note": "empty_passage" if query.strip() else "empty_query"}
    distinct = []
    for answer in answers:
        if answer.strip() and answer not in distinct:
            distinct.append(answer)
    if len(distinct) < 2:
        return {"note": "too_few_answers"}
    raw = vector(query) @ vector(passage)
    both = [(1 - weight) * vector(query) + weight * vector(PREFIX + answer) for answer in distinct]
    scores = [vectors @ vector(passage) for vectors in both]
    best, worst = max(scores), min(scores)
    if best - worst < 1e-6:
        return {"note": "equal_scores"}
    if not (best - (1 - weight) * raw) * threshold >= worst - (1 - weight) * raw:
        return {"note": "small_gap"}
    if require_gain and not best > raw:
        return {"note": "no_gain"}
    chosen = next(number for number, score in enumerate(scores) if best - score < 1e-6)
    rejected = next(number for number, score in enumerate(scores) if score - worst < 1e-6)
    return {
        "note": None,
        "chosen": distinct[chosen],
        "rejected": distinct[rejected],
        "scores": (best, worst, raw),
    }


# Eighths are exact in float32, so that ties and borders are exact too.
eighths = st.integers(-8, 8).map(lambda number: number / 8)
texts = st.tuples(eighths, eighths).map(lambda pair: f"text {pair[0]} {pair[1]}")
rows = st.tuples(
    st.one_of(texts, texts, st.just("")),
    st.lists(st.one_of(texts, texts, st.just(" ")), max_size=5),
    texts,
)


@given(
    st.lists(rows, min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.booleans(),
)
@example([("q 0.0 0.0", ["a 0.5 0", "b 0.25 0"], "p 1 0")], 0.95, 0.25, True)
@example([("q -0.5 0.0", ["a -0.25 0", "b -0.5 0"], "p 1 0")], 0.95, 0.25, True)
@example([("q 0.5 0.0", ["a 0.5 1", "b 0.5 0"], "p 1 0")], 1.0, 0.25, False)
@example([("q 0.5 0.0", ["a 1 0", "b 0 0"], "p 1 0")], 0.0, 0.25, True)
@example([("q 0.5 0.0", ["a 1 0", "b 0.125 0"], "p 1 0")], 0.0, 0.25, True)
@example([("q 0.5 0.0", ["a 1 0", "a 1 0"], "p 1 0")], 0.95, 0.25, True)
@example([("q 0.5 0.0", ["x 1 0", "y 1 0", "z 0 0", "w 0 0"], "p 1 0")], 0.95, 0.25, True)
def test_pairs_equal_a_plain_oracle(
    given_rows: list[tuple[str, list[str], str]],
    threshold: float,
    weight: float,
    require_gain: bool,
) -> None:
    step = PreferencePairs(
        Numbers(), threshold=threshold, answer_weight=weight, require_gain=require_gain
    )
    for query, answers, passage in given_rows:
        pair = step.one({"query": query, "answers": answers, "passage": passage})
        expected = oracle(query, answers, passage, threshold, weight, require_gain)
        assert pair["pair_note"] == expected["note"]
        if expected["note"] is not None:
            assert pair["chosen"] is pair["rejected"] is pair["chosen_score"] is None
            continue
        assert (pair["chosen"], pair["rejected"]) == (expected["chosen"], expected["rejected"])
        scores = [pair[f"{name}_score"] for name in ("chosen", "rejected", "query")]
        assert scores == pytest.approx(expected["scores"], abs=1e-12)


@pytest.fixture
def answered() -> Dataset:
    """Two pairs, and a row for each reason why there is none; all passages are the same text."""
    rows = [
        ("q 0.5 0", ["a 0.9 0", "b 0.1 0"]),
        ("q 0.5 0", ["a 0.9 0", None, "a 0.9 0", ""]),
        ("q 0.5 0", ["a 0.9 0", "b 0.9 0.5"]),
        ("q 0.5 0", ["a 0.9 0", "b 0.89 0"]),
        ("q 0.5 0", ["a 0.4 0", "b 0.1 0"]),
        ("", ["a 0.9 0", "b 0.1 0"]),
        ("q nan 0", ["a 0.9 0", "b 0.1 0"]),
        ("q -0.5 0", ["a -0.3 0", "b -0.8 0"]),
    ]
    features = Features(
        {
            "id": Value("int32"),
            "query": Value("string"),
            "answers": List(Value("string")),
            "passage": Value("string"),
            "embedding": List(Value("float32"), length=2),
        }
    )
    columns = {
        "id": list(range(len(rows))),
        "query": [query for query, _ in rows],
        "answers": [answers for _, answers in rows],
        "passage": ["p 1 0"] * len(rows),
        "embedding": [[1.0, 2.0]] * len(rows),
    }
    return Dataset.from_dict(columns, features=features)


def test_every_row_stays_with_a_pair_or_a_code(answered: Dataset) -> None:
    step = PreferencePairs(Numbers())
    pairs = answered.map(step, batched=True)
    assert pairs["pair_note"][:] == [
        None,
        "too_few_answers",
        "equal_scores",
        "small_gap",
        "no_gain",
        "empty_query",
        "not_a_number",
        None,
    ]
    assert pairs["chosen"][:] == ["a 0.9 0", *[None] * 6, "a -0.3 0"]
    assert pairs["rejected"][:] == ["b 0.1 0", *[None] * 6, "b -0.8 0"]
    assert pairs.select_columns(answered.column_names).to_dict() == answered.to_dict()
    assert {name: pairs.features[name] for name in answered.features} == answered.features
    assert step.counts(pairs).total() == 6
    assert len(to_trl(pairs)) == 2


def test_the_same_pairs_for_every_batch_size_order_and_kind_of_dataset(answered: Dataset) -> None:
    def pairs_of(ds: Any, **settings: Any) -> Any:
        return ds.map(PreferencePairs(Numbers()), batched=True, **settings)

    whole = [str(row) for row in pairs_of(answered)]
    assert [str(row) for row in pairs_of(answered, batch_size=3)] == whole
    backwards = answered.select(range(7, -1, -1))
    assert [str(row) for row in pairs_of(backwards)][::-1] == whole
    assert [str(row) for row in pairs_of(answered.to_iterable_dataset())] == whole
    assert [str(row) for row in pairs_of(DatasetDict(a=answered))["a"]] == whole


def test_each_distinct_text_of_a_batch_is_encoded_once_answers_as_queries(
    answered: Dataset,
) -> None:
    encoder = Numbers()
    PreferencePairs(encoder)(answered[:])
    assert set(encoder.encoded.values()) == {1}
    roles = {text: role for role, text in encoder.encoded}
    assert roles["p 1 0"] == "passage"
    assert roles[f"{PREFIX}a 0.9 0"] == roles["q 0.5 0"] == "query"


def test_the_prompt_is_what_the_generator_was_asked(answered: Dataset) -> None:
    pairs = answered.map(PreferencePairs(Numbers(), task="fiqa"), batched=True)
    assert pairs["prompt"][0] == answer_prompt("fiqa").format(query="q 0.5 0")
    asked = answered.add_column("prompt", [f"ask {number}" for number in range(8)])
    pairs = asked.map(PreferencePairs(Numbers()), batched=True)
    assert pairs["prompt"][:] == [f"ask {number}" for number in range(8)]


def test_the_passage_may_be_the_first_of_pos(answered: Dataset) -> None:
    nested = answered.map(lambda row: {"pos": [row["passage"], "p 0 1"]}, remove_columns="passage")
    chosen = answered.map(PreferencePairs(Numbers()), batched=True)["chosen"][:]
    PreferencePairs(Numbers()).check(nested.features)
    assert nested.map(PreferencePairs(Numbers()), batched=True)["chosen"][:] == chosen
    both = nested.add_column("passage", ["p 0 1"] * len(nested))
    step = PreferencePairs(Numbers(), passage="pos")
    assert both.map(step, batched=True)["chosen"][:] == chosen
    row = {"query": "q 0.5 0", "answers": ["a 0.9 0", "b 0.1 0"]}
    for empty in ([], None, [None]):
        assert PreferencePairs(Numbers()).one(row | {"pos": empty})["pair_note"] == "empty_passage"


def test_bad_input_is_refused_by_its_name() -> None:
    row = {"query": ["q 1 0"], "answers": [["a 1 0", "b 0 0"]], "passage": ["p 1 0"]}
    wrong: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {"threshold": float("nan")}, "threshold must lie between 0 and 1, got nan"),
        ({}, {"answer_weight": 0.0}, "answer_weight must be above 0"),
        ({}, {"passage": "body"}, "needs the column 'body'"),
        ({"answers": ["one text"]}, {}, "'answers' must hold a list per row"),
        ({"answers": [[1, 2]]}, {}, "'answers' must hold lists of texts, found int 1"),
    ]
    for columns, settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            Dataset.from_dict(row | columns).map(
                PreferencePairs(Numbers(), **settings), batched=True
            )


def test_passages_that_are_known_by_id_alone_are_to_be_mined_first() -> None:
    rows = Dataset.from_dict({"query": ["q 1 0"], "answers": [["a", "b"]], "pos_ids": [["p1"]]})
    with pytest.raises(ValueError, match="by its id alone .*: mine them first"):
        rows.map(PreferencePairs(Numbers()), batched=True)


def test_real_texts_give_the_pair_that_the_retriever_sees(retriever: Retriever) -> None:
    answers = [
        "The Eiffel Tower is in Paris.",
        "Detectors placed indoors over winter record the radon level.",
        "Cats sleep.",
    ]
    row = {
        "query": "How is radon measured?",
        "passage": "Radon is measured with track-film detectors that stay in the home for two "
        "months in winter.",
        "answers": answers,
    }
    pair = PreferencePairs(retriever).one(row)
    asked = [row["query"], *(PREFIX + answer for answer in answers)]
    vectors = retriever.encode_queries(asked).astype(np.float64)
    similar = vectors @ retriever.encode_corpus([row["passage"]])[0].astype(np.float64)
    scores = 0.8 * similar[0] + 0.2 * similar[1:]
    assert pair["chosen"] == answers[1]
    assert pair["rejected"] == answers[scores.argmin()]
    assert pair["chosen_score"] == pytest.approx(scores.max(), abs=1e-6)
    assert pair["rejected_score"] == pytest.approx(scores.min(), abs=1e-6)
    assert pair["query_score"] == pytest.approx(similar[0], abs=1e-6)


def test_the_chain_from_queries_to_a_trainers_rows_loses_no_row_without_a_code(
    faq_file: Any, retriever: Retriever, tiny_lm: str
) -> None:
    faq = Dataset.from_json(str(faq_file)).select(range(8))
    rows = Dataset.from_dict({"query": faq["q"][:], "passage": faq["a"][:]})
    answered = rows.map(GenerateAnswers(ChatLLM(tiny_lm), n=3, max_tokens=8), batched=True)
    step = PreferencePairs(retriever, require_gain=False)
    pairs = answered.map(step, batched=True)
    usable = to_trl(pairs)
    assert len(usable) + step.counts(pairs).total() == len(rows)
    assert len(usable) > 0
    for pair in pairs.filter(lambda row: row["pair_note"] is None):
        assert {pair["chosen"], pair["rejected"]} <= set(pair["answers"])
        assert pair["chosen_score"] > pair["rejected_score"]
