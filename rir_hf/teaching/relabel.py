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
    OneOf,
)

_ALIGNED = ((POS, NEG), (POS_IDS, NEG_IDS), (POS_SIMS, NEG_SIMS), (POS_SCORES, NEG_SCORES))


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

    def __init__(self, *, margin: float = 0.0, action: Literal["move", "drop"] = "move") -> None:
        if not math.isfinite(margin):
            raise ValueError(f"margin must be a number, got {margin}.")
        check_choice("action", action, ("move", "drop"))
        self.margin = margin
        self.action = action

    @property
    def inputs(self) -> tuple[Column | OneOf, ...]:
        """Scored rows."""
        return POS, NEG, POS_SCORES, NEG_SCORES

    @property
    def outputs(self) -> tuple[Column, ...]:
        """All columns that are rewritten where they are there, and `relabelled`."""
        pairs: list[Column] = []
        for pair in _ALIGNED:
            pairs += pair
        return (*pairs, RELABELLED)

    def outputs_for(self, columns: Collection[str]) -> tuple[Column, ...]:
        """Those of the aligned columns that are there, and `relabelled`."""
        return tuple(
            column for column in self.outputs if column.name in columns or column is RELABELLED
        )

    def transform(self, batch: Batch) -> dict[str, Any]:
        """Rewrite the columns row by row."""
        columns = {
            column.name: _read(batch, column.name)
            for column in self.outputs_for(batch.names)
            if column is not RELABELLED
        }
        _require_alignment(columns)
        places = [
            places_above(positives or [], negatives or [], self.margin)
            for positives, negatives in zip(
                columns["pos_scores"], columns["neg_scores"], strict=True
            )
        ]
        names = columns.get("neg_ids", columns["neg"])
        taken = [_taken(row, out) for row, out in zip(names, places, strict=True)]
        rewritten: dict[str, Any] = {}
        for positive, negative in _ALIGNED:
            rewritten |= self._rewrite(columns, positive.name, negative.name, places)
        return {**rewritten, "relabelled": taken}

    def _rewrite(
        self, columns: dict[str, list[Any]], positive: str, negative: str, places: list[list[int]]
    ) -> dict[str, Any]:
        """A pair of columns, or the one of them that is there, without or with what is moved."""
        found = {}
        if negative in columns:
            found[negative] = [
                _left(row, out) for row, out in zip(columns[negative], places, strict=True)
            ]
        if positive in columns:
            others = columns.get(negative, [None] * len(places))
            found[positive] = [
                _joined(row, other, out) if out and self.action == "move" else row
                for row, other, out in zip(columns[positive], others, places, strict=True)
            ]
        return found


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
        return [None if row is None else [_text_of(value) for value in row] for row in rows]
    return rows


def _text_of(value: Any) -> str | None:
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


def _taken(row: list[Any] | None, places: list[int]) -> list[Any]:
    return [(row or [])[place] for place in places]


def _left(row: list[Any] | None, places: list[int]) -> list[Any] | None:
    if row is None or not places:
        return row
    return [value for place, value in enumerate(row) if place not in places]


def _joined(row: list[Any] | None, others: list[Any] | None, places: list[int]) -> list[Any]:
    """The positives with the negatives that are moved; null where nothing is known of one."""
    moved = [None if others is None else others[place] for place in places]
    return [*(row or []), *moved]
