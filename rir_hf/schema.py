"""Every column that a step of this package reads or writes: its name, its Arrow type, and one line
that says what it is.

Steps declare their `inputs` and `outputs` from these; checks, empty batches, the dataset card and
the tables of the guides are made from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

_TEXTS = pa.list_(pa.string())
_SCORES = pa.list_(pa.float32())


class Column(NamedTuple):
    """One column of a dataset.

    name: what it is called unless an option of the step says otherwise.
    type: its Arrow type.
    says: what it holds, for the card and the guides.
    codes: for a column of notes, the codes that may stand before the colon, each with its meaning.
    """

    name: str
    type: pa.DataType
    says: str
    codes: tuple[tuple[str, str], ...] = ()

    def named(self, name: str) -> Column:
        """The same column under another name."""
        return self._replace(name=name)

    def __or__(self, other: Column | OneOf) -> OneOf:
        """One of several columns, of which a dataset needs at least one."""
        return OneOf((self,)) | other

    def fits(self, kind: pa.DataType) -> bool:
        """Whether a stored column of this Arrow type can be read as this one.

        Ids may be numbers, and one positive or one vector may stand in place of a list of one.
        """
        shapes = {_shape_of(self.type), "null"}
        if self.name in ("pos", "pos_ids"):
            shapes.add("text")
        if "list of list of number" in shapes:
            shapes.add("list of number")
        if self.name.endswith(("id", "ids")):
            shapes |= {shape.replace("text", "number") for shape in shapes}
        return _shape_of(kind) in shapes


class OneOf(tuple[Column, ...]):
    """Columns of which a dataset needs at least one, as in `POS | PASSAGE | POS_IDS`."""

    def __or__(self, other: Column | OneOf) -> OneOf:
        return OneOf((*self, *((other,) if isinstance(other, Column) else other)))


def _shape_of(kind: pa.DataType) -> str:
    """A type as far as reading it goes: text, number, or a list of one of them."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _shape_of(kind.value_type)
        return "null" if inner == "null" else f"list of {inner}"
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_struct(kind):
        return "struct"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return "number" if is_number else str(kind)


def note(code: str, detail: str = "") -> str:
    """What stands in a column of notes: a code that programs read, and where there is more to say a
    detail for people.

    Example:
        >>> note("failed", "the server answered 500")
        'failed: the server answered 500'
    """
    return f"{code}: {detail}" if detail else code


def code_of(text: str | None) -> str | None:
    """The code of a note; None where there is no note.

    Example:
        >>> code_of("failed: the server answered 500"), code_of(None), code_of("")
        ('failed', None, None)
    """
    return text.partition(": ")[0] if text else None


# A corpus
ID = Column("id", pa.string(), "the passage's id")
TEXT = Column("text", pa.string(), "the passage")
TITLE = Column("title", pa.string(), "the passage's title")
EMBEDDING = Column("embedding", _SCORES, "the retriever's vector")

# Pairs of a query and its positives
QUERY_ID = Column("query_id", pa.string(), "the query's id, equal in all rows of one query")
QUERY = Column("query", pa.string(), "the query")
PASSAGE = Column("passage", pa.string(), "the one positive of the query")
POS = Column(
    "pos",
    _TEXTS,
    "the positives; null where only ids are known and none of them is in the corpus",
)
POS_IDS = Column("pos_ids", _TEXTS, "the positives' ids; null where the text is not in the corpus")
ANSWER = Column("answer", pa.string(), "a hypothetical answer to the query")
ANSWER_EMBEDDING = Column(
    "answer_embedding",
    pa.list_(_SCORES),
    "the retriever's vectors of the hypothetical answers, or its vector of the one answer",
)

# Mined
POS_SIMS = Column(
    "pos_sims",
    _SCORES,
    "the retriever's similarities of the positives; null for one not in the corpus",
)
POS_RANK = Column(
    "pos_rank",
    pa.int64(),
    "how many passages rank before the best positive: 0 is the first rank; "
    "the corpus's size where none is in it",
)
NEG = Column("neg", _TEXTS, "the negatives, best first")
NEG_IDS = Column("neg_ids", _TEXTS, "the negatives' ids")
NEG_SIMS = Column("neg_sims", _SCORES, "the retriever's similarities of the negatives")
NEG_NOTE = Column(
    "neg_note",
    pa.string(),
    "why there are fewer negatives than asked; null where there are enough",
    codes=(
        ("no_vector", "the query has no usable vector, or for words none that the corpus knows"),
        ("no_positive", "no positive of the row is in the corpus, so there is no ceiling"),
        ("corpus_exhausted", "the rules leave no more in the corpus"),
        ("below_min_score", "the rest lies below min_score"),
    ),
)
NEG_FROM = Column(
    "neg_from", _TEXTS, "the index that each negative comes from, where several were searched"
)
SKIP_RULES = (
    "positive",
    "relative_margin",
    "absolute_margin",
    "max_score",
    "own_text",
    "other_index",
    "range_min",
)
"""Rules of mining that leave out a passage although it ranks among the negatives or before them."""
NEG_SKIPPED = Column(
    "neg_skipped",
    pa.struct([(rule, pa.int64()) for rule in SKIP_RULES]),
    "how many better-ranked passages each rule left out",
)

# Candidates that a teacher should rank
PASSAGES = Column("passages", _TEXTS, "passages for a teacher to rank, none of them labelled")
PASSAGE_IDS = Column("passage_ids", _TEXTS, "their ids")
PASSAGES_NOTE = Column(
    "passages_note",
    pa.string(),
    "why there are fewer passages than asked; null where there are enough",
    codes=(
        ("no_query", "no index can be asked: no usable vector, no known word"),
        ("corpus_exhausted", "the indexes find no more"),
    ),
)

# Scored by a teacher
PASSAGE_SCORES = Column(
    "passage_scores",
    _SCORES,
    "the teacher's scores of `passages`, raw, higher is better; null where the row failed",
)
POS_SCORES = Column(
    "pos_scores",
    _SCORES,
    "the teacher's scores of the positives, raw, higher is better; null where the row failed",
)
NEG_SCORES = Column("neg_scores", _SCORES, "the teacher's scores of the negatives")
TEACHER_ERROR = Column(
    "teacher_error",
    pa.string(),
    "why the row has no scores, or not those of all members of a `Blend`; null where it has",
    codes=(
        ("empty_query", "the query is empty"),
        ("no_passage", "the row has no passage"),
        ("empty_passage", "a passage is empty: a list with a gap trains nothing"),
        ("not_unicode", "the query or a passage is no valid Unicode, such as half an emoji"),
        ("too_many_passages", "more passages than the teacher takes in one list"),
        ("no_score", "the teacher knows nothing of a passage: `Similarities` without one of them"),
        ("failed", "the teacher failed, or its answer could not be read; `retry` asks again"),
        (
            "member_failed",
            "a member of a `Blend` failed; the scores are the others'; `retry` asks again",
        ),
    ),
)
TEACHER_CUT = Column("teacher_cut", pa.int64(), "how many of the row's passages were cut to fit")
REPAIRS = ("thinking", "digits", "letters", "zero_based", "repeated", "out_of_range", "missing")
"""What had to be repaired in a generated ranking."""
TEACHER_REPAIRS = Column(
    "teacher_repairs",
    pa.struct([(kind, pa.int64()) for kind in REPAIRS]),
    "what had to be repaired in the teacher's rankings",
)
TEACHER_SCORES = Column(
    "teacher_scores",
    pa.struct([]),
    "what each member of a `Blend` said of the passages, positives first, standardised; the scores "
    "are the weighted mean; null for a member that failed",
)
OF_TEACHER = (
    *(TEACHER_ERROR, TEACHER_CUT, TEACHER_REPAIRS),
    TEACHER_SCORES._replace(type=pa.null()),
)
"""What a teacher leaves beside its scores."""
RELABELLED = Column(
    "relabelled",
    pa.list_(pa.struct([("id", pa.string()), ("action", pa.string()), ("margin", pa.float32())])),
    "each negative that is no safe one: its id (text, where there is none), whether it was moved "
    "to `pos` or dropped (`move`, `drop`), and its score less the lowest of a positive",
)

# Generated
QUERIES = Column("queries", _TEXTS, "the queries written for the passage that passed all checks")
QUERY_CHECKS = Column(
    "query_checks",
    pa.list_(pa.struct([("query", pa.string()), ("quality", pa.float64()), ("note", pa.string())])),
    "each query that was asked for: its text, log-odds of the quality check, and why it was not "
    "taken (null if it was)",
    codes=(
        ("empty_passage", "the passage is empty"),
        ("not_unicode", "the passage is no valid Unicode, such as half an emoji"),
        ("failed", "the generator failed; `retry` asks again"),
        ("check_failed", "the quality check failed; `retry` asks again"),
        ("nothing_written", "the answer holds no query"),
        ("duplicate", "the same query was already written for this passage"),
        ("unclear", "the quality check was answered neither Yes nor No"),
        ("rejected", "the quality check said No"),
    ),
)
PASSAGE_CUT = Column(
    "passage_cut", pa.bool_(), "whether the generator saw only the beginning of the passage"
)
ANSWERS = Column("answers", _TEXTS, "the distinct hypothetical answers")
PROMPT = Column("prompt", pa.string(), "what the generator was asked for an answer")
LOST_ANSWERS = ("no_query", "failed", "empty", "duplicate")
"""Why a row has fewer answers than asked."""
ANSWERS_DROPPED = Column(
    "answers_dropped",
    pa.struct([(reason, pa.int64()) for reason in LOST_ANSWERS]),
    "how many of the answers asked for are missing, and why",
)
ANSWER_ERROR = Column(
    "answer_error",
    pa.string(),
    "why answers are missing because of a failure, or all of them; null otherwise",
    codes=(
        ("empty_query", "the query is empty"),
        ("not_unicode", "the query is no valid Unicode, such as half an emoji"),
        ("failed", "the generator failed on one answer or all; `retry` asks again"),
        ("nothing_written", "every answer was empty"),
    ),
)

# Preferences
CHOSEN = Column("chosen", pa.string(), "the answer with which the retriever finds the passage best")
REJECTED = Column("rejected", pa.string(), "the answer with which it finds the passage worst")
CHOSEN_SCORE = Column(
    "chosen_score", pa.float64(), "similarity of query and chosen answer together to the passage"
)
REJECTED_SCORE = Column(
    "rejected_score",
    pa.float64(),
    "similarity of query and rejected answer together to the passage",
)
QUERY_SCORE = Column("query_score", pa.float64(), "similarity of the query alone to the passage")
PAIR_NOTE = Column(
    "pair_note",
    pa.string(),
    "why the row gives no pair; null where it gives one",
    codes=(
        ("empty_query", "the query is empty"),
        ("empty_passage", "the passage is empty"),
        ("not_unicode", "the query or the passage is no valid Unicode, such as half an emoji"),
        ("too_few_answers", "fewer than two distinct answers"),
        ("equal_scores", "the best and the worst answer are equally good"),
        ("small_gap", "the worst answer adds too much of what the best adds"),
        ("no_gain", "even the best answer does not help the query"),
        ("not_a_number", "a similarity is not a number"),
    ),
)

# A retrieval run
HIT_IDS = Column("hit_ids", _TEXTS, "ids of the passages found, best first")
HIT_SCORES = Column("hit_scores", _SCORES, "their similarities")

# Audited
DUPLICATE_OF = Column(
    "duplicate_of",
    pa.string(),
    "id of the first row of the corpus with the same or nearly the same text; null where there is "
    "none before this one",
)
LEAK = Column(
    "leak",
    pa.string(),
    "how the row leaks into the other rows, the strongest way alone; null where it does not",
    codes=(
        ("same_query", "a query of the other rows has the same text"),
        ("near_query", "a query of the other rows has nearly the same text"),
        ("same_positive", "a positive of the row, by id or text, is one of the other rows too"),
    ),
)
LEAK_OF = Column(
    "leak_of", pa.string(), "which of the other rows: its query_id, or its number where it has none"
)

COLUMNS: dict[str, Column] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Column)
}
"""All of them, by name."""


def table_of_columns(names: Sequence[str]) -> str:
    """The columns of these names as a Markdown table, as it stands in the guides.

    Example:
        >>> print(table_of_columns(["query"]))
        | column | type | what it holds |
        | --- | --- | --- |
        | `query` | string | the query |
    """
    lines = ["| column | type | what it holds |", "| --- | --- | --- |"]
    for name in names:
        column = COLUMNS[name]
        lines.append(f"| `{name}` | {_type_for_people(column.type)} | {column.says} |")
    return "\n".join(lines)


def table_of_codes(name: str) -> str:
    """The codes that a column of notes may hold as a Markdown table, as it stands in the guides."""
    lines = [f"| `{name}` | what happened |", "| --- | --- |"]
    lines += [f"| `{code}` | {meaning} |" for code, meaning in COLUMNS[name].codes]
    return "\n".join(lines)


def _type_for_people(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type_for_people(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else str(kind)
