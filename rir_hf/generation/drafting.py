"""What queries and answers share: the checks of their draws, and reading what a model wrote."""

from __future__ import annotations

import re

from rir_hf.core.columns import check_at_least
from rir_hf.core.texts import whole
from rir_hf.models.llm import LLMError, check_sampling
from rir_hf.models.prompts import capitalized, without_thinking
from rir_hf.schema import note

THINKING_HINT = "a model that thinks first needs more max_tokens, or to be told not to"
"""What stands in the notes of empty answers."""

_MARKS = " \t#*`-"
_LIST_MARK = re.compile(r"^(?:[-*•]\s+|\(?1[.):]\s+)")
_AGREED = re.compile(r"(?:sure|certainly|of course|okay|ok|here)\b", re.IGNORECASE)
_ANNOUNCED = re.compile(r"\b(?:here is|here's|here are|following)\b", re.IGNORECASE)
_LAYERS = 8
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}
_YES_OR_NO = re.compile(r"\b(yes|no|not)\b")
_FIRST_WORD = re.compile(r"\W*(yes|no)\s*(?:[.,;:!*-]|$)")


def cue(word: str) -> str:
    r"""What stands behind a prompt for a model that only continues text.

    Example:
        >>> cue("scientific claim")
        '\n\nScientific claim:'
    """
    return f"\n\n{capitalized(word)}:"


def check_draws(n: int, temperature: float, top_p: float, seed: int) -> None:
    """Raise `ValueError` for draws that no model can make, or that would all be the same."""
    check_at_least("n", n, 1)
    check_at_least("seed", seed, 0)
    check_sampling(temperature, top_p)
    if n > 1 and temperature == 0:
        raise ValueError(f"n={n} texts at temperature 0 are all the same: raise the temperature.")


def failure(code: str, error: LLMError | str) -> str:
    """A note on what a model, or the server before it, said when it failed."""
    return note(code, whole(str(error)))


def clean_query(text: str, label: str = "query", *, one_line: bool = True) -> str:
    r"""The query in an answer: its first line without announcement, list mark, label and quotes.

    Args:
        text: what a model wrote.
        label: what the task calls a query.
        one_line: False keeps the lines that follow.

    Returns:
        The query; an empty text where there is none.

    Example:
        >>> clean_query('Here is a question:\n\n1. **"What is a truss?"**\n2. "Why?"')
        'What is a truss?'
        >>> clean_query("Scientific claim: Sleep helps.", label="scientific claim")
        'Sleep helps.'
    """
    lines = [line.strip() for line in without_thinking(text).splitlines() if line.strip(_MARKS)]
    if len(lines) > 1 and _announces(lines[0].rstrip("*")):
        lines = lines[1:]
    names = f"{re.escape(label)}|query|question|{re.escape(label.split()[-1])}"
    labelled = re.compile(rf"^(?:{names})(?:\s*\d+)?\s*:[\s*]*", re.IGNORECASE)
    query = "\n".join(lines[:1] if one_line else lines)
    for _ in range(_LAYERS):
        query = query.strip().strip("*").strip()
        query = labelled.sub("", _LIST_MARK.sub("", query))
        query = _without_quotes(query)
    return query


def read_yes_or_no(answer: str) -> bool | None:
    """What a written answer says: the only one of Yes and No, or the one that stands alone first.

    Returns:
        True for Yes, False for No, None where it is neither.

    Example:
        >>> read_yes_or_no("**Yes**"), read_yes_or_no("No, it is not."), read_yes_or_no("Maybe.")
        (True, False, None)
    """
    said = without_thinking(answer).strip().lower()
    words = {"yes" if word == "yes" else "no" for word in _YES_OR_NO.findall(said)}
    first = _FIRST_WORD.match(said)
    if len(words) == 1 and (first or re.search(r"\b(yes|no)\b", said)):
        return "yes" in words
    return first[1] == "yes" if first else None


def _announces(line: str) -> bool:
    """Whether a line only says that a query follows."""
    return bool(_AGREED.match(line) or (line.endswith(":") and _ANNOUNCED.search(line)))


def _without_quotes(text: str) -> str:
    """The text without a pair of quotes around the whole of it."""
    is_quoted = len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]
    return text[1:-1] if is_quoted else text
