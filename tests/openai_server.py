"""A server on this machine that speaks OpenAI's protocol as well or badly as a test says."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server sends, `delay` seconds after it was asked; without a body it closes the
    connection.
    """

    body: bytes | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    endless: float | None = None
    """Seconds after which the body is sent again, until the other side has gone."""


@dataclass(frozen=True)
class Request:
    """What the server was sent; `in_flight` counts the requests that it had not answered then, this
    one too.
    """

    path: str
    body: dict[str, Any]
    authorization: str | None
    time: float
    in_flight: int


BROKEN = Reply(None)
NOT_JSON = Reply(b'{"choices": [')


def completion(content: Any = "", *, logprobs: Any = None, **fields: Any) -> Reply:
    """A chat completion with one choice; `fields` come on top or replace those of the name."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}
    answer = {
        "id": "0",
        "object": "chat.completion",
        "created": 0,
        "model": "any",
        "choices": [choice],
    }
    return Reply(json.dumps(answer | fields).encode())


def top(logprobs: dict[str, float]) -> Reply:
    """A chat completion of one token, with the likeliest tokens in its place."""
    entries = [
        {"token": token, "logprob": logprob, "bytes": None} for token, logprob in logprobs.items()
    ]
    token = entries[0]["token"]
    return completion(
        token, logprobs={"content": [{**entries[0], "top_logprobs": entries}], "refusal": None}
    )


def prompt_logprobs(tokens: list[tuple[str, float]]) -> Reply:
    """A chat completion with the log-probabilities of the prompt's tokens, as vLLM gives them: none
    for the first.
    """
    entries = [
        {str(place): {"logprob": value, "rank": 1, "decoded_token": text}}
        for place, (text, value) in enumerate(tokens)
    ]
    return completion("x", prompt_logprobs=[None, *entries[1:]])


def failure(status: int, message: str = "it did not work", **headers: str) -> Reply:
    """An error; underscores in the headers' names stand for hyphens."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": None}}).encode()
    return Reply(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


def late(seconds: float, reply: Reply) -> Reply:
    """The same reply, later."""
    return replace(reply, delay=seconds)


def prompt_of(body: dict[str, Any]) -> str:
    """The last message of a request."""
    return body["messages"][-1]["content"]


class OpenAIServer(ThreadingHTTPServer):
    """A server on a free port of this machine, for a `with` block.

    Args:
        answer: `answer(body, tries)` gives the reply to a request that came with the same body for
            the `tries`-th time.
        listening: whether connections are accepted from the start; until `listen` is called they
            are refused.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, answer: Callable[[dict[str, Any], int], Reply], *, listening: bool = True
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.server_bind()
        self.answer = answer
        self.requests: list[Request] = []
        self.tries: Counter[bytes] = Counter()
        self.in_flight = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"
        self.is_listening = False
        if listening:
            self.listen()

    def listen(self) -> None:
        """Accept connections."""
        self.server_activate()
        self.is_listening = True
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections until `listen` is called; those that are there stay."""
        self.shutdown()
        self.socket.close()
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()
        self.is_listening = False

    def asked(self) -> Counter[str]:
        """How often each prompt came."""
        with self.lock:
            return Counter(prompt_of(request.body) for request in self.requests)

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        if self.is_listening:
            self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(
            sys.exc_info()[1], OSError
        ):  # an OSError: the client did not wait for the answer
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: OpenAIServer

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        server = self.server
        with server.lock:
            server.in_flight += 1
            server.tries[raw] += 1
            tries = server.tries[raw]
            server.requests.append(
                Request(
                    self.path,
                    body,
                    self.headers["Authorization"],
                    time.monotonic(),
                    server.in_flight,
                )
            )
        try:
            reply = server.answer(body, tries)
            server.closing.wait(reply.delay)
        finally:
            with server.lock:
                server.in_flight -= 1
        if reply.body is None:
            self.close_connection = True
            return
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(reply.body)),
        } | reply.headers
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)
        while reply.endless is not None and not server.closing.wait(reply.endless):
            self.wfile.write(reply.body)
        self.close_connection = headers["Content-Length"] != str(len(reply.body))

    def log_message(self, *_: object) -> None:
        """Say nothing on standard error."""
