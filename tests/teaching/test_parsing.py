"""What models write when asked for a ranking, and what is read from it."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rir_hf.schema import REPAIRS
from rir_hf.teaching.parsing import parse_ranking

ANSWERS: dict[str, tuple[str, list[int], dict[str, int]]] = {
    "partial": ("[3]>[1]", [2, 0, 1], {"missing": 1}),
    "a plain list": ("3, 1, 2", [2, 0, 1], {}),
    "a ranking in one bracket": ("[3 > 1 > 2]", [2, 0, 1], {}),
    "zero-based": ("[2] > [0] > [1]", [2, 0, 1], {"zero_based": 1}),
    "repeats": ("[2] > [2] > [1] > [2] > [3]", [1, 0, 2], {"repeated": 2}),
    "out of range": ("[7] > [2] > [1] > [3]", [1, 0, 2], {"out_of_range": 1}),
    "a number no integer holds": (
        f"[{'9' * 5000}] > [2] > [1] > [3]",
        [1, 0, 2],
        {"out_of_range": 1},
    ),
    "prose": ("Passage 2 is best.", [1, 0, 2], {"missing": 2}),
    "prose with identifiers": (
        "Of the 3 passages, [2] is best, then [1], and [3] says nothing.",
        [1, 0, 2],
        {},
    ),
    "prose with a bracket": ("[see below] 2, 1, 3", [1, 0, 2], {}),
    "identifiers with a word": ("[Passage 3] > [Passage 1] > [Passage 2]", [2, 0, 1], {}),
    "thoughts": (
        "<think>[1] looks good, or [3]?</think>[2] > [1] > [3]",
        [1, 0, 2],
        {"thinking": 1},
    ),
    "thoughts without an end": (
        "<think>Let me see. [3] could be",
        [0, 1, 2],
        {"thinking": 1, "missing": 3},
    ),
    "full-width digits": ("［３］ > ［１］ > ［２］", [2, 0, 1], {"digits": 3}),
    "circled digits without a gap": ("③①②", [2, 0, 1], {"digits": 3}),
    "other discs": ("➌ > ➀ > ⓶", [2, 0, 1], {"digits": 3}),
    "letters": ("[B] > [A] > [C]", [1, 0, 2], {"letters": 3}),
    "bare letters": ("B > A", [1, 0, 2], {"letters": 2, "missing": 1}),
    "numbers beside letters": ("[A] or [2] > [1] > [3]", [1, 0, 2], {}),
    "a checked box": ("[x] 2, 1, 3", [1, 0, 2], {}),
    "no letters but a word": ("N/A", [0, 1, 2], {"missing": 3}),
    "JSON with texts": ('["3", "1", "2"]', [2, 0, 1], {}),
    "JSON with scores": (
        '[{"id": 2, "score": 0.91}, {"id": 3, "score": 0.5}, {"id": 1, "score": 0.1}]',
        [1, 2, 0],
        {},
    ),
    "a numbered list": ("1. Passage 3\n2. Passage 1\n3. Passage 2", [2, 0, 1], {}),
    "one number per line": ("3.\n1.\n2.", [2, 0, 1], {}),
    "a refusal": ("I cannot rank these passages.", [0, 1, 2], {"missing": 3}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_real_malformed_answers_give_the_order_that_was_meant(name: str) -> None:
    text, order, repairs = ANSWERS[name]
    assert parse_ranking(text, 3) == (order, repairs)


@given(st.text(), st.integers(0, 30))
@example("[0]" * 40, 30)
@example(json.dumps({"ranking": list(range(30))}), 30)
@example("\ud800 [❷] \U0001f600", 3)
def test_any_text_gives_a_permutation_and_no_error(text: str, n: int) -> None:
    ranking = parse_ranking(text, n)
    assert sorted(ranking.order) == list(range(n))
    assert set(ranking.repairs) <= set(REPAIRS)
    assert all(count > 0 for count in ranking.repairs.values())


@given(
    st.text(alphabet="[]0123456789０²٣❶❿⓫⑴½ABz >,._<think/>\n-", max_size=80), st.integers(1, 12)
)
def test_texts_of_digits_and_brackets_give_a_permutation(text: str, n: int) -> None:
    assert sorted(parse_ranking(text, n).order) == list(range(n))


@given(st.permutations(range(1, 21)))
def test_a_perfect_answer_is_read_as_it_is(order: list[int]) -> None:
    text = " > ".join(f"[{number}]" for number in order)
    assert parse_ranking(text, 20) == ([number - 1 for number in order], {})


def test_a_long_answer_of_anything_is_read() -> None:
    """In quadratic time some of these would take minutes."""
    pieces = "\n", "[ ", "1.\n", "1. ", "1.1", "<think>", "[passage ", "\u0301\u0323", "❷", "A "
    for piece in pieces:
        assert sorted(parse_ranking(piece * 100_000, 5).order) == list(range(5))
