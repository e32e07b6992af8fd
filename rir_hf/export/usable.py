"""Which rows a trainer can use: the others are left out, and counted by reason in one warning."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

logger = logging.getLogger(__name__)


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
        raise ValueError(
            f"{who}: none of the {len(rows)} rows can be used{counts and ': '}{counts}."
        )
    if not lost:
        return rows
    logger.warning("%s leaves out %d of %d rows: %s.", who, lost.total(), len(rows), counts)
    return rows.select([number for number, reason in enumerate(reasons) if reason is None])


def is_text(value: Any) -> bool:
    """Whether a value is a text with something in it.

    Example:
        >>> is_text("truss"), is_text("  "), is_text(None)
        (True, False, False)
    """
    return isinstance(value, str) and bool(value.strip())
