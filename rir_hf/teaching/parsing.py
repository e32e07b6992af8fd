"""A language model's answer to "rank these passages" is read as a permutation."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from rir_hf.models.prompts import without_thinking
from rir_hf.schema import REPAIRS

# No expression tries a run of characters from more than one place, so that all take linear time.
_IN_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_WORD = re.compile(r"\d+|[^\W\d_]+")
_BETWEEN_IN_BRACKETS = re.compile(r"[\s,;>#&|=*\"'_]*")
_BETWEEN_LETTERS = re.compile(r"[\s,;>#&|=*\"'_.:()]*")
_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)\d+(?!\d)(?!\.\d)")
_NUMBERED_LINE = re.compile(r"^[^\S\n]{0,20}(\d{1,9})[.):]\s{1,4}(?=[^\n]*\d)", re.MULTILINE)
_WORDS_AROUND = {"passage", "passages", "document", "doc", "id", "and"}
_LONGEST_NUMBER = 9


class Ranking(NamedTuple):
    """A ranking of passages."""

    order: list[int]
    """A permutation of `range(n)`, best first."""
    repairs: dict[str, int]
    """How often each of `schema.REPAIRS` was needed; empty for a perfect answer."""


def parse_ranking(text: str, n: int) -> Ranking:
    """Read a ranking of `n` passages from whatever a model wrote.

    Identifiers in brackets, `[3] > [1]`, count alone where there are any; else all whole numbers
    do. They count from 1, unless a 0 appears. Letters in brackets, `[C] > [A]`, are taken where
    there are no numbers in any, and bare ones where the whole answer is letters. What a thinking
    model writes before its closing tag is left out, the numbers of a numbered list too.

    Args:
        text: the answer.
        n: how many passages were shown.

    Returns:
        The order and the repairs, counted by kind: `thinking` (left out), `digits` (of another
        script, width or shape), `letters` (in place of numbers), `zero_based`, `repeated` (the
        first one counts), `out_of_range` (left out), `missing` (put last, in their own order).

    Example:
        >>> parse_ranking("[3] > [1] > [2]", 3)
        Ranking(order=[2, 0, 1], repairs={})
        >>> parse_ranking("<think>Is it 1?</think>Passage 2 is best.", 3)
        Ranking(order=[1, 0, 2], repairs={'thinking': 1, 'missing': 2})
        >>> parse_ranking("[B] > [A]", 2)
        Ranking(order=[1, 0], repairs={'letters': 2})
    """
    repairs = dict.fromkeys(REPAIRS, 0)
    answer = without_thinking(text)
    repairs["thinking"] = int(answer != text)
    repairs["digits"] = sum(map(_is_foreign_digit, answer))
    numbers = _places_in(_plain(answer), n, repairs)
    order = _ordered(numbers, n, repairs)
    return Ranking(order, {kind: count for kind, count in repairs.items() if count})


def _places_in(text: str, n: int, repairs: dict[str, int]) -> list[int]:
    """The identifiers in an answer, counted from 0."""
    bracketed: list[str] = []
    for content in _IN_BRACKETS.findall(text):
        bracketed += _identifiers_in(content, _BETWEEN_IN_BRACKETS)
    numbers = [word for word in bracketed if word.isdecimal()]
    if numbers:
        return _places_of_numbers(numbers, repairs)
    letters = _places_of_letters(bracketed, n)
    if not letters:
        letters = _places_of_letters(_identifiers_in(text, _BETWEEN_LETTERS), n)
    if letters:
        repairs["letters"] = len(letters)
        return letters
    return _places_of_numbers(_NUMBER.findall(_without_line_numbers(text)), repairs)


def _identifiers_in(text: str, between: re.Pattern[str]) -> list[str]:
    """The numbers, or the single letters, of which a text consists; nothing where it has more.

    Example:
        >>> _identifiers_in("Passage 3, 1", _BETWEEN_IN_BRACKETS)
        ['3', '1']
        >>> _identifiers_in("3 is best", _BETWEEN_IN_BRACKETS)
        []
    """
    if not between.fullmatch(_WORD.sub("", text)):
        return []
    words = [word for word in _WORD.findall(text) if word.lower() not in _WORDS_AROUND]
    is_numbers = all(word.isdecimal() for word in words)
    is_letters = all(len(word) == 1 and word.isalpha() and word.isascii() for word in words)
    return words if is_numbers or is_letters else []


def _places_of_numbers(words: list[str], repairs: dict[str, int]) -> list[int]:
    """Places of numbers that count from 1, or from 0 where there is a 0."""
    numbers = [int(word) if len(word) <= _LONGEST_NUMBER else -1 for word in words]
    repairs["zero_based"] = int(0 in numbers)
    return [number - 1 + repairs["zero_based"] for number in numbers]


def _places_of_letters(words: list[str], n: int) -> list[int]:
    """Places of letters; none where no letter is one of the first `n`."""
    places = [ord(word.lower()) - ord("a") for word in words if word.isalpha()]
    return places if any(place < n for place in places) else []


def _ordered(places: list[int], n: int, repairs: dict[str, int]) -> list[int]:
    """Each place once, first those that were named, in their order."""
    order: dict[int, None] = {}
    for place in places:
        if not 0 <= place < n:
            repairs["out_of_range"] += 1
        elif place in order:
            repairs["repeated"] += 1
        else:
            order[place] = None
    missing = [place for place in range(n) if place not in order]
    repairs["missing"] = len(missing)
    return [*order, *missing]


def _without_line_numbers(text: str) -> str:
    """The text without the numbers of a numbered list whose lines hold other numbers too."""
    numbers = [int(digits) for digits in _NUMBERED_LINE.findall(text)]
    is_list = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return _NUMBERED_LINE.sub("", text) if is_list else text


def _plain(text: str) -> str:
    """The text with digits and letters of other widths and shapes as plain ones.

    Character by character: Python sorts a run of combining marks in quadratic time.
    """
    return text if text.isascii() else "".join(map(_plain_character, text))


def _plain_character(character: str) -> str:
    number = _number_in_shape(character)
    return unicodedata.normalize("NFKC", character) if number is None else f" {number} "


def _number_in_shape(character: str) -> int | None:
    """The number in a circle, a black disc or brackets that is one character.

    Example:
        >>> [_number_in_shape(character) for character in "③❷⓫⑴²3"]
        [3, 2, 11, 1, None, None]
    """
    if unicodedata.category(character) != "No":
        return None
    if unicodedata.decomposition(character).startswith(("<super>", "<sub>", "<fraction>")):
        return None
    number = unicodedata.numeric(character)
    return int(number) if number.is_integer() else None


def _is_foreign_digit(character: str) -> bool:
    is_digit = character.isdigit() or _number_in_shape(character) is not None
    return is_digit and not character.isascii()
