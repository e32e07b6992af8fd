"""Answers: distinct, none missing without a reason, and nothing depends on the batch."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from rir_hf import run
from rir_hf.generation.answers import GenerateAnswers
from rir_hf.models.local import ChatLLM
from rir_hf.models.prompts import answer_prompt
from rir_hf.schema import code_of
from tests.generation.stand_ins import Writer


def answers_to(queries: list[str | None], writer: Writer | None = None, **settings: Any) -> Dataset:
    rows = Dataset.from_dict({"query": queries, "passage": ["secret"] * len(queries)})
    return rows.map(GenerateAnswers(writer or Writer(), **settings), batched=True)


def test_answers_are_distinct_and_what_is_missing_is_counted() -> None:
    writer = Writer()
    queries = ["say a; b; a", "say nothing; a", "say fail; a; b", None, "say fail", "say nothing"]
    rows = answers_to(queries, writer, n=3)
    assert rows["answers"][:] == [["a", "b"], ["a"], ["a", "b"], [], [], []]
    assert [tuple(lost.values()) for lost in rows["answers_dropped"]] == [
        (0, 0, 0, 1),
        (0, 0, 2, 0),
        (0, 1, 0, 0),
        (3, 0, 0, 0),
        (0, 3, 0, 0),
        (0, 0, 3, 0),
    ]
    assert list(rows["answers_dropped"][0]) == ["no_query", "failed", "empty", "duplicate"]
    assert not any("secret" in asked for asked in writer.asked)


def test_an_error_says_why_and_marks_rows_for_retry_that_have_failed_in_part() -> None:
    step = GenerateAnswers(Writer(), n=2)
    queries = ["say a; b", "say fail; a", "say fail", None, "say nothing", "say nothing; a"]
    rows = Dataset.from_dict({"query": queries}).map(step, batched=True)
    codes = [code_of(error) for error in rows["answer_error"]]
    assert codes == [None, "failed", "failed", "empty_query", "nothing_written", None]
    assert rows["answer_error"][1] == "failed: 1 of 2 answers"
    assert rows["answer_error"][2] == "failed: out of order"
    assert [step.has_failed(error) for error in rows["answer_error"]] == [
        False, True, True, False, False, False,
    ]  # fmt: skip
    assert step.counts(rows) == {"failed": 2, "empty_query": 1, "nothing_written": 1}


def test_one_answer_is_a_column_of_its_own() -> None:
    rows = answers_to(["say a", "say nothing"])
    assert rows["answer"][:] == ["a", None]
    assert "answer" not in answers_to(["say a; b"], n=2).column_names


def test_the_prompt_is_what_was_asked() -> None:
    assert answers_to(["say a"])["prompt"][0] == answer_prompt(None).format(query="say a")
    writer = Writer(is_chat=False)
    rows = answers_to(["say {a}"], writer, task="fiqa", words=20)
    assert rows["prompt"][:] == writer.asked
    assert rows["prompt"][0].endswith("Financial question: say {a}\n\nReply:")
    assert "about 20 words" in rows["prompt"][0]


def test_equal_queries_are_asked_once() -> None:
    writer = Writer()
    rows = answers_to(["say a; b"] * 5, writer, n=2)
    assert rows["answers"][:] == [["a", "b"]] * 5
    assert len(writer.asked) == 1


def test_a_generator_that_fails_on_everything_stops_the_run() -> None:
    with pytest.raises(
        RuntimeError, match="on all 9 rows so far, .* because: failed: out of order"
    ):
        answers_to(["say fail"] * 9)
    with pytest.raises(RuntimeError, match="nothing_written: a model that thinks first needs"):
        answers_to(["say nothing"] * 9)


def test_bad_options_and_columns_are_refused() -> None:
    for settings, message in (
        ({"n": 2, "temperature": 0}, "raise the temperature"),
        ({"words": 0}, "words must be at least 1"),
        ({"prompt": "Answer."}, "prompt must have the fields"),
        ({"query": "question"}, "GenerateAnswers needs the column 'question'"),
    ):
        with pytest.raises(ValueError, match=message):
            answers_to(["say a"], **settings)


def test_real_answers_are_the_same_in_every_batch_and_run(faq_file: Any, tiny_lm: str) -> None:
    rows = Dataset.from_dict({"query": Dataset.from_json(str(faq_file)).select(range(6))["q"][:]})

    def answers_of(rows: Dataset, seed: int = 0, **settings: Any) -> list[list[str]]:
        step = GenerateAnswers(ChatLLM(tiny_lm), n=3, max_tokens=10, seed=seed)
        return rows.map(step, batched=True, **settings)["answers"][:]

    whole = answers_of(rows)
    assert answers_of(rows.select(range(5, -1, -1)), batch_size=2) == whole[::-1]
    assert sum(map(len, whole)) > 12
    assert answers_of(rows, seed=1) != whole


@pytest.mark.slow
def test_smollm2_writes_answers_about_the_query(smollm: Any) -> None:
    folder, file = smollm
    llm = ChatLLM(folder, gguf_file=file)
    row = GenerateAnswers(llm, max_tokens=60).one({"query": "What is the capital of France?"})
    assert "Paris" in row["answer"]


def test_preferences_among_other_answers_do_not_stay(tiny_lm: str) -> None:
    llm = ChatLLM(tiny_lm)
    rows = Dataset.from_dict({"query": ["q"], "chosen": ["old"], "rejected": ["older"]})
    rows = rows.add_column("answer", ["of the user"])
    several = run(rows, GenerateAnswers(llm, n=2, max_tokens=4))[0]
    assert (several["chosen"], several["rejected"]) == (None, None)
    assert several["answer"] == "of the user"
    one = run(rows, GenerateAnswers(llm, n=1, max_tokens=4))[0]
    assert one["answer"] != "of the user"
