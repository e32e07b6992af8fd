"""A language model and a retriever that do what a test tells them to."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from rir_hf.models.llm import LLMError


class Writer:
    """A model that writes what the passage or the query says, and remembers what it was asked.

    `"say a; b; c"` in a prompt makes it answer a, b, c in turn, to calls with different seeds and
    to the numbers of one call; `fail` fails, `nothing` is an empty answer. Checked is what follows
    "Question:": good if it begins with "good".
    """

    def __init__(self, *, is_chat: bool = True, context_length: int | None = None) -> None:
        self.is_chat = is_chat
        self.context_length = context_length
        self.asked: list[Any] = []
        self.seeds: list[int] = []

    def identity(self) -> str:
        return "writer"

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        return [" ".join(text.split(" ")[:max_tokens]) for text in texts]

    def count_tokens(self, prompts: list[Any]) -> list[int]:
        return [len(str(prompt).split()) for prompt in prompts]

    def generate(
        self,
        prompts: list[Any],
        *,
        n: int = 1,
        seed: int = 0,
        temperature: float = 0.0,
        **_: Any,
    ) -> list[Any]:
        self.asked += prompts
        if temperature == 0:
            return [[self._written_check(prompt)] for prompt in prompts]
        if seed not in self.seeds:
            self.seeds.append(seed)
        return [self._texts(prompt, n, self.seeds.index(seed)) for prompt in prompts]

    def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
        self.asked += prompts
        assert choices == ["Yes", "No"]
        found: list[Any] = []
        for prompt in prompts:
            if "Question: broken" in prompt:
                found.append(LLMError("no log-probabilities"))
            else:
                found.append(np.array([-0.5, -1.5] if is_good(prompt) else [-1.5, -0.5]))
        return found

    def _texts(self, prompt: Any, n: int, first: int) -> list[str] | LLMError:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        said = re.findall(r"say ([^.\n]*)", text)[0].split("; ")
        texts = [said[(first + number) % len(said)] for number in range(n)]
        written = ["" if text == "nothing" else text for text in texts if text != "fail"]
        return written or LLMError("out of order")

    def _written_check(self, prompt: str) -> str:
        if is_good(prompt):
            return "Yes."
        return "maybe" if "odd" in prompt else "No"


def is_good(prompt: str) -> bool:
    """Whether the query that a check asks about is a good one."""
    return "Question: good" in prompt


class Numbers:
    """An encoder of texts that end in the numbers of their vectors; remembers what it encoded."""

    def __init__(self) -> None:
        self.encoded: Counter[tuple[str, str]] = Counter()

    def identity(self) -> str:
        return "numbers"

    def encode_queries(self, texts: list[str], **_: Any) -> np.ndarray:
        self.encoded.update(("query", text) for text in texts)
        return np.array([text.split()[-2:] for text in texts], np.float32)

    def encode_corpus(self, texts: list[str], **_: Any) -> np.ndarray:
        self.encoded.update(("passage", text) for text in texts)
        return np.array([text.split()[-2:] for text in texts], np.float32)


def corpus_saying(*passages: str | None) -> Dataset:
    """Passages with ids and vectors."""
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "embedding": List(Value("float32"), length=2),
        }
    )
    columns = {
        "id": [f"p{number}" for number in range(len(passages))],
        "text": list(passages),
        "embedding": [[float(number), 1.0] for number in range(len(passages))],
    }
    return Dataset.from_dict(columns, features=features)
