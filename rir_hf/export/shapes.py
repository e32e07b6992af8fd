"""The rows that losses of sentence-transformers take, made of a query with its passages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

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


def triplets(
    query: str, positives: list[str], negatives: list[str], labels: list[float]
) -> Iterator[dict[str, Any]]:
    """A row for each positive with each negative."""
    for positive in positives:
        for negative in negatives:
            yield {"query": query, "positive": positive, "negative": negative}


def tuples(
    query: str, positives: list[str], negatives: list[str], labels: list[float]
) -> Iterator[dict[str, Any]]:
    """A row for each positive with all negatives."""
    others = {f"negative_{number}": text for number, text in enumerate(negatives, start=1)}
    low = labels[len(positives) :]
    for positive, label in zip(positives, labels, strict=False):
        yield {"query": query, "positive": positive, **others, "label": [label, *low]}


def labelled_pairs(
    query: str, positives: list[str], negatives: list[str], labels: list[float]
) -> Iterator[dict[str, Any]]:
    """A row for each passage."""
    for passage, label in zip([*positives, *negatives], labels, strict=True):
        yield {"query": query, "passage": passage, "label": label}


def lists(
    query: str, positives: list[str], negatives: list[str], labels: list[float]
) -> Iterator[dict[str, Any]]:
    """One row with all passages, positives first."""
    yield {"query": query, "docs": [*positives, *negatives], "labels": labels}


MAKERS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    TRIPLET: triplets,
    TUPLE: tuples,
    SCORED_TUPLE: tuples,
    PAIR: labelled_pairs,
    LIST: lists,
    SCORED_LIST: lists,
}
"""What makes the rows of a shape of a query with its positives, negatives, and a label for each."""


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
