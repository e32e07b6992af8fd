"""Candidates of a query and the teacher's scores of them, without their texts: of a hundred
passages a query these would take a hundred times the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rir_hf.core.columns import Batch
from rir_hf.core.step import Step
from rir_hf.mining.candidates import CandidateLists
from rir_hf.schema import PASSAGE_IDS, PASSAGES, PASSAGES_NOTE, Column, OneOf
from rir_hf.teaching.passages import ScorePassages


class ScoredLists(Step):
    """Adds what `CandidateLists` and then `ScorePassages` do, `passages` only where asked.

    Args:
        lists: finds the candidates.
        scores: scores them.
        texts: add their texts too.
    """

    failures = ScorePassages.failures

    def __init__(self, lists: CandidateLists, scores: ScorePassages, *, texts: bool) -> None:
        self.lists = lists
        self.scores = scores
        self.texts = texts

    @property
    def inputs(self) -> tuple[Column | OneOf, ...]:
        """What the search is asked with, and what the teacher reads beside the query."""
        return (*self.lists.inputs, *self.scores.teacher.inputs)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The candidates and their scores."""
        found = (PASSAGES, PASSAGE_IDS) if self.texts else (PASSAGE_IDS,)
        return (*found, PASSAGES_NOTE, *self.scores.outputs_for([PASSAGES.name]))

    @property
    def note(self) -> Column | None:
        """Why there are no scores."""
        return self.scores.note

    def transform(self, batch: Batch) -> Mapping[str, Any]:
        """Return the columns of both."""
        found = self.lists.transform(batch)
        rows = {name: batch.values_of(name) for name in batch.names} | found
        return {**found, **self.scores.transform(Batch(rows, batch.who))}
