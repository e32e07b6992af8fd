"""What decides the stages of a round: the options of `boost` as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """What decides the stages of a round; see `boost`."""

    task: str | None
    language: str | None
    passages: int
    queries_per_passage: int
    kinds: tuple[str, ...]
    word_dropout: float
    repeat_queries: int
    min_quality: float | None
    examples: tuple[Mapping[str, str], ...]
    answers: int
    answer_words: int
    require_gain: bool
    candidates: int
    max_steps: int | None
    keep: float
    training: Mapping[str, Any]
    tuning: Mapping[str, Any]
    checkpoint_steps: int
    launch: str | None
    seed: int

    @property
    def negatives(self) -> int:
        """Negatives that a row must have for the retriever to be trained on it."""
        return self.training.get("num_negatives", self.candidates - 1) or 1

    @property
    def freezes_passages(self) -> bool:
        """Whether the queries' side of the retriever alone is trained."""
        return bool(self.training.get("freeze_passages"))
