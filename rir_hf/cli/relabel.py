"""`rir-hf relabel`: scored rows in, rows whose false negatives are moved or taken out."""

from __future__ import annotations

from typing import Literal

from rir_hf.cli.options import HubOptions, RunOptions
from rir_hf.cli.output import OutputOptions


def command(
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    rows: str,
    split: str = "train",
    margin: float = 0.0,
    action: Literal["move", "drop"] = "move",
    batch_size: int = 512,
) -> None:
    """Move negatives that the teacher puts above every positive to the positives, or take them out.

    Args:
        rows: scored rows: a file, a folder, a Hub name.
        split: which split, where there are several.
        margin: by how much a negative must score above the best positive.
        action: move: to the positives; drop: out of the row.
        batch_size: rows per batch.
    """
    from rir_hf import RelabelNegatives, load_rows, report

    output.check()
    step = RelabelNegatives(margin=margin, action=action)
    relabelled = running.run(load_rows(rows, split), step, batch_size)
    output.save(relabelled, lines="relabelled.jsonl", summary=report(relabelled))
    hub.push(relabelled, "relabelled")
