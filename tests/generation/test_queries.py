"""Queries: one row per passage, no text lost without a reason, nothing depends on the batch."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given
from hypothesis import strategies as st

from rir_hf.data.rows import unnest
from rir_hf.generation.queries import GenerateQueries
from rir_hf.models.local import ChatLLM
from rir_hf.models.prompts import TASKS, answer_prompt, find_task
from rir_hf.models.server import OpenAIChat
from rir_hf.schema import code_of
from tests.generation.stand_ins import Writer, corpus_saying
from tests.openai_server import OpenAIServer, completion, failure, top


def queries_of(corpus: Dataset, **settings: Any) -> Dataset:
    return corpus.map(GenerateQueries(Writer(), **settings), batched=True)


def codes_of(rows: Dataset) -> list[list[str | None]]:
    return [[code_of(check["note"]) for check in checks] for checks in rows["query_checks"]]


def test_one_query_per_passage_and_every_reason_why_there_is_none() -> None:
    corpus = corpus_saying("say good one", "say bad", " ", None, "say nothing", "say fail")
    rows = queries_of(corpus)
    assert rows.select_columns(corpus.column_names).to_dict() == corpus.to_dict()
    assert rows["queries"][:] == [["good one"], [], [], [], [], []]
    assert codes_of(rows) == [
        [None], ["rejected"], ["empty_passage"], ["empty_passage"], ["nothing_written"], ["failed"],
    ]  # fmt: skip
    checks = [checks[0] for checks in rows["query_checks"]]
    assert [check["query"] for check in checks] == ["good one", "bad", None, None, "", None]
    assert [check["quality"] for check in checks] == [1.0, -1.0, None, None, None, None]
    assert checks[5]["note"] == "failed: out of order"
    assert rows["passage_cut"][:] == [False] * 6


def test_several_queries_stand_in_one_row_in_the_order_asked() -> None:
    corpus = corpus_saying("say good one; good two; good one", "say good; bad; fail", "")
    rows = queries_of(corpus, n=3)
    assert len(rows) == 3
    assert rows["queries"][:] == [["good one", "good two"], ["good"], []]
    assert codes_of(rows) == [
        [None, None, "duplicate"], [None, "rejected", "failed"], ["empty_passage"] * 3,
    ]  # fmt: skip
    assert rows["query_checks"][1][1] == {"query": "bad", "quality": -1.0, "note": "rejected"}


def test_the_queries_become_pairs_of_query_and_passage() -> None:
    corpus = corpus_saying("say good one; good two; bad", "say bad", "say good")
    pairs = unnest(queries_of(corpus, n=3), {"queries": "query"})
    assert pairs["query"][:] == ["good one", "good two", "good"]
    assert pairs["pos_ids"][:] == [["p0"], ["p0"], ["p2"]]
    assert pairs["passage"][2] == "say good"
    assert "embedding" not in pairs.column_names


@given(
    st.lists(
        st.lists(
            st.sampled_from(["good a", "good b", "bad", "odd", "broken", "nothing", "fail"]),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 3),
    st.sampled_from([True, "text", False]),
)
def test_every_query_asked_for_is_taken_or_has_its_reason(
    said: list[list[str]], n: int, check: Any
) -> None:
    texts = ["; ".join(words) for words in said]
    corpus = corpus_saying("say good start", *(f"say {text}" for text in texts), "")
    step = GenerateQueries(Writer(), n=n, quality_check=check)
    rows = corpus.map(step, batched=True)
    taken = [
        [check["query"] for check in checks if check["note"] is None]
        for checks in rows["query_checks"]
    ]
    assert taken == rows["queries"][:]
    assert [len(checks) for checks in rows["query_checks"]] == [n] * len(corpus)


def test_the_check_reads_log_probabilities_or_a_written_yes_or_no() -> None:
    corpus = corpus_saying("say good", "say bad", "say odd")
    rows = queries_of(corpus, quality_check="text")
    assert codes_of(rows) == [[None], ["rejected"], ["unclear"]]
    assert rows["query_checks"][2][0]["note"] == "unclear: 'maybe'"
    assert rows["query_checks"][0][0]["quality"] is None
    every = [["good"], ["bad"], ["odd"]]
    assert queries_of(corpus, quality_check=False)["queries"][:] == every
    assert queries_of(corpus, min_quality=-2)["queries"][:] == every
    assert queries_of(corpus, min_quality=1.5)["queries"][:] == [[]] * 3


def test_a_failed_check_or_draw_marks_its_row_for_retry() -> None:
    step = GenerateQueries(Writer(), n=2)
    rows = corpus_saying("say good; bad", "say good; broken query", "say fail; good", "").map(
        step, batched=True
    )
    assert codes_of(rows)[1] == [None, "check_failed"]
    assert rows["query_checks"][1][1]["query"] == "broken query"
    assert [step.has_failed(checks) for checks in rows["query_checks"]] == [
        False, True, True, False,
    ]  # fmt: skip


def test_long_passages_are_cut_and_the_instruction_never() -> None:
    long = f"say good {' '.join(f'w{number}' for number in range(500))}"
    writer = Writer(context_length=200)
    step = GenerateQueries(writer, max_tokens=50)
    rows = corpus_saying(long, "say good").map(step, batched=True)
    assert rows["text"][:] == [long, "say good"]
    assert rows["passage_cut"][:] == [True, False]
    about_long = [asked for asked in writer.asked if "w99" in asked]
    assert len(about_long) == 2
    assert all(len(asked.split()) <= 200 for asked in about_long)
    assert "Answer with" in about_long[0]
    assert "Answer Yes or No." in about_long[1]
    writer = Writer()
    GenerateQueries(writer, max_chars=30).one({"text": long})
    assert not any("w10" in asked for asked in writer.asked)


def test_examples_are_shown_as_a_chat_or_as_text() -> None:
    examples = [{"passage": "Sun.", "query": "What shines?"}]
    writer = Writer()
    GenerateQueries(writer, examples=examples, quality_check=False).one({"text": "say good"})
    asked = writer.asked[0]
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert "Sun." in asked[0]["content"]
    assert asked[1]["content"] == "What shines?"
    assert "say good" in asked[2]["content"]
    writer = Writer(is_chat=False)
    GenerateQueries(writer, examples=examples, quality_check=False).one({"text": "say good"})
    assert "\n\nQuestion: What shines?\n\nPassage:\nsay good" in writer.asked[0]
    assert writer.asked[0].endswith("\n\nQuestion:")


def test_every_beir_task_asks_in_its_own_words() -> None:
    for name, task in TASKS.items():
        writer = Writer()
        step = GenerateQueries(writer, task=name, quality_check=False)
        step.one({"text": "say good one"})
        assert task.write_query in writer.asked[0]
        assert task.write_answer in answer_prompt(name)


def test_a_task_may_be_described_in_a_sentence() -> None:
    writer = Writer()
    task = "Given a {legal} question, find the paragraph that answers it"
    GenerateQueries(writer, task=task).one({"text": "say good one"})
    assert len(writer.asked) == 2
    assert all(f"Task: {task}." in asked for asked in writer.asked)
    with pytest.raises(ValueError, match="or a sentence that describes the task, got 'scifct'"):
        GenerateQueries(Writer(), task="scifct")
    assert find_task("TREC COVID") is TASKS["trec-covid"]


def test_a_generator_that_fails_on_everything_stops_the_run() -> None:
    with pytest.raises(
        RuntimeError, match="on all 9 rows so far, .* because: failed: out of order"
    ):
        queries_of(corpus_saying(*["say fail"] * 9))
    with pytest.raises(RuntimeError, match="a model that thinks first needs more max_tokens"):
        queries_of(corpus_saying(*["say nothing"] * 9))


def test_bad_options_are_refused_at_once() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 2, "temperature": 0}, "raise the temperature"),
        ({"top_p": 0}, r"top_p in \(0, 1\]"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"quality_check": "maybe"}, "quality_check must be"),
        ({"examples": [{"passage": None, "query": "a"}]}, "must have the texts passage and query"),
        ({"prompt": "Write."}, "prompt must have the fields"),
    ]
    for settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            GenerateQueries(Writer(), **settings)


def test_a_wrong_column_is_named() -> None:
    with pytest.raises(ValueError, match="GenerateQueries needs the column 'body'"):
        queries_of(corpus_saying("say good"), passage="body")
    with pytest.raises(ValueError, match="the column 'embedding' must hold texts"):
        queries_of(corpus_saying("say good"), passage="embedding")


def test_real_queries_depend_neither_on_the_batch_nor_on_the_order(
    faq_file: Any, tiny_lm: str
) -> None:
    corpus = Dataset.from_dict({"text": Dataset.from_json(str(faq_file)).select(range(5))["a"][:]})
    step = GenerateQueries(
        ChatLLM(tiny_lm), n=2, min_quality=-99, max_passage_tokens=60, max_tokens=12
    )
    whole = corpus.map(step, batched=True)
    backwards = corpus.select(range(4, -1, -1)).map(step, batched=True, batch_size=3)
    assert whole["queries"][:] == backwards["queries"][::-1]
    assert codes_of(whole) == codes_of(backwards)[::-1]
    assert whole["passage_cut"][:] == backwards["passage_cut"][::-1]
    assert len({query for queries in whole["queries"] for query in queries}) > 5


def test_the_key_knows_what_decides_the_texts() -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"task": "fiqa"},
        {"examples": [{"passage": "a", "query": "b"}]},
        {"seed": 1},
        {"quality_check": "text"},
    ]
    assert len({Hasher.hash(GenerateQueries(Writer(), **other)) for other in settings}) == 5


class BreaksDown:
    """Answers of a server that breaks down after so many requests."""

    def __init__(self, good: int) -> None:
        self.left = good
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any], _: int) -> Any:
        with self.lock:
            self.left -= 1
            if self.left < 0:
                return failure(400, "the disk is full")
        if body["max_tokens"] == 1:
            return top({"Yes": -0.1, "No": -3.0})
        return completion(f"answer {body['seed']}")


def test_a_server_that_breaks_down_midway_marks_what_is_missing() -> None:
    corpus = corpus_saying(*(f"passage {number}" for number in range(10)))
    server_answers = BreaksDown(good=13)
    with OpenAIServer(server_answers) as server:
        llm = OpenAIChat(
            "any", base_url=server.base_url, api_key="none", concurrency=1, max_retries=0
        )
        step = GenerateQueries(llm, n=2)
        first = corpus.map(step, batched=True, batch_size=2)
        # Four queries and four checks, then four queries and one check.
        assert sum(map(len, first["queries"])) == 5
        assert step.counts(first) == Counter(check_failed=2, failed=6)  # rows
        server_answers.left = 1000
        failed = [step.has_failed(checks) for checks in first["query_checks"]]
        assert failed == [False, False, True] + [True] * 7
        again = corpus.select(range(2, 10)).map(step, batched=True, batch_size=2)
        assert [len(queries) for queries in again["queries"]] == [2] * 8
        assert set(first["queries"][2]) <= set(again["queries"][0])
