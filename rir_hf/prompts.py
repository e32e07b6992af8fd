"""Every prompt text of this package, as data."""

from __future__ import annotations

from string import Formatter

TEACHER_PROMPTS = {
    "listwise": (
        "Below are {number} passages, each with its identifier in square brackets. Rank them by how well they answer the query.\n\n"
        "Query: {query}\n\n{passages}\n\nQuery: {query}\n\n"
        "Rank all {number} passages, the most relevant first. Answer with the identifiers only, in the form [2] > [1] > [3]."
    ),
    "listwise_logits": (
        "Below are {number} passages, each with its letter in square brackets.\n\n"
        "{passages}\n\nQuery: {query}\n\n"
        "Which passage answers the query best? Answer with its letter only."
    ),
    "yes_no": "Passage: {passage}\n\nQuery: {query}\n\nDoes the passage answer the query? Answer Yes or No.",
    "query_likelihood": "Passage: {passage}. Please write a question based on this passage.",
}
"""What a teacher is asked, by `method` of `ScorePassages`. The one for query likelihood asks as UPR does (Sachan et al. 2022)."""

COMPLETION_CUES = {
    "listwise": "\n\nRanking:",
    "listwise_logits": "\n\nAnswer:",
    "yes_no": "\n\nAnswer:",
    "query_likelihood": "\n\nQuestion:",
}
"""What is put behind the same prompts for a model that only continues a text."""

JUDGEMENTS = ("Yes", "No")
"""The two answers of yes/no judging."""


def check_fields(name: str, prompt: str, needed: set[str], known: set[str]) -> None:
    """Raise `ValueError` when a prompt lacks a field in braces, or has one that nothing fills."""
    try:
        found = {field for _, field, _, _ in Formatter().parse(prompt) if field is not None}
    except ValueError as error:
        raise ValueError(f"{name} is not a format string ({error}): write {{{{ and }}}} for braces of the text itself.") from error
    if needed - found or found - known:
        raise ValueError(
            f"{name} must have the fields {sorted(needed)} and may have {sorted(known)}, in braces, found {sorted(found)}: "
            f"{prompt!r:.80}"
        )
