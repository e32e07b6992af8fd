"""A model and held-out queries in; whether it takes the place of the one before it out."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from rir_hf.boosting.queries import Runner
from rir_hf.evaluation.comparison import paired_test
from rir_hf.evaluation.metrics import evaluate
from rir_hf.index.attach import attach_index
from rir_hf.index.embed import Embed
from rir_hf.index.search import Search
from rir_hf.models.retriever import Encoder

MEASURE = "nDCG@10"
SIGNIFICANT = 0.05
LEAST_FOUND = 0.05
"""Of generated queries: where a model finds less, they are no judge of it, and it is turned down.
"""
ANSWER_WEIGHT = 0.2
_ROUNDING = 1e-12


class Judge:
    """Searches a corpus for held-out queries with one model after the other, and compares.

    A held-out query that was taken from its passage would find it by its own words. So that passage
    and others in which it stands are searched without it: `lacking` of such a row takes the place
    of the texts in the corpus. Of several queries of one passage each is searched for by itself.

    Args:
        corpus: with `id` and `text`.
        held_out: with `query_id`, `query`, `kind`, `pos_ids`, `grades`, `lacking`.
        run: maps a step.
        embedder: says for a retriever what encodes its passages; None: itself.
    """

    def __init__(
        self,
        corpus: Dataset,
        held_out: Dataset,
        run: Runner,
        embedder: Callable[[Any], Encoder] | None = None,
    ) -> None:
        self.corpus = corpus
        self.held_out = held_out
        self.run = run
        self.embedder = embedder or (lambda retriever: retriever)
        self.qrels = qrels_of(held_out)

    def values(self, retriever: Encoder, answers: Dataset | None = None) -> dict[str, float]:
        """The measure of each held-out query.

        Args:
            retriever: what searches.
            answers: the held-out queries with `answers`, to be searched with beside the query.
        """
        queries = self.held_out if answers is None else answers
        queries = self.run(queries, Embed(retriever, "query", role="query"))
        options: dict[str, Any] = {}
        if answers is not None:
            step = Embed(retriever, "answers", role="query", output="answer_embedding")
            queries = self.run(queries, step)
            options = {"answer": "answer_embedding", "answer_weight": ANSWER_WEIGHT}
        found = []
        for turn in self._turns():
            searched = self._searched_by(retriever, self.held_out.select(turn))
            found.append(self.run(queries.select(turn), Search(searched, **options)))
        rows = evaluate(concatenate_datasets(found), self.qrels, [MEASURE], per_query=True)
        return dict(zip(rows["query_id"], rows[MEASURE], strict=True))

    def _turns(self) -> list[list[int]]:
        """The held-out queries in parts that have no passage twice which is to lack one."""
        turns: list[list[int]] = []
        first_free: dict[str, int] = {}
        rows = zip(self.held_out["lacking"], self.held_out["pos_ids"], strict=True)
        for place, (texts, ids) in enumerate(rows):
            changed = ids if texts else []
            number = max((first_free.get(name, 0) for name in changed), default=0)
            first_free |= dict.fromkeys(changed, number + 1)
            turns += [[] for _ in range(number + 1 - len(turns))]
            turns[number].append(place)
        return turns

    def _searched_by(self, retriever: Encoder, queries: Dataset) -> Dataset:
        """The corpus with vectors, in which some passages lack the query that was taken of them."""
        embed = Embed(self.embedder(retriever))
        corpus = self.run(self.corpus, embed)
        rows = zip(queries["pos_ids"], queries["lacking"], strict=True)
        lacking = {
            name: text
            for ids, texts in rows
            if texts
            for name, text in zip(ids, texts, strict=True)
        }
        if not lacking:
            return attach_index(corpus)
        changed = Dataset.from_dict({"id": [*lacking], "text": [*lacking.values()]})
        kept = [row for row, name in enumerate(corpus["id"]) if name not in lacking]
        whole = corpus.select(kept).select_columns(["id", "text", "embedding"])
        parts = [whole, self.run(changed, embed)]
        return attach_index(concatenate_datasets(parts).flatten_indices())


def in_words(verdict: Mapping[str, Any], what: str) -> str:
    """A verdict as a person reads it.

    Example:
        >>> numbers = {"before": 0.5, "after": 0.6, "low": 0.02, "high": 0.2, "p_value": 0.01}
        >>> verdict = {"measure": "nDCG@10", "queries": 50, "synthetic": False, "difference": 0.1}
        >>> in_words({**verdict, **numbers}, "test")
        'nDCG@10 on 50 test queries 0.500 to 0.600 (+0.100, 95 % +0.020 to +0.200, p = 0.0100)'
    """
    numbers = {name: float(verdict[name]) for name in ("before", "after", "p_value")}
    numbers |= {name: float(verdict[name]) for name in ("difference", "low", "high")}
    kind = f"synthetic {what}" if verdict["synthetic"] else what
    return (
        "{measure} on {queries} {kind} queries {before:.3f} to {after:.3f} ({difference:+.3f}, "
        "95 % {low:+.3f} to {high:+.3f}, p = {p_value:.4f})"
    ).format(measure=verdict["measure"], queries=verdict["queries"], kind=kind, **numbers)


def qrels_of(held_out: Dataset) -> dict[str, dict[str, float]]:
    """The judgements of held-out queries.

    Example:
        >>> rows = {"query_id": ["q"], "pos_ids": [["a", "b"]], "grades": [[2.0, 1.0]]}
        >>> qrels_of(Dataset.from_dict(rows))
        {'q': {'a': 2.0, 'b': 1.0}}
    """
    rows = zip(held_out["query_id"], held_out["pos_ids"], held_out["grades"], strict=True)
    return {query: dict(zip(ids, grades, strict=True)) for query, ids, grades in rows}


def relevant_of(held_out: Dataset) -> list[list[str]]:
    """The ids of the relevant passages of each held-out query.

    Example:
        >>> rows = {"pos_ids": [["a", "b"]], "grades": [[2.0, 0.0]]}
        >>> relevant_of(Dataset.from_dict(rows))
        [['a']]
    """
    rows = zip(held_out["pos_ids"], held_out["grades"], strict=True)
    return [
        [name for name, grade in zip(ids, grades, strict=True) if grade > 0] for ids, grades in rows
    ]


def verdict_on(
    after: Mapping[str, float], before: Mapping[str, float], held_out: Dataset
) -> dict[str, Any]:
    """What comparing two models on the same queries says, each with its weight. Queries that were
    made of one passage rise and fall together, so they count as one: their mean.

    Returns:
        `measure`, `queries`, `synthetic`, `before`, `after` (means), `difference`, `low`, `high`,
        `p_value` (see `compare`); `kept`, whether the mean difference is not below 0; `gain`,
        whether it is above and significant; `kinds`, the means by kind of query, and by
        whether its passage was trained on, as JSON.

    Example:
        >>> rows = {"query_id": ["p", "q"], "pos_ids": [["a"], ["b"]]}
        >>> rows |= {"kind": ["claim"] * 2, "synthetic": [True] * 2}
        >>> rows |= {"trained_on": [None] * 2, "weight": [1.0] * 2}
        >>> after, before = {"p": 0.5, "q": 0.5}, {"p": 0.25, "q": 0.25}
        >>> found = verdict_on(after, before, Dataset.from_dict(rows))
        >>> found["difference"], found["kept"], found["gain"], found["kinds"]
        (0.25, True, False, '{"claim": [0.25, 0.5]}')
    """
    names = held_out["query_id"][:]
    new = np.array([after[name] for name in names])
    old = np.array([before[name] for name in names])
    kinds = np.array([kind or "" for kind in held_out["kind"]])
    by_kind = {
        str(kind): [round(float(values[kinds == kind].mean()), 4) for values in (old, new)]
        for kind in np.unique(kinds)
        if kind
    }
    trained_on = np.array(held_out["trained_on"])
    for name, is_one in (("trained on", True), ("not trained on", False)):
        if (trained_on == is_one).any():
            means = [float(values[trained_on == is_one].mean()) for values in (old, new)]
            by_kind[f"passage {name}"] = [round(mean, 4) for mean in means]
    old, new = (_by_passage(values, held_out) for values in (old, new))
    tested = paired_test(new - old)
    is_synthetic = bool(held_out["synthetic"][0])
    says_something = not is_synthetic or new.mean() >= LEAST_FOUND
    return {
        "measure": MEASURE,
        "queries": len(names),
        "synthetic": is_synthetic,
        "before": float(old.mean()),
        "after": float(new.mean()),
        **tested,
        "kept": bool(says_something and tested["difference"] >= -_ROUNDING),
        "gain": tested["difference"] > 0 and tested["p_value"] < SIGNIFICANT,
        "kinds": json.dumps(by_kind) if by_kind else None,
    }


def _by_passage(values: np.ndarray, held_out: Dataset) -> np.ndarray:
    """The mean of the values of each passage's queries, times its weight; those of people stay one
    by one.
    """
    rows = zip(held_out["synthetic"], held_out["pos_ids"], held_out["query_id"], strict=True)
    sources = [ids[0] if is_made else query for is_made, ids, query in rows]
    _, groups = np.unique(sources, return_inverse=True)
    weights = np.bincount(groups, held_out["weight"]) / np.bincount(groups)
    return weights / weights.mean() * np.bincount(groups, values) / np.bincount(groups)


def told_apart(held_out: Dataset, trained_on: Collection[str]) -> Dataset:
    """Judged queries with a kind: whether a passage that they ask for was trained on, as the answer
    to another query. Where that is so for all or for none, they stay as they are.

    Example:
        >>> rows = {"kind": [None, None], "pos_ids": [["a", "b"], ["c", "b"]]}
        >>> rows |= {"grades": [[1.0, 1.0], [1.0, 0.0]]}
        >>> told_apart(Dataset.from_dict(rows), {"b"})["kind"][:]
        ['passage trained on', 'passage not trained on']
    """
    known = [not relevant.isdisjoint(trained_on) for relevant in map(set, relevant_of(held_out))]
    if all(known) or not any(known):
        return held_out
    kinds = [f"passage {'' if is_known else 'not '}trained on" for is_known in known]
    return held_out.remove_columns("kind").add_column("kind", kinds)
