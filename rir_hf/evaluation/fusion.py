"""Several retrieval runs in, one out: by z-scores, by ranks, or by scores brought to 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from datasets import Dataset

from rir_hf.core.columns import Typed, check_at_least, check_choice
from rir_hf.evaluation.rows import in_order
from rir_hf.evaluation.runs import Run, as_run
from rir_hf.schema import HIT_IDS, QUERY_ID

Fusion: TypeAlias = Literal["zscore", "rrf", "minmax"]
FUSIONS = ("zscore", "rrf", "minmax")
Passage = TypeVar("Passage", bound=Hashable)

_RRF_K = 60
_ROUNDING = 1e-7


def fuse(
    runs: Sequence[Run],
    *,
    method: Fusion = "zscore",
    weights: Sequence[float] | None = None,
    depth: int = 100,
) -> Dataset:
    """Fuse retrieval runs, query by query.

    Args:
        runs: two or more, each in any form that `evaluate` takes: rows of `Search`, a dict, or a
            TREC run file.
        method: `"zscore"`: the mean of the scores less their mean, over their standard deviation,
            both over the run's own first `depth` passages; `"minmax"`: the mean of the scores
            brought to 0 to 1 in the same way; `"rrf"`: the sum of 1 / (60 + rank), with ranks from
            1 (reciprocal rank fusion, Cormack et al. 2009). By z-scores and by minmax a passage
            that is not in a run has that run's lowest score. Where a run has one passage, or equal
            scores alone, what it has and what it has not lie as far apart as two passages of
            different scores: at 0 and -2 by z-scores, at 1 and 0 by minmax. A run without any
            passage for a query has no say there.
        weights: one per run, 0 or more. Default: 1 each.
        depth: of each run the first so many passages count, and so many come out.

    Returns:
        Rows of `query_id`, `hit_ids` and `hit_scores`, best first, equal scores as trec_eval orders
        them; a row for each query of any run.

    Raises:
        ValueError: fewer than two runs, another number of weights or none above 0, `depth` below
            1, an unknown method, or a run that `evaluate` would not take.

    Example:
        >>> dense = {"q": {"a": 0.9, "b": 0.7, "c": 0.2}}
        >>> words = {"q": {"b": 12.0, "d": 9.0, "a": 3.0}}
        >>> row = fuse([dense, words])[0]
        >>> row["hit_ids"], [round(score, 2) for score in row["hit_scores"]]
        (['b', 'a', 'd', 'c'], [0.7, -0.16, -0.55, -1.35])
    """
    if isinstance(runs, (str, Mapping, Dataset)) or len(runs) < 2:
        raise ValueError("fuse needs a list of two runs or more.")
    check_choice("method", method, FUSIONS)
    check_at_least("depth", depth, 1)
    weights = checked_weights(weights, len(runs), "run")
    rankings = [as_run(run) for run in runs]
    queries = dict.fromkeys(query for run in rankings for query in run)
    hits = []
    for query in queries:
        best = [first(run.get(query, {}), depth) for run in rankings]
        fused = fused_scores(best, method, weights)
        hits.append({passage: fused[passage] for passage in in_order(fused)[:depth]})
    return Dataset.from_dict(
        {
            "query_id": pa.array(Typed(queries, QUERY_ID.type)),
            "hit_ids": pa.array(Typed((list(found) for found in hits), HIT_IDS.type)),
            "hit_scores": [list(found.values()) for found in hits],
        }
    )


def first(hits: Mapping[str, float], depth: int) -> dict[str, float]:
    """The best passages of a ranking, best first."""
    return {passage: hits[passage] for passage in in_order(hits)[:depth]}


def fused_scores(
    rankings: Sequence[Mapping[Passage, float]], method: Fusion, weights: Sequence[float]
) -> dict[Passage, float]:
    """The fused score of every passage of some rankings, each best first; see `fuse`.

    Example:
        >>> fused_scores([{"a": 3.0, "b": 1.0}, {"b": 5.0}], "rrf", [1, 1])["a"] == 1 / 61
        True
    """
    numbers: dict[Passage, int] = {}
    places = [[numbers.setdefault(name, len(numbers)) for name in hits] for hits in rankings]
    scores = [np.array([*hits.values()], np.float64) for hits in rankings]
    fused = fused_at(places, scores, len(numbers), method, weights)
    return dict(zip(numbers, fused.tolist(), strict=True))


def fused_at(
    places: Sequence[Any],
    scores: Sequence[np.ndarray],
    size: int,
    method: Fusion,
    weights: Sequence[float],
) -> np.ndarray:
    """The same of arrays: the fused scores of `size` passages, `(size,)` float64, from their
    `places` among these, and scores, in each ranking.
    """
    total = 1.0
    if method != "rrf":
        total = sum(weight for weight, own in zip(weights, scores, strict=True) if len(own))
    fused = np.zeros(size)
    for at, own, weight in zip(places, scores, weights, strict=True):
        if len(own):
            made, missing = standardised(own, method)
            every = np.full(size, missing)
            every[at] = made
            fused += (weight / total if total else 0.0) * every
    return fused


def standardised(scores: np.ndarray, method: Fusion) -> tuple[np.ndarray, float]:
    """The scores of one ranking, best first, `(n,)`, made comparable with those of others; and what
    a passage gets that is not in it.

    One score alone, or equal ones, have no spread to measure by. They are above those of all that
    is missing: as far as of any two scores the better is above the worse, by z-scores 2 and by
    minmax 1.

    Example:
        >>> standardised(np.array([5.0, 3.0, 1.0]), "minmax")
        (array([1. , 0.5, 0. ]), 0.0)
        >>> standardised(np.array([5.0, 1.0]), "zscore"), standardised(np.array([5.0]), "zscore")
        ((array([ 1., -1.]), -1.0), (array([0.]), -2.0))
    """
    if method == "rrf":
        return 1.0 / (_RRF_K + np.arange(1, len(scores) + 1)), 0.0
    made = scaled_by(scores, None, method)
    if not made.any():  # no spread
        return (made + 1.0, 0.0) if method == "minmax" else (made, -2.0)
    return made, float(made.min())


def z_scores(values: np.ndarray, sample: np.ndarray | None = None) -> np.ndarray:
    """Values less the mean of a sample, by default of themselves, over its standard deviation; 0
    where that is all equal but for rounding, and in place of a NaN.

    Example:
        >>> z_scores(np.array([1.0, 3.0, np.nan])).tolist()
        [-1.0, 1.0, 0.0]
    """
    known = _known(values if sample is None else sample)
    if not len(known):
        return np.zeros(len(values))
    mean = known.mean()
    spread = math.sqrt(np.square(known - mean).mean())
    if spread <= _ROUNDING * max(abs(known.min()), abs(known.max())):
        return np.zeros(len(values))
    scaled = (values - mean) / spread
    return np.where(np.isnan(scaled), 0.0, scaled)


def min_max(values: np.ndarray, sample: np.ndarray | None = None) -> np.ndarray:
    """Values brought to 0 to 1 by the least and greatest of a sample, by default of themselves; 0
    where that is all equal but for rounding, and its average in place of a NaN.
    """
    known = _known(values if sample is None else sample)
    if not len(known) or np.ptp(known) <= _ROUNDING * np.abs(known).max():
        return np.zeros(len(values))
    scaled = (values - known.min()) / np.ptp(known)
    average = (known.mean() - known.min()) / np.ptp(known)
    return np.where(np.isnan(scaled), average, scaled)


def scaled_by(values: np.ndarray, sample: np.ndarray | None, method: Fusion) -> np.ndarray:
    """Values standardised by what a ranking scores.

    Args:
        values: `(n,)`, NaN for what is unknown, which comes out as the sample's average.
        sample: the scores of the ranking; what is below them all counts as the least of them. None:
            the values themselves.
        method: `"zscore"` or `"minmax"`.

    Example:
        >>> scaled_by(np.array([5.0, 0.0, np.nan]), np.array([3.0, 1.0]), "zscore").tolist()
        [3.0, -1.0, 0.0]
    """
    scale = z_scores if method == "zscore" else min_max
    if sample is None:
        return scale(values)
    if not len(sample):
        return np.zeros(len(values))
    sample = sample.astype(np.float64)
    return scale(np.where(values < sample.min(), sample.min(), values), sample)


def checked_weights(weights: Sequence[float] | None, number: int, what: str) -> list[float]:
    """The weights as floats, 1 each by default.

    Raises:
        ValueError: another number of weights, one that is negative or no number, or none above 0.
    """
    if isinstance(weights, (str, Mapping)):
        raise ValueError(f"weights must be a list, one number per {what} in order, got {weights}.")
    given = [1.0] * number if weights is None else [float(weight) for weight in weights]
    if len(given) != number or not np.isfinite(given).all() or min(given) < 0 or not sum(given):
        raise ValueError(
            f"weights must be {number} numbers of 0 or more, one per {what} and one at least above "
            f"0, got {weights}."
        )
    return given


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]
