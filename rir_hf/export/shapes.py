"""The rows that losses of sentence-transformers take, made of a query with its passages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from datasets import Features, List, Value

TRIPLET = "triplet"
TUPLE = "n-tuple"
PAIR = "labeled-pair"
LIST = "labeled-list"
SCORED_TUPLE = "scored n-tuple"
SCORED_LIST = "scored list"

SHAPE_OF_LOSS = {
    TRIPLET: TRIPLET,
    "TripletLoss": TRIPLET,
    TUPLE: TUPLE,
    "MultipleNegativesRankingLoss": TUPLE,
    "CachedMultipleNegativesRankingLoss": TUPLE,
    "CachedGISTEmbedLoss": TUPLE,
    "GISTEmbedLoss": TUPLE,
    PAIR: PAIR,
    "BinaryCrossEntropyLoss": PAIR,
    "ContrastiveLoss": PAIR,
    "CoSENTLoss": PAIR,
    "OnlineContrastiveLoss": PAIR,
    LIST: LIST,
    "DistillKLDivLoss": SCORED_TUPLE,
    "MarginMSELoss": SCORED_TUPLE,
    "ADRMSELoss": SCORED_LIST,
    "LambdaLoss": SCORED_LIST,
    "ListMLELoss": SCORED_LIST,
    "ListNetLoss": SCORED_LIST,
    "PListMLELoss": SCORED_LIST,
    "RankNetLoss": SCORED_LIST,
}


class Labelled(NamedTuple):
    """A query with its passages, and a label for each: a score, or 1 and 0."""

    query: str
    positives: list[str]
    negatives: list[str]
    high: list[float]
    """The positives' labels."""
    low: list[float]
    """The negatives' labels."""


def triplets(row: Labelled) -> Iterator[dict[str, Any]]:
    """A row for each positive with each negative."""
    for positive in row.positives:
        for negative in row.negatives:
            yield {"query": row.query, "positive": positive, "negative": negative}


def tuples(row: Labelled) -> Iterator[dict[str, Any]]:
    """A row for each positive with all negatives."""
    others = {f"negative_{number}": text for number, text in enumerate(row.negatives, start=1)}
    for positive, label in zip(row.positives, row.high, strict=True):
        yield {"query": row.query, "positive": positive, **others, "label": [label, *row.low]}


def labelled_pairs(row: Labelled) -> Iterator[dict[str, Any]]:
    """A row for each passage."""
    passages, labels = [*row.positives, *row.negatives], [*row.high, *row.low]
    for passage, label in zip(passages, labels, strict=True):
        yield {"query": row.query, "passage": passage, "label": label}


def lists(row: Labelled) -> Iterator[dict[str, Any]]:
    """One row with all passages, positives first."""
    passages, labels = [*row.positives, *row.negatives], [*row.high, *row.low]
    yield {"query": row.query, "docs": passages, "labels": labels}


MAKERS: dict[str, Callable[[Labelled], Iterator[dict[str, Any]]]] = {
    TRIPLET: triplets,
    TUPLE: tuples,
    SCORED_TUPLE: tuples,
    PAIR: labelled_pairs,
    LIST: lists,
    SCORED_LIST: lists,
}


def features_of(shape: str, num_negatives: int | None) -> Features:
    """The columns of a shape in the order of its losses, which read by position, not by name."""
    text, number = Value("string"), Value("float32")
    if shape == TRIPLET:
        return Features({"query": text, "positive": text, "negative": text})
    if shape == PAIR:
        return Features({"query": text, "passage": text, "label": number})
    if shape in (LIST, SCORED_LIST):
        return Features({"query": text, "docs": List(text), "labels": List(number)})
    negatives = [f"negative_{number}" for number in range(1, 1 + (num_negatives or 0))]
    columns = dict.fromkeys(["query", "positive", *negatives], text)
    return Features(columns | ({"label": List(number)} if shape == SCORED_TUPLE else {}))
