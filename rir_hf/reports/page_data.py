"""Rows in, what their page shows of them out as plain data: the passages of each query side by
side, and what is suspicious about them.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import Batch, as_id, with_valid_texts, without_indexes
from rir_hf.core.texts import plain, runs_in, shingles_of
from rir_hf.mining.positives import as_list, read_positives
from rir_hf.reports.counts import BADLY_RANKED, mining_columns
from rir_hf.schema import COLUMNS

ROWS = 20_000
"""The page holds at most so many rows,"""
BYTES = 30_000_000
"""and at most so much of them, since a browser reads it as a whole."""
NEAR = 0.8
"""Texts that share as much are near-duplicates, as in `near_duplicates`."""
LOWEST = 0.05
"""This share of the rows has the lowest margins."""

KINDS = {
    "teacher_above": "teacher disagrees",
    "near_duplicate": "near-duplicate",
    "retriever_above": "retriever disagrees",
    "low_margin": "lowest margin",
    "low_positive": "positive ranks low",
}
"""What is suspicious about a row, the most suspicious first."""

_KINDS = list(KINDS)
_LOW_MARGIN = "low_margin"

FIELDS = ("similarity", "score")
"""The numbers that a passage may have."""

PANELS = {
    "positives": "Positives",
    "negatives": "Negatives",
    "chosen": "Chosen answer",
    "rejected": "Rejected answer",
    "passages": "Passages",
}
"""What a row shows side by side."""

_CHARACTERS = 4000
"""After so many a text is cut."""
_BATCH = 500

Row = dict[str, Any]
Passage = dict[str, Any]


class Suspicion(NamedTuple):
    """One thing that is suspicious about a row.

    kind: one of `KINDS`.
    reason: why, for people.
    negatives: which of its negatives are meant, from 0, the worst first.
    weight: how suspicious, among those of the kind; the larger, the more.
    """

    kind: str
    reason: str
    negatives: list[int]
    weight: float


class Looked(NamedTuple):
    """What is known of all rows, those that the page has no room for included, in numbers: there
    may be millions.

    order: the rows, the most suspicious first.
    lowest: the rows with the lowest margins.
    kinds: how many suspicions of each kind there are.
    suspects: how many rows have one.
    margins: of each row by `similarity` and by `score`, NaN where there is none.
    judge: by which of the two the lowest are told, `score` where there are any.
    values: all similarities and scores of a panel.
    ranks: of the best positives; NaN for one that is not in the corpus.
    notes: how many rows have one.
    """

    order: np.ndarray
    lowest: np.ndarray
    kinds: Counter[str]
    suspects: int
    margins: dict[str, np.ndarray]
    judge: str
    values: Mapping[tuple[str, str], np.ndarray]
    ranks: np.ndarray
    notes: int


def page_data(
    ds: Dataset, looked: Looked, output: str = "neg", size: int | None = None
) -> dict[str, Any]:
    """What the page's script reads: plain values, the most suspicious rows first, `size` at most.

    Example:
        >>> rows = Dataset.from_dict({
        ...     "query": ["q", "r"], "pos": [["a"], ["b"]], "neg": [["c"], ["d"]],
        ...     "pos_scores": [[2.0], [1.0]], "neg_scores": [[1.0], [3.0]],
        ... })
        >>> data = page_data(rows, look_at(rows))
        >>> [row["query"] for row in data["rows"]], data["rows"][0]["suspicions"][0]["reason"]
        (['r', 'q'], 'The teacher puts negative 1 (3) above positive 1 (1).')
    """
    rows = []
    room = BYTES
    order = looked.order[: size or ROWS].tolist()
    for place, row in zip(order, read_rows(ds.select(order), output), strict=True):
        shown = _shown_row(place, row, looked)
        room -= len(json.dumps(shown, ensure_ascii=False).encode(errors="replace"))
        if room < 0:
            break
        rows.append(shown)
    return {
        "rows": rows,
        "total": len(ds),
        "suspects": looked.suspects,
        "notes": looked.notes,
        "panels": {name: PANELS[name] for name in PANELS if any(row.get(name) for row in rows)},
        "kinds": {
            name: [title, looked.kinds[name]] for name, title in KINDS.items() if looked.kinds[name]
        },
        "margins": [name for name, values in looked.margins.items() if any_number(values)],
        "meanings": {
            name: dict(COLUMNS[explained].codes) for name, explained in _notes_of(output).items()
        },
    }


def check_columns(ds: Dataset, output: str, who: str) -> None:
    """Raise `ValueError` where a dataset has no rows that a page could show."""
    wanted = [output, "passages", "chosen"]
    if not set(wanted) & set(ds.column_names):
        raise ValueError(
            f"{who} shows rows that have at least one of the columns {wanted} (of MineNegatives, "
            f"CandidateLists, PreferencePairs), found {ds.column_names}. Negatives under another "
            f"name: output='neg_answer'."
        )


def look_at(ds: Dataset, output: str = "neg") -> Looked:
    """Look at all rows: what is suspicious about them, and their numbers."""
    numbers: dict[Any, array[float]] = defaultdict(lambda: array("d"))
    kinds: Counter[str] = Counter()
    notes = 0
    for row in read_rows(ds, output):
        notes += bool(row["notes"])
        numbers["rank"].append(_or_nan(row.get("rank")))
        for panel in PANELS:
            for field in FIELDS:
                numbers[panel, field].extend(numbers_of(row.get(panel, ()), field))
        for field in FIELDS:
            numbers[field].append(_or_nan(margin_of(*labelled(row), field)))
        found = suspicions_of(row)
        kinds.update(one.kind for one in found)
        numbers["kind"].append(_KINDS.index(found[0].kind) if found else len(_KINDS))
        numbers["weight"].append(found[0].weight if found else 0.0)
    arrays = {name: np.array(values, np.float64) for name, values in numbers.items()}
    margins = {field: arrays.get(field, np.empty(0)) for field in FIELDS}
    judge = "score" if any_number(margins["score"]) else "similarity"
    lowest = lowest_of(margins[judge])
    if len(lowest):
        kinds[_LOW_MARGIN] = len(lowest)
    order, suspects = _in_order(arrays, lowest, margins[judge])
    values = {
        (panel, field): arrays.get((panel, field), np.empty(0))
        for panel in PANELS
        for field in FIELDS
    }
    ranks = arrays.get("rank", np.empty(0))
    return Looked(order, lowest, kinds, suspects, margins, judge, values, ranks, notes)


def read_rows(ds: Dataset, output: str) -> Iterator[Row]:
    """The rows one after the other, their passages as dicts, whatever their columns are called."""
    names = {
        *("query_id", "query", "prompt", "query_score", "pos", "passage", "pos_ids", "relabelled"),
        *("pos_scores", "neg_scores", "passages", "passage_ids", "passage_scores"),
        *("chosen", "chosen_score", "rejected", "rejected_score", *_notes_of(output)),
        *(output, f"{output}_ids", f"{output}_from", *mining_columns(output)[:3]),
    }
    there = [name for name in ds.column_names if name in names]
    rows = with_valid_texts(without_indexes(ds).select_columns(there), "write_report")
    for columns in rows.with_format(None).iter(_BATCH):
        yield from _rows_of(Batch(columns, "write_report"), output)


def suspicions_of(row: Row) -> list[Suspicion]:
    """What is suspicious about one row by itself, the most suspicious first.

    Example:
        >>> row = {"positives": [{"text": "Cats purr."}], "negatives": [{"text": "cats  purr."}]}
        >>> suspicions_of(row)[0].reason
        'Negative 1 has 100 % in common with positive 1.'
    """
    found = [
        _above("teacher_above", "The teacher", row, "score"),
        _near_duplicate(row),
        _above("retriever_above", "The retriever", row, "similarity"),
    ]
    rank = row.get("rank")
    if rank is not None and rank >= BADLY_RANKED:
        reason = f"{rank:,} passages rank before its best positive."
        found.append(Suspicion("low_positive", reason, [], rank))
    return [one for one in found if one is not None]


def labelled(row: Row) -> tuple[list[Passage], list[Passage]]:
    """What is right for the query and what is not, of mined rows or of preferences."""
    if row.get("negatives"):
        return row.get("positives", []), row["negatives"]
    return row.get("chosen", []), row.get("rejected", [])


def margin_of(positives: list[Passage], negatives: list[Passage], field: str) -> float | None:
    """The lowest positive less the best negative; None where one of them has no number."""
    high, low = numbers_of(positives, field), numbers_of(negatives, field)
    return min(high) - max(low) if high and low else None


def numbers_of(passages: Iterable[Passage], field: str) -> list[float]:
    """The similarities or scores of those passages that have one."""
    return [passage[field] for passage in passages if field in passage]


def any_number(values: np.ndarray) -> bool:
    """Whether one of the values is not NaN."""
    return not bool(np.isnan(values).all())


def lowest_of(margins: np.ndarray) -> np.ndarray:
    """The rows in which a negative comes closest to the positive without being above it.

    Example:
        >>> lowest_of(np.array([-1.0, np.nan, *range(40, 0, -1)])).tolist()
        [40, 41]
    """
    below = np.flatnonzero(margins >= 0)
    order = np.argsort(margins[below], kind="stable")
    return np.sort(below[order[: int(LOWEST * len(below))]])


def _above(kind: str, who: str, row: Row, field: str) -> Suspicion | None:
    """Negatives above the lowest positive, by similarity or by score."""
    positives, negatives = labelled(row)
    margin = margin_of(positives, negatives, field)
    if margin is None or margin >= 0:
        return None
    floor, place = min((one[field], i) for i, one in enumerate(positives) if field in one)
    higher = [i for i, one in enumerate(negatives) if one.get(field, floor) > floor]
    higher.sort(key=lambda i: -negatives[i][field])
    worst = higher[0]
    right, wrong = _names(row)
    reason = (
        f"{who} puts {wrong} {worst + 1} ({_short(negatives[worst][field])}) above {right} "
        f"{place + 1} ({_short(floor)}){_others(higher)}."
    )
    return Suspicion(kind, reason, higher, -margin)


def _near_duplicate(row: Row) -> Suspicion | None:
    """Negatives that are nearly the same text as a positive."""
    positives, negatives = labelled(row)
    known = [(i, shingles_of(one["text"])) for i, one in enumerate(positives) if one.get("text")]
    found = {}
    for place, negative in enumerate(negatives):
        if negative.get("text"):
            text = plain(negative["text"])
            likely = [(i, other) for i, other in known if not _begins_otherwise(text, other)]
            shares = [(_jaccard(runs_in(text), other), -i) for i, other in likely]
            best = max(shares, default=(0.0, 0))
            if best[0] >= NEAR:
                found[place] = best
    if not found:
        return None
    near = sorted(found, key=found.__getitem__, reverse=True)
    worst = near[0]
    share, positive = found[worst]
    right, wrong = _names(row)
    reason = (
        f"{wrong.capitalize()} {worst + 1} has {100 * share:.0f} % in common with {right} "
        f"{1 - positive}{_others(near)}."
    )
    return Suspicion("near_duplicate", reason, near, share)


def _begins_otherwise(text: str, shingles: set[str]) -> bool:
    """Whether so much of a plain text's beginning is not among these shingles that the whole cannot
    be near: with d more than they are, at most their number / (their number + d) is in common.
    """
    begin = runs_in(text[: len(shingles) // 3 + 5])
    return len(begin - shingles) > (1 / NEAR - 1) * len(shingles)


def _names(row: Row) -> tuple[str, str]:
    """What is right and what is wrong, in words."""
    return (
        ("positive", "negative") if row.get("negatives") else ("chosen answer", "rejected answer")
    )


def _in_order(
    arrays: Mapping[Any, np.ndarray], lowest: np.ndarray, margins: np.ndarray
) -> tuple[np.ndarray, int]:
    """The rows by their worst suspicion, the more suspicious of one kind first; and how many have
    one.
    """
    kind, weight = arrays.get("kind", np.empty(0)), arrays.get("weight", np.empty(0))
    low = lowest[kind[lowest] > _KINDS.index(_LOW_MARGIN)]
    kind[low], weight[low] = _KINDS.index(_LOW_MARGIN), -margins[low]
    return np.lexsort((-weight, kind)), int(np.count_nonzero(kind < len(_KINDS)))


def _all_suspicions(place: int, row: Row, looked: Looked) -> list[Suspicion]:
    """What is suspicious about a row by itself and among the others, the most suspicious first."""
    found = suspicions_of(row)
    at = np.searchsorted(looked.lowest, place)
    if at < len(looked.lowest) and looked.lowest[at] == place:
        who = {"score": "teacher", "similarity": "retriever"}[looked.judge]
        margin = float(looked.margins[looked.judge][place])
        reason = (
            f"The {who}'s margin of {_short(margin)} is among the lowest {LOWEST * 100:.0f} % of "
            "those that are not negative."
        )
        found.append(Suspicion(_LOW_MARGIN, reason, [], -margin))
    return sorted(found, key=lambda one: _KINDS.index(one.kind))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _notes_of(output: str) -> dict[str, str]:
    """The columns of notes, each with the column of the schema that explains its codes."""
    names = ("passages_note", "teacher_error", "pair_note")
    return {mining_columns(output)[3]: "neg_note", **{name: name for name in names}}


def _rows_of(batch: Batch, output: str) -> Iterator[Row]:
    columns: dict[str, list[Any]] = defaultdict(lambda: [None] * len(batch))
    columns |= {name: batch.values_of(name) for name in batch.names}
    sims, pos_sims, pos_rank, *_ = mining_columns(output)
    scores = ("pos_scores", "neg_scores") if output == "neg" else ("", "")
    texts = ids = columns[""]
    if any(name in batch for name in ("pos", "passage", "pos_ids")):
        texts, ids = read_positives(batch)
    negatives = (columns[output], columns[f"{output}_ids"])
    passages = (columns["passages"], columns["passage_ids"])
    panels = {
        "positives": _passages(columns, texts, ids, pos_sims, scores[0]),
        "negatives": _passages(columns, *negatives, sims, scores[1], f"{output}_from"),
        "passages": _passages(columns, *passages, "", "passage_scores"),
        "chosen": _passages(columns, columns["chosen"], columns[""], "chosen_score"),
        "rejected": _passages(columns, columns["rejected"], columns[""], "rejected_score"),
    }
    for place in range(len(batch)):
        row: Row = {name: found[place] for name, found in panels.items()}
        query = columns["query"][place]
        row["query"] = columns["prompt"][place] if query is None else query
        row["id"] = as_id(columns["query_id"][place])
        row["query_score"] = columns["query_score"][place]
        notes = [(name, columns[name][place]) for name in _notes_of(output)]
        row["notes"] = [note for note in notes if note[1]]
        row["notes"] += [("relabelled", _said(one)) for one in columns["relabelled"][place] or ()]
        if any("similarity" in positive for positive in row["positives"]):
            row["rank"] = columns[pos_rank][place]
        yield row


def _passages(
    columns: Mapping[str, list[Any]],
    texts: Iterable[Any],
    ids: Iterable[Any],
    sims: str,
    scores: str = "",
    of: str = "",
) -> list[list[Passage]]:
    """The passages of each row, with what is known of each."""
    rows = zip(texts, ids, columns[sims], columns[scores], columns[of], strict=True)
    return [[_passage(*values) for values in zip_longest(*map(as_list, row))] for row in rows]


def _passage(text: Any, name: Any, similarity: Any, score: Any, index: Any) -> Passage:
    """What is known of one passage, and nothing of what is not."""
    numbers = (value if _is_number(value) else None for value in (similarity, score))
    known = zip(("text", "id", "from", *FIELDS), (text, as_id(name), index, *numbers), strict=True)
    return {key: value for key, value in known if value is not None}


def _shown_row(place: int, row: Row, looked: Looked) -> Row:
    """A row as the script reads it; what it does not have is left out."""
    margins = {f"{name}_margin": values[place] for name, values in looked.margins.items()}
    shown = {
        "number": place,
        "id": row["id"],
        "query": _cut(row["query"]),
        "rank": row.get("rank"),
        "query_score": _rounded(row["query_score"]),
        **{name: _rounded(float(value)) for name, value in margins.items()},
        **{name: [_shown_passage(one) for one in row[name]] for name in PANELS},
        "suspicions": [found._asdict() for found in _all_suspicions(place, row, looked)],
        "notes": [[name, _cut(note)] for name, note in row["notes"]],
    }
    for found in shown["suspicions"]:
        del found["weight"]
    return {name: value for name, value in shown.items() if value not in (None, [])}


def _shown_passage(passage: Passage) -> Passage:
    shown = {name: _rounded(value) for name, value in passage.items()}
    text = passage.get("text") or ""
    if len(text) > _CHARACTERS:
        shown |= {"text": text[:_CHARACTERS], "cut": len(text) - _CHARACTERS}
    return shown


def _cut(text: str | None) -> str | None:
    return f"{text[:_CHARACTERS]}…" if text and len(text) > _CHARACTERS else text


def _said(entry: Mapping[str, Any]) -> str:
    return f"{entry['action']}: {entry['id']}, margin {_short(entry['margin'])}"


def _others(places: Sequence[int]) -> str:
    return f", and {len(places) - 1} more" if len(places) > 1 else ""


def _jaccard(one: set[str], other: set[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _rounded(value: Any) -> Any:
    """A float with as many digits as its float32 has, None for NaN; anything else as it is."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _short(value: float) -> str:
    return f"{value:.4g}"
