"""What each stage made of the rows and what was lost, counted from the columns that are there."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, LargeList, List, Value

from rir_hf import schema
from rir_hf.core.columns import (
    require_dataset,
    stored_values,
    with_valid_texts,
    without_indexes,
)
from rir_hf.core.texts import printable
from rir_hf.schema import code_of
from rir_hf.teaching.relabel import names_of_negatives

logger = logging.getLogger(__name__)

BADLY_RANKED = 20
"""A best positive that this many passages outrank, or more, is counted as badly ranked."""

_QUANTILES = {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
_TEACHER = ("pos_scores", "neg_scores", "teacher_error", "teacher_cut")
_LISTS = ("passages", "passages_note")
_SCORED_LISTS = ("passage_scores", "teacher_error", "teacher_cut")
_RELABELLED = ("relabelled", "neg", "neg_ids")
_QUERIES = ("queries", "query_checks", "passage_cut")
_ANSWERS = ("answers", "answers_dropped", "answer_error")
_PREFERENCES = ("pair_note", "chosen_score", "rejected_score", "query_score")
_STAGES = ("mining", "negatives", "lists", "teacher", "queries", "answers", "preferences")

MEANINGS = {
    "skipped: positive": "known positives of the query",
    "skipped: relative_margin": "passages above the ceiling that relative_margin sets",
    "skipped: absolute_margin": "passages above the ceiling that absolute_margin sets",
    "skipped: max_score": "passages above max_score",
    "skipped: own_text": "passages with the query's own text",
    "skipped: other_index": "passages that another of the indexes puts above its ceiling",
    "skipped: range_min": "the best passages that range_min leaves out",
    f"positives_worse_than_{BADLY_RANKED}": (
        f"rows whose best positive {BADLY_RANKED} passages or more outrank"
    ),
    "difference": (
        "a row's lowest positive less its best negative: below 0 the negative is the more similar"
    ),
    "gap": "the chosen answer's score less the rejected one's",
    "gain": "the chosen answer's score less that of the query alone",
    "teacher_agrees": "share of the rows whose best positive scores above every negative",
}
"""What the figures of a report mean whose names do not say it."""


def report(ds: Dataset, *, output: str = "neg") -> dict[str, Any]:
    """Count what each stage made of the rows, and write the counts as a table to the log (INFO).

    Everything is read from the columns that are there, so that cached, saved and downloaded rows,
    and those of other makers, can be reported on just as well. Where rows were lost, the codes in
    the column of notes say why; `rir_hf.schema` has the meaning of each.

    Args:
        ds: rows of any stage.
        output: the name that `MineNegatives` was given for its column of negatives.

    Returns:
        `rows`, and a dict for each stage whose columns are there:

        - `mining`: `rows_without_positive` (none of the row's is in the corpus, although the query
          has a vector), `negatives` over all rows, `rows_short` (fewer than asked) and
          `short_because`; `skipped`, the better-ranked passages that each rule left out;
          `positives`, `positives_not_in_corpus` and `positives_worse_than_20` (rows whose best
          positive is outranked by 20 passages or more); `positive_similarity`,
          `negative_similarity` and `difference` (a row's lowest positive less its best negative) as
          distributions.
        - `negatives`, where there are some without all that `MineNegatives` says of them:
          `negatives` over all rows and `rows_without_negative`.
        - `lists`, of `CandidateLists`: `passages`, `rows_short` and `short_because`.
        - `teacher`: `rows_scored`, `rows_failed` and `failed_because`, and `rows_without_a_member`
          of a `Blend`, where there are such; `passages_cut` to fit;
          `teacher_agrees`, the share of scored rows whose best positive scores above every
          negative; `repairs` of generated rankings. After `RelabelNegatives`, in place of
          `teacher_agrees`, `relabelled`: how many negatives were `moved` and `dropped`, in how many
          `rows`, how many were `kept`, and `rows_without_negative` that had one before; with `dry`
          what these would be.
        - `queries`: `queries_asked`, `queries` that were taken, `not_taken_because`,
          `rows_without_query`, `rows_with_cut_passage`.
        - `answers`: `answers`, `answers_dropped` by reason, `rows_without_answer`,
          `error_because`.
        - `preferences`: `pairs`, `rows_without_pair` and `no_pair_because`; `gap`, how much better
          the chosen answer scores than the rejected one, and `gain`, how much better than the query
          alone, as distributions.

        A distribution is the mean, minimum, 5th percentile, median, 95th percentile and maximum;
        all None where there is nothing to count.

    Raises:
        TypeError: several splits, or a stream.
        ValueError: the rows have no column to report on, or none of the asked `output`.

    Example:
        >>> rows = Dataset.from_dict({
        ...     "pos_scores": [[2.0], None], "neg_scores": [[1.0, 3.0], None],
        ...     "teacher_error": [None, "failed: the server answered 500"], "teacher_cut": [1, 0],
        ... })
        >>> print(as_table(report(rows)))
        rows                                        2
        teacher
          rows_scored                               1
          rows_failed                               1
          failed_because: failed                    1
          passages_cut                              1
          teacher_agrees                        0.000
    """
    require_dataset(ds, "report")
    counts = count_stages(ds, output)
    if output != "neg":
        _check_mined(ds, output)
    elif len(counts) == 1:
        raise ValueError(_nothing_to_report(ds))
    logger.info("Report on %d rows:\n%s", len(ds), as_table(counts))
    return counts


def as_table(counts: Mapping[str, Any]) -> str:
    """The counts of `report`, or of one stage of it, as lines of text, one figure each.

    Example:
        >>> mining = {"skipped": {"positive": 1}, "difference": {"mean": 0.25, "min": None}}
        >>> print(as_table({"rows": 2, "mining": mining}))
        rows                                        2
        mining
          skipped: positive                         1
          difference: mean                      0.250
          difference: min                           -
    """
    lines = []
    for name, value in counts.items():
        if _is_stage(name, value):
            lines += [name, *(f"  {line}" for line in _lines_of(value, width=34))]
        else:
            lines += _lines_of({name: value}, width=36)
    return "\n".join(map(printable, lines))


def count_stages(ds: Dataset, output: str = "neg") -> dict[str, Any]:
    """What `report` returns, without the log; `{"rows": ...}` alone where there is no stage."""
    there = set(ds.column_names)
    lists = {name for name, kind in ds.features.items() if _holds_lists(kind)}
    counts: dict[str, Any] = {"rows": len(ds)}
    if there.issuperset(mining_columns(output)):
        counts["mining"] = count_mining(read_mined(ds, output))
    elif output in lists:
        counts["negatives"] = count_negatives(_read(ds, [output])[output])
    if "passages" in lists:
        counts["lists"] = count_lists(_read(ds, _LISTS))
    if "passage_scores" in lists:
        counts["teacher"] = count_teacher(_read(ds, (*_SCORED_LISTS, "teacher_repairs")))
    elif lists.issuperset(_TEACHER[:2]):
        counts["teacher"] = count_teacher(_read(ds, (*_TEACHER, "teacher_repairs", *_RELABELLED)))
    if "queries" in lists:
        counts["queries"] = count_queries(_read(ds, _QUERIES))
    if "answers" in lists:
        counts["answers"] = count_answers(_read(ds, _ANSWERS))
    if there.issuperset(_PREFERENCES):
        counts["preferences"] = count_preferences(_read(ds, _PREFERENCES))
    return counts


class Stored:
    """The values of a column, read a part at a time whenever they are gone through: those of a
    million rows would fill the memory.

    Args:
        rows: a dataset.
        name: of the column.
    """

    def __init__(self, rows: Dataset, name: str) -> None:
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return stored_values(self._rows, self._name)


class Mined(NamedTuple):
    """The columns of mined rows that are counted and drawn, whatever their names; nulls where a
    list is empty.

    sims: similarities of each row's negatives.
    positive_sims: those of its positives, None for one that is not in the corpus.
    ranks: how many passages rank before its best positive.
    notes: why there are fewer negatives than asked, or None.
    skipped: how many passages each rule left out.
    """

    sims: Stored
    positive_sims: Stored
    ranks: Stored
    notes: Stored
    skipped: Stored


def mining_columns(output: str) -> tuple[str, ...]:
    """The columns of `MineNegatives(output=output)` that a report reads, ordered as in `Mined`."""
    before = "" if output == "neg" else f"{output}_"
    positives = (f"{before}pos_sims", f"{before}pos_rank")
    return (f"{output}_sims", *positives, f"{output}_note", f"{output}_skipped")


def read_mined(ds: Dataset, output: str) -> Mined:
    """Read the mined columns; `ValueError` where one is missing."""
    _check_mined(ds, output)
    return Mined(*_read(ds, mining_columns(output)).values())


def count_mining(mined: Mined) -> dict[str, Any]:
    """The stage `mining` of a report."""
    searched = [code_of(note) != "no_vector" for note in mined.notes]
    short = codes_in(mined.notes)
    return {
        "rows_without_positive": sum(
            compress((not row for row in known_similarities(mined)), searched)
        ),
        "negatives": sum(map(len, _lists(mined.sims))),
        "rows_short": sum(short.values()),
        "short_because": short,
        "skipped": sum_of_structs(mined.skipped, schema.SKIP_RULES),
        "positives": sum(map(len, _lists(mined.positive_sims))),
        "positives_not_in_corpus": sum(
            row.count(None) for row in compress(_lists(mined.positive_sims), searched)
        ),
        f"positives_worse_than_{BADLY_RANKED}": sum(
            rank >= BADLY_RANKED for rank in known_ranks(mined)
        ),
        "positive_similarity": distribution(_flat(known_similarities(mined))),
        "negative_similarity": distribution(_flat(_lists(mined.sims))),
        "difference": distribution(differences(mined)),
    }


def count_negatives(negatives: Iterable[Sequence[str] | None]) -> dict[str, Any]:
    """The stage `negatives` of a report."""
    numbers = [len(row) for row in _lists(negatives)]
    return {"negatives": sum(numbers), "rows_without_negative": numbers.count(0)}


def count_lists(columns: Mapping[str, Stored]) -> dict[str, Any]:
    """The stage `lists` of a report."""
    counts: dict[str, Any] = {"passages": sum(map(len, _lists(columns["passages"])))}
    if "passages_note" in columns:
        short = codes_in(columns["passages_note"])
        counts |= {"rows_short": sum(short.values()), "short_because": short}
    return counts


def count_teacher(columns: Mapping[str, Stored]) -> dict[str, Any]:
    """The stage `teacher` of a report."""
    scores = columns["passage_scores" if "passage_scores" in columns else "pos_scores"]
    reasons = codes_in(columns.get("teacher_error", ()))
    without_member = reasons.pop("member_failed", 0)
    failed = sum(row is None for row in scores)
    if "teacher_error" in columns:
        failed = sum(reasons.values())
    counts: dict[str, Any] = {"rows_scored": len(scores) - failed, "rows_failed": failed}
    if "teacher_error" in columns:
        counts["failed_because"] = reasons
    if "teacher_cut" in columns:
        counts["passages_cut"] = sum(number or 0 for number in columns["teacher_cut"])
    if without_member:
        counts["rows_without_a_member"] = without_member
    if "relabelled" in columns:
        counts["relabelled"] = count_relabelled(columns)
    elif "neg_scores" in columns:
        counts["teacher_agrees"] = _share_of_agreement(columns["pos_scores"], columns["neg_scores"])
    if "teacher_repairs" in columns:
        counts["repairs"] = sum_of_structs(columns["teacher_repairs"], schema.REPAIRS)
    return counts


def count_relabelled(columns: Mapping[str, Stored]) -> dict[str, int]:
    """What `RelabelNegatives` did, or would do: then what it would take out is still there."""
    taken = columns["relabelled"]
    actions = Counter(entry["action"] for entry in _flat(_lists(taken)))
    counts = {"moved": actions["move"], "dropped": actions["drop"], "rows": sum(map(bool, taken))}
    if "neg" not in columns:
        return counts
    kept = emptied = 0
    negatives = names_of_negatives(columns["neg"], columns.get("neg_ids"))
    for names, entries in zip(negatives, _lists(taken), strict=True):
        gone = {entry["id"] for entry in entries}
        left = sum(name not in gone for name in names)
        kept += left
        emptied += not left and bool(entries)
    return {**counts, "kept": kept, "rows_without_negative": emptied}


def count_queries(columns: Mapping[str, Stored]) -> dict[str, Any]:
    """The stage `queries` of a report."""
    queries = columns["queries"]
    counts: dict[str, Any] = {"queries": sum(map(len, _lists(queries)))}
    if "query_checks" in columns:
        checks = columns["query_checks"]
        reasons = codes_in(check["note"] for check in _flat(_lists(checks)))
        asked = sum(map(len, _lists(checks)))
        counts = {"queries_asked": asked, **counts, "not_taken_because": reasons}
    counts["rows_without_query"] = sum(not row for row in queries)
    if "passage_cut" in columns:
        counts["rows_with_cut_passage"] = sum(map(bool, columns["passage_cut"]))
    return counts


def count_answers(columns: Mapping[str, Stored]) -> dict[str, Any]:
    """The stage `answers` of a report."""
    answers = columns["answers"]
    counts: dict[str, Any] = {"answers": sum(map(len, _lists(answers)))}
    if "answers_dropped" in columns:
        dropped = sum_of_structs(columns["answers_dropped"], schema.LOST_ANSWERS)
        counts["answers_dropped"] = dropped
    counts["rows_without_answer"] = sum(not row for row in answers)
    if "answer_error" in columns:
        counts["error_because"] = codes_in(columns["answer_error"])
    return counts


def count_preferences(columns: Mapping[str, Stored]) -> dict[str, Any]:
    """The stage `preferences` of a report."""
    reasons = codes_in(columns["pair_note"])
    return {
        "pairs": sum(1 for _ in _scores_of_pairs(columns)),
        "rows_without_pair": sum(reasons.values()),
        "no_pair_because": reasons,
        "gap": distribution(chosen - rejected for chosen, rejected, _ in _scores_of_pairs(columns)),
        "gain": distribution(chosen - query for chosen, _, query in _scores_of_pairs(columns)),
    }


def _scores_of_pairs(columns: Mapping[str, Stored]) -> Iterator[tuple[float, float, float]]:
    """The scores of the chosen answer, the rejected one and the query, of rows with a pair."""
    for note, *scores in zip(*(columns[name] for name in _PREFERENCES), strict=True):
        if not note:
            yield tuple(scores)


def codes_in(notes: Iterable[str | None]) -> dict[str, int]:
    """How often each code stands in a column of notes, most frequent first."""
    codes = map(code_of, notes)
    return dict(Counter(code for code in codes if code).most_common())


def sum_of_structs(
    rows: Iterable[Mapping[str, int] | None], names: Sequence[str]
) -> dict[str, int]:
    """The sum of each field over all rows."""
    total = dict.fromkeys(names, 0)
    for row in rows:
        for name in names:
            total[name] += (row or {}).get(name) or 0
    return total


def distribution(values: Iterable[float]) -> dict[str, float | None]:
    """Mean and quantiles of the values; all None where there are none.

    Example:
        >>> distribution([1.0, 3.0])["median"], distribution([])["mean"]
        (2.0, None)
    """
    numbers = numbers_in(values)
    if not len(numbers):
        return dict.fromkeys(("mean", *_QUANTILES))
    quantiles = np.quantile(numbers, list(_QUANTILES.values())).tolist()
    return {"mean": float(np.mean(numbers)), **dict(zip(_QUANTILES, quantiles, strict=True))}


def is_distribution(value: Any) -> bool:
    """Whether a value of a report is a distribution."""
    return isinstance(value, Mapping) and set(value) == {"mean", *_QUANTILES}


def numbers_in(values: Iterable[float]) -> np.ndarray:
    """Numbers one by one as an array of float64, eight bytes each."""
    return np.fromiter(values, np.float64)


def known_similarities(mined: Mined) -> Iterator[list[float]]:
    """For each row the similarities of the positives that are in the corpus."""
    return ([sim for sim in row if sim is not None] for row in _lists(mined.positive_sims))


def differences(mined: Mined) -> Iterator[float]:
    """Lowest positive less best negative, of the rows that have both."""
    rows = zip(known_similarities(mined), mined.sims, strict=True)
    return (
        min(positives) - max(negatives) for positives, negatives in rows if positives and negatives
    )


def known_ranks(mined: Mined) -> Iterator[int]:
    """How many passages rank before the best positive, of the rows that have one in the corpus."""
    rows = zip(mined.ranks, known_similarities(mined), strict=True)
    return (rank for rank, positives in rows if positives)


def _check_mined(ds: Dataset, output: str) -> None:
    missing = [name for name in mining_columns(output) if name not in ds.column_names]
    if missing:
        raise ValueError(
            f"A report reads the columns that MineNegatives(output={output!r}) adds, but {missing} "
            f"are not among {ds.column_names}."
        )


def _nothing_to_report(ds: Dataset) -> str:
    return (
        "There is nothing to report on. A report reads neg (MineNegatives), passages "
        "(CandidateLists), pos_scores and neg_scores or passage_scores (ScorePassages), queries "
        "(GenerateQueries), answers (GenerateAnswers) or pair_note and scores (PreferencePairs), "
        f"found {ds.column_names}."
    )


def _share_of_agreement(positives: Stored, negatives: Stored) -> float | None:
    """Share of the rows whose best positive scores above every negative; None for no row."""
    rows = zip(_lists(positives), _lists(negatives), strict=True)
    agrees = [max(pos) > max(neg) for pos, neg in rows if pos and neg]
    return float(np.mean(agrees)) if agrees else None


def _holds_lists(kind: Any) -> bool:
    """Whether a column holds lists, or nothing at all."""
    return isinstance(kind, (List, LargeList)) or kind == Value("null")


def _read(ds: Dataset, names: Iterable[str]) -> dict[str, Stored]:
    """Those of the columns that are there."""
    there = [name for name in names if name in ds.column_names]
    rows = with_valid_texts(without_indexes(ds).select_columns(there), "report")
    return {name: Stored(rows, name) for name in there}


def _lists(rows: Iterable[Sequence[Any] | None]) -> Iterator[Sequence[Any]]:
    """Nulls as empty lists."""
    return (row or [] for row in rows)


def _flat(rows: Iterable[Sequence[Any]]) -> Iterator[Any]:
    return (value for row in rows for value in row)


def _is_stage(name: str, value: Any) -> bool:
    """Whether a value is the counts of a stage, some of which may be counts by reason."""
    if not isinstance(value, Mapping):
        return False
    return name in _STAGES or any(isinstance(item, Mapping) for item in value.values())


def _lines_of(counts: Mapping[str, Any], width: int) -> list[str]:
    lines = []
    for name, value in counts.items():
        entries = {name: value}
        if isinstance(value, Mapping):
            entries = {f"{name}: {key}": entry for key, entry in value.items()}
        lines += [f"{label:<{width}} {_shown(entry):>8}" for label, entry in entries.items()]
    return lines


def _shown(figure: float | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:.3f}" if isinstance(figure, float) else f"{figure:,}"
