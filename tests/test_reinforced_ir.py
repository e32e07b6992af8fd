"""The original's functions: its rows where it is right, and each place by name where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rir_hf import LLMError, MineNegatives, Retriever, load_rows, train_retriever
from rir_hf.core.draws import generator_of
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

Vector = tuple[float, float]

STEPS = st.integers(-8, 8).map(lambda number: number / 8)
VECTORS = st.tuples(STEPS, STEPS)


class Numbers:
    """An encoder of texts that end in the numbers of their vectors, as a FlagModel is called."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign
        self.queries: list[str] = []
        self.passages: list[str] = []

    def encode_queries(
        self, queries: list[str], batch_size: int = 0, max_length: int = 0
    ) -> np.ndarray:
        self.queries += queries
        return vectors_of(queries)

    def encode_corpus(
        self, corpus: list[str], batch_size: int = 0, max_length: int = 0
    ) -> np.ndarray:
        self.passages += corpus
        return self.sign * vectors_of(corpus)


def vectors_of(texts: list[str]) -> np.ndarray:
    return np.array([[float(number) for number in text.split()[-2:]] for text in texts], np.float32)


def text_of(name: str, vector: Vector) -> str:
    return f"{name} {vector[0]} {vector[1]}"


def rows_on_a_line(count: int) -> tuple[list[dict[str, str]], list[str]]:
    """Three rows that look along the line on which the passages lie, best first: the positive of
    row i has rank i, and what scores at most 95 % of the first begins at rank 50.
    """
    corpus = [f"p{number} {1 - number / 1000} 0" for number in range(count)]
    rows = [{"query": "q 1 0", "answer": "a 0.5 0", "passage": corpus[place]} for place in range(3)]
    return rows, corpus


def original_negatives(scores: np.ndarray, positive: int, texts: list[str]) -> list[str]:
    """The original's procedure where it is right: from the first rank at or below 95 % of the
    positive, without repeats.
    """
    order = sorted(range(len(texts)), key=lambda place: (-scores[place], place))
    later = range(order.index(positive) + 1, len(order))
    ceiling = scores[positive] * 0.95
    start = next((rank for rank in later if scores[order[rank]] <= ceiling), len(order))
    found = [texts[place] for place in order[start : start + 50]]
    return [text for text in dict.fromkeys(found) if text != texts[positive]][:15]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(VECTORS, VECTORS, VECTORS), min_size=1, max_size=4),
    st.lists(VECTORS, max_size=30),
)
def test_negatives_below_95_percent_equal_the_original_where_it_is_right(
    rows: list[tuple[Vector, Vector, Vector]], others: list[Vector]
) -> None:
    corpus = [text_of(f"p{place}", passage) for place, (_, _, passage) in enumerate(rows)]
    asked = [
        {"query": text_of("q", query), "answer": text_of("a", answer), "passage": passage}
        for (query, answer, _), passage in zip(rows, corpus, strict=True)
    ]
    corpus += [text_of("o", vector) for vector in others]
    found = generate_bge_train_data(
        Numbers(), queries_corpus=asked, corpus=corpus, neg_type="95neg"
    )
    passages = vectors_of(corpus).astype(np.float64)
    for place, (row, of_row) in enumerate(zip(found, asked, strict=True)):
        assert list(row) == ["query", "answer", "pos", "neg", "neg_answer"]
        assert (row["query"], row["answer"]) == (of_row["query"], of_row["answer"])
        assert row["pos"] == [corpus[place]]
        for column, output in (("query", "neg"), ("answer", "neg_answer")):
            vector = vectors_of([of_row[column]])[0].astype(np.float64)
            scores = passages @ vector
            # Below zero the original's ceiling lies above the positive.
            if vector.any() and scores[place] > 0:
                assert row[output] == original_negatives(scores, place, corpus)


def test_hard_negatives_are_the_best_of_fifty_draws_from_ranks_30_to_200() -> None:
    rows, corpus = rows_on_a_line(300)
    found = generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus)
    ranks = [corpus.index(text) for text in found[0]["neg"]]
    assert len(ranks) == 15
    assert ranks == sorted(ranks)
    assert 30 <= ranks[0] < ranks[-1] < 130  # the best 15 of 50: about a third of 170 ranks
    assert ranks != list(range(30, 45))
    assert found == generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus)
    alone = generate_bge_train_data(Numbers(), queries_corpus=rows[:1], corpus=corpus)
    assert alone[0] == found[0]


def test_hard_negatives_where_passages_repeat_are_the_first_fifteen_texts_that_are_drawn() -> None:
    corpus = [f"p{place // 2} {1 - place // 2 / 1000} 0" for place in range(300)]
    names = ("query", "answer", "passage")
    rows = [
        dict(zip(names, (f"q{place} 1 0", "a 0.5 0", corpus[place]), strict=True))
        for place in range(8)
    ]
    looked_at = []
    for row, found in zip(
        rows, generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus), strict=True
    ):
        ranks = sorted(30 + generator_of(0, *row.values()).permutation(170)[:50])
        texts = [corpus[rank] for rank in ranks]
        assert found["neg"] == list(dict.fromkeys(texts))[:15]
        looked_at.append(texts.index(found["neg"][-1]) + 1)
    assert min(looked_at) < 18 < max(looked_at), "some rows need more than the first draws"


def test_each_kind_of_negatives_is_what_the_original_means_by_its_name() -> None:
    rows, corpus = rows_on_a_line(300)
    found: dict[str, dict[str, Any]] = {}
    kinds: tuple[Any, ...] = ("hard", "95neg", "random", "mixed")
    for kind in kinds:
        every = generate_bge_train_data(
            Numbers(), queries_corpus=rows, corpus=corpus, neg_type=kind
        )
        found[kind] = every[0]
    assert found["95neg"]["neg"] == corpus[50:65]
    assert found["mixed"]["neg"][:8] == corpus[50:58]
    drawn = [text for text in found["random"]["neg"] if text not in corpus[50:58]]
    assert found["mixed"]["neg"][8:] == drawn[:7]
    assert len(set(found["random"]["neg"])) == 15
    assert max(map(corpus.index, found["random"]["neg"])) > 200
    # The answer's negatives never follow it; their ceiling is that of the answer's own scores,
    # which are half the query's here.
    assert all(row["neg_answer"] == corpus[50:65] for row in found.values())
    with pytest.raises(ValueError, match="neg_type must be one of .* got 'soft'"):
        generate_bge_train_data(Numbers(), queries_corpus=rows, neg_type="soft")  # type: ignore[arg-type]  # that is the point


def test_a_small_corpus_gives_no_wrong_row() -> None:
    """Where the original takes the last passage for each that is missing."""
    rows, corpus = rows_on_a_line(35)
    few = [*corpus, "x 0.5 0", "x 0.5 0", "last 0.99 0"]
    found = generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=few)
    assert found[0]["neg"] == [*corpus[29:35], "x 0.5 0"]
    assert found[0]["neg_answer"] == ["x 0.5 0"]
    two = ["p0 1.0 0", "x 0.5 0"]
    assert generate_bge_train_data(Numbers(), queries_corpus=rows[:1], corpus=two) == [
        {
            "query": "q 1 0",
            "answer": "a 0.5 0",
            "pos": two[:1],
            "neg": two[1:],
            "neg_answer": two[1:],
        }
    ]


def test_other_places_where_the_original_is_not_followed() -> None:
    rows, corpus = rows_on_a_line(120)
    below_zero = [{**rows[0], "query": "q -1 0"}]
    assert [row["neg"] for row in mined_at_95(below_zero, corpus)] == [[]]
    copies = [*corpus[:3], "x 0.5 0", "x 0.5 0", *corpus[:3], "q 1 0", "", "y 0.4 0"]
    texts = [text or " 0.45 0" for text in copies]
    assert mined_at_95(rows, texts)[0]["neg"] == ["x 0.5 0", " 0.45 0", "y 0.4 0"]
    same = [rows[0], {**rows[0], "query": "r 1 0"}]
    kept = generate_bge_train_data(
        Numbers(), queries_corpus=same, filter_data=True, filter_num=1, neg_type="95neg"
    )
    assert [row["query"] for row in kept] == ["q 1 0", "r 1 0"]


def mined_at_95(rows: list[dict[str, str]], corpus: list[str]) -> list[dict[str, Any]]:
    return generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus, neg_type="95neg")


def test_answers_are_passages_in_mining_and_queries_in_dpo() -> None:
    rows, corpus = rows_on_a_line(3)
    model = Numbers()
    generate_bge_train_data(model, queries_corpus=rows, corpus=corpus)
    assert "a 0.5 0" in model.passages
    assert "a 0.5 0" not in model.queries
    model = Numbers()
    generate_llm_dpo_train_data([rows, rows], retrieval_model=model)
    assert "a 0.5 0" in model.queries
    assert "a 0.5 0" not in model.passages


def test_the_corpus_is_the_positives_unless_it_is_given_and_must_begin_with_them() -> None:
    rows, corpus = rows_on_a_line(120)
    far = [
        {"query": "q 1 0", "answer": "a 1 0", "text": f"t{place} {1 - place / 4} 0"}
        for place in range(4)
    ]
    found = generate_bge_train_data(Numbers(), queries_corpus=far, dtype="text")
    assert found[0]["neg"] == [row["text"] for row in far[1:]]
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
    found = generate_bge_train_data(
        Numbers(), queries_corpus=rows, corpus=corpus, filter_data=True, filter_num=2
    )
    assert [row["pos"] for row in found] == [[corpus[0]], [corpus[1]]]
    every = generate_bge_train_data(Numbers(), queries_corpus=rows, corpus=corpus, filter_num=1)
    assert len(every) == 3


@pytest.mark.parametrize("ignore_prefix", [False, True])
def test_saved_vectors_are_used_again_and_never_stale(ignore_prefix: bool, tmp_path: Path) -> None:
    rows, corpus = rows_on_a_line(120)
    path = tmp_path / "deep" / "vectors.npy"

    def mine(corpus: list[str], model: Numbers | None = None) -> list[dict[str, Any]]:
        asked = [{**row, "passage": passage} for row, passage in zip(rows, corpus, strict=False)]
        return generate_bge_train_data(
            model or Numbers(),
            queries_corpus=asked,
            corpus=corpus,
            emb_save_path=str(path),
            ignore_prefix=ignore_prefix,
        )

    first = mine(corpus)
    assert np.load(path).shape == (117 if ignore_prefix else 120, 2)
    again = Numbers()
    assert mine(corpus, again) == first
    assert len(again.passages) < 25  # a sample, the answers, and the positives with ignore_prefix
    if ignore_prefix:
        mine(["n 0.9 0.1", *corpus[1:]])
    with pytest.raises(ValueError, match="holds other vectors than this model gives"):
        mine(corpus, Numbers(-1))
    with pytest.raises(ValueError, match="holds the vectors of other passages"):
        mine([*corpus[:-1], "x 1 1"])
    with pytest.raises(ValueError, match=f"for {116 if ignore_prefix else 119} passages"):
        mine(corpus[:-1])
    path.with_name("vectors.npy.json").unlink()  # a file of the original has no note
    assert mine(corpus) == first


def test_a_real_model_gives_the_rows_of_the_steps(
    faq_pairs: Dataset, faq_corpus: Dataset, minilm: str
) -> None:
    pairs = faq_pairs.select(range(40))
    rows = [
        {"query": row["query"], "answer": row["passage"][:60], "passage": row["passage"]}
        for row in pairs
    ]
    found = generate_bge_train_data(
        minilm,
        queries_corpus=rows,
        corpus=faq_corpus["text"][:],
        batch_size=32,
        max_length=256,
        neg_type="95neg",
    )
    mined = pairs.map(MineNegatives(faq_corpus), batched=True)
    # Vectors differ in the last bits with the batch that a text is in.
    same = [row["neg"] == other["neg"] for row, other in zip(found, mined, strict=True)]
    assert np.mean(same) > 0.95
    assert all(len(row["neg"]) == len(row["neg_answer"]) == 15 for row in found)


def original_pair(
    scores: list[float], raw: float, threshold: float, use_rule1: bool
) -> tuple[int, int] | None:
    """The original's choice."""
    best, worst = max(scores), min(scores)
    if use_rule1 and not best > raw:
        return None
    is_apart = (best - raw * 0.8) * threshold >= worst - raw * 0.8
    return (scores.index(best), scores.index(worst)) if is_apart else None


@settings(max_examples=60)
@given(
    VECTORS,
    VECTORS,
    st.lists(VECTORS, min_size=3, max_size=3),
    st.sampled_from([0.5, 0.95, 1.0]),
    st.booleans(),
)
def test_preference_pairs_equal_the_original_where_it_is_right(
    query: Vector, passage: Vector, answers: list[Vector], threshold: float, rule: bool
) -> None:
    q, p = np.array(query), np.array(passage)
    raw = float(q @ p)
    scores = [float((0.8 * q + 0.2 * np.array(answer)) @ p) for answer in answers]
    best, worst = max(scores), min(scores)
    borders = [(best - raw * 0.8) * threshold - (worst - raw * 0.8), best - raw]
    assume(min(map(abs, borders)) > 1e-9)  # there the last bits decide
    texts = [text_of(f"a{number}", answer) for number, answer in enumerate(answers)]
    row = {"query": text_of("q", query), "passage": text_of("p", passage)}
    lists = [[{**row, "answer": text}] for text in texts]
    found = generate_llm_dpo_train_data(
        lists, retrieval_model=Numbers(), threshold=threshold, use_rule1=rule
    )
    pair = original_pair(scores, raw, threshold, rule)
    if pair is None or best - worst < 1e-6:  # the original makes pairs of equal formulations
        assert found == []
        return
    assert [list(made) for made in found] == [
        ["prompt", "chosen", "rejected", "chosen_score", "rejected_score"]
    ]
    assert found[0]["prompt"] == row["query"]
    assert found[0]["chosen_score"] == pytest.approx(best, abs=1e-12)
    assert found[0]["rejected_score"] == pytest.approx(worst, abs=1e-12)
    assert scores[texts.index(found[0]["chosen"])] == pytest.approx(best, abs=1e-6)
    assert scores[texts.index(found[0]["rejected"])] == pytest.approx(worst, abs=1e-6)


def test_new_queries_are_searched_with_in_place_of_the_formulations() -> None:
    row = {"query": "q 1 0", "passage": "p 1 0"}
    lists = [
        [{**row, "answer": "good", "new_query": "n 2 0"}],
        [{**row, "answer": "bad", "new_query": "n 0 1"}],
    ]
    found = generate_llm_dpo_train_data(lists, retrieval_model=Numbers())
    assert [(pair["chosen"], pair["rejected"]) for pair in found] == [("good", "bad")]


def test_formulations_must_belong_together() -> None:
    row = {"query": "q 1 0", "answer": "a 1 0", "passage": "p 1 0"}
    other = {**row, "query": "q 0 1"}
    lacking = {"query": "q 1 0", "passage": "p 1 0"}
    with pytest.raises(ValueError, match="same queries and passages in the same order"):
        generate_llm_dpo_train_data([[row], [other]], retrieval_model=Numbers())
    with pytest.raises(ValueError, match=r"queries_corpus_list\[1\]\[0\] has no 'answer'"):
        generate_llm_dpo_train_data([[row], [lacking]], retrieval_model=Numbers())
    with pytest.raises(ValueError, match="a list of rows for each formulation"):
        generate_llm_dpo_train_data(retrieval_model=Numbers())
    assert generate_llm_dpo_train_data([[row], [row]], retrieval_model=Numbers()) == []


class Ranker:
    """A model with fixed answers."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers

    def generate(
        self, prompts: list[str], temperature: float, top_p: float, max_tokens: int
    ) -> list[Any]:
        assert (temperature, top_p, max_tokens) == (0.0, 1.0, 1024)
        return self.answers[: len(prompts)]


def scores_for(answers: list[Any], prompt: str) -> list[tuple[Any, Any]]:
    rows = [{"query": "q", "pos": ["a"], "neg": ["b", "c"], "id": 1} for _ in answers]
    before = json.dumps(rows)
    found = get_distill_data(Ranker(answers), train_data=rows, prompts=[prompt] * len(rows))
    assert json.dumps(rows) == before
    assert all(row["neg"] == ["b", "c"] for row in found)
    return [(row["pos_scores"], row["neg_scores"]) for row in found]


def test_rankings_become_scores_and_texts_stay() -> None:
    answers = {
        "[2] > [1] > [3]": ([1 / 2], [1, 1 / 3]),
        "[3] [3] [9] [1]": ([1 / 2], [1 / 3, 1]),
        "<think>[1]</think>[3] > [2] > [1]": ([1 / 3], [1 / 2, 1]),
        "no idea": (None, None),
        "0 > 2 > 1": ([1], [1 / 3, 1 / 2]),
        "[2] > [1]": ([1 / 2], [1, 1 / 3]),
    }
    assert scores_for(list(answers), "Rank: [1] a [2] b [3] c") == list(answers.values())
    assert scores_for([["[2] > [1] > [3]"], LLMError("broken")], "Rank") == [
        ([1 / 2], [1, 1 / 3]),
        (None, None),
    ]
    rows = [{"query": "q", "pos": ["a"], "neg": ["b"]}]
    with pytest.raises(ValueError, match="one for each of the 1 rows, got 2"):
        get_distill_data(Ranker([]), train_data=rows, prompts=["a", "b"])


def test_passages_numbered_from_0_as_in_the_original_script_are_read_as_such() -> None:
    answers = {
        "[2] > [1]": ([1 / 3], [1 / 2, 1]),
        "[2]": ([1 / 2], [1 / 3, 1]),
        "[2] > [0] > [1]": ([1 / 2], [1 / 3, 1]),
        "[3] > [2] > [1]": ([1 / 3], [1 / 2, 1]),
    }
    assert scores_for(list(answers), "Rank:\n[0] a\n[1] b\n[2] c") == list(answers.values())


def test_metrics_by_hand() -> None:
    truths = {"0": {"0": 1, "5": 1}, "1": {"2": 1, "7": 1, "9": 1}}
    predicts = [[0, 3, 5, 1, 8, 4, 2, 6, 7, 9], [2, 7, 1, 9, 0, 5, 3, 4, 6, 8]]
    scores = [[1 - place / 10 for place in range(10)]] * 2
    metrics = ["recall", "mrr", "ndcg", "map", "precision"]
    found = evaluate(metrics, [1, 5], truths, predicts, scores)
    log3, log4, log5 = 1 / np.log2(3), 1 / np.log2(4), 1 / np.log2(5)
    assert found["recall"] == {"Recall@1": 0.41667, "Recall@5": 1.0}
    assert found["mrr"] == {"MRR@1": 1.0, "MRR@5": 1.0}
    assert found["precision"] == {"Precision@1": 1.0, "Precision@5": 0.5}
    ndcg = [(1 + log4) / (1 + log3), (1 + log3 + log5) / (1 + log3 + log4)]
    assert found["ndcg"] == {"NDCG@1": 1.0, "NDCG@5": round(float(np.mean(ndcg)), 5)}
    average = round(float(np.mean([(1 + 2 / 3) / 2, (1 + 1 + 3 / 4) / 3])), 5)
    assert found["map"] == {"MAP@1": round((1 / 2 + 1 / 3) / 2, 5), "MAP@5": average}
    for ids in ([[str(name) for name in row] for row in predicts], np.array(predicts)):
        assert evaluate(["ndcg"], [1, 5], truths, ids, scores)["ndcg"] == found["ndcg"]
    ragged = [[*predicts[0], -1, -1], predicts[1][:4]]
    values = [[*scores[0], 5.0, -1.0], scores[1][:4]]
    assert evaluate(["recall"], [5], truths, ragged, values) == {"recall": {"Recall@5": 1.0}}
    defaults = evaluate(ground_truths=truths, predicts=predicts, scores=scores)
    assert list(defaults) == ["recall", "mrr", "ndcg"]


def test_the_other_names_of_the_original_are_there() -> None:
    truths, results = {"q": {"a": 1}}, {"q": {"a": 0.5, "b": 0.9}}
    found = evaluate_better(ground_truths=truths, retrieval_results=results)
    assert found["mrr"] == {"MRR@1": 0.0, "MRR@10": 0.5}
    assert evaluate_mrr(truths, results, [1, 10]) == {"MRR@1": 0.0, "MRR@10": 0.5}
    assert extract_numbers("[3] > [12], 7") == [3, 12, 7]
    scores, places = search(np.eye(2, dtype="f4"), np.eye(2, dtype="f4")[::-1].copy(), topk=5)
    assert places.tolist() == [[1, 0], [0, 1]]
    assert scores.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_metrics_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="metrics must be one of .*'mrr'.* got 'hits'"):
        evaluate_better(["hits"], [1], {"q": {"a": 1}}, {"q": {"a": 1.0}})
    with pytest.raises(ValueError, match="every k at least 1"):
        evaluate_mrr({"q": {"a": 1}}, {"q": {"a": 1.0}}, [0])
    with pytest.raises(ValueError, match="row 0 has 2 ids and 1 scores"):
        evaluate(["mrr"], [1], {"0": {"a": 1}}, [["a", "b"]], [[1.0]])
    with pytest.raises(ValueError, match="of one length"):
        evaluate(ground_truths={"0": {"a": 1}})


@pytest.mark.slow
def test_two_hundred_pairs_as_plain_lists_become_a_trained_model(
    faq_file: Path, minilm: str, tmp_path: Path
) -> None:
    lines = faq_file.read_text(encoding="utf-8").splitlines()[:200]
    faq = [json.loads(line) for line in lines]
    pairs = [{"query": row["q"], "answer": row["q"], "passage": row["a"][:100]} for row in faq]
    rows = generate_bge_train_data(minilm, queries_corpus=pairs, max_length=64)
    assert {len(row[name]) for row in rows for name in ("neg", "neg_answer")} == {15}
    Dataset.from_list(rows).to_json(tmp_path / "train.jsonl")
    mined = load_rows(tmp_path / "train.jsonl")
    assert mined.to_list() == rows
    train_retriever(mined, minilm, tmp_path / "tuned", num_negatives=2, max_steps=20, batch_size=8)
    before, after = (Retriever(str(model)) for model in (minilm, tmp_path / "tuned"))
    question = ["How is radon measured?"]
    assert not np.allclose(
        before.encode_queries(question), after.encode_queries(question), atol=1e-3
    )
