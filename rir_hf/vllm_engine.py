"""`VLLM`: a language model in vLLM, in this process, for GPUs. The tests, which have no GPU, run it over a stand-in for vLLM."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rir_hf.llm import LLMError, Prompt, Tokenized, seed_of
from rir_hf.retriever import model_identity
from rir_hf.transform import describe, hash_by_identity, public_attributes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOP = 20


class VLLM(Tokenized):
    """A chat model in vLLM, which batches and schedules by itself.

    Args:
        model: Hub name or local folder.
        max_length: tokens of prompt and answer together (vLLM's `max_model_len`). Default: what the model was made for.
        template_arguments: passed on to the chat template, `{"enable_thinking": False}` for Qwen3.
        revision: branch, tag or commit of a Hub model.
        **engine: further arguments of `vllm.LLM`: `dtype`, `tensor_parallel_size`, `gpu_memory_utilization`, `quantization`.

    Example:
        >>> llm = VLLM("Qwen/Qwen3-8B", max_length=8192)                                  # doctest: +SKIP
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        template_arguments: dict[str, Any] | None = None,
        revision: str | None = None,
        **engine: Any,
    ) -> None:
        self.model = os.fspath(model)
        self.given_max_length = max_length
        self.template_arguments = template_arguments or {}
        self.revision = revision
        self.engine = engine

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
        """`n` answers to each prompt; see `ChatLLM.generate`."""
        shared = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stop": stop}
        jobs = [(place, number) for place in range(len(prompts)) for number in range(n)]
        ids = self.token_ids(prompts)
        settings = [{**shared, "seed": seed_of(seed, prompts[place], number)} for place, number in jobs]
        answers = iter(self._run([ids[place] for place, _ in jobs], settings, max_tokens))
        found = []
        for own in [[next(answers) for _ in range(n)] for _ in prompts]:
            failed = next((answer for answer in own if isinstance(answer, LLMError)), None)
            found.append(failed or [answer.outputs[0].text for answer in own])
        return found

    def choice_logprobs(self, prompts: list[Prompt], choices: list[str]) -> list[np.ndarray | LLMError]:
        """For each prompt the log-probabilities that the answer's first token begins each choice.

        A choice that is not among the likeliest 20 tokens gets the log-probability of the last of them.
        """
        first = self.first_tokens(choices)
        settings = [{"temperature": 0.0, "max_tokens": 1, "logprobs": _TOP}] * len(prompts)
        found = []
        for answer in self._run(self.token_ids(prompts), settings, 1):
            if isinstance(answer, LLMError):
                found.append(answer)
                continue
            top = {token: entry.logprob for token, entry in answer.outputs[0].logprobs[0].items()}
            least = min(top.values())
            found.append(
                np.array([np.logaddexp.reduce([top[token] for token in tokens if token in top] or [least]) for tokens in first])
            )
        return found

    def sequence_logprobs(self, prompts: list[Prompt], continuations: list[str]) -> list[np.ndarray | LLMError]:
        """For each pair the log-probability of each token of the continuation."""
        wanted = [self.continuation_ids(*pair) for pair in zip(prompts, continuations, strict=True)]
        ids = [[*before, *after] for before, after in zip(self.token_ids(prompts), wanted, strict=True)]
        settings = [{"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0}] * len(prompts)
        found = []
        for answer, after in zip(self._run(ids, settings, 1), wanted, strict=True):
            if isinstance(answer, LLMError) or not after:
                found.append(answer if isinstance(answer, LLMError) else LLMError("the text to score has no token"))
                continue
            entries = answer.prompt_logprobs[-len(after) :]
            found.append(np.array([entry[token].logprob for entry, token in zip(entries, after, strict=True)]))
        return found

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._load().get_tokenizer()

    @property
    def max_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.given_max_length or self._load().llm_engine.model_config.max_model_len

    def identity(self) -> dict[str, Any]:
        """What decides the results, for the cache."""
        return {"version": self.version, **describe(self, model=model_identity(self.model))}

    def __getstate__(self) -> dict[str, Any]:
        return public_attributes(self)

    def _load(self) -> Any:
        if "_loaded" not in self.__dict__:
            try:
                from vllm import LLM
            except ImportError as error:
                raise ImportError('VLLM needs vllm and a GPU: pip install "rir-hf[vllm]".') from error
            self._loaded = LLM(model=self.model, max_model_len=self.given_max_length, revision=self.revision, **self.engine)
        return self._loaded

    def _run(self, ids: list[list[int]], settings: list[dict[str, Any]], answer_tokens: int) -> list[Any]:
        """What vLLM finds for each prompt, or an error where it does not fit."""
        self._load()
        from vllm import SamplingParams

        fits = [len(row) + answer_tokens <= self.max_length for row in ids]
        rows = [{"prompt_token_ids": row} for row, good in zip(ids, fits, strict=True) if good]
        parameters = [SamplingParams(**own) for own, good in zip(settings, fits, strict=True) if good]
        answers = iter(self._loaded.generate(rows, parameters, use_tqdm=False) if rows else [])
        return [
            next(answers)
            if good
            else LLMError(
                f"a prompt of {len(row)} tokens and an answer of {answer_tokens} do not fit the model's {self.max_length}"
            )
            for row, good in zip(ids, fits, strict=True)
        ]


hash_by_identity(VLLM)
