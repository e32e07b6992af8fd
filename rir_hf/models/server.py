"""`OpenAIChat`: the language model behind any server that speaks OpenAI's protocol."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np

from rir_hf.core.configured import Configured
from rir_hf.core.draws import seed_of
from rir_hf.core.secrets import keep_secret, masked, secrets_in
from rir_hf.core.texts import whole
from rir_hf.models.llm import LLMError, Prompt, as_messages, progress

if TYPE_CHECKING:
    from openai import OpenAI

_Job = tuple[dict[str, Any], Callable[[Any], Any]]

_BYTES_PER_TOKEN = 3
_LARGEST_ANSWER = 1 << 26
_REDIRECTS = 5
_FAILURES_IN_A_ROW = 32
_LEAST_PROBABILITY = 1e-7
_FIRST_WAIT = 5.0
"""Seconds in which an address is to say that nothing answers there."""
_LONGEST_ERROR = 300
_MISCONFIGURED = {
    401: "the key is not accepted",
    403: "access is refused",
    404: "there is no such model or address",
}
_TRY_LATER = (408, 409, 429)
# No JSON, JSON that is nested too deep, JSON that is not of the protocol's shape.
_UNREADABLE = (ValueError, RecursionError, LookupError, TypeError, AttributeError)


class OpenAIChat(Configured):
    """A chat model behind an OpenAI-compatible server (vLLM, TGI, llama.cpp, Ollama, OpenAI), many
    requests at a time.

    A request that meets 408, 409, 429, a 5xx, a broken connection or the time-out is tried again,
    `max_retries` times at most, after half a second, a second, two, ... eight, or after what the
    server's `Retry-After` says. Any other 4xx is final. An answer may have 64 MB, and `timeout`
    seconds from its first byte to its last. A request that failed for good gives an `LLMError` for
    its prompt. When 32 requests in a row have failed for lack of a working server,
    the rest of the prompts of the call fail unasked, and the next call asks once before it goes
    on: a dead server costs little time, one that returns is used again. 401, 403 and 404 before
    the first good answer raise at once, as does an address at which nothing answers.

    For the cache this is `model`, `max_length`, `top_logprobs` and `extra_body`: neither the key
    nor the address counts, so that a server may move. Give different models different names, to a
    server that ignores names too.

    The key, a password in the address, and what may be a secret in `extra_body` (a text under the
    name of a key or token, or of eight characters or more that is no plain word) are sent to the
    server and hidden in whatever it says: errors, rows, records, logs of the command line.

    Messages are sent as text, and it is the server that puts them into its chat template: the
    protocol cannot tell it to read `<|im_end|>` or `</s>` in a passage as plain text, as the models
    in this process do. OpenAI does so; vLLM and llama.cpp read them as control tokens.

    Tokens are estimated here, as three bytes of UTF-8 each, which is less than a token of most
    languages holds: a passage may be cut somewhat early.

    Args:
        model: the name that the server knows the model by.
        base_url: `"http://localhost:8000/v1"`. Default: the environment's `OPENAI_BASE_URL`, or
            OpenAI.
        api_key: it is sent to the server and shown nowhere. Default: the environment's
            `OPENAI_API_KEY`; servers of your own often want none.
        concurrency: requests in flight.
        timeout: seconds to wait for the server, each time it says nothing.
        max_retries: tries after the first.
        max_length: tokens that the server's model takes, prompt and answer together, so that
            passages can be cut before the server refuses a prompt. None: not known.
        top_logprobs: how many of the likeliest tokens `choice_logprobs` asks for. OpenAI and vLLM
            give 20, llama.cpp any number.
        extra_body: more fields for the body of each request, of the server's own kind.

    Raises:
        ValueError: a setting out of range.
        ConnectionError: when it is asked, nothing answers at the address.

    Example:
        >>> llm = OpenAIChat("Qwen/Qwen3-8B", base_url="http://localhost:8000/v1")
        >>> llm.cut(["as much of a text as two tokens hold"], 2)
        ['as muc']
        >>> llm.generate(["What is the capital of France?"], max_tokens=8)       # doctest: +SKIP
        [['The capital of France is Paris.']]
    """

    without_effect: ClassVar[tuple[str, ...]] = (
        "base_url",
        "api_key",
        "concurrency",
        "timeout",
        "max_retries",
    )

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
                "concurrency must be at least 1, timeout above 0 and max_retries at least 0, got "
                f"{concurrency}, {timeout} and {max_retries}."
            )
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, got {base_url!r}.")
        self.model = model
        self.base_url = base_url
        self.api_key = api_key
        self.concurrency = concurrency
        self.timeout = timeout
        self.max_retries = max_retries
        self.max_length = max_length
        self.top_logprobs = top_logprobs
        self.extra_body = extra_body or {}
        keep_secret(*self._secrets)

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
        """`n` answers to each prompt, each a request with a seed of its own.

        Where some of the `n` requests fail, the answers of the others are the result.

        Args:
            prompts: texts or lists of messages.
            temperature: 0 takes the likeliest token each time.
            top_p: draws from the likeliest tokens that together have this probability.
            max_tokens: longest answer.
            stop: texts before which an answer ends.
            n: answers per prompt.
            seed: of the draws, as far as the server keeps to its seeds.
        """
        shared: dict[str, Any] = {"temperature": temperature, "top_p": top_p}
        shared |= self._limit(max_tokens)
        if stop:
            shared["stop"] = stop
        jobs: list[_Job] = []
        for prompt in prompts:
            messages = as_messages(prompt)
            seeds = [seed_of(seed, prompt, number) for number in range(n)]
            jobs += [({"messages": messages, "seed": own, **shared}, _text_of) for own in seeds]
        answers = self._ask_all(jobs)
        return [_good_ones(answers[at * n : (at + 1) * n]) for at in range(len(prompts))]

    def choice_logprobs(
        self, prompts: list[Prompt], choices: list[str]
    ) -> list[np.ndarray | LLMError]:
        """For each prompt the log-probabilities, `(len(choices),)`, that the answer's first token
        begins each choice.

        A server shows only its `top_logprobs` likeliest tokens: a choice that is not among them
        gets an upper bound, the log-probability of the last of them or of all other tokens
        together, whichever is less. A prompt for which no choice is among them fails.
        """
        shared = {"temperature": 0.0, "logprobs": True, "top_logprobs": self.top_logprobs}
        shared |= self._limit(1)
        read = partial(_choices_in, choices=choices)
        return self._ask_all(
            [({"messages": as_messages(prompt), **shared}, read) for prompt in prompts]
        )

    def sequence_logprobs(
        self, prompts: list[Prompt], continuations: list[str]
    ) -> list[np.ndarray | LLMError]:
        """For each pair the log-probability of each token of the continuation, `(tokens,)`.

        Asks for the log-probabilities of the prompt, with the continuation as the answer begun.
        vLLM gives them; llama.cpp, Ollama, TGI and OpenAI do not, and each pair then fails and
        says so.
        """
        fields = {
            "add_generation_prompt": False,
            "continue_final_message": True,
            "prompt_logprobs": 0,
        }
        shared = {"extra_body": self.extra_body | fields, **self._limit(1)}
        jobs: list[_Job] = []
        for prompt, text in zip(prompts, continuations, strict=True):
            messages = [*as_messages(prompt), {"role": "assistant", "content": text}]
            jobs.append(({"messages": messages, **shared}, partial(_end_in, text=text)))
        return self._ask_all(jobs)

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        """Each text, or as much of its beginning as an estimated `max_tokens` tokens hold."""
        size = max_tokens * _BYTES_PER_TOKEN
        return [text.encode()[:size].decode(errors="ignore") for text in texts]

    def count_tokens(self, prompts: list[Prompt]) -> list[int]:
        """Estimated tokens of each prompt."""
        counts = []
        for prompt in prompts:
            text = "".join(message["content"] for message in as_messages(prompt))
            counts.append(math.ceil(len(text.encode()) / _BYTES_PER_TOKEN))
        return counts

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and answer may have together; None where it is not known."""
        return self.max_length

    @cached_property
    def _client(self) -> OpenAI:
        try:
            from openai import DefaultHttpxClient, OpenAI
        except ImportError as error:
            raise ImportError(
                'OpenAIChat needs the openai package: pip install "rir-hf[openai]".'
            ) from error
        if not self._key and self.base_url is None and not os.environ.get("OPENAI_BASE_URL"):
            raise ValueError(
                "OpenAI wants a key: set OPENAI_API_KEY, or pass api_key or a base_url."
            )
        return OpenAI(
            api_key=self._key or "none",
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.max_retries,
            http_client=bounded(DefaultHttpxClient, _LARGEST_ANSWER, self.timeout),
        )

    @property
    def _secrets(self) -> list[str]:
        """What is sent to the server and must not be shown."""
        password = urlsplit(self.base_url or "").password or ""
        return [self._key, password, *secrets_in(self.extra_body)]

    @property
    def _key(self) -> str:
        """The key without the line break that a file or a shell may leave behind it."""
        return (self.api_key or os.environ.get("OPENAI_API_KEY") or "").strip()

    @cached_property
    def _health(self) -> _Health:
        return _Health()

    def _limit(self, max_tokens: int) -> dict[str, int]:
        """The length of the answer, by the name that OpenAI's newer models insist on, or by the
        one that all others know.
        """
        is_openai = self._client.base_url.host == "api.openai.com"
        return {"max_completion_tokens" if is_openai else "max_tokens": max_tokens}

    def _ask_all(self, jobs: list[_Job]) -> list[Any]:
        """What each reader finds in the answer to its request, in their order, or an `LLMError`."""
        if jobs and not self._health.has_answered:
            self._require_server()
        if jobs and self._health.is_given_up():
            self._health.failures = _FAILURES_IN_A_ROW - 1
            return [self._ask(*jobs[0]), *self._ask_together(jobs[1:])]
        return self._ask_together(jobs)

    def _require_server(self) -> None:
        """Raise `ConnectionError` where a connection is refused, or the host has no address."""
        url = self._client.base_url
        if {url.scheme, "all"} & getproxies().keys() and not proxy_bypass(url.host):
            return  # it is the proxy that connects
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            socket.create_connection((url.host, port), timeout=_FIRST_WAIT).close()
        except TimeoutError:
            return  # the requests have a patience of their own
        except OSError as error:
            raise ConnectionError(
                f"The server at {self._without_secrets(str(url))} cannot be asked ({error}): is it "
                "running, and is this its address (base_url, on the command line --base_url)?"
            ) from None

    def _ask_together(self, jobs: list[_Job]) -> list[Any]:
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            asked = [pool.submit(self._ask, *job) for job in jobs]
            with progress(len(jobs), self.model) as bar:
                for job in as_completed(asked):
                    job.result()  # raises at once what a job has raised
                    bar.update()
            return [job.result() for job in asked]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: dict[str, Any], read: Callable[[Any], Any]) -> Any:
        """What is read in the answer to one request, or why there is nothing."""
        from openai import APIConnectionError, APIError, APIStatusError

        if self._health.is_given_up():
            return LLMError(
                f"not asked: no working server for {_FAILURES_IN_A_ROW} requests in a row, at "
                f"last {self._health.last_failure}"
            )
        fields = {"model": self.model, "extra_body": self.extra_body, **request}
        try:
            answer = self._client.chat.completions.create(**fields)
            self._health.has_answered = True
            found = self._without_secrets(read(answer))
        except (APIConnectionError, APIStatusError) as error:
            return self._refused(error, getattr(error, "status_code", None))
        except (APIError, LLMError) as error:
            found = LLMError(self._words(error))
        except _UNREADABLE as error:
            found = LLMError(f"the server's answer could not be read: {self._words(error)}")
        self._health.count(None)
        return found

    def _refused(self, error: Exception, status: int | None) -> LLMError:
        """Why a request failed for good: there was no answer, or one of that status.

        Raises:
            RuntimeError: it is a setting that is wrong, and no other request can do better.
        """
        words = self._words(error)
        if status is None:
            words += f" (at {self._client.base_url.host})"
        is_down = status is None or status in _TRY_LATER or status >= 500
        self._health.count(words if is_down else None)
        if status in _MISCONFIGURED and not self._health.has_answered:
            host = self._client.base_url.host
            raise RuntimeError(
                f"{_MISCONFIGURED[status]} at {host} for the model {self.model!r}: {words}"
            ) from None
        return LLMError(words)

    def _words(self, error: Exception) -> str:
        """What an error says, without secrets, and as a text that Arrow can store."""
        text = str(error)
        if not isinstance(error, LLMError):
            text = f"{type(error).__name__}: {text}"
        if error.__cause__ is not None:
            text += f" ({error.__cause__})"
        return self._without_secrets(whole(text))[:_LONGEST_ERROR]

    def _without_secrets(self, found: Any) -> Any:
        return masked(found, *self._secrets) if isinstance(found, str) else found


class _Health:
    """How many requests in a row met no working server, counted by many threads."""

    def __init__(self) -> None:
        self.has_answered = False
        self.failures = 0
        self.last_failure = ""
        self._lock = threading.Lock()

    def is_given_up(self) -> bool:
        return self.failures >= _FAILURES_IN_A_ROW

    def count(self, failure: str | None) -> None:
        with self._lock:
            self.failures = 0 if failure is None else self.failures + 1
            self.last_failure = failure or self.last_failure


def bounded(kind: Any, largest: int, patience: float) -> Any:
    """An HTTP client of a class of httpx that reads no answer without end.

    Args:
        kind: `httpx.Client` or a class of it.
        largest: bytes that an answer may have, unpacked; in place of more there is an error.
        patience: seconds that it may take from the first byte to the last.
    """

    class Bounded(kind):  # of httpx or its successor, as openai has it
        def send(self, request: Any, **options: Any) -> Any:
            options |= {"stream": True, "follow_redirects": False}
            for _ in range(_REDIRECTS):
                response = super().send(request, **options)
                body = _read_within(response, largest, patience)
                if response.next_request is None:
                    break
                request = response.next_request
            headers = dict(response.headers)
            for name in ("content-encoding", "content-length", "transfer-encoding"):
                headers.pop(name, None)  # the body is unpacked and whole now
            return type(response)(
                response.status_code, headers=headers, content=body, request=request
            )

    return Bounded()


def _read_within(response: Any, largest: int, patience: float) -> bytes:
    """The body of an answer; an error in its place where it is too large."""
    end = time.monotonic() + patience
    body = bytearray()
    try:
        for part in response.iter_bytes():
            body += part
            if len(body) > largest:
                return f'{{"error": "an answer of more than {largest:,} bytes"}}'.encode()
            if time.monotonic() > end:
                httpx = sys.modules[type(response).__module__.partition(".")[0]]
                raise httpx.ReadTimeout(f"the answer took more than {patience} seconds")
    finally:
        response.close()
    return bytes(body)


def logprobs_of_choices(top: dict[str, float], choices: list[str]) -> np.ndarray:
    """Log-probability of each choice, `(len(choices),)`: the sum over the tokens that are its
    word, or else begin it and no other choice.

    Args:
        top: the likeliest first tokens with their log-probabilities.
        choices: words.

    Raises:
        LLMError: no choice is among the tokens.

    Example:
        >>> logprobs_of_choices({"Yes": -0.2, "No": -2.0, "Well": -5.0}, ["Yes", "No"])
        array([-0.2, -2. ])
    """
    tokens = [(token.strip(), logprob) for token, logprob in top.items() if token.strip()]
    found = np.array([_logprob_of(choice, tokens, choices) for choice in choices])
    if np.isinf(found).all():
        raise LLMError(
            f"none of {choices} is among the {len(top)} likeliest first tokens: "
            f"{list(top)[:5]}, ..."
        )
    others = np.log(max(1 - sum(np.exp(list(top.values()))), _LEAST_PROBABILITY))
    return np.where(np.isinf(found), min(others, *top.values()), found)


def logprobs_of_end(entries: list[Any], text: str) -> np.ndarray:
    """Log-probabilities of the last tokens of a prompt, those that together are the text.

    Args:
        entries: for each token of the prompt what vLLM says of it, in order.
        text: the end of the prompt.

    Raises:
        LLMError: the prompt does not end with the text.

    Example:
        >>> tokens = [("Is", -3.0), (" it", -2.0), ("?", -1.0)]
        >>> entries = [{"1": {"decoded_token": word, "logprob": log}} for word, log in tokens]
        >>> logprobs_of_end(entries, "it?")
        array([-2., -1.])
    """
    found: list[float] = []
    rest = text.strip()
    for entry in reversed(entries):
        token = next(iter((entry or {}).values()), None)
        if not rest or token is None:
            break
        word = token["decoded_token"].strip()
        if not rest.endswith(word):
            break
        rest = rest[: len(rest) - len(word)].rstrip()
        found.append(token["logprob"])
    if rest or not found:
        raise LLMError("the end of the prompt that the server describes is not the text to score")
    return np.array(found[::-1], np.float64)


def _logprob_of(choice: str, tokens: list[tuple[str, float]], choices: list[str]) -> float:
    """The sum over the tokens that are the choice, or else begin it alone; -inf without any."""
    whole = [logprob for word, logprob in tokens if word == choice]
    begun = []
    for word, logprob in tokens:
        if [other for other in choices if other.startswith(word)] == [choice]:
            begun.append(logprob)
    return float(np.logaddexp.reduce(whole or begun, initial=-np.inf))


def _good_ones(answers: list[Any]) -> list[str] | LLMError:
    """The answers that did not fail, or why the first one did."""
    good = [answer for answer in answers if not isinstance(answer, LLMError)]
    return good or answers[0]


def _choice_of(answer: Any) -> Any:
    """The one choice of an answer; `LLMError`, in the server's own words if any, without one."""
    if not getattr(answer, "choices", None):
        error = getattr(answer, "error", None)
        raise LLMError(f"the server's answer has no choice{f': {error}' if error else ''}")
    return answer.choices[0]


def _text_of(answer: Any) -> str:
    choice = _choice_of(answer)
    if not isinstance(choice.message.content, str):
        raise LLMError(f"the server's answer has no text (finish_reason: {choice.finish_reason})")
    return whole(choice.message.content)


def _choices_in(answer: Any, choices: list[str]) -> np.ndarray:
    """Log-probabilities of the choices, from the likeliest first tokens of an answer."""
    logprobs = _choice_of(answer).logprobs
    if logprobs is None or not logprobs.content or not logprobs.content[0].top_logprobs:
        raise LLMError(
            "the server gives no log-probabilities of tokens: use the Listwise teacher "
            "(quality_check='text' for generated queries), or another server"
        )
    top = {entry.token: entry.logprob for entry in logprobs.content[0].top_logprobs}
    return logprobs_of_choices(top, choices)


def _end_in(answer: Any, text: str) -> np.ndarray:
    """Log-probabilities of a text at the end of the prompt, as vLLM adds them to an answer."""
    entries = (getattr(answer, "model_extra", None) or {}).get("prompt_logprobs")
    if not entries:
        raise LLMError(
            "the server gives no log-probabilities of its prompt (vLLM does): use ChatLLM for "
            "query likelihood, or another teacher"
        )
    return logprobs_of_end(entries, text)
