"""What a retrieval run and judgements (qrels) are, in whatever form they come."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TypeAlias

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from rir_hf.core.columns import as_id
from rir_hf.evaluation.rows import qrels_in_rows, run_in_rows
from rir_hf.evaluation.trec import read_qrels, read_run

Run: TypeAlias = (
    Mapping[str, Mapping[str, float]] | Dataset | IterableDataset | str | os.PathLike[str]
)
"""A dict `{query_id: {passage_id: score}}`, rows as `Search` makes them, or a TREC run file."""

Qrels: TypeAlias = (
    Mapping[str, Mapping[str, float]] | Dataset | IterableDataset | str | os.PathLike[str]
)
"""A dict `{query_id: {passage_id: grade}}`, a file of TREC or BEIR, or a dataset of judgements."""


def as_run(run: Run) -> dict[str, dict[str, float]]:
    """A run as a dict of texts and floats.

    Args:
        run: a dict `{query_id: {passage_id: score}}`, a dataset or stream with `query_id`,
            `hit_ids` and `hit_scores`, or the path of a TREC run file.

    Raises:
        ValueError: several splits, missing columns, a malformed file, or a score that is NaN.

    Example:
        >>> as_run({1: {2: 0.5}})
        {'1': {'2': 0.5}}
    """
    _require_one_split(run, "A run")
    if isinstance(run, (str, os.PathLike)):
        hits_of = read_run(run)
    elif isinstance(run, Mapping):
        hits_of = _as_texts_and_floats(run)
    else:
        hits_of = run_in_rows(run)
    for query, hits in hits_of.items():
        if any(map(math.isnan, hits.values())):
            raise ValueError(f"The run has a score that is NaN for the query {query!r}.")
    return hits_of


def as_qrels(qrels: Qrels) -> dict[str, dict[str, float]]:
    """Judgements as a dict of texts and floats.

    Args:
        qrels: a dict `{query_id: {passage_id: grade}}`, the path of a TREC or BEIR file, or a
            dataset with `query-id`, `corpus-id`, `score`, or with `query_id` and `pos_ids`. A
            passage is relevant where its grade is above 0.

    Raises:
        ValueError: no judgement, several splits, missing columns, a malformed file, or a grade
            that is not finite.

    Example:
        >>> as_qrels({"q": {"a": 1}})
        {'q': {'a': 1.0}}
    """
    _require_one_split(qrels, "Judgements")
    if isinstance(qrels, (str, os.PathLike)):
        judged = _as_texts_and_floats(read_qrels(qrels))
    elif isinstance(qrels, Mapping):
        judged = _as_texts_and_floats(qrels)
    else:
        judged = qrels_in_rows(qrels)
    if not judged:
        raise ValueError("The qrels are empty: there is nothing to evaluate against.")
    for query, grades in judged.items():
        if not all(map(math.isfinite, grades.values())):
            raise ValueError(f"The qrels have a grade that is no number for the query {query!r}.")
    return judged


def _as_texts_and_floats(given: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        str(as_id(query)): {str(as_id(name)): float(value) for name, value in passages.items()}
        for query, passages in given.items()
    }


def _require_one_split(given: object, what: str) -> None:
    if isinstance(given, (DatasetDict, IterableDatasetDict)):
        raise ValueError(f"{what} cannot be several splits: choose one of {sorted(given)}.")
