"""Mining: equal to a brute-force oracle on anything, the same rows however it is run, and a word for every bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rir_hf import Embed, MineNegatives, Retriever, attach_index
from rir_hf.mine import EXHAUSTED, NO_VECTOR, POSITIVE_MISSING, POSITIVE_UNKNOWN, RULES


def oracle(corpus: list[dict], row: dict, options: dict) -> dict[str, Any]:
    """What mining must give for one row, written as plainly as it can be: every score, one sorted list, one walk down."""
    scores = [np.float32(np.dot(np.float64(row["embedding"]), np.float64(passage["embedding"]))) for passage in corpus]
    ranking = sorted(range(len(corpus)), key=lambda place: (-scores[place], place))
    named = {place for place in ranking if corpus[place]["id"] in row["pos_ids"]}
    known_texts = {corpus[place]["text"] for place in named} | set(row["pos"])
    known = named | {place for place in ranking if corpus[place]["text"] in row["pos"]}
    ceiling = options.get("max_score") if options.get("max_score") is not None else np.inf
    first, last = options.get("skip_ranks", 0), len(corpus)
    if known:
        p = float(min(scores[place] for place in known))
        for limit, name in (
            (p - (options.get("margin") or 0) * abs(p), "margin"),
            (p - (options.get("abs_margin") or 0), "abs_margin"),
        ):
            ceiling = min(ceiling, limit) if options.get(name) is not None else ceiling
    else:
        first, last = max(30, first), 200 + max(0, first - 30)
    negatives: list[int] = []
    for rank, place in enumerate(ranking):
        if scores[place] > ceiling or not first <= rank < last or place in known or corpus[place]["text"] in known_texts:
            continue
        if not corpus[place]["text"].strip() or corpus[place]["text"] in {corpus[other]["text"] for other in negatives}:
            continue
        if scores[place] >= (options.get("min_score") if options.get("min_score") is not None else -np.inf):
            negatives.append(place)
    negatives = negatives[: options["num_negatives"]]
    own = []
    for text, passage in zip(row["pos"], row["pos_ids"], strict=True):
        by_id = [place for place in range(len(corpus)) if corpus[place]["id"] == passage]
        by_text = [place for place in range(len(corpus)) if corpus[place]["text"] == text]
        own.append(next(iter(by_id + by_text), None))
    found = [place for place in own if place is not None]
    return {
        "neg_ids": [corpus[place]["id"] for place in negatives],
        "neg": [corpus[place]["text"] for place in negatives],
        "neg_sims": [float(scores[place]) for place in negatives],
        "pos_sims": [None if place is None else float(scores[place]) for place in own],
        "pos_rank": min((ranking.index(place) for place in found), default=len(corpus)),
    }


numbers = st.integers(-2, 2).map(float)


@st.composite
def problems(draw: Callable) -> tuple[list[dict], list[dict], dict]:
    """A corpus with ties, repeated texts and ids and empty passages, rows with several or unknown positives, and options."""
    size = draw(st.sampled_from([1, 2, 15, 300]))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    dimension = draw(st.integers(1, 4))
    grain = draw(st.sampled_from([1, 2, 5, 100]))
    texts = max(1, size // draw(st.sampled_from([1, 2, 10])))
    corpus = [
        {
            "id": f"p{rng.integers(size) if draw(st.integers(0, 9)) == 0 else place}" if size < 20 else f"p{place // grain}",
            "text": " " if rng.random() < 0.05 else f"text {rng.integers(texts)}",
            "embedding": rng.integers(-2, 3, dimension).astype(float).tolist(),
        }
        for place in range(size)
    ]
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        chosen = rng.integers(size, size=draw(st.integers(0, 3))).tolist()
        pos = [corpus[place]["text"] if rng.random() < 0.7 and corpus[place]["text"].strip() else "unknown" for place in chosen]
        ids = [corpus[place]["id"] if rng.random() < 0.7 else None for place in chosen]
        vector = rng.integers(-2, 3, dimension).astype(float)
        vector[0] = vector[0] or 1.0
        rows.append({"pos": pos, "pos_ids": ids, "embedding": vector.tolist()})
    options = {
        "num_negatives": draw(st.sampled_from([1, 3, 15, 400])),
        "margin": draw(st.sampled_from([None, 0.0, 0.05, 0.5])),
        "abs_margin": draw(st.sampled_from([None, None, 0.0, 1.0])),
        "max_score": draw(st.sampled_from([None, None, 2.0, -1.0])),
        "min_score": draw(st.sampled_from([None, None, 0.0])),
        "skip_ranks": draw(st.sampled_from([0, 0, 1, 40])),
    }
    return corpus, rows, options


def as_dataset(rows: list[dict]) -> Dataset:
    """Rows with the column types that real data has, also where the lists are empty."""
    from datasets import Features, List, Value

    kinds = {"embedding": List(Value("float32")), "pos": List(Value("string")), "pos_ids": List(Value("string"))}
    features = Features({name: kinds.get(name, Value("string")) for name in rows[0]})
    return Dataset.from_list(rows, features=features)


def assert_equals_oracle(corpus: list[dict], rows: list[dict], options: dict, indexed: Dataset) -> None:
    mined = as_dataset(rows).map(MineNegatives(indexed, **options), batched=True, batch_size=3)
    for row, found in zip(rows, mined, strict=True):
        expected = oracle(corpus, row, options)
        assert {name: found[name] for name in expected} == expected
        has_positive = any(score is not None for score in expected["pos_sims"])
        assert (found["neg_note"] == "") == (len(found["neg"]) == options["num_negatives"] and has_positive)
        assert (found["neg_note"] == POSITIVE_MISSING) == (len(found["neg"]) == options["num_negatives"] and not has_positive)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(problems())
def test_mining_over_a_flat_index_equals_the_oracle(problem: tuple[list[dict], list[dict], dict]) -> None:
    corpus, rows, options = problem
    assert_equals_oracle(corpus, rows, options, attach_index(as_dataset(corpus)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(problems())
def test_mining_over_ivf_with_every_list_probed_equals_the_oracle(problem: tuple[list[dict], list[dict], dict]) -> None:
    corpus, rows, options = problem
    lists = min(4, len(corpus))
    indexed = attach_index(as_dataset(corpus), factory=f"IVF{lists},Flat")
    indexed.get_index("embedding").faiss_index.nprobe = lists
    assert_equals_oracle(corpus, rows, options, indexed)


def test_over_several_blocks_of_a_larger_corpus_the_rows_are_those_of_sorting_everything() -> None:
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((11_000, 24)).astype(np.float32)
    columns = {"id": [f"p{n}" for n in range(11_000)], "text": [f"text {n}" for n in range(11_000)], "embedding": list(vectors)}
    positives = rng.choice(11_000, 300, replace=False)
    queries = (vectors[positives] + 1.5 * rng.standard_normal((300, 24))).astype(np.float32)
    pairs = Dataset.from_dict({"pos_ids": [[f"p{n}"] for n in positives], "embedding": list(queries)})
    found = pairs.map(MineNegatives(attach_index(Dataset.from_dict(columns)), num_negatives=10), batched=True)
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    own = scores[np.arange(300), positives].astype(np.float64)
    allowed = np.where(scores <= (own - 0.05 * np.abs(own))[:, None], scores, -np.inf)
    allowed[np.arange(300), positives] = -np.inf
    assert found["neg_ids"][:] == [[f"p{n}" for n in row] for row in np.argsort(-allowed, axis=1, kind="stable")[:, :10]]
    assert found["pos_rank"][:] == (scores > own.astype(np.float32)[:, None]).sum(axis=1).tolist()
    assert max(found["pos_rank"]) > 1000


CORPUS = [
    {"id": "a", "text": "cats purr", "embedding": [1.0, 0.0]},
    {"id": "b", "text": "dogs bark", "embedding": [0.0, 1.0]},
    {"id": "c", "text": "cats meow", "embedding": [0.96, 0.28]},
    {"id": "d", "text": "kittens purr", "embedding": [0.8, 0.6]},
    {"id": "e", "text": "cows moo", "embedding": [0.6, 0.8]},
    {"id": "f", "text": "dogs bark", "embedding": [0.28, 0.96]},
]


@pytest.fixture(scope="module")
def animals() -> Dataset:
    """Six passages that a person can check by eye."""
    return attach_index(as_dataset(CORPUS))


def mined(animals: Dataset, row: dict, **options: Any) -> dict:
    """One row, mined."""
    return Dataset.from_list([row]).map(MineNegatives(animals, **options), batched=True)[0]


ROW = {"query": "what do cats do", "passage": "cats purr", "embedding": [1.0, 0.0]}


def test_every_column_of_the_row_stays_and_those_of_the_table_come_with_it(animals: Dataset) -> None:
    row = mined(animals, {**ROW, "mine": 7}, num_negatives=3)
    assert {name: row[name] for name in ("query", "passage", "mine")} == {
        "query": ROW["query"],
        "passage": "cats purr",
        "mine": 7,
    }
    assert (row["pos"], row["pos_ids"], row["pos_sims"], row["pos_rank"]) == (["cats purr"], ["a"], [1.0], 0)
    assert (row["neg"], row["neg_ids"]) == (["kittens purr", "cows moo", "dogs bark"], ["d", "e", "f"])
    np.testing.assert_allclose(row["neg_sims"], [0.8, 0.6, 0.28], atol=1e-6)
    assert row["neg_note"] == ""
    assert row["neg_skipped"] == {**dict.fromkeys(RULES, 0), "positive": 1, "margin": 1}


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"margin": None}, ["c", "d", "e"]),
        ({"margin": 0.5}, ["f", "b"]),
        ({"margin": None, "abs_margin": 0.3}, ["e", "f"]),
        ({"margin": None, "max_score": 0.7}, ["e", "f"]),
        ({"margin": None, "min_score": 0.7}, ["c", "d"]),
        ({"margin": None, "skip_ranks": 2}, ["d", "e", "f"]),
    ],
)
def test_each_rule_leaves_out_what_it_says(animals: Dataset, options: dict, ids: list[str]) -> None:
    found = mined(animals, ROW, num_negatives=3, **options)["neg_ids"]
    assert found == ids if options.get("margin") != 0.5 else found == ["f"]


def test_the_margin_lowers_the_ceiling_also_where_similarities_are_negative(animals: Dataset) -> None:
    row = mined(animals, {**ROW, "passage": "kittens purr", "embedding": [-1.0, 0.0]}, margin=0.05, num_negatives=9)
    assert row["neg_ids"] == ["c", "a"]
    assert max(row["neg_sims"]) <= row["pos_sims"][0] - 0.05 * abs(row["pos_sims"][0])


def test_with_several_positives_the_lowest_sets_the_ceiling_and_the_best_the_rank(animals: Dataset) -> None:
    row = mined(animals, {"pos": ["cows moo", "cats meow"], "embedding": [1.0, 0.0]}, num_negatives=9)
    assert row["pos_ids"] == ["e", "c"]
    assert row["neg_ids"] == ["f"]
    assert row["pos_rank"] == 1


def test_negatives_never_include_another_positive_of_the_same_query(animals: Dataset) -> None:
    pairs = Dataset.from_dict(
        {
            "query_id": ["q", "q", "r"],
            "passage": ["cats purr", "kittens purr", "dogs bark"],
            "embedding": [[1.0, 0.0]] * 2 + [[0.0, 1.0]],
        }
    )
    for options, batch_size in (({"qrels": pairs}, 1), ({"qrels": {"q": {"a": 1, "d": 2, "b": 0}}}, 1), ({}, 3)):
        rows = pairs.map(MineNegatives(animals, margin=None, **options), batched=True, batch_size=batch_size)
        for row in rows.select(range(2)):
            assert not {"a", "d"} & set(row["neg_ids"])
            assert "b" in row["neg_ids"] or "f" in row["neg_ids"]
    beir = Dataset.from_dict({"query-id": ["q", "q"], "corpus-id": ["c", "e"], "score": [1, 0]})
    found = pairs.map(MineNegatives(animals, margin=None, qrels=beir), batched=True)[0]["neg_ids"]
    assert "c" not in found
    assert "e" in found


def test_rows_of_one_query_in_different_batches_are_warned_about(animals: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    pairs = Dataset.from_dict({"query_id": ["q", "q"], "passage": ["cats purr", "kittens purr"], "embedding": [[1.0, 0.0]] * 2})
    miner = MineNegatives(animals)
    for _ in range(2):
        pairs.map(miner, batched=True, batch_size=2)
    assert "different batches" not in caplog.text
    pairs.map(MineNegatives(animals), batched=True, batch_size=1)
    assert "Pass qrels=pairs" in caplog.text


def test_queries_without_positives_of_their_own_take_them_from_qrels(animals: Dataset) -> None:
    row = mined(animals, {"query_id": "q", "embedding": [1.0, 0.0]}, qrels={"q": {"a": 1, "gone": 1}}, num_negatives=1)
    assert (row["pos"], row["pos_ids"], row["neg_ids"]) == (["cats purr", None], ["a", "gone"], ["d"])
    pairs = Dataset.from_dict({"query_id": ["q"], "passage": ["cats purr"]})
    row = mined(animals, {"query_id": "q", "embedding": [1.0, 0.0]}, qrels=pairs, num_negatives=1)
    assert (row["pos"], row["pos_ids"], row["pos_rank"], row["neg_ids"]) == (["cats purr"], ["a"], 0, ["d"])


def test_a_positive_that_nobody_knows_keeps_its_place_and_is_noted(animals: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    row = mined(animals, {"pos_ids": ["gone", "a"], "embedding": [1.0, 0.0]}, num_negatives=1)
    assert (row["pos"], row["pos_ids"], row["neg_note"]) == ([None, "cats purr"], ["gone", "a"], "")
    assert (row["pos_sims"][0], "have no positive" in caplog.text) == (None, False)
    row = mined(animals, {"pos_ids": ["gone"], "embedding": [1.0, 0.0]}, num_negatives=2, neg_type="random")
    assert (row["pos"], len(row["neg"]), row["neg_note"]) == ([None], 2, POSITIVE_MISSING)
    assert "1 of 1 rows have no positive that is in the corpus" in caplog.text


def test_a_row_without_a_passage_stays_and_says_so(animals: Dataset) -> None:
    rows = Dataset.from_dict({"passage": ["", None, "cats purr"], "embedding": [[1.0, 0.0]] * 3})
    found = rows.map(MineNegatives(animals, neg_type="random", num_negatives=2), batched=True)
    assert found["pos"][:] == [[None], [None], ["cats purr"]]
    assert found["neg_note"][:] == [POSITIVE_MISSING, POSITIVE_MISSING, ""]
    found = rows.add_column("pos_ids", [["a"]] * 3).map(MineNegatives(animals), batched=True)
    assert found["pos"][:] == [["cats purr"]] * 3


def test_rows_without_a_query_id_stand_alone(animals: Dataset) -> None:
    pairs = Dataset.from_dict(
        {"query_id": [None, None, "q"], "passage": ["cats purr", "dogs bark", "cows moo"], "embedding": [[1.0, 0.0]] * 3}
    )
    expected = pairs.remove_columns("query_id").map(MineNegatives(animals), batched=True)["neg_ids"][:]
    for options in ({}, {"qrels": pairs}):
        assert pairs.map(MineNegatives(animals, **options), batched=True)["neg_ids"][:] == expected


def test_tables_and_tensors_work_or_say_what_to_do(animals: Dataset) -> None:
    rows = Dataset.from_list([ROW])
    assert rows.with_format("torch").map(MineNegatives(animals, num_negatives=1))["neg_ids"][:] == [["d"]]
    stream = rows.to_iterable_dataset().with_format("torch").map(MineNegatives(animals, num_negatives=1))
    assert next(iter(stream))["neg_ids"] == ["d"]
    with pytest.raises(TypeError, match=r"formatted as a table. Call with_format\(None\)"):
        rows.with_format("arrow").map(MineNegatives(animals), batched=True)


def test_a_positive_that_is_not_in_the_corpus_gives_ranks_30_to_200() -> None:
    vectors = np.linspace(1, 0, 300)
    corpus = attach_index(
        Dataset.from_dict(
            {"id": [str(n) for n in range(300)], "text": [f"t{n}" for n in range(300)], "embedding": vectors[:, None].tolist()}
        )
    )
    row = {"passage": "not there", "embedding": [1.0]}
    assert mined(corpus, row, num_negatives=3)["neg_ids"] == ["30", "31", "32"]
    everything = mined(corpus, row, num_negatives=250)
    assert everything["neg_ids"] == [str(n) for n in range(30, 200)]
    assert everything["neg_note"] == POSITIVE_UNKNOWN
    assert (everything["pos_sims"], everything["pos_rank"], everything["pos_ids"]) == ([None], 300, [None])


def test_a_row_without_a_usable_vector_stays_and_says_so(animals: Dataset) -> None:
    rows = Dataset.from_dict({"passage": ["cats purr"] * 4, "embedding": [[0.0, 0.0], None, [float("nan"), 1.0], [1.0, 0.0]]})
    found = rows.map(MineNegatives(animals, num_negatives=2), batched=True, batch_size=1)
    assert found["neg_note"][:] == [NO_VECTOR] * 3 + [""]
    assert [len(row) for row in found["neg"]] == [0, 0, 0, 2]
    assert found["pos_rank"][:3] == [len(CORPUS)] * 3


def test_a_corpus_smaller_than_the_number_of_negatives_gives_what_there_is_and_the_reason(animals: Dataset) -> None:
    row = mined(animals, ROW, num_negatives=50, margin=None)
    assert row["neg_ids"] == ["c", "d", "e", "f"]
    assert row["neg_note"] == EXHAUSTED
    assert row["neg_skipped"]["duplicate"] == 1


def test_stratified_negatives_come_one_from_each_slice_of_the_pool(faq_corpus: Dataset, faq_pairs: Dataset) -> None:
    options = {"margin": None, "num_negatives": 5}
    pool = faq_pairs.map(MineNegatives(faq_corpus, **{**options, "num_negatives": 50}), batched=True)
    rows = faq_pairs.map(MineNegatives(faq_corpus, strategy="stratified", pool=50, **options), batched=True)
    for all_, row in zip(pool, rows, strict=True):
        assert [all_["neg_ids"].index(name) // 10 for name in row["neg_ids"]] == [0, 1, 2, 3, 4]


def test_a_pool_that_is_not_full_but_large_enough_is_no_reason_for_a_note(animals: Dataset) -> None:
    row = mined(animals, ROW, strategy="random", num_negatives=2)
    assert (len(row["neg"]), row["neg_note"]) == (2, "")


def test_random_negatives_of_the_pool_are_spread_evenly_and_differ_by_seed(faq_corpus: Dataset, faq_pairs: Dataset) -> None:
    pool = faq_pairs.map(MineNegatives(faq_corpus, num_negatives=40, margin=None), batched=True)
    places: list[int] = []
    for seed in (1, 2):
        miner = MineNegatives(faq_corpus, strategy="random", pool=40, num_negatives=10, margin=None, seed=seed)
        rows = faq_pairs.map(miner, batched=True)
        places += [all_["neg_ids"].index(name) for all_, row in zip(pool, rows, strict=True) for name in row["neg_ids"]]
    halves = np.array(places).reshape(2, -1)
    assert (halves[0] != halves[1]).any()
    counts = np.bincount(places, minlength=40)
    assert counts.sum() == 2 * 120 * 10
    assert ((counts - 60) ** 2 / 60).sum() < 80  # chi-squared with 39 degrees of freedom, p < 0.0001 beyond


def test_random_negatives_are_uniform_over_the_corpus_and_mixed_are_half_and_half(faq_corpus: Dataset, faq_pairs: Dataset) -> None:
    rows = faq_pairs.map(MineNegatives(faq_corpus, neg_type="random", num_negatives=30), batched=True)
    counts = np.bincount([faq_corpus["id"][:].index(name) for row in rows["neg_ids"] for name in row], minlength=120)
    assert ((counts - 30) ** 2 / 30).sum() < 190  # 119 degrees of freedom
    for row in rows:
        assert len(set(row["neg"])) == 30
        assert row["passage"] not in row["neg"]
    hard = faq_pairs.map(MineNegatives(faq_corpus, num_negatives=8), batched=True)
    mixed = faq_pairs.map(MineNegatives(faq_corpus, neg_type="mixed", num_negatives=15), batched=True)
    for hard_row, row in zip(hard, mixed, strict=True):
        assert row["neg_ids"][:8] == hard_row["neg_ids"]
        assert len(set(row["neg_ids"])) == 15


def test_random_similarities_are_those_of_the_passages(faq_corpus: Dataset, faq_pairs: Dataset) -> None:
    vectors = dict(zip(faq_corpus["id"], faq_corpus.with_format("numpy")["embedding"][:], strict=True))
    row = faq_pairs.select(range(3)).map(MineNegatives(faq_corpus, neg_type="mixed"), batched=True)[2]
    expected = [float(np.float64(row["embedding"]) @ vectors[name].astype(np.float64)) for name in row["neg_ids"]]
    np.testing.assert_allclose(row["neg_sims"], expected, atol=1e-6)


RANDOM = [{}, {"strategy": "random"}, {"strategy": "stratified", "pool": 40}, {"neg_type": "random"}, {"neg_type": "mixed"}]


@pytest.mark.parametrize("options", RANDOM)
def test_rows_are_the_same_for_every_batch_size_process_count_and_order(
    faq_corpus: Dataset, faq_pairs: Dataset, options: dict
) -> None:
    miner = MineNegatives(faq_corpus, **options)
    expected = faq_pairs.map(miner, batched=True, batch_size=512)
    order = np.random.default_rng(0).permutation(len(faq_pairs))
    shuffled = faq_pairs.select(order).map(miner, batched=True, batch_size=512).select(np.argsort(order))
    others = [faq_pairs.map(miner, batched=True, batch_size=size) for size in (1, 7)]
    for other in (*others, shuffled, faq_pairs.map(miner, batched=True, batch_size=50, num_proc=2)):
        assert_same_rows(expected, other)


def assert_same_rows(expected: Dataset, other: Dataset) -> None:
    """Ids, texts and order equal; similarities to 1e-6."""
    assert expected.features == other.features
    for name in ("neg", "neg_ids", "pos", "pos_ids", "pos_rank", "neg_note", "neg_skipped"):
        assert expected[name][:] == other[name][:]
    for name in ("neg_sims", "pos_sims"):
        np.testing.assert_allclose(np.concatenate(expected[name][:]), np.concatenate(other[name][:]), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_rows_are_the_same_when_also_the_vectors_are_made_in_other_batches(
    faq_corpus: Dataset, faq_pairs: Dataset, retriever: Retriever, batch_size: int
) -> None:
    texts = Dataset.from_dict({name: faq_corpus[name][:30] for name in ("id", "text")})
    queries = Dataset.from_dict({name: faq_pairs[name][:30] for name in ("query", "passage")})

    def chain(size: int) -> Dataset:
        corpus = attach_index(texts.map(Embed(retriever), batched=True, batch_size=size))
        pairs = queries.map(Embed(retriever, "query", role="query"), batched=True, batch_size=size)
        return pairs.map(MineNegatives(corpus), batched=True, batch_size=size)

    assert_same_rows(chain(30), chain(batch_size))


def test_answers_are_mined_with_their_own_similarities_and_blended_into_the_search(animals: Dataset) -> None:
    row = {**ROW, "answer": "they bark", "answer_embedding": [0.0, 1.0]}
    rows = Dataset.from_list([row]).map(MineNegatives(animals, num_negatives=2), batched=True)
    for margin, ids, note in ((None, ["b", "e"], ""), (0.05, [], EXHAUSTED)):
        answers = MineNegatives(animals, query="answer_embedding", output="neg_answer", num_negatives=2, margin=margin)
        found = rows.map(answers, batched=True)[0]
        assert (found["neg_ids"], found["neg_answer_ids"], found["neg_answer_note"]) == (["d", "e"], ids, note)
        assert (found["pos_sims"], found["neg_answer_pos_sims"], found["neg_answer_pos_rank"]) == ([1.0], [0.0], 5)
    blended = mined(animals, row, answer_weight=0.75, num_negatives=1, margin=None)
    np.testing.assert_allclose(blended["pos_sims"], [0.25], atol=1e-6)


def test_ids_only_on_request(animals: Dataset) -> None:
    row = mined(animals, ROW, texts=False, num_negatives=2)
    assert row["neg_ids"] == ["d", "e"]
    assert not {"neg", "pos"} & set(row)
    bare = attach_index(as_dataset(CORPUS).remove_columns("text"))
    found = mined(bare, {"pos_ids": ["a"], "embedding": [1.0, 0.0]}, texts=False, text=None, num_negatives=9)
    assert found["neg_ids"] == ["d", "e", "f", "b"]


def test_corpus_ids_may_be_integers() -> None:
    corpus = attach_index(as_dataset(CORPUS).remove_columns("id").add_column("id", list(range(6))))
    row = mined(corpus, {"pos_ids": [0], "embedding": [1.0, 0.0]}, num_negatives=2)
    assert (row["neg_ids"], row["pos"]) == (["3", "4"], ["cats purr"])


def test_a_batch_without_any_negative_does_not_fix_the_column_type(animals: Dataset) -> None:
    rows = Dataset.from_dict({"passage": ["cats purr"] * 3, "embedding": [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]})
    found = rows.map(MineNegatives(animals, num_negatives=1), batched=True, batch_size=1)
    assert [len(row) for row in found["neg"]] == [0, 1, 1]
    assert {found.features[name].feature.dtype for name in ("neg", "neg_ids", "pos_ids")} == {"string"}


def test_one_example_a_single_map_a_stream_and_a_dict_of_splits_give_the_same(animals: Dataset) -> None:
    rows = Dataset.from_dict({"passage": ["cats purr", "cows moo"], "embedding": [[1.0, 0.0], [0.6, 0.8]]})
    miner = MineNegatives(animals, num_negatives=2)
    expected = rows.map(miner, batched=True)
    assert miner(rows[1])["neg_ids"] == expected[1]["neg_ids"]
    assert rows.map(miner)["neg_ids"][:] == expected["neg_ids"][:]
    assert [row["neg_ids"] for row in rows.to_iterable_dataset().map(miner, batched=True)] == expected["neg_ids"][:]
    assert DatasetDict(train=rows).map(miner, batched=True)["train"]["neg_ids"][:] == expected["neg_ids"][:]
    for kind in ("numpy", "torch"):
        assert rows.with_format(kind).map(miner, batched=True).with_format(None)["neg_ids"][:] == expected["neg_ids"][:]


def test_mining_changes_neither_corpus_nor_rows(animals: Dataset) -> None:
    batch = {"passage": ["cats purr"], "embedding": [[1.0, 0.0]]}
    MineNegatives(animals)(batch)
    assert batch == {"passage": ["cats purr"], "embedding": [[1.0, 0.0]]}
    assert animals.list_indexes() == ["embedding"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"pos": "cats purr", "embedding": [1.0, 0.0]}, r"column 'pos' must hold a list per row, found str 'cats purr'"),
        ({"pos_ids": "a", "embedding": [1.0, 0.0]}, r"column 'pos_ids' must hold a list per row"),
        ({"passage": ["cats purr"], "embedding": [1.0, 0.0]}, r"column 'passage' must hold strings, found list"),
        ({"query": "q", "embedding": [1.0, 0.0]}, r"needs each row's positives"),
        ({"passage": "cats purr"}, r"needs the column 'embedding', but the dataset has only \['passage'\]"),
        (
            {"passage": "cats purr", "embedding": [1.0, 0.0, 0.0]},
            r"vectors of 2 numbers, as those of the index, found vectors of \[3\]",
        ),
        ({"passage": "cats purr", "embedding": "text"}, r"must hold vectors of 2 numbers.* found something else"),
        ({"pos": ["a", "b"], "pos_ids": ["a"], "embedding": [1.0, 0.0]}, r"must be aligned, found 2 texts and 1 ids"),
    ],
)
def test_each_wrong_row_is_a_clear_error_at_the_first_batch(animals: Dataset, row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mined(animals, row)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"margin": -0.1}, "margin must be at least 0"),
        ({"skip_ranks": -1}, "skip_ranks must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"strategy": "best"}, r"strategy must be one of \('top', 'random', 'stratified'\), got 'best'"),
        ({"neg_type": "soft"}, "neg_type must be one of"),
        ({"pool": 50}, 'goes with strategy="random"'),
        ({"strategy": "random", "pool": 3}, "at least num_negatives=15"),
        ({"answer_weight": 2}, "between 0 and 1"),
        ({"text": None}, "texts=False"),
        ({"qrels": Dataset.from_dict({"x": [1]})}, "qrels must have the columns"),
    ],
)
def test_each_wrong_option_is_a_clear_error_at_once(animals: Dataset, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MineNegatives(animals, **options)


def test_qrels_and_answer_weight_say_which_column_they_need(animals: Dataset) -> None:
    with pytest.raises(ValueError, match="needs the column 'query_id'"):
        mined(animals, ROW, qrels={"q": {"a": 1}})
    with pytest.raises(ValueError, match="needs the column 'answer_embedding'"):
        mined(animals, ROW, answer_weight=0.5)


@pytest.mark.parametrize("factory", ["IVF4,Flat", "HNSW16,Flat", "SQ8", "PQ4x4"])
def test_over_any_index_the_rules_hold_and_rows_are_full(factory: str) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((400, 8)).astype(np.float32)
    columns = {"id": [f"p{n}" for n in range(400)], "text": [f"text {n % 390}" for n in range(400)], "embedding": list(vectors)}
    corpus = attach_index(Dataset.from_dict(columns), factory=factory)
    pairs = Dataset.from_dict({"passage": [f"text {n}" for n in range(30)], "embedding": list(vectors[:30] + 0.5)})
    for row in pairs.map(MineNegatives(corpus, num_negatives=20), batched=True):
        scores = vectors[[int(name[1:]) for name in row["neg_ids"]]].astype(np.float64) @ np.float64(row["embedding"])
        known = [
            float(vectors[n].astype(np.float64) @ np.float64(row["embedding"]))
            for n in range(400)
            if f"text {n % 390}" == row["passage"]
        ]
        np.testing.assert_allclose(row["neg_sims"], scores, atol=1e-5)
        assert max(scores) <= min(known) - 0.05 * abs(min(known)) + 1e-5
        assert len(set(row["neg"])) == len(row["neg"])
        assert row["passage"] not in row["neg"]
        assert len(row["neg"]) == 20 or row["neg_note"] == EXHAUSTED
