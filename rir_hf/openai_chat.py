"""`OpenAIChat`: the language model behind any server that speaks OpenAI's protocol (vLLM, TGI, llama.cpp, Ollama, OpenAI)."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from rir_hf.llm import LLMError, Prompt, as_messages, progress, seed_of
from rir_hf.transform import describe, hash_by_identity, public_attributes

if TYPE_CHECKING:
    from openai import OpenAI

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BYTES_PER_TOKEN = 3
_FAILURES_IN_A_ROW = 32
_LEAST = 1e-7
_MISCONFIGURED = {401: "the key is not accepted", 403: "access is refused", 404: "there is no such model or address"}


class OpenAIChat:
    """A chat model behind an OpenAI-compatible server, many requests at a time.

    A request that meets 408, 409, 429, a 5xx, a broken connection or the time-out is tried again, `max_retries` times at most,
    after half a second, a second, two, ... eight, or after what the server's `Retry-After` says. Any other 4xx is final. A
    request that failed for good gives an `LLMError` for its prompt. When 32 requests in a row have failed for lack of a working
    server, the rest of the prompts of the call fail unasked, and the next call asks once before it goes on: a dead server costs
    little time, one that returns is used again. 401, 403 and 404 before the first good answer raise at once.

    For the cache this is `model`, `max_length`, `top_logprobs` and `extra_body`: neither the key nor the address counts, so that
    a server may move. Give different models different names, to a server that ignores names too.

    Args:
        model: the name that the server knows the model by.
        base_url: `"http://localhost:8000/v1"`. Default: the environment's `OPENAI_BASE_URL`, or OpenAI.
        api_key: default: the environment's `OPENAI_API_KEY`; servers of your own often want none.
        concurrency: requests in flight.
        timeout: seconds to wait for the server, each time it says nothing.
        max_retries: tries after the first.
        max_length: tokens that the server's model takes, prompt and answer together, so that passages can be cut before the
            server refuses a prompt. None: not known.
        top_logprobs: how many of the likeliest tokens `choice_logprobs` asks for. OpenAI and vLLM give 20, llama.cpp any number.
        extra_body: more fields for the body of each request, of the server's own kind.

    Tokens are estimated here, as three bytes of UTF-8 each, which is less than a token of most languages holds: a passage may
    be cut somewhat early.

    Example:
        >>> llm = OpenAIChat("Qwen/Qwen3-8B", base_url="http://localhost:8000/v1")        # doctest: +SKIP
        >>> answers = llm.generate(["What is the capital of France?"], max_tokens=8)      # doctest: +SKIP
    """

    version: ClassVar[int] = 1
    is_chat: ClassVar[bool] = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        max_retries: int = 5,
        max_length: int | None = None,
        top_logprobs: int = 20,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        if concurrency < 1 or timeout <= 0 or max_retries < 0:
            raise ValueError(
                f"concurrency must be at least 1, timeout above 0 and max_retries at least 0, got {concurrency}, {timeout} and "
                f"{max_retries}."
            )
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, got {base_url!r}.")
        self.model = model
        self.base_url = base_url
        self._api_key = api_key
        self.concurrency = concurrency
        self.timeout = timeout
        self.max_retries = max_retries
        self.max_length = max_length
        self.top_logprobs = top_logprobs
        self.extra_body = extra_body or {}
        self._forget()

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
        """`n` answers to each prompt, each a request with a seed of its own; see `ChatLLM.generate`.

        Where some of the `n` requests fail, the answers of the others are the result.
        """
        shared = {"temperature": temperature, "top_p": top_p, **self._limit(max_tokens)} | ({"stop": stop} if stop else {})
        asked = [
            {"messages": as_messages(prompt), "seed": seed_of(seed, prompt, number), **shared}
            for prompt in prompts
            for number in range(n)
        ]
        answers = self._ask_all(asked, _text_of)
        found: list[list[str] | LLMError] = []
        for place in range(len(prompts)):
            own = answers[place * n : (place + 1) * n]
            good = [answer for answer in own if not isinstance(answer, LLMError)]
            found.append(good or own[0])
        return found

    def choice_logprobs(self, prompts: list[Prompt], choices: list[str]) -> list[np.ndarray | LLMError]:
        """For each prompt the log-probabilities, `(len(choices),)`, that the answer's first token begins each choice.

        A server shows only its `top_logprobs` likeliest tokens: a choice that is not among them gets an upper bound, the
        log-probability of the last of them or of all other tokens together, whichever is less. A prompt for which no choice is
        among them fails.
        """
        shared = {"temperature": 0.0, "logprobs": True, "top_logprobs": self.top_logprobs, **self._limit(1)}
        asked = [{"messages": as_messages(prompt), **shared} for prompt in prompts]
        return self._ask_all(asked, lambda answer: _choices_in(_top_of(answer), choices))

    def sequence_logprobs(self, prompts: list[Prompt], continuations: list[str]) -> list[np.ndarray | LLMError]:
        """For each pair the log-probability of each token of the continuation.

        Asks for the log-probabilities of the prompt, with the continuation as the answer begun. vLLM gives them; llama.cpp,
        Ollama, TGI and OpenAI do not, and each pair then fails and says so.
        """
        begun = {"add_generation_prompt": False, "continue_final_message": True, "prompt_logprobs": 0}
        asked = [
            {
                "messages": [*as_messages(prompt), {"role": "assistant", "content": text}],
                **self._limit(1),
                "extra_body": begun,
            }
            for prompt, text in zip(prompts, continuations, strict=True)
        ]
        return self._ask_all(asked, [lambda answer, text=text: _end_of_prompt(answer, text) for text in continuations])

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        """Each text, or as much of its beginning as an estimated `max_tokens` tokens hold."""
        return [text.encode()[: max_tokens * _BYTES_PER_TOKEN].decode(errors="ignore") for text in texts]

    def count_tokens(self, prompts: list[Prompt]) -> list[int]:
        """Estimated tokens of each prompt."""
        texts = ("".join(message["content"] for message in as_messages(prompt)) for prompt in prompts)
        return [-(-len(text.encode()) // _BYTES_PER_TOKEN) for text in texts]

    def identity(self) -> dict[str, Any]:
        """What decides the results, for the cache: the model's name, its length and the further fields."""
        without = ("base_url", "concurrency", "timeout", "max_retries")
        return {"version": self.version, **describe(self, without)}

    def __getstate__(self) -> dict[str, Any]:
        return public_attributes(self) | {"_api_key": self._api_key}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._failures = 0
        self._last_failure = ""
        self._has_answered = False
        self._lock = threading.Lock()

    def _limit(self, max_tokens: int) -> dict[str, int]:
        """The length of the answer, by the name that OpenAI's newer models insist on, or by the one that all others know."""
        return {"max_tokens" if self._client().base_url.host != "api.openai.com" else "max_completion_tokens": max_tokens}

    def _client(self) -> OpenAI:
        if "_opened" not in self.__dict__:
            try:
                from openai import OpenAI, OpenAIError
            except ImportError as error:
                raise ImportError('OpenAIChat needs the openai package: pip install "rir-hf[openai]".') from error
            settings = {"base_url": self.base_url, "timeout": self.timeout, "max_retries": self.max_retries}
            try:
                self._opened = OpenAI(api_key=self._api_key, **settings)
            except OpenAIError:  # no key anywhere
                if self.base_url is None and not os.environ.get("OPENAI_BASE_URL"):
                    raise ValueError("OpenAI wants a key: set OPENAI_API_KEY, or pass api_key or a base_url.") from None
                self._opened = OpenAI(api_key="none", **settings)
        return self._opened

    def _ask_all(self, requests: list[dict[str, Any]], read: Callable[[Any], T] | list[Callable[[Any], T]]) -> list[T | LLMError]:
        """What `read` finds in the answer to each request, in their order."""
        self._client()
        readers = read if isinstance(read, list) else [read] * len(requests)
        jobs = list(zip(requests, readers, strict=True))
        with ThreadPoolExecutor(self.concurrency) as pool, progress(len(requests), self.model) as bar:
            found: list[T | LLMError] = []
            if self._failures >= _FAILURES_IN_A_ROW and jobs:
                self._failures = _FAILURES_IN_A_ROW - 1
                found.append(self._ask(*jobs.pop(0)))
            try:
                asked = [pool.submit(self._ask, *job) for job in jobs]
                for job in as_completed(asked):
                    job.result()  # raises at once what a job has raised
                    bar.update()
                found += [job.result() for job in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def _ask(self, request: dict[str, Any], read: Callable[[Any], T]) -> T | LLMError:
        from openai import APIConnectionError, APIError, APIStatusError

        if self._failures >= _FAILURES_IN_A_ROW:
            return LLMError(
                f"not asked: no working server for {_FAILURES_IN_A_ROW} requests in a row, at last {self._last_failure}"
            )
        body = dict(request)
        extra = self.extra_body | body.pop("extra_body", {})
        try:
            answer = self._client().chat.completions.create(model=self.model, extra_body=extra, **body)
            self._has_answered = True
            found = read(answer)
        except (APIConnectionError, APIStatusError) as error:
            status = getattr(error, "status_code", None)
            self._count(failed=status is None or status in (408, 409, 429) or status >= 500)
            if status in _MISCONFIGURED and not self._has_answered:
                raise RuntimeError(
                    f"{_MISCONFIGURED[status]} at {self._client().base_url.host} for the model {self.model!r}: {self._words(error)}"
                ) from None
            self._last_failure = self._words(error)
            return LLMError(self._last_failure)
        except (APIError, LLMError) as error:
            self._count(failed=False)
            return LLMError(self._words(error))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:  # no JSON, or not of the protocol's shape
            self._count(failed=False)
            return LLMError(f"the server's answer could not be read: {self._words(error)}")
        self._count(failed=False)
        return found

    def _count(self, *, failed: bool) -> None:
        """Count the requests in a row that met no working server."""
        with self._lock:
            self._failures = self._failures + 1 if failed else 0

    def _words(self, error: Exception) -> str:
        """What an error says, without the key."""
        text = f"{type(error).__name__}: {error}" if not isinstance(error, LLMError) else str(error)
        if error.__cause__ is not None:
            text += f" ({error.__cause__})"
        for key in {self._client().api_key, self._api_key} - {None, "", "none"}:
            text = text.replace(key, "***")
        return text[:300]


def _check(answer: Any) -> None:
    """Refuse an answer without a choice, in the server's own words where it has any."""
    if not getattr(answer, "choices", None):
        said = getattr(answer, "error", None)
        raise LLMError(f"the server's answer has no choice{f': {said}' if said else ''}")


def _text_of(answer: Any) -> str:
    """The text of an answer."""
    _check(answer)
    text = answer.choices[0].message.content
    if not isinstance(text, str):
        raise LLMError(f"the server's answer has no text (finish_reason: {answer.choices[0].finish_reason})")
    return text


def _top_of(answer: Any) -> dict[str, float]:
    """The likeliest first tokens of an answer with their log-probabilities."""
    _check(answer)
    logprobs = answer.choices[0].logprobs
    if logprobs is None or not logprobs.content or not logprobs.content[0].top_logprobs:
        raise LLMError(
            "the server gives no log-probabilities of tokens: use method='listwise' (quality_check='text' for generated queries), "
            "or another server"
        )
    return {entry.token: entry.logprob for entry in logprobs.content[0].top_logprobs}


def _choices_in(top: dict[str, float], choices: list[str]) -> np.ndarray:
    """Log-probability of each choice: the sum over the tokens that are its word, or else begin it and no other choice."""
    words = [(token.strip(), logprob) for token, logprob in top.items() if token.strip()]
    found = np.full(len(choices), -np.inf)
    for place, choice in enumerate(choices):
        whole = [logprob for word, logprob in words if word == choice]
        begun = [logprob for word, logprob in words if [other for other in choices if other.startswith(word)] == [choice]]
        found[place] = np.logaddexp.reduce(whole or begun or [-np.inf])
    if np.isinf(found).all():
        raise LLMError(f"none of {choices} is among the {len(top)} likeliest first tokens: {list(top)[:5]}, ...")
    rest = np.log(max(1 - sum(np.exp(list(top.values()))), _LEAST))
    return np.where(np.isinf(found), min(rest, *top.values()), found)


def _end_of_prompt(answer: Any, text: str) -> np.ndarray:
    """Log-probabilities of the last tokens of the prompt, those that together are the text."""
    entries = (getattr(answer, "model_extra", None) or {}).get("prompt_logprobs")
    if not entries:
        raise LLMError(
            "the server gives no log-probabilities of its prompt (vLLM does): use ChatLLM for query_likelihood, or another method"
        )
    found: list[float] = []
    rest = text.strip()
    for entry in reversed(entries):
        token = next(iter((entry or {}).values()), None)
        if not rest or token is None:
            break
        words = token["decoded_token"]
        if not rest.endswith(words.strip()):
            break
        rest = rest[: len(rest) - len(words.strip())].rstrip()
        found.append(token["logprob"])
    if rest or not found:
        raise LLMError("the end of the prompt that the server describes is not the text to score")
    return np.array(found[::-1], np.float64)


hash_by_identity(OpenAIChat)
