"""`VLLM`: a language model in vLLM, in this process, for GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rir_hf.core.configured import require_place
from rir_hf.core.draws import seed_of
from rir_hf.core.garbage import free_memory
from rir_hf.models.fitting import Tokenized
from rir_hf.models.llm import LLMError, Prompt, ask_where_fitting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOP = 20


class VLLM(Tokenized):
    """A chat model in vLLM, which batches and schedules by itself.

    Args:
        model: Hub name or local folder.
        max_length: tokens of prompt and answer together (vLLM's `max_model_len`). Default: what
            the model was made for.
        template_arguments: passed on to the chat template, `{"enable_thinking": False}` for Qwen3.
        revision: branch, tag or commit of a Hub model.
        **engine: further arguments of `vllm.LLM`: `dtype`, `tensor_parallel_size`,
            `gpu_memory_utilization`, `quantization`.

    Raises:
        FileNotFoundError: the folder is not there.
        ImportError: at the first call, where vLLM is not installed.

    Example:
        >>> llm = VLLM("Qwen/Qwen3-8B", max_length=8192)
        >>> llm.generate(["What is the capital of France?"], max_tokens=8)       # doctest: +SKIP
        [['The capital of France is Paris.']]
    """

    models: ClassVar[Mapping[str, str]] = {"model": "model"}

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
        require_place(self.model)
        self.max_length = max_length
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
        """`n` answers to each prompt, each with a seed of its own; see `ChatLLM.generate`."""
        shared = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        ids = []
        settings = []
        for prompt, own in zip(prompts, self.token_ids(prompts), strict=True):
            ids += [own] * n
            seeds = [seed_of(seed, prompt, number) for number in range(n)]
            settings += [{**shared, "stop": stop, "seed": drawn} for drawn in seeds]
        answers = self._run(ids, settings, max_tokens)
        return [_texts_of(answers[at * n : (at + 1) * n]) for at in range(len(prompts))]

    def choice_logprobs(
        self, prompts: list[Prompt], choices: list[str]
    ) -> list[np.ndarray | LLMError]:
        """For each prompt the log-probabilities, `(len(choices),)`, that the answer's first token
        begins each choice.

        A choice that is not among the likeliest 20 tokens gets the log-probability of the last.
        """
        first = self.first_tokens(choices)
        settings = [{"temperature": 0.0, "max_tokens": 1, "logprobs": _TOP}] * len(prompts)
        answers = self._run(self.token_ids(prompts), settings, 1)
        return [
            answer if isinstance(answer, LLMError) else _choices_in(answer, first)
            for answer in answers
        ]

    def sequence_logprobs(
        self, prompts: list[Prompt], continuations: list[str]
    ) -> list[np.ndarray | LLMError]:
        """For each pair the log-probability of each token of the continuation, `(tokens,)`."""
        pairs = zip(prompts, continuations, strict=True)
        wanted = [self.continuation_ids(prompt, continuation) for prompt, continuation in pairs]
        rows = zip(self.token_ids(prompts), wanted, strict=True)
        ids = [[*before, *after] for before, after in rows]
        settings = [{"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0}] * len(prompts)
        answers = self._run(ids, settings, 1)
        return [_end_of(*pair) for pair in zip(answers, wanted, strict=True)]

    def unload(self) -> None:
        """Free the memory of the GPU until the model is used again."""
        vars(self).pop("_engine", None)  # vLLM ends its processes with it
        free_memory()

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.max_length or self._engine.llm_engine.model_config.max_model_len

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self._engine.get_tokenizer()

    @cached_property
    def _engine(self) -> Any:
        try:
            from vllm import LLM
        except ImportError as error:
            raise ImportError('VLLM needs vllm and a GPU: pip install "rir-hf[vllm]".') from error
        revision = self._keep_identity("model")
        return LLM(
            model=self.model, max_model_len=self.max_length, revision=revision, **self.engine
        )

    def _run(
        self, ids: list[list[int]], settings: list[dict[str, Any]], answer_tokens: int
    ) -> list[Any]:
        """What vLLM finds for each prompt, or an error where it does not fit."""
        engine = self._engine
        from vllm import SamplingParams

        def ask(rows: list[list[int]], positions: list[int]) -> list[Any]:
            prompts = [{"prompt_token_ids": row} for row in rows]
            parameters = [SamplingParams(**settings[at]) for at in positions]
            return engine.generate(prompts, parameters, use_tqdm=False) if prompts else []

        return ask_where_fitting(self.where_they_fit(ids, answer_tokens), ask)


def _texts_of(answers: list[Any]) -> list[str] | LLMError:
    """The texts of the answers to one prompt, or why there are none."""
    for answer in answers:
        if isinstance(answer, LLMError):
            return answer
    return [answer.outputs[0].text for answer in answers]


def _choices_in(answer: Any, first: list[list[int]]) -> np.ndarray:
    """Log-probability of each choice, the sum over the tokens that begin it."""
    top = {token: entry.logprob for token, entry in answer.outputs[0].logprobs[0].items()}
    least = min(top.values())
    found = []
    for tokens in first:
        shown = [top[token] for token in tokens if token in top]
        found.append(np.logaddexp.reduce(shown or [least]))
    return np.array(found)


def _end_of(answer: Any, wanted: list[int]) -> np.ndarray | LLMError:
    """Log-probabilities of the last tokens of a prompt, which are these."""
    if isinstance(answer, LLMError):
        return answer
    if not wanted:
        return LLMError("the text to score has no token")
    entries = answer.prompt_logprobs[-len(wanted) :]
    return np.array([entry[token].logprob for entry, token in zip(entries, wanted, strict=True)])
