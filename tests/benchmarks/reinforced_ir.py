"""Time of `generate_bge_train_data` against the original's procedure, on all but encoding.

    python tests/benchmarks/reinforced_ir.py            # 20,000 rows, about four minutes on 2 cores
    python tests/benchmarks/reinforced_ir.py --quick    # a tenth of them, for a look

The procedure is written out here from its description: FAISS searches the 2,000 best for every
query and answer, 32 at a time; the rank of each positive is looked up in a list of its row; from
there one goes on to the first score at or below 95 % of the positive's. `neg_type="hard"` then
draws 50 of ranks 30 to 200 and looks each up again to sort them. Synthetic clustered unit vectors;
the passages are the rows' positives, as by default. Encoding takes no time: the model looks its
vectors up.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections.abc import Callable
from typing import Literal

import datasets
import faiss
import numpy as np
from mining import DIMENSION, NEGATIVES, WIDE, clustered_vectors, near, products

from rir_hf.reinforced_ir import generate_bge_train_data

BATCH, TAKEN = 32, 50
SHARE = 0.95

Kind = Literal["hard", "95neg"]


class Lookup:
    """A model that has the vectors of its texts already; texts end in their number."""

    def __init__(self, rows: int) -> None:
        self.passages = clustered_vectors(rows, seed=0)
        self.queries = near(self.passages, 1.0, seed=2)
        self.answers = near(self.passages, 0.7, seed=3)

    def encode_queries(self, texts: list[str], **_: object) -> np.ndarray:
        """Vectors of queries."""
        return self.queries[[int(text.split()[-1]) for text in texts]]

    def encode_corpus(self, texts: list[str], **_: object) -> np.ndarray:
        """Vectors of passages, or of answers."""
        vectors = self.answers if texts[0].startswith("answer") else self.passages
        return vectors[[int(text.split()[-1]) for text in texts]]


def wide_search(index: faiss.Index, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best 2,000 of each query, 32 queries at a time."""
    starts = range(0, len(queries), BATCH)
    found = [index.search(queries[at : at + BATCH], min(WIDE, index.ntotal)) for at in starts]
    scores, places = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(places)


def rank_of(positive: int, places: np.ndarray) -> int:
    """The rank of the positive, -1 where it is not among the hits."""
    return list(places).index(positive) if positive in list(places) else -1


def first_below(scores: np.ndarray, rank: int) -> int:
    """The first rank whose score is at or below the ceiling of the score at `rank`, -1 for none."""
    if rank < 0:
        return -1
    later = range(rank + 1, len(scores))
    return next((other for other in later if scores[other] <= scores[rank] * SHARE), -1)


def texts_of(places: list[int], texts: list[str], positive: int) -> list[str]:
    """Fifteen distinct texts, none of them the positive's."""
    chosen: list[str] = []
    for text in (texts[place] for place in places):
        if text != texts[positive] and text not in chosen and len(chosen) < NEGATIVES:
            chosen.append(text)
    return chosen


def original(model: Lookup, rows: list[dict[str, str]], kind: Kind) -> list[dict[str, object]]:
    """The procedure of the original."""
    texts = [row["passage"] for row in rows]
    index = faiss.index_factory(DIMENSION, "Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(model.encode_corpus(texts))
    scores, places = wide_search(index, model.encode_queries([row["query"] for row in rows]))
    _, of_answers = wide_search(index, model.encode_corpus([row["answer"] for row in rows]))
    found = []
    for at, row in enumerate(rows):
        below = first_below(scores[at], rank_of(at, places[at]))
        chosen = list(places[at][below : below + TAKEN])
        if kind == "hard" or below < 0:
            chosen = random.sample(list(places[at][30:200]), TAKEN)
        chosen = sorted(chosen, key=lambda place: list(places[at]).index(place))
        below = first_below(scores[at], rank_of(at, of_answers[at]))
        answers = list(of_answers[at][below : below + TAKEN])
        if below < 0:
            answers = random.sample(range(len(texts)), TAKEN)
        negatives = {"neg": texts_of(chosen, texts, at), "neg_answer": texts_of(answers, texts, at)}
        found.append(
            {"query": row["query"], "answer": row["answer"], "pos": [texts[at]], **negatives}
        )
    return found


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Time both in turn, and the search that ours cannot avoid."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2,000 rows instead of 20,000")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    count = 2_000 if options.quick else 20_000
    model = Lookup(count)
    rows = [
        {name: f"{name} {number}" for name in ("query", "answer", "passage")}
        for number in range(count)
    ]
    generate_bge_train_data(model, queries_corpus=rows[:100])  # imports
    floor = timed(lambda: products([model.queries, model.answers], model.passages))
    print(f"{count:,} rows; the two matrix products alone take {floor:.1f} s\n")
    print("| neg_type | here, s | the original's procedure, s |\n| --- | --- | --- |")
    kinds: tuple[Kind, ...] = ("hard", "95neg")
    for kind in kinds:
        ours = timed(lambda: generate_bge_train_data(model, queries_corpus=rows, neg_type=kind))  # noqa: B023 - called at once
        theirs = timed(lambda: original(model, rows, kind))  # noqa: B023 - called at once
        print(f"| {kind} | {ours:.1f} | {theirs:.1f} |")


if __name__ == "__main__":
    main()
