"""Mined or scored rows in, what a person must see before trusting them out: counts, what was skipped and why, distributions.

Everything is read from the columns that `MineNegatives`, `ScorePassages` and `RelabelFalseNegatives` leave in the rows, so a report
can be made of cached, saved or downloaded rows just as well.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from rir_hf.mine import NO_VECTOR, POSITIVE_MISSING
from rir_hf.transform import require_dataset

logger = logging.getLogger(__name__)

_QUANTILES = {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
_BADLY_FOUND = 20
_TEACHER = ["pos_scores", "neg_scores", "teacher_error", "teacher_cut", "teacher_repairs", "relabeled"]


def report(mined: Dataset, output: str = "neg") -> dict[str, Any]:
    """Summarise mined rows, and write the summary as a table to the log (level INFO).

    Args:
        mined: rows from `MineNegatives`.
        output: the name that `MineNegatives` was given for its column of negatives.

    Returns:
        A dict of plain values:

        - `rows`, `rows_without_positive` (none of the row's is in the corpus, although the row has a query vector), `negatives`
          (their number over all rows), `rows_short` (rows with fewer than asked) and `short_because` (why, counted);
        - `skipped`: better-ranked passages that each rule left out, over all rows;
        - `positives`, `positives_not_in_corpus` (in rows with a query vector), and `positives_worse_than_20`: rows whose best
          positive is outranked by 20 passages or more;
        - what the teacher did, where `ScorePassages` was mapped: see `report_teacher`;
        - `positive_similarity`, `negative_similarity` and `difference` (a row's lowest positive less its best negative): mean,
          minimum, 5th percentile, median, 95th percentile and maximum; all None where there is nothing to count.

    Raises:
        ValueError: the rows do not come from `MineNegatives(output=output)`.

    Example:
        >>> report(mined)["short_because"]                                       # doctest: +SKIP
        {'corpus exhausted': 3, 'no query vector': 1}
    """
    columns = _read(mined, output)
    short = Counter(note for note in columns.notes if note not in ("", POSITIVE_MISSING))
    scored, differences = _similarities(columns)
    summary = {
        "rows": len(mined),
        "rows_without_positive": sum(note != NO_VECTOR and not row for row, note in zip(scored, columns.notes, strict=True)),
        "negatives": sum(len(row) for row in columns.sims),
        "rows_short": short.total(),
        "short_because": dict(short.most_common()),
        "skipped": {rule: sum(row[rule] for row in columns.skipped) for rule in (columns.skipped or [{}])[0]},
        "positives": sum(len(row) for row in columns.positive_sims),
        "positives_not_in_corpus": sum(
            score is None
            for row, note in zip(columns.positive_sims, columns.notes, strict=True)
            for score in row
            if note != NO_VECTOR
        ),
        "positives_worse_than_20": sum(rank >= _BADLY_FOUND for rank in _known_ranks(columns)),
        **(report_teacher(mined) if "teacher_error" in mined.column_names else {}),
        "positive_similarity": _distribution([score for row in scored for score in row]),
        "negative_similarity": _distribution([score for row in columns.sims for score in row]),
        "difference": _distribution(differences),
    }
    logger.info("Mined negatives in %r:\n%s", output, as_table(summary))
    return summary


def report_teacher(scored: Dataset) -> dict[str, Any]:
    """Summarise what `ScorePassages`, and `RelabelFalseNegatives` if mapped, did to the rows.

    Returns:
        `rows_scored`, `rows_failed` and `failed_because` (reasons, the ten most frequent); `passages_cut` to fit; `repairs` of
        listwise answers by kind; `teacher_agrees`, the share of scored rows whose best positive scores above every negative,
        None where there is none to compare; in its place, after `RelabelFalseNegatives`, the `relabeled` negatives.

    Raises:
        ValueError: the rows do not come from `ScorePassages`.
    """
    require_dataset(scored, "A report")
    names = [name for name in _TEACHER if name in scored.column_names]
    if not set(_TEACHER[:4]) <= set(names):
        raise ValueError(
            f"A report on the teacher reads the columns {_TEACHER[:4]} that ScorePassages adds, found {scored.column_names}."
        )
    rows = scored.select_columns(names).with_format(None)
    reasons = Counter(reason for reason in rows["teacher_error"] if reason is not None)
    found = zip(rows["pos_scores"], rows["neg_scores"], strict=True)
    agrees = [max(positives) > max(negatives) for positives, negatives in found if positives and negatives]
    summary: dict[str, Any] = {
        "rows_scored": len(scored) - reasons.total(),
        "rows_failed": reasons.total(),
        "failed_because": dict(reasons.most_common(10)),
        "passages_cut": sum(rows["teacher_cut"]),
    }
    if "relabeled" not in names:
        summary["teacher_agrees"] = float(np.mean(agrees)) if agrees else None
    if "teacher_repairs" in names:
        repairs = rows["teacher_repairs"][:]
        summary["repairs"] = {kind: sum(row[kind] for row in repairs) for kind in (repairs or [{}])[0]}
    if "relabeled" in names:
        summary["relabeled"] = sum(rows["relabeled"])
    return summary


def report_generation(rows: Dataset) -> dict[str, Any]:
    """Summarise what `GenerateQueries`, `GenerateAnswers` and `PreferencePairs(drop=False)` did to the rows, as far as mapped.

    Returns:
        A dict of plain values:

        - `rows`;
        - `queries`, `rows_without_query` and `no_query_because` (reasons, the ten most frequent), `rows_with_cut_passage`;
        - `answers`, `answers_dropped` by reason, `rows_without_answer` and `no_answer_because`;
        - `pairs`, `rows_without_pair` and `no_pair_because`; `gap`, how much better the chosen answer scores than the rejected one,
          and `gain`, how much better than the query alone: mean, minimum, 5th percentile, median, 95th percentile and maximum.

        In each step the rows, or the answers asked for, are those that came out plus those that are counted by reason.

    Raises:
        ValueError: the rows come from none of the three.
    """
    require_dataset(rows, "A report")
    names = [name for name in _GENERATION if name in rows.column_names]
    columns = {name: rows.with_format(None)[name][:] for name in names}
    summary: dict[str, Any] = {"rows": len(rows)}
    for step, error in (("query", "query_error"), ("answer", "answer_error"), ("pair", "pair_error")):
        if error not in columns:
            continue
        reasons = Counter(reason for reason in columns[error] if reason is not None)
        summary |= _SUMMARIES[step](columns)
        summary |= {f"rows_without_{step}": reasons.total(), f"no_{step}_because": dict(reasons.most_common(10))}
    if not len(rows):
        raise ValueError("There is no row to report on. Where a map dropped them all, drop=False keeps them with the reasons.")
    if len(summary) == 1:
        raise ValueError(
            "report_generation reads query_error, answer_error or pair_error, which GenerateQueries, GenerateAnswers and "
            f"PreferencePairs(drop=False) add, found {rows.column_names}."
        )
    return summary


def summary_of(rows: Dataset) -> dict[str, Any] | None:
    """The report that fits the rows: on mining, on the teacher, on generation; None where they carry nothing to report on."""
    has = set(rows.column_names).issuperset
    if not len(rows):
        return None
    if has({"pos_sims", "pos_rank", "neg_sims", "neg_note", "neg_skipped"}):
        return report(rows)
    if has(_TEACHER[:4]):
        return report_teacher(rows)
    return report_generation(rows) if set(_GENERATION) & set(rows.column_names) & set(_ERRORS) else None


def _queries(columns: dict[str, list[Any]]) -> dict[str, Any]:
    found = {"queries": sum(error is None for error in columns["query_error"])}
    return found | ({"rows_with_cut_passage": sum(map(bool, columns["passage_cut"]))} if "passage_cut" in columns else {})


def _answers(columns: dict[str, list[Any]]) -> dict[str, Any]:
    lost = columns["answers_dropped"]
    return {
        "answers": sum(map(len, columns["answers"])),
        "answers_dropped": {reason: sum(row[reason] for row in lost) for reason in (lost or [{}])[0]},
    }


def _pairs(columns: dict[str, list[Any]]) -> dict[str, Any]:
    names = ("chosen_score", "rejected_score", "query_score")
    pairs = [scores for scores in zip(*(columns[name] for name in names), strict=True) if scores[0] is not None]
    return {
        "pairs": len(pairs),
        "gap": _distribution([chosen - rejected for chosen, rejected, _ in pairs]),
        "gain": _distribution([chosen - query for chosen, _, query in pairs]),
    }


_GENERATION = [
    "query_error", "passage_cut", "answers", "answers_dropped", "answer_error", "pair_error", "chosen_score", "rejected_score",
    "query_score",
]  # fmt: skip
_ERRORS = ("query_error", "answer_error", "pair_error")
_SUMMARIES = {"query": _queries, "answer": _answers, "pair": _pairs}


def as_table(summary: dict[str, Any]) -> str:
    """The summary of `report` as lines of text, one figure each.

    Example:
        >>> print(as_table({"rows": 2, "short_because": {"corpus exhausted": 1}, "difference": {"mean": 0.25, "min": None}}))
        rows                                        2
        short_because: corpus exhausted             1
        difference: mean                        0.250
        difference: min                             -
    """
    lines = []
    for name, value in summary.items():
        entries = {f"{name}: {key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
        for label, entry in entries.items():
            shown = "-" if entry is None else f"{entry:.3f}" if isinstance(entry, float) else f"{entry:,}"
            lines.append(f"{label:<36} {shown:>8}")
    return "\n".join(lines)


def plot_report(mined: Dataset, path: str | os.PathLike[str], output: str = "neg") -> None:
    """Draw similarities, their differences and the positives' ranks as one PNG (extra `plot`).

    Args:
        mined: rows from `MineNegatives`.
        path: the file to write.
        output: as in `report`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plot_report draws with matplotlib: pip install "rir-hf[plot]".') from error

    columns = _read(mined, output)
    scored, differences = _similarities(columns)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    similarity, difference, rank = figure.subplots(1, 3)
    for label, sims in (("positives", scored), ("negatives", columns.sims)):
        values = [score for row in sims for score in row]
        similarity.hist(values, bins=40, density=bool(values), alpha=0.7, label=label)
    similarity.set(title="Similarity to the query", xlabel="inner product", ylabel="density")
    similarity.legend()
    difference.hist(differences, bins=40, color="tab:gray")
    difference.axvline(0, color="black", linewidth=0.8)
    difference.set(title="Lowest positive less best negative", xlabel="difference of similarities", ylabel="rows")
    found = np.sort(_known_ranks(columns)) + 1
    rank.plot(found, np.arange(1, len(found) + 1) / max(1, len(mined)), drawstyle="steps-post")
    rank.axvline(_BADLY_FOUND, color="black", linewidth=0.8, linestyle=":")
    rank.set(
        title="Rank of the best positive", xlabel="rank (1 is first)", ylabel="share of rows found by this rank", ylim=(0, 1.02)
    )
    rank.set_xscale("log")
    figure.savefig(path, dpi=120)


class _Columns(NamedTuple):
    sims: list[list[float]]
    positive_sims: list[list[float | None]]
    ranks: list[int]
    notes: list[str]
    skipped: list[dict[str, int]]


def _read(mined: Dataset, output: str) -> _Columns:
    before = "" if output == "neg" else f"{output}_"
    require_dataset(mined, "A report")
    names = [f"{output}_sims", f"{before}pos_sims", f"{before}pos_rank", f"{output}_note", f"{output}_skipped"]
    missing = [name for name in names if name not in mined.column_names]
    if missing:
        raise ValueError(
            f"A report reads the columns that MineNegatives(output={output!r}) adds, but {missing} are not among "
            f"{mined.column_names}."
        )
    rows = mined.select_columns(names).with_format(None)
    return _Columns(*(rows[name][:] for name in names))


def _similarities(columns: _Columns) -> tuple[list[list[float]], list[float]]:
    """For each row the known similarities of its positives; over rows that have both, lowest positive less best negative."""
    scored = [[score for score in row if score is not None] for row in columns.positive_sims]
    pairs = zip(scored, columns.sims, strict=True)
    return scored, [min(positives) - max(negatives) for positives, negatives in pairs if positives and negatives]


def _known_ranks(columns: _Columns) -> list[int]:
    """Ranks of the best positives, without the rows that have none in the corpus or no query vector."""
    known = (any(score is not None for score in row) for row in columns.positive_sims)
    return [rank for rank, is_known in zip(columns.ranks, known, strict=True) if is_known]


def _distribution(values: list[float]) -> dict[str, float | None]:
    if not values:
        return dict.fromkeys(("mean", *_QUANTILES))
    quantiles = np.quantile(values, list(_QUANTILES.values())).tolist()
    return {"mean": float(np.mean(values)), **dict(zip(_QUANTILES, quantiles, strict=True))}
