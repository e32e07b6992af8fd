"""Batches for losses with in-batch negatives: no passage counts against a query that wants it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from sentence_transformers.base.data_collator import BaseDataCollator

from rir_hf.training.batches import ApartBatchSampler
from rir_hf.training.retriever import train_retriever

Row = dict[str, str]


def clash(one: Row, other: Row, wanted: dict[str, set[str]]) -> bool:
    """Whether two rows may not stand in a batch, by the words of the promise."""
    if one["query"] == other["query"]:
        return True
    both = ((one, other), (other, one))
    return any(
        text in wanted[asking["query"]]
        for asking, shown in both
        for name, text in shown.items()
        if name != "query"
    )


def wanted_by(rows: Dataset) -> dict[str, set[str]]:
    """All positives of each query."""
    wanted: dict[str, set[str]] = {}
    for row in rows:
        wanted.setdefault(row["query"], set()).add(row["positive"])
    return wanted


def drawn(seed: int, number: int, queries: int, passages: int) -> Dataset:
    """Rows with two negatives, whose texts are drawn from a few."""
    rng = np.random.default_rng(seed)
    names = ["positive", "negative_1", "negative_2"]
    columns = {name: [f"p{p}" for p in rng.integers(passages, size=number)] for name in names}
    return Dataset.from_dict(
        {"query": [f"q{q}" for q in rng.integers(queries, size=number)], **columns}
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("queries", "passages"), [(1000, 1000), (20, 30), (3, 400), (400, 3)])
def test_each_row_comes_once_an_epoch_and_no_two_of_a_batch_clash(
    queries: int, passages: int, seed: int
) -> None:
    rows = drawn(seed, 50, queries, passages)
    wanted = wanted_by(rows)
    sampler = ApartBatchSampler(rows, batch_size=8, drop_last=False, seed=seed)
    orders = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert sorted(row for batch in batches for row in batch) == list(range(50))
        for batch in batches:
            assert len(batch) <= 8
            pairs = ((one, other) for one in batch for other in batch if one < other)
            assert not any(clash(rows[one], rows[other], wanted) for one, other in pairs)
        orders.append(batches)
    assert all(orders[0] != other for other in orders[1:])


def test_rows_without_a_text_in_common_fill_their_batches() -> None:
    columns = {name: [f"{name} {n}" for n in range(20)] for name in ("query", "positive")}
    rows = Dataset.from_dict(columns)
    lengths = sorted(map(len, ApartBatchSampler(rows, batch_size=8, drop_last=False)))
    assert lengths == [4, 8, 8]
    full = ApartBatchSampler(rows, batch_size=8, drop_last=True)
    assert [len(batch) for batch in full] == [8, 8]
    assert len(full) == 2


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[Row]]:
    """The rows of each batch that a trainer takes, in turn."""
    taken: list[list[Row]] = []
    collate = BaseDataCollator.__call__

    def noted(collator: BaseDataCollator, features: list[Row]) -> Any:
        taken.append([dict(row) for row in features])
        return collate(collator, features)

    monkeypatch.setattr(BaseDataCollator, "__call__", noted)
    return taken


def repeated(batches: list[list[Row]]) -> Iterator[bool]:
    """Of each batch whether a query stands there twice."""
    for batch in batches:
        yield len({row["query"] for row in batch}) < len(batch)


def test_no_batch_contrasts_a_query_with_another_of_its_positives(
    tiny_bert: str, tmp_path: Path, batches: list[list[Row]]
) -> None:
    """Eight queries with three positives each, beside lists that a teacher scored."""
    numbers = range(8)
    labels = Dataset.from_dict(
        {"query": [f"q{n}" for n in numbers], "pos": [[f"p{n}{c}" for c in "abc"] for n in numbers]}
    )
    lists = Dataset.from_dict(
        {
            "query": ["one"] * 8,
            "passages": [[f"l{n}", "common"] for n in numbers],
            "passage_scores": [[1.0, 0.0]] * 8,
        }
    )
    parts = {"labels": labels, "lists": lists}
    train_retriever(parts, tiny_bert, tmp_path, batch_size=6, epochs=2)
    contrasted = [batch for batch in batches if "label" not in batch[0]]
    assert sorted(row["positive"] for batch in contrasted for row in batch) == sorted(
        text for texts in labels["pos"] for text in texts * 2
    )
    assert not any(repeated(contrasted))
    distilled = [batch for batch in batches if "label" in batch[0]]
    assert [len(batch) for batch in distilled] == [6, 2] * 2  # as if no one had looked
    assert all(repeated(distilled))


def test_a_batch_sampler_of_one_s_own_goes_first(
    tiny_bert: str, tmp_path: Path, batches: list[list[Row]]
) -> None:
    rows = Dataset.from_dict({"query": ["q"] * 4, "pos": [[f"p{n}"] for n in range(4)]})
    plain = {"batch_sampler": "batch_sampler"}
    train_retriever(rows, tiny_bert, tmp_path / "a", batch_size=2, arguments=plain)
    assert [*repeated(batches)] == [True, True]
    batches.clear()
    train_retriever(rows, tiny_bert, tmp_path / "b", batch_size=2)
    assert [len(batch) for batch in batches] == [1, 1, 1, 1]
