"""Prompts as data: every one can be filled, and a wrong one is named before anything is asked."""

from __future__ import annotations

from string import Formatter

import pytest

from rir_hf.models.prompts import (
    COMPLETION_CUES,
    GENERATION_PROMPTS,
    TASKS,
    TEACHER_PROMPTS,
    answer_prompt,
    check_fields,
    fill_prompt,
    find_task,
    without_thinking,
)


def fields_of(prompt: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(prompt) if field is not None}


def test_each_teacher_has_a_prompt_with_the_fields_that_it_fills() -> None:
    assert {name: fields_of(prompt) for name, prompt in TEACHER_PROMPTS.items()} == {
        "listwise": {"number", "query", "passages"},
        "listwise_logits": {"number", "query", "passages"},
        "yes_no": {"query", "passage"},
        "query_likelihood": {"passage"},
    }
    assert set(COMPLETION_CUES) == set(TEACHER_PROMPTS)


def test_query_likelihood_asks_as_upr_does() -> None:
    expected = "Passage: A truss. Please write a question based on this passage."
    assert TEACHER_PROMPTS["query_likelihood"].format(passage="A truss") == expected


def test_each_task_fills_every_generation_prompt() -> None:
    assert set(GENERATION_PROMPTS) == {"query", "check", "answer"}
    for task in TASKS.values():
        query = fill_prompt("query", task, task.write_query)
        check = fill_prompt("check", task, task.fits)
        answer = fill_prompt("answer", task, task.write_answer, words=60)
        assert fields_of(query) == {"passage", "length"}
        assert fields_of(check) == {"passage", "query"}
        assert fields_of(answer) == {"query"}


def test_a_task_is_found_however_its_name_is_written() -> None:
    assert find_task("SciFact") is find_task("scifact") is TASKS["scifact"]
    assert find_task("TREC_COVID") is TASKS["trec-covid"]
    assert find_task(None).write_query.startswith("Write a question that the passage answers")


def test_a_sentence_describes_a_task_and_its_braces_are_text() -> None:
    task = find_task("Given {code},  find what\nit does")
    assert task.write_answer.startswith("Task: Given {code}, find what it does. Write")
    assert "{code}" in fill_prompt("answer", task, task.write_answer, words=9).format(query="a")


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="'scifacts'"):
        find_task("scifacts")


def test_the_default_answer_prompt_says_what_to_write_and_for_what() -> None:
    assert answer_prompt("nq", words=40).format(query="Why?") == (
        "Write a passage of a Wikipedia article that answers the question. Use about 40 words. "
        "Answer with the Wikipedia passage only.\n\nQuestion: Why?"
    )
    assert answer_prompt(None, prompt="Answer {query}") == "Answer {query}"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("no field", r"must have the fields \['query'\].*found \[\]"),
        ("{query} and {other}", r"found \['other', 'query'\]"),
        ("{query} and {", "not a format string.*write {{ and }}"),
    ],
)
def test_a_prompt_with_wrong_fields_is_refused(prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fields("prompt", prompt, {"query"}, {"query", "length"})


def test_thinking_is_left_out_and_what_was_cut_off_is_nothing() -> None:
    assert without_thinking("<THINKING>a</thinking>b</think> Yes") == " Yes"
    assert without_thinking("<think>cut off") == ""
    assert without_thinking("Yes") == "Yes"
