"""`ChatLLM` and `CompletionLLM`: causal language models on transformers, in this process."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from rir_hf.core.columns import check_at_least, check_choice
from rir_hf.core.configured import require_place
from rir_hf.core.draws import seed_of
from rir_hf.core.garbage import free_memory
from rir_hf.models.fitting import UNLIMITED, Tokenized
from rir_hf.models.gguf import check_gguf, unpacked_gguf
from rir_hf.models.llm import LLM, LLMError, Prompt, progress, where_fitting

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENS_ON_CPU = 2048
_TOKENS_ON_GPU = 32768
_LOGITS_AT_ONCE = 1 << 26
_WORTH_SHARING = 32


class ChatLLM(Tokenized):
    """An instruction-tuned causal language model of transformers, with its chat template.

    It is loaded on the first call, in the process that makes it. Prompts are sorted by length and
    run in batches of `batch_tokens`, so that memory does not depend on how many there are or how
    long. For the cache a Hub model is its name and commit, a local folder or GGUF file its content,
    a loaded model its weights.

    Args:
        model: Hub name, local folder (of a PEFT adapter too, with peft installed) or a loaded
            `PreTrainedModel`.
        tokenizer: the tokenizer of a loaded model. Default: the one that lies with the model.
        gguf_file: name of a GGUF file in the folder `model`. Its weights are unpacked once into a
            folder of the Hugging Face cache, in half precision; needs `pip install gguf
            accelerate`.
        dtype: `"bfloat16"`, `"float16"` or `"float32"`. Default: the checkpoint's own on a GPU,
            float32 on the CPU.
        device: `"cpu"`, `"cuda:1"`, ... Default: a GPU if there is one. A worker's number
            overrides it.
        max_length: tokens of prompt and answer together. Default: what the model was made for.
        batch_tokens: tokens of one forward pass, padding included. Default: 2,048 on the CPU,
            32,768 on a GPU.
        template_arguments: passed on to the chat template, `{"enable_thinking": False}` for Qwen3.
        revision: branch, tag or commit of a Hub model. Pin a commit where results must stay.
        trust_remote_code: run code from the model's repository. Only for repositories you have
            read.

    Raises:
        FileNotFoundError: the folder, or the GGUF file in it, is not there.
        ValueError: a setting out of range, or a loaded model without its tokenizer.

    Example:
        >>> folder, file = "models", "SmolLM2-135M-Instruct.Q4_1.gguf"
        >>> llm = ChatLLM(folder, gguf_file=file)                                # doctest: +SKIP
        >>> llm.generate(["What is the capital of France?"], max_tokens=8)       # doctest: +SKIP
        [['The capital of France is Paris.']]
        >>> llm.choice_logprobs(["Is Madrid in Spain?"], ["Yes", "No"])          # doctest: +SKIP
        [array([-1.83099437, -1.48176694])]
    """

    without_effect: ClassVar[tuple[str, ...]] = (
        "gguf_file",  # its content is the model's identity
        "device",
        "batch_tokens",
        "trust_remote_code",
    )
    models: ClassVar[Mapping[str, str]] = {"model": "_source"}

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
        if isinstance(self.model, str):
            require_place(self.model)
            check_gguf(self.model, gguf_file)
        elif tokenizer is None:
            raise ValueError(
                "A loaded model needs its tokenizer too: "
                "tokenizer=AutoTokenizer.from_pretrained(...)."
            )
        check_choice("dtype", dtype, (None, "auto", "float32", "float16", "bfloat16"))
        for name, value in (("max_length", max_length), ("batch_tokens", batch_tokens)):
            check_at_least(name, 1 if value is None else value, 1)
        self.tokenizer = tokenizer
        self.gguf_file = gguf_file
        self.dtype = dtype
        self.device = device
        self.max_length = max_length
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

        What is drawn depends on `seed`, the prompt and the answer's number alone, so other batches
        give the same texts (but for a draw that falls on the last bits of a probability).

        Args:
            prompts: texts or lists of messages.
            temperature: 0 takes the likeliest token each time.
            top_p: draws from the likeliest tokens that together have this probability.
            max_tokens: longest answer.
            stop: texts before which an answer ends.
            n: answers per prompt.
            seed: of the draws.
        """
        ids = self.where_they_fit(self.token_ids(prompts), max_tokens)
        jobs = list(product(where_fitting(ids), range(n)))
        texts: dict[tuple[int, int], str] = {}
        beginning = self._beginning([ids[at] for at, _ in jobs])
        own_lengths = [len(ids[at]) - beginning.size + max_tokens for at, _ in jobs]
        for batch in self._batches(own_lengths):
            of_batch = [jobs[job] for job in batch]
            draws = None
            if temperature > 0:
                seeds = [seed_of(seed, prompts[at], number) for at, number in of_batch]
                draws = _Draws(seeds, temperature, top_p, self._model.device)
            rows = [ids[at] for at, _ in of_batch]
            written = self._write(rows, beginning, max_tokens, stop, draws)
            texts.update(zip(of_batch, written, strict=True))
        return [
            own if isinstance(own, LLMError) else [texts[at, number] for number in range(n)]
            for at, own in enumerate(ids)
        ]

    def choice_logprobs(
        self, prompts: list[Prompt], choices: list[str]
    ) -> list[np.ndarray | LLMError]:
        """For each prompt the log-probabilities, `(len(choices),)`, that the answer's first token
        begins each choice.
        """
        first = self.first_tokens(choices)
        found = self.where_they_fit(self.token_ids(prompts), 1)
        fitting = where_fitting(found)
        for batch in self._batches([len(found[at]) for at in fitting]):
            of_batch = [fitting[number] for number in batch]
            ids, mask = self._padded([found[at] for at in of_batch])
            logits = self._forward(ids, mask, logits_to_keep=1).logits[:, -1].float()
            for at, logprobs in zip(of_batch, logits.log_softmax(-1).cpu(), strict=True):
                found[at] = np.array([logprobs[tokens].logsumexp(0).item() for tokens in first])
        return found

    def sequence_logprobs(
        self, prompts: list[Prompt], continuations: list[str]
    ) -> list[np.ndarray | LLMError]:
        """For each pair the log-probability of each token of the continuation, `(tokens,)`.

        A prompt that comes more than once is read once, and only the tokens of the continuations
        go through the output layer.
        """
        texts = zip(prompts, continuations, strict=True)
        wanted = [self.continuation_ids(prompt, continuation) for prompt, continuation in texts]
        found: list[Any] = []
        pairs_of: dict[tuple[int, ...], list[int]] = {}
        for pair, ids in enumerate(self.where_they_fit(self.token_ids(prompts), 1)):
            found.append(self._why_not(ids, wanted[pair]))
            if found[pair] is None:
                pairs_of.setdefault(tuple(ids), []).append(pair)
        distinct = list(pairs_of)
        for batch in self._batches([len(ids) for ids in distinct]):
            of_batch = [distinct[number] for number in batch]
            jobs = []
            for row, ids in enumerate(of_batch):
                jobs += [(row, pair) for pair in pairs_of[ids]]
            scores = self._score(of_batch, [(row, wanted[pair]) for row, pair in jobs])
            for (_, pair), logprobs in zip(jobs, scores, strict=True):
                found[pair] = logprobs
        return found

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._own_length if self.max_length is None else self.max_length

    def to(self, device: str) -> None:
        """Put the model on `device`, now or when it is loaded."""
        if device != self.device:
            self.device = device
            if "_model" in vars(self):
                self._model.to(device)

    def unload(self) -> None:
        """Free the memory that the model takes until it is used again; one that was given loaded
        stays as it is.
        """
        vars(self).pop("_model", None)
        free_memory()

    @property
    def _source(self) -> Any:
        """What the model's identity is the content of."""
        return Path(str(self.model), self.gguf_file) if self.gguf_file else self.model

    @property
    def _folder(self) -> str:
        """Where transformers loads from."""
        return str(unpacked_gguf(self._source)) if self.gguf_file else str(self.model)

    @property
    def _where(self) -> dict[str, Any]:
        revision = self._keep_identity("model")
        return {"revision": revision, "trust_remote_code": self.trust_remote_code}

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        if self.tokenizer is not None:
            return self.tokenizer
        where = self._where
        tokenizer = AutoTokenizer.from_pretrained(self._folder, **where)
        if self.is_chat and not tokenizer.chat_template:
            raise ValueError(
                f"{self.model} has no chat template. Use CompletionLLM for a model that was not "
                "tuned to follow instructions."
            )
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        if not isinstance(self.model, str):
            return self.model.eval()
        where = self._where
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = self.dtype or ("float32" if device == "cpu" else "auto")
        model: Any = AutoModelForCausalLM.from_pretrained(self._folder, dtype=dtype, **where)
        return model.to(device).eval()

    @property
    def _own_config(self) -> Any:
        """The settings in the model's folder; None for a loaded model and for an adapter, which
        has none.
        """
        from transformers import AutoConfig

        if not isinstance(self.model, str):
            return None
        with suppress(OSError, ValueError):
            return AutoConfig.from_pretrained(self._folder, **self._where)
        return None

    @cached_property
    def _own_length(self) -> int:
        """Tokens that the model was made for."""
        config = self._own_config or self._model.config
        length = getattr(config.get_text_config(), "max_position_embeddings", None)
        return length or UNLIMITED

    @property
    def _tokens_at_once(self) -> int:
        on_cpu = self._model.device.type == "cpu"
        return self.batch_tokens or (_TOKENS_ON_CPU if on_cpu else _TOKENS_ON_GPU)

    def _why_not(self, ids: list[int] | LLMError, wanted: list[int]) -> LLMError | None:
        """Why a continuation has no score; None where it has one."""
        if isinstance(ids, LLMError):
            return ids
        if not wanted:
            return LLMError("the text to score has no token")
        total = len(ids) + len(wanted)
        if total > self.context_length:
            return LLMError(
                f"prompt and continuation have {total} tokens, the model takes "
                f"{self.context_length}"
            )
        return None

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Numbers of items of similar length, the longest first, with a bar where it takes long."""
        order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
        with progress(len(lengths), type(self).__name__) as bar:
            while order:
                size = max(1, self._tokens_at_once // lengths[order[0]])
                batch, order = order[:size], order[size:]
                yield batch
                bar.update(len(batch))

    def _padded(
        self, rows: Sequence[Sequence[int]], side: str = "left"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask, `(rows, longest)`, on the model's device."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        tokens = [torch.tensor(row) for row in rows]
        marks = [torch.ones_like(row) for row in tokens]
        ids = pad_sequence(
            tokens, batch_first=True, padding_value=self._pad_token, padding_side=side
        )
        mask = pad_sequence(marks, batch_first=True, padding_side=side)
        return ids.to(self._model.device), mask.to(self._model.device)

    @property
    def _pad_token(self) -> int:
        """Any token will do: the mask hides it."""
        pad = self._tokenizer.pad_token_id
        return pad if pad is not None else self._tokenizer.eos_token_id or 0

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **more: Any) -> Any:
        """Run the model with the positions that the mask says, whatever the padding."""
        import torch

        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with torch.inference_mode():
            return self._model(input_ids=ids, attention_mask=mask, position_ids=positions, **more)

    def _write(
        self,
        rows: list[list[int]],
        beginning: _Beginning,
        max_tokens: int,
        stop: list[str] | None,
        draws: _Draws | None,
    ) -> list[str]:
        """The answer to each prompt of a batch; padding goes behind what all prompts begin with."""
        import torch
        from transformers import GenerationConfig

        ids, mask = self._padded([row[beginning.size :] for row in rows])
        first = ids.new_tensor(rows[0][: beginning.size]).expand(len(rows), -1)
        ids, mask = torch.cat([first, ids], dim=1), torch.cat([torch.ones_like(first), mask], dim=1)
        own_end = self._model.generation_config.eos_token_id
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=own_end or self._tokenizer.eos_token_id,
            pad_token_id=self._pad_token,
            stop_strings=stop,
        )
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=mask,
                generation_config=settings,
                **beginning.read_for(len(rows)),
                logits_processor=[] if draws is None else [draws],
                tokenizer=self._tokenizer if stop else None,
            )
        texts = self._tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        return [_before(text, stop or []) for text in texts]

    def _beginning(self, rows: Sequence[list[int]]) -> _Beginning:
        """What all prompts begin with, instructions and examples, read once for all of them."""
        import torch

        size = _common_size([row[:-1] for row in rows])
        if size < _WORTH_SHARING or len(rows) < 2:
            return _Beginning(0)
        ids = torch.tensor([rows[0][:size]], device=self._model.device)
        read = self._forward(ids, torch.ones_like(ids), use_cache=True, logits_to_keep=1)
        name = _cache_name(self._model, read)
        cache = getattr(read, name, None)
        if not hasattr(cache, "batch_repeat_interleave"):  # a model with a state of its own kind
            return _Beginning(0)
        return _Beginning(size, name, cache)

    def _score(
        self, prompts: list[tuple[int, ...]], jobs: list[tuple[int, list[int]]]
    ) -> Iterator[np.ndarray]:
        """Read the prompts once, then each job, a continuation of the prompt of that number, with
        the prompt's keys and values.
        """
        ids, mask = self._padded(prompts)
        read = self._forward(ids, mask, use_cache=True, logits_to_keep=1)
        cache_name = _cache_name(self._model, read)
        if getattr(read, cache_name, None) is None:
            raise ValueError(
                f"{type(self._model).__name__} keeps no keys and values: it is not a causal "
                "language model."
            )
        longest = max(len(wanted) for _, wanted in jobs)
        fitting = 2 * self._tokens_at_once // (mask.shape[1] + longest)
        size = max(1, min(fitting, _LOGITS_AT_ONCE // (longest * read.logits.shape[-1])))
        for start in range(0, len(jobs), size):
            part = jobs[start : start + size]
            cache = getattr(read, cache_name)
            if len(jobs) > size and longest > 1:
                cache = copy.deepcopy(cache)  # reading on changes it
            yield from self._score_part(read.logits, {cache_name: cache}, mask, part)

    def _score_part(
        self,
        last: torch.Tensor,
        cache: dict[str, Any],
        mask: torch.Tensor,
        jobs: list[tuple[int, list[int]]],
    ) -> Iterator[np.ndarray]:
        """Log-probabilities of continuations of prompts that were read; `last` are the logits of
        each prompt's last token, `(prompts, 1, vocabulary)`.
        """
        import torch

        rows = torch.tensor([row for row, _ in jobs], device=mask.device)
        ids, is_token = self._padded([wanted for _, wanted in jobs], "right")
        logits = last[rows]
        if ids.shape[1] > 1:
            for kept in cache.values():
                kept.batch_select_indices(rows)
            whole = torch.cat([mask[rows], is_token[:, :-1]], dim=1)
            more = self._forward(ids[:, :-1], whole, use_cache=True, **cache)
            logits = torch.cat([logits, more.logits], dim=1)
        for row, (_, wanted) in enumerate(jobs):
            own = logits[row, : len(wanted)].float()
            chosen = own.gather(-1, ids[row, : len(own), None])[:, 0]
            yield (chosen - own.logsumexp(-1)).cpu().numpy().astype(np.float64)


class CompletionLLM(ChatLLM):
    """A causal language model without a chat template: prompts go in as they are, messages as
    their texts.

    The arguments are those of `ChatLLM`.

    Example:
        >>> llm = CompletionLLM("openai-community/gpt2")                         # doctest: +SKIP
        >>> llm.generate(["The capital of France is"], max_tokens=2)             # doctest: +SKIP
        [[' the capital']]
    """

    is_chat: ClassVar[bool] = False


class _Beginning(NamedTuple):
    """How many tokens all prompts begin with, and their keys and values."""

    size: int
    cache_name: str = ""
    cache: Any = None

    def read_for(self, rows: int) -> dict[str, Any]:
        """The keys and values for so many prompts, a copy, since writing on changes them."""
        if self.cache is None:
            return {}
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return {self.cache_name: cache}


class _Draws:
    """Logits processor that draws the next token of each row with random numbers of its own.

    The token is the one with the highest log-probability plus Gumbel noise, which is a draw from
    the softmax. Unlike a draw by cumulated probabilities it turns out the same when other batches
    change the last bits of the logits.
    """

    def __init__(
        self, seeds: list[int], temperature: float, top_p: float, device: torch.device
    ) -> None:
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


def _common_size(rows: Sequence[list[int]]) -> int:
    """How many numbers all rows begin with."""
    if not rows:
        return 0
    first, last = min(rows), max(rows)  # all others lie between them
    pairs = zip(first, last, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(first))


def _cache_name(model: Any, read: Any) -> str:
    """What a model calls its keys and values: transformers renamed them (5.23, September 2026)."""
    if "past_key_values" in inspect.signature(model.forward).parameters:
        return "past_key_values"
    return "cache" if hasattr(read, "cache") else "past_key_values"


def _before(text: str, stop: list[str]) -> str:
    r"""The text up to the first of the stop texts.

    Example:
        >>> _before("one. two\nthree", ["\n", "."])
        'one'
    """
    ends = [text.find(end) for end in stop if end in text]
    return text[: min(ends, default=len(text))]


def as_llm(model: LLM | str | os.PathLike[str], method: str, who: str) -> LLM:
    """A `ChatLLM` for a name or a folder; anything else as it is.

    Args:
        model: an object with the methods of `LLM` that are needed, or a model's name or folder.
        method: the method that is needed most, `"generate"` for example.
        who: the step or teacher that needs it, for the error.

    Raises:
        TypeError: the object does not have that method.

    Example:
        >>> as_llm(42, "generate", "GenerateQueries")
        Traceback (most recent call last):
        TypeError: GenerateQueries needs a model with generate, as ChatLLM has it, got int.
    """
    if isinstance(model, (str, os.PathLike)):
        return ChatLLM(model)
    if not callable(getattr(model, method, None)):
        name = type(model).__name__
        raise TypeError(f"{who} needs a model with {method}, as ChatLLM has it, got {name}.")
    return model
