"""One round of the loop: each stage a chain of the package's own steps, its result kept."""

from __future__ import annotations

from rir_hf.boosting import generating, querying, retrieving
from rir_hf.boosting.record import Stage
from rir_hf.boosting.state import Round


def go(state: Round) -> None:
    """All stages, one after the other; `retriever` and `generator` are then the better ones."""
    queries = querying.queries(state)
    parts: dict[str, Stage] = {}
    if queries.counts["pairs"]:
        answers = generating.best_answers(state, queries) if state.has_answers else None
        parts |= retrieving.scored(state, retrieving.negatives(state, queries, answers))
    if queries.counts["lists"]:
        parts["lists"] = retrieving.lists(state, queries)
    if not parts:
        raise ValueError(f"{queries.name}: no query is left to train on: {dict(queries.counts)}.")
    retrieving.train(state, parts)
