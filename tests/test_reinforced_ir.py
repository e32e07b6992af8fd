"""The original's functions: its rows where it is right, and by name each place where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, given
from hypothesis import strategies as st

from rir_hf import MineNegatives, Retriever
from rir_hf.llm import LLMError
from rir_hf.reinforced_ir import (
    evaluate,
    evaluate_better,
    evaluate_mrr,
    extract_numbers,
    generate_bge_train_data,
    generate_llm_dpo_train_data,
    get_distill_data,
    search,
)

STEPS = st.integers(-8, 8).map(lambda number: number / 8)


class Numbers:
    """An encoder of texts that end in the numbers of their vectors, as a FlagModel is called."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign
        self.calls: list[tuple[int, int, int]] = []

    def encode_queries(self, queries: list[str], batch_size: int | None = None, max_length: int | None = None) -> np.ndarray:
        self.calls.append((len(queries), batch_size or 0, max_length or 0))
        return np.array([[float(number) for number in text.split()[-2:]] for text in queries], np.float32)

    def encode_corpus(self, corpus: list[str], batch_size: int | None = None, max_length: int | None = None) -> np.ndarray:
        return self.sign * self.encode_queries(corpus, batch_size, max_length)


def text_of(name: str, vector: Any) -> str:
    return f"{name} {vector[0]} {vector[1]}"


def original_negatives(scores: np.ndarray, positive: int, texts: list[str]) -> list[str]:
    """The original's procedure where it is right: from the first rank at or below 95 % of the positive, without repeats."""
    order = sorted(range(len(texts)), key=lambda place: (-scores[place], place))
    first = order.index(positive) + 1
    start = next((rank for rank in range(first, len(order)) if scores[order[rank]] <= scores[positive] * 0.95), len(order))
    found: list[str] = []
    for place in order[start : start + 50]:
        if texts[place] != texts[positive] and texts[place] not in found and len(found) < 15:
            found.append(texts[place])
    return found


vectors = st.tuples(STEPS, STEPS)


@given(st.lists(st.tuples(vectors, vectors, vectors), min_size=1, max_size=4), st.lists(vectors, max_size=30))
def test_hard_negatives_equal_the_original_where_it_is_right(rows: list[Any], others: list[Any]) -> None:
    corpus = [text_of(f"p{place}", vector) for place, (_, _, vector) in enumerate(rows)] + [
        text_of("o", vector) for vector in others
    ]
    given_rows = [
        {"query": text_of("q", query), "answer": text_of("a", answer), "passage": passage}
        for (query, answer, _), passage in zip(rows, corpus, strict=False)
    ]
    model = Numbers()
    found = generate_bge_train_data(model, queries_corpus=given_rows, corpus=corpus)
    passages = model.encode_corpus(corpus).astype(np.float64)
    for place, (row, given_row) in enumerate(zip(found, given_rows, strict=True)):
        assert list(row) == ["query", "answer", "pos", "neg", "neg_answer"]
        assert (row["query"], row["answer"], row["pos"]) == (given_row["query"], given_row["answer"], [corpus[place]])
        for column, output in (("query", "neg"), ("answer", "neg_answer")):
            vector = model.encode_queries([given_row[column]])[0].astype(np.float64)
            scores = passages @ vector
            if vector.any() and scores[place] > 0:  # below zero the original's ceiling lies above the positive
                assert row[output] == original_negatives(scores, place, corpus)


def rows_on_a_line(count: int) -> tuple[list[dict[str, str]], list[str]]:
    """Rows whose queries look along the line on which the passages lie."""
    corpus = [f"p{place} {1 - place / 1000} 0" for place in range(count)]
    return [{"query": "q 1 0", "answer": "a 0.5 0", "passage": corpus[place]} for place in range(3)], corpus


def test_the_places_where_the_original_is_not_followed() -> None:
    rows, corpus = rows_on_a_line(120)
    found = generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus)
    assert found[0]["neg"] == corpus[50:65]  # "hard" is the best below 95 %, no random choice of ranks 30 to 200
    assert found[0]["neg_answer"] == corpus[50:65]  # below the ceiling of the answer's own scores, which are half the query's
    assert generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus) == found
    negative = [{**row, "query": "q -1 0"} for row in rows]  # the ceiling lies below a negative score too
    assert generate_bge_train_data(Numbers(), queries_corpus=negative[:1], corpus=corpus)[0]["neg"] == []
    small = generate_bge_train_data(Numbers(), queries_corpus=rows[:1], corpus=["p0 1.0 0", "x 0.5 0"])  # under 200 passages
    assert small[0]["neg"] == ["x 0.5 0"]
    twice = generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=[*corpus[:3], "x 0.5 0", "x 0.5 0", *corpus[:3]])
    assert twice[0]["neg"] == ["x 0.5 0"]  # no text twice, and never the positive


def test_the_corpus_is_the_positives_unless_it_is_given_and_must_begin_with_them() -> None:
    rows, corpus = rows_on_a_line(120)
    far = [{"query": "q 1 0", "answer": "a 1 0", "text": f"t{place} {1 - place / 4} 0"} for place in range(4)]
    assert generate_bge_train_data(Numbers(), queries_corpus=far, dtype="text")[0]["neg"] == [row["text"] for row in far[1:]]
    with pytest.raises(ValueError, match=r"corpus\[0\] must be the positive of row 0"):
        generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus[1:])
    with pytest.raises(ValueError, match="has only 2 passages"):
        generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus[:2])
    with pytest.raises(ValueError, match=r"queries_corpus\[0\] has no 'answer'"):
        generate_bge_train_data(Numbers(), queries_corpus=[{"query": "q 1 0", "passage": "p 1 0"}])
    with pytest.raises(ValueError, match="at least one row, got None"):
        generate_bge_train_data(Numbers())


def test_rows_are_filtered_by_the_rank_of_their_positive() -> None:
    rows, corpus = rows_on_a_line(40)
    found = generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus, filter_data=True, filter_num=2)
    assert [row["pos"] for row in found] == [[corpus[0]], [corpus[1]]]
    assert len(generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus, filter_num=1)) == 3


def test_kinds_of_negatives_are_named_and_random_ones_repeat() -> None:
    rows, corpus = rows_on_a_line(300)
    drawn = generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus, neg_type="random")
    assert drawn == generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus, neg_type="random")
    assert len(set(drawn[0]["neg"])) == 15
    mixed = generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus, neg_type="mixed")
    assert sum(text in corpus[50:65] for text in mixed[0]["neg"]) >= 8
    with pytest.raises(ValueError, match=r"neg_type must be one of \('hard', 'random', 'mixed'\), got 'soft'"):
        generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus, neg_type="soft")


@pytest.mark.parametrize("ignore_prefix", [False, True])
def test_saved_vectors_are_used_again_and_never_stale(ignore_prefix: bool, tmp_path: Path) -> None:
    rows, corpus = rows_on_a_line(120)
    path = tmp_path / "deep" / "vectors.npy"
    settings = {"corpus": corpus, "emb_save_path": str(path), "ignore_prefix": ignore_prefix}
    first = generate_bge_train_data(Numbers(), queries_corpus=rows, **settings)
    assert np.load(path).shape == (117 if ignore_prefix else 120, 2)
    again = Numbers()
    assert generate_bge_train_data(again, queries_corpus=rows, **settings) == first
    assert max(count for count, *_ in again.calls) == 16
    if ignore_prefix:
        fewer = [{**rows[0], "passage": "n 0.9 0.1"}, rows[1], rows[2]]
        generate_bge_train_data(Numbers(), queries_corpus=fewer, **(settings | {"corpus": ["n 0.9 0.1", *corpus[1:]]}))
    with pytest.raises(ValueError, match="holds other vectors than this model gives"):
        generate_bge_train_data(Numbers(-1), queries_corpus=rows, **settings)
    with pytest.raises(ValueError, match="holds the vectors of other passages"):
        generate_bge_train_data(Numbers(), queries_corpus=rows, **(settings | {"corpus": [*corpus[:-1], "x 1 1"]}))
    with pytest.raises(ValueError, match="for 119 passages" if not ignore_prefix else "for 116 passages"):
        generate_bge_train_data(Numbers(), queries_corpus=rows, **(settings | {"corpus": corpus[:-1]}))
    path.with_name("vectors.npy.json").unlink()  # a file of the original has no note
    assert generate_bge_train_data(Numbers(), queries_corpus=rows, **settings) == first


def test_a_real_model_gives_the_rows_of_the_maps(
    faq_pairs: Dataset, faq_corpus: Dataset, retriever: Retriever, minilm: str
) -> None:
    rows = [
        {"query": row["query"], "answer": row["passage"][:60], "passage": row["passage"]} for row in faq_pairs.select(range(40))
    ]
    corpus = faq_corpus["text"][:]
    found = generate_bge_train_data(minilm, queries_corpus=rows, corpus=corpus, batch_size=32, max_length=256)
    mined = faq_pairs.select(range(40)).map(MineNegatives(faq_corpus), batched=True)
    same = [row["neg"] == other["neg"] for row, other in zip(found, mined, strict=True)]
    assert np.mean(same) > 0.95
    assert all(len(row["neg"]) == len(row["neg_answer"]) == 15 for row in found)


def original_pair(scores: list[float], raw: float, threshold: float, use_rule1: bool) -> tuple[int, int] | None:
    """The original's choice."""
    best, worst = max(scores), min(scores)
    if use_rule1 and not best > raw:
        return None
    return (scores.index(best), scores.index(worst)) if (best - raw * 0.8) * threshold >= worst - raw * 0.8 else None


@given(
    st.lists(st.tuples(vectors, vectors, st.lists(vectors, min_size=3, max_size=3)), min_size=1, max_size=4),
    st.sampled_from([0.5, 0.95, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_preference_pairs_equal_the_original_where_it_is_right(
    rows: list[Any], threshold: float, rule: bool, renamed: bool
) -> None:
    lists = []
    for number in range(3):
        column = "new_query" if renamed else "answer"
        lists.append(
            [
                {"query": text_of("q", query), "passage": text_of("p", passage), "answer": f"answer {number} 0 0"}
                | {column: text_of(f"a{number}", answers[number])}
                for query, passage, answers in rows
            ]
        )
    model = Numbers()
    found = generate_llm_dpo_train_data(lists, retrieval_model=model, threshold=threshold, use_rule1=rule)
    expected = []
    for query, passage, answers in rows:
        q, p, a = (np.array(vector, np.float64) for vector in (query, passage, answers))
        raw, scores = float(q @ p), [float((0.8 * q + 0.2 * answer) @ p) for answer in a]
        borders = [(max(scores) - raw * 0.8) * threshold - (min(scores) - raw * 0.8), max(scores) - raw]
        assume(min(map(abs, borders)) > 1e-9)  # there the last bits decide
        pair = original_pair(scores, raw, threshold, rule)
        if max(scores) - min(scores) > 1e-6 and pair is not None:  # the original makes pairs of equal formulations
            place = len(expected)
            expected.append((text_of("q", query), scores[pair[0]], scores[pair[1]]))
            assert (
                found[place]["chosen"].startswith(f"answer {pair[0]}" if renamed else f"a{pair[0]}")
                or scores.count(scores[pair[0]]) > 1
            )
    assert [(row["prompt"], row["chosen_score"], row["rejected_score"]) for row in found] == [
        (prompt, pytest.approx(best, abs=1e-12), pytest.approx(worst, abs=1e-12)) for prompt, best, worst in expected
    ]
    assert all(list(row) == ["prompt", "chosen", "rejected", "chosen_score", "rejected_score"] for row in found)


def test_formulations_must_belong_together() -> None:
    row = {"query": "q 1 0", "answer": "a 1 0", "passage": "p 1 0"}
    with pytest.raises(ValueError, match="same queries and passages in the same order"):
        generate_llm_dpo_train_data([[row], [{**row, "query": "q 0 1"}]], retrieval_model=Numbers())
    with pytest.raises(ValueError, match=r"queries_corpus_list\[1\]\[0\] has no 'answer'"):
        generate_llm_dpo_train_data([[row], [{"query": "q 1 0", "passage": "p 1 0"}]], retrieval_model=Numbers())
    with pytest.raises(ValueError, match="a list of rows for each formulation"):
        generate_llm_dpo_train_data(retrieval_model=Numbers())
    assert generate_llm_dpo_train_data([[row], [row]], retrieval_model=Numbers()) == []


class Ranker:
    """A model with fixed answers."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers

    def generate(self, prompts: list[str], temperature: float, top_p: float, max_tokens: int) -> list[Any]:
        assert (temperature, top_p, max_tokens) == (0.0, 1.0, 1024)
        return self.answers[: len(prompts)]


def test_rankings_become_scores_and_texts_stay() -> None:
    rows = [{"query": "q", "pos": ["a"], "neg": ["b", "c"], "id": 1} for _ in range(6)]
    before = json.dumps(rows)
    answers = [
        "[2] > [1] > [3]",
        ["[3] [3] [9] [1]"],
        "<think>[1]</think>[3] > [2] > [1]",
        "no idea",
        LLMError("broken"),
        "0 > 2 > 1",
    ]
    found = get_distill_data(Ranker(answers), train_data=rows, prompts=["rank"] * 6)
    assert json.dumps(rows) == before
    assert [row["pos_scores"] for row in found] == [[1 / 2], [1 / 2], [1 / 3], None, None, [1]]
    assert [row["neg_scores"] for row in found] == [[1, 1 / 3], [1 / 3, 1], [1 / 2, 1], None, None, [1 / 3, 1 / 2]]
    assert all(row["neg"] == ["b", "c"] for row in found)
    with pytest.raises(ValueError, match="one for each of the 6 rows, got 2"):
        get_distill_data(Ranker([]), train_data=rows, prompts=["a", "b"])


def test_metrics_by_hand() -> None:
    truths = {"0": {"0": 1, "5": 1}, "1": {"2": 1, "7": 1, "9": 1}}
    predicts = [[0, 3, 5, 1, 8, 4, 2, 6, 7, 9], [2, 7, 1, 9, 0, 5, 3, 4, 6, 8]]
    scores = [[1 - place / 10 for place in range(10)]] * 2
    found = evaluate(["recall", "mrr", "ndcg", "map", "precision"], [1, 5], truths, predicts, scores)
    log3, log4, log5 = 1 / np.log2(3), 1 / np.log2(4), 1 / np.log2(5)
    assert found["recall"] == {"Recall@1": 0.41667, "Recall@5": 1.0}
    assert found["mrr"] == {"MRR@1": 1.0, "MRR@5": 1.0}
    assert found["precision"] == {"Precision@1": 1.0, "Precision@5": 0.5}
    ndcg = [(1 + log4) / (1 + log3), (1 + log3 + log5) / (1 + log3 + log4)]
    assert found["ndcg"] == {"NDCG@1": 1.0, "NDCG@5": round(float(np.mean(ndcg)), 5)}
    precision = [(1 + 2 / 3) / 2, (1 + 1 + 3 / 4) / 3]
    assert found["map"] == {"MAP@1": round((1 / 2 + 1 / 3) / 2, 5), "MAP@5": round(float(np.mean(precision)), 5)}
    for ids in ([[str(name) for name in row] for row in predicts], np.array(predicts)):
        assert evaluate(["ndcg"], [1, 5], truths, ids, scores)["ndcg"] == found["ndcg"]
    ragged = [[*predicts[0], -1, -1], predicts[1][:4]]
    assert evaluate(["recall"], [5], truths, ragged, [[*scores[0], 5.0, -1.0], scores[1][:4]]) == {"recall": {"Recall@5": 1.0}}
    assert list(evaluate(ground_truths=truths, predicts=predicts, scores=scores)) == ["recall", "mrr", "ndcg"]


def test_the_other_names_are_those_of_the_package() -> None:
    truths, results = {"q": {"a": 1}}, {"q": {"a": 0.5, "b": 0.9}}
    assert evaluate_better(ground_truths=truths, retrieval_results=results)["mrr"] == {"MRR@1": 0.0, "MRR@10": 0.5}
    assert evaluate_mrr(truths, results, [1, 10]) == {"MRR@1": 0.0, "MRR@10": 0.5}
    assert extract_numbers("[3] > [12], 7") == [3, 12, 7]
    scores, places = search(np.eye(2, dtype="f4"), np.eye(2, dtype="f4")[::-1].copy(), topk=1)
    assert places.tolist() == [[1], [0]]
    assert scores.tolist() == [[1.0], [1.0]]
