"""Mining: equal to a brute-force oracle on anything, the same rows however it is run, and a word for every bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rir_hf import MineNegatives, attach_index


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
        assert (found["neg_note"] == "") == (len(found["neg"]) == options["num_negatives"])


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
