"""What decides the stages of a round: the options of `boost` as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TAKEN = ("title", "sentence")
"""Kinds of query that stand in the passage."""

MOST_REPEATS = 8

_QUERIES, _MOST_OF_EACH = 40_000, 8


def usual_budget(
    corpus: int, passages: int | None = None, of_each: int | None = None
) -> tuple[int, int]:
    """Of how many passages queries are made, and how many are taken from each.

    40,000 titles and sentences in all, 8 of each passage at most. A retriever becomes better for
    the passages that it is trained to find, and worse for others: so of a large corpus fewer are
    taken from each.

    Example:
        >>> [usual_budget(corpus) for corpus in (240, 5183, 25_000, 500_000)]
        [(5000, 8), (5000, 8), (20000, 2), (40000, 1)]
        >>> usual_budget(25_000, passages=1000), usual_budget(25_000, of_each=4)
        ((1000, 8), (10000, 4))
    """
    if of_each is None:
        asked = corpus if passages is None else min(corpus, passages)
        of_each = min(_MOST_OF_EACH, max(1, round(_QUERIES / max(1, asked))))
    return max(1, _QUERIES // max(1, of_each)) if passages is None else passages, of_each


@dataclass(frozen=True)
class Options:
    """What decides the stages of a round; see `boost`."""

    task: str | None
    language: str | None
    passages: int
    queries_per_passage: int
    written: int
    kinds: tuple[str, ...]
    word_dropout: float
    repeat_queries: int | None
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

    def asked(self, passages: int) -> tuple[int, int]:
        """How many queries are taken from so many passages, and how many are written for them."""
        number = min(self.passages, passages)
        taken = number * self.queries_per_passage if set(TAKEN) & set(self.kinds) else 0
        return taken, 0 if set(self.kinds) <= set(TAKEN) else min(self.written, number)

    def repeats(self, given: int, generated: int) -> int:
        """How often each of the user's queries comes in an epoch: where nothing else is asked, so
        that they are a fifth of all, but not more than 8 times.

        Example:
            >>> options = Options(**dict.fromkeys(Options.__dataclass_fields__))
            >>> [options.repeats(given, 20_000) for given in (600, 1_000, 10_000)]
            [8, 5, 1]
        """
        if self.repeat_queries is not None:
            return self.repeat_queries
        return min(MOST_REPEATS, max(1, round(generated / (4 * max(1, given)))))

    @property
    def negatives(self) -> int:
        """Negatives that a row must have for the retriever to be trained on it."""
        return self.training.get("num_negatives", self.candidates - 1) or 1

    @property
    def freezes_passages(self) -> bool:
        """Whether the queries' side of the retriever alone is trained."""
        return bool(self.training["freeze_passages"])
