"""Teachers that see a row's passages side by side: a generated ranking, the letter of the best."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from rir_hf.core.columns import check_at_least
from rir_hf.core.draws import generator_of
from rir_hf.models.fitting import fit
from rir_hf.models.llm import LLM, LLMError, Prompt, ask_where_fitting, check_sampling
from rir_hf.models.local import as_llm
from rir_hf.schema import note
from rir_hf.teaching.parsing import parse_ranking
from rir_hf.teaching.teacher import Row, Scored, Teacher, prompt_for, scored_with

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Identifiers of the passages in one list of `ListwiseLogits`."""

_FIELDS = {"query", "passages"}
_OPTIONAL = frozenset({"number"})


class Listwise(Teacher):
    """A ranking of all passages, as a language model writes it.

    A score is a reciprocal rank: 1, 1/2, 1/3, ... Long lists are ranked in windows, from the last
    passages to the first (RankGPT, Sun et al. 2023). Passages are shown in a random order, since
    the mined one would give the positive away. For large models only.

    Args:
        llm: the model, or its name or folder for a `ChatLLM`.
        window: passages that are ranked at a time.
        step: how far the window moves. Default: half a window.
        shuffles: in how many random orders each list is shown; the scores are averaged, which
            evens out the model's liking for the first or the last.
        prompt: another request with `{query}` and `{passages}`, and `{number}` if you like: what
            relevance means in your task belongs here. Default: `TEACHER_PROMPTS["listwise"]`.
        max_passage_tokens: a passage is cut to this, and further where the prompt does not fit the
            model. The request and the query never are.
        temperature: of the answers; 0 takes the likeliest token each time.
        top_p: of the answers; draws from the likeliest tokens that together have this probability.
        max_tokens: of the answers; a window of 20 takes about 120.
        seed: of the orders and the draws.

    Raises:
        TypeError: the model cannot generate.
        ValueError: an option out of range, a prompt without its fields.

    Example:
        >>> class FoxFirst:  # stands in for a ChatLLM; ranks what has "fox" in it first
        ...     def identity(self): return "fox first"
        ...     def cut(self, texts, max_tokens): return texts
        ...     def count_tokens(self, prompts): return [len(prompt.split()) for prompt in prompts]
        ...     def generate(self, prompts, **settings):
        ...         return [["[2] > [1]" if "[2] a fox" in prompt else "[1]"] for prompt in prompts]
        >>> row = Row("a red animal", pos=["a fox"], neg=["a car"])
        >>> Listwise(FoxFirst()).score([row])[0].scores
        array([1. , 0.5])
    """

    def __init__(
        self,
        llm: LLM | str | os.PathLike[str],
        *,
        window: int = 20,
        step: int | None = None,
        shuffles: int = 1,
        prompt: str | None = None,
        max_passage_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 300,
        seed: int = 0,
    ) -> None:
        step = max(1, window // 2) if step is None else step
        if window < 2 or not 1 <= step <= window:
            raise ValueError(
                f"window must be at least 2 and step between 1 and window, got {window} and {step}."
            )
        check_at_least("shuffles", shuffles, 1)
        check_at_least("max_passage_tokens", max_passage_tokens, 1)
        check_at_least("max_tokens", max_tokens, 1)
        check_sampling(temperature, top_p)
        self.llm = as_llm(llm, "generate", "Listwise")
        self.window = window
        self.step = step
        self.shuffles = shuffles
        self.prompt = prompt_for("listwise", prompt, self.llm, _FIELDS, _OPTIONAL)
        self.max_passage_tokens = max_passage_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.seed = seed

    counts_repairs = True

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """Rank the rows' lists together, one window of each at a time; a score is the mean of
        1 / rank over the orders shown.
        """
        lists_of_rows = [shuffled_lists(row, self.shuffles, self.seed) for row in rows]
        lists = list(chain.from_iterable(lists_of_rows))
        for shown in lists:
            shown.starts = window_starts(len(shown.order), self.window, self.step)
        while pending := [shown for shown in lists if shown.starts and shown.error is None]:
            self._rank_next_windows(pending)
        return [scored_by_lists(lists_of_row) for lists_of_row in lists_of_rows]

    def _rank_next_windows(self, lists: list[ShownList]) -> None:
        """Have the next window of each list ranked, all in one call."""
        windows = [shown.order[shown.starts[0] :][: self.window] for shown in lists]
        numbers = [str(number) for number in range(1, 1 + self.window)]
        fitted = [
            fit_list(self, shown, window, numbers, self.max_tokens)
            for shown, window in zip(lists, windows, strict=True)
        ]

        def ask(prompts: list[Prompt], _: list[int]) -> list[Any]:
            return self.llm.generate(
                prompts,
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_tokens,
                seed=self.seed,
            )

        answers = ask_where_fitting(fitted, ask)
        for shown, window, answer in zip(lists, windows, answers, strict=True):
            shown.take_ranking(window, answer)


class ListwiseLogits(Teacher):
    """Which of the lettered passages a language model finds best, from one forward pass a list
    (after FIRST, Reddy et al. 2024).

    A score is the log-probability of the passage's letter as the first token of the answer.
    Passages are shown in a random order. Up to 26 passages; a longer row fails.

    Args:
        llm: the model, or its name or folder for a `ChatLLM`.
        shuffles: in how many random orders each list is shown; the scores are averaged.
        prompt: another question with `{query}` and `{passages}`, and `{number}` if you like, to be
            answered by a letter. Default: `TEACHER_PROMPTS["listwise_logits"]`.
        max_passage_tokens: a passage is cut to this, and further where the prompt does not fit the
            model. The question and the query never are.
        seed: of the orders.

    Raises:
        TypeError: the model gives no log-probabilities of choices.
        ValueError: an option out of range, a prompt without its fields.

    Example:
        >>> class LikesFox:  # stands in for a ChatLLM; likes what has "fox" in it
        ...     def identity(self): return "likes fox"
        ...     def cut(self, texts, max_tokens): return texts
        ...     def count_tokens(self, prompts): return [len(prompt.split()) for prompt in prompts]
        ...     def choice_logprobs(self, prompts, letters):
        ...         return [self._logprobs(prompt, letters) for prompt in prompts]
        ...     def _logprobs(self, prompt, letters):
        ...         return [-0.5 if f"[{letter}] a fox" in prompt else -2.0 for letter in letters]
        >>> row = Row("a red animal", pos=["a fox"], neg=["a car", "a dog"])
        >>> ListwiseLogits(LikesFox()).score([row])[0].scores
        array([-0.5, -2. , -2. ])
    """

    def __init__(
        self,
        llm: LLM | str | os.PathLike[str],
        *,
        shuffles: int = 1,
        prompt: str | None = None,
        max_passage_tokens: int = 512,
        seed: int = 0,
    ) -> None:
        check_at_least("shuffles", shuffles, 1)
        check_at_least("max_passage_tokens", max_passage_tokens, 1)
        self.llm = as_llm(llm, "choice_logprobs", "ListwiseLogits")
        self.shuffles = shuffles
        self.prompt = prompt_for("listwise_logits", prompt, self.llm, _FIELDS, _OPTIONAL)
        self.max_passage_tokens = max_passage_tokens
        self.seed = seed

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The letters' log-probabilities, the mean of them over the orders shown."""
        lists_of_rows = [
            shuffled_lists(row, self.shuffles, self.seed)
            if len(row.passages) <= len(LETTERS)
            else []
            for row in rows
        ]
        lists = list(chain.from_iterable(lists_of_rows))
        for size in sorted({len(shown.order) for shown in lists}):
            self._ask([shown for shown in lists if len(shown.order) == size], LETTERS[:size])
        return [
            scored_by_lists(lists_of_row) if lists_of_row else _too_long(row)
            for row, lists_of_row in zip(rows, lists_of_rows, strict=True)
        ]

    def _ask(self, lists: list[ShownList], letters: str) -> None:
        """Score lists that are all as long as there are letters."""
        fitted = [fit_list(self, shown, shown.order, letters, 1) for shown in lists]

        def ask(prompts: list[Prompt], _: list[int]) -> list[Any]:
            return self.llm.choice_logprobs(prompts, list(letters)) if prompts else []

        for shown, found in zip(lists, ask_where_fitting(fitted, ask), strict=True):
            if isinstance(found, LLMError):
                shown.error = found
            else:
                shown.logprobs = np.asarray(found, np.float64)


@dataclass
class ShownList:
    """The passages of a row in one order, and what becomes of them."""

    row: Row
    """The row."""
    order: list[int]
    """Numbers of the passages, in the order shown; of a ranked list, best first."""
    starts: list[int] = field(default_factory=list)
    """Where the windows begin that are still to be ranked."""
    logprobs: np.ndarray | None = None
    """A score per place in the order, where the model gave scores and no ranking."""
    error: LLMError | None = None
    """Why it failed."""
    cut: int = 0
    """How many passages were cut, each time that they were shown."""
    repairs: Counter[str] = field(default_factory=Counter)
    """What had to be repaired in the answers."""

    @property
    def scores(self) -> np.ndarray:
        """A score per passage: its own, or else 1 / rank."""
        places = np.argsort(self.order)
        return 1 / (1 + places) if self.logprobs is None else self.logprobs[places]

    def take_ranking(self, window: list[int], answer: list[str] | LLMError) -> None:
        """Put the passages of a window into the order that an answer gives."""
        start = self.starts.pop(0)
        if isinstance(answer, LLMError):
            self.error = answer
            return
        ranking = parse_ranking(answer[0], len(window))
        if ranking.repairs.get("missing") == len(window):
            self.error = LLMError(f"no identifier of a passage in the answer {answer[0]!r:.100}")
            return
        self.repairs.update(ranking.repairs)
        self.order[start : start + len(window)] = [window[place] for place in ranking.order]


def shuffled_lists(row: Row, shuffles: int, seed: int) -> list[ShownList]:
    """The row's passages in random orders, the same in every run."""
    draws = [generator_of(seed, number, row.query, row.passages) for number in range(shuffles)]
    return [ShownList(row, draw.permutation(len(row.passages)).tolist()) for draw in draws]


def scored_by_lists(lists: Sequence[ShownList]) -> Scored:
    """A row's scores as the mean over the orders in which it was shown; orders that failed do not
    count, unless all did.
    """
    scores = [shown.scores for shown in lists if shown.error is None]
    if scores:
        found = scored_with(np.mean(scores, axis=0))
    else:
        found = Scored(error=note("failed", str(lists[0].error)))
    cut = sum(shown.cut for shown in lists)
    repairs: Counter[str] = sum((shown.repairs for shown in lists), Counter())
    return found._replace(cut=cut, repairs=dict(repairs))


def window_starts(number: int, window: int, step: int) -> list[int]:
    """Where the windows over a list begin, from its end to its start; none where there is nothing
    to rank.

    Example:
        >>> window_starts(35, 20, 10)
        [15, 5, 0]
        >>> window_starts(1, 20, 10)
        []
    """
    if number < 2:
        return []
    return [*range(number - window, 0, -step), 0]


def fit_list(
    teacher: Listwise | ListwiseLogits,
    shown: ShownList,
    places: list[int],
    identifiers: Sequence[str],
    answer_tokens: int,
) -> Prompt | LLMError:
    """A prompt that shows some of a list's passages, each with its identifier."""
    row = shown.row

    def write(texts: list[str]) -> str:
        lines = [f"[{name}] {text}" for name, text in zip(identifiers, texts, strict=False)]
        return teacher.prompt.format(
            query=row.query, passages="\n\n".join(lines), number=len(texts)
        )

    prompt, cut = fit(
        teacher.llm,
        write,
        [row.passages[place] for place in places],
        max_passage_tokens=teacher.max_passage_tokens,
        answer_tokens=answer_tokens,
    )
    shown.cut += cut
    return prompt


def _too_long(row: Row) -> Scored:
    detail = f"{len(row.passages)}, and a list of letters has {len(LETTERS)}: use Listwise"
    return Scored(error=note("too_many_passages", detail))
