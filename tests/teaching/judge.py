"""A stand-in for a language model that knows what each passage is worth."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from datasets import Dataset

from rir_hf.teaching.passages import ScorePassages
from rir_hf.teaching.teacher import Teacher


class Judge:
    """Reads each passage's worth from the number at its end. A query's first word may bring an
    answer of its own: `answers={"failing": LLMError("gone")}`.
    """

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []

    def identity(self) -> str:
        return "judge"

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        return [" ".join(text.split(" ")[-max_tokens:]) for text in texts]

    def count_tokens(self, prompts: list[Any]) -> list[int]:
        return [len(prompt.split()) for prompt in prompts]

    def generate(self, prompts: list[Any], **_: Any) -> list[Any]:
        self.asked += prompts
        return [self._special(prompt) or [_ranking(prompt)] for prompt in prompts]

    def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
        self.asked += prompts
        found: list[Any] = []
        for prompt in prompts:
            worth = _worth(prompt)
            logprobs = np.array([*worth, 0.0] if choices == ["Yes", "No"] else worth)
            found.append(self._special(prompt) or logprobs)
        return found

    def sequence_logprobs(self, prompts: list[Any], continuations: list[str]) -> list[Any]:
        self.asked += prompts
        found: list[Any] = []
        for prompt, query in zip(prompts, continuations, strict=True):
            worth = _worth(prompt)[0]
            special = self.answers.get(query.split()[0])
            found.append(special or np.array([worth - 1, worth + 1]))
        return found

    def _special(self, prompt: str) -> Any:
        return self.answers.get(re.findall(r"Query: (\w+)", prompt)[0])


def rows_worth(worths: list[list[int]], queries: list[str] | None = None) -> Dataset:
    """Rows of passages of known worth, of which the first is the positive."""
    texts = [
        [f"passage {place} worth {worth}" for place, worth in enumerate(row)] for row in worths
    ]
    return Dataset.from_dict(
        {
            "query": queries or [f"query{number} about it" for number in range(len(worths))],
            "pos": [row[:1] for row in texts],
            "neg": [row[1:] for row in texts],
        }
    )


def score(rows: Dataset, teacher: Teacher) -> Dataset:
    """The rows with the teacher's scores."""
    return rows.map(ScorePassages(teacher), batched=True)


def scores_of_row(row: dict[str, Any]) -> list[float]:
    """All scores of a row, the positives' first."""
    return [*row["pos_scores"], *row["neg_scores"]]


def _worth(prompt: str) -> list[float]:
    return [float(value) for value in re.findall(r"worth (-?\d+)", prompt)]


def _ranking(prompt: str) -> str:
    shown = re.findall(r"\[(\d+)\][^\[]*?worth (-?\d+)", prompt)
    best_first = sorted(shown, key=lambda pair: -int(pair[1]))
    return " > ".join(f"[{number}]" for number, _ in best_first)
