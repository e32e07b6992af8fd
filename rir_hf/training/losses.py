"""The losses of sentence-transformers that `train_retriever` and its command know."""

from __future__ import annotations

from typing import Literal

Loss = Literal[
    "AnglELoss",
    "CachedGISTEmbedLoss",
    "CachedMultipleNegativesRankingLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "CosineSimilarityLoss",
    "DistillKLDivLoss",
    "GISTEmbedLoss",
    "MarginMSELoss",
    "MultipleNegativesRankingLoss",
    "OnlineContrastiveLoss",
    "TripletLoss",
]

GUIDED = ("CachedGISTEmbedLoss", "GISTEmbedLoss")
"""Losses that ask a guide which passages are false negatives."""

IN_BATCH = (
    "CachedGISTEmbedLoss",
    "CachedMultipleNegativesRankingLoss",
    "GISTEmbedLoss",
    "MultipleNegativesRankingLoss",
)
"""Losses whose negatives are the passages of the batch's other rows, too."""

SCALED = (
    "AnglELoss",
    "CachedMultipleNegativesRankingLoss",
    "CoSENTLoss",
    "MultipleNegativesRankingLoss",
)
"""Losses that multiply cosine similarities by a `scale`."""

FROZEN = ("DistillKLDivLoss", "MarginMSELoss", "MultipleNegativesRankingLoss", "TripletLoss")
"""Losses that ask nothing of a passage but its vector."""


def usual_rescale(loss: str) -> Literal["none", "zscore"]:
    """What is done to a row's scores for a loss unless a call says otherwise.

    A softmax over a row's list asks for one scale in all rows. What is regressed on or compared
    between rows stays on the teacher's.

    Example:
        >>> usual_rescale("DistillKLDivLoss"), usual_rescale("MarginMSELoss")
        ('zscore', 'none')
    """
    return "zscore" if loss == "DistillKLDivLoss" else "none"
