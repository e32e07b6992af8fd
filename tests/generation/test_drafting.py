"""What a model wrote is read as a person would read it."""

from __future__ import annotations

import pytest

from rir_hf.generation.drafting import clean_query, read_yes_or_no


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ('"What is it?"', "What is it?"),
        ('"A" and "B"?', '"A" and "B"?'),
        ("Query: What is it?\n\nThis query asks ...", "What is it?"),
        ("Sure! Here is one:\n\n- What is it?", "What is it?"),
        ("<think>Hm.\nWhy?</think>\n\n1. What is it?\n2. Why?", "What is it?"),
        ("<think>Hm.", ""),
        ("2. Weltkrieg: wann begann er?", "2. Weltkrieg: wann begann er?"),
        ("What are the steps:\n1. a\n2. b", "What are the steps:"),
        ("Question 1: What is it?", "What is it?"),
    ],
)
def test_the_query_is_read_out_of_what_a_model_writes(text: str, query: str) -> None:
    assert clean_query(text) == query


def test_an_argument_keeps_its_paragraphs() -> None:
    text = "Argument: First.\n\nSecond."
    assert clean_query(text, label="argument", one_line=False) == "First.\nSecond."


@pytest.mark.parametrize(
    ("answer", "says_yes"),
    [
        ("Yes, there is no better one.", True),
        ("No, it is not.", False),
        ("<think>No?</think> yes", True),
        ("Not yes", None),
        ("Yes and no", None),
        ("No doubt, yes.", None),
        ("Perhaps.", None),
    ],
)
def test_a_written_yes_or_no_is_read_only_where_it_is_clear(
    answer: str, says_yes: bool | None
) -> None:
    assert read_yes_or_no(answer) is says_yes


def test_only_the_first_layers_of_labels_and_marks_are_taken_off() -> None:
    assert clean_query("Query: 1. **Why?**") == "Why?"
    assert clean_query("query: " * 100_000).startswith("query: ")
