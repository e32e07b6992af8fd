"""Mining: equal to a plain oracle on anything, the same rows however it is run, a word for every
bad input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, LargeList, List, Value, concatenate_datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rir_hf import (
    Blend,
    Embed,
    LexicalTeacher,
    MineNegatives,
    RelabelNegatives,
    Retriever,
    ScorePassages,
    Search,
    Similarities,
    attach_index,
    attach_lexical,
    run,
)
from rir_hf.schema import SKIP_RULES, code_of

NO_SKIP = dict.fromkeys(SKIP_RULES, 0)


def ceiling_of(scores: list[float], options: dict[str, Any]) -> float:
    """The similarity that no negative may exceed, given those of the known positives."""
    which = {"lowest": min, "mean": lambda all_: sum(all_) / len(all_), "highest": max}
    p = which[options["ceiling"]](scores)
    limits = [np.inf]
    if options["relative_margin"] is not None:
        limits.append(p - options["relative_margin"] * abs(p))
    if options["absolute_margin"] is not None:
        limits.append(p - options["absolute_margin"])
    if options["max_score"] is not None:
        limits.append(options["max_score"])
    return min(limits)


def oracle(corpus: list[dict], row: dict, options: dict[str, Any]) -> dict[str, Any]:
    """What mining must give for one row, written as plainly as it can be: every score, one sorted
    list, one walk down.
    """
    vectors = np.array([passage["embedding"] for passage in corpus])
    scores = (vectors @ np.array(row["embedding"])).astype(np.float32).tolist()
    ranking = sorted(range(len(corpus)), key=lambda at: (-scores[at], at))
    texts = [passage["text"] for passage in corpus]
    by_id = [at for at in range(len(corpus)) if corpus[at]["id"] in row["pos_ids"]]
    known = {*by_id, *(at for at in range(len(corpus)) if texts[at] in row["pos"])}
    own = [own_position(corpus, *pair) for pair in zip(row["pos"], row["pos_ids"], strict=True)]
    found = [at for at in own if at is not None]
    negatives: list[int] = []
    if known:
        ceiling = ceiling_of([scores[at] for at in known], options)
        taboo = {*(texts[at] for at in known), *row["pos"], row["query"]}
        negatives = [
            at
            for at in ranking
            if scores[at] <= ceiling
            and scores[at] >= (-np.inf if options["min_score"] is None else options["min_score"])
            and texts[at].strip()
            and texts[at] not in taboo
            and texts.index(texts[at]) == at
        ]
    first = options["range_min"]
    negatives = negatives[first : first + options["num_negatives"]]
    return {
        "neg_ids": [corpus[at]["id"] for at in negatives],
        "neg": [texts[at] for at in negatives],
        "neg_sims": [scores[at] for at in negatives],
        "pos_sims": [None if at is None else scores[at] for at in own],
        "pos_rank": min((ranking.index(at) for at in found), default=len(corpus)),
    }


def own_position(corpus: list[dict], text: str, passage: str | None) -> int | None:
    """Where a positive is: the first passage with its id, or else with its text."""
    by_id = [at for at, other in enumerate(corpus) if other["id"] == passage]
    by_text = [at for at, other in enumerate(corpus) if other["text"] == text]
    return next(iter(by_id + by_text), None)


@st.composite
def problems(draw: Callable) -> tuple[list[dict], list[dict], dict[str, Any]]:
    """A corpus with ties, repeated texts and ids and empty passages, rows with several or unknown
    positives, some of whose queries are passages, and options.
    """
    size = draw(st.sampled_from([1, 2, 15, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dimension = draw(st.integers(1, 4))
    grain = draw(st.sampled_from([1, 2, 5, 100]))
    texts = max(1, size // draw(st.sampled_from([1, 2, 10])))
    corpus = [
        {
            "id": f"p{at // grain}",
            "text": " " if rng.random() < 0.05 else f"text {rng.integers(texts)}",
            "embedding": rng.integers(-2, 3, dimension).astype(float).tolist(),
        }
        for at in range(size)
    ]
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        chosen = [corpus[at] for at in rng.integers(size, size=draw(st.integers(0, 3)))]
        is_text = [rng.random() < 0.7 and passage["text"].strip() for passage in chosen]
        vector = rng.integers(-2, 3, dimension).astype(float)
        vector[0] = vector[0] or 1.0
        pairs = list(zip(chosen, is_text, strict=True))
        rows.append(
            {
                "query": f"text {rng.integers(texts)}",
                "pos": [passage["text"] if known else "unknown" for passage, known in pairs],
                "pos_ids": [passage["id"] if rng.random() < 0.7 else None for passage in chosen],
                "embedding": vector.tolist(),
            }
        )
    options = {
        "num_negatives": draw(st.sampled_from([1, 3, 15, 400])),
        "ceiling": draw(st.sampled_from(["lowest", "mean", "highest"])),
        "relative_margin": draw(st.sampled_from([None, 0.0, 0.05, 0.5])),
        "absolute_margin": draw(st.sampled_from([None, None, 0.0, 1.0])),
        "max_score": draw(st.sampled_from([None, None, 2.0, -1.0])),
        "min_score": draw(st.sampled_from([None, None, 0.0])),
        "range_min": draw(st.sampled_from([0, 0, 1, 40])),
    }
    return corpus, rows, options


def as_dataset(rows: list[dict]) -> Dataset:
    """Rows with the column types that real data has, also where the lists are empty."""
    kinds = {
        "embedding": List(Value("float32")),
        "pos": List(Value("string")),
        "pos_ids": List(Value("string")),
    }
    features = Features({name: kinds.get(name, Value("string")) for name in rows[0]})
    return Dataset.from_list(rows, features=features)


def assert_equals_oracle(
    corpus: list[dict], rows: list[dict], options: dict[str, Any], indexed: Dataset
) -> None:
    mined = as_dataset(rows).map(MineNegatives(indexed, **options), batched=True, batch_size=3)
    for row, found in zip(rows, mined, strict=True):
        expected = oracle(corpus, row, options)
        assert {name: found[name] for name in expected} == expected
        assert (found["neg_note"] is None) == (len(found["neg"]) == options["num_negatives"])


SLOW = [HealthCheck.too_slow, HealthCheck.large_base_example]


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(problems())
def test_mining_over_a_flat_index_equals_the_oracle(problem: tuple) -> None:
    corpus, rows, options = problem
    assert_equals_oracle(corpus, rows, options, attach_index(as_dataset(corpus)))


@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
@given(problems())
def test_mining_over_ivf_with_every_list_probed_equals_the_oracle(problem: tuple) -> None:
    corpus, rows, options = problem
    lists = min(4, len(corpus))
    indexed = attach_index(as_dataset(corpus), factory=f"IVF{lists},Flat")
    indexed.get_index("embedding").faiss_index.nprobe = lists
    assert_equals_oracle(corpus, rows, options, indexed)


def test_a_positive_that_an_approximate_index_does_not_return_makes_no_count_negative() -> None:
    rng = np.random.default_rng(0)
    near = [1, 0, 0] + 0.05 * rng.standard_normal((400, 3))
    far = [0, 1, 0] + 0.05 * rng.standard_normal((400, 3))
    far[0] = [0.9, 1.2, 0]  # the positive: the most similar of all, in the list that is not probed
    names = [str(n) for n in range(800)]
    vectors = np.concatenate([near, far]).astype(np.float32)
    corpus = Dataset.from_dict({"id": names, "text": names, "embedding": list(vectors)})
    step = MineNegatives(attach_index(corpus, factory="IVF2,Flat"), num_negatives=3)
    row = step.one({"pos_ids": ["400"], "embedding": [1.0, 0.45, 0.0]})
    assert max(map(int, row["neg_ids"])) < 400
    assert row["pos_sims"][0] > max(row["neg_sims"])
    assert min(row["neg_skipped"].values()) == 0


def test_over_several_blocks_of_a_larger_corpus_the_rows_are_those_of_sorting_everything() -> None:
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((11_000, 24)).astype(np.float32)
    names = [f"p{n}" for n in range(11_000)]
    corpus = Dataset.from_dict({"id": names, "text": names, "embedding": list(vectors)})
    positives = rng.choice(11_000, 300, replace=False)
    queries = (vectors[positives] + 1.5 * rng.standard_normal((300, 24))).astype(np.float32)
    pairs = Dataset.from_dict(
        {"pos_ids": [[names[n]] for n in positives], "embedding": list(queries)}
    )
    found = pairs.map(MineNegatives(attach_index(corpus), num_negatives=10), batched=True)
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    own = scores[np.arange(300), positives].astype(np.float64)
    allowed = np.where(scores <= (own - 0.05 * np.abs(own))[:, None], scores, -np.inf)
    allowed[np.arange(300), positives] = -np.inf
    best = np.argsort(-allowed, axis=1, kind="stable")[:, :10]
    assert found["neg_ids"][:] == [[names[n] for n in row] for row in best]
    before = (scores > own.astype(np.float32)[:, None]).sum(axis=1)
    assert found["pos_rank"][:] == before.tolist()
    assert max(found["pos_rank"]) > 1000


CORPUS = [
    {"id": "a", "text": "cats purr", "embedding": [1.0, 0.0]},
    {"id": "b", "text": "dogs bark", "embedding": [0.0, 1.0]},
    {"id": "c", "text": "cats meow", "embedding": [0.96, 0.28]},
    {"id": "d", "text": "kittens purr", "embedding": [0.8, 0.6]},
    {"id": "e", "text": "cows moo", "embedding": [0.6, 0.8]},
    {"id": "f", "text": "birds sing", "embedding": [0.28, 0.96]},
]
ROW = {"query": "what do cats do", "passage": "cats purr", "embedding": [1.0, 0.0]}


@pytest.fixture(scope="module")
def animals() -> Dataset:
    """Six passages that a person can check by eye."""
    return attach_index(as_dataset(CORPUS))


def mined(corpus: Dataset, row: dict, **options: Any) -> dict:
    """One row, mined."""
    return Dataset.from_list([row]).map(MineNegatives(corpus, **options), batched=True)[0]


def test_every_column_of_the_row_stays_and_those_of_the_table_come_with_it(
    animals: Dataset,
) -> None:
    row = mined(animals, {**ROW, "mine": 7}, num_negatives=3)
    own = {name: row[name] for name in ("query", "passage", "mine")}
    assert own == {"query": "what do cats do", "passage": "cats purr", "mine": 7}
    assert (row["pos"], row["pos_ids"]) == (["cats purr"], ["a"])
    assert (row["pos_sims"], row["pos_rank"]) == ([1.0], 0)
    assert row["neg"] == ["kittens purr", "cows moo", "birds sing"]
    assert row["neg_ids"] == ["d", "e", "f"]
    np.testing.assert_allclose(row["neg_sims"], [0.8, 0.6, 0.28], atol=1e-6)
    assert row["neg_note"] is None
    assert row["neg_skipped"] == {**NO_SKIP, "positive": 1, "relative_margin": 1}


@pytest.mark.parametrize(
    ("options", "ids", "skipped"),
    [
        ({}, ["c", "d", "e"], {}),
        ({"relative_margin": 0.5}, ["f", "b"], {"relative_margin": 3}),
        ({"absolute_margin": 0.3}, ["e", "f", "b"], {"absolute_margin": 2}),
        ({"max_score": 0.7}, ["e", "f", "b"], {"max_score": 2}),
        ({"min_score": 0.7}, ["c", "d"], {}),
        ({"range_min": 2}, ["e", "f", "b"], {"range_min": 2}),
    ],
)
def test_each_rule_leaves_out_what_it_says(
    animals: Dataset, options: dict[str, Any], ids: list[str], skipped: dict[str, int]
) -> None:
    row = mined(animals, ROW, num_negatives=3, **{"relative_margin": None, **options})
    assert row["neg_ids"] == ids
    assert row["neg_skipped"] == {**NO_SKIP, "positive": 1, **skipped}


def test_the_margin_lowers_the_ceiling_also_where_similarities_are_negative(
    animals: Dataset,
) -> None:
    row = {**ROW, "passage": "kittens purr", "embedding": [-1.0, 0.0]}
    found = mined(animals, row, num_negatives=9)
    assert found["neg_ids"] == ["c", "a"]
    assert max(found["neg_sims"]) <= found["pos_sims"][0] * 1.05


def test_a_query_s_own_text_is_no_negative_of_it(animals: Dataset) -> None:
    row = mined(animals, {**ROW, "query": "kittens purr"}, num_negatives=2)
    assert row["neg_ids"] == ["e", "f"]
    assert row["neg_skipped"] == {**NO_SKIP, "positive": 1, "relative_margin": 1, "own_text": 1}
    for options in ({"sampling_strategy": "uniform"}, {"sampling_strategy": "random"}):
        assert "d" not in mined(animals, {**ROW, "query": "kittens purr"}, **options)["neg_ids"]


def test_a_hopeless_positive_empties_the_row_only_under_the_lowest_ceiling(
    animals: Dataset,
) -> None:
    row = {"pos": ["cats purr", "dogs bark"], "embedding": [1.0, 0.0]}
    lowest = mined(animals, row, num_negatives=2)
    assert lowest["neg"] == []
    assert lowest["neg_note"] == "corpus_exhausted: nothing more lies below the ceiling of 0"
    assert mined(animals, row, num_negatives=1, ceiling="mean")["neg_ids"] == ["f"]
    assert mined(animals, row, num_negatives=2, ceiling="highest")["neg_ids"] == ["d", "e"]


def test_with_several_positives_the_best_of_them_sets_the_rank(animals: Dataset) -> None:
    row = mined(animals, {"pos": ["cows moo", "cats meow"], "embedding": [1.0, 0.0]})
    assert (row["pos_ids"], row["neg_ids"], row["pos_rank"]) == (["e", "c"], ["f", "b"], 1)


def test_negatives_never_include_another_positive_of_the_same_query(animals: Dataset) -> None:
    pairs = Dataset.from_dict(
        {
            "query_id": ["q", "q", "r"],
            "passage": ["cats purr", "kittens purr", "dogs bark"],
            "embedding": [[1.0, 0.0]] * 2 + [[0.0, 1.0]],
        }
    )
    judged = {"q": {"a": 1, "d": 2, "b": 0}}
    for qrels, batch_size in ((pairs, 1), (judged, 1), (None, 3)):
        step = MineNegatives(animals, relative_margin=None, qrels=qrels)
        rows = pairs.map(step, batched=True, batch_size=batch_size)
        for row in rows.select(range(2)):
            assert not {"a", "d"} & set(row["neg_ids"])
            assert "b" in row["neg_ids"]
    beir = Dataset.from_dict({"query-id": ["q", "q"], "corpus-id": ["c", "e"], "score": [1, 0]})
    found = mined(animals, pairs[0], relative_margin=None, qrels=beir)["neg_ids"]
    assert "c" not in found
    assert "e" in found


def test_queries_without_positives_of_their_own_take_them_from_qrels(animals: Dataset) -> None:
    query = {"query_id": "q", "embedding": [1.0, 0.0]}
    row = mined(animals, query, qrels={"q": {"a": 1, "gone": 1}}, num_negatives=1)
    assert (row["pos"], row["pos_ids"]) == (["cats purr"], ["a"])
    assert row["neg_ids"] == ["d"]
    pairs = Dataset.from_dict({"query_id": ["q"], "passage": ["cats purr"]})
    row = mined(animals, query, qrels=pairs, num_negatives=1)
    assert (row["pos"], row["pos_ids"], row["pos_rank"]) == (["cats purr"], ["a"], 0)


def test_rows_without_a_query_id_stand_alone(animals: Dataset) -> None:
    pairs = Dataset.from_dict(
        {
            "query_id": [None, None, "q"],
            "passage": ["cats purr", "dogs bark", "cows moo"],
            "embedding": [[1.0, 0.0]] * 3,
        }
    )
    alone = pairs.remove_columns("query_id").map(MineNegatives(animals), batched=True)["neg_ids"][:]
    for qrels in (None, pairs):
        found = pairs.map(MineNegatives(animals, qrels=qrels), batched=True)
        assert found["neg_ids"][:] == alone


def test_without_a_query_id_rows_of_a_batch_are_of_one_query_where_its_text_is_the_same(
    animals: Dataset,
) -> None:
    queries = ["what do cats do", "what do cats do", "What do cats do", "", "", None]
    passages = ["cats purr", "kittens purr", "dogs bark", "birds sing", "cows moo", "dogs bark"]
    pairs = {"query": queries, "passage": passages, "embedding": [[1.0, 0.0]] * 6}
    free = {"relative_margin": 0.0, "num_negatives": 9, "ceiling": "highest"}
    found = Dataset.from_dict(pairs).map(MineNegatives(animals, **free), batched=True)
    # Of the first two rows neither a (1.0) nor d (0.8) is a negative; the others stand alone.
    assert found["neg_ids"][:2] == [["c", "e", "f", "b"]] * 2
    assert found["neg_ids"][2:] == [[], ["b"], ["f", "b"], []]
    # With ids the text says nothing.
    named = Dataset.from_dict({"query_id": list("uvwxyz"), **pairs})
    found = named.map(MineNegatives(animals, **free), batched=True)
    assert found["neg_ids"][:2] == [["c", "d", "e", "f", "b"], ["e", "f", "b"]]


def test_pairs_without_a_query_id_as_qrels_tell_queries_by_their_text(animals: Dataset) -> None:
    pairs = Dataset.from_dict(
        {
            "query": ["what do cats do", "what do cats do", "what do cows do", None],
            "passage": ["cats purr", "kittens purr", "cows moo", "birds sing"],
            "embedding": [[1.0, 0.0]] * 4,
        }
    )
    step = MineNegatives(animals, qrels=pairs, relative_margin=0.0, ceiling="highest")
    step.check(pairs.features)
    for size in (1, 4):
        found = pairs.map(step, batched=True, batch_size=size)["neg_ids"]
        assert found[:2] == [["c", "e", "f", "b"]] * 2
        assert found[2] == ["f", "b"]
    bare = pairs.select_columns(["query", "embedding"]).map(step, batched=True)
    assert bare["pos_ids"][:] == [["a", "d"], ["a", "d"], ["e"], []]
    assert bare["neg_note"][3] == "no_positive"
    with pytest.raises(ValueError, match="needs the column 'query'"):
        step.check(pairs.select_columns(["passage", "embedding"]).features)


def test_each_positive_of_qrels_comes_once_its_text_with_its_id(animals: Dataset) -> None:
    pairs = Dataset.from_dict(
        {
            "query_id": ["q", "q", "q", "q", "q"],
            "passage": ["cats purr", "kittens purr", "cats purr", None, "gone"],
            "pos_ids": [["a"], ["d"], ["a"], ["d"], [None]],
        }
    )
    row = mined(animals, {"query_id": "q", "embedding": [1.0, 0.0]}, qrels=pairs)
    assert row["pos"] == ["cats purr", "kittens purr", "gone"]
    assert row["pos_ids"] == ["a", "d", None]
    assert row["pos_sims"] == [1.0, pytest.approx(0.8), None]


def test_run_says_how_many_positives_have_another_text_than_the_corpus(
    animals: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Dataset.from_dict(
        {
            "pos": [["cats"], ["cats purr", "dogs"], ["cows moo"], [None]],
            "pos_ids": [["a"], ["a", "b"], ["gone"], ["a"]],
            "embedding": [[1.0, 0.0]] * 4,
        }
    )
    found = run(rows, MineNegatives(animals, num_negatives=1), batch_size=1)
    (said,) = [record.message for record in caplog.records if "another text" in record.message]
    assert said.startswith("MineNegatives: 2 positives have another text than the corpus has under")
    assert "'a' for one" in said
    assert found["pos"][:3] == rows["pos"][:3]
    caplog.clear()
    run(rows.remove_columns("pos"), MineNegatives(animals, num_negatives=1))
    assert "another text" not in caplog.text


def test_a_positive_that_nobody_knows_is_left_out_of_a_row_that_has_others(
    animals: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Dataset.from_dict(
        {
            "pos_ids": [["gone", "a", "lost"], ["gone"], ["a"]],
            "embedding": [[1.0, 0.0]] * 3,
        }
    )
    found = run(rows, MineNegatives(animals, num_negatives=1))
    assert found["pos"][:] == [["cats purr"], [None], ["cats purr"]]
    assert found["pos_ids"][:] == [["a"], ["gone"], ["a"]]
    assert found["pos_sims"][:2] == [[1.0], [None]]
    (said,) = [record.message for record in caplog.records if "not in the corpus" in record.message]
    assert "2 positives are not in the corpus, 'gone' for one" in said
    ids = run(rows, MineNegatives(animals, num_negatives=1, texts=False))["pos_ids"][:]
    assert ids == rows["pos_ids"][:]
    scored = run(found.add_column("query", ["purr"] * 3), ScorePassages(Similarities()))
    assert [code_of(error) for error in scored["teacher_error"]] == [None, "empty_passage", None]


def test_a_row_with_unusually_many_positives_is_as_full_as_any_other() -> None:
    vectors = np.linspace(1, 0.5, 400)[:, None].tolist()
    names = [f"p{n}" for n in range(400)]
    corpus = attach_index(Dataset.from_dict({"id": names, "text": names, "embedding": vectors}))
    rows = Dataset.from_dict(
        {"pos_ids": [names[:300:2], names[:1]], "embedding": [[1.0], [1.0]]}
    ).map(
        MineNegatives(corpus, num_negatives=5, relative_margin=None, ceiling="highest"),
        batched=True,
    )
    assert rows["neg_ids"][:] == [["p1", "p3", "p5", "p7", "p9"], ["p1", "p2", "p3", "p4", "p5"]]


def test_positives_are_completed_from_the_corpus_where_they_are_in_it(animals: Dataset) -> None:
    row = mined(animals, {"pos_ids": ["gone", "a"], "embedding": [1.0, 0.0]}, num_negatives=1)
    assert (row["pos"], row["pos_ids"]) == (["cats purr"], ["a"])
    assert (row["pos_sims"], row["neg_note"]) == ([1.0], None)
    row = mined(animals, {"pos": ["cats purr", "new"], "embedding": [1.0, 0.0]}, num_negatives=1)
    assert (row["pos"], row["pos_ids"]) == (["cats purr", "new"], ["a", None])


@pytest.mark.parametrize("strategy", ["top", "uniform"])
def test_a_row_whose_positives_are_not_in_the_corpus_gets_nothing_and_a_note(
    animals: Dataset, strategy: str
) -> None:
    rows = Dataset.from_dict(
        {"passage": ["", None, "gone", "cats purr"], "embedding": [[1.0, 0]] * 4}
    )
    step = MineNegatives(animals, num_negatives=2, sampling_strategy=strategy)
    found = rows.map(step, batched=True)
    assert found["neg_note"][:] == ["no_positive"] * 3 + [None]
    assert [len(row) for row in found["neg"]] == [0, 0, 0, 2]
    assert found["pos_rank"][:] == [6, 6, 6, 0]
    assert found["pos"][:] == [[None], [None], ["gone"], ["cats purr"]]
    assert step.counts(found) == {"no_positive": 3}


def test_a_row_without_a_usable_vector_stays_and_says_so(animals: Dataset) -> None:
    vectors = [[0.0, 0.0], None, [float("nan"), 1.0], [1.0, 0.0]]
    rows = Dataset.from_dict({"passage": ["cats purr"] * 4, "embedding": vectors})
    found = rows.map(MineNegatives(animals, num_negatives=2), batched=True, batch_size=1)
    assert found["neg_note"][:] == ["no_vector"] * 3 + [None]
    assert [len(row) for row in found["neg"]] == [0, 0, 0, 2]
    assert (found["pos_rank"][:], found["pos_sims"][:]) == ([6, 6, 6, 0], [[None]] * 3 + [[1.0]])
    assert {found.features[name].feature.dtype for name in ("neg", "neg_ids")} == {"string"}


def test_a_short_row_says_what_ended_it(animals: Dataset) -> None:
    def note(**options: Any) -> str:
        return mined(animals, ROW, num_negatives=9, **options)["neg_note"]

    assert note(relative_margin=None) == "corpus_exhausted"
    assert note() == "corpus_exhausted: nothing more lies below the ceiling of 0.95"
    assert note(min_score=0.7) == "below_min_score"
    assert note(sampling_strategy="uniform") == "corpus_exhausted"
    row = mined(animals, ROW, sampling_strategy="random", num_negatives=2)
    assert (len(row["neg"]), row["neg_note"]) == (2, None)  # the pool of 100 is not full


def test_stratified_negatives_come_one_from_each_slice(
    faq_corpus: Dataset, faq_pairs: Dataset
) -> None:
    options = {"relative_margin": None, "range_min": 3}
    pool = MineNegatives(faq_corpus, num_negatives=50, **options)
    options |= {"range_max": 53, "num_negatives": 5, "sampling_strategy": "stratified"}
    every = faq_pairs.map(pool, batched=True)["neg_ids"]
    rows = faq_pairs.map(MineNegatives(faq_corpus, **options), batched=True)["neg_ids"]
    for all_, row in zip(every, rows, strict=True):
        assert [all_.index(name) // 10 for name in row] == [0, 1, 2, 3, 4]


def test_random_negatives_are_spread_evenly_over_the_range_and_differ_by_seed(
    faq_corpus: Dataset, faq_pairs: Dataset
) -> None:
    pool = MineNegatives(faq_corpus, num_negatives=40, relative_margin=None)
    every = faq_pairs.map(pool, batched=True)["neg_ids"][:]
    options = {"sampling_strategy": "random", "range_max": 40, "num_negatives": 10}
    drawn = []
    for seed in (1, 2):
        step = MineNegatives(faq_corpus, relative_margin=None, seed=seed, **options)
        rows = faq_pairs.map(step, batched=True)["neg_ids"][:]
        for all_, row in zip(every, rows, strict=True):
            drawn.append([all_.index(name) for name in row])
    assert drawn[:120] != drawn[120:]
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    assert counts.sum() == 2 * 120 * 10
    assert ((counts - 60) ** 2 / 60).sum() < 80  # chi-squared, 39 degrees of freedom, p < 0.0001


def test_uniform_negatives_are_spread_evenly_over_the_corpus(
    faq_corpus: Dataset, faq_pairs: Dataset
) -> None:
    step = MineNegatives(faq_corpus, sampling_strategy="uniform", num_negatives=30)
    rows = faq_pairs.map(step, batched=True)
    ids = faq_corpus["id"][:]
    drawn = [ids.index(name) for name in np.concatenate(rows["neg_ids"][:])]
    counts = np.bincount(drawn, minlength=120)
    assert ((counts - 30) ** 2 / 30).sum() < 190  # 119 degrees of freedom
    vectors = dict(zip(ids, faq_corpus.with_format("numpy")["embedding"][:], strict=True))
    for row in rows:
        assert len(set(row["neg"])) == 30
        assert row["passage"] not in row["neg"]
    expected = [float(np.float64(row["embedding"]) @ vectors[name]) for name in row["neg_ids"]]
    np.testing.assert_allclose(row["neg_sims"], expected, atol=1e-6)


def test_draws_are_those_of_the_row_s_content() -> None:
    names = [f"p{n}" for n in range(100)]
    vectors = np.linspace(1, 0, 100)[:, None].tolist()
    corpus = attach_index(Dataset.from_dict({"id": names, "text": names, "embedding": vectors}))
    row = {"query": "q", "passage": "p0", "embedding": [1.0]}
    drawn = {
        strategy: mined(corpus, row, num_negatives=4, sampling_strategy=strategy)["neg_ids"]
        for strategy in ("random", "stratified", "uniform")
    }
    # Whoever changes these changes the negatives of everybody's rows: raise the step's version.
    assert drawn == {
        "random": ["p49", "p69", "p72", "p77"],
        "stratified": ["p22", "p40", "p71", "p92"],
        "uniform": ["p73", "p47", "p77", "p67"],
    }


@pytest.mark.parametrize("strategy", ["top", "random", "uniform"])
def test_rows_are_the_same_for_every_batch_size_process_count_and_order(
    faq_corpus: Dataset, faq_pairs: Dataset, strategy: str
) -> None:
    step = MineNegatives(faq_corpus, sampling_strategy=strategy)
    expected = faq_pairs.map(step, batched=True, batch_size=512)
    order = np.random.default_rng(0).permutation(len(faq_pairs))
    shuffled = faq_pairs.select(order).map(step, batched=True).select(np.argsort(order))
    by_one = faq_pairs.map(step, batched=True, batch_size=1)
    in_two = faq_pairs.map(step, batched=True, batch_size=50, num_proc=2)
    for other in (shuffled, by_one, in_two):
        assert expected.features == other.features
        assert expected.to_list() == other.to_list()


def test_vectors_made_in_other_batches_give_the_same_negatives(
    faq_corpus: Dataset, faq_pairs: Dataset, retriever: Retriever
) -> None:
    texts = Dataset.from_dict({name: faq_corpus[name][:12] for name in ("id", "text")})
    queries = Dataset.from_dict({name: faq_pairs[name][:12] for name in ("query", "passage")})

    def chain(size: int) -> list[list[str]]:
        corpus = attach_index(texts.map(Embed(retriever), batched=True, batch_size=size))
        embed = Embed(retriever, "query", role="query")
        pairs = queries.map(embed, batched=True, batch_size=size)
        return pairs.map(MineNegatives(corpus), batched=True, batch_size=size)["neg_ids"][:]

    assert chain(12) == chain(5)


def test_answers_are_mined_with_their_own_similarities(animals: Dataset) -> None:
    row = {**ROW, "answer": "they bark", "answer_embedding": [0.0, 1.0]}
    rows = Dataset.from_list([row]).map(MineNegatives(animals, num_negatives=2), batched=True)
    for margin, ids, code in ((None, ["b", "f"], None), (0.05, [], "corpus_exhausted")):
        answers = MineNegatives(
            animals,
            query="answer_embedding",
            output="neg_answer",
            num_negatives=2,
            relative_margin=margin,
        )
        found = rows.map(answers, batched=True)[0]
        assert (found["neg_ids"], found["neg_answer_ids"]) == (["d", "e"], ids)
        assert code_of(found["neg_answer_note"]) == code
        assert (found["pos_sims"], found["neg_answer_pos_sims"]) == ([1.0], [0.0])
        assert (found["pos_rank"], found["neg_answer_pos_rank"]) == (0, 5)
        assert answers.note.name == "neg_answer_note"


def test_an_answer_is_blended_into_the_search(animals: Dataset) -> None:
    row = {**ROW, "answer_embedding": [0.0, 1.0]}
    blended = mined(animals, row, answer_weight=0.75, num_negatives=1, relative_margin=None)
    np.testing.assert_allclose(blended["pos_sims"], [0.25], atol=1e-6)


@pytest.mark.parametrize(
    "answers",
    [
        [[0.0, 1.0], None, [0.0, 0.0], [float("nan"), 1.0]],
        [[[0.0, 1.0], [1.0, 0.0]], None, [], [[0.0, 0.0], [0.6, 0.8]]],
    ],
)
def test_answers_are_mixed_as_in_a_search(animals: Dataset, answers: list) -> None:
    vectors = [[1.0, 0.0]] * 4
    rows = Dataset.from_dict({"pos_ids": [["a"]] * 4, "embedding": vectors, "said": answers})
    options = {"answer": "said", "answer_weight": 0.25}
    step = MineNegatives(animals, num_negatives=6, relative_margin=0.0, **options)
    step.check(rows.features)
    hits = rows.map(Search(animals, **options), batched=True)
    for row, hit in zip(rows.map(step, batched=True), hits, strict=True):
        scores = dict(zip(hit["hit_ids"], hit["hit_scores"], strict=True))
        assert row["pos_sims"] == [scores["a"]]
        below = [passage for passage in hit["hit_ids"] if scores[passage] <= scores["a"]]
        assert row["neg_ids"] == [passage for passage in below if passage != "a"]
        assert row["neg_sims"] == [scores[passage] for passage in row["neg_ids"]]


def test_ids_only_on_request(animals: Dataset) -> None:
    row = mined(animals, ROW, texts=False, num_negatives=2)
    assert row["neg_ids"] == ["d", "e"]
    assert not {"neg", "pos"} & set(row)
    bare = attach_index(as_dataset(CORPUS).remove_columns("text"))
    row = {"pos_ids": ["a"], "embedding": [1.0, 0.0]}
    found = mined(bare, row, texts=False, text=None, num_negatives=9)
    assert found["neg_ids"] == ["d", "e", "f", "b"]


def test_ids_may_be_integers() -> None:
    corpus = as_dataset(CORPUS).remove_columns("id").add_column("id", list(range(6)))
    row = {"pos_ids": [0], "embedding": [1.0, 0.0]}
    found = mined(attach_index(corpus), row, num_negatives=2)
    assert (found["neg_ids"], found["pos"], found["pos_ids"]) == (["3", "4"], ["cats purr"], [0])


@pytest.mark.parametrize(
    "given", [{"pos": "cats purr"}, {"pos_ids": "a"}, {"passage": "cats purr"}]
)
def test_a_single_value_is_one_positive(animals: Dataset, given: dict[str, str]) -> None:
    rows = Dataset.from_list([{**given, "embedding": [1.0, 0.0]}])
    step = MineNegatives(animals, num_negatives=1)
    step.check(rows.features)
    row = rows.map(step, batched=True)[0]
    assert (row["pos"], row["pos_ids"], row["neg_ids"]) == (["cats purr"], ["a"], ["d"])


def test_a_stream_a_dict_of_splits_and_another_format_give_the_same(animals: Dataset) -> None:
    vectors = [[1.0, 0.0], [0.6, 0.8]]
    rows = Dataset.from_dict({"passage": ["cats purr", "cows moo"], "embedding": vectors})
    step = MineNegatives(animals, num_negatives=2)
    expected = rows.map(step, batched=True)["neg_ids"][:]
    assert step.one(rows[1])["neg_ids"] == expected[1]
    stream = rows.to_iterable_dataset().map(step, batched=True)
    assert [row["neg_ids"] for row in stream] == expected
    splits = DatasetDict(train=rows).map(step, batched=True)
    assert splits["train"]["neg_ids"][:] == expected
    tensors = rows.with_format("torch").map(step, batched=True)
    assert tensors.with_format(None)["neg_ids"][:] == expected


def test_mining_changes_neither_corpus_nor_rows(animals: Dataset) -> None:
    batch = {"passage": ["cats purr"], "embedding": [[1.0, 0.0]]}
    MineNegatives(animals)(batch)
    assert batch == {"passage": ["cats purr"], "embedding": [[1.0, 0.0]]}
    assert animals.list_indexes() == ["embedding"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"pos": [1], "embedding": [1.0, 0.0]}, "'pos' must hold texts, found int 1"),
        (
            {"query": "q", "embedding": [1.0, 0.0]},
            "needs the column 'pos' or 'passage' or 'pos_ids'",
        ),
        ({"passage": "cats purr"}, r"needs the column 'embedding'.* only \['passage'\]"),
        (
            {"passage": "cats purr", "embedding": [1.0, 0.0, 0.0]},
            "vectors of 2 numbers, as those of the index, found vectors of",
        ),
        ({"pos": ["a", "b"], "pos_ids": ["a"], "embedding": [1.0, 0]}, "found 2 texts and 1 ids"),
    ],
)
def test_each_wrong_row_is_a_clear_error_at_the_first_batch(
    animals: Dataset, row: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mined(animals, row)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"relative_margin": float("nan")}, "relative_margin must be a number, got nan"),
        ({"max_score": float("nan")}, "max_score must be a number, got nan"),
        ({"ceiling": "best"}, "ceiling must be one of"),
        ({"range_min": 5, "range_max": 19}, "must leave at least num_negatives=15"),
        ({"answer_weight": 2}, "between 0 and 1"),
        ({"text": None}, "texts=False"),
        ({"qrels": Dataset.from_dict({"x": [1]})}, "qrels must have the columns"),
    ],
)
def test_each_wrong_option_is_a_clear_error_at_once(
    animals: Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MineNegatives(animals, **options)


def test_qrels_and_answer_weight_say_which_column_they_need(animals: Dataset) -> None:
    with pytest.raises(ValueError, match="needs the column 'query_id'"):
        mined(animals, ROW, qrels={"q": {"a": 1}})
    with pytest.raises(ValueError, match="needs the column 'answer_embedding'"):
        mined(animals, ROW, answer_weight=0.5)


@pytest.mark.parametrize("factory", ["IVF4,Flat", "HNSW16,Flat", "SQ8"])
def test_over_any_index_the_rules_hold_and_rows_are_full(factory: str) -> None:
    vectors = np.random.default_rng(3).standard_normal((400, 8)).astype(np.float32)
    names = [f"p{n}" for n in range(400)]
    texts = [f"text {n % 390}" for n in range(400)]
    corpus = Dataset.from_dict({"id": names, "text": texts, "embedding": list(vectors)})
    queries = vectors[:30] + 0.5
    pairs = Dataset.from_dict({"passage": texts[:30], "embedding": list(queries)})
    step = MineNegatives(attach_index(corpus, factory=factory), num_negatives=20)
    scores = queries.astype(np.float64) @ vectors.T
    for number, row in enumerate(pairs.map(step, batched=True)):
        positions = [int(name[1:]) for name in row["neg_ids"]]
        np.testing.assert_allclose(row["neg_sims"], scores[number, positions], atol=1e-5)
        lowest = min(scores[number, [at for at in range(400) if at % 390 == number]])
        assert max(row["neg_sims"]) <= lowest - 0.05 * abs(lowest) + 1e-5
        assert len(set(row["neg"])) == len(row["neg"])
        assert row["passage"] not in row["neg"]
        assert len(row["neg"]) == 20 or code_of(row["neg_note"]) == "corpus_exhausted"


def test_other_negatives_have_no_scores_of_the_old_ones(animals: Dataset) -> None:
    row = {"query": "what cats do", "pos_ids": ["a"], "embedding": [1.0, 0.0]}
    corpus = attach_lexical(animals)
    both = ["bm25", "embedding"]
    rows = run(Dataset.from_list([row]), MineNegatives(corpus, index=both, num_negatives=2))
    rows = run(rows, ScorePassages(Blend([LexicalTeacher(corpus), Similarities()])))
    rows = run(rows, RelabelNegatives(drop=100.0))
    left = ("pos_scores", "neg_scores", "teacher_scores", "relabelled", "neg_from")
    assert all(rows[0][name] is not None for name in left)
    again = MineNegatives(animals, num_negatives=2, relative_margin=0.5)
    for mined in (run(rows, again)[0], rows.map(again, batched=True)[0]):
        assert [mined[name] for name in left] == [None] * 5
        assert mined["neg"] != rows[0]["neg"]
    answers = MineNegatives(animals, query="embedding", output="neg_answer", num_negatives=2)
    assert run(rows, answers)[0]["neg_scores"] == rows[0]["neg_scores"]


def test_the_result_of_another_batch_size_is_another_one(animals: Dataset) -> None:
    rows = [
        {"query": "what cats do", "pos_ids": ["a"], "embedding": [1.0, 0.0]},
        {"query": "what cats do", "pos_ids": ["c"], "embedding": [1.0, 0.0]},
    ]
    pairs = Dataset.from_list(rows)
    step = MineNegatives(animals, num_negatives=3, relative_margin=0.0)
    apart, together = (run(pairs, step, batch_size=size)["neg_ids"][:] for size in (1, 2))
    assert together == pairs.map(step, batched=True)["neg_ids"][:]
    assert apart != together
    named = pairs.add_column("query_id", ["q", "q"])
    judged = MineNegatives(animals, num_negatives=3, relative_margin=0.0, qrels={"q": {"a": 1}})
    apart, together = (run(named, judged, batch_size=size)["neg_ids"][:] for size in (1, 2))
    assert apart == together == named.map(judged, batched=True)["neg_ids"][:]


def test_ids_that_pandas_made_floats_are_those_of_the_judgements(animals: Dataset) -> None:
    row = {"query": "what cats do", "query_id": 7.0, "embedding": [1.0, 0.0]}
    beir = {"query-id": [7.0, 7.0], "corpus-id": ["a", "c"], "score": [1, 1]}
    for qrels in (Dataset.from_dict(beir), {"7": {"a": 1, "c": 1}}, {7: {"a": 1, "c": 1}}):
        step = MineNegatives(animals, num_negatives=6, relative_margin=None, qrels=qrels)
        assert step.one(row)["neg_ids"] == ["d", "e", "f", "b"]


def test_ids_of_other_negatives_do_not_stand_beside_old_texts(animals: Dataset) -> None:
    mined = run(Dataset.from_list([ROW]), MineNegatives(animals, num_negatives=2))
    ids = run(mined, MineNegatives(animals, num_negatives=3, texts=False))[0]
    assert (len(ids["neg_ids"]), ids["neg"]) == (3, None)


@pytest.mark.parametrize("output", ["pos", "query"])
def test_negatives_take_no_name_that_rows_have(animals: Dataset, output: str) -> None:
    with pytest.raises(ValueError, match=f"output='{output}' names another column of the rows"):
        MineNegatives(animals, output=output)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint64"])
def test_ids_are_integers_of_any_size_and_vectors_large_lists(animals: Dataset, kind: str) -> None:
    ids = Dataset.from_dict({"id": [*range(6)]}, Features({"id": Value(kind)}))
    vectors = Dataset.from_dict(
        {"embedding": animals["embedding"][:]},
        Features({"embedding": LargeList(Value("float32"))}),
    )
    texts = animals.select_columns(["text"])
    texts.drop_index("embedding")
    corpus = attach_index(concatenate_datasets([texts, ids, vectors], axis=1))
    places = dict(zip(animals["id"], range(6), strict=True))
    row = {"query": "what cats do", "embedding": [1.0, 0.0]}
    named = MineNegatives(animals, num_negatives=3).one({**row, "pos_ids": ["a"]})
    found = MineNegatives(corpus, num_negatives=3).one({**row, "pos_ids": [str(places["a"])]})
    assert found["neg_ids"] == [str(places[name]) for name in named["neg_ids"]]
