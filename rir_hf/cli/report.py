"""`rir-hf report`: rows of any stage in, what they hold out, counted and drawn."""

from __future__ import annotations

import logging
import shutil
import sys

from rir_hf.cli.options import DryRun
from rir_hf.cli.output import check_file, write_json, writing

logger = logging.getLogger(__name__)


def command(
    dry: DryRun,
    rows: str,
    split: str | None = None,
    limit: int | None = None,
    negatives: str = "neg",
    plot: str | None = None,
    json: str | None = None,
    html: str | None = None,
) -> None:
    """Count what a dataset holds, what is missing in it and why, and show its most suspicious rows.

    rir-hf report --rows mined --plot mined.png --html mined.html

    Args:
        rows: rows of any stage: a file, a folder, a Hub name.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        negatives: column of the negatives: neg, or neg_answer for those of the answer.
        plot: also draw the similarities of mined rows into this picture.
        json: also write the counts to this file.
        html: also write one page on which to look at the rows, the most suspicious ones first.
    """
    from rir_hf import as_table, load_rows, plot_report, write_report
    from rir_hf.core.columns import require_columns
    from rir_hf.reports.counts import count_stages
    from rir_hf.reports.suspects import suspects_as_lines

    check_file(plot, "--plot")
    check_file(json, "--json")
    check_file(html, "--html")
    found = load_rows(rows, split, limit=limit)
    if negatives != "neg":
        require_columns(found, [negatives], "--negatives")
    counts = count_stages(found, negatives)
    if dry.says(f"count what {len(found):,} rows hold", *writing(json, plot, html)):
        return
    width = shutil.get_terminal_size((100, 24)).columns
    lines = [as_table(counts), *suspects_as_lines(found, negatives, width=width)]
    sys.stdout.write("\n".join(lines) + "\n")
    write_json(counts, json)
    if plot is not None:
        plot_report(found, plot, output=negatives)
    if html is not None:
        write_report(found, html, output=negatives)
        logger.info("Written to %s", html)
