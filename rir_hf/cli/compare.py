"""`rir-hf compare`: two runs and judgements in, their difference with a paired test out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rir_hf.cli.checks import check_sources
from rir_hf.cli.inputs import QrelsOptions
from rir_hf.cli.options import DryRun
from rir_hf.cli.output import check_file, write_json, writing


def command(
    reading: QrelsOptions,
    dry: DryRun,
    run: str,
    other: str,
    data: str | None = None,
    qrels: str | None = None,
    split: str | None = None,
    measures: list[str] = ["nDCG@10", "R@100", "RR@10"],  # noqa: B006 - never changed
    json: str | None = None,
) -> None:
    """Compare two runs query by query, with 95 % intervals and a paired randomisation test.

    rir-hf compare --run after.run --other before.run --data scifact

    Args:
        run: a TREC run file, or what `rir-hf search` wrote.
        other: the one to compare with, from the same.
        data: folder in BEIR or MTEB layout, with judgements.
        qrels: in place of those of the folder, judgements in a TREC or BEIR file.
        split: split that was searched; none: test.
        measures: what is measured: nDCG@10, R@100, RR@10, P@5, AP@100 and the like.
        json: also write the comparison to this file.
    """
    judgements = qrels or data
    if judgements is None:
        raise ValueError("give --data or --qrels")
    from rir_hf import compare
    from rir_hf.cli.evaluate import load_run

    check_file(json, "--json")
    check_sources(data, qrels)
    judged = reading.load(judgements, split, "test")
    found = compare(load_run(run), load_run(other), judged, measures)
    if dry.says(f"compare {run} with {other} by {', '.join(measures)}", *writing(json)):
        return
    show(found, json)


def show(found: Mapping[str, Any], json: str | Path | None) -> None:
    """Write a line for each measure to the standard output, and all to a file."""
    for name, values in found.items():
        mean, other, difference, low, high = (
            100 * values[key] for key in ("mean", "other", "difference", "low", "high")
        )
        gain = f"{difference:+6.2f} ({low:+.2f} to {high:+.2f}), p = {values['p_value']:.4f}"
        sys.stdout.write(f"{name:<12}{mean:>7.2f} over {other:>6.2f}: {gain}\n")
    write_json(found, json)
