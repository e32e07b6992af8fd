"""How good a run is against judgements, by the measures of the field, as trec_eval computes them.

Two things differ from averaging by hand. Ties are broken as trec_eval breaks them, by passage id in
descending order, for every measure. And every judged query counts: one without a hit counts zero.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from datasets import Dataset

from rir_hf.evaluation.rows import in_order
from rir_hf.evaluation.runs import Qrels, Run, as_qrels, as_run

logger = logging.getLogger(__name__)

DEFAULT_MEASURES = ("nDCG@10", "R@100", "RR@10")

KNOWN = ("nDCG@k", "R@k", "RR@k", "RR", "P@k", "AP@k", "AP", "Success@k", "Rprec")
"""The measures in ir_measures' notation; k is a cut-off, 1 or more."""

_WITH_CUT = {
    "nDCG": "ndcg_cut",
    "R": "recall",
    "RR": "recip_rank",
    "P": "P",
    "AP": "map_cut",
    "Success": "success",
}
_WITHOUT_CUT = {"RR": "recip_rank", "AP": "map", "Rprec": "Rprec"}

_HIGHEST_GRADE = 100
"""trec_eval takes whole grades, and time and memory with the square of the highest one."""

_Values = Mapping[str, Mapping[str, float]]


class Measure(NamedTuple):
    """A measure: how users write it, its name in trec_eval, and where it is cut (None: nowhere)."""

    name: str
    in_trec_eval: str
    cut: int | None


@overload
def evaluate(
    run: Run, qrels: Qrels, measures: Sequence[str] = ..., *, per_query: Literal[False] = False
) -> dict[str, float]: ...


@overload
def evaluate(
    run: Run, qrels: Qrels, measures: Sequence[str] = ..., *, per_query: Literal[True]
) -> Dataset: ...


def evaluate(
    run: Run,
    qrels: Qrels,
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    per_query: bool = False,
) -> dict[str, float] | Dataset:
    """Evaluate a run.

    Args:
        run: a dict `{query_id: {passage_id: score}}`, a dataset or stream with `query_id`,
            `hit_ids` and `hit_scores` (as `Search` makes it; id -1 is padding), or the path of a
            TREC run file.
        qrels: a dict `{query_id: {passage_id: grade}}`, the path of a TREC or BEIR file, or a
            dataset with `query-id`, `corpus-id` and `score`, or with `query_id` and `pos_ids`. A
            passage is relevant where its grade is above 0; for nDCG the grade is its gain, and may
            be any number.
        measures: `nDCG@k`, `R@k`, `RR@k`, `RR`, `P@k`, `AP@k`, `AP`, `Success@k`, `Rprec`.
        per_query: give the values of each query in place of their means.

    Returns:
        The mean of each measure over all judged queries, not rounded; with `per_query` a dataset
        with `query_id`, a column for each measure and `num_relevant`, in the order of the qrels.

    Raises:
        ValueError: another measure, or a run or qrels that cannot be read.

    Example:
        >>> run = {"q": {"b": 0.9, "a": 0.5}, "r": {"a": 0.5}}
        >>> qrels = {"q": {"a": 1}, "r": {"a": 1}}
        >>> evaluate(run, qrels, ["RR@10", "P@1"])
        {'RR@10': 0.75, 'P@1': 0.5}
        >>> evaluate(run, qrels, ["RR@10"], per_query=True)[0]
        {'query_id': 'q', 'RR@10': 0.5, 'num_relevant': 1}
    """
    wanted = parse_measures(measures)
    judged = as_qrels(qrels)
    values = values_of(wanted, judged, _to_evaluate(as_run(run), judged))
    if not per_query:
        return {name: float(np.mean(column)) for name, column in values.items()}
    relevant = [sum(grade > 0 for grade in grades.values()) for grades in judged.values()]
    return Dataset.from_dict({"query_id": list(judged), **values, "num_relevant": relevant})


def parse_measures(measures: Sequence[str]) -> list[Measure]:
    """Measures from their notation; `ValueError` for any that is not known, naming those that are.

    Example:
        >>> parse_measures(["nDCG@10"])
        [Measure(name='nDCG@10', in_trec_eval='ndcg_cut', cut=10)]
    """
    if isinstance(measures, str):
        raise ValueError(f"measures must be a list, as in [{measures!r}].")
    if not measures:
        raise ValueError(f"measures must not be empty: choose from {', '.join(KNOWN)}.")
    return [_parse(measure) for measure in measures]


def values_of(measures: Sequence[Measure], qrels: _Values, run: _Values) -> dict[str, list[float]]:
    """For each measure its value for every judged query, in the order of the qrels."""
    is_whole = all(_are_whole(grades.values()) for grades in qrels.values())
    found = _by_trec_eval(measures, qrels, run, is_whole)
    columns: dict[str, list[float]] = {}
    for measure in measures:
        if measure.in_trec_eval == "ndcg_cut" and not is_whole:
            columns[measure.name] = [
                ndcg(grades, run.get(query, {}), measure.cut) for query, grades in qrels.items()
            ]
        else:
            columns[measure.name] = [_value(found.get(query, {}), measure) for query in qrels]
    return columns


def ndcg(grades: Mapping[str, float], hits: Mapping[str, float], cut: int | None) -> float:
    """The nDCG of one query with gains that need not be whole, as trec_eval has it for whole ones.

    Args:
        grades: gains by passage id; below 0 is 0.
        hits: scores by passage id.
        cut: how many hits count.

    Example:
        >>> round(ndcg({"a": 0.5, "b": 0.25}, {"b": 0.9, "a": 0.1}, 10), 4)
        0.8597
    """
    gains = [max(grades.get(passage, 0.0), 0.0) for passage in in_order(hits)[:cut]]
    best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:cut]
    return _discounted(gains) / _discounted(best) if best else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return float(np.sum(np.array(gains) / np.log2(np.arange(2, len(gains) + 2))))


def _parse(measure: str) -> Measure:
    found = re.fullmatch(r"([A-Za-z]+)(?:@([1-9]\d*))?", str(measure))
    if found is not None:
        name, cut = found.groups()
        if cut is None and name in _WITHOUT_CUT:
            return Measure(measure, _WITHOUT_CUT[name], None)
        if cut is not None and name in _WITH_CUT:
            return Measure(measure, _WITH_CUT[name], int(cut))
    raise ValueError(
        f"Unknown measure {measure!r}: choose from {', '.join(KNOWN)}, with a cut-off k of at "
        "least 1."
    )


def _to_evaluate(run: _Values, qrels: _Values) -> dict[str, Mapping[str, float]]:
    """The run without unjudged and empty queries, which are logged."""
    unjudged = [query for query in run if query not in qrels]
    if unjudged:
        logger.warning(
            "%d queries of the run are not in the qrels and do not count, %r for one.",
            len(unjudged),
            unjudged[0],
        )
    missing = [query for query in qrels if not run.get(query)]
    if missing:
        logger.warning(
            "%d judged queries have no hits and count as zero, %r for one.",
            len(missing),
            missing[0],
        )
    return {query: hits for query, hits in run.items() if query in qrels and hits}


def _are_whole(grades: Any) -> bool:
    return all(grade == int(grade) and abs(grade) <= _HIGHEST_GRADE for grade in grades)


def _by_trec_eval(
    measures: Sequence[Measure], qrels: _Values, run: _Values, is_whole: bool
) -> dict[str, dict[str, float]]:
    """What trec_eval says of each query under its own names.

    Of grades that are not whole it is told whether they are relevant.
    """
    import pytrec_eval

    judged = {
        query: {
            passage: int(grade) if is_whole else int(grade > 0) for passage, grade in grades.items()
        }
        for query, grades in qrels.items()
    }
    # It does not cut the reciprocal rank; `_value` does.
    asked = {
        name if cut is None or name == "recip_rank" else f"{name}.{cut}"
        for _, name, cut in measures
    }
    return pytrec_eval.RelevanceEvaluator(judged, asked).evaluate(run)


def _value(found: Mapping[str, float], measure: Measure) -> float:
    """The value of one query; 0 for one that trec_eval did not see."""
    name, cut = measure.in_trec_eval, measure.cut
    if name == "recip_rank":
        reciprocal = found.get(name, 0.0)
        is_beyond = cut is not None and reciprocal > 0 and round(1 / reciprocal) > cut
        return 0.0 if is_beyond else reciprocal
    return found.get(name if cut is None else f"{name}_{cut}", 0.0)
