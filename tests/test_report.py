"""The report: its numbers are those of plain loops over the mined rows, in a dict, a table, the log and a picture."""

from __future__ import annotations

import copy
import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value, load_from_disk

from rir_hf import MineNegatives, attach_index, plot_report, report
from rir_hf.report import as_table

RULES = ["positive", "margin", "abs_margin", "max_score", "duplicate", "empty", "skip_ranks"]


@pytest.fixture(scope="module")
def mined() -> Dataset:
    """Rows mined twice, as `neg` and as `neg_answer`, in which everything that the report counts happens.

    The passage n has the vector (n, 1), so that the query (s, t) gives it the similarity s * n + t. Passages 8 and 9 share a text,
    passage 7 is empty.
    """
    texts = {7: " ", 8: "text 9"}
    corpus = Dataset.from_dict(
        {
            "id": [f"p{n}" for n in range(40)],
            "text": [texts.get(n, f"text {n}") for n in range(40)],
            "embedding": [[float(n), 1.0] for n in range(40)],
        }
    )
    rows: list[tuple[list[str], list[float], list[float]]] = [
        (["text 16"], [1.0, 0.0], [0.5, 0.5]),  # ceiling by max_score; skipped ranks, a repeated text and an empty one
        (["text 20", "text 5"], [1.0, 0.0], [0.0, 0.0]),  # two positives, one of them among the negatives' ranks
        (["text 20"], [0.5, 0.0], [1.0, 0.0]),  # ceiling by margin
        (["text 16"], [0.25, 0.0], [0.25, 0.0]),  # ceiling by abs_margin; the rest is below min_score
        (["text 38"], [-1.0, 0.0], [0.5, 0.0]),  # nothing below the ceiling
        (["text 39", "unknown"], [0.125, 2.0], [1.0, 0.0]),  # one positive that is not in the corpus
        (["unknown"], [-1.0, 50.0], [1.0, 0.0]),  # no positive in the corpus
        (["text 3"], [0.0, 0.0], [1.0, 0.0]),  # no query vector
        ([], [0.25, 0.0], [0.5, 0.0]),  # no positive at all
    ]
    kinds = {"pos": List(Value("string")), "embedding": List(Value("float32")), "answer_embedding": List(Value("float32"))}
    pairs = Dataset.from_list([dict(zip(kinds, row, strict=True)) for row in rows], features=Features(kinds))
    options: dict[str, Any] = {"margin": 0.25, "abs_margin": 2.0, "max_score": 11.0, "min_score": 2.0, "skip_ranks": 30}
    corpus = attach_index(corpus)
    once = pairs.map(MineNegatives(corpus, num_negatives=4, **options), batched=True)
    options.update(query="answer_embedding", output="neg_answer", max_score=9.0)
    return once.map(MineNegatives(corpus, num_negatives=3, **options), batched=True)


def quantile(ordered: list[float], share: float) -> float:
    """Linear interpolation between the two values around the place."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def distribution(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    shares = {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    expected = {"mean": sum(ordered) / len(ordered), **{name: quantile(ordered, share) for name, share in shares.items()}}
    return {name: pytest.approx(value, rel=1e-12, abs=1e-12) for name, value in expected.items()}


def recount(mined: Dataset, output: str, before: str) -> dict[str, Any]:
    """The report by plain loops."""
    counted: dict[str, Any] = {"rows": 0, "negatives": 0, "rows_short": 0, "short_because": {}, "skipped": dict.fromkeys(RULES, 0)}
    counted.update(positives=0, positives_not_in_corpus=0, positives_worse_than_20=0)
    positives, negatives, differences = [], [], []
    for row in mined:
        counted["rows"] += 1
        counted["negatives"] += len(row[output])
        note = row[f"{output}_note"]
        if note:
            counted["rows_short"] += 1
            counted["short_because"][note] = counted["short_because"].get(note, 0) + 1
        for rule, number in row[f"{output}_skipped"].items():
            counted["skipped"][rule] += number
        counted["positives"] += len(row["pos"])
        known = [score for score in row[f"{before}pos_sims"] if score is not None]
        counted["positives_not_in_corpus"] += row["pos"].count("unknown")
        if known and row[f"{before}pos_rank"] >= 20:
            counted["positives_worse_than_20"] += 1
        positives += known
        negatives += row[f"{output}_sims"]
        if known and row[f"{output}_sims"]:
            differences.append(min(known) - max(row[f"{output}_sims"]))
    counted["positive_similarity"] = distribution(positives)
    counted["negative_similarity"] = distribution(negatives)
    counted["difference"] = distribution(differences)
    return counted
