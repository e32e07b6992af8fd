"""Which rows a trainer can use: the others are left out, and counted by reason in one warning."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from rir_hf.schema import ANSWER, NEG, NEG_SCORES, POS, POS_SCORES

logger = logging.getLogger(__name__)

FLAG_EXTRAS = (ANSWER.name, "neg_answer", "prompt", "type")
"""What FlagEmbedding reads besides texts and scores."""

_GREATEST = np.finfo(np.float32).max  # trainers read scores as float32

NO_SCORES = "no scores"

PAIRED = {POS.name: "positive"}
CONTRASTED = {POS.name: "positive", NEG.name: "negative"}
"""The lists of texts that a trainer reads, by column, and what one of their texts is called."""


def keep(rows: Dataset, reasons: Sequence[str | None], who: str) -> Dataset:
    """The rows without a reason against them.

    Args:
        rows: the rows of an export.
        reasons: for each row why it cannot be used, in a few words; None where it can.
        who: name of the export, for the warning and the error.

    Returns:
        The usable rows in their order; `rows` itself where all are usable.

    Raises:
        ValueError: no row is usable. The message counts the reasons.

    Example:
        >>> rows = Dataset.from_dict({"query": ["q", ""]})
        >>> keep(rows, [None, "empty query"], "to_trl")["query"][:]
        ['q']
    """
    lost = Counter(reason for reason in reasons if reason is not None)
    counts = ", ".join(f"{reason} ({count})" for reason, count in lost.most_common())
    if lost.total() == len(rows):
        hint = " Without the columns of scores they would do." if set(lost) == {NO_SCORES} else ""
        raise ValueError(
            f"{who}: none of the {len(rows)} rows can be used{counts and ': '}{counts}.{hint}"
        )
    if not lost:
        return rows
    logger.warning("%s leaves out %d of %d rows: %s.", who, lost.total(), len(rows), counts)
    return rows.select(np.flatnonzero([reason is None for reason in reasons]))


def is_text(value: Any) -> bool:
    """Whether a value is a text with something in it.

    Example:
        >>> is_text("truss"), is_text("  "), is_text(None)
        (True, False, False)
    """
    return isinstance(value, str) and bool(value.strip())


def why_unusable(
    row: Mapping[str, Any], query: str, scored: bool, reads: Mapping[str, str] = CONTRASTED
) -> str | None:
    """Why no trainer can use the row; None where it can. `reads`: which lists of texts it reads."""
    if not is_text(row[query]):
        return "empty query"
    for name, what in reads.items():
        if not row[name]:
            return f"no {what}"
        if not all(map(is_text, row[name])):
            return f"null or empty {what}"
    return why_unscored(row) if scored else None


def why_unscored(row: Mapping[str, Any]) -> str | None:
    """Why the scores of the row cannot be used; None where they can."""
    high, low = (row[name] or [] for name in (POS_SCORES.name, NEG_SCORES.name))
    if not high or not low:
        return NO_SCORES
    if len(high) != len(row[POS.name]) or len(low) != len(row[NEG.name]):
        return "not a score for each passage"
    if None in [*high, *low] or not (np.abs([*high, *low]) <= _GREATEST).all():
        return "a score that is not a number"
    return None


def why_incomplete(row: Mapping[str, Any]) -> str | None:
    """Why FlagEmbedding cannot use what goes along; prompt and type may be empty."""
    for name in FLAG_EXTRAS:
        if name not in row:
            continue
        value = row[name]
        if name == ANSWER.name:
            is_usable = is_text(value)
        elif name == "neg_answer":
            is_usable = bool(value) and all(map(is_text, value))
        else:
            is_usable = value is not None
        if not is_usable:
            return f"null or empty {name}"
    return None


def why_ragged_ids(row: Mapping[str, Any]) -> str | None:
    """Why the ids of the row cannot be used; None where they can, or where there are none."""
    for name in (POS.name, NEG.name):
        ids = row.get(f"{name}_ids")
        if ids and len(ids) != len(row[name]):
            return "not an id for each passage"
    return None
