"""Numbers in, the shapes of their charts out, in the units of an SVG that the page's template draws
in the colours of the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rir_hf.reports.page_data import Looked

WIDTH, HEIGHT = 360, 160
_LEFT, _RIGHT, _TOP, _BASE = 36, 352, 14, 126
_BINS = 30
_MARGIN = "lowest positive less best negative"
_CELLS = (32, 14)
_RANKS = {"1": 0, "2-5": 1, "6-10": 5, "11-20": 10, "21-100": 20, "over 100": 100}
# Labels count from 1, and the ranks that they begin with from 0.

Chart = dict[str, Any]


def charts_of(looked: Looked) -> list[Chart]:
    """The charts for which there are numbers: similarities, scores, margins, ranks, and the
    teacher's margins against the retriever's.

    Example:
        >>> from datasets import Dataset
        >>> from rir_hf.reports.page_data import look_at
        >>> rows = Dataset.from_dict({
        ...     "query": ["q", "r"], "pos": [["a"], ["b"]], "neg": [["c"], ["d"]],
        ...     "pos_scores": [[2.0], [1.0]], "neg_scores": [[1.0], [3.0]],
        ... })
        >>> [chart["title"] for chart in charts_of(look_at(rows))]
        ["The teacher's scores", "The teacher's margins"]
    """
    values = looked.values
    sims = {name: values[name, "similarity"] for name in ("positives", "negatives")}
    scores = {name: values[name, "score"] for name in ("positives", "negatives", "passages")}
    answers = {name: values[name, "similarity"] for name in ("chosen", "rejected")}
    by_sims, by_scores = looked.margins["similarity"], looked.margins["score"]
    charts = [
        histogram("Similarity to the query", "similarity", sims),
        histogram("Similarity to the passage", "similarity", answers),
        histogram("The retriever's margins", _MARGIN, {"rows": by_sims[~np.isnan(by_sims)]}),
        ranks("Where the best positive ranks", looked.ranks),
        histogram("The teacher's scores", "score", scores),
        histogram("The teacher's margins", _MARGIN, {"rows": by_scores[~np.isnan(by_scores)]}),
        scatter("Teacher against retriever", by_sims, by_scores),
    ]
    return [chart for chart in charts if chart is not None]


def histogram(title: str, axis: str, groups: Mapping[str, np.ndarray]) -> Chart | None:
    """The shares of each group's values that lie in a bin; None for fewer than two values."""
    groups = {name: values for name, values in groups.items() if len(values)}
    every = np.concatenate([*groups.values(), []])
    if len(every) < 2:
        return None
    edges = np.histogram_bin_edges(every, _BINS)
    shares = {name: np.histogram(of, edges)[0] / len(of) for name, of in groups.items()}
    highest = max(share.max() for share in shares.values())
    across = _Axis(edges[0], edges[-1], _LEFT, _RIGHT)
    medians = {name: f"{np.median(of):.3g}" for name, of in groups.items()}
    series = [
        {
            "name": name,
            "path": _steps(across(edges), share / highest),
            "median": f"{name} (median {medians[name]})",
        }
        for name, share in shares.items()
    ]
    says = "; ".join(f"{len(of):,} {name}, median {medians[name]}" for name, of in groups.items())
    if axis == _MARGIN:
        says += f", {100 * np.mean(every < 0):.0f} % below 0"
    return {"title": title, "axis": axis, "says": says, "series": series, **across.drawn()}


def ranks(title: str, found: np.ndarray) -> Chart | None:
    """How many rows' best positive lies in each range of ranks, 0 the first, NaN for none; None
    without any.
    """
    known = found[~np.isnan(found)]
    if not len(known):
        return None
    numbers = np.histogram(known, [*_RANKS.values(), np.inf])[0].tolist()
    labels = list(_RANKS)
    missing = len(found) - len(known)
    if missing:
        labels, numbers = [*labels, "unknown"], [*numbers, missing]
    width = (_RIGHT - 8) / len(labels)
    bars = [
        {
            "x": round(8 + place * width + 4, 1),
            "width": round(width - 8, 1),
            "height": round((_BASE - _TOP - 10) * number / max(numbers), 1),
            "number": f"{number:,}",
            "label": label,
        }
        for place, (label, number) in enumerate(zip(labels, numbers, strict=True))
    ]
    says = f"in {100 * numbers[0] / len(found):.0f} % of the rows it is the first"
    return {"title": title, "axis": "rank", "says": says, "bars": bars}


def scatter(title: str, across: np.ndarray, up: np.ndarray) -> Chart | None:
    """A dot where rows lie, the larger the more of them, for rows in which neither is NaN."""
    are_both = ~np.isnan(across) & ~np.isnan(up)
    xs, ys = across[are_both], up[are_both]
    if len(xs) < 2:
        return None
    counts, x_edges, y_edges = np.histogram2d(xs, ys, _CELLS)
    x_axis = _Axis(x_edges[0], x_edges[-1], _LEFT + 6, _RIGHT - 6)
    y_axis = _Axis(y_edges[0], y_edges[-1], _BASE - 6, _TOP + 2)
    filled = counts > 0
    sums = [np.histogram2d(xs, ys, _CELLS, weights=of)[0][filled] for of in (xs, ys)]
    centers = zip(*(total / counts[filled] for total in sums), counts[filled], strict=True)
    dots = [
        {"x": x_axis(x), "y": y_axis(y), "r": round(1.2 + 3.6 * math.sqrt(n / counts.max()), 1)}
        for x, y, n in centers
    ]
    share = 100 * np.mean(ys < 0)
    says = f"in {share:.0f} % of {len(ys):,} rows the teacher puts a negative above a positive"
    return {
        "title": title,
        "axis": "the retriever's margin; upwards the teacher's",
        "says": says,
        "dots": dots,
        **x_axis.drawn(),
        "rows_up": y_axis.drawn(),
    }


class _Axis:
    """Values to places, and where the ticks are."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, values: Any) -> Any:
        share = (np.asarray(values, float) - self.low) / (self.high - self.low or 1.0)
        return np.round(self.start + share * (self.end - self.start), 1)

    def drawn(self) -> dict[str, Any]:
        """The ticks, and the place of 0 where it lies inside."""
        ticks = [{"at": float(self(tick)), "label": f"{tick:g}"} for tick in self._round_values()]
        zero = float(self(0.0)) if self.low <= 0 <= self.high else None
        return {"ticks": ticks, "zero": zero}

    def _round_values(self) -> list[float]:
        """Three to seven round numbers from the lowest to the highest."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / 3))
        step = max(factor * power for factor in (1, 2, 5) if factor * power <= span / 3)
        first = math.ceil(self.low / step)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step) + 1)]


def _steps(edges: np.ndarray, heights: np.ndarray) -> str:
    """The outline of a histogram as the `d` of a path; heights from 0 to 1."""
    tops = np.round(_BASE - heights * (_BASE - _TOP), 1)
    steps = "".join(f"V{top}H{end}" for top, end in zip(tops, edges[1:], strict=True))
    return f"M{edges[0]} {_BASE}{steps}V{_BASE}Z"
