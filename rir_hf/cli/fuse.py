"""`rir-hf fuse`: two runs or more in, one out."""

from __future__ import annotations

import logging
from typing import Literal

from rir_hf.cli.options import DryRun
from rir_hf.cli.output import check_file

logger = logging.getLogger(__name__)


def command(
    dry: DryRun,
    runs: list[str],
    run_file: str,
    method: Literal["zscore", "rrf", "minmax"] = "zscore",
    weights: list[float] | None = None,
    depth: int = 100,
) -> None:
    """Fuse retrieval runs into one.

    rir-hf fuse --runs dense.run words.run --run_file both.run

    Args:
        runs: TREC run files, or what `rir-hf search` wrote.
        run_file: the file of the fused run, as TREC tools read it.
        method: the mean of z-scores, reciprocal ranks, or the mean of scores brought to 0 to 1.
        weights: of the runs, in their order; none: 1 each.
        depth: of each run the first so many passages count, and so many come out.
    """
    from rir_hf import fuse, write_run
    from rir_hf.cli.evaluate import load_run

    check_file(run_file, "--run_file")
    found = fuse([load_run(run) for run in runs], method=method, weights=weights, depth=depth)
    if dry.says(f"write a run of {len(found):,} queries to {run_file}"):
        return
    write_run(found, run_file)
    logger.info("Written to %s: %d queries", run_file, len(found))
