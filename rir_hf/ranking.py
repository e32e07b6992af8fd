"""A language model's answer to "rank these passages" in, a permutation and a count of its repairs out."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

REPAIRS = ("thinking", "digits", "zero_based", "repeated", "out_of_range", "missing")
"""What `parse_ranking` repairs, as counted in `Ranking.repairs`."""

_THOUGHT = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THOUGHT_BEGUN = re.compile(r"<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)
_BRACKETED = re.compile(r"\[\s*(?:passage\s*)?#?(\d+)\s*\]", re.IGNORECASE)
_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)\d+(?!\d)(?!\.\d)")
_NUMBERED_LINE = re.compile(r"^\s*(\d+)[.):]\s+(?=.*\d)", re.MULTILINE)
_LONGEST_NUMBER = 9


class Ranking(NamedTuple):
    """A ranking of passages.

    order: a permutation of `range(n)`, best first.
    repairs: how often each of `REPAIRS` was needed; empty for a perfect answer.
    """

    order: list[int]
    repairs: dict[str, int]


def parse_ranking(text: str, n: int) -> Ranking:
    """Read a ranking of `n` passages from whatever a model wrote.

    Identifiers in brackets, `[3] > [1]`, count alone where there are any; else all whole numbers do. They count from 1, unless
    a 0 appears. What a thinking model writes before its closing tag is left out, the numbers of a numbered list too.
    Repairs, counted by kind: `thinking` (left out), `digits` (of another script or width), `zero_based`, `repeated` (the first
    place counts), `out_of_range` (left out), `missing` (put last, in their own order).

    Example:
        >>> parse_ranking("[3] > [1] > [2]", 3)
        Ranking(order=[2, 0, 1], repairs={})
        >>> parse_ranking("<think>Is it 1?</think>Passage 2 is best.", 3)
        Ranking(order=[1, 0, 2], repairs={'thinking': 1, 'missing': 2})
    """
    repairs = dict.fromkeys(REPAIRS, 0)
    answer = without_thinking(text)
    repairs["thinking"] = int(answer != text)
    plain = unicodedata.normalize("NFKC", answer)
    found = _BRACKETED.findall(plain) or _NUMBER.findall(_without_line_numbers(plain))
    repairs["digits"] = sum(character.isdigit() and not character.isascii() for character in answer)
    numbers = [int(digits) if len(digits) <= _LONGEST_NUMBER else -1 for digits in found]
    first = 0 if 0 in numbers else 1
    repairs["zero_based"] = 1 - first
    order: list[int] = []
    for number in numbers:
        if not first <= number < n + first:
            repairs["out_of_range"] += 1
        elif number - first in order:
            repairs["repeated"] += 1
        else:
            order.append(number - first)
    missing = [place for place in range(n) if place not in set(order)]
    repairs["missing"] = len(missing)
    return Ranking(order + missing, {kind: count for kind, count in repairs.items() if count})


def without_thinking(text: str) -> str:
    """The text behind a thinking model's closing tag; nothing where it was cut off before that.

    Example:
        >>> without_thinking("<think>Hm.</think>Yes")
        'Yes'
    """
    return _THOUGHT_BEGUN.sub("", _THOUGHT.sub("", text))


def _without_line_numbers(text: str) -> str:
    """The text without the numbers of a numbered list whose lines hold other numbers too."""
    numbers = [int(digits[:_LONGEST_NUMBER]) for digits in _NUMBERED_LINE.findall(text)]
    is_list = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return _NUMBERED_LINE.sub("", text) if is_list else text
