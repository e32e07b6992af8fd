"""What a run is judged with: held-out queries from the user's judgements, from pairs that are set
aside, or else from sentences that no training query comes from, and from the user's own queries,
judged by the teacher.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets

from rir_hf.boosting.options import TAKEN, Options
from rir_hf.boosting.queries import (
    COMMON,
    COPIED,
    THINNED,
    Runner,
    first_of_equal,
    passages_with,
    sentences_of,
    thinned,
    thinned_kind,
    without,
    write_queries,
)
from rir_hf.boosting.record import RunFolder, Stage, rows_of
from rir_hf.boosting.state import AT_ONCE, UNLABELLED, searched_by, words_and_vectors
from rir_hf.core.columns import as_id, digest_of_rows, require_columns
from rir_hf.core.configured import key_of
from rir_hf.core.draws import generator_of
from rir_hf.data.near import first_of_each_group
from rir_hf.data.split import NEAR, draw_groups, groups_of_pairs, joined
from rir_hf.evaluation.runs import Qrels, as_qrels
from rir_hf.index.embed import Embed
from rir_hf.mining.candidates import CandidateLists
from rir_hf.models.llm import LLM
from rir_hf.models.retriever import Retriever
from rir_hf.teaching.passages import ScorePassages
from rir_hf.teaching.teacher import Teacher

logger = logging.getLogger(__name__)

Judged: TypeAlias = Dataset | tuple[Dataset, Qrels]
"""Queries with `query_id`, `query`, `pos_ids`, or queries and their judgements apart."""

FEATURES = Features(
    {
        "query_id": Value("string"),
        "query": Value("string"),
        "kind": Value("string"),
        "pos_ids": List(Value("string")),
        "grades": List(Value("float64")),
        "lacking": List(Value("string")),
        "source": Value("string"),
        "synthetic": Value("bool"),
        "trained_on": Value("bool"),
        "weight": Value("float64"),
    }
)
"""The columns of held-out queries; `lacking` is what stands in the corpus in place of the passages
that a query was taken from, `source` what was taken; `trained_on` whether other queries of its
passage are trained on, where it was generated; `weight` what it counts in a mean.
"""

FEWEST = 10
"""Held-out queries that are needed to compare two models."""

MOST_OF_EACH = 8
"""Held-out queries that are generated from one passage at most."""

_TO_CHOOSE_FROM = 20
_SENTENCES = 3
_LOOKED_AT = 1000
_WORD_DROPOUT = 0.4


@dataclass
class SetAside:
    """What is set aside to judge with; `passages` are the ids that no query is trained on.

    Training makes a retriever better for the passages that it has queries of, and worse for others.
    So most generated queries are of passages with other queries in the training, some are of
    passages without one, and in a mean each counts as much as there are such passages.
    """

    folder: RunFolder
    corpus: Dataset
    options: Options
    retriever: Retriever
    teacher: Teacher | None
    llm: LLM | None
    run: Runner
    sizes: tuple[int, int]
    passages: frozenset[str] = frozenset()

    @cached_property
    def corpus_key(self) -> str:
        """The digest of the corpus."""
        return digest_of_rows(self.corpus)

    @cached_property
    def twins(self) -> dict[str, list[str]]:
        """For each passage that is nearly the same as another the ids of all of them."""

        def find() -> dict[str, Any]:
            groups = first_of_each_group(self.corpus, "text", NEAR)
            members: dict[int, list[str]] = {}
            for name, group in zip(self.corpus["id"], groups.tolist(), strict=True):
                members.setdefault(group, []).append(name)
            return {"groups": [names for names in members.values() if len(names) > 1]}

        name, key = "held_out/twins", {"corpus": self.corpus_key}
        if self.folder.has_other(name, key):
            logger.warning("%s holds a run over another corpus, or of another version of this "
                           "package: everything is made anew.", self.folder.root)  # fmt: skip
        found = self.folder.value(name, key, find)
        return {name: names for names in found["groups"] for name in names}

    @cached_property
    def of_short(self) -> bool:
        """Whether most passages have two sentences at most, so that little says what they are about
        without the one that asks for them: they are then judged whole, by thinned sentences.
        """
        drawn = generator_of(self.options.seed, "sentences").permutation(len(self.corpus))
        texts = filter(None, self.corpus.select(np.sort(drawn[:_LOOKED_AT]))["text"])
        return float(np.median([len(sentences_of(text)) for text in texts] or [0])) < _SENTENCES

    def stages(
        self, dev: Dataset | None, test: Dataset | None, pairs: Dataset, queries: Dataset
    ) -> tuple[Stage, Stage, Dataset, Dataset]:
        """Held-out queries for dev and test, as `held_out_of` gives them or to be made, and the
        pairs and the queries without labels that are left to train on.
        """
        given = {"dev": dev, "test": test}
        sizes = dict(zip(given, self.sizes, strict=True))
        rows = {name: part for name, part in given.items() if part is not None}
        missing = {name: sizes[name] for name in given if name not in rows}
        if missing and len(pairs):
            seed = self.options.seed
            parts, left = split_pairs(pairs, [*missing.values()], seed, self.twins)
            if min(map(len, parts)) >= FEWEST:
                rows |= dict(zip(missing, parts, strict=True))
                missing, pairs = {}, left
            else:
                logger.warning("Too few pairs to set some aside: queries are generated to judge.")
        asked = queries.select([])
        if "dev" in missing:
            asked, queries = split_queries(queries, missing["dev"], self.options.seed)
            missing["dev"] -= len(asked)
        trained_on = {name for ids in pairs["pos_ids"] for name in ids}
        drawn = self._drawn(missing, trained_on)
        aside = chain.from_iterable(ids["aside"] for ids in drawn.values())
        self.passages = frozenset(twin for name in aside for twin in self.twins.get(name, [name]))
        stages = [
            self._kept(name, rows[name])
            if name in rows
            else self._made(name, drawn[name], missing[name], asked if name == "dev" else None)
            for name in given
        ]
        return stages[0], stages[1], pairs, queries

    def _kept(self, name: str, rows: Dataset) -> Stage:
        key = {"rows": digest_of_rows(rows), "corpus": self.corpus_key}
        return self.folder.rows(f"held_out/{name}", key, lambda: (rows, {"queries": len(rows)}))

    def _made(
        self, name: str, ids: Mapping[str, list[str]], size: int, asked: Dataset | None
    ) -> Stage:
        """Queries generated for passages, and the user's own that are set aside, which the teacher
        judges.
        """
        options = self.options
        needs_llm = not set(options.kinds) <= set(TAKEN)
        key = {
            "corpus": self.corpus_key,
            "passages": dict(ids),
            "to be trained on": min(options.passages, len(self.corpus)),
            "size": size,
            "kinds": options.kinds,
            "word_dropout": options.word_dropout,
            "task": options.task,
            "language": options.language,
            "min_quality": options.min_quality,
            "examples": options.examples,
            "generator": key_of(self.llm) if needs_llm else None,
            "seed": options.seed,
        }
        if self.of_short:
            key["of short passages"] = True
        if asked:
            key |= {
                "asked": digest_of_rows(asked),
                "retriever": key_of(self.retriever),
                "teacher": key_of(self.teacher),
            }

        def make() -> tuple[Dataset, Mapping[str, Any]]:
            rows, counts = self._generated(ids, size)
            if asked:
                judged = judged_by_teacher(
                    asked, self.corpus, self.retriever, self.teacher, self.run, options.language
                )
                rows = concatenate_datasets([rows, judged])
                counts["judged by the teacher"] = len(judged)
            if len(rows) < FEWEST:
                raise ValueError(
                    f"{name}: only {len(rows)} queries could be generated to judge by, at least "
                    f"{FEWEST} are needed. Give dev and test, or a larger corpus, of passages with "
                    "several sentences: each is judged without the one that asks for it."
                )
            if counts["kept"] < size:
                logger.info("%s: %d queries in place of %d: the corpus gives no more.",
                            name, counts["kept"], size)  # fmt: skip
            return rows, counts

        return self.folder.rows(f"held_out/{name}", key, make)

    def _generated(self, ids: Mapping[str, list[str]], size: int) -> tuple[Dataset, dict[str, Any]]:
        """At most so many queries for passages, and the counts."""
        known, counts = self._written(ids["trained_on"], size - of_those_aside(size), 1)
        known = known.filter(_leaves_a_sentence)
        new, more = self._written(ids["aside"], size - len(known), MOST_OF_EACH)
        are_first = first_of_equal([*known["query"], *new["query"]])
        new = new.select(np.flatnonzero(are_first[len(known) :]))
        passages = len(self.corpus)
        number = min(self.options.passages, passages - len(self.passages)) if len(known) else 0
        kept = concatenate_datasets([known, new]).remove_columns(["trained_on", "weight"])
        each = [_each(number, known), _each(passages - number, new)]
        weights = np.repeat(each, [len(known), len(new)])
        of_all = len(kept) / (weights.sum() or 1.0)
        kept = kept.add_column("weight", (of_all * weights).tolist())
        kept = kept.add_column("trained_on", [True] * len(known) + [False] * len(new))
        if self.options.word_dropout:
            kept = half_thinned(kept, self.options.word_dropout, self.options.seed)
        asked = {name: counts[name] + more[name] for name in counts}
        return kept.cast(FEATURES), {**asked, "kept": len(kept)}

    def _written(self, ids: Sequence[str], size: int, most: int) -> tuple[Dataset, dict[str, int]]:
        """So many queries for passages, as few of each as that takes and so many at most, and the
        counts.
        """
        wanted = set(ids)
        chosen = [place for place, id in enumerate(self.corpus["id"]) if id in wanted]
        made, counts = write_queries(
            self.corpus.select(chosen),
            self.options,
            llm=self.llm,
            run=self.run,
            seed=self.options.seed,
            word_dropout=(self.options.word_dropout or _WORD_DROPOUT) if self.of_short else 0.0,
            per_passage=min(most, -(-reserve(size) // max(1, len(chosen)))),
        )
        kept = held_out_from(made, self.twins, self.corpus)
        return kept.select(np.flatnonzero(first_of_equal(kept["query"][:]))[:size]), counts

    def _drawn(
        self, sizes: Mapping[str, int], trained_on: set[str]
    ) -> dict[str, dict[str, list[str]]]:
        """Ids of the passages of each part: those to be set aside, where possible without a twin,
        never one that a pair names; and those that may be trained on, without a twin.
        """
        if not sizes:
            return {}
        key = {
            "corpus": self.corpus_key,
            "sizes": dict(sizes),
            "seed": self.options.seed,
            "trained on": sorted(trained_on),
            "to be trained on": self.options.passages,
        }

        def draw() -> dict[str, Any]:
            names = []
            for name, text in zip(self.corpus["id"], self.corpus["text"], strict=True):
                twins = self.twins.get(name, [name])
                if text and twins[0] == name and trained_on.isdisjoint(twins):
                    names.append(name)
            order = generator_of(self.options.seed, "held out").permutation(len(names))
            shuffled = sorted((names[at] for at in order), key=lambda name: name in self.twins)
            most = min(self.options.passages, len(names)) // len(sizes)
            known = {
                part: min(most, reserve(size - of_those_aside(size)))
                for part, size in sizes.items()
            }
            parts: dict[str, dict[str, list[str]]] = {}
            for part, size in sizes.items():
                number = aside_of(max(size - known[part], of_those_aside(size)), len(names))
                parts[part] = {"aside": shuffled[:number]}
                shuffled = shuffled[number:]
            alone = [name for name in shuffled if name not in self.twins]
            share = len(alone) // len(sizes)
            for part, number in known.items():
                number = min(number, share)
                parts[part]["trained_on"], alone = alone[:number], alone[number:]
            return parts

        return self.folder.value("held_out/passages", key, draw)


def of_those_aside(size: int) -> int:
    """How many of so many held-out queries are of passages that are set aside.

    Example:
        >>> of_those_aside(200), of_those_aside(12)
        (50, 10)
    """
    return max(FEWEST, size // 4)


def kept_back(*held_out: Dataset) -> dict[str, list[str]]:
    """For each passage the titles and sentences that held-out queries were taken from."""
    found: dict[str, list[str]] = {}
    for rows in held_out:
        for row in rows.filter(lambda row: row["source"] is not None):
            for name in row["pos_ids"]:
                found.setdefault(name, []).append(row["source"])
    return found


def aside_of(size: int, passages: int) -> int:
    """How many of so many passages are set aside for a number of queries: a tenth at most, but for
    the fewest that are needed.

    Example:
        >>> aside_of(50, 5000), aside_of(50, 240)
        (65, 24)
    """
    return min(reserve(size), max(reserve(FEWEST), passages // 10))


def reserve(size: int) -> int:
    """Queries to make, or passages to make them of, so that some may be of no use."""
    return size + size // 4 + 3


def held_out_of(judged: Judged | None, corpus: Dataset, who: str) -> Dataset | None:
    """Held-out queries from what the user judged; None where that is nothing.

    Raises:
        ValueError: a column is missing, or fewer than 10 queries have a judged passage in the
            corpus.
    """
    if judged is None:
        return None
    if isinstance(judged, tuple):
        queries, qrels = judged[0], as_qrels(judged[1])
    else:
        require_columns(judged, ["query_id", "query", "pos_ids"], who)
        queries, qrels = judged, as_qrels(judged)
    require_columns(queries, ["query_id", "query"], who)
    known = set(corpus["id"])
    rows = {}
    for name, query in zip(queries["query_id"], queries["query"], strict=True):
        name = str(as_id(name))
        grades = qrels.get(name, {})
        if query and any(grade > 0 and passage in known for passage, grade in grades.items()):
            rows[name] = _row(name, query, None, grades)
    if len(rows) < FEWEST:
        raise ValueError(
            f"{who}: {len(rows)} of {len(queries)} queries have a relevant passage in the corpus, "
            f"which is too few to judge by; at least {FEWEST} are needed. Do the ids belong to "
            "this corpus?"
        )
    number = len(set(queries["query_id"]))
    if len(rows) < number:
        logger.warning("%s: %d of %d queries have no text or no relevant passage in the corpus and "
                       "are not judged.", who, number - len(rows), number)  # fmt: skip
    return rows_of([*rows.values()], FEATURES)


def split_pairs(
    pairs: Dataset, sizes: Sequence[int], seed: int, twins: Mapping[str, list[str]]
) -> tuple[list[Dataset], Dataset]:
    """Parts of labelled pairs as held-out queries, and the pairs that are left to train on.

    A part takes at most a fifth of the pairs. Pairs with the same or nearly the same query or
    positive stay together; a group that is too large is trained on.
    """
    same = [[twin for name in ids for twin in twins.get(name, [])] for ids in pairs["pos_ids"]]
    groups = joined(groups_of_pairs(pairs), same)
    sizes = [min(size, len(pairs) // 5) for size in sizes]
    drawn = draw_groups(groups, sizes, seed)
    parts = []
    for positions in drawn:
        rows = [_row(*_of_pair(pair)) for pair in pairs.select(positions)]
        parts.append(rows_of(rows, FEATURES))
    left = np.setdiff1d(np.arange(len(pairs)), np.concatenate(drawn))
    return parts, pairs.select(left)


def split_queries(queries: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    """Some queries without labels to judge with, and those that are left to train on.

    At most half of `size`, so that the other half is judged by what it was made of, and at most a
    fifth of the queries; none where that is fewer than 10.
    """
    number = min(size // 2, len(queries) // 5)
    if number < FEWEST:
        return queries.select([]), queries
    order = generator_of(seed, "queries to judge with").permutation(len(queries))
    return queries.select(np.sort(order[:number])), queries.select(np.sort(order[number:]))


def judged_by_teacher(
    queries: Dataset,
    corpus: Dataset,
    retriever: Retriever,
    teacher: Teacher | None,
    run: Runner,
    language: str | None,
) -> Dataset:
    """Held-out queries whose relevant passage is the one that the teacher puts first.

    A model that learns of the teacher is nearer to it whatever the teacher is worth, so such
    queries are no proof; but generated ones say nothing of another kind of query.
    """
    searched = searched_by(retriever, corpus, run, language)
    rows = run(
        queries.select_columns(["query_id", "query"]), Embed(retriever, "query", role="query")
    )
    rows = run(rows, CandidateLists(searched, size=_TO_CHOOSE_FROM, top=_TO_CHOOSE_FROM))
    scoring = ScorePassages(teacher or words_and_vectors(retriever, searched))
    rows = run(rows, scoring, batch_size=AT_ONCE)
    found = []
    for row in rows:
        if row["passage_scores"]:
            best = row["passage_ids"][int(np.argmax(row["passage_scores"]))]
            grades = {best: 1.0}
            found.append(_row(row["query_id"], row["query"], UNLABELLED, grades, synthetic=True))
    return rows_of(found, FEATURES)


def held_out_from(queries: Dataset, twins: Mapping[str, list[str]], corpus: Dataset) -> Dataset:
    """Generated queries as held-out ones: those that are no copies, and those taken from their
    passage. All passages in which one of these stands are relevant, and are judged without it. A
    passage that is nearly the same is relevant too.
    """
    kinds = zip(queries["query"], queries["kind"], strict=True)
    passages = passages_with({query for query, kind in kinds if kind in TAKEN}, corpus)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    rows = []
    for query in queries:
        is_taken = query["kind"] in TAKEN
        is_copy = query["copied"] >= COPIED and query["kind"] not in (*TAKEN, *THINNED)
        standing = passages[query["query"]] if is_taken else []
        if is_copy or query["dropped"] is not None or len(standing) > COMMON:
            continue
        names = [twin for name in query["pos_ids"] for twin in twins.get(name, [name])]
        relevant = dict.fromkeys([*names, *standing], 1.0)
        row = _row(query["query_id"], query["query"], query["kind"], relevant, synthetic=True)
        if is_taken:
            row["source"] = query["query"]
            row["lacking"] = [without(query["query"], texts[name]) for name in relevant]
        if all(row.get("lacking", [])):
            rows.append(row)
    return rows_of(rows, FEATURES)


def half_thinned(queries: Dataset, share: float, seed: int) -> Dataset:
    """Held-out queries, every second of those that are taken from their passage without a share of
    its words: people ask in fewer words than a sentence has, and in more than are left of it.
    """
    rows = []
    for place, query in enumerate(queries):
        if place % 2 and query["kind"] in TAKEN:
            kind = thinned_kind(query["kind"])
            generator = generator_of(seed, kind, query["query"])
            query = {**query, "kind": kind, "query": thinned(query["query"], share, generator)}
        rows.append(query)
    return rows_of(rows, FEATURES)


def _leaves_a_sentence(row: Mapping[str, Any]) -> bool:
    """Whether a passage has something to train on beside the query that was taken from it."""
    return row["lacking"] is None or bool(sentences_of(row["lacking"][0]))


def _each(passages: int, queries: Dataset) -> float:
    """For how many passages each one stands that queries are of."""
    return passages / max(1, len({ids[0] for ids in queries["pos_ids"]}))


def _of_pair(pair: Mapping[str, Any]) -> tuple[str, str, None, dict[str, float]]:
    return pair["query_id"], pair["query"], None, dict.fromkeys(pair["pos_ids"], 1.0)


def _row(
    query_id: str,
    query: str,
    kind: str | None,
    grades: Mapping[str, float],
    *,
    synthetic: bool = False,
) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "query": query,
        "kind": kind,
        "pos_ids": [*grades],
        "grades": [*grades.values()],
        "synthetic": synthetic,
        "weight": 1.0,
    }
