"""Rows that a `Blend` has scored and judgements in, better weights of its members out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import check_at_least, require_columns, require_dataset
from rir_hf.evaluation.comparison import paired_test
from rir_hf.evaluation.metrics import evaluate
from rir_hf.evaluation.runs import Qrels, as_qrels
from rir_hf.schema import NEG_IDS, PASSAGE_IDS, POS_IDS, QUERY_ID, TEACHER_SCORES

_STEPS = 10
_PASSES = 10


def fit_blend(
    scored: Dataset,
    qrels: Qrels,
    *,
    measure: str = "nDCG@10",
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Find the weights of a `Blend` with which its passages are ranked best; no teacher is asked.

    Coordinate search: from equal weights on, one member's share of the whole is tried at 0, 0.1,
    ..., 1 while the others keep their proportions, until nothing gets better. What the weights are
    worth is told by cross-validation: those fitted on the other folds, against equal weights. Fit
    on `CandidateLists`, not on mined rows: there the positive lies above the negatives by the rules
    of mining, and `Similarities` would get all the weight. `MemberScores(found["weights"])` scores
    the same rows with the weights found.

    Args:
        scored: rows of `ScorePassages(Blend([...]))`, with `query_id`, `teacher_scores`, and
            `passage_ids` or `pos_ids` and `neg_ids`. Rows without a judgement, or in which a member
            failed, are left out.
        qrels: judgements of the same queries, in any form that `evaluate` takes. Take a dev split:
            on the queries that a model is tested with, the gain is not to be believed.
        measure: what is to be high, as `evaluate` names it.
        folds: of the cross-validation, by query.
        seed: of the folds and the interval.

    Returns:
        `weights`, a dict by name of the member, whose values in order are for
        `Blend(..., weights=[...])`; `equal` and `fitted`, the means of the measure with equal
        weights and, cross-validated, with fitted ones; `difference` with its 95 % interval, `low`
        to `high`, and `p_value`, paired by query; `queries`, their number.

    Raises:
        TypeError: several splits or a stream.
        ValueError: a missing column, no `Blend` of two members, fewer judged queries than folds.

    Example:
        >>> row = {"passage_ids": ["a", "b"], "teacher_scores": {"Good": [1.0, -1.0],
        ...        "Bad": [-1.0, 1.0]}}
        >>> scored = Dataset.from_list([{"query_id": str(number), **row} for number in range(10)])
        >>> found = fit_blend(scored, {str(number): {"a": 1} for number in range(10)})
        >>> found["weights"], round(found["equal"], 2), found["fitted"]
        ({'Good': 0.6, 'Bad': 0.4}, 0.63, 1.0)
    """
    require_dataset(scored, "fit_blend")
    check_at_least("folds", folds, 2)
    names = _members_of(scored)
    judged = as_qrels(qrels)
    said = [row for row in _rows_of(scored, names) if row.query in judged]
    if len(said) < folds:
        raise ValueError(
            f"fit_blend needs {folds} judged and scored queries or more, one for each fold, found "
            f"{len(said)} in {len(scored)} rows: give the judgements of these queries."
        )
    quality = _Quality(said, judged, measure)
    everyone = np.arange(len(said))
    fold_of = np.random.default_rng(seed).permutation(everyone % folds)
    held_out = np.empty(len(said))
    for fold in range(folds):
        weights = best_weights(quality, np.flatnonzero(fold_of != fold), len(names))
        held_out[fold_of == fold] = quality(weights)[fold_of == fold]
    equal = quality((1 / len(names),) * len(names))
    fitted = best_weights(quality, everyone, len(names))
    return {
        "weights": dict(zip(names, fitted, strict=True)),
        "equal": float(equal.mean()),
        "fitted": float(held_out.mean()),
        **paired_test(held_out - equal, seed=seed),
        "queries": len(said),
    }


def best_weights(quality: Any, queries: np.ndarray, members: int) -> tuple[float, ...]:
    """The weights, which add up to 1, with the best mean over some queries.

    Args:
        quality: weights in, the measure of every query out, `(all,)`.
        queries: which of these count.
        members: how many weights.
    """
    best = (1 / members,) * members
    value = quality(best)[queries].mean()
    for _ in range(_PASSES):
        before = value
        for member in range(members):
            for weights in _with_shares(best, member):
                found = quality(weights)[queries].mean()
                if found > value + 1e-9:
                    best, value = weights, found
        if value == before:
            break
    return best


class _Said(NamedTuple):
    """A query, the ids of its passages, and what each member said of them, `(members, n)`."""

    query: str
    ids: list[str]
    scores: np.ndarray


class _Quality:
    """The measure of each query with given weights, remembered."""

    def __init__(self, said: Sequence[_Said], judged: dict[str, Any], measure: str) -> None:
        self.said = said
        self.judged = {row.query: judged[row.query] for row in said}
        self.measure = measure
        self.known: dict[tuple[float, ...], np.ndarray] = {}

    def __call__(self, weights: tuple[float, ...]) -> np.ndarray:
        if weights not in self.known:
            run = {
                row.query: dict(
                    zip(row.ids, (np.array(weights) @ row.scores).tolist(), strict=True)
                )
                for row in self.said
            }
            found = evaluate(run, self.judged, [self.measure], per_query=True)
            by_query = dict(zip(found["query_id"], found[self.measure], strict=True))
            self.known[weights] = np.array([by_query[row.query] for row in self.said])
        return self.known[weights]


def _with_shares(weights: tuple[float, ...], member: int) -> Iterable[tuple[float, ...]]:
    """The weights with each share of one member, the others in their proportions."""
    others = 1 - weights[member]
    for step in range(_STEPS + 1):
        share = step / _STEPS
        equal = (1 - share) / max(1, len(weights) - 1)
        rest = [(1 - share) * weight / others if others > 0 else equal for weight in weights]
        rest[member] = share
        yield tuple(round(weight, 4) for weight in rest)


def _members_of(scored: Dataset) -> list[str]:
    require_columns(scored, [QUERY_ID.name, TEACHER_SCORES.name], "fit_blend")
    if PASSAGE_IDS.name not in scored.column_names:
        require_columns(scored, [POS_IDS.name, NEG_IDS.name], "fit_blend")
    names = list(scored.features[TEACHER_SCORES.name])
    if len(names) < 2:
        raise ValueError(f"fit_blend needs the scores of two members or more, found {names}.")
    return names


def _rows_of(scored: Dataset, names: Sequence[str]) -> Iterable[_Said]:
    """What was said about each query, once, where every member said something."""
    seen: set[str] = set()
    is_list = PASSAGE_IDS.name in scored.column_names
    columns = [PASSAGE_IDS.name] if is_list else [POS_IDS.name, NEG_IDS.name]
    wanted = [QUERY_ID.name, TEACHER_SCORES.name, *columns]
    for row in scored.select_columns(wanted).with_format(None):
        ids = [str(name) for column in columns for name in row[column] or []]
        said = row[TEACHER_SCORES.name] or {}
        scores = [said.get(name) or [] for name in names]
        query = str(row[QUERY_ID.name])
        if query not in seen and all(scores) and len(scores[0]) == len(ids):
            seen.add(query)
            yield _Said(query, ids, np.array(scores, np.float64))
