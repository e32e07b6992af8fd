"""Queries in, hypothetical answers out: what a search should find, as a model imagines it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rir_hf.core.columns import Batch, check_at_least
from rir_hf.core.step import Step
from rir_hf.core.texts import is_whole, whole
from rir_hf.generation.drafting import (
    THINKING_HINT,
    check_draws,
    cue,
    failure,
)
from rir_hf.models.llm import LLM, LLMError, is_chat, raise_if_hopeless
from rir_hf.models.local import as_llm
from rir_hf.models.prompts import answer_prompt, find_task, without_thinking
from rir_hf.schema import (
    ANSWER,
    ANSWER_EMBEDDING,
    ANSWER_ERROR,
    ANSWERS,
    ANSWERS_DROPPED,
    CHOSEN,
    CHOSEN_SCORE,
    LOST_ANSWERS,
    PAIR_NOTE,
    PROMPT,
    QUERY,
    QUERY_SCORE,
    REJECTED,
    REJECTED_SCORE,
    Column,
    note,
)


class GenerateAnswers(Step):
    """Step that writes hypothetical answers to queries, the passage itself unseen (HyDE, Gao 2022).

    Columns added:

    - `answers`, the distinct answers, and with `n=1` also `answer`, null where there is none;
    - `prompt`, what the generator was asked, which preference pairs need;
    - `answers_dropped`, how many of the `n` are missing and why: these counts and the answers add
      up to `n`;
    - `answer_error`, why answers are missing because the generator failed (`failed`, on one or on
      all of them), or why there is none; null otherwise.

    `retry` asks again for rows that have failed. What is written depends on the seed, the query and
    the answer's number, not on the batch, where the model allows it: exactly with `ChatLLM`, as far
    as a server keeps to its seeds with `OpenAIChat`.

    Args:
        llm: as for `GenerateQueries`.
        task: as for `GenerateQueries`; decides what kind of passage is asked for.
        n: answers asked for per query. Preference pairs need several, five in the original scripts.
        query: the column of the queries.
        words: about how long an answer should be, in words.
        prompt: another question than the task's, with `{query}`.
        temperature: of the answers.
        top_p: of the answers.
        max_tokens: of an answer.
        seed: of the draws.

    Raises:
        TypeError: the model cannot generate.
        ValueError: an option is out of range (at once); a missing column, or queries that are not
            texts (before the work starts).
        RuntimeError: the model failed on all of the first rows.

    Example:
        >>> class Parrot:
        ...     '''A stand-in for a language model.'''
        ...     def generate(self, prompts, *, n, **settings):
        ...         return [["The sun."] * n for prompt in prompts]
        >>> row = GenerateAnswers(Parrot(), n=2).one({"query": "What shines?"})
        >>> row["answers"], row["answers_dropped"]
        (['The sun.'], {'no_query': 0, 'failed': 0, 'empty': 0, 'duplicate': 1})
    """

    failures = ("failed",)

    def __init__(
        self,
        llm: LLM | str | os.PathLike[str],
        *,
        task: str | None = None,
        n: int = 1,
        query: str = "query",
        words: int = 60,
        prompt: str | None = None,
        temperature: float = 0.9,
        top_p: float = 1.0,
        max_tokens: int = 256,
        seed: int = 0,
    ) -> None:
        check_draws(n, temperature, top_p, seed)
        check_at_least("words", words, 1)
        check_at_least("max_tokens", max_tokens, 1)
        self.llm = as_llm(llm, "generate", "GenerateAnswers")
        self.task = task
        self.n = n
        self.query = query
        self.words = words
        self.prompt = answer_prompt(task, words=words, prompt=prompt)
        if not is_chat(self.llm):
            self.prompt += cue(find_task(task).passage)
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.seed = seed

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The queries."""
        return (QUERY.named(self.query),)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The columns named in the description of the class."""
        columns = (ANSWERS, PROMPT, ANSWERS_DROPPED, ANSWER_ERROR)
        return (*columns, ANSWER) if self.n == 1 else columns

    def outdated(self, columns: Collection[str]) -> tuple[Column, ...]:
        """Preferences among other answers, and the vector of another one."""
        pairs = (CHOSEN, REJECTED, CHOSEN_SCORE, REJECTED_SCORE, QUERY_SCORE, PAIR_NOTE)
        vector = ANSWER_EMBEDDING._replace(type=pa.list_(pa.float32()))
        return (vector, *pairs) if self.n == 1 else pairs

    @property
    def note(self) -> Column:
        """`answer_error`."""
        return ANSWER_ERROR

    def transform(self, batch: Batch) -> dict[str, list[Any]]:
        """Return the columns named in the description of the class."""
        queries = [query or "" for query in batch.texts(self.query)]
        rows = [_Answered(query, self.prompt.format(query=query), self.n) for query in queries]
        asked = [row for row in rows if row.error is None]
        if asked:
            self._ask(asked)
        raise_if_hopeless(self, "generator", [None if row.answers else row.error for row in asked])
        columns: dict[str, list[Any]] = {
            "answers": [row.answers for row in rows],
            "prompt": [row.prompt for row in rows],
            "answers_dropped": [row.dropped for row in rows],
            "answer_error": [row.error for row in rows],
        }
        if self.n == 1:
            columns["answer"] = [row.answers[0] if row.answers else None for row in rows]
        return columns

    def _ask(self, rows: list[_Answered]) -> None:
        """Have answers written to each row's query, equal ones asked once."""
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        results = self.llm.generate(
            list(prompts),
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=None if is_chat(self.llm) else ["\n\n"],
            n=self.n,
            seed=self.seed,
        )
        answers = dict(zip(prompts, results, strict=True))
        for row in rows:
            row.take(answers[row.prompt])


@dataclass
class _Answered:
    """One query and its answers."""

    query: str
    prompt: str
    asked: int
    answers: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOST_ANSWERS, 0))
    error: str | None = None

    def __post_init__(self) -> None:
        if not self.query.strip():
            self.error = note("empty_query")
        elif not is_whole(self.query):
            self.error = note("not_unicode")
        if self.error:
            self.dropped["no_query"] = self.asked

    def take(self, results: list[str] | LLMError) -> None:
        """Keep the distinct answers and count the others."""
        texts = [] if isinstance(results, LLMError) else results
        lost = Counter(failed=self.asked - len(texts))
        for text in texts:
            answer = whole(without_thinking(text).strip())
            if answer and answer not in self.answers:
                self.answers.append(answer)
            else:
                lost["duplicate" if answer else "empty"] += 1
        self.dropped |= lost
        self.error = self._why_missing(results)

    def _why_missing(self, results: list[str] | LLMError) -> str | None:
        if isinstance(results, LLMError):
            return failure("failed", results)
        if self.dropped["failed"]:
            return note("failed", f"{self.dropped['failed']} of {self.asked} answers")
        return None if self.answers else note("nothing_written", THINKING_HINT)
