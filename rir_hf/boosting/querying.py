"""The first stage of a round: queries for passages from all parts of the corpus, with what speaks
against each.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from rir_hf.boosting.options import TAKEN
from rir_hf.boosting.queries import (
    COPIED,
    FEATURES,
    THINNED,
    common_sentences,
    first_of_equal,
    sentences_of,
    without,
    write_queries,
)
from rir_hf.boosting.record import Stage, rows_of
from rir_hf.boosting.split import cover
from rir_hf.boosting.state import BOTH, LABELLED, UNLABELLED, Round, is_copy, is_kept, is_pair
from rir_hf.core.configured import key_of
from rir_hf.data.audit import leaks
from rir_hf.index.search import Search

logger = logging.getLogger(__name__)

ROUND_TRIP = 20
"""A generated query must find its passage among so many."""

_PASSAGES_PER_CLUSTER = 20
_MOST_CLUSTERS = 256


def queries(state: Round) -> Stage:
    """Generated queries and those of the user; `dropped` says why one is left out."""
    options, setup = state.options, state.setup
    key = {
        "passages": options.passages,
        "per_passage": options.queries_per_passage,
        "written": options.written,
        "kinds": options.kinds,
        "word_dropout": options.word_dropout,
        "min_quality": options.min_quality,
        "examples": options.examples,
        "given": setup.given_key,
        "held_out": [setup.dev.key, setup.test.key],
        "used": sorted(state.used),
        "generator": None if set(options.kinds) <= set(TAKEN) else key_of(state.generator),
    }
    return state.rows("queries", key, lambda: _make(state))


def _make(state: Round) -> tuple[Dataset, dict[str, Any]]:
    made, counts = _generated(state)
    rows = concatenate_datasets([state.setup.given, made])  # the first of equal ones is kept
    reasons = _reasons(state, rows)
    rows = rows.remove_columns("dropped").add_column("dropped", reasons)
    rows = rows.cast(FEATURES)
    copies = sum(map(is_copy, made))
    why = Counter(reason for reason in reasons if reason is not None)
    counts = {**counts, "copies": copies, "given": len(state.setup.given), **why}
    kinds = Counter("pairs" if is_pair(row) else "lists" for row in rows if is_kept(row))
    return rows, {**counts, "pairs": kinds["pairs"], "lists": kinds["lists"]}


def _generated(state: Round) -> tuple[Dataset, Mapping[str, int]]:
    """Queries for sampled passages, with the ids of all that are nearly the same: several taken
    from each, and one written for each of the first, which are of all clusters too.
    """
    options = state.options
    counts = Counter(passages=0, asked=0, written=0)
    if not options.passages:
        return rows_of([], FEATURES), counts
    whole = _sampled(state)
    common = dict.fromkeys(common_sentences(whole["text"], state.setup.corpus["text"]))
    passages = whole.map(
        _left_to_ask,
        fn_kwargs={"kept_back": dict(state.setup.kept_back), "common": common},
        features=whole.features,
    )
    first = passages.select(range(min(options.written, len(passages))))
    taken = [kind for kind in options.kinds if kind in TAKEN]
    written = [kind for kind in options.kinds if kind not in TAKEN]
    same: dict[str, Any] = {"llm": state.generator, "run": state.setup.run, "seed": state.seed}
    parts = [rows_of([], FEATURES)]
    if taken:
        made, found = write_queries(
            passages,
            options,
            kinds=taken,
            per_passage=options.queries_per_passage,
            word_dropout=options.word_dropout,
            **same,
        )
        parts.append(made)
        counts.update(found)
    if written:
        made, found = write_queries(first, options, kinds=written, **same)
        parts.append(made)
        counts.update(found)
    made = concatenate_datasets(parts)
    texts = dict(zip(whole["id"], whole["text"], strict=True))
    mute = len(passages) - len(set(chain.from_iterable(made["pos_ids"])))
    if taken and mute:
        logger.warning("%d of %d passages have no title or sentence of a length to ask with.",
                       mute, len(passages))  # fmt: skip
    made = made.map(_of_corpus, fn_kwargs={"texts": texts, "twins": dict(state.setup.twins)})
    return made.cast(FEATURES), {**counts, "passages": len(passages if taken else first)}


def _left_to_ask(
    row: dict[str, Any], kept_back: dict[str, list[str]], common: dict[str, None]
) -> dict[str, Any]:
    """A passage without the title and the sentences that held-out queries were taken from, and
    without those that many passages have.
    """
    sources = kept_back.get(row["id"], [])
    # The longest first: a short one may be the end of another.
    shared = sorted(common.keys() & sentences_of(row["text"]), key=lambda each: (-len(each), each))
    for source in [*sources, *shared]:
        row["text"] = without(source, row["text"])
    return row if row.get("title") not in sources else {**row, "title": None}


def _of_corpus(
    row: dict[str, Any], texts: dict[str, str], twins: dict[str, list[str]]
) -> dict[str, Any]:
    """A query with its whole passage, and the ids of all passages that are nearly that."""
    (name,) = row["pos_ids"]
    return {"pos_ids": twins.get(name, [name]), "pos": [texts[name]], "passage": texts[name]}


def _sampled(state: Round) -> Dataset:
    """Passages from all clusters of the corpus in turn, none of them set aside; then those that
    held-out queries are of, which have other sentences.
    """
    corpus, number = state.searched, state.options.passages
    vectors = np.array(corpus.with_format("numpy")["embedding"][:], np.float32)
    clusters = clusters_of(vectors, number, state.seed)
    texts = zip(corpus["id"], corpus["text"], strict=True)
    free = np.array([bool(text) and name not in state.setup.set_aside for name, text in texts])
    fresh = np.array([name not in state.used for name in corpus["id"]])
    is_held_out = np.array([name in state.setup.kept_back for name in corpus["id"]])
    needed = np.flatnonzero(free & fresh & is_held_out)[:number]
    others = np.where(free & fresh & ~is_held_out, clusters, -1)
    drawn = np.concatenate([cover(others, number - len(needed), state.seed), needed])
    if len(drawn) < number:  # what earlier rounds have used comes last
        again = cover(np.where(free & ~fresh, clusters, -1), number - len(drawn), state.seed)
        drawn = np.concatenate([drawn, again])
    if not len(drawn):
        raise ValueError("No passage is left to write queries for: all are empty or set aside.")
    return state.setup.corpus.select(drawn)


def _reasons(state: Round, rows: Dataset) -> list[str | None]:
    """Why each query is left out; None where it is not."""
    held_out = concatenate_datasets([state.setup.dev.rows(), state.setup.test.rows()])
    near = leaks(rows.select_columns(["query"]), held_out.select_columns(["query"]))["leak"]
    lost = _lost(state, rows)
    reasons: list[str | None] = []
    for said, leak, is_lost in zip(rows["dropped"], near, lost, strict=True):
        if said is not None:
            reasons.append(said)
        elif leak is not None:
            reasons.append("near held-out")
        else:
            reasons.append("lost in round trip" if is_lost else None)
    kept = [place for place, reason in enumerate(reasons) if reason is None]
    for place, is_first in zip(kept, first_of_equal(rows.select(kept)["query"]), strict=True):
        reasons[place] = None if is_first else "repeated"
    return reasons


def _lost(state: Round, rows: Dataset) -> list[bool]:
    """Whether a query that was written does not find its passage again."""
    written = [
        row
        for row, (kind, share) in enumerate(zip(rows["kind"], rows["copied"], strict=True))
        if kind not in (*TAKEN, *THINNED, LABELLED, UNLABELLED) and share < COPIED
    ]
    lost = [False] * len(rows)
    if not written:
        return lost
    some = state.with_vectors(rows.select(written))
    found = state.setup.run(some, Search(state.searched, index=BOTH, k=ROUND_TRIP))
    for row, own, hits in zip(written, found["pos_ids"], found["hit_ids"], strict=True):
        lost[row] = not set(own) & set(hits)
    return lost


def clusters_of(vectors: np.ndarray, number: int, seed: int) -> np.ndarray:
    """The cluster of each vector, `(n,)`, by k-means: about 20 of those drawn come from each."""
    import faiss

    count = int(np.clip(number // _PASSAGES_PER_CLUSTER, 1, _MOST_CLUSTERS))
    count = min(count, len(vectors))
    kmeans = faiss.Kmeans(
        vectors.shape[1], count, niter=10, seed=seed, min_points_per_centroid=1, verbose=False
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.index.search(vectors, 1)[1][:, 0], np.int64)
