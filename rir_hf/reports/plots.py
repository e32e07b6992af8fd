"""Pictures of mined rows: similarities, their differences, and where the positives rank."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import require_dataset
from rir_hf.reports.counts import (
    BADLY_RANKED,
    Mined,
    differences,
    known_ranks,
    known_similarities,
    numbers_in,
    read_mined,
)


def plot_report(ds: Dataset, path: str | os.PathLike[str], *, output: str = "neg") -> None:
    """Draw mined rows as one PNG: similarities, their differences, ranks of positives.

    On the left, negatives that lie where the positives do may be false negatives. In the middle,
    what is left of 0 are rows with a negative more similar than a positive. On the right, the share
    of rows whose best positive is among the first. Needs the extra `plot`.

    Args:
        ds: rows from `MineNegatives`.
        path: the file to write.
        output: the name that `MineNegatives` was given for its column of negatives.

    Raises:
        ImportError: matplotlib is missing.
        TypeError, ValueError: not one dataset, or not mined.

    Example:
        >>> import tempfile
        >>> rows = Dataset.from_dict({
        ...     "pos_sims": [[0.9]], "pos_rank": [0], "neg_sims": [[0.7, 0.4]],
        ...     "neg_note": [None], "neg_skipped": [None],
        ... })
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_report(rows, f"{folder}/report.png")
        ...     os.listdir(folder)
        ['report.png']
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'plot_report draws with matplotlib: pip install "rir-hf[plot]".'
        ) from error

    require_dataset(ds, "plot_report")
    mined = read_mined(ds, output)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_similarities(left, mined)
    _draw_differences(middle, mined)
    _draw_ranks(right, mined)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _draw_similarities(axes: Any, mined: Mined) -> None:
    for label, rows in (("positives", known_similarities(mined)), ("negatives", mined.sims)):
        values = numbers_in(similarity for row in rows for similarity in row or ())
        shares, edges = np.histogram(values, 40, density=len(values) > 0)
        axes.stairs(shares, edges, fill=True, alpha=0.7, label=label)
    axes.set(title="Similarity to the query", xlabel="inner product", ylabel="density")
    axes.legend()


def _draw_differences(axes: Any, mined: Mined) -> None:
    axes.stairs(*np.histogram(numbers_in(differences(mined)), 40), fill=True, color="tab:gray")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(
        title="Lowest positive less best negative",
        xlabel="difference of similarities",
        ylabel="rows",
    )


def _draw_ranks(axes: Any, mined: Mined) -> None:
    """The share of all rows whose best positive is among the first 1, 2, 3, ... passages."""
    ranks, counts = np.unique(numbers_in(known_ranks(mined)), return_counts=True)
    shares = counts.cumsum() / max(1, len(mined.ranks))
    axes.plot(ranks + 1, shares, drawstyle="steps-post")
    axes.axvline(BADLY_RANKED, color="black", linewidth=0.8, linestyle=":")
    axes.set(
        title="Rank of the best positive",
        xlabel="rank (1 is first)",
        ylabel="share of rows found by this rank",
        ylim=(0, 1.02),
    )
    axes.set_xscale("log")
