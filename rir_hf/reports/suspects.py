"""Rows in, the most suspicious of them out as lines for a terminal."""

from __future__ import annotations

import math
from typing import Any

from datasets import Dataset

from rir_hf.core.texts import on_one_line
from rir_hf.reports.counts import as_table
from rir_hf.reports.page_data import look_at, page_data

ROWS = 10_000
"""So many rows are looked at, which takes up to a minute; a page looks at all."""

_SHOWN = ("passages", "chosen")


def suspects_as_lines(
    ds: Dataset, output: str = "neg", *, size: int = 5, width: int = 100
) -> list[str]:
    r"""How many rows are suspicious and why, and the most suspicious ones, as on the page.

    Args:
        ds: rows as `write_report` takes them, of which it looks at the first 10,000; of others
            nothing is said.
        output: as for `write_report`.
        size: how many rows are shown.
        width: characters of a line, after which it is cut.

    Example:
        >>> rows = Dataset.from_dict({
        ...     "query": ["what purrs", "what barks"], "pos": [["Cats."], ["Dogs."]],
        ...     "neg": [["Cars."], ["Seals."]], "pos_scores": [[2.0], [1.0]],
        ...     "neg_scores": [[1.0], [3.0]],
        ... })
        >>> print(*suspects_as_lines(rows), sep="\n")
        suspicious_rows                             1
          teacher disagrees                         1
        row 1: what barks
          negative 1: Seals.
          The teacher puts negative 1 (3) above positive 1 (1).
    """
    if not {output, *_SHOWN} & set(ds.column_names):
        return []
    rows = ds.take(ROWS)
    data = page_data(rows, look_at(rows, output), output, size)
    name = "suspicious_rows" if len(ds) <= ROWS else f"suspicious_rows of the first {ROWS:,}"
    kinds = {f"  {title}": number for title, number in data["kinds"].values()}
    lines = as_table({name: data["suspects"], **kinds}).splitlines()
    for row in data["rows"]:
        lines += [_cut(line, width) for line in _lines_of(row)]
    return lines


def _lines_of(row: dict[str, Any]) -> list[str]:
    """A suspicious row: its query, the negative that is meant, and why; nothing for another."""
    lines = []
    for found in row.get("suspicions", [])[:1]:
        lines = [f"row {row['number']}: {row.get('query')}"]
        negatives = row.get("negatives") or row.get("rejected", [])
        hardest = sorted(range(len(negatives)), key=lambda place: -_number_of(negatives[place]))
        for place in (found["negatives"] or hardest)[:1]:
            lines.append(f"  negative {place + 1}: {negatives[place].get('text')}")
        lines.append(f"  {found['reason']}")
    return lines


def _number_of(passage: dict[str, Any]) -> float:
    """The teacher's score, or the similarity where there is none."""
    return float(passage.get("score", passage.get("similarity", -math.inf)))


def _cut(line: str, width: int) -> str:
    indent = "  " if line.startswith("  ") else ""
    line = indent + on_one_line(line)
    return line if len(line) <= width else f"{line[: width - 4]} ..."
