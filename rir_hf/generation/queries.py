"""Passages of a corpus in, queries about them out, each checked by a second question."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rir_hf.core.columns import Batch, check_at_least, check_choice
from rir_hf.core.draws import generator_of, seed_of
from rir_hf.core.step import Step
from rir_hf.core.texts import is_whole, whole
from rir_hf.generation.drafting import (
    THINKING_HINT,
    check_draws,
    clean_query,
    cue,
    failure,
    read_yes_or_no,
)
from rir_hf.models.fitting import fit
from rir_hf.models.llm import (
    LLM,
    LLMError,
    Prompt,
    ask_where_fitting,
    is_chat,
    raise_if_hopeless,
)
from rir_hf.models.local import as_llm
from rir_hf.models.prompts import JUDGEMENTS, Task, check_fields, fill_prompt, find_task
from rir_hf.schema import PASSAGE_CUT, QUERIES, QUERY_CHECKS, TEXT, Column, code_of, note

_SHOWN_CHARACTERS = 60
_NOT_ASKED = ("empty_passage", "not_unicode")
_GENERATOR_FAULTS = ("failed", "check_failed", "nothing_written")


class GenerateQueries(Step):
    """Step that writes queries for passages, and asks a second question about each of them.

    A row of the corpus stays one row: `unnest(rows, {"queries": "query"})` makes pairs. Columns
    added:

    - `queries`, a list of texts: those that passed, at most `n`, without repetition;
    - `query_checks`, a list of `n` structs in the order asked: `query`, the text that was written;
      `quality`, how much likelier Yes was than No as the answer to the check, in log-odds (null
      where it was not asked so); `note`, why it was not taken, null where it was;
    - `passage_cut`, whether the generator saw only the beginning of the passage.

    The codes of `note` are those of `schema.QUERY_CHECKS`. `retry` asks again for rows with one
    that is `failed` or `check_failed`. What is written depends on the seed, the passage and the
    query's number, not on the batch, where the model allows it: exactly with `ChatLLM`, as far as
    a server keeps to its seeds with `OpenAIChat`.

    Args:
        llm: a `ChatLLM`, `CompletionLLM`, `OpenAIChat`, `VLLM`, or the name or folder of a model
            for a `ChatLLM`.
        task: the retrieval task, which decides what is asked: the name of a BEIR dataset
            (`rir_hf.models.prompts.TASKS`), or a sentence like "Given a legal question, find the
            paragraph that answers it". Default: questions that the passage answers.
        n: queries asked for per passage.
        quality_check: whether to ask if the passage fits the query. True or `"logprobs"` compares
            the log-probabilities of Yes and No; `"text"` reads a written answer, for servers
            without log-probabilities and for models that think first.
        min_quality: log-odds from which a query is taken; higher takes fewer. Small models say Yes
            too easily: look at the `quality` of some queries first.
        examples: rows of `passage` and `query` to show before each passage, as a chat.
        passage: the column of the passages.
        max_chars: a passage is cut to so many characters; 8,000 in the original scripts.
        max_passage_tokens: and to so many tokens, further where a prompt does not fit the model.
        prompt: another instruction than the task's, with `{passage}`, and `{length}` where the
            drawn length should stand.
        temperature: of the queries; the check is asked at 0.
        top_p: of the queries.
        max_tokens: of a query, and of a written check.
        seed: of the draws.

    Raises:
        TypeError: the model cannot generate.
        ValueError: an option is out of range (at once); a missing column, or passages that are not
            texts (before the work starts).
        RuntimeError: the model failed on all of the first rows.

    Example:
        >>> class Parrot:
        ...     '''A stand-in for a language model.'''
        ...     def cut(self, texts, max_tokens):
        ...         return texts
        ...     def count_tokens(self, prompts):
        ...         return [len(prompt.split()) for prompt in prompts]
        ...     def generate(self, prompts, **settings):
        ...         return [["Question: What shines?"] for prompt in prompts]
        ...     def choice_logprobs(self, prompts, choices):
        ...         return [np.array([-0.5, -1.5]) for prompt in prompts]
        >>> GenerateQueries(Parrot(), n=2).one({"text": "The sun shines."})["queries"]
        ['What shines?']
        >>> row = GenerateQueries(Parrot(), n=2).one({"text": "The sun shines."})
        >>> row["query_checks"][1]
        {'query': 'What shines?', 'quality': None, 'note': 'duplicate'}
    """

    failures = ("failed", "check_failed")

    def __init__(
        self,
        llm: LLM | str | os.PathLike[str],
        *,
        task: str | None = None,
        n: int = 1,
        quality_check: bool | Literal["logprobs", "text"] = True,
        min_quality: float = 0.0,
        examples: Sequence[Mapping[str, str]] = (),
        passage: str = "text",
        max_chars: int = 8000,
        max_passage_tokens: int = 1024,
        prompt: str | None = None,
        temperature: float = 0.7,
        top_p: float = 1.0,
        max_tokens: int = 128,
        seed: int = 0,
    ) -> None:
        check_draws(n, temperature, top_p, seed)
        check_at_least("max_chars", max_chars, 1)
        check_at_least("max_passage_tokens", max_passage_tokens, 1)
        check_at_least("max_tokens", max_tokens, 1)
        check_choice("quality_check", quality_check, (True, False, "logprobs", "text"))
        check_examples(examples)
        self.llm = as_llm(llm, "generate", "GenerateQueries")
        self.task = task
        self.n = n
        self.quality_check = "logprobs" if quality_check is True else quality_check
        self.min_quality = min_quality
        self.examples = [dict(example) for example in examples]
        self.passage = passage
        self.max_chars = max_chars
        self.max_passage_tokens = max_passage_tokens
        self.prompt = _query_prompt(self._task, prompt)
        self.check_prompt = fill_prompt("check", self._task, self._task.fits)
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.seed = seed

    outputs = (QUERIES, QUERY_CHECKS, PASSAGE_CUT)

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The passages."""
        return (TEXT.named(self.passage),)

    @property
    def note(self) -> Column:
        """The column with a note in each of its structs."""
        return QUERY_CHECKS

    def notes_of(self, row: Any) -> list[str | None]:
        """The notes in one value of `query_checks`."""
        return [check["note"] for check in row or []]

    def transform(self, batch: Batch) -> dict[str, list[Any]]:
        """Return the columns named in the description of the class."""
        passages = [passage or "" for passage in batch.texts(self.passage)]
        rows = [[_Draft(passage, number) for number in range(self.n)] for passage in passages]
        drafts = [draft for row in rows for draft in row]
        for number in range(self.n):
            self._write([draft for draft in drafts if draft.number == number and draft.is_open])
        for row in rows:
            _mark_duplicates(row)
        if self.quality_check:
            self._check([draft for draft in drafts if draft.is_open])
        self._stop_if_hopeless(drafts)
        return {
            "queries": [[draft.query for draft in row if draft.is_open] for row in rows],
            "query_checks": [[draft.check for draft in row] for row in rows],
            "passage_cut": [any(draft.is_cut for draft in row) for row in rows],
        }

    @cached_property
    def _task(self) -> Task:
        return find_task(self.task)

    def _write(self, drafts: list[_Draft]) -> None:
        """Have a query written for each draft; all have the same number."""
        if not drafts:
            return
        answers = self._generate(
            drafts,
            self._asking_for,
            temperature=self.temperature,
            seed=seed_of(self.seed, "", drafts[0].number),
        )
        for draft, answer in zip(drafts, answers, strict=True):
            draft.take(answer, self._task)

    def _asking_for(self, draft: _Draft, passage: str) -> Prompt:
        """The question for a query, about as much of the passage as fits."""
        length = ""
        if self._task.lengths:
            generator = generator_of(self.seed, draft.number, draft.passage)
            length = f" Use {generator.choice(list(self._task.lengths))}."
        return self._with_examples(self.prompt.format(passage=passage, length=length))

    def _with_examples(self, question: str) -> Prompt:
        shown = [
            (self.prompt.format(passage=example["passage"][: self.max_chars], length=""), example)
            for example in self.examples
        ]
        if not is_chat(self.llm):
            behind = cue(self._task.query)
            parts = [f"{asked}{behind} {example['query']}" for asked, example in shown]
            return "\n\n".join([*parts, f"{question}{behind}"])
        if not shown:
            return question
        messages = []
        for asked, example in shown:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": example["query"]})
        return [*messages, {"role": "user", "content": question}]

    def _check(self, drafts: list[_Draft]) -> None:
        """Turn down the queries to which the second question is answered with No."""
        if self.quality_check == "text":
            self._check_by_text(drafts)
            return
        prompts = [self._fit(draft, self._asking_about, 1) for draft in drafts]
        odds = ask_where_fitting(
            prompts, lambda asked, _: self.llm.choice_logprobs(asked, list(JUDGEMENTS))
        )
        for draft, logprobs in zip(drafts, odds, strict=True):
            draft.judge_by_odds(logprobs, self.min_quality)

    def _check_by_text(self, drafts: list[_Draft]) -> None:
        answers = self._generate(drafts, self._asking_about, temperature=0.0, seed=self.seed)
        for draft, answer in zip(drafts, answers, strict=True):
            draft.judge_by_text(answer)

    def _asking_about(self, draft: _Draft, passage: str) -> Prompt:
        """The second question, about as much of the passage as fits."""
        asked = self.check_prompt.format(passage=passage, query=draft.query)
        return asked if is_chat(self.llm) else asked + cue("answer")

    def _generate(
        self, drafts: list[_Draft], asking: _Asking, *, temperature: float, seed: int
    ) -> list[str | LLMError]:
        """A text for each draft, or why there is none."""
        prompts = [self._fit(draft, asking, self.max_tokens) for draft in drafts]

        def ask(asked: list[Prompt], _: list[int]) -> list[Any]:
            return self.llm.generate(
                asked,
                temperature=temperature,
                top_p=self.top_p,
                max_tokens=self.max_tokens,
                stop=None if is_chat(self.llm) else ["\n"],
                seed=seed,
            )

        found = ask_where_fitting(prompts, ask)
        return [texts if isinstance(texts, LLMError) else whole(texts[0]) for texts in found]

    def _fit(self, draft: _Draft, asking: _Asking, answer_tokens: int) -> Prompt | LLMError:
        text = draft.passage[: self.max_chars]
        prompt, cut = fit(
            self.llm,
            lambda texts: asking(draft, texts[0]),
            [text],
            max_passage_tokens=self.max_passage_tokens,
            answer_tokens=answer_tokens,
        )
        draft.is_cut |= bool(cut) or text != draft.passage
        return prompt

    def _stop_if_hopeless(self, drafts: list[_Draft]) -> None:
        codes = [code_of(draft.note) for draft in drafts]
        faults = [
            draft.note if code in _GENERATOR_FAULTS else None
            for draft, code in zip(drafts, codes, strict=True)
            if code not in _NOT_ASKED
        ]
        raise_if_hopeless(self, "generator", faults)


_Asking = Callable[["_Draft", str], Prompt]


@dataclass
class _Draft:
    """One query for one passage, on its way; `number` counts those of the passage."""

    passage: str
    number: int
    query: str | None = None
    quality: float | None = None
    note: str | None = None
    is_cut: bool = False

    def __post_init__(self) -> None:
        if not self.passage.strip():
            self.note = note("empty_passage")
        elif not is_whole(self.passage):
            self.note = note("not_unicode")

    @property
    def is_open(self) -> bool:
        """Whether nothing speaks against it yet."""
        return self.note is None

    @property
    def check(self) -> dict[str, Any]:
        """The struct of `query_checks`."""
        return {"query": self.query, "quality": self.quality, "note": self.note}

    def take(self, answer: str | LLMError, task: Task) -> None:
        """Read the query in what the model wrote."""
        if isinstance(answer, LLMError):
            self.note = failure("failed", answer)
            return
        self.query = clean_query(answer, task.query, one_line=task.one_line)
        if not self.query:
            self.query, self.note = answer, note("nothing_written", THINKING_HINT)

    def judge_by_odds(self, logprobs: np.ndarray | LLMError, min_quality: float) -> None:
        """Turn the query down where the log-probabilities of Yes and No say so."""
        if isinstance(logprobs, LLMError):
            self.note = failure("check_failed", logprobs)
            return
        self.quality = float(logprobs[0] - logprobs[1])
        if not self.quality >= min_quality:
            self.note = note("rejected")

    def judge_by_text(self, answer: str | LLMError) -> None:
        """Turn the query down where the written answer is not a clear Yes."""
        if isinstance(answer, LLMError):
            self.note = failure("check_failed", answer)
            return
        says_yes = read_yes_or_no(answer)
        if says_yes is None:
            self.note = note("unclear", whole(repr(answer)[:_SHOWN_CHARACTERS]))
        elif not says_yes:
            self.note = note("rejected")


def _mark_duplicates(drafts: list[_Draft]) -> None:
    """Keep the first of equal queries for one passage."""
    seen = set()
    for draft in drafts:
        if draft.is_open:
            if draft.query in seen:
                draft.note = note("duplicate")
            seen.add(draft.query)


def _query_prompt(task: Task, prompt: str | None) -> str:
    """The given prompt, or the task's, with `{passage}` and `{length}` still open."""
    if prompt is None:
        return fill_prompt("query", task, task.write_query)
    check_fields("prompt", prompt, {"passage"}, {"passage", "length"})
    return prompt


def check_examples(examples: Sequence[Mapping[str, str]]) -> None:
    """Raise `ValueError` for one without a text for `passage` and one for `query`."""
    for example in examples:
        if not all(isinstance(example.get(name), str) for name in ("passage", "query")):
            raise ValueError(
                "Each of the examples must have the texts passage and query, "
                f"got {str(example)[:100]}."
            )
