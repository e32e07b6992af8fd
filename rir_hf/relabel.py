"""Scored rows in, the same rows without the negatives that the teacher takes for positives out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa

from rir_hf.transform import SCORES, TEXTS, BatchTransform, Column, read_column, require_columns

logger = logging.getLogger(__name__)


class RelabelFalseNegatives(BatchTransform):
    """Map function that takes out the negatives which the teacher puts above every positive of their row.

    Such a negative is most likely an unlabelled positive. With its id, similarity and scores it moves to the end of `pos`, or
    is dropped. Rows without scores stay as they are. The column `relabeled` counts them. `pos_rank`, `neg_note` and `neg_skipped`
    stay those of mining.

    Args:
        margin: how much better than the row's best positive the teacher must find a negative, in the units of `pos_scores`:
            log-probability, log-odds, ranks from 0 to 1, or summed z-scores after `blend_retriever`. Below 0 it takes out what
            comes near the positive too.
        action: `"move"` to `pos`, or `"drop"`.

    Example:
        >>> row = {"query": "q", "pos": ["a"], "neg": ["b", "c"], "pos_scores": [0.5], "neg_scores": [0.9, 0.1]}
        >>> RelabelFalseNegatives()(row)
        {'pos': ['a', 'b'], 'neg': ['c'], 'pos_scores': [0.5, 0.9], 'neg_scores': [0.1], 'relabeled': 1}
    """

    def __init__(self, *, margin: float = 0.0, action: Literal["move", "drop"] = "move") -> None:
        if action not in ("move", "drop"):
            raise ValueError(f'action must be "move" or "drop", got {action!r}.')
        self.margin = margin
        self.action = action

    @property
    def first_column(self) -> str:
        """The query's column."""
        return "query"

    def transform(self, batch: Mapping[str, Any], rank: int | None) -> dict[str, Any]:
        """Return the changed columns and `relabeled`."""
        require_columns(batch, ["pos", "neg", "pos_scores", "neg_scores"], "RelabelFalseNegatives")
        pairs = [
            (f"pos{ending}", f"neg{ending}", kind)
            for ending, kind in _ALIGNED.items()
            if {f"pos{ending}", f"neg{ending}"} <= set(batch)
        ]
        columns = {name: read_column(batch, name) for pair in pairs for name in pair[:2]}
        _require_alignment(columns)
        false = [
            above(positives, negatives, self.margin)
            for positives, negatives in zip(columns["pos_scores"], columns["neg_scores"], strict=True)
        ]
        for positive, negative, _ in pairs:
            for row, places in enumerate(false):
                if places:
                    self._relabel(columns[positive], columns[negative], row, places)
        emptied = sum(bool(places) and not negatives for places, negatives in zip(false, columns["neg"], strict=True))
        if any(false):
            logger.info(
                "RelabelFalseNegatives: %d negatives of %d rows stand above the positives; %d rows are left without a negative.",
                sum(map(len, false)), sum(map(bool, false)), emptied,
            )  # fmt: skip
        out = {name: Column(columns[name], kind) for *names, kind in pairs for name in names}
        return {**out, "relabeled": Column(map(len, false), pa.int64())}

    def _relabel(self, positives: list[Any], negatives: list[Any], row: int, places: set[int]) -> None:
        own = negatives[row]
        if self.action == "move":
            positives[row] = [*(positives[row] or []), *(own[place] for place in sorted(places))]
        negatives[row] = [value for place, value in enumerate(own) if place not in places]


_ALIGNED = {"": TEXTS, "_ids": TEXTS, "_sims": SCORES, "_scores": SCORES, "_raw_scores": SCORES}


def _require_alignment(columns: dict[str, list[Any]]) -> None:
    """Raise `ValueError` where a scored row has lists of other lengths, or scores with gaps."""
    for name, rows in columns.items():
        scored = columns[f"{name[:3]}_scores"]
        for own, scores in zip(rows, scored, strict=True):
            if scores is not None and (None in scores or len(own or []) != len(scores)):
                raise ValueError(
                    f"RelabelFalseNegatives: {name!r} is not aligned with '{name[:3]}_scores' {scores!r:.60}: {own!r:.80}"
                )


def above(positives: list[float] | None, negatives: list[float] | None, margin: float) -> set[int]:
    """Places of the negatives that score more than `margin` above the best positive."""
    if not positives or not negatives:
        return set()
    return {place for place, score in enumerate(negatives) if score > max(positives) + margin}
