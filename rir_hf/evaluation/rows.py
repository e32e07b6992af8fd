"""Datasets of hits or of judgements as dicts, and the order in which trec_eval ranks hits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from rir_hf.core.columns import as_id, values_in
from rir_hf.schema import HIT_IDS, HIT_SCORES, POS_IDS, QUERY_ID

_OF_A_RUN = (QUERY_ID.name, HIT_IDS.name, HIT_SCORES.name)
_OF_BEIR = ("query-id", "corpus-id", "score")
_OF_PAIRS = (QUERY_ID.name, POS_IDS.name)


def run_in_rows(rows: Dataset | IterableDataset) -> dict[str, dict[str, float]]:
    """A run from rows with `query_id`, `hit_ids` and `hit_scores`, as `Search` makes them.

    Raises:
        ValueError: a column is missing, ids and scores are not aligned, a score is NaN, or two rows
            of one query have different hits.

    Example:
        >>> row = {"query_id": ["q"], "hit_ids": [["b", "a", "-1"]], "hit_scores": [[0.5, 0.25, 0]]}
        >>> run_in_rows(Dataset.from_dict(row))
        {'q': {'b': 0.5, 'a': 0.25}}
    """
    # A stream may not know its columns.
    names = _OF_A_RUN if rows.column_names is None else rows.column_names
    missing = [name for name in _OF_A_RUN if name not in names]
    if missing:
        raise ValueError(
            f"A run needs the columns query_id, hit_ids and hit_scores; {missing} are missing."
        )
    run: dict[str, dict[str, float]] = {}
    for query, ids, scores in _values(rows, _OF_A_RUN):
        ids, scores = _listed(ids), _listed(scores)
        if len(ids) != len(scores):
            raise ValueError(
                f"The run has {len(ids)} hit_ids and {len(scores)} hit_scores for query_id "
                f"{query!r}: they must be aligned."
            )
        hits = best_of_repeats(ids, scores)
        if any(map(math.isnan, hits.values())):
            raise ValueError(f"The run has a score that is no number (NaN) for query_id {query!r}.")
        if not _is_same(run.setdefault(str(as_id(query)), hits), hits):
            raise ValueError(
                f"The run has several rows with query_id {query!r} and different hits: keep one "
                "row per query."
            )
    return run


def qrels_in_rows(
    rows: Dataset | IterableDataset, source: object = "the judgements"
) -> dict[str, dict[str, float]]:
    """Judgements from rows with `query-id`, `corpus-id` and `score`, or `query_id` and `pos_ids`.

    The first is BEIR's layout, one judgement a row; in the second every positive has grade 1.

    Raises:
        ValueError: neither set of columns is there, a grade that is no finite number, or another
            for the same query and passage.

    Example:
        >>> qrels_in_rows(Dataset.from_dict({"query_id": ["q"], "pos_ids": [["a", "b"]]}))
        {'q': {'a': 1.0, 'b': 1.0}}
    """
    names: list[str] = rows.column_names or list(next(iter(rows), {}))
    qrels: dict[str, dict[str, float]] = {}
    if set(_OF_BEIR) <= set(names):
        for row, (query, passage, grade) in enumerate(_values(rows, _OF_BEIR)):
            with suppress(TypeError, ValueError):
                grade = float(grade)
            if not isinstance(grade, float) or not math.isfinite(grade):
                raise ValueError(
                    f"{source}, row {row}: the grade must be a finite number, got {grade!r}."
                )
            names_of_both = str(as_id(query)), str(as_id(passage))
            add_grade(qrels, *names_of_both, grade, f"{source}, row {row}")
    elif set(_OF_PAIRS) <= set(names):
        for query, passages in _values(rows, _OF_PAIRS):
            known = (str(name) for name in map(as_id, _listed(passages)) if name is not None)
            qrels.setdefault(str(as_id(query)), {}).update(dict.fromkeys(known, 1.0))
    else:
        raise ValueError(
            "Judgements need the columns query-id, corpus-id and score, or query_id and pos_ids, "
            f"but the dataset has only {sorted(names)}."
        )
    return qrels


def add_grade(
    qrels: dict[str, dict[str, float]], query: str, passage: str, grade: float, where: str
) -> None:
    """Add a judgement; raise `ValueError` where there is another for the query and passage.

    Example:
        >>> qrels = {"q": {"a": 1.0}}
        >>> add_grade(qrels, "q", "b", 2.0, "qrels.tsv, line 3")
        >>> qrels
        {'q': {'a': 1.0, 'b': 2.0}}
    """
    known = qrels.setdefault(query, {}).setdefault(passage, grade)
    if known != grade:
        raise ValueError(
            f"{where}: {passage!r} has the grade {known:g} for query {query!r} already, and now "
            f"{grade:g}: keep one of them."
        )


def best_of_repeats(ids: Iterable[Any], scores: Iterable[float]) -> dict[str, float]:
    """Scores by passage id; of a repeated id the best, of padding (-1) none.

    Example:
        >>> best_of_repeats([3, -1, 10, 3], [0.5, 9.0, 0.75, 1.5])
        {'3': 1.5, '10': 0.75}
    """
    hits: dict[str, float] = {}
    for passage, score in zip(ids, scores, strict=True):
        name = str(as_id(passage))
        if name != "-1":
            hits[name] = max(float(score), hits.get(name, -math.inf))
    return hits


def in_order(hits: Mapping[str, float]) -> list[str]:
    """Passage ids as trec_eval ranks them: by score in single precision, then by id, descending.

    Example:
        >>> in_order({"10": 0.5, "9": 0.5, "11": 0.75})
        ['11', '9', '10']
    """
    with np.errstate(over="ignore"):
        scores = np.array(list(hits.values())).astype(np.float32)
    return [passage for _, passage in sorted(zip(scores.tolist(), hits, strict=True), reverse=True)]


def _values(rows: Dataset | IterableDataset, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, row by row."""
    if isinstance(rows, Dataset):
        table = rows.select_columns(list(names)).with_format("arrow")[:]
        return zip(*(values_in(table.column(name)) for name in names), strict=True)
    return (tuple(row[name] for name in names) for row in rows)


def _listed(value: Any) -> list[Any]:
    """A cell as a list: nothing as an empty one, a single value as one of one."""
    if value is None:
        return []
    return [value] if isinstance(value, (str, int, float)) else list(value)


def _is_same(hits: dict[str, float], others: dict[str, float]) -> bool:
    """Whether two rankings of one query differ by no more than vectors of one text do that were
    made in different batches.
    """
    lowest = min([*hits.values(), *others.values()], default=0.0)
    differences = (
        abs(hits.get(passage, lowest) - others.get(passage, lowest)) for passage in hits | others
    )
    return all(difference <= 1e-5 for difference in differences)
