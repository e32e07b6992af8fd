"""The losses of sentence-transformers that `train_retriever` and its command know."""

from __future__ import annotations

from typing import Literal

Loss = Literal[
    "CachedGISTEmbedLoss",
    "CachedMultipleNegativesRankingLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "DistillKLDivLoss",
    "GISTEmbedLoss",
    "MarginMSELoss",
    "MultipleNegativesRankingLoss",
    "OnlineContrastiveLoss",
    "TripletLoss",
]
