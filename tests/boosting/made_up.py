"""A run folder without a run: two rounds with numbers that were thought up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

ROUND = Features(
    {
        **{name: Value("string") for name in ("stage", "path", "counts", "measure", "kinds")},
        **{name: Value("int64") for name in ("round", "rows", "queries")},
        **{name: Value("bool") for name in ("synthetic", "kept", "gain")},
        **{
            name: Value("float64")
            for name in ("seconds", "before", "after", "difference", "low", "high", "p_value")
        },
    }
)
SCRIPT = "<script>alert('a query')</script>"


def row_of(round: int, stage: str, **values: Any) -> dict[str, Any]:
    """A row of `rounds`, null where nothing is said."""
    path = None if stage == "test" else f"round-{round}/{stage}"
    given = {"round": round, "stage": stage, "path": path, "seconds": 61.0, **values}
    return {name: given.get(name) for name in ROUND}


def judged(before: float, after: float, p_value: float, **values: Any) -> dict[str, Any]:
    """What a comparison leaves in a row of `rounds`."""
    difference = after - before
    return {
        "measure": "nDCG@10",
        "queries": 1300,
        "synthetic": True,
        "before": before,
        "after": after,
        "difference": difference,
        "low": difference - 0.02,
        "high": difference + 0.02,
        "p_value": p_value,
        "kept": difference >= 0,
        "gain": difference > 0 and p_value < 0.05,
        **values,
    }


def save_rounds(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as `boost` does."""
    Dataset.from_list(rows, features=ROUND).save_to_disk(str(folder / "rounds"))


def save_rows(folder: Path, path: str, columns: Mapping[str, list[Any]]) -> None:
    """Write the rows of a stage."""
    Dataset.from_dict(dict(columns)).save_to_disk(str(folder / path))


def queries_of(round: int) -> dict[str, list[Any]]:
    """Three queries that were kept, one with a tag in it, and one that was dropped."""
    return {
        "query_id": ["a-0", "b-0", "c-0", "d-0"],
        "query": [f"claim {round}", SCRIPT, "title", f"a copy {round}"],
        "kind": ["claim", "question", "title", "claim"],
        "pos_ids": [["a"], ["b"], ["c"], ["d"]],
        "passage": ["word " * 200, "The sun <b>shines</b>.", "Concrete cures.", "Cats purr."],
        "copied": [0.1, 0.2, 0.3, 0.9],
        "dropped": [None, None, None, "copies: 9 of 10 words stand in the passage"],
    }


PAIRS = {
    "query": ["What shines?", "What purrs?"],
    "prompt": ["Answer: What shines?", "Answer: What purrs?"],
    "chosen": ["The sun.", None],
    "rejected": ["A stone.", None],
    "chosen_score": [0.51234, None],
    "rejected_score": [0.25, None],
    "query_score": [0.5, None],
    "pair_note": [None, "no_gain"],
}


def make_run(folder: Path) -> Path:
    """Two rounds: the first retriever is a gain, the second is turned down, the test is a gain."""
    funnel = {"passages": 400, "asked": 800, "written": 760, "near held-out": 3, "kept": 702}
    by_kind = json.dumps({"claim": [0.5, 0.6], "question": [0.7, 0.65]})
    rows = [
        row_of(1, "queries", rows=4, counts=json.dumps(funnel)),
        row_of(1, "preferences", rows=2, counts=json.dumps({"pairs": 1, "no_gain": 1})),
        row_of(1, "generator", **judged(0.61, 0.625, 0.2)),
        row_of(1, "retriever", **judged(0.6, 0.65, 0.0003), kinds=by_kind),
        row_of(2, "queries", rows=4, counts=json.dumps({**funnel, "asked": 600, "leaks": 2})),
        row_of(2, "retriever", seconds=3725.0, **judged(0.65, 0.641, 0.4)),
        row_of(2, "test", seconds=None, **judged(0.58, 0.62, 0.00001), kinds=by_kind),
    ]
    save_rounds(folder, rows)
    for number in (1, 2):
        save_rows(folder, f"round-{number}/queries", queries_of(number))
        model = folder / f"round-{number}" / "retriever"
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"round": number}), encoding="utf-8")
        (model / "model.safetensors").write_bytes(b"weights %d" % number)
    save_rows(folder, "round-1/preferences", PAIRS)
    for split in ("dev", "test"):
        save_rows(folder, f"held_out/{split}", {"query_id": [split], "query": ["held out"]})
    changed = [
        {
            "query_id": str(n),
            "query": f"changed {n}" + "\u2028" * (n == 4),
            "kind": "claim",
            "before": 0.5,
            "after": n / 8,
        }
        for n in range(9)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in changed)
    (folder / "held_out" / "changed.jsonl").write_text(lines, encoding="utf-8")
    settings = json.dumps({"retriever": "bge", "rounds": 2})
    (folder / "settings.json").write_text(settings, encoding="utf-8")
    return folder
