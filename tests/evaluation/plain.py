"""The measures written as plainly as can be, to hold the real ones against."""

from __future__ import annotations

import math
import struct


def single(score: float) -> float:
    """A score in single precision, as trec_eval holds it."""
    try:
        return float(struct.unpack("f", struct.pack("f", score))[0])
    except OverflowError:
        return math.copysign(math.inf, score)


def ranking(hits: dict[str, float]) -> list[str]:
    """Passage ids in trec_eval's order: score descending, then passage id descending."""
    return sorted(hits, key=lambda passage: (single(hits[passage]), passage), reverse=True)


def plain(grades: dict[str, float], hits: dict[str, float], measure: str) -> float:
    """One measure of one query."""
    name, _, at = measure.partition("@")
    relevant = sum(grade > 0 for grade in grades.values())
    cut = int(at) if at else relevant if name == "Rprec" else len(hits)
    if relevant == 0:
        return 0.0
    found = [max(grades.get(passage, 0), 0) for passage in ranking(hits)[:cut]]
    marks = [grade > 0 for grade in found]
    if name == "nDCG":
        best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:cut]
        return discounted(found) / discounted(best)
    if name == "AP":
        shares = [sum(marks[:rank]) / rank for rank, mark in enumerate(marks, 1) if mark]
        return sum(shares) / relevant
    if name == "RR":
        return next((1 / rank for rank, mark in enumerate(marks, 1) if mark), 0.0)
    if name == "Success":
        return float(any(marks))
    return sum(marks) / (relevant if name == "R" else cut)


def discounted(gains: list[float]) -> float:
    """Sum of the gains, each divided by the logarithm of its rank plus 1."""
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
