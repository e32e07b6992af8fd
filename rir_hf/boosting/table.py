"""The table of a run, a row for each round and stage, and what became of each test query."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

from rir_hf.boosting.record import RunFolder, Stage, rows_of

FEATURES = Features(
    {
        "round": Value("int64"),
        **dict.fromkeys(("stage", "path", "counts", "measure", "kinds"), Value("string")),
        **dict.fromkeys(("rows", "queries"), Value("int64")),
        **dict.fromkeys(("seconds", "before", "after", "difference"), Value("float64")),
        **dict.fromkeys(("low", "high", "p_value"), Value("float64")),
        **dict.fromkeys(("synthetic", "kept", "gain"), Value("bool")),
    }
)
"""The columns of the table of rounds."""


def row_of(
    number: int, stage: Stage, verdicts: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """The row of a stage in `rounds`."""
    name = stage.name.rpartition("/")[2]
    counts = {key: value for key, value in stage.counts.items() if key != "rows"}
    return {
        "round": number,
        "stage": name if number else f"held_out {name}",
        "path": stage.name,
        "rows": stage.counts.get("rows"),
        "seconds": stage.seconds,
        "counts": json.dumps(counts),
        **(verdicts or {}).get(name, {}),
    }


def write_table(folder: RunFolder, rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """The table of all rounds so far, as a dataset and as JSON lines."""
    whole = [{name: row.get(name) for name in FEATURES} for row in rows]
    table = rows_of(whole, FEATURES)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in whole)
    (folder.root / "rounds.jsonl").write_text(lines, encoding="utf-8")
    part = folder.root / ".rounds.part"
    shutil.rmtree(part, ignore_errors=True)
    table.save_to_disk(part)
    shutil.rmtree(folder.root / "rounds", ignore_errors=True)
    part.rename(folder.root / "rounds")
    return table


def write_changed(
    file: Path, test: Stage, before: Mapping[str, float], after: Mapping[str, float]
) -> None:
    """The measure of each test query with the first and the last retriever, as JSON lines."""
    lines = [
        json.dumps(
            {
                "query_id": row["query_id"],
                "query": row["query"],
                "kind": row["kind"],
                "before": before[row["query_id"]],
                "after": after[row["query_id"]],
            },
            ensure_ascii=False,
        )
        for row in test.rows()
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
