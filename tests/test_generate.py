"""Queries and hypothetical answers: nothing is lost without a reason, and nothing depends on the batch."""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.fingerprint import Hasher
from hypothesis import given
from hypothesis import strategies as st

from rir_hf import ChatLLM, CompletionLLM, GenerateAnswers, GenerateQueries, OpenAIChat, report_generation
from rir_hf.generate import (
    DUPLICATE,
    EMPTY_PASSAGE,
    EMPTY_QUERY,
    NOT_CHECKED,
    NOT_WRITTEN,
    NOTHING_WRITTEN,
    REJECTED,
    UNCLEAR,
    _reading,
    answer_prompt,
    clean_query,
)
from rir_hf.llm import LLMError, seed_of
from rir_hf.prompts import TASKS, find_task
from tests.openai_server import OpenAIServer, completion, failure, prompt_of, top

BEIR = [
    "arguana", "climate-fever", "cqadupstack", "dbpedia-entity", "fever", "fiqa", "hotpotqa", "msmarco", "nfcorpus", "nq", "quora",
    "scidocs", "scifact", "trec-covid", "webis-touche2020",
]  # fmt: skip


class Writer:
    """A model that writes what the passage or the query tells it to, and remembers what it was asked.

    `"say a; b; c"` in a prompt makes it answer a, b, c in turn to calls with different seeds, and to the numbers of one call;
    `fail` fails, `nothing` is an empty answer. Checked is what follows "Question:", and found good if it begins with "good".
    """

    max_length = None
    is_chat = True

    def __init__(self, **attributes: Any) -> None:
        self._asked: list[Any] = []
        self._seeds: list[int] = []
        vars(self).update(attributes)

    def identity(self) -> str:
        return "writer"

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        return [" ".join(text.split(" ")[:max_tokens]) for text in texts]

    def count_tokens(self, prompts: list[Any]) -> list[int]:
        return [len(prompt.split()) for prompt in prompts]

    def generate(self, prompts: list[Any], *, n: int = 1, seed: int = 0, temperature: float = 0.0, **_: Any) -> list[Any]:
        self._asked += prompts
        if temperature == 0:
            return [["Yes." if self._is_good(prompt) else "maybe" if "odd" in prompt else "No"] for prompt in prompts]
        if seed not in self._seeds:
            self._seeds.append(seed)
        found = []
        for prompt in prompts:
            said = re.findall(r"say ([^.\n]*)", prompt if isinstance(prompt, str) else prompt[-1]["content"])[0].split("; ")
            texts = [said[(self._seeds.index(seed) + number) % len(said)] for number in range(n)]
            good = ["" if text == "nothing" else text for text in texts if text != "fail"]
            found.append(good or LLMError("out of order"))
        return found

    def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
        self._asked += prompts
        return [
            LLMError("no log-probabilities")
            if "Question: broken" in prompt
            else np.array([-0.5, -1.5][:: 1 if self._is_good(prompt) else -1])
            for prompt in prompts
        ]

    def _is_good(self, prompt: str) -> bool:
        return "Question: good" in prompt


def corpus_saying(*passages: str) -> Dataset:
    """Passages with ids and vectors."""
    return Dataset.from_dict(
        {
            "id": [f"p{place}" for place in range(len(passages))],
            "text": list(passages),
            "embedding": [[float(place), 1.0] for place in range(len(passages))],
        },
        features=Features({"id": Value("string"), "text": Value("string"), "embedding": List(Value("float32"), length=2)}),
    )


def queries_of(corpus: Dataset, **settings: Any) -> Dataset:
    return corpus.map(GenerateQueries(Writer(), **settings), batched=True)


def test_every_beir_task_has_its_own_words() -> None:
    assert sorted(TASKS) == BEIR
    for texts in zip(*TASKS.values(), strict=True):
        if isinstance(texts[0], str) and texts[0].endswith((".", "?")):
            assert len(set(texts)) > 10
    for name in BEIR:
        writer = Writer()
        corpus_saying("say good one", "say good two").map(GenerateQueries(writer, task=name, quality_check=False), batched=True)
        assert TASKS[name].write_query in writer._asked[0]
        assert TASKS[name].write_answer in answer_prompt(name)


def test_a_task_may_be_described_in_a_sentence() -> None:
    writer = Writer()
    task = "Given a {legal} question, find the paragraph that answers it"
    pairs = corpus_saying("say good one", "say good two").map(GenerateQueries(writer, task=task), batched=True)
    assert all(f"Task: {task}." in asked for asked in writer._asked)
    assert len(writer._asked) == 4
    assert pairs["query_error"][:] != [None, None]  # this writer knows only what follows "Question:"
    assert answer_prompt(task).format(query="why?").endswith("Query: why?")
    for wrong in ("scifct", "sci fct", "legal question answering"):
        with pytest.raises(ValueError, match=f"or a sentence that describes the task, got '{wrong}'"):
            GenerateQueries(Writer(), task=wrong)
    for name, spelled in (("scifact", " SciFact"), ("trec-covid", "TREC COVID"), ("webis-touche2020", "webis_touche2020")):
        assert find_task(spelled) is TASKS[name]


def test_one_query_per_passage_keeps_the_rows_as_they_are() -> None:
    corpus = corpus_saying("say good one", "say bad", " ", "say nothing", "say fail")
    pairs = queries_of(corpus)
    assert pairs.select_columns(corpus.column_names).to_dict() == corpus.to_dict()
    assert pairs.features["embedding"] == corpus.features["embedding"]
    assert pairs["query"][:] == ["good one", None, None, None, None]
    assert pairs["passage"][:] == corpus["text"][:]
    assert pairs["query_error"][:] == [None, REJECTED, EMPTY_PASSAGE, NOTHING_WRITTEN, f"{NOT_WRITTEN}out of order"]
    assert pairs["dropped_query"][:] == [None, "bad", None, "", None]
    assert pairs["query_quality"][:] == [1.0, -1.0, None, None, None]


def test_several_queries_per_passage_repeat_the_row_with_all_its_columns() -> None:
    corpus = corpus_saying("say good one; good two; good one", "say good; bad; fail", "")
    pairs = queries_of(corpus, n=3)
    assert pairs["query"][:] == ["good one", "good two", None, "good", None, None, None, None, None]
    assert pairs["query_error"][2:6] == [DUPLICATE, None, REJECTED, f"{NOT_WRITTEN}out of order"]
    assert pairs["id"][:] == [name for name in ("p0", "p1", "p2") for _ in range(3)]
    assert pairs["query_number"][:] == [0, 1, 2] * 3
    assert pairs.features["embedding"] == corpus.features["embedding"]
    assert pairs[4]["embedding"] == corpus[1]["embedding"]


@pytest.mark.parametrize("n", [1, 3])
def test_dropped_rows_take_their_columns_along(n: int) -> None:
    corpus = corpus_saying("say good one; good two; good one", "say bad", "", "say good; bad; fail")
    every, kept = queries_of(corpus, n=n), queries_of(corpus, n=n, drop=True)
    assert kept.to_list() == [row for row in every.to_list() if row["query_error"] is None]
    assert kept.features == every.features
    assert len(kept) > 1


def test_a_batch_that_is_dropped_as_a_whole_loses_no_other() -> None:
    corpus = corpus_saying("say bad", "say bad", "say good", "say bad")
    kept = corpus.map(GenerateQueries(Writer(), drop=True), batched=True, batch_size=1)
    assert kept["id"][:] == ["p2"]
    assert kept.features == queries_of(corpus).features
    nothing = corpus.select([0, 1]).map(GenerateQueries(Writer(), drop=True), batched=True)
    assert len(nothing) == 0


@given(
    st.lists(
        st.lists(st.sampled_from(["good a", "good b", "bad", "odd", "broken", "nothing", "fail"]), min_size=1, max_size=3),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 3),
    st.sampled_from([True, "text", False]),
)
def test_rows_in_are_rows_out_and_rows_dropped_by_reason(said: list[list[str]], n: int, check: Any) -> None:
    corpus = corpus_saying("say good start", *(f"say {'; '.join(texts)}" for texts in said), "")
    report = report_generation(queries_of(corpus, n=n, quality_check=check))
    kept = queries_of(corpus, n=n, quality_check=check, drop=True)
    assert report["rows"] == n * len(corpus)
    assert report["queries"] == len(kept)
    assert report["queries"] + sum(report["no_query_because"].values()) == report["rows"]
    assert report["rows_without_query"] == sum(report["no_query_because"].values())


def test_the_check_reads_a_written_yes_or_no() -> None:
    corpus = corpus_saying("say good", "say bad", "say odd")
    pairs = queries_of(corpus, quality_check="text")
    assert pairs["query_error"][:] == [None, REJECTED, f"{UNCLEAR}'maybe'"]
    assert queries_of(corpus, quality_check=False)["query"][:] == ["good", "bad", "odd"]
    assert queries_of(corpus, min_quality=-2)["query"][:] == ["good", "bad", "odd"]
    assert queries_of(corpus, min_quality=1.5)["query"][:] == [None] * 3


def test_a_query_whose_check_failed_is_kept_aside_and_checked_again() -> None:
    corpus = corpus_saying("say good", "say broken query")
    pairs = queries_of(corpus)
    assert pairs["query_error"][1] == f"{NOT_CHECKED}no log-probabilities"
    assert pairs["dropped_query"][1] == "broken query"
    writer = Writer()
    again = pairs.map(GenerateQueries(writer, quality_check=False, keep_generated=True), batched=True)
    assert again["query"][:] == ["good", "broken query"]
    assert writer._asked == []


def test_long_passages_are_cut_and_the_instruction_never() -> None:
    words = " ".join(f"w{place}" for place in range(500))
    long, short = f"say good {words}", "say good"
    writer = Writer(max_length=200)
    pairs = corpus_saying(long, short).map(GenerateQueries(writer, max_tokens=50), batched=True)
    assert pairs["passage"][:] == [long, short]
    assert pairs["passage_cut"][:] == [True, False]
    written = [asked for asked in writer._asked if "w99" in asked]
    assert written
    assert all(len(asked.split()) <= 200 for asked in written)
    assert all("Answer with" in asked or "Answer Yes or No." in asked for asked in written)
    writer = Writer()
    corpus_saying(long, short).map(GenerateQueries(writer, max_chars=30, max_passage_tokens=1000), batched=True)
    assert not any("w10" in asked for asked in writer._asked)


def test_examples_are_shown_as_a_chat_or_as_text() -> None:
    examples = [{"passage": "Sun.", "query": "What shines?"}]
    writer = Writer(count_tokens=lambda prompts: [0 for _ in prompts])
    corpus_saying("say good", "say good").map(GenerateQueries(writer, examples=examples, quality_check=False), batched=True)
    asked = writer._asked[0]
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert "Sun." in asked[0]["content"]
    assert asked[1]["content"] == "What shines?"
    assert "say good" in asked[2]["content"]
    writer = Writer(is_chat=False)
    corpus_saying("say good", "say good").map(GenerateQueries(writer, examples=examples, quality_check=False), batched=True)
    assert "\n\nQuestion: What shines?\n\nPassage:\nsay good" in writer._asked[0]
    assert writer._asked[0].endswith("\n\nQuestion:")


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("What is it?", "What is it?"),
        ('"What is it?"', "What is it?"),
        ('"A" and "B"?', '"A" and "B"?'),
        ("Query: What is it?\n\nThis query asks ...", "What is it?"),
        ("**Question:** What is it?", "What is it?"),
        ("Sure! Here is one:\n\n- What is it?", "What is it?"),
        ("<think>Hm.\nWhy?</think>\n\n1. What is it?\n2. Why?", "What is it?"),
        ("<think>Hm.", ""),
        (" \n \n", ""),
        ("2020: what happened?", "2020: what happened?"),
        ("2. Weltkrieg: wann begann er?", "2. Weltkrieg: wann begann er?"),
        ("What are the steps:\n1. a\n2. b", "What are the steps:"),
        ("Sure! Here is a question about roofs.\nWhat is a roof?", "What is a roof?"),
        ("Question 1: What is it?", "What is it?"),
    ],
)
def test_the_query_is_found_in_what_a_model_writes(text: str, query: str) -> None:
    assert clean_query(text) == query


def test_an_argument_keeps_its_paragraphs() -> None:
    assert TASKS["arguana"].one_line is False
    assert clean_query("Argument: First.\n\nSecond.", label="argument", one_line=False) == "First.\nSecond."


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("Yes.", True),
        ("No", False),
        ("**Yes**", True),
        ("Yes, there is no better one.", True),
        ("No, it is not.", False),
        ("<think>No?</think> yes", True),
        ("Not yes", "Not yes"),
        ("Yes and no", "Yes and no"),
        ("No doubt, yes.", "No doubt, yes."),
        ("Perhaps.", "Perhaps."),
    ],
)
def test_a_written_yes_or_no_is_read_only_where_it_is_clear(answer: str, reading: bool | str) -> None:
    assert _reading(answer) == reading


@pytest.mark.parametrize("step", [{"n": 2, "drop": True, "quality_check": False}, {"n": 1, "min_quality": -99}])
def test_real_queries_depend_neither_on_the_batch_nor_on_the_order(step: dict[str, Any], faq_corpus: Dataset, tiny_lm: str) -> None:
    corpus = Dataset.from_dict(faq_corpus.select_columns(["id", "text"])[:7])
    function = GenerateQueries(ChatLLM(tiny_lm), max_passage_tokens=60, max_tokens=12, **step)
    whole = corpus.map(function, batched=True).to_list()
    parts = corpus.select(range(6, -1, -1)).map(function, batched=True, batch_size=3).to_list()
    order = {row["id"]: place for place, row in enumerate(corpus)}
    parts.sort(key=lambda row: (order[row["id"]], row["query_number"]))
    for row in whole + parts:
        row.pop("query_quality")
    assert whole == parts
    assert len({row["query"] for row in whole}) > 5


def test_one_example_works_and_several_queries_of_one_say_what_to_do() -> None:
    row = corpus_saying("say good")[0]
    assert GenerateQueries(Writer())(row)["query"] == "good"
    with pytest.raises(ValueError, match="several rows of one: map it with batched=True"):
        GenerateQueries(Writer(), n=2)(row)


def test_streams_and_splits_work_too() -> None:
    corpus = corpus_saying("say good one; good two", "say bad; good")
    function = GenerateQueries(Writer(), n=2, drop=True)
    expected = corpus.map(function, batched=True)["query"][:]
    streamed = [row["query"] for row in corpus.to_iterable_dataset().map(GenerateQueries(Writer(), n=2, drop=True), batched=True)]
    splits = DatasetDict({"a": corpus, "b": corpus}).map(GenerateQueries(Writer(), n=2, drop=True), batched=True)
    assert expected == streamed == splits["b"]["query"][:]
    assert len(expected) == 3


def test_a_generator_that_fails_on_everything_stops_the_run() -> None:
    rows = corpus_saying(*["say fail"] * 9)
    with pytest.raises(
        RuntimeError, match="the generator failed on all 9 rows so far, the last time because: no query was written: out"
    ):
        queries_of(rows)
    with pytest.raises(RuntimeError, match="failed on all 8 rows"):
        rows.rename_column("text", "query").map(GenerateAnswers(Writer()))


def test_a_generator_that_writes_nothing_stops_the_run_with_a_hint() -> None:
    with pytest.raises(RuntimeError, match="a model that thinks first needs more max_tokens"):
        queries_of(corpus_saying(*["say nothing"] * 9))
    with pytest.raises(RuntimeError, match="no answer was written: {'empty': 1} of 1 texts"):
        answers_to(["say nothing"] * 9)


def test_rows_that_fail_again_and_again_stop_nothing() -> None:
    rows = answers_to(["say a; b", "say fail", "say fail"], n=2)
    again = rows.select([1, 2, 0]).map(GenerateAnswers(Writer(), n=2, keep_generated=True), batched=True, batch_size=2)
    assert again["answers"][:] == [[], [], ["a", "b"]]
    pairs = queries_of(corpus_saying("say good", "say fail", "say fail"))
    again = pairs.select([1, 2, 0]).map(GenerateQueries(Writer(), keep_generated=True), batched=True, batch_size=2)
    assert again["query"][:] == [None, None, "good"]


class Drawer(Writer):
    """A model whose every draw is another text, of which a share fails."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def generate(self, prompts: list[Any], *, n: int = 1, seed: int = 0, temperature: float = 0.0, **_: Any) -> list[Any]:
        found = []
        for prompt in prompts:
            draws = [seed_of(seed, prompt, number) for number in range(n)]
            self._asked += draws
            found.append([f"good {draw}" for draw in draws if draw % 100 >= 100 * self._share] or LLMError("out of order"))
        return found


def test_later_draws_are_new_ones() -> None:
    queries = [f"query {place}" for place in range(30)]
    rows = answers_to(queries, Drawer(0), n=2)
    for n in (4, 6, 8):
        rows = rows.map(GenerateAnswers(Drawer(0), n=n, keep_generated=True), batched=True)
        assert [len(answers) for answers in rows["answers"]] == [n] * 30
    rows = answers_to(queries, Drawer(0.5), n=4)
    for share in (0.5, 0.5, 0.5, 0):
        before = rows["answers"][:]
        rows = rows.map(GenerateAnswers(Drawer(share), n=4, keep_generated=True), batched=True, batch_size=7)
        assert all(new[: len(old)] == old for old, new in zip(before, rows["answers"], strict=True))
    assert [len(set(answers)) for answers in rows["answers"]] == [4] * 30
    assert max(rows["answers_asked"]) > 8


def test_a_query_asked_for_again_is_compared_with_those_of_its_passage() -> None:
    corpus = corpus_saying("say good a; fail; good a", "say good a; good b; fail")
    rows = queries_of(corpus, n=3)
    assert rows["query"][:] == ["good a", None, None, "good a", "good b", None]
    again = rows.map(GenerateQueries(Writer(), keep_generated=True), batched=True)
    assert again["query_error"][:] == [None, DUPLICATE, DUPLICATE, None, None, DUPLICATE]


def test_more_queries_than_an_earlier_run_are_not_promised(caplog: pytest.LogCaptureFixture) -> None:
    rows = queries_of(corpus_saying("say good", "say fail"))
    again = rows.map(GenerateQueries(Writer(), n=3, keep_generated=True), batched=True)
    assert len(again) == 2
    assert "keep_generated=True adds no queries: n=3" in caplog.text


def test_the_hash_knows_what_decides_the_texts_and_nothing_else(tiny_lm: str) -> None:
    llm = ChatLLM(tiny_lm)
    functions = [GenerateQueries(llm), GenerateAnswers(llm)]
    before = [Hasher.hash(function) for function in functions]
    functions[0]({"text": "a b c"})
    functions[1]({"query": "a b c"})
    assert [Hasher.hash(function) for function in functions] == before
    assert [Hasher.hash(type(function)(ChatLLM(tiny_lm, device="cpu"))) for function in functions] == before
    others = [
        GenerateQueries(llm, task="fiqa"),
        GenerateQueries(llm, examples=[{"passage": "a", "query": "b"}]),
        GenerateQueries(llm, seed=1),
    ]
    others += [GenerateAnswers(llm, task="fiqa"), GenerateAnswers(llm, words=61), GenerateAnswers(llm, seed=1)]
    assert len({*before, *map(Hasher.hash, others)}) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 2, "temperature": 0}, "raise the temperature"),
        ({"top_p": 0}, r"top_p in \(0, 1\]"),
        ({"max_chars": 0}, "max_chars must be at least 1"),
        ({"quality_check": "maybe"}, "quality_check must be"),
        ({"examples": [{"passage": "a"}]}, "must have the texts passage and query"),
        ({"examples": [{"passage": None, "query": "a"}]}, "must have the texts passage and query"),
        ({"prompt": "Write."}, "prompt must have the fields"),
    ],
)
def test_bad_parameters_are_told_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateQueries(Writer(), **settings)


def answers_to(queries: list[str | None], writer: Writer | None = None, **settings: Any) -> Dataset:
    rows = Dataset.from_dict({"query": queries, "passage": ["secret"] * len(queries)})
    return rows.map(GenerateAnswers(writer or Writer(), **settings), batched=True)


def test_answers_are_distinct_and_what_is_missing_is_counted() -> None:
    writer = Writer()
    rows = answers_to(["say a; b; a", "say nothing; a", "say fail; a; b", None, "say fail"], writer, n=3)
    assert rows["answers"][:] == [["a", "b"], ["a"], ["a", "b"], [], []]
    lost = [tuple(counts.values()) for counts in rows["answers_dropped"]]
    assert lost == [
        (0, 0, 0, 1),
        (0, 0, 2, 0),
        (0, 1, 0, 0),
        (3, 0, 0, 0),
        (0, 3, 0, 0),
    ]
    assert rows["answer_error"][:] == [None, None, None, EMPTY_QUERY, "no answer was written: out of order"]
    assert not any("secret" in asked for asked in writer._asked)
    report = report_generation(rows)
    assert report["answers"] + sum(report["answers_dropped"].values()) == 3 * len(rows)
    assert report["rows_without_answer"] == sum(report["no_answer_because"].values()) == 2


def test_one_answer_is_a_column_of_its_own() -> None:
    rows = answers_to(["say a", "say nothing"])
    assert rows["answer"][:] == ["a", None]
    assert rows["prompt"][0] == answer_prompt(None).format(query="say a")
    assert "answer" not in answers_to(["say a; b"], n=2).column_names


def test_equal_queries_are_asked_once() -> None:
    writer = Writer()
    rows = answers_to(["say a; b"] * 5, writer, n=2)
    assert rows["answers"][:] == [["a", "b"]] * 5
    assert len(writer._asked) == 1


@pytest.mark.parametrize("kind", [ChatLLM, CompletionLLM])
def test_real_answers_are_the_same_in_every_batch_and_run(kind: type, faq_pairs: Dataset, tiny_lm: str) -> None:
    rows = Dataset.from_dict(faq_pairs.select_columns(["query"])[:6])
    function = GenerateAnswers(kind(tiny_lm), n=3, max_tokens=10)
    whole = rows.map(function, batched=True)
    parts = rows.select(range(5, -1, -1)).map(GenerateAnswers(kind(tiny_lm), n=3, max_tokens=10), batched=True, batch_size=2)
    assert whole["answers"][:] == parts["answers"][::-1]
    assert all(
        len(answers) + sum(lost.values()) == 3 for answers, lost in zip(whole["answers"], whole["answers_dropped"], strict=True)
    )
    assert sum(map(len, whole["answers"])) > 12
    other = rows.map(GenerateAnswers(kind(tiny_lm), n=3, max_tokens=10, seed=1), batched=True)
    assert other["answers"][:] != whole["answers"][:]


class Half:
    """Answers of a server that breaks down after so many requests, until it is mended."""

    def __init__(self, good: int) -> None:
        self.left = good
        self.lock = threading.Lock()

    def __call__(self, body: dict, _: int) -> Any:
        with self.lock:
            self.left -= 1
            if self.left < 0:
                return failure(400, "the disk is full")
        if body["max_tokens"] == 1:
            return top({"Yes": -0.1, "No": -3.0})
        return completion(f"answer {body['seed']}")


def test_a_server_that_breaks_down_midway_loses_no_answer() -> None:
    rows = Dataset.from_dict({"query": [f"query {place}" for place in range(12)]})
    half = Half(good=17)
    with OpenAIServer(half) as server:
        llm = OpenAIChat("any", base_url=server.base_url, api_key="none", concurrency=1, max_retries=0)
        first = rows.map(GenerateAnswers(llm, n=3), batched=True, batch_size=4)
        assert sum(map(len, first["answers"])) == 17
        assert Counter(error for error in first["answer_error"] if error)
        assert sum(lost["failed"] for lost in first["answers_dropped"]) == 36 - 17
        half.left = 1000
        asked = len(server.requests)
        again = first.map(GenerateAnswers(llm, n=3, keep_generated=True), batched=True, batch_size=4)
        assert len(server.requests) - asked == 36 - 17
    for before, after in zip(first, again, strict=True):
        assert after["answers"][: len(before["answers"])] == before["answers"]
        assert len(after["answers"]) == 3
        assert after["answer_error"] is None


def test_a_server_that_breaks_down_midway_loses_no_query() -> None:
    corpus = corpus_saying(*(f"passage {place}" for place in range(10)))
    half = Half(good=13)
    with OpenAIServer(half) as server:
        llm = OpenAIChat("any", base_url=server.base_url, api_key="none", concurrency=1, max_retries=0)
        first = corpus.map(GenerateQueries(llm, n=2), batched=True, batch_size=2)
        assert Counter(error is None for error in first["query_error"]) == {True: 5, False: 15}  # 4 and 4 checks, 4 and 1 check
        half.left = 1000
        asked = server.asked()
        again = first.map(GenerateQueries(llm, keep_generated=True), batched=True, batch_size=2)
        assert again["query_error"][:] == [None] * 20
        for before, after in zip(first, again, strict=True):
            if before["query"] is not None:
                assert after == before
            elif before["dropped_query"] is not None:
                assert after["query"] == before["dropped_query"]
        new = server.asked() - asked
        assert not any("passage 0" in prompt for prompt in new)
        assert all("seed" in request.body or request.body["max_tokens"] == 1 for request in server.requests)
        assert prompt_of(server.requests[0].body)
