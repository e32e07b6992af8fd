"""What a language model must do here: prompts go in, texts or log-probabilities come out.

The models of this package, on transformers (`ChatLLM`), behind a server (`OpenAIChat`) or in vLLM
(`VLLM`), give one result per prompt, in order. Where a prompt failed its result is an `LLMError`,
so that one bad answer stops nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from datasets.utils import tqdm

Prompt = str | list[dict[str, str]]
"""A text, or messages with `role` and `content`."""

_SHOW_PROGRESS_AFTER = 5.0
_HOPELESS_AFTER = 8


class LLMError(Exception):
    """Why one prompt has no result. It stands in the list of results and is not raised."""


class HopelessError(RuntimeError):
    """A model has failed on every row so far; see `raise_if_hopeless`."""


@runtime_checkable
class LLM(Protocol):
    """What a language model must do to generate or to teach.

    A model may also have `context_length`, the tokens that prompt and answer have together, so
    that passages are cut to fit it; and `is_chat`, False where it has no chat template.
    """

    def generate(
        self,
        prompts: list[Prompt],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 256,
        stop: list[str] | None = None,
        n: int = 1,
        seed: int = 0,
    ) -> list[list[str] | LLMError]:
        """`n` answers to each prompt."""

    def choice_logprobs(
        self, prompts: list[Prompt], choices: list[str]
    ) -> list[np.ndarray | LLMError]:
        """For each prompt the log-probabilities, `(len(choices),)`, that the answer's first token
        begins each choice.
        """

    def sequence_logprobs(
        self, prompts: list[Prompt], continuations: list[str]
    ) -> list[np.ndarray | LLMError]:
        """For each pair the log-probability of each token of the continuation, `(tokens,)`."""

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        """Each text, or as much of its beginning as `max_tokens` tokens hold."""

    def count_tokens(self, prompts: list[Prompt]) -> list[int]:
        """Tokens of each prompt, as the model reads it."""


def is_chat(llm: Any) -> bool:
    """Whether a model puts prompts into a chat template, rather than continuing a text."""
    return bool(getattr(llm, "is_chat", True))


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as messages; a plain text is the user's.

    Example:
        >>> as_messages("Why?")
        [{'role': 'user', 'content': 'Why?'}]
    """
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise `ValueError` for settings that no draw can have."""
    if not temperature >= 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature must be at least 0 and top_p in (0, 1], got {temperature} and {top_p}."
        )


def ask_where_fitting(
    prompts: list[Any], ask: Callable[[list[Any], list[int]], list[Any]]
) -> list[Any]:
    """Ask for the prompts that fit the model; the results of the others say why they do not.

    Args:
        prompts: prompts as `fit` makes them, or the errors in their stead.
        ask: is given the prompts that fit and their positions, and returns a result for each.

    Example:
        >>> ask = lambda prompts, positions: [f"{prompts} at {positions}"]
        >>> ask_where_fitting([LLMError("too long"), "a"], ask)
        [LLMError('too long'), "['a'] at [1]"]
    """
    fitting = where_fitting(prompts)
    results = list(prompts)
    for at, result in zip(fitting, ask([prompts[at] for at in fitting], fitting), strict=True):
        results[at] = result
    return results


def where_fitting(prompts: list[Any]) -> list[int]:
    """Positions of the prompts in whose stead there is no error."""
    return [at for at, prompt in enumerate(prompts) if not isinstance(prompt, LLMError)]


def raise_if_hopeless(step: object, what: str, errors: list[str | None]) -> None:
    """Raise `HopelessError` once a model has failed on every row so far: on all of a first batch of
    several rows, or on the first eight.

    Args:
        step: the step, which remembers the counts from batch to batch in this process.
        what: what the message calls the model, `"generator"` for example.
        errors: why each row of the batch failed; None where it did not.
    """
    failed = [error for error in errors if error is not None]
    state = vars(step)
    state["_answered"] = state.get("_answered", 0) + len(errors) - len(failed)
    state["_failed"] = state.get("_failed", 0) + len(failed)
    is_hopeless = len(failed) > 1 or state["_failed"] >= _HOPELESS_AFTER
    if not state["_answered"] and is_hopeless:
        raise HopelessError(
            f"{type(step).__name__}: the {what} failed on all {state['_failed']} rows so far, "
            f"the last time because: {failed[-1]}"
        )


def has_answered(step: object) -> bool:
    """Whether the model of a step has answered a row, as far as the step knows in this process."""
    return bool(vars(step).get("_answered"))


def mark_answered(step: object) -> None:
    """Tell a step that its model has answered, elsewhere or before: it is not given up then.

    Example:
        >>> class Step: ...
        >>> step = Step()
        >>> mark_answered(step)
        >>> raise_if_hopeless(step, "teacher", ["no", "no"])
    """
    vars(step)["_answered"] = 1


def progress(total: int, name: str) -> tqdm:
    """A bar for a call that takes longer than five seconds; that of `Dataset.map` moves only
    between batches.
    """
    return tqdm(total=total, desc=name, unit=" prompts", delay=_SHOW_PROGRESS_AFTER, leave=False)
