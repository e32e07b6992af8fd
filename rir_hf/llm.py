"""Prompts in, texts or log-probabilities out: the language models that generate and teach, on transformers.

Every model of this package, here, behind a server (`OpenAIChat`) or in vLLM, has the same three methods. Each gives one result
per prompt, in their order; where a prompt failed its result is an `LLMError`, so that one bad answer stops nothing.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import xxhash
from datasets.utils import tqdm

from rir_hf.retriever import model_identity, require_place
from rir_hf.transform import describe, hash_by_identity, public_attributes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Prompt = str | list[dict[str, str]]
"""A text, or messages with `role` and `content`."""

_TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 32768}
_LOGITS_AT_ONCE = 1 << 26
_UNLIMITED = 1 << 30
_PATIENCE = 5.0
_HOPELESS = 8


class LLMError(Exception):
    """Why one prompt has no result. It stands in the list of results; it is not raised."""


@runtime_checkable
class LLM(Protocol):
    """What a language model must do to generate or to teach here."""

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

    def choice_logprobs(self, prompts: list[Prompt], choices: list[str]) -> list[np.ndarray | LLMError]:
        """For each prompt the log-probabilities, `(len(choices),)`, that the answer's first token begins each choice."""

    def sequence_logprobs(self, prompts: list[Prompt], continuations: list[str]) -> list[np.ndarray | LLMError]:
        """For each pair the log-probability of each token of the continuation."""

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        """Each text, or as much of its beginning as `max_tokens` tokens hold."""

    def count_tokens(self, prompts: list[Prompt]) -> list[int]:
        """Tokens of each prompt, as the model reads it."""


class Fitted(NamedTuple):
    """A prompt that fits the model, or why there is none, and how many of its passages were cut."""

    prompt: Prompt | LLMError
    cut: int


def fit(
    llm: LLM, write: Callable[[list[str]], Prompt], passages: list[str], *, max_passage_tokens: int, answer_tokens: int
) -> Fitted:
    """Write a prompt around passages, cutting the passages, and nothing else, until it fits the model's context.

    Args:
        llm: its `max_length` attribute is the context in tokens, None where it is not known.
        write: makes the prompt from the passages.
        passages: their texts.
        max_passage_tokens: no passage longer than this, whether it would fit or not.
        answer_tokens: tokens to leave free behind the prompt.
    """
    kept = llm.cut(passages, max_passage_tokens)
    prompt = write(kept)
    room = (getattr(llm, "max_length", None) or _UNLIMITED) - answer_tokens
    over = llm.count_tokens([prompt])[0] - room
    if over > 0:
        around, *counts = llm.count_tokens(["", *kept])
        lengths = [count - around for count in counts]
        total = sum(lengths)
        for _ in range(3):  # a cut text may have a token more than it had in the whole
            total -= over
            longest = _longest_allowed(lengths, total)
            if longest < 1:
                break
            kept = llm.cut(passages, longest)
            prompt = write(kept)
            over = llm.count_tokens([prompt])[0] - room
            if over <= 0:
                break
    if over > 0:
        taken = f"{room + answer_tokens} tokens less {answer_tokens} for the answer"
        return Fitted(LLMError(f"the prompt does not fit {taken}, even with its passages cut away"), 0)
    return Fitted(prompt, sum(text != whole for text, whole in zip(kept, passages, strict=True)))


def _longest_allowed(lengths: list[int], total: int) -> int:
    """The greatest length at which to cut, so that all together are no longer than `total`."""
    spent, left = 0, len(lengths)
    for length in sorted(lengths):
        if spent + length * left > total:
            return (total - spent) // left
        spent, left = spent + length, left - 1
    return max(lengths, default=0)


class Tokenized(ABC):
    """What a model with its tokenizer at hand shares: the chat template, and counting and cutting in tokens."""

    is_chat: ClassVar[bool] = True
    template_arguments: dict[str, Any]

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        """Each text, or as much of its beginning as `max_tokens` tokens hold."""
        return cut_to_tokens(self.tokenizer, texts, max_tokens)

    def count_tokens(self, prompts: list[Prompt]) -> list[int]:
        """Tokens of each prompt, as the model reads it."""
        return [len(ids) for ids in self.token_ids(prompts)]

    def token_ids(self, prompts: list[Prompt]) -> list[list[int]]:
        """Token ids of each prompt, with the chat template around it where the model has one."""
        texts = [self._render(prompt) for prompt in prompts]
        return self.tokenizer(texts, add_special_tokens=not self.is_chat, verbose=False)["input_ids"] if texts else []

    def continuation_ids(self, prompt: Prompt, continuation: str) -> list[int]:
        """Token ids of a continuation; behind a plain text it begins with a space, if neither side has one."""
        if not self.is_chat and not continuation[:1].isspace() and not self._render(prompt)[-1:].isspace():
            continuation = f" {continuation}"
        return self.tokenizer(continuation, add_special_tokens=False, verbose=False)["input_ids"]

    def first_tokens(self, choices: list[str]) -> list[list[int]]:
        """For each choice the tokens that begin it and no other choice, with and without a space before it.

        Raises:
            ValueError: a choice has no such token.
        """
        begun = [
            {self.tokenizer(before + choice, add_special_tokens=False)["input_ids"][0] for before in ("", " ")}
            for choice in choices
        ]
        shared = {token for token, times in Counter(token for tokens in begun for token in tokens).items() if times > 1}
        for choice, tokens in zip(choices, begun, strict=True):
            if tokens <= shared:
                raise ValueError(
                    f"The choice {choice!r} begins with the same token as another of {choices}, which then does not tell them "
                    "apart: use other words or letters."
                )
        return [sorted(tokens - shared) for tokens in begun]

    def _render(self, prompt: Prompt) -> str:
        if not self.is_chat:
            return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)
        return self.tokenizer.apply_chat_template(
            as_messages(prompt), tokenize=False, add_generation_prompt=True, **self.template_arguments
        )


def cut_to_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_tokens: int) -> list[str]:
    """Each text, or as much of its beginning as `max_tokens` tokens hold."""
    if not texts:
        return []
    spans = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [
        text if len(places) <= max_tokens else text[: places[max_tokens - 1][1]] for text, places in zip(texts, spans, strict=True)
    ]


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise `ValueError` for settings that no draw can have."""
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature must be at least 0 and top_p in (0, 1], got {temperature} and {top_p}.")


def ask_where_fitting(prompts: list[Prompt | LLMError], ask: Callable[[list[Prompt], list[int]], list[Any]]) -> list[Any]:
    """For each prompt what `ask` finds, given the prompts that fit and their places; for the others why they do not."""
    places = [place for place, prompt in enumerate(prompts) if not isinstance(prompt, LLMError)]
    found = iter(ask([prompts[place] for place in places], places))
    return [prompt if isinstance(prompt, LLMError) else next(found) for prompt in prompts]


def as_llm(model: LLM | str | os.PathLike[str], method: str, who: str) -> LLM:
    """A `ChatLLM` for a name or a folder; anything else as it is.

    Raises:
        TypeError: it cannot do what is needed of it.
    """
    if isinstance(model, (str, os.PathLike)):
        return ChatLLM(model)
    if not callable(getattr(model, method, None)):
        raise TypeError(f"{who} needs a model with {method}, as ChatLLM has it, got {type(model).__name__}.")
    return model


def raise_if_hopeless(step: object, model: str, errors: list[str | None]) -> None:
    """Raise `RuntimeError` once a model has failed on every row: on all of a first batch of several, or on the first eight.

    Args:
        step: the map function, which remembers the count.
        model: what the message calls the model.
        errors: why each row of a batch failed; None where it did not.
    """
    failed = [error for error in errors if error is not None]
    state = vars(step)
    state["_answered"] = state.get("_answered", 0) + len(errors) - len(failed)
    state["_failed"] = state.get("_failed", 0) + len(failed)
    if not state["_answered"] and (len(failed) > 1 or state["_failed"] >= _HOPELESS):
        raise RuntimeError(
            f"{type(step).__name__}: the {model} failed on all {state['_failed']} rows so far, the last time because: {failed[-1]}"
        )


def progress(total: int, name: str) -> tqdm:
    """A bar for a call that takes longer than some seconds; that of `Dataset.map` moves only between batches."""
    return tqdm(total=total, desc=name, unit=" prompts", delay=_PATIENCE, leave=False)


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as messages; a plain text is the user's."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


class ChatLLM(Tokenized):
    """An instruction-tuned causal language model of transformers, with its chat template.

    Loaded on the first call, in the process that makes it, on a GPU if there is one. Prompts are sorted by length and run in
    batches of as many tokens as `batch_tokens`, so that memory does not depend on their number or length. For the cache a Hub
    model is its name and `revision`, a local folder or GGUF file its content, a loaded model its weights.

    Args:
        model: Hub name, local folder (of a PEFT adapter too, with peft installed) or a loaded `PreTrainedModel`.
        tokenizer: the tokenizer of a loaded model; otherwise the one that lies with the model.
        gguf_file: name of a GGUF file in `model`. Its weights are unpacked once into a folder of the Hugging Face cache, in half
            precision; needs `pip install gguf accelerate`.
        dtype: `"bfloat16"`, `"float16"` or `"float32"`. Default: the checkpoint's own on a GPU, float32 on the CPU.
        device: `"cpu"`, `"cuda:1"`, ... A worker's rank overrides it.
        max_length: tokens of prompt and answer together. Default: what the model was made for.
        batch_tokens: tokens of one forward pass, padding included. Default: 2,048 on the CPU, 32,768 on a GPU.
        template_arguments: passed on to the chat template, `{"enable_thinking": False}` for Qwen3.
        revision: branch, tag or commit of a Hub model.
        trust_remote_code: run code from the model's repository. Only for repositories you have read.

    Example:
        >>> llm = ChatLLM("models", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")          # doctest: +SKIP
        >>> llm.generate(["What is the capital of France?"], max_tokens=8)                # doctest: +SKIP
        [['The capital of France is Paris.']]
        >>> llm.choice_logprobs(["Is Madrid in Spain? Answer Yes or No."], ["Yes", "No"]) # doctest: +SKIP
        [array([-1.83099437, -1.48176694])]
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        gguf_file: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        template_arguments: dict[str, Any] | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        if not isinstance(self.model, str) and tokenizer is None:
            raise ValueError("A loaded model needs its tokenizer too: tokenizer=AutoTokenizer.from_pretrained(...).")
        if isinstance(self.model, str):
            _check_place(self.model, gguf_file)
        if dtype not in (None, "auto", "float32", "float16", "bfloat16"):
            raise ValueError(f'dtype must be "float32", "float16" or "bfloat16", got {dtype!r}.')
        self.given_tokenizer = tokenizer
        self.gguf_file = gguf_file
        self.dtype = dtype
        self.device = device
        self.given_max_length = max_length
        self.batch_tokens = batch_tokens
        self.template_arguments = template_arguments or {}
        self.revision = revision
        self.trust_remote_code = trust_remote_code

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
        """`n` answers to each prompt.

        What is drawn depends on `seed`, the prompt and the answer's number alone, so other batches give the same texts (but for
        a draw that falls on the last bits of a probability).

        Args:
            prompts: texts or lists of messages.
            temperature: 0 takes the likeliest token each time.
            top_p: draws from the likeliest tokens that together have this probability.
            max_tokens: longest answer.
            stop: texts before which an answer ends.
            n: answers per prompt.
            seed: of the draws.
        """
        found: list[Any] = list(self._prepared(prompts, max_tokens))
        jobs = [(place, number) for place, ids in enumerate(found) if not isinstance(ids, LLMError) for number in range(n)]
        answers = {}
        for batch in self._batches(jobs, [len(found[place]) + max_tokens for place, _ in jobs]):
            draws = None
            if temperature > 0:
                seeds = [seed_of(seed, prompts[place], number) for place, number in batch]
                draws = _Draws(seeds, temperature, top_p, self._load().device)
            answers.update(zip(batch, self._generate([found[place] for place, _ in batch], max_tokens, stop, draws), strict=True))
        return [
            ids if isinstance(ids, LLMError) else [answers[place, number] for number in range(n)] for place, ids in enumerate(found)
        ]

    def choice_logprobs(self, prompts: list[Prompt], choices: list[str]) -> list[np.ndarray | LLMError]:
        """For each prompt the log-probabilities, `(len(choices),)`, that the answer's first token begins each choice."""
        first = self.first_tokens(choices)
        found: list[Any] = list(self._prepared(prompts, 1))
        places = [place for place, ids in enumerate(found) if not isinstance(ids, LLMError)]
        for batch in self._batches(places, [len(found[place]) for place in places]):
            last = self._forward(*self._padded([found[place] for place in batch]), logits_to_keep=1).logits[:, -1].float()
            logprobs = last.log_softmax(-1).cpu()
            for row, place in enumerate(batch):
                found[place] = np.array([logprobs[row, tokens].logsumexp(0).item() for tokens in first])
        return found

    def sequence_logprobs(self, prompts: list[Prompt], continuations: list[str]) -> list[np.ndarray | LLMError]:
        """For each pair the log-probability of each token of the continuation, `(tokens,)`.

        A prompt that comes more than once is read once, and only the tokens of the continuations go through the output layer.
        """
        found: list[Any] = [None] * len(prompts)
        todo: dict[tuple[int, ...], list[int]] = {}
        wanted = [self.continuation_ids(*pair) for pair in zip(prompts, continuations, strict=True)]
        for place, ids in enumerate(self._prepared(prompts, 1)):
            if isinstance(ids, LLMError) or not wanted[place]:
                found[place] = ids if isinstance(ids, LLMError) else LLMError("the text to score has no token")
            elif len(ids) + len(wanted[place]) > self.max_length:
                found[place] = LLMError(
                    f"prompt and continuation have {len(ids) + len(wanted[place])} tokens, the model takes {self.max_length}"
                )
            else:
                todo.setdefault(tuple(ids), []).append(place)
        for batch in self._batches(list(todo), [len(ids) for ids in todo]):
            self._score_continuations(batch, [todo[ids] for ids in batch], wanted, found)
        return found

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded when it is first needed."""
        if self.given_tokenizer is not None:
            return self.given_tokenizer
        if "_tokenizer" not in self.__dict__:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(
                self._folder(), revision=self.revision, trust_remote_code=self.trust_remote_code
            )
            if self.is_chat and not self._tokenizer.chat_template:
                raise ValueError(
                    f"{self.model} has no chat template. Use CompletionLLM for a model that was not tuned to follow instructions."
                )
        return self._tokenizer

    @property
    def max_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        if self.given_max_length is not None:
            return self.given_max_length
        if "_own_length" not in self.__dict__:
            from transformers import AutoConfig

            if isinstance(self.model, str) and not Path(self.model, "adapter_config.json").exists():
                config = AutoConfig.from_pretrained(
                    self._folder(), revision=self.revision, trust_remote_code=self.trust_remote_code
                )
            else:
                config = self._load().config
            self._own_length = getattr(config.get_text_config(), "max_position_embeddings", None) or _UNLIMITED
        return self._own_length

    def to(self, device: str) -> None:
        """Put the model on `device`, now or when it is loaded."""
        if device != self.device:
            self.device = device
            if "_loaded" in self.__dict__:
                self._loaded.to(device)

    def identity(self) -> dict[str, Any]:
        """What decides the results, for the cache: the weights and the settings, not the place they lie or run."""
        model = model_identity(str(Path(self.model, self.gguf_file)) if self.gguf_file else self.model)
        without = ("given_tokenizer", "gguf_file", "device", "batch_tokens", "trust_remote_code")
        return {"version": self.version, **describe(self, without, model=model)}

    def __getstate__(self) -> dict[str, Any]:
        return public_attributes(self)

    def _folder(self) -> str:
        """Where transformers loads from."""
        return str(unpacked_gguf(Path(self.model, self.gguf_file))) if self.gguf_file else self.model

    def _load(self) -> PreTrainedModel:
        if "_loaded" not in self.__dict__:
            import torch
            from transformers import AutoModelForCausalLM

            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            model = self.model
            if isinstance(model, str):
                model = AutoModelForCausalLM.from_pretrained(
                    self._folder(),
                    dtype=self.dtype or ("float32" if device == "cpu" else "auto"),
                    revision=self.revision,
                    trust_remote_code=self.trust_remote_code,
                ).to(device)
            self._loaded = model.eval()
        return self._loaded

    def _prepared(self, prompts: list[Prompt], answer_tokens: int) -> Iterator[list[int] | LLMError]:
        """Token ids of each prompt, or an error where they and the answer do not fit the model."""
        for ids in self.token_ids(prompts):
            fits = 0 < len(ids) <= self.max_length - answer_tokens
            yield (
                ids
                if fits
                else LLMError(
                    f"a prompt of {len(ids)} tokens and an answer of {answer_tokens} do not fit the model's {self.max_length}"
                )
            )

    def _batches(self, items: list[Any], lengths: list[int]) -> Iterator[list[Any]]:
        """Batches of items of similar length, the longest first, none of more than `batch_tokens` tokens."""
        budget = self._tokens_at_once()
        order = sorted(range(len(items)), key=lambda place: -lengths[place])
        with progress(len(items), type(self).__name__) as bar:
            while order:
                size = max(1, budget // lengths[order[0]])
                yield [items[place] for place in order[:size]]
                bar.update(min(size, len(order)))
                order = order[size:]

    def _tokens_at_once(self) -> int:
        return self.batch_tokens or _TOKENS_AT_ONCE["cpu" if self._load().device.type == "cpu" else "cuda"]

    def _padded(self, rows: list[tuple[int, ...]] | list[list[int]], *, left: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask, `(rows, longest)`, on the model's device."""
        import torch

        width = max(map(len, rows))
        pad = self._pad_token()
        ids, mask = torch.full((len(rows), width), pad), torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(len(row))
            ids[number, place] = torch.tensor(row)
            mask[number, place] = 1
        return ids.to(self._load().device), mask.to(self._load().device)

    def _pad_token(self) -> int:
        """Any token will do: the mask hides it."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id or 0

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **more: Any) -> Any:
        """Run the model with the positions that the mask says, whatever the padding."""
        import torch

        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with torch.inference_mode():
            return self._load()(input_ids=ids, attention_mask=mask, position_ids=positions, **more)

    def _generate(self, rows: list[list[int]], max_tokens: int, stop: list[str] | None, draws: _Draws | None) -> list[str]:
        import torch
        from transformers import GenerationConfig

        model = self._load()
        ids, mask = self._padded(rows)
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=model.generation_config.eos_token_id or self.tokenizer.eos_token_id,
            pad_token_id=self._pad_token(),
            stop_strings=stop,
        )
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                generation_config=settings,
                logits_processor=[] if draws is None else [draws],
                tokenizer=self.tokenizer if stop else None,
            )
        texts = self.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        return [_before(text, stop or []) for text in texts]

    def _score_continuations(
        self, prompts: list[tuple[int, ...]], places: list[list[int]], wanted: list[list[int]], found: list[Any]
    ) -> None:
        """Read the prompts once, then each continuation with the keys and values of its prompt."""
        import torch

        _, mask = batch = self._padded(prompts)
        read = self._forward(*batch, use_cache=True, logits_to_keep=1)
        if getattr(read, "past_key_values", None) is None:
            raise ValueError(f"{type(self._load()).__name__} keeps no keys and values: it is not a causal language model.")
        jobs = [(row, place) for row, of_prompt in enumerate(places) for place in of_prompt]
        width = max(len(wanted[place]) for _, place in jobs)
        fitting = 2 * self._tokens_at_once() // (mask.shape[1] + width)
        size = max(1, min(fitting, _LOGITS_AT_ONCE // (width * read.logits.shape[-1])))
        for start in range(0, len(jobs), size):
            part = jobs[start : start + size]
            rows = torch.tensor([row for row, _ in part], device=mask.device)
            last = read.logits[rows]
            ids, real = self._padded([wanted[place] for _, place in part], left=False)
            logits = last
            if ids.shape[1] > 1:
                cache = read.past_key_values if len(jobs) <= size else copy.deepcopy(read.past_key_values)
                cache.batch_select_indices(rows)
                whole = torch.cat([mask[rows], real[:, :-1]], dim=1)
                logits = torch.cat([last, self._forward(ids[:, :-1], whole, past_key_values=cache, use_cache=True).logits], dim=1)
            for row, (_, place) in enumerate(part):
                own = logits[row, : len(wanted[place])].float()
                chosen = own.gather(-1, ids[row, : len(own), None])[:, 0]
                found[place] = (chosen - own.logsumexp(-1)).cpu().numpy().astype(np.float64)


class CompletionLLM(ChatLLM):
    """A causal language model without a chat template: prompts go in as they are, messages as their texts.

    The arguments are those of `ChatLLM`.
    """

    is_chat = False


class _Draws:
    """Logits processor that draws the next token of each row with random numbers of the row's own.

    The token is the one with the highest log-probability plus Gumbel noise, which is a draw from the softmax. Unlike a draw by
    cumulated probabilities it turns out the same when other batches change the last bits of the logits.
    """

    def __init__(self, seeds: list[int], temperature: float, top_p: float, device: torch.device) -> None:
        import torch

        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave one token possible in each row."""
        import torch
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        scores = TemperatureLogitsWarper(float(self.temperature))(input_ids, scores.float())
        if self.top_p < 1:
            scores = TopPLogitsWarper(self.top_p)(input_ids, scores)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        drawn = (scores - noise.log()).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


def _check_place(model: str, gguf_file: str | None) -> None:
    """Raise where a model's path, or the GGUF file in it, is not there."""
    path = Path(model)
    if gguf_file is not None and not (path / gguf_file).is_file():
        raise FileNotFoundError(f"gguf_file={gguf_file!r} is not in the folder {model}.")
    require_place(model)
    packed = sorted(file.name for file in path.glob("*.gguf")) if gguf_file is None else []
    if packed and not (path / "config.json").exists():
        raise ValueError(f"{model} holds GGUF files: name one, gguf_file={packed[0]!r}.")


def seed_of(seed: int, prompt: Prompt, number: int) -> int:
    """Seed of one answer, the same in every process and batch."""
    return xxhash.xxh3_64_intdigest(repr((seed, prompt, number)).encode()) >> 33


def _before(text: str, stop: list[str]) -> str:
    """The text up to the first of the stop texts."""
    return text[: min((text.find(end) for end in stop if end in text), default=len(text))]


def unpacked_gguf(path: Path) -> Path:
    """Folder of the Hugging Face cache with the model of a GGUF file as plain weights, made when it is first asked for.

    transformers reads GGUF files slowly, and cannot save or train what it has read: the weights are put into a fresh model of
    the same configuration, which is saved in half precision.
    """
    from huggingface_hub.constants import HF_HOME

    target = Path(HF_HOME, "rir_hf", "gguf", model_identity(str(path)).removeprefix("content:"))
    if target.is_dir():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("Unpacking %s into %s, once.", path.name, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        packed = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float16)
    except (ImportError, ValueError) as error:
        if "gguf" in str(error).lower():
            raise ImportError("Reading a GGUF file needs two more packages: pip install gguf accelerate.") from error
        raise
    settings = {name: value for name, value in packed.config.to_dict().items() if name != "quantization_config"}
    plain = AutoModelForCausalLM.from_config(type(packed.config).from_dict(settings), dtype=torch.float16)
    plain.load_state_dict(packed.state_dict())
    plain.generation_config = packed.generation_config
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-", ignore_cleanup_errors=True) as folder:
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
        try:
            os.rename(folder, target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster
                raise
    return target


hash_by_identity(ChatLLM)
hash_by_identity(CompletionLLM)
