"""A language model behind a server: answers in order, patience and no more, a secret key."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import random
import re
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher
from datasets.utils._dill import dumps

from rir_hf import schema
from rir_hf.core.columns import Batch
from rir_hf.core.provenance import record_step
from rir_hf.core.secrets import masked
from rir_hf.core.step import Step
from rir_hf.models.llm import LLMError
from rir_hf.models.server import OpenAIChat, logprobs_of_choices, logprobs_of_end
from tests.openai_server import (
    BROKEN,
    NOT_JSON,
    OpenAIServer,
    Reply,
    completion,
    failure,
    late,
    prompt_logprobs,
    prompt_of,
    top,
)

KEY = "sk-nobody-may-read-this"
REFUSED = "not asked"
CUT_OFF = Reply(b'{"choices": [', headers={"Content-Length": "500"})
PASSING = {
    "429": failure(429, Retry_After="0.05"),
    "408": failure(408),
    "500": failure(500),
    "broken": BROKEN,
    "cut": CUT_OFF,
}
UNUSABLE = {
    "refused": (failure(400, "the prompt is too long"), "the prompt is too long"),
    "no choice": (completion(choices=[]), "has no choice"),
    "an error as an answer": (Reply(b'{"error": {"message": "overloaded"}}'), "has no choice"),
    "content null": (completion(None), r"has no text \(finish_reason: stop\)"),
    "content in parts": (completion([{"type": "text", "text": "a"}]), "has no text"),
    "message null": (completion(choices=[{"index": 0, "message": None}]), "could not be read"),
    "a list": (Reply(b"[]"), "has no choice|could not be read"),
    "not JSON": (NOT_JSON, "could not be read"),
    "nested too deep": (Reply(b"[" * 99_999 + b"]" * 99_999), "could not be read"),
    "a web page": (Reply(b"<html>", headers={"Content-Type": "text/html"}), "has no choice"),
    "no text at all": (Reply(b""), "could not be read"),
}


class Ask(Step):
    """Has each query answered."""

    inputs = (schema.QUERY,)
    outputs = (schema.ANSWER, schema.ANSWER_ERROR)

    def __init__(self, llm: OpenAIChat) -> None:
        self.llm = llm

    def transform(self, batch: Batch) -> dict[str, list[str | None]]:
        """One answer to each query, or why there is none."""
        found = self.llm.generate([query or "" for query in batch.texts("query")])
        errors = [str(answers) if isinstance(answers, LLMError) else None for answers in found]
        answers = [None if isinstance(own, LLMError) else own[0] for own in found]
        return {"answer": answers, "answer_error": errors}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "BASE_URL", "ORG_ID", "PROJECT_ID", "LOG"):
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


def chat(server: OpenAIServer, **settings: Any) -> OpenAIChat:
    """A model behind the server, which is given up soon."""
    return OpenAIChat("any", **{"base_url": server.base_url, "max_retries": 1, **settings})


def echo(body: dict[str, Any], _: int = 1) -> Reply:
    """The prompt as its own answer."""
    return completion(prompt_of(body))


def kinds_of(found: list[Any]) -> list[str]:
    """For each result: a text, refused unasked, or failed."""
    kinds = []
    for result in found:
        failed = REFUSED if str(result).startswith(REFUSED) else "failed"
        kinds.append(failed if isinstance(result, LLMError) else "text")
    return kinds


def test_answers_keep_the_order_of_the_prompts_whatever_order_they_arrive_in() -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    last_asked = threading.Event()

    def answer(body: dict[str, Any], _: int) -> Reply:
        if prompt_of(body) == prompts[0]:
            last_asked.wait(20)
        elif prompt_of(body) == prompts[-1]:
            last_asked.set()
        return late(random.Random(prompt_of(body)).uniform(0, 0.03), echo(body))

    with OpenAIServer(answer) as server:
        found = chat(server, concurrency=7).generate(prompts)
    assert found == [[prompt] for prompt in prompts]
    assert set(server.asked().values()) == {1}
    assert 1 < max(request.in_flight for request in server.requests) <= 7


def test_no_prompts_ask_nothing() -> None:
    with OpenAIServer(echo) as server:
        llm = chat(server)
        assert llm.generate([]) == llm.choice_logprobs([], ["Yes"]) == []
        assert llm.sequence_logprobs([], []) == []
    assert server.requests == []


def test_a_passing_failure_is_tried_again_and_a_lasting_one_a_bounded_number_of_times() -> None:
    def answer(body: dict[str, Any], tries: int) -> Reply:
        kind, how_long = prompt_of(body).split(" ")
        return PASSING[kind] if how_long == "lasting" or tries == 1 else echo(body)

    passing = [f"{kind} passing" for kind in PASSING]
    lasting = [f"{kind} lasting" for kind in PASSING]
    with OpenAIServer(answer) as server:
        found = chat(server).generate([*passing, *lasting])
    assert found[: len(passing)] == [[prompt] for prompt in passing]
    assert kinds_of(found[len(passing) :]) == ["failed"] * len(lasting)
    assert server.asked() == dict.fromkeys([*passing, *lasting], 2)


def test_a_server_is_left_alone_for_as_long_as_it_asks() -> None:
    wait = failure(429, Retry_After="0.6")
    with OpenAIServer(lambda body, tries: wait if tries == 1 else echo(body)) as server:
        assert chat(server).generate(["a"]) == [["a"]]
    first, second = server.requests
    assert second.time - first.time >= 0.6


def test_an_unusable_answer_fails_its_prompt_alone_and_is_not_asked_for_again() -> None:
    prompts: list[Any] = ["first", *UNUSABLE, "last"]

    def answer(body: dict[str, Any], _: int) -> Reply:
        kind = prompt_of(body)
        return UNUSABLE[kind][0] if kind in UNUSABLE else echo(body)

    with OpenAIServer(answer) as server:
        first, *found, last = chat(server, concurrency=2).generate(prompts)
    assert (first, last) == (["first"], ["last"])
    for (kind, (_, message)), error in zip(UNUSABLE.items(), found, strict=True):
        assert isinstance(error, LLMError), kind
        assert re.search(message, str(error)), kind
    assert server.asked() == dict.fromkeys(prompts, 1)


def test_an_unusable_answer_gives_no_log_probabilities_and_stops_nothing() -> None:
    kinds = list(UNUSABLE)
    with OpenAIServer(lambda body, _: UNUSABLE[body["messages"][0]["content"]][0]) as server:
        llm = chat(server)
        found = llm.choice_logprobs(list(kinds), ["Yes", "No"])
        found += llm.sequence_logprobs(list(kinds), ["c"] * len(kinds))
    assert kinds_of(found) == ["failed"] * 2 * len(kinds)
    assert len(server.requests) == 2 * len(kinds)


def test_log_probabilities_of_tokens_of_the_wrong_kind_stop_nothing() -> None:
    odd = [completion("Yes", logprobs=value) for value in ([], {}, {"content": None}, "Yes", 3)]
    for entry in ({"token": "Yes", "logprob": None}, {"token": None, "logprob": -1}, {}, "Yes"):
        token = {"token": "Yes", "logprob": -1.0, "top_logprobs": [entry]}
        odd.append(completion("Yes", logprobs={"content": [token]}))
    with OpenAIServer(lambda body, _: odd[int(prompt_of(body))]) as server:
        prompts = [str(number) for number in range(len(odd))]
        found = chat(server).choice_logprobs(list(prompts), ["Yes", "No"])
    assert kinds_of(found) == ["failed"] * len(odd)


def test_log_probabilities_of_a_prompt_of_the_wrong_kind_stop_nothing() -> None:
    odd = [completion("x", prompt_logprobs=value) for value in (3, "c", {"1": -1.0})]
    no_word, no_number = {"logprob": -1.0}, {"logprob": "low", "decoded_token": "c"}
    entries = [{"1": no_word}, {"1": no_number}, {"1": None}, [], "c"]
    odd += [completion("x", prompt_logprobs=[None, entry]) for entry in entries]
    with OpenAIServer(lambda body, _: odd[int(body["messages"][0]["content"])]) as server:
        prompts = [str(number) for number in range(len(odd))]
        found = chat(server).sequence_logprobs(list(prompts), ["c"] * len(odd))
    assert kinds_of(found) == ["failed"] * len(odd)


def test_half_a_character_in_an_answer_or_an_error_becomes_a_text_that_can_be_stored() -> None:
    half = Reply(completion("Hm HALF").body.replace(b"HALF", b"\\ud83d"))  # type: ignore[union-attr]  # it has a body
    error = Reply(b'{"error": {"message": "no \\ud83d"}}', 400)
    with OpenAIServer(lambda body, _: half if prompt_of(body) == "a" else error) as server:
        rows = Dataset.from_dict({"query": ["a", "b"]}).map(Ask(chat(server)), batched=True)
    assert rows["answer"][:] == ["Hm \ufffd", None]
    assert "no" in rows["answer_error"][1]


def test_a_late_answer_is_asked_for_again_and_then_given_up() -> None:
    def answer(body: dict[str, Any], tries: int) -> Reply:
        is_late = prompt_of(body) == "always" or (prompt_of(body) == "once" and tries == 1)
        return late(30, echo(body)) if is_late else echo(body)

    with OpenAIServer(answer) as server:
        found = chat(server, timeout=0.5).generate(["always", "once", "never"])
    assert kinds_of(found) == ["failed", "text", "text"]
    assert "timed out" in str(found[0])
    assert server.asked() == {"always": 2, "once": 2, "never": 1}


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "key is not accepted"), (403, "access is refused"), (404, "no such model")],
)
def test_a_wrong_setting_raises_at_once_though_the_first_answer_is_slow(
    status: int, message: str
) -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        return late(2.0 if prompt_of(body) == "0" else 0.0, failure(status, f"wrong, {KEY}"))

    expected = rf"{message}.* at 127\.0\.0\.1 for the model 'any': .*wrong, \*\*\*"
    with OpenAIServer(answer) as server:
        llm = chat(server, concurrency=4, api_key=KEY)
        with pytest.raises(RuntimeError, match=expected) as raised:
            llm.generate([str(number) for number in range(1000)])
        assert len(server.requests) < 300
    assert KEY not in "".join(traceback.format_exception(raised.value))


UNKNOWN_LENGTH = {"Content-Length": str(1 << 40)}


@pytest.mark.parametrize("status", [200, 400, 307])
def test_an_answer_without_end_fails_its_prompt_alone(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rir_hf.models.server._LARGEST_ANSWER", 1 << 20)
    headers = UNKNOWN_LENGTH | ({"Location": "/v1/elsewhere"} if status == 307 else {})
    endless = Reply(b" " * 65_536, status, headers, endless=0.0)

    def answer(body: dict[str, Any], _: int) -> Reply:
        return endless if prompt_of(body) == "endless" else echo(body)

    with OpenAIServer(answer) as server:
        found = chat(server).generate(["a", "endless", "b"])
    assert kinds_of(found) == ["text", "failed", "text"]
    assert "more than 1,048,576 bytes" in str(found[1]) or status != 200
    assert server.asked()["endless"] <= 5


def test_an_answer_that_is_small_only_while_it_is_packed_fails_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rir_hf.models.server._LARGEST_ANSWER", 1 << 20)
    packed = {"Content-Encoding": "gzip"}
    small = Reply(gzip.compress(completion("fine").body or b""), headers=packed)
    large = Reply(gzip.compress(b" " * (1 << 24)), headers=packed)
    with OpenAIServer(lambda body, _: small if prompt_of(body) == "a" else large) as server:
        found = chat(server).generate(["a", "b"])
    assert found[0] == ["fine"]
    assert "more than 1,048,576 bytes" in str(found[1])


def test_an_answer_of_a_byte_now_and_then_is_given_up() -> None:
    slow = Reply(b" ", headers=UNKNOWN_LENGTH, endless=0.2)

    def answer(body: dict[str, Any], _: int) -> Reply:
        return slow if prompt_of(body) == "slow" else echo(body)

    with OpenAIServer(answer) as server:
        found = chat(server, timeout=1.0).generate(["a", "slow"])
    assert kinds_of(found) == ["text", "failed"]
    assert "timed out" in str(found[1])
    assert server.asked()["slow"] == 2


def test_secrets_in_the_body_and_the_address_are_hidden_as_the_key_is() -> None:
    body = {"authToken": "q7zk", "bearer": "hunter", "custom": "xyz-plain-secret", "effort": "low"}
    llm = OpenAIChat("any", base_url="http://me:pass-word@127.0.0.1:9/v1", extra_body=body)
    with pytest.raises(ConnectionError, match=r"http://me:\*\*\*@127.0.0.1:9/v1/ cannot be asked"):
        llm.generate(["a"])
    said = masked("q7zk, hunter, xyz-plain-secret, pass-word, low")
    assert said == "***, ***, ***, ***, low"
    hidden = {"authToken": "(not shown)", "bearer": "(not shown)", "custom": "***", "effort": "low"}
    assert llm.record()["extra_body"] == hidden


def test_after_a_good_answer_a_denied_one_fails_its_prompt_alone() -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        return failure(401) if prompt_of(body) == "denied" else echo(body)

    with OpenAIServer(answer) as server:
        llm = chat(server)
        llm.generate(["first"])
        found = llm.generate(["a", "denied", "b"])
    assert kinds_of(found) == ["text", "failed", "text"]
    assert server.asked()["denied"] == 1


def test_an_address_at_which_nothing_answers_is_an_error_at_once() -> None:
    with OpenAIServer(echo, listening=False) as server:
        llm = chat(server, max_retries=9)
        message = rf"{server.base_url}/ cannot be asked \(.*refused\): is it running.*--base_url"
        with pytest.raises(ConnectionError, match=message):
            llm.generate(["a"])
        server.listen()
        assert llm.generate(["a"]) == [["a"]]


def test_a_server_that_dies_costs_little_and_is_used_again_when_it_is_back() -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        return replace(echo(body), headers={"Connection": "close"})

    prompts: list[Any] = [f"prompt {number}" for number in range(100)]
    with OpenAIServer(answer) as server:
        llm = chat(server, concurrency=16, max_retries=0)
        llm.generate(["first"])
        server.stop()
        kinds = kinds_of(llm.generate(prompts))
        assert kinds[:32] == ["failed"] * 32
        assert kinds.count("failed") < 32 + 16
        assert set(kinds[32 + 16 :]) == {REFUSED}
        assert kinds_of(llm.generate(prompts)) == ["failed"] + [REFUSED] * 99
        server.listen()
        assert llm.generate(prompts) == [[prompt] for prompt in prompts]
    assert set(server.asked().values()) == {1}


def test_a_server_that_only_fails_gets_few_requests() -> None:
    replies = [failure(500), failure(429), BROKEN]
    prompts: list[Any] = [str(number) for number in range(100)]
    is_well = threading.Event()

    def answer(body: dict[str, Any], _: int) -> Reply:
        return echo(body) if is_well.is_set() else replies[int(prompt_of(body)) % 3]

    with OpenAIServer(answer) as server:
        llm = chat(server, concurrency=4, max_retries=0)
        llm.generate(prompts)
        assert 32 <= len(server.requests) < 32 + 4
        server.requests.clear()
        llm.generate(prompts)
        assert len(server.requests) == 1
        is_well.set()
        assert llm.generate(prompts) == [[prompt] for prompt in prompts]


def test_failures_between_answers_of_a_working_server_do_not_add_up() -> None:
    others = [completion("good"), failure(400), NOT_JSON, completion(choices=[])]

    def answer(body: dict[str, Any], _: int) -> Reply:
        block, place = divmod(int(prompt_of(body)), 20)
        return failure(500) if place else others[block % 4]

    with OpenAIServer(answer) as server:
        llm = chat(server, concurrency=2, max_retries=0)
        found = llm.generate([str(number) for number in range(160)])
    assert REFUSED not in kinds_of(found)
    assert len(server.requests) == 160


def record_everything(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catch all that is logged by anyone."""
    import openai  # noqa: F401 - its loggers are there once it is imported

    caplog.set_level(logging.DEBUG)
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            caplog.set_level(logging.DEBUG, logger=name)
            monkeypatch.setattr(logger, "propagate", True)


@pytest.mark.parametrize(("key", "in_environment"), [(KEY, False), (f"\t{KEY}\n", True)])
def test_the_key_is_sent_and_shows_nowhere_else(
    key: str,
    in_environment: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record_everything(caplog, monkeypatch)
    if in_environment:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    replies = {
        "good": completion("fine"),
        "refused": failure(400, f"no: {KEY}"),
        "down": failure(500, KEY),
        "denied": failure(403, KEY),
        "not JSON": Reply(f"Bearer {KEY}".encode()),
        "broken": BROKEN,
        "other token": top({"Well": -1.0, KEY: -2.0}),
    }
    prompts = list(replies)
    with OpenAIServer(lambda body, _: replies[prompt_of(body)]) as server:
        llm = chat(server, api_key=None if in_environment else key, max_retries=0)
        found: list[Any] = llm.generate(["good"]) + llm.generate(list(prompts))
        found += llm.choice_logprobs(list(prompts), ["Yes"])
        found += llm.sequence_logprobs(["a"] * len(prompts), prompts)
        step = Ask(llm)
        answered = Dataset.from_dict({"query": prompts[:5]}).map(step, batched=True)
    assert {request.authorization for request in server.requests} == {f"Bearer {KEY}"}
    assert any("***" in str(result) for result in found)
    shown = [*map(str, found), repr(found), repr(answered[:]), repr(llm), caplog.text]
    shown += [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    assert any("openai" in record.name for record in caplog.records)
    for described in (llm.key(), llm.record(), step.key(), step.record(), record_step(step)):
        shown.append(json.dumps(described))
    assert [text for text in shown if KEY in text] == []
    assert KEY.encode() not in dumps(llm) + dumps(step)


def test_a_key_that_no_request_can_carry_shows_in_no_error() -> None:
    with OpenAIServer(echo) as server:
        for between in ("\r\n", "\x00"):
            llm = chat(server, api_key=f"sk-first{between}second-half", max_retries=0)
            [found] = llm.generate(["a"])
            assert isinstance(found, LLMError)
            assert "sk-first" not in str(found)
            assert "second-half" not in str(found)


def test_secrets_are_masked_by_their_value() -> None:
    assert masked("first\\x00second", "first\x00second") == "***\\x00***"
    for secret in ("", "none"):
        assert masked("nothing to hide: none", secret) == "nothing to hide: none"


def test_for_the_cache_a_model_is_its_name_and_what_else_decides_the_answers() -> None:
    own = Hasher.hash(OpenAIChat("a"))
    elsewhere = OpenAIChat(
        "a", api_key=KEY, base_url="http://b/v1", concurrency=1, timeout=1, max_retries=0
    )
    assert Hasher.hash(elsewhere) == own
    assert Hasher.hash(Ask(elsewhere)) == Hasher.hash(Ask(OpenAIChat("a")))
    with OpenAIServer(echo) as server:
        used = OpenAIChat("a", base_url=server.base_url)
        used.generate(["a"])
    assert Hasher.hash(used) == own
    others = [
        OpenAIChat("b"),
        OpenAIChat("a", extra_body={"top_k": 1}),
        OpenAIChat("a", extra_body={"top_k": 2}),
        OpenAIChat("a", max_length=100),
        OpenAIChat("a", top_logprobs=5),
    ]
    assert len({own, *map(Hasher.hash, others)}) == 6


def test_a_model_travels_to_another_process_with_its_key() -> None:
    with OpenAIServer(echo) as server:
        llm = chat(server, api_key=KEY, extra_body={"top_k": 5})
        assert llm.generate(["a"]) == [["a"]]
        again = pickle.loads(pickle.dumps(llm))  # noqa: S301
        assert again.generate(["a"]) == [["a"]]
    assert Hasher.hash(again) == Hasher.hash(llm)
    for request in server.requests:
        assert (request.authorization, request.body["top_k"]) == (f"Bearer {KEY}", 5)


def test_the_environment_names_server_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        OpenAIChat("any").generate(["a"])
    with OpenAIServer(echo) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        assert OpenAIChat("any").generate(["a"]) == [["a"]]
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert OpenAIChat("any").generate(["a"]) == [["a"]]
    sent = [request.authorization for request in server.requests]
    assert sent == ["Bearer none", f"Bearer {KEY}"]


def test_a_request_says_what_was_asked_for() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    settings: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": ["\n"],
    }  # fmt: skip

    def answer(body: dict[str, Any], _: int) -> Reply:
        return top({"Yes": -0.1}) if "logprobs" in body else echo(body)

    with OpenAIServer(answer) as server:
        llm = chat(server, extra_body={"top_k": 5})
        llm.generate([messages], **settings, seed=3)
        llm.choice_logprobs(["b"], ["Yes"])
        chat(server, top_logprobs=40).choice_logprobs(["b"], ["Yes"])
    generated, judged, with_more = (request.body for request in server.requests)
    assert generated.pop("seed") >= 0
    assert generated == {"model": "any", "messages": messages, "top_k": 5, **settings}
    assert judged == {
        "model": "any", "messages": [{"role": "user", "content": "b"}], "temperature": 0.0,
        "max_tokens": 1, "logprobs": True, "top_logprobs": 20, "top_k": 5,
    }  # fmt: skip
    assert with_more["top_logprobs"] == 40
    assert {request.path for request in server.requests} == {"/v1/chat/completions"}


YES_NO = ["Yes", "No"]


@pytest.mark.parametrize(
    ("shares", "choices", "expected"),
    [
        # the sum over the tokens that are the word
        ({" Yes": 0.4, "Yes": 0.2, "No": 0.1, "N": 0.05, "Well": 0.01}, YES_NO, [0.6, 0.1]),
        # or else over those that begin it
        ({"Ye": 0.4, " Y": 0.2, "No": 0.1, "Note": 0.05}, YES_NO, [0.6, 0.1]),
        # what is not shown is no likelier than the last that is shown
        ({"No": 0.9, "Maybe": 0.05, "Hm": 0.01}, YES_NO, [0.01, 0.9]),
        # nor than all the rest together
        ({"No": 0.99}, YES_NO, [0.01, 0.99]),
        # what begins two choices counts for neither, unless it is one of them
        (
            {"T": 0.4, "True": 0.2, "Tr": 0.1, "Th": 0.05, "x": 0.01},
            ["True", "Tree", "This"],
            [0.2, 0.01, 0.05],
        ),
        ({"No": 0.5, "N": 0.2, "None": 0.1, "x": 0.01}, ["No", "None"], [0.5, 0.1]),
    ],
)
def test_a_choice_is_as_likely_as_the_tokens_that_can_only_begin_it(
    shares: dict[str, float], choices: list[str], expected: list[float]
) -> None:
    logprobs = {token: float(np.log(share)) for token, share in shares.items()}
    found = logprobs_of_choices(logprobs, choices)
    np.testing.assert_allclose(found, np.log(expected))
    with OpenAIServer(lambda *_: top(logprobs)) as server:
        [asked] = chat(server).choice_logprobs(["a"], choices)
    np.testing.assert_array_equal(asked, found)


def test_a_prompt_fails_where_no_choice_is_among_the_likeliest() -> None:
    shown = {"Maybe": -0.1, "Hm": -5.0, " ": -6.0, "Not": -7.0}
    with pytest.raises(LLMError, match=r"none of \['Yes', 'No'\] is among the 4 likeliest"):
        logprobs_of_choices(shown, YES_NO)


def test_a_server_without_log_probabilities_says_what_to_do() -> None:
    with OpenAIServer(lambda *_: completion("Yes")) as server:
        [judged] = chat(server).choice_logprobs(["a"], YES_NO)
        [scored] = chat(server).sequence_logprobs(["a"], ["b"])
    assert "use the Listwise teacher (quality_check='text'" in str(judged)
    assert "gives no log-probabilities of its prompt (vLLM does): use ChatLLM" in str(scored)


BEFORE = [("<s>", 0.0), ("user", -8.0), (" is", -6.0), (" it", -5.0), ("<|assistant|>", -4.0)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("  is it? ", [" is", " it", "?"]),
        ("unreadable", ["un", "read", "able"]),
    ],
)
def test_sequence_log_probabilities_are_those_of_the_continuation_s_tokens(
    text: str, tokens: list[str]
) -> None:
    end = list(zip(tokens, [-3.0, -2.0, -1.0], strict=True))
    with OpenAIServer(lambda *_: prompt_logprobs([*BEFORE, *end])) as server:
        [found] = chat(server, extra_body={"top_k": 5}).sequence_logprobs(["is it"], [text])
    np.testing.assert_allclose(found, [-3.0, -2.0, -1.0])
    body = server.requests[0].body
    assert body["messages"] == [
        {"role": "user", "content": "is it"},
        {"role": "assistant", "content": text},
    ]
    asked = {"prompt_logprobs": 0, "continue_final_message": True, "add_generation_prompt": False}
    assert body.items() >= {**asked, "top_k": 5}.items()


@pytest.mark.parametrize("text", ["longer than where is it", "anan"])
def test_another_end_of_the_prompt_than_the_text_gives_no_score(text: str) -> None:
    words = ["an", "n", "a"] if text == "anan" else ["where", " is", " it"]
    entries = [{"1": {"decoded_token": word, "logprob": -1.0}} for word in words]
    with pytest.raises(LLMError, match="is not the text to score"):
        logprobs_of_end(entries, text)


def test_n_answers_are_drawn_with_seeds_of_their_own_the_same_in_every_call() -> None:
    def seeds(prompts: list[Any], **settings: int) -> dict[str, set[str]]:
        found = chat(server).generate(prompts, n=3, temperature=1.0, **settings)
        return {prompt: set(own) for prompt, own in zip(prompts, found, strict=True)}  # type: ignore[arg-type]  # none fails here

    with OpenAIServer(lambda body, _: completion(str(body["seed"]))) as server:
        first = seeds(["a", "b"])
        assert len(server.requests) == 6
        assert len(first["a"] | first["b"]) == 6
        assert seeds(["c", "b", "a"]).items() >= first.items()
        assert not seeds(["a"], seed=1)["a"] & first["a"]


def test_of_n_answers_the_good_ones_are_kept() -> None:
    lock = threading.Lock()
    left = {"all": 3, "some": 1, "none": 0}

    def answer(body: dict[str, Any], _: int) -> Reply:
        with lock:
            left[prompt_of(body)] -= 1
            return echo(body) if left[prompt_of(body)] >= 0 else failure(400)

    with OpenAIServer(answer) as server:
        found = chat(server).generate(["all", "some", "none"], n=3)
    assert found[:2] == [["all"] * 3, ["some"]]
    assert isinstance(found[2], LLMError)
    assert set(server.asked().values()) == {3}


def test_tokens_are_estimated_and_characters_stay_whole() -> None:
    llm = OpenAIChat("any")
    messages = [{"role": "user", "content": "ab"}] * 3
    assert llm.count_tokens(["", "abc", "abcd", "é" * 3, messages]) == [0, 1, 2, 2, 2]
    assert llm.cut(["abcdefg", "éé", "", "日本"], 1) == ["abc", "é", "", "日"]
    assert llm.cut(["abcdefg"], 3) == ["abcdefg"]


def test_settings_out_of_range_are_named() -> None:
    wrong: list[dict[str, Any]] = [{"concurrency": 0}, {"timeout": 0}, {"max_retries": -1}]
    for settings in wrong:
        with pytest.raises(ValueError, match="concurrency must be at least 1"):
            OpenAIChat("any", **settings)
    with pytest.raises(ValueError, match="base_url must begin with http"):
        OpenAIChat("any", base_url="localhost:8000")


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    llm = OpenAIChat("any", base_url="http://127.0.0.1:9/v1")
    for ask in (
        lambda: llm.generate(["a"]),
        lambda: llm.choice_logprobs(["a"], ["b"]),
        lambda: llm.sequence_logprobs(["a"], ["b"]),
    ):
        with pytest.raises(ImportError, match=r'pip install "rir-hf\[openai\]"'):
            ask()


def test_a_bad_server_fails_single_rows_and_a_second_run_asks_nothing(tmp_path: Path) -> None:
    bad = {"refused": failure(400), "not JSON": NOT_JSON, "broken": BROKEN}
    Dataset.from_dict({"query": [*bad, "good"]}).save_to_disk(tmp_path / "rows")
    rows = load_from_disk(tmp_path / "rows")
    with OpenAIServer(lambda body, _: bad.get(prompt_of(body), echo(body))) as server:
        llm = chat(server, api_key=KEY)
        llm.generate(["good"])
        answered = rows.map(Ask(llm), batched=True)
        asked = len(server.requests)
        elsewhere = OpenAIChat("any", base_url="http://127.0.0.1:9/v1")
        again = load_from_disk(tmp_path / "rows").map(Ask(elsewhere), batched=True)
        assert len(server.requests) == asked
    assert again[:] == answered[:]
    assert answered["query"][:] == rows["query"][:]
    assert answered["answer"][:] == [None] * len(bad) + ["good"]
    assert all(answered["answer_error"][: len(bad)])


def test_two_processes_answer_as_one_does() -> None:
    rows = Dataset.from_dict({"query": [str(number) for number in range(8)]})
    with OpenAIServer(echo) as server:
        llm = chat(server, api_key=KEY)
        llm.generate(["a"])
        answered = rows.map(Ask(llm), batched=True, num_proc=2)
    assert answered["answer"][:] == rows["query"][:]
    assert {request.authorization for request in server.requests} == {f"Bearer {KEY}"}
