"""Which column holds what: recognised by the names that the field uses, or set by hand."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

logger = logging.getLogger(__name__)

Names: TypeAlias = tuple[tuple[str, ...], ...]
"""Names of a column, in tiers: those of a later tier count only where no earlier one is there."""

_DOCUMENT = ("doc_id", "docid", "docno", "pid", "corpus_id", "passage_id", "document_id")
_QUERY = ("query", "question", "anchor", "q", "query_text", "question_text")
_QUERY_ID = ("query_id", "qid", "queryid", "question_id")
_PASSAGE = ("passage", "document", "context", "answer_passage", "positive_passage", "positive_text")

# Written in lower case and with underscores: `Corpus-ID` is `corpus_id` too.
CORPUS: dict[str, Names] = {
    "id": (("id", "_id", *_DOCUMENT),),
    "text": (("text", "contents", "content", "body", "passage", "document"),),
    "title": (("title",),),
}
QUERIES: dict[str, Names] = {
    "query_id": (_QUERY_ID, ("_id", "id"), ("topic", "topic_id")),
    "query": (_QUERY, ("text",)),
}
PAIRS: dict[str, Names] = {
    "query_id": (_QUERY_ID,),
    "query": (_QUERY,),
    "positive": (("positive", "positives", "pos", *_PASSAGE),),
    "pos_ids": (("pos_ids", "pos_id", "positive_ids", "positive_id", "positive_passage_id"),),
}
QRELS: dict[str, Names] = {
    "query_id": ((*_QUERY_ID, "topic", "topic_id"),),
    "passage_id": (_DOCUMENT,),
    "score": (("score", "relevance", "rel", "grade", "label"),),
}
_ROLES = {"corpus": CORPUS, "queries": QUERIES, "pairs": PAIRS, "qrels": QRELS}
_NUMBERS = ("score",)


class MissingColumnError(ValueError):
    """No column has a name that says what is needed."""


def plain_name(name: str) -> str:
    """A column's name without what makes no difference.

    Example:
        >>> plain_name("Corpus-ID"), plain_name(" query text")
        ('corpus_id', 'query_text')
    """
    return name.strip().lower().replace("-", "_").replace(" ", "_")


TEXTS = {
    name
    for roles in _ROLES.values()
    for role, tiers in roles.items()
    for tier in tiers
    for name in tier
    if role not in _NUMBERS
} | {"answer"}
"""Names of columns that hold texts or ids, in a CSV file too: 007 is no 7."""


def recognise(
    columns: Sequence[str],
    what: str,
    given: Mapping[str, str] | None,
    source: object,
    required: Sequence[str] = (),
) -> dict[str, str]:
    """The column of each role, said in one line of the log.

    Args:
        columns: the columns that are there.
        what: what the rows are: corpus, queries, pairs or qrels.
        given: columns set by hand, by role.
        source: where the rows come from, for log and errors.
        required: roles that must be found.

    Returns:
        `{role: column}`, without the roles that no column has.

    Raises:
        ValueError: two columns for one role, none for one that is required, or a role or column set
            by hand that does not exist.

    Example:
        >>> recognise(["doc_id", "contents", "year"], "corpus", None, "corpus.csv")
        {'id': 'doc_id', 'text': 'contents'}
        >>> recognise(["doc_id", "abstract"], "corpus", {"text": "abstract"}, "corpus.csv")
        {'text': 'abstract', 'id': 'doc_id'}
    """
    roles = _ROLES[what]
    found = dict(given or {})
    _check_given(found, columns, what, source)
    free = [column for column in columns if column not in found.values()]
    for role, tiers in roles.items():
        if role in found:
            continue
        candidates = _candidates(free, tiers)
        if len(candidates) > 1:
            both = " and ".join(map(repr, candidates))
            raise ValueError(
                f"{source}: {both} may each be the {role}: say which, "
                f"{_how_to_say(what, role, candidates[0])}."
            )
        if candidates:
            found[role] = candidates[0]
        elif role in required:
            known = ", ".join(name for tier in tiers for name in tier)
            raise MissingColumnError(
                f"{source}: no column for the {role} (one of {known}) among {list(columns)}. Say "
                f"which it is, {_how_to_say(what, role, 'NAME')}."
            )
    said = ", ".join(f"{role} is {column!r}" for role, column in found.items())
    logger.info("%s, read as %s: %s.", source, what, said or "no column is known")
    return found


def in_tiers(columns: Sequence[str], tiers: Names) -> list[str]:
    """The columns that may have a role, those of the first tier first.

    Example:
        >>> in_tiers(["text", "id", "Query-ID"], (("query_id", "qid"), ("_id", "id")))
        ['Query-ID', 'id']
    """
    return [column for tier in tiers for column in columns if plain_name(column) in tier]


def _candidates(columns: Sequence[str], tiers: Names) -> list[str]:
    """The columns that may have a role, of the first tier that has some."""
    return next(filter(None, (in_tiers(columns, (tier,)) for tier in tiers)), [])


def _check_given(
    given: Mapping[str, Any], columns: Sequence[str], what: str, source: object
) -> None:
    option = f"columns (on the command line --{what}_columns)"
    for role, column in given.items():
        if role not in _ROLES[what]:
            raise ValueError(f"{option}: there is no {role!r}, only {', '.join(_ROLES[what])}.")
        if column not in columns:
            raise ValueError(
                f"{option}: {source} has no column {column!r} for the {role}, only {list(columns)}."
            )


def _how_to_say(what: str, role: str, column: str) -> str:
    return (
        f"with columns={{{role!r}: {column!r}}} or --{what}_columns '{{{role}: {column}}}' on the "
        "command line"
    )
