"""`rir-hf relabel`: scored rows in, rows without the negatives that are no safe ones out."""

from __future__ import annotations

from rir_hf.cli.options import HubOptions, RunOptions
from rir_hf.cli.output import OutputOptions


def command(
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    rows: str,
    split: str | None = None,
    limit: int | None = None,
    move: float | None = None,
    drop: float | None = 0.0,
    dry: bool = False,
    batch_size: int = 512,
) -> None:
    """Drop negatives that the teacher puts above a positive, or move them to the positives.

    rir-hf relabel --rows scored --dry --output seen
    rir-hf relabel --rows scored --move 1.5 --drop 0.2 --output relabelled

    Args:
        rows: scored rows: a file, a folder, a Hub name.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        move: a negative that scores more than this above the row's weakest positive becomes a
            positive; none: none does. `rir-hf thresholds` fits both.
        drop: one that scores more than this above it, and not enough to be moved, is dropped; null:
            none is.
        dry: only say in the column relabelled, and in the counts, what would change.
        batch_size: rows per batch.
    """
    from rir_hf import RelabelNegatives, load_rows

    output.check()
    hub.check()
    step = RelabelNegatives(move=move, drop=drop, dry=dry)
    relabelled = running.run(load_rows(rows, split, limit=limit), step, batch_size)
    output.finish(relabelled, running, hub, "relabelled", stage="teacher")
