"""The rows that losses of sentence-transformers take, made of a query with its passages."""

from __future__ import annotations

from itertools import product
from typing import Any

from datasets import Features, List, Value

TRIPLET = "triplet"
TUPLE = "n-tuple"
PAIR = "labeled-pair"
LIST = "labeled-list"
SCORED_TUPLE = "scored n-tuple"
SCORED_LIST = "scored list"
SCORED_PAIR = "scored pair"

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
    "OnlineContrastiveLoss": PAIR,
    "AnglELoss": SCORED_PAIR,
    "CoSENTLoss": SCORED_PAIR,
    "CosineSimilarityLoss": SCORED_PAIR,
    "MSELoss": SCORED_PAIR,
    LIST: LIST,
    "DistillKLDivLoss": SCORED_TUPLE,
    "MarginMSELoss": SCORED_TUPLE,
    "ADRMSELoss": SCORED_LIST,
    "LambdaLoss": SCORED_LIST,
    "ListMLELoss": SCORED_LIST,
    "ListNetLoss": SCORED_LIST,
    "PListMLELoss": SCORED_LIST,
    "RankNetLoss": SCORED_LIST,
    "SparseAnglELoss": SCORED_PAIR,
    "SparseCoSENTLoss": SCORED_PAIR,
    "SparseCosineSimilarityLoss": SCORED_PAIR,
    "SparseDistillKLDivLoss": SCORED_TUPLE,
    "SparseMarginMSELoss": SCORED_TUPLE,
    "SparseMultipleNegativesRankingLoss": TUPLE,
    "SparseTripletLoss": TRIPLET,
}

LOSS_OF_GAINS = "LambdaLoss"
"""It reads labels as gains and counts one below 0 as 0 (sentence-transformers 6.2), so that a row
whose labels are all below 0 teaches nothing.
"""


def rows_of(
    shape: str, query: str, positives: list[str], negatives: list[str], labels: list[float]
) -> list[dict[str, Any]]:
    """The rows of a shape, made of a query, its passages, and their labels, positives first."""
    passages = [*positives, *negatives]
    if shape == TRIPLET:
        both = product(positives, negatives)
        return [{"query": query, "positive": one, "negative": other} for one, other in both]
    if shape in (PAIR, SCORED_PAIR):
        labelled = zip(passages, labels, strict=True)
        return [{"query": query, "passage": text, "label": label} for text, label in labelled]
    if shape in (LIST, SCORED_LIST):
        return [{"query": query, "docs": passages, "labels": labels}]
    others = {f"negative_{number}": text for number, text in enumerate(negatives, start=1)}
    high, low = labels[: len(positives)], labels[len(positives) :]
    return [
        {"query": query, "positive": text, **others, "label": [label, *low]}
        for text, label in zip(positives, high, strict=True)
    ]


def features_of(shape: str, num_negatives: int | None) -> Features:
    """The columns of a shape in the order of its losses, which read by position, not by name."""
    text, number = Value("string"), Value("float32")
    if shape == TRIPLET:
        return Features({"query": text, "positive": text, "negative": text})
    if shape in (PAIR, SCORED_PAIR):
        return Features({"query": text, "passage": text, "label": number})
    if shape in (LIST, SCORED_LIST):
        return Features({"query": text, "docs": List(text), "labels": List(number)})
    negatives = [f"negative_{number}" for number in range(1, 1 + (num_negatives or 0))]
    columns = dict.fromkeys(["query", "positive", *negatives], text)
    return Features(columns | ({"label": List(number)} if shape == SCORED_TUPLE else {}))
