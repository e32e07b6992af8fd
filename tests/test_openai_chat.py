"""A language model behind a server: answers in their places, patience with a bad server and no more, a key that stays secret."""

from __future__ import annotations

import json
import logging
import pickle
import random
import re
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import dill
import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher
from datasets.utils._dill import dumps

from rir_hf import OpenAIChat, ScorePassages
from rir_hf.llm import LLMError
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
PASSING = {"429": failure(429, Retry_After="0.05"), "408": failure(408), "500": failure(500), "broken": BROKEN, "cut": CUT_OFF}
UNUSABLE = {
    "refused": (failure(400, "the prompt is too long"), "the prompt is too long"),
    "unprocessable": (failure(422, "no such parameter"), "no such parameter"),
    "no choice": (completion(choices=[]), "has no choice"),
    "choices null": (completion(choices=None), "has no choice"),
    "an error as an answer": (Reply(b'{"error": {"message": "overloaded"}}'), "has no choice"),
    "content null": (completion(None), r"has no text \(finish_reason: stop\)"),
    "content in parts": (completion([{"type": "text", "text": "a"}]), "has no text"),
    "message null": (completion(choices=[{"index": 0, "message": None}]), "could not be read"),
    "a list": (Reply(b"[]"), "has no choice|could not be read"),
    "null": (Reply(b"null"), "has no choice|could not be read"),
    "not JSON": (NOT_JSON, "could not be read"),
    "a web page": (Reply(b"<html>Welcome</html>", headers={"Content-Type": "text/html"}), "has no choice"),
    "no text at all": (Reply(b""), "could not be read"),
}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_LOG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


def chat(server: OpenAIServer, **settings: Any) -> OpenAIChat:
    """A model behind the server, which is given up soon."""
    return OpenAIChat("any", **{"base_url": server.base_url, "max_retries": 1, "timeout": 30, **settings})


def echo(body: dict[str, Any], _: int = 1) -> Reply:
    """The prompt as its own answer."""
    return completion(prompt_of(body))


def kinds_of(found: list[Any]) -> list[str]:
    """For each result: a text, refused unasked, or failed."""
    return ["text" if not isinstance(one, LLMError) else REFUSED if str(one).startswith(REFUSED) else "failed" for one in found]


def test_answers_keep_the_order_of_the_prompts_whatever_order_they_arrive_in() -> None:
    prompts = [f"prompt {number}" for number in range(60)]
    last_asked = threading.Event()

    def answer(body: dict[str, Any], _: int) -> Reply:
        if prompt_of(body) == prompts[0]:
            last_asked.wait(20)
        elif prompt_of(body) == prompts[-1]:
            last_asked.set()
        return late(random.Random(prompt_of(body)).uniform(0, 0.05), echo(body))

    with OpenAIServer(answer) as server:
        found = chat(server, concurrency=7).generate(prompts)
    assert found == [[prompt] for prompt in prompts]
    assert set(server.asked().values()) == {1}
    assert 1 < max(request.in_flight for request in server.requests) <= 7


def test_no_prompts_ask_nothing() -> None:
    with OpenAIServer(echo) as server:
        llm = chat(server)
        assert llm.generate([]) == llm.choice_logprobs([], ["Yes"]) == llm.sequence_logprobs([], []) == []
    assert server.requests == []


def test_a_passing_failure_is_tried_again_and_a_lasting_one_a_bounded_number_of_times() -> None:
    def answer(body: dict[str, Any], tries: int) -> Reply:
        kind, how_long = prompt_of(body).split(" ")
        return PASSING[kind] if how_long == "lasting" or tries == 1 else echo(body)

    passing, lasting = ([f"{kind} {how_long}" for kind in PASSING] for how_long in ("passing", "lasting"))
    with OpenAIServer(answer) as server:
        found = chat(server).generate([*passing, *lasting])
    assert found[: len(passing)] == [[prompt] for prompt in passing]
    assert kinds_of(found[len(passing) :]) == ["failed"] * len(lasting)
    assert server.asked() == dict.fromkeys([*passing, *lasting], 2)


def test_a_server_is_left_alone_for_as_long_as_it_asks() -> None:
    with OpenAIServer(lambda body, tries: failure(429, Retry_After="0.9") if tries == 1 else echo(body)) as server:
        assert chat(server).generate(["a"]) == [["a"]]
    first, second = server.requests
    assert 0.9 <= second.time - first.time < 3


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_answer_fails_its_prompt_alone_and_is_not_asked_for_again(kind: str) -> None:
    reply, message = UNUSABLE[kind]
    with OpenAIServer(lambda body, _: reply if prompt_of(body) == "bad" else echo(body)) as server:
        found = chat(server, concurrency=2).generate(["one", "bad", "two", "three"])
    assert [found[0], *found[2:]] == [["one"], ["two"], ["three"]]
    assert isinstance(found[1], LLMError)
    assert re.search(message, str(found[1]))
    assert server.asked() == {"one": 1, "bad": 1, "two": 1, "three": 1}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_answer_gives_no_log_probabilities_and_stops_nothing(kind: str) -> None:
    with OpenAIServer(lambda *_: UNUSABLE[kind][0]) as server:
        llm = chat(server)
        found = llm.choice_logprobs(["a", "b"], ["Yes", "No"]) + llm.sequence_logprobs(["a", "b"], ["c", "d"])
    assert kinds_of(found) == ["failed"] * 4
    assert len(server.requests) == 4


def test_log_probabilities_of_the_wrong_kind_stop_nothing() -> None:
    entries = [{"token": "Yes", "logprob": None}], [{"token": None, "logprob": -1.0}], [{}], ["Yes"], "Yes", [None]
    odd = [completion("Yes", logprobs={"content": [{"token": "Yes", "logprob": -1.0, "top_logprobs": own}]}) for own in entries]
    odd += [completion("Yes", logprobs=value) for value in ([], {}, {"content": None}, {"content": [None]}, "Yes", 3)]
    with OpenAIServer(lambda body, _: odd[int(prompt_of(body))]) as server:
        found = chat(server).choice_logprobs([str(number) for number in range(len(odd))], ["Yes", "No"])
    assert kinds_of(found) == ["failed"] * len(odd)

    tokens = [[{"1": {"logprob": -1.0}}], [{"1": {"decoded_token": "c"}}], [{"1": None}], [[]], ["c"], 3, "c", {"1": -1.0}]
    tokens += [[{"1": {"logprob": "low", "decoded_token": "c"}}]]
    odd = [completion("x", prompt_logprobs=[None, *own] if isinstance(own, list) else own) for own in tokens]
    with OpenAIServer(lambda body, _: odd[int(body["messages"][0]["content"])]) as server:
        found = chat(server).sequence_logprobs([str(number) for number in range(len(odd))], ["c"] * len(odd))
    assert kinds_of(found) == ["failed"] * len(odd)


def test_a_late_answer_is_asked_for_again_and_then_given_up() -> None:
    def answer(body: dict[str, Any], tries: int) -> Reply:
        return late(30, echo(body)) if prompt_of(body) == "always" or (prompt_of(body) == "once" and tries == 1) else echo(body)

    with OpenAIServer(answer) as server:
        start = time.monotonic()
        found = chat(server, timeout=0.7).generate(["always", "once", "never"])
        assert time.monotonic() - start < 6
    assert kinds_of(found) == ["failed", "text", "text"]
    assert "timed out" in str(found[0])
    assert server.asked()["always"] == server.asked()["once"] == 2


@pytest.mark.parametrize(("status", "message"), [(401, "key is not accepted"), (403, "access is refused"), (404, "no such model")])
def test_a_wrong_setting_raises_at_once(status: int, message: str) -> None:
    with OpenAIServer(lambda *_: failure(status, f"wrong, {KEY}")) as server:
        with pytest.raises(RuntimeError, match=rf"{message}.* at 127\.0\.0\.1 for the model 'any': .*wrong, \*\*\*") as raised:
            chat(server, concurrency=4, api_key=KEY).generate([f"prompt {number}" for number in range(500)])
        assert len(server.requests) < 60
    assert KEY not in "".join(traceback.format_exception(raised.value))


def test_a_wrong_setting_raises_at_once_though_the_first_answer_is_slow() -> None:
    with OpenAIServer(lambda body, _: late(2.0 if prompt_of(body) == "0" else 0.0, failure(401))) as server:
        with pytest.raises(RuntimeError, match="key is not accepted"):
            chat(server, concurrency=4).generate([str(number) for number in range(3000)])
        assert len(server.requests) < 300


def test_after_a_good_answer_a_denied_one_fails_its_prompt_alone() -> None:
    with OpenAIServer(lambda body, _: failure(401) if prompt_of(body) == "denied" else echo(body)) as server:
        llm = chat(server)
        llm.generate(["first"])
        found = llm.generate(["a", "denied", "b"])
    assert kinds_of(found) == ["text", "failed", "text"]
    assert server.asked()["denied"] == 1


@pytest.mark.parametrize("max_retries", [0, 1])
def test_a_dead_server_costs_little_and_is_used_again_when_it_is_back(max_retries: int) -> None:
    prompts = [f"prompt {number}" for number in range(200)]
    with OpenAIServer(echo, listening=False) as server:
        llm = chat(server, concurrency=16, max_retries=max_retries)
        start = time.monotonic()
        kinds = kinds_of(llm.generate(prompts))
        assert time.monotonic() - start < 15
        assert kinds[:32] == ["failed"] * 32
        assert kinds.count("failed") < 32 + 16
        assert set(kinds[32 + 16 :]) == {REFUSED}
        assert kinds_of(llm.generate(prompts)) == ["failed"] + [REFUSED] * 199
        server.listen()
        assert llm.generate(prompts) == [[prompt] for prompt in prompts]
    assert set(server.asked().values()) == {1}


@pytest.mark.parametrize("reply", [failure(500), failure(429), BROKEN])
def test_a_server_that_only_fails_gets_few_requests(reply: Reply) -> None:
    is_well = threading.Event()
    prompts = [f"prompt {number}" for number in range(200)]
    with OpenAIServer(lambda body, _: echo(body) if is_well.is_set() else reply) as server:
        llm = chat(server, concurrency=4, max_retries=0)
        llm.generate(prompts)
        assert 32 <= len(server.requests) < 32 + 4
        server.requests.clear()
        llm.generate(prompts)
        assert len(server.requests) == 1
        is_well.set()
        assert llm.generate(prompts) == [[prompt] for prompt in prompts]


@pytest.mark.parametrize("other", [completion("good"), failure(400), NOT_JSON, completion(choices=[])])
def test_failures_between_answers_of_a_working_server_do_not_add_up(other: Reply) -> None:
    with OpenAIServer(lambda body, _: failure(500) if int(prompt_of(body)) % 4 else other) as server:
        found = chat(server, concurrency=2, max_retries=0).generate([str(number) for number in range(120)])
    assert REFUSED not in kinds_of(found)
    assert len(server.requests) == 120


@pytest.mark.parametrize("in_environment", [False, True])
def test_the_key_is_sent_and_shows_nowhere_else(
    in_environment: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openai  # noqa: F401 - its loggers are there once it is imported

    caplog.set_level(logging.DEBUG)
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            caplog.set_level(logging.DEBUG, logger=name)
            monkeypatch.setattr(logger, "propagate", True)
    if in_environment:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
    replies = {
        "good": completion("[1] > [2]"),
        "refused": failure(400, f"no: {KEY}"),
        "down": failure(500, KEY),
        "denied": failure(403, KEY),
        "not JSON": Reply(f"Bearer {KEY}".encode()),
        "broken": BROKEN,
        "other token": top({"Well": -1.0, KEY: -2.0}),
    }
    with OpenAIServer(lambda body, _: replies[next(name for name in replies if name in prompt_of(body))]) as server:
        llm = chat(server, api_key=None if in_environment else KEY)
        found: list[Any] = llm.generate(["good"]) + llm.generate(list(replies)) + llm.choice_logprobs(list(replies), ["Yes"])
        found += llm.sequence_logprobs(["a"] * len(replies), list(replies))
        rows = Dataset.from_dict({"query": list(replies), "pos": [["a"]] * 7, "neg": [["b"]] * 7})
        scored = rows.map(ScorePassages(llm, max_tokens=9), batched=True)
    assert {request.authorization for request in server.requests} == {f"Bearer {KEY}"}
    assert {"***" in str(one) for one in found} == {True, False}
    records = [f"{record.getMessage()} {vars(record)} {record.exc_text}" for record in caplog.records]
    assert any("openai" in record.name for record in caplog.records)
    shown = [*map(str, found), repr(found), *records, caplog.text, repr(llm), str(llm), repr(scored[:]), json.dumps(llm.identity())]
    assert [text for text in shown if KEY in text] == []
    assert KEY.encode() not in dumps(llm) + dumps(ScorePassages(llm))


def test_for_the_cache_a_model_is_its_name_and_what_else_decides_the_answers() -> None:
    own = Hasher.hash(OpenAIChat("a"))
    same = OpenAIChat("a", api_key=KEY, base_url="http://elsewhere/v1", concurrency=1, timeout=1, max_retries=0)
    assert Hasher.hash(same) == own
    assert Hasher.hash(ScorePassages(same)) == Hasher.hash(ScorePassages(OpenAIChat("a")))
    with OpenAIServer(echo) as server:
        used = OpenAIChat("a", base_url=server.base_url)
        used.generate(["a"])
    assert Hasher.hash(used) == own
    others = [{"extra_body": {"top_k": 1}}, {"extra_body": {"top_k": 2}}, {"max_length": 100}, {"top_logprobs": 5}]
    hashes = [Hasher.hash(OpenAIChat("b")), *(Hasher.hash(OpenAIChat("a", **settings)) for settings in others)]
    assert len({own, *hashes}) == 6


@pytest.mark.parametrize("pickler", [pickle, dill])
def test_a_model_travels_to_another_process_with_its_key(pickler: Any) -> None:
    with OpenAIServer(echo) as server:
        llm = chat(server, api_key=KEY, extra_body={"top_k": 5})
        for own in (llm, pickler.loads(pickler.dumps(llm))):
            assert own.generate(["a"]) == [["a"]]
        again = pickler.loads(pickler.dumps(llm))
        assert again.generate(["a"]) == [["a"]]
    assert Hasher.hash(again) == Hasher.hash(llm)
    assert [(request.authorization, request.body["top_k"]) for request in server.requests] == [(f"Bearer {KEY}", 5)] * 3


def test_the_environment_names_server_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        OpenAIChat("any").generate(["a"])
    with OpenAIServer(echo) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        assert OpenAIChat("any").generate(["a"]) == [["a"]]
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert OpenAIChat("any").generate(["a"]) == [["a"]]
    assert [request.authorization for request in server.requests] == ["Bearer none", f"Bearer {KEY}"]


def test_a_request_says_what_was_asked_for() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    settings = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": ["\n"]}
    with OpenAIServer(lambda body, _: top({"Yes": -0.1}) if "logprobs" in body else echo(body)) as server:
        llm = chat(server, extra_body={"top_k": 5})
        llm.generate([messages], **settings, seed=3)
        llm.choice_logprobs(["b"], ["Yes"])
        chat(server, top_logprobs=40).choice_logprobs(["b"], ["Yes"])
    generated, judged, with_more = (request.body for request in server.requests)
    assert generated.pop("seed") >= 0
    assert generated == {"model": "any", "messages": messages, "top_k": 5, **settings}
    asked = {"temperature": 0.0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20, "top_k": 5}
    assert judged == {"model": "any", "messages": [{"role": "user", "content": "b"}], **asked}
    assert with_more["top_logprobs"] == 40
    assert {request.path for request in server.requests} == {"/v1/chat/completions"}


def test_a_choice_s_log_probability_sums_the_tokens_that_are_its_word_or_else_begin_it() -> None:
    tops = {
        "words": {" Yes": np.log(0.4), "Yes": np.log(0.2), "No": np.log(0.1), "N": np.log(0.05), "Well": np.log(0.01)},
        "beginnings": {"Ye": np.log(0.4), " Y": np.log(0.2), "No": np.log(0.1), "Note": np.log(0.05)},
        "one": {"No": -0.1, "Maybe": -3.0, "Hm": -5.0},
        "neither": {"Maybe": -0.1, "Hm": -5.0, " ": -6.0, "Not": -7.0},
    }
    with OpenAIServer(lambda body, _: top(tops[prompt_of(body)])) as server:
        words, beginnings, one, neither = chat(server).choice_logprobs(list(tops), ["Yes", "No"])
    np.testing.assert_allclose(words, np.log([0.6, 0.1]))
    np.testing.assert_allclose(beginnings, np.log([0.6, 0.1]))
    np.testing.assert_allclose(one, [-5.0, -0.1])
    with OpenAIServer(lambda *_: top({"No": -0.01})) as server:
        [alone] = chat(server).choice_logprobs(["a"], ["Yes", "No"])
    np.testing.assert_allclose(alone, [np.log(1 - np.exp(-0.01)), -0.01])
    assert isinstance(neither, LLMError)
    assert "none of ['Yes', 'No'] is among the 4 likeliest" in str(neither)


def test_a_token_that_begins_two_choices_counts_for_neither_unless_it_is_one_of_them() -> None:
    with OpenAIServer(lambda *_: top({"T": -0.8, "True": -2.0, "Tr": -3.5, "Th": -3.0, "x": -9.0})) as server:
        [found] = chat(server).choice_logprobs(["a"], ["True", "Tree", "This"])
    np.testing.assert_allclose(found, [-2.0, -9.0, -3.0])
    with OpenAIServer(lambda *_: top({"No": -0.1, "N": -0.5, "None": -2.0, "x": -9.0})) as server:
        [found] = chat(server).choice_logprobs(["a"], ["No", "None"])
    np.testing.assert_allclose(found, [-0.1, -2.0])


def test_a_server_without_log_probabilities_says_what_to_do() -> None:
    with OpenAIServer(lambda *_: completion("Yes")) as server:
        [found] = chat(server).choice_logprobs(["a"], ["Yes", "No"])
    assert isinstance(found, LLMError)
    assert "use method='listwise' (quality_check='text' for generated queries), or another server" in str(found)


def test_sequence_log_probabilities_are_those_of_the_continuation_s_tokens() -> None:
    before = [("<s>", 0.0), ("user", -8.0), (" where", -7.0), (" is", -6.0), (" it", -5.0), ("<|assistant|>", -4.0), ("\n", -3.5)]
    ends = {
        "where is it": [("where", -3.0), (" is", -2.0), (" it", -1.0)],
        "  is it? ": [(" is", -3.0), (" it", -2.0), ("?", -1.0)],
        "unreadable": [("un", -3.0), ("read", -2.0), ("able", -1.0)],
        "other text": [("where", -3.0), (" is", -2.0), (" it", -1.0)],
        "longer than all of it": [(" of", -2.0), (" it", -1.0)],
        "anan": [("an", -3.0), ("n", -2.0), ("a", -1.0)],
    }
    with OpenAIServer(lambda body, _: prompt_logprobs(before + ends[prompt_of(body)])) as server:
        found = chat(server, extra_body={"top_k": 5}).sequence_logprobs(["is it"] * len(ends), list(ends))
    np.testing.assert_allclose(found[:3], [[-3.0, -2.0, -1.0]] * 3)
    assert kinds_of(found[3:]) == ["failed"] * 3
    assert "is not the text to score" in str(found[3])
    body = next(request.body for request in server.requests if prompt_of(request.body) == "where is it")
    assert body["messages"] == [{"role": "user", "content": "is it"}, {"role": "assistant", "content": "where is it"}]
    asked = {"prompt_logprobs": 0, "continue_final_message": True, "add_generation_prompt": False, "top_k": 5}
    assert body.items() >= asked.items()


@pytest.mark.parametrize("reply", [completion("x"), completion("x", prompt_logprobs=None), completion("x", prompt_logprobs=[])])
def test_a_server_without_log_probabilities_of_the_prompt_says_so(reply: Reply) -> None:
    with OpenAIServer(lambda *_: reply) as server:
        [found] = chat(server).sequence_logprobs(["a"], ["b"])
    assert isinstance(found, LLMError)
    assert "gives no log-probabilities of its prompt (vLLM does): use ChatLLM" in str(found)


def test_n_answers_are_drawn_with_seeds_of_their_own_the_same_in_every_call() -> None:
    def seeds(server: OpenAIServer, prompts: list[str], **settings: int) -> dict[str, list[int]]:
        server.requests.clear()
        found = chat(server).generate(prompts, n=3, temperature=1.0, **settings)
        assert all(len(set(own)) == 3 for own in found)
        assert len(server.requests) == 3 * len(prompts)
        return {prompt: [int(text) for text in own] for prompt, own in zip(prompts, found, strict=True)}

    with OpenAIServer(lambda body, _: completion(str(body["seed"]))) as server:
        first = seeds(server, ["a", "b"])
        assert len({seed for own in first.values() for seed in own}) == 6
        assert seeds(server, ["c", "b", "a"]).items() >= first.items()
        assert not set(seeds(server, ["a"], seed=1)["a"]) & set(first["a"])


def test_of_n_answers_the_good_ones_are_kept() -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        left_over = {"some": 1, "none": 0}.get(prompt_of(body), 3)
        with lock:
            counts[prompt_of(body)] = counts.get(prompt_of(body), 0) + 1
            return echo(body) if counts[prompt_of(body)] <= left_over else failure(400)

    lock, counts = threading.Lock(), {}
    with OpenAIServer(answer) as server:
        found = chat(server).generate(["all", "some", "none"], n=3)
    assert found[:2] == [["all"] * 3, ["some"]]
    assert isinstance(found[2], LLMError)
    assert counts == {"all": 3, "some": 3, "none": 3}


def test_tokens_are_estimated_and_characters_stay_whole() -> None:
    llm = OpenAIChat("any")
    assert llm.count_tokens(["", "abc", "abcd", "é" * 3, [{"role": "user", "content": "ab"}] * 3]) == [0, 1, 2, 2, 2]
    assert llm.cut(["abcdefg", "éé", "", "日本"], 1) == ["abc", "é", "", "日"]
    assert llm.cut(["abcdefg"], 3) == ["abcdefg"]


def test_settings_out_of_range_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({"concurrency": 0}, {"timeout": 0}, {"max_retries": -1}):
        with pytest.raises(ValueError, match="concurrency must be at least 1"):
            OpenAIChat("any", **settings)
    monkeypatch.setitem(sys.modules, "openai", None)
    llm = OpenAIChat("any", base_url="http://127.0.0.1:9/v1")
    for ask in (
        lambda: llm.generate(["a"]),
        lambda: llm.choice_logprobs(["a"], ["b"]),
        lambda: llm.sequence_logprobs(["a"], ["b"]),
    ):
        with pytest.raises(ImportError, match=r'pip install "rir-hf\[openai\]"'):
            ask()


ROWS = {
    "good": (None, None),
    "late": (late(30, completion("[1]")), "timed out"),
    "429": (failure(429, "slow down", Retry_After="0.05"), "slow down"),
    "500": (failure(500, "out of memory"), "out of memory"),
    "broken": (BROKEN, "Connection error"),
    "good too": (None, None),
    "good again": (None, None),
    "no choice": (completion(choices=[]), "no choice"),
    "content null": (completion(None), "no text|no log-probabilities"),
    "not JSON": (NOT_JSON, "could not be read"),
    "400": (failure(400, "too long"), "too long"),
    "500 once": (failure(500), None),
}
WORTHS = (50, 90, 10, 70, 30)
METHODS = {
    "listwise": lambda worths: [1 / (1 + sorted(worths, reverse=True).index(worth)) for worth in worths],
    "listwise_logits": lambda worths: [np.log(worth / sum(worths)) for worth in worths],
    "yes_no": lambda worths: [np.log(worth / (100 - worth)) for worth in worths],
}


def worths_of(row: int) -> list[int]:
    """What the passages of a row are worth, the positive first."""
    return [WORTHS[(row + place) % 5] + row % 3 for place in range(5)]


def row_of(prompt: str) -> int:
    """The row that a prompt is about."""
    return int(re.search(r"query of row (\d+)", prompt)[1])


def rows_on_disk(folder: Path) -> Dataset:
    """One row for each kind of answer; saved, because `datasets` caches nothing for rows in memory."""
    texts = [[f"Row {row}, worth {worth}." for worth in worths_of(row)] for row in range(len(ROWS))]
    rows = {"query": [f"query of row {row}" for row in range(len(ROWS))], "pos": [own[:1] for own in texts]}
    Dataset.from_dict({**rows, "neg": [own[1:] for own in texts]}).save_to_disk(folder)
    return load_from_disk(folder)


def judge(body: dict[str, Any]) -> Reply:
    """Answer as a teacher who reads what the passages are worth."""
    shown = {name: int(worth) for name, worth in re.findall(r"\[(\w)\] Row \d+, worth (\d+)", prompt_of(body))}
    if "logprobs" not in body:
        return completion(" > ".join(f"[{name}]" for name in sorted(shown, key=shown.get, reverse=True)))
    if shown:
        return top({name: np.log(worth / sum(shown.values())) for name, worth in shown.items()})
    [worth] = re.findall(r"worth (\d+)", prompt_of(body))
    return top({" Yes": np.log(int(worth) / 100), "No": np.log(1 - int(worth) / 100)})


def misbehave(body: dict[str, Any], tries: int) -> Reply:
    """Answer each row in its own way."""
    kind = list(ROWS)[row_of(prompt_of(body))]
    return judge(body) if ROWS[kind][0] is None or (kind == "500 once" and tries > 1) else ROWS[kind][0]


def check_scores(scored: Dataset, method: str, failed: dict[int, str]) -> None:
    """Compare with what the passages are worth, or with the reasons why rows failed."""
    for place, row in enumerate(scored):
        if place in failed:
            assert re.search(failed[place], row["teacher_error"])
            assert row["pos_scores"] is row["neg_scores"] is None
        else:
            assert row["teacher_error"] is None
            expected = METHODS[method](worths_of(place))
            np.testing.assert_allclose([*row["pos_scores"], *row["neg_scores"]], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_bad_server_fails_single_rows_and_a_second_run_asks_nothing(method: str, tmp_path: Path) -> None:
    rows = rows_on_disk(tmp_path / "rows")
    failed = {place: message for place, (_, message) in enumerate(ROWS.values()) if message}
    with OpenAIServer(misbehave) as server:
        start = time.monotonic()
        llm = chat(server, timeout=1, concurrency=12)
        scored = rows.map(ScorePassages(llm, method=method), batched=True, batch_size=6)
        assert time.monotonic() - start < 20
        check_scores(scored, method, failed)
        for column in ("query", "pos", "neg"):
            assert scored[column][:] == rows[column][:]
        asked = server.asked()
        assert len(asked) == len(ROWS) * (5 if method == "yes_no" else 1)
        assert max(asked.values()) == 2
        shown = {prompt: [int(worth) for worth in re.findall(r"worth (\d+)", prompt)] for prompt in asked}
        places = {worths.index(worths_of(row_of(prompt))[0]) for prompt, worths in shown.items() if len(worths) == 5}
        assert method == "yes_no" or len(places) > 2

        elsewhere = OpenAIChat("any", base_url="http://127.0.0.1:9/v1", api_key=KEY)
        again = load_from_disk(tmp_path / "rows").map(ScorePassages(elsewhere, method=method), batched=True, batch_size=6)
        assert again[:] == scored[:]
        assert server.asked() == asked

        server.answer = lambda body, _: judge(body)
        server.requests.clear()
        whole = scored.map(ScorePassages(llm, method=method, keep_scored=True), batched=True)
        check_scores(whole, method, {})
        assert len(server.requests) == len(failed) * (5 if method == "yes_no" else 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("reply", "message"), [(failure(400, "too long"), "failed on all 12 rows.*too long"), (failure(401), "key is not")]
)
def test_a_teacher_that_fails_on_every_row_raises_once(method: str, reply: Reply, message: str, tmp_path: Path) -> None:
    rows = rows_on_disk(tmp_path / "rows")
    with OpenAIServer(lambda *_: reply) as server:
        with pytest.raises(RuntimeError, match=message):
            rows.map(ScorePassages(chat(server), method=method), batched=True)
        assert len(server.requests) <= len(rows) * (5 if method == "yes_no" else 1)


def test_passages_are_cut_to_the_length_of_the_server_s_model(tmp_path: Path) -> None:
    rows = Dataset.from_dict(
        {"query": ["query of row 0"], "pos": [["Row 0, worth 40." + " é" * 900]], "neg": [["Row 0, worth 7."]]}
    )
    with OpenAIServer(lambda body, _: judge(body)) as server:
        [row] = rows.map(ScorePassages(chat(server, max_length=100), method="yes_no"), batched=True)
    assert row["teacher_cut"] == 1
    assert row["pos_scores"][0] > row["neg_scores"][0]
    assert max(len(prompt_of(request.body).encode()) for request in server.requests) <= 99 * 3


def test_two_processes_score_as_one_does(tmp_path: Path) -> None:
    rows = rows_on_disk(tmp_path / "rows")
    with OpenAIServer(lambda body, _: judge(body)) as server:
        llm = chat(server, api_key=KEY)
        llm.generate(["a"])
        scored = rows.map(ScorePassages(llm), batched=True, num_proc=2)
    check_scores(scored, "listwise", {})
    assert {request.authorization for request in server.requests} == {f"Bearer {KEY}"}
