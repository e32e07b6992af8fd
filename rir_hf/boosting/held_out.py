"""What a run is judged with: held-out queries from the user's judgements, from pairs that are set
aside, or from passages that nothing is trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset, Features, List, Value

from rir_hf.boosting.queries import COPIED, TAKEN, Runner, without, write_queries
from rir_hf.boosting.record import RunFolder, Stage, digest_of_rows, rows_of
from rir_hf.boosting.split import draw_groups, groups_of_pairs, groups_of_passages
from rir_hf.boosting.state import VERSION, Options
from rir_hf.core.columns import require_columns
from rir_hf.core.configured import key_of
from rir_hf.evaluation.runs import Qrels, as_qrels
from rir_hf.models.llm import LLM

Judged: TypeAlias = Dataset | tuple[Dataset, Qrels]
"""Queries with `query_id`, `query`, `pos_ids`, or queries and their judgements apart."""

FEATURES = Features(
    {
        "query_id": Value("string"),
        "query": Value("string"),
        "kind": Value("string"),
        "pos_ids": List(Value("string")),
        "grades": List(Value("float64")),
        "passage": Value("string"),
        "synthetic": Value("bool"),
    }
)
"""The columns of held-out queries; `passage` is what stands in the corpus in place of the one that
the query was taken from.
"""

_SET_ASIDE = Features({"id": Value("string"), "part": Value("string"), "is_first": Value("bool")})

FEWEST = 10
"""Held-out queries that are needed to compare two models."""


@dataclass
class SetAside:
    """What is set aside to judge with."""

    folder: RunFolder
    corpus: Dataset
    options: Options
    llm: LLM | None
    run: Runner
    sizes: tuple[int, int]
    set_aside: frozenset[str] = frozenset()

    @cached_property
    def corpus_key(self) -> str:
        """The digest of the corpus."""
        return digest_of_rows(self.corpus)

    def stages(
        self, dev: Judged | None, test: Judged | None, pairs: Dataset
    ) -> tuple[Stage, Stage, Dataset]:
        """Held-out queries for dev and test, and the pairs that are left to train on."""
        given = {"dev": dev, "test": test}
        missing = [name for name, judged in given.items() if judged is None]
        sizes = dict(zip(given, self.sizes, strict=True))
        parts: dict[str, Dataset] = {}
        if missing and len(pairs):
            found, pairs = split_pairs(pairs, [sizes[name] for name in missing], self.options.seed)
            parts = dict(zip(missing, found, strict=True))
        stages = []
        for name, judged in given.items():
            if judged is not None:
                rows = held_out_of(judged, self.corpus, name)
            elif name in parts:
                rows = parts[name]
            else:
                stages.append(self._generated(name, sizes))
                continue
            stages.append(self._kept(name, rows))
        return stages[0], stages[1], pairs

    def _kept(self, name: str, rows: Dataset) -> Stage:
        key = {"rows": digest_of_rows(rows), "corpus": self.corpus_key}
        return self.folder.rows(f"held_out/{name}", key, lambda: (rows, {"queries": len(rows)}))

    def _generated(self, name: str, sizes: Mapping[str, int]) -> Stage:
        """Queries generated for passages that nothing else is generated from."""
        options = self.options
        drawn = self._drawn(sizes)
        rows = drawn.rows()
        self.set_aside |= set(rows["id"])
        needs_llm = not set(options.kinds) <= set(TAKEN)
        key = {
            "from": drawn.key,
            "kinds": options.kinds,
            "task": options.task,
            "language": options.language,
            "min_quality": options.min_quality,
            "generator": key_of(self.llm) if needs_llm else None,
            "seed": options.seed,
            "version": VERSION,
        }

        def make() -> tuple[Dataset, Mapping[str, Any]]:
            first = {row["id"] for row in rows if row["part"] == name and row["is_first"]}
            chosen = [place for place, id in enumerate(self.corpus["id"]) if id in first]
            texts = self.corpus.select(chosen).select_columns(["id", "text"]).flatten_indices()
            made, counts = write_queries(
                texts,
                options.kinds,
                1,
                llm=self.llm,
                task=options.task,
                language=options.language,
                min_quality=options.min_quality,
                seed=options.seed,
                run=self.run,
            )
            kept = held_out_from(made)
            _check_enough(kept, name)
            return kept, {**counts, "kept": len(kept)}

        return self.folder.rows(f"held_out/{name}", key, make)

    def _drawn(self, sizes: Mapping[str, int]) -> Stage:
        """Passages of dev and of test, with all that are nearly the same."""
        key = {
            "corpus": self.corpus_key,
            "sizes": dict(sizes),
            "seed": self.options.seed,
            "version": VERSION,
        }

        def make() -> tuple[Dataset, Mapping[str, Any]]:
            groups = groups_of_passages(self.corpus)
            names = self.corpus["id"]
            parts = draw_groups(groups, [*sizes.values()], self.options.seed)
            rows = [
                {"id": names[place], "part": name, "is_first": bool(groups[place] == place)}
                for name, places in zip(sizes, parts, strict=True)
                for place in places
            ]
            return rows_of(rows, _SET_ASIDE), {
                name: len(part) for name, part in zip(sizes, parts, strict=True)
            }

        return self.folder.rows("held_out/passages", key, make)


def held_out_of(judged: Judged, corpus: Dataset, who: str) -> Dataset:
    """Held-out queries from what the user judged.

    Raises:
        ValueError: a column is missing, or fewer than 10 queries have a judged passage in the
            corpus.
    """
    if isinstance(judged, tuple):
        queries, qrels = judged[0], as_qrels(judged[1])
    else:
        require_columns(judged, ["query_id", "query", "pos_ids"], who)
        queries, qrels = judged, as_qrels(judged)
    require_columns(queries, ["query_id", "query"], who)
    known = set(corpus["id"])
    rows = []
    for name, query in zip(queries["query_id"], queries["query"], strict=True):
        grades = qrels.get(str(name), {})
        if any(grade > 0 and passage in known for passage, grade in grades.items()):
            rows.append(_row(str(name), query, None, grades))
    if len(rows) < FEWEST:
        raise ValueError(
            f"{who}: {len(rows)} of {len(queries)} queries have a relevant passage in the corpus, "
            f"which is too few to judge by; at least {FEWEST} are needed. Do the ids belong to "
            "this corpus?"
        )
    return rows_of(rows, FEATURES)


def split_pairs(pairs: Dataset, sizes: Sequence[int], seed: int) -> tuple[list[Dataset], Dataset]:
    """Parts of labelled pairs as held-out queries, and the pairs that are left to train on.

    A part takes at most a fifth of the pairs. Pairs with the same or nearly the same query, or with
    a positive in common, stay together.
    """
    groups = groups_of_pairs(pairs)
    sizes = [min(size, len(pairs) // 5) for size in sizes]
    drawn = draw_groups(groups, sizes, seed)
    parts = []
    for positions in drawn:
        rows = [_row(*_of_pair(pair)) for pair in pairs.select(positions)]
        parts.append(rows_of(rows, FEATURES))
    left = np.setdiff1d(np.arange(len(pairs)), np.concatenate(drawn))
    return parts, pairs.select(left).flatten_indices()


def held_out_from(queries: Dataset) -> Dataset:
    """Generated queries as held-out ones: those that are no copies, and those taken from their
    passage with the passage without them.
    """
    rows = []
    for query in queries:
        is_taken = query["kind"] in TAKEN
        is_copy = query["copied"] >= COPIED and not is_taken
        if is_copy or query["dropped"] is not None:
            continue
        passage = without(query["query"], query["passage"]) if is_taken else None
        if passage == "":
            continue
        grades = dict.fromkeys(query["pos_ids"], 1.0)
        rows.append(
            _row(query["query_id"], query["query"], query["kind"], grades, passage, synthetic=True)
        )
    return rows_of(rows, FEATURES)


def _of_pair(pair: Mapping[str, Any]) -> tuple[str, str, None, dict[str, float]]:
    return pair["query_id"], pair["query"], None, dict.fromkeys(pair["pos_ids"], 1.0)


def _row(
    query_id: str,
    query: str,
    kind: str | None,
    grades: Mapping[str, float],
    passage: str | None = None,
    *,
    synthetic: bool = False,
) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "query": query,
        "kind": kind,
        "pos_ids": [*grades],
        "grades": [*grades.values()],
        "passage": passage,
        "synthetic": synthetic,
    }


def _check_enough(rows: Dataset, name: str) -> None:
    if len(rows) < FEWEST:
        raise ValueError(
            f"{name}: only {len(rows)} queries could be generated to judge by, at least {FEWEST} "
            f"are needed. Give {name}, or a larger corpus."
        )
