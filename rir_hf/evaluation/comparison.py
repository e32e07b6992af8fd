"""Whether one run is better than another, and how far a mean can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from rir_hf.evaluation.metrics import DEFAULT_MEASURES, evaluate
from rir_hf.evaluation.runs import Qrels, Run, as_qrels

_RESAMPLED_AT_ONCE = 1 << 22


def compare(
    run: Run,
    other: Run,
    qrels: Qrels,
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Compare two runs query by query, by the paired randomisation test (Smucker et al. 2007).

    Args:
        run: the run that may be better, in any form that `evaluate` takes.
        other: the run to compare it with.
        qrels: the judgements.
        measures: as for `evaluate`.
        level: confidence level of the interval, between 0 and 1.
        resamples: random sign flips and bootstrap samples; few queries are enumerated exactly.
        seed: of the resampling.

    Returns:
        For each measure `mean` (of `run`), `other` (mean of `other`), `difference` (the first less
        the second), `low` and `high` (bootstrap interval of the difference), and `p_value` (of no
        difference, two-sided).

    Raises:
        ValueError: as for `evaluate`, or a single judged query.

    Example:
        >>> qrels = {str(number): {"a": 1} for number in range(8)}
        >>> better = {query: {"a": 0.9, "b": 0.5} for query in qrels}
        >>> worse = {query: {"a": 0.1, "b": 0.5} for query in qrels}
        >>> found = compare(better, worse, qrels, ["RR@10"])["RR@10"]
        >>> found["difference"], found["p_value"]
        (0.5, 0.0078125)
    """
    judged = as_qrels(qrels)
    values = evaluate(run, judged, measures, per_query=True)
    others = evaluate(other, judged, measures, per_query=True)
    found: dict[str, dict[str, float]] = {}
    for measure in measures:
        one, two = _column(values, measure), _column(others, measure)
        tested = paired_test(one - two, level=level, resamples=resamples, seed=seed)
        found[measure] = {"mean": float(one.mean()), "other": float(two.mean()), **tested}
    return found


def confidence_interval(
    queries: Dataset, measure: str, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of a measure's mean over queries (percentile method).

    Args:
        queries: rows per query, from `evaluate(..., per_query=True)`.
        measure: name of a column, `"nDCG@10"`.
        level: confidence level, between 0 and 1.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        Lower and upper bound.

    Raises:
        ValueError: something else than such rows, no row, or no such column.

    Example:
        >>> rows = Dataset.from_dict({"query_id": ["a", "b", "c", "d"], "RR": [1.0, 0.5, 0.5, 1.0]})
        >>> confidence_interval(rows, "RR")
        (0.5, 1.0)
    """
    return interval_of_mean(_column(queries, measure), level=level, resamples=resamples, seed=seed)


def paired_test(
    differences: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """The mean of paired differences, `(queries,)`, its bootstrap interval, and the p-value of 0.

    Example:
        >>> paired_test(np.full(8, 0.5))
        {'difference': 0.5, 'low': 0.5, 'high': 0.5, 'p_value': 0.0078125}
    """
    from scipy.stats import permutation_test

    if len(differences) == 1:
        raise ValueError("A single query is judged: a paired test needs two at least.")
    low, high = interval_of_mean(differences, level=level, resamples=resamples, seed=seed)
    test = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, _RESAMPLED_AT_ONCE // len(differences)),
        rng=np.random.default_rng(seed),
    )
    mean, p_value = float(differences.mean()), float(test.pvalue)
    return {"difference": mean, "low": low, "high": high, "p_value": p_value}


def interval_of_mean(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the mean of some values, `(n,)`; of equal values it is their value."""
    from scipy.stats import bootstrap

    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        method="percentile",
        batch=max(1, _RESAMPLED_AT_ONCE // len(values)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _column(queries: Dataset, measure: str) -> np.ndarray:
    if not isinstance(queries, Dataset):
        raise ValueError(
            "Rows per query are wanted, from evaluate(..., per_query=True); got "
            f"{type(queries).__name__}."
        )
    if measure not in queries.column_names:
        raise ValueError(f"No measure {measure!r} in the rows, only {queries.column_names}.")
    if len(queries) == 0:
        raise ValueError("There are no queries to compare.")
    return np.asarray(queries.with_format(None)[measure][:], np.float64)
