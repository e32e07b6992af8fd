"""Prompts in tokens: put into the chat template, counted, and cut until they fit the model."""

from __future__ import annotations

import re
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rir_hf.core.configured import Configured
from rir_hf.models.llm import LLM, LLMError, Prompt, as_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNLIMITED = 1 << 30
"""Tokens of a model whose length nothing says."""

LONGEST_TOKEN = 256
"""Characters that no token is likely to have. Only as much of a text is read as its tokens may
hold: to find the first 512 in 10 MB of text takes tokenizers 20 s.
"""

_TRIES = 3  # a cut text may have a token more than it had in the whole


class Fitted(NamedTuple):
    """A prompt that fits the model, or why there is none."""

    prompt: Prompt | LLMError
    """The prompt, or the error that stands in its stead."""
    cut: int
    """How many of its passages were cut."""


def fit(
    llm: LLM,
    write: Callable[[list[str]], Prompt],
    passages: list[str],
    *,
    max_passage_tokens: int,
    answer_tokens: int,
) -> Fitted:
    """Write a prompt around passages, cutting the passages, and nothing else, until it fits.

    The longest passages are cut first, all of them to the same number of tokens.

    Args:
        llm: its `context_length` is what prompt and answer have room in, in tokens. Where it has
            none, or None, only `max_passage_tokens` counts.
        write: makes the prompt from the passages.
        passages: their texts.
        max_passage_tokens: no passage longer than this, whether it would fit or not.
        answer_tokens: tokens to leave free behind the prompt.

    Example:
        >>> from rir_hf.models.server import OpenAIChat
        >>> llm = OpenAIChat("any", max_length=11)      # counts three bytes as a token
        >>> write = lambda passages: "Judge " + " and ".join(passages)
        >>> fit(llm, write, ["short", "a long passage"], max_passage_tokens=9, answer_tokens=3)
        Fitted(prompt='Judge short and a long', cut=1)
    """
    kept = llm.cut(passages, max_passage_tokens)
    context = getattr(llm, "context_length", None) or UNLIMITED
    lengths: list[int] = []
    total = 0
    for _ in range(1 + _TRIES):
        prompt = write(kept)
        over = llm.count_tokens([prompt])[0] - (context - answer_tokens)
        if over <= 0:
            cut = sum(text != whole for text, whole in zip(kept, passages, strict=True))
            return Fitted(prompt, cut)
        if not lengths:
            around, *counts = llm.count_tokens(["", *kept])
            lengths = [count - around for count in counts]
            total = sum(lengths)
        total -= over
        longest = _longest_allowed(lengths, total)
        if longest < 1:
            break
        kept = llm.cut(passages, longest)
    less = f"{context} tokens less {answer_tokens} for the answer"
    return Fitted(LLMError(f"the prompt does not fit {less}, even with its passages cut away"), 0)


class Tokenized(Configured, ABC):
    """What a model with its tokenizer at hand can do: chat template, counting, cutting.

    Control tokens in a prompt (`<|im_end|>`, `</s>`) are read as plain text, so that no passage can
    end the prompt; only those of the chat template itself count. transformers can do so too, from
    5.24 on (`sanitize_control_tokens`).

    A subclass has the setting `template_arguments`, passed on to the chat template.
    """

    version: ClassVar[int] = 2
    is_chat: ClassVar[bool] = True
    template_arguments: dict[str, Any]

    @property
    @abstractmethod
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""

    @property
    @abstractmethod
    def _tokenizer(self) -> PreTrainedTokenizerBase: ...

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        """Each text, or as much of its beginning as `max_tokens` tokens hold."""
        return cut_to_tokens(self._tokenizer, texts, max_tokens)

    def count_tokens(self, prompts: list[Prompt]) -> list[int]:
        """Tokens of each prompt, as the model reads it."""
        return [len(ids) for ids in self.token_ids(prompts)]

    def token_ids(self, prompts: list[Prompt]) -> list[list[int]]:
        """Token ids of each prompt, with the chat template around it where the model has one."""
        if not prompts:
            return []
        texts = [self._text_of(prompt) for prompt in prompts]
        return self._ids_of(texts, add_special_tokens=not self.is_chat)

    def where_they_fit(self, rows: list[list[int]], answer_tokens: int) -> list[Any]:
        """The token ids of each prompt, or an error where they and the answer do not fit."""
        checked: list[Any] = []
        for ids in rows:
            fits = 0 < len(ids) <= self.context_length - answer_tokens
            error = LLMError(
                f"a prompt of {len(ids)} tokens and an answer of {answer_tokens} do not fit the "
                f"model's {self.context_length}"
            )
            checked.append(ids if fits else error)
        return checked

    def continuation_ids(self, prompt: Prompt, continuation: str) -> list[int]:
        """Token ids of a continuation.

        Behind a plain text it begins with a space, unless either side has one.
        """
        if not self.is_chat:
            sides = (self._text_of(prompt)[-1:], continuation[:1])
            if not any(side.isspace() for side in sides):
                continuation = f" {continuation}"
        return self._ids_of([self._as_data(continuation)], add_special_tokens=False)[0]

    def first_tokens(self, choices: list[str]) -> list[list[int]]:
        """For each choice the tokens that begin it and no other, with and without a space before.

        Raises:
            ValueError: a choice has no such token.
        """
        begun = []
        times = Counter[int]()
        for choice in choices:
            ids = self._ids_of([choice, f" {choice}"], add_special_tokens=False)
            begun.append({first for first, *_ in ids})
            times.update(begun[-1])
        distinct = [sorted(token for token in tokens if times[token] == 1) for tokens in begun]
        for choice, tokens in zip(choices, distinct, strict=True):
            if not tokens:
                raise ValueError(
                    f"The choice {choice!r} begins with the same token as another of {choices}, "
                    "which then does not tell them apart: use other words or letters."
                )
        return distinct

    def _ids_of(self, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
        rows = [text.split(self._break) for text in texts]
        options: dict[str, Any] = {"add_special_tokens": add_special_tokens, "verbose": False}
        ids = self._tokenizer([pieces[0] for pieces in rows], **options)["input_ids"]
        options["add_special_tokens"] = False
        for row, (_, *rest) in zip(ids, rows, strict=True):
            for piece in rest:
                row += self._tokenizer(piece, **options)["input_ids"]
        return ids

    @cached_property
    def _break(self) -> str:
        """What stands inside a control token of a text, where it is cut before it is tokenized;
        nobody can know and write it.
        """
        return f"\ue000{uuid.uuid4().hex}\ue000"

    def _as_data(self, text: str) -> str:
        """The text with a break in each control token."""
        return self._break.join(control_tokens(self._tokenizer).split(text))

    def _text_of(self, prompt: Prompt) -> str:
        messages = [
            {**message, "content": self._as_data(message["content"])}
            for message in as_messages(prompt)
        ]
        if not self.is_chat:
            return "\n\n".join(message["content"] for message in messages)
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self.template_arguments
        )
        return str(text)


def cut_to_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_tokens: int
) -> list[str]:
    """Each text, or as much of its beginning as `max_tokens` tokens hold; control tokens in it are
    plain text.
    """
    heads = [text[: max_tokens * LONGEST_TOKEN] for text in texts]
    rows = [control_tokens(tokenizer).split(head) for head in heads]
    pieces = [piece for row in rows for piece in row]
    if not pieces:
        return []
    tokens = tokenizer(pieces, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = iter(tokens["offset_mapping"])
    return [
        head[: _end_of([(len(piece), next(spans)) for piece in row], max_tokens)]
        for head, row in zip(heads, rows, strict=True)
    ]


def _end_of(pieces: list[tuple[int, list[tuple[int, int]]]], max_tokens: int) -> int:
    """Where the first `max_tokens` tokens of a text end.

    Args:
        pieces: for each piece of the text its length and where in it its tokens are.
        max_tokens: at least 1.
    """
    end = 0
    for length, spans in pieces:
        if len(spans) > max_tokens:
            return end + (spans[max_tokens - 1][1] if max_tokens else 0)
        max_tokens -= len(spans)
        end += length
    return end


@lru_cache(maxsize=8)
def control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """What matches, behind the first character of each control token, the place where a text is
    cut so that no tokenizer finds one: special tokens, and others that the chat template has.
    """
    template = str(getattr(tokenizer, "chat_template", None) or "")
    rests: dict[str, set[str]] = {}
    for token in getattr(tokenizer, "added_tokens_decoder", {}).values():
        first, rest = token.content[:1], token.content[1:]
        is_markup = rest.strip() and (token.special or token.content in template)
        if is_markup:
            rests.setdefault(first, set()).add(re.escape(rest))
    places = [
        f"(?<={re.escape(first)})(?={'|'.join(sorted(those))})" for first, those in rests.items()
    ]
    return re.compile("|".join(places) or "(?!)")


@contextmanager
def plain_text(tokenizer: Any, *around: str) -> Iterator[None]:
    """Let a tokenizer read control tokens in texts as plain text, and put its own way back.

    Not where a chat template or the texts `around` those of the rows, a model's prompts, have such
    tokens and need them.
    """
    own = getattr(tokenizer, "split_special_tokens", None)
    is_needed = getattr(tokenizer, "chat_template", None) or any(
        control_tokens(tokenizer).search(text) for text in around
    )
    if own is None or is_needed:
        yield
        return
    tokenizer.split_special_tokens = True
    try:
        yield
    finally:
        tokenizer.split_special_tokens = own


def _longest_allowed(lengths: list[int], total: int) -> int:
    """The greatest length at which to cut, so that all together are no longer than `total`.

    Example:
        >>> _longest_allowed([2, 9, 30], total=20)
        9
        >>> _longest_allowed([2, 9, 30], total=10)
        4
    """
    spent = 0
    left = len(lengths)
    for length in sorted(lengths):
        if spent + length * left > total:
            return (total - spent) // left
        spent += length
        left -= 1
    return max(lengths, default=0)
