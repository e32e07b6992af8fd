"""The step that takes the negatives which the teacher takes for positives out of scored rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

from rir_hf.core.columns import Batch, check_choice
from rir_hf.core.step import Step
from rir_hf.schema import (
    NEG,
    NEG_IDS,
    NEG_SCORES,
    NEG_SIMS,
    POS,
    POS_IDS,
    POS_SCORES,
    POS_SIMS,
    RELABELLED,
    Column,
)

_ALIGNED = ("", "_ids", "_sims", "_scores")  # endings of the columns aligned with pos and neg


class RelabelNegatives(Step):
    """Takes out the negatives that the teacher puts above every positive of their row.

    Such a negative is most likely a positive that nobody labelled. With its id, similarity and
    score it moves to the end of `pos`, or is dropped. This is the one step that rewrites columns:
    `pos`, `neg` and those of their ids, similarities and scores that are there. The column
    `relabelled` holds the ids of what was taken out (the texts, without `neg_ids`), an empty list
    where nothing was. Rows without scores stay as they are; `pos_rank`, `neg_note` and
    `neg_skipped` stay those of mining.

    Args:
        margin: how far above the row's best positive a negative must score, in the units of
            `pos_scores`: log-probability, log-odds, logits, reciprocal ranks, or summed z-scores
            of a `Blend`. Below 0 it takes out what comes near the positive too.
        action: `"move"` to `pos`, or `"drop"`.

    Raises:
        ValueError: another action; a margin that is not a number; scores that are not aligned with
            the passages.

    Example:
        >>> row = {"query": "q", "pos": ["a"], "neg": ["b", "c"], "pos_scores": [0.5],
        ...        "neg_scores": [0.75, 0.25]}
        >>> RelabelNegatives().one(row)
        {'pos': ['a', 'b'], 'neg': ['c'], 'pos_scores': [0.5, 0.75], 'neg_scores': [0.25], \
'relabelled': ['b']}
    """

    inputs = (POS, NEG, POS_SCORES, NEG_SCORES)
    outputs = (POS, NEG, POS_IDS, NEG_IDS, POS_SIMS, NEG_SIMS, POS_SCORES, NEG_SCORES, RELABELLED)

    def __init__(self, *, margin: float = 0.0, action: Literal["move", "drop"] = "move") -> None:
        if not math.isfinite(margin):
            raise ValueError(f"margin must be a number, got {margin}.")
        check_choice("action", action, ("move", "drop"))
        self.margin = margin
        self.action = action

    def outputs_for(self, columns: Collection[str]) -> tuple[Column, ...]:
        """Those of the aligned columns that are there, and `relabelled`."""
        return tuple(
            column for column in self.outputs if column.name in columns or column is RELABELLED
        )

    def transform(self, batch: Batch) -> dict[str, Any]:
        """Rewrite the columns row by row."""
        names = [column.name for column in self.outputs_for(batch.names)]
        columns = {name: _read(batch, name) for name in names if name != "relabelled"}
        _require_alignment(columns)
        scores = zip(columns["pos_scores"], columns["neg_scores"], strict=True)
        out = [places_above(pos or [], neg or [], self.margin) for pos, neg in scores]
        taken = _taken(columns.get("neg_ids", columns["neg"]), out)
        for ending in _ALIGNED:
            positives, negatives = columns.get(f"pos{ending}"), columns.get(f"neg{ending}")
            if positives is not None and self.action == "move":
                columns[f"pos{ending}"] = _joined(positives, _taken(negatives, out))
            if negatives is not None:
                columns[f"neg{ending}"] = _left(negatives, out)
        return {**columns, "relabelled": taken}


def places_above(
    positives: Sequence[float], negatives: Sequence[float], margin: float = 0.0
) -> list[int]:
    """Places of the negatives that score more than `margin` above the best positive.

    Example:
        >>> places_above([0.5, 0.25], [0.75, 0.5, 1.0])
        [0, 2]
    """
    if not positives:
        return []
    highest = max(positives) + margin
    return [place for place, score in enumerate(negatives) if score > highest]


def _read(batch: Batch, name: str) -> list[Any]:
    """The rows of a column: one text as a list of one, ids as texts, a null as a null."""
    rows = batch.values_of(name)
    if name in ("pos", "pos_ids"):
        rows = [row if row is None or isinstance(row, list) else [row] for row in rows]
    if name.endswith("_ids"):
        return [None if row is None else [_as_text(value) for value in row] for row in rows]
    return rows


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value)


def _require_alignment(columns: dict[str, list[Any]]) -> None:
    """Raise `ValueError` where a scored row has lists of other lengths, or scores with gaps."""
    for name, rows in columns.items():
        side = name[:3]
        for row, scores in zip(rows, columns[f"{side}_scores"], strict=True):
            if scores is not None and (None in scores or len(row or []) != len(scores)):
                raise ValueError(
                    f"RelabelNegatives: {name!r} is not aligned with '{side}_scores' "
                    f"{scores!r:.60}: {row!r:.80}"
                )


def _taken(rows: list[Any] | None, out: list[list[int]]) -> list[list[Any]]:
    """The values that are taken out of each row; nulls where the column is not there."""
    if rows is None:
        return [[None] * len(places) for places in out]
    return [[row[place] for place in places] for row, places in zip(rows, out, strict=True)]


def _left(rows: list[Any], out: list[list[int]]) -> list[Any]:
    """The rows without what is taken out."""
    return [
        [value for place, value in enumerate(row) if place not in places] if places else row
        for row, places in zip(rows, out, strict=True)
    ]


def _joined(rows: list[Any], moved: list[list[Any]]) -> list[Any]:
    """The rows with what is moved to their end."""
    return [[*row, *more] if more else row for row, more in zip(rows, moved, strict=True)]
