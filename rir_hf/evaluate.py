"""Judgements and a run in, metrics out, as trec_eval computes them: averages, rows per query, intervals and paired tests.

A run is a dict `{query_id: {passage_id: score}}`, a dataset with `query_id`, `hit_ids` and `hit_scores` as `Search` makes it, or a
TREC run file read with `read_run`. Judgements (qrels) are a dict `{query_id: {passage_id: relevance}}`, from `read_qrels` for one.

Two things differ from averaging by hand. Ties are broken as trec_eval breaks them, by passage id in descending order, in MRR
too. And every judged query counts: one without any hit counts as zero.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

METRICS = {
    "recall": ("Recall", "recall"),
    "mrr": ("MRR", None),
    "ndcg": ("NDCG", "ndcg_cut"),
    "map": ("MAP", "map_cut"),
    "precision": ("Precision", "P"),
}
"""For each metric the name users see, `Recall@10`, and trec_eval's name. MRR is cut from its reciprocal rank."""

_RESAMPLED_AT_ONCE = 1 << 22

_OF_A_RUN = ("query_id", "hit_ids", "hit_scores")

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]] | Dataset | IterableDataset


def evaluate(
    metrics: Sequence[str],
    k_values: Sequence[int],
    ground_truths: Qrels,
    predicts: Sequence[Sequence[int | str]] | np.ndarray,
    scores: Sequence[Sequence[float]] | np.ndarray,
) -> dict[str, dict[str, float]]:
    """Evaluate lists of predictions, row i of which belongs to the query `str(i)`.

    Args:
        metrics: of `"recall"`, `"mrr"`, `"ndcg"`, `"map"`, `"precision"`.
        k_values: cut-offs.
        ground_truths: for each query id the relevant passage ids and their grades.
        predicts: passage ids per query, ints or strings, lists or arrays, of any lengths; -1 is padding and ignored.
        scores: their scores, of the same shape; they decide the order.

    Returns:
        For each metric its values by name and cut-off, rounded to five places.

    Example:
        >>> truths = {"0": {"0": 1, "5": 1}, "1": {"2": 1, "7": 1, "9": 1}}
        >>> predicts = [[0, 3, 5, 1], [2, 7, 1, 9]]
        >>> evaluate(["recall", "mrr"], [1, 4], truths, predicts, [[0.9, 0.8, 0.7, 0.6]] * 2)
        {'recall': {'Recall@1': 0.41667, 'Recall@4': 1.0}, 'mrr': {'MRR@1': 1.0, 'MRR@4': 1.0}}
    """
    if len(predicts) != len(scores):
        raise ValueError(f"predicts and scores must be of one length, got {len(predicts)} and {len(scores)}.")
    run: dict[str, dict[str, float]] = {}
    for row, (ids, values) in enumerate(zip(predicts, scores, strict=True)):
        if len(ids) != len(values):
            raise ValueError(f"predicts and scores must be of one shape, row {row} has {len(ids)} ids and {len(values)} scores.")
        run[str(row)] = _best_of_repeats(ids, values)
    return evaluate_better(metrics, k_values, ground_truths, run)


def evaluate_better(
    metrics: Sequence[str], k_values: Sequence[int], ground_truths: Qrels, retrieval_results: Run
) -> dict[str, dict[str, float]]:
    """Evaluate a run.

    Args:
        metrics: of `"recall"`, `"mrr"`, `"ndcg"`, `"map"`, `"precision"`.
        k_values: cut-offs.
        ground_truths: for each query id the relevant passage ids and their grades.
        retrieval_results: the run, a dict or a dataset made by `Search`.

    Returns:
        For each metric its values by name and cut-off, rounded to five places.

    Example:
        >>> evaluate_better(["ndcg"], [10], {"q": {"a": 1}}, {"q": {"b": 0.9, "a": 0.5}})
        {'ndcg': {'NDCG@10': 0.63093}}
    """
    rows = evaluate_queries(metrics, k_values, ground_truths, retrieval_results)
    return {metric: {name: round(float(np.mean(rows[name][:])), 5) for name in _names(metric, k_values)} for metric in metrics}


def evaluate_mrr(qrels: Qrels, results: Run, k_values: Sequence[int]) -> dict[str, float]:
    """Mean reciprocal rank of the first relevant passage, by cut-off, rounded to five places.

    Example:
        >>> evaluate_mrr({"q": {"a": 1}}, {"q": {"b": 0.9, "a": 0.5}}, [1, 10])
        {'MRR@1': 0.0, 'MRR@10': 0.5}
    """
    return evaluate_better(["mrr"], k_values, qrels, results)["mrr"]


def evaluate_queries(metrics: Sequence[str], k_values: Sequence[int], qrels: Qrels, run: Run) -> Dataset:
    """Metrics of each judged query, one row per query in the order of the qrels.

    Returns:
        A dataset with `query_id`, a column per metric and cut-off (`NDCG@10`), and `num_relevant`.

    Example:
        >>> evaluate_queries(["mrr"], [10], {"q": {"a": 1}}, {"q": {"b": 0.9, "a": 0.5}})[0]
        {'query_id': 'q', 'MRR@10': 0.5, 'num_relevant': 1}
    """
    if isinstance(metrics, str):
        raise ValueError(f"metrics must be a list, as in [{metrics!r}].")
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"Unknown metric {metric!r}: choose from {sorted(METRICS)}.")
    if not metrics or not k_values or min(k_values) < 1:
        raise ValueError(f"metrics and k_values must not be empty, and every k at least 1, got {metrics} and {k_values}.")
    judged = {str(query): {str(passage): int(grade) for passage, grade in docs.items()} for query, docs in qrels.items()}
    if not judged:
        raise ValueError("The qrels are empty: there is nothing to evaluate against.")
    measured = _measure(metrics, k_values, judged, _checked(as_run(run), judged))
    columns: dict[str, list[Any]] = {"query_id": list(judged)}
    for metric in metrics:
        for name, k in zip(_names(metric, k_values), k_values, strict=True):
            columns[name] = [_value(measured.get(query, {}), metric, k) for query in judged]
    columns["num_relevant"] = [sum(grade > 0 for grade in docs.values()) for docs in judged.values()]
    return Dataset.from_dict(columns)


def confidence_interval(
    queries: Dataset, metric: str, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of a metric's mean over queries (percentile method, scipy's `bootstrap`).

    Args:
        queries: rows from `evaluate_queries`.
        metric: name of a column, `"NDCG@10"`.
        level: confidence level.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        Lower and upper bound.

    Example:
        >>> rows = Dataset.from_dict({"query_id": ["a", "b", "c", "d"], "MRR@10": [1.0, 0.5, 0.5, 1.0]})
        >>> confidence_interval(rows, "MRR@10")
        (0.5, 1.0)
    """
    from scipy.stats import bootstrap

    values = _column(queries, metric)
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


def compare_runs(
    queries: Dataset, baseline: Dataset, metric: str, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Paired randomisation test between two runs over the same queries (Smucker et al. 2007).

    Args:
        queries, baseline: rows from `evaluate_queries`, with the same query ids.
        metric: name of a column, `"NDCG@10"`.
        level: confidence level of the interval.
        resamples: random sign flips and bootstrap samples; few queries are enumerated exactly.
        seed: of the resampling.

    Returns:
        `difference` (mean of queries less baseline), `low` and `high` (bootstrap interval of the difference), `p_value`
        (two-sided).

    Example:
        >>> ids = [str(n) for n in range(8)]
        >>> better = Dataset.from_dict({"query_id": ids, "MRR@10": [1.0] * 8})
        >>> worse = Dataset.from_dict({"query_id": ids, "MRR@10": [0.5] * 8})
        >>> compare_runs(better, worse, "MRR@10")["p_value"]
        0.0078125
    """
    from scipy.stats import permutation_test

    other = dict(zip(baseline["query_id"], _column(baseline, metric), strict=True))
    if set(other) != set(queries["query_id"]):
        raise ValueError("The two runs must cover the same queries: evaluate both against the same qrels.")
    differences = _column(queries, metric) - np.array([other[query] for query in queries["query_id"]])
    paired = Dataset.from_dict({metric: differences})
    low, high = confidence_interval(paired, metric, level=level, resamples=resamples, seed=seed)
    test = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, _RESAMPLED_AT_ONCE // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return {"difference": float(differences.mean()), "low": low, "high": high, "p_value": float(test.pvalue)}


def as_run(run: Run) -> dict[str, dict[str, float]]:
    """A run as a dict, from a dict or from a dataset or stream with `query_id`, `hit_ids` and `hit_scores`."""
    if isinstance(run, Mapping):
        return {str(query): {str(passage): float(score) for passage, score in hits.items()} for query, hits in run.items()}
    missing = set(_OF_A_RUN) - set(run.column_names or _OF_A_RUN)
    if missing:
        raise ValueError(f"A run needs the columns query_id, hit_ids and hit_scores; {sorted(missing)} are missing.")
    rows = zip(*(run[name][:] for name in _OF_A_RUN), strict=True) if isinstance(run, Dataset) else map(itemgetter(*_OF_A_RUN), run)
    hits: dict[str, dict[str, float]] = {}
    for query, ids, scores in rows:
        found = _best_of_repeats(ids, scores)
        if not _is_same(hits.setdefault(str(query), found), found):
            raise ValueError(f"The run has several rows with query_id {query!r} and different hits: keep one row per query.")
    return hits


def read_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    """Judgements from a file: TREC (`query 0 passage grade`) or BEIR (`query-id corpus-id score`, tab-separated, with a header)."""
    qrels: dict[str, dict[str, int]] = {}
    with Path(path).open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(file, 1):
            fields = line.strip().split("\t") if line.count("\t") == 2 else line.split()
            if not fields or (number == 1 and fields[-1].lower() in ("score", "relevance")):
                continue
            if len(fields) not in (3, 4):
                raise ValueError(f"{path}, line {number}: expected 3 (BEIR) or 4 (TREC) fields, found {len(fields)}: {line!r:.80}.")
            grade = _number(fields[-1], path, number)
            if not grade.is_integer():
                raise ValueError(f"{path}, line {number}: expected a whole number, found {fields[-1]!r}.")
            qrels.setdefault(fields[0], {})[fields[-2]] = int(grade)
    return qrels


def write_qrels(qrels: Qrels, path: str | os.PathLike[str]) -> None:
    """Write judgements as trec_eval reads them."""
    lines = (f"{_id(query)} 0 {_id(passage)} {grade}\n" for query, docs in qrels.items() for passage, grade in docs.items())
    _write(lines, path)


def read_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """A TREC run file (`query Q0 passage rank score tag`); order comes from the scores, as in trec_eval."""
    run: dict[str, dict[str, float]] = {}
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 6:
                raise ValueError(f"{path}, line {number}: expected 6 fields, found {len(fields)}: {line!r:.80}.")
            run.setdefault(fields[0], {})[fields[2]] = _number(fields[4], path, number)
    return run


def write_run(run: Run, path: str | os.PathLike[str], *, tag: str = "rir_hf") -> None:
    """Write a run as trec_eval reads it, scores in full precision, ranks from 1 in trec_eval's order."""
    lines = (
        f"{_id(query)} Q0 {_id(passage)} {rank} {hits[passage]!r} {_id(tag)}\n"
        for query, hits in as_run(run).items()
        for rank, passage in enumerate(_in_order(hits), 1)
    )
    _write(lines, path)


def _names(metric: str, k_values: Sequence[int]) -> list[str]:
    return [f"{METRICS[metric][0]}@{k}" for k in k_values]


def _measure(
    metrics: Sequence[str], k_values: Sequence[int], qrels: Qrels, run: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    import pytrec_eval

    cuts = ",".join(str(k) for k in sorted(set(k_values)))
    wanted = {f"{METRICS[metric][1]}.{cuts}" for metric in metrics if METRICS[metric][1]}
    if "mrr" in metrics:
        wanted.add("recip_rank")
    return pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)


def _value(measured: Mapping[str, float], metric: str, k: int) -> float:
    name = METRICS[metric][1]
    if name is not None:
        return measured.get(f"{name}_{k}", 0.0)
    reciprocal = measured.get("recip_rank", 0.0)
    return reciprocal if reciprocal and round(1 / reciprocal) <= k else 0.0


def _checked(run: dict[str, dict[str, float]], qrels: Qrels) -> dict[str, dict[str, float]]:
    """The run without unjudged and empty queries, which are logged; `ValueError` on scores that are not numbers."""
    unjudged = [query for query in run if query not in qrels]
    if unjudged:
        logger.warning("%d queries of the run are not in the qrels and do not count, %r for one.", len(unjudged), unjudged[0])
    missing = [query for query in qrels if not run.get(query)]
    if missing:
        logger.warning("%d judged queries have no hits and count as zero, %r for one.", len(missing), missing[0])
    for query, hits in run.items():
        if any(math.isnan(score) for score in hits.values()):
            raise ValueError(f"The run has a score that is NaN for the query {query!r}.")
    return {query: hits for query, hits in run.items() if query in qrels and hits}


def _best_of_repeats(ids: Iterable[Any], scores: Iterable[float]) -> dict[str, float]:
    """Scores by passage id; of a repeated id the best, of padding (-1) none."""
    hits: dict[str, float] = {}
    for passage, score in zip(ids, scores, strict=True):
        name = str(passage)
        if name != "-1":
            hits[name] = max(float(score), hits.get(name, -math.inf))
    return hits


def _in_order(hits: Mapping[str, float]) -> list[str]:
    """Passage ids as trec_eval ranks them: by score in single precision, then by id, both descending."""
    with np.errstate(over="ignore"):
        scores = np.array(list(hits.values())).astype(np.float32)
    return [passage for _, passage in sorted(zip(scores.tolist(), hits, strict=True), reverse=True)]


def _is_same(hits: dict[str, float], others: dict[str, float]) -> bool:
    """Whether two rankings of one query differ by no more than vectors of one text made in different batches do."""
    lowest = min([*hits.values(), *others.values()], default=0.0)
    return all(abs(hits.get(passage, lowest) - others.get(passage, lowest)) <= 1e-5 for passage in hits | others)


def _column(queries: Dataset, metric: str) -> np.ndarray:
    if metric not in queries.column_names:
        raise ValueError(f"No metric {metric!r} in the rows, only {queries.column_names}.")
    if len(queries) == 0:
        raise ValueError("There are no queries to compare.")
    return np.asarray(queries[metric][:], np.float64)


def _id(name: object) -> str:
    text = str(name)
    if not text or text != "".join(text.split()):
        raise ValueError(f"A TREC file cannot hold the id {text!r}: ids must not be empty or contain white space.")
    return text


def _number(text: str, path: str | os.PathLike[str], line: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{path}, line {line}: expected a number, found {text!r}.") from None


def _write(lines: Iterable[str], path: str | os.PathLike[str]) -> None:
    Path(path).write_text("".join(lines), encoding="utf-8")
