"""What a round of the loop knows: the options, what all rounds share, the models it has so far."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset

from rir_hf.boosting.judge import LEAST_FOUND, Judge, in_words
from rir_hf.boosting.options import Options
from rir_hf.boosting.queries import COPIED, THINNED, Runner
from rir_hf.boosting.record import RunFolder, Stage
from rir_hf.core.configured import key_of
from rir_hf.index.attach import attach_index
from rir_hf.index.embed import Embed
from rir_hf.index.lexical import Words, attach_lexical
from rir_hf.models.llm import LLM
from rir_hf.models.retriever import Retriever
from rir_hf.running.run import BATCH
from rir_hf.schema import EMBEDDING
from rir_hf.teaching.blend import Blend
from rir_hf.teaching.signals import LexicalTeacher, RetrieverTeacher
from rir_hf.teaching.teacher import Teacher

logger = logging.getLogger(__name__)

Counts: TypeAlias = Mapping[str, Any]

BOTH = ("embedding", "bm25")
"""The indexes of the corpus."""

AT_ONCE = 64
"""Rows per call of a teacher that may be slow, so that a kill loses little."""

LABELLED, UNLABELLED = "labelled", "given"
"""Kinds of the queries that the user gave."""


@dataclass(frozen=True)
class Setup:
    """What all rounds share.

    corpus: with `id` and `text`; `corpus_key` is the digest of its content.
    given: labelled and unlabelled queries of the user, as `queries.FEATURES` says; `given_key`.
    dev: the held-out queries that decide which model is kept; `test` is looked at once.
    set_aside: ids of passages that no query is written for.
    kept_back: for a passage the titles and sentences that no query is made of.
    twins: for each passage that is nearly the same as another the ids of all of them.
    teacher, queries_teacher: None for the usual one, and for that of all other queries.
    same_passages: for a model's folder the retriever whose vectors of passages are its own.
    """

    corpus: Dataset
    corpus_key: str
    given: Dataset
    given_key: str
    replay: Dataset | None
    replay_key: str | None
    dev: Stage
    test: Stage
    set_aside: frozenset[str]
    kept_back: Mapping[str, list[str]]
    twins: Mapping[str, list[str]]
    options: Options
    teacher: Teacher | None
    queries_teacher: Teacher | None
    generator_weights: Path | None
    folder: RunFolder
    run: Runner
    same_passages: dict[str, Retriever] = field(default_factory=dict)

    def embedder(self, retriever: Retriever) -> Retriever:
        """What encodes passages for a retriever: the one that it was before its queries' side alone
        was trained, so that a corpus is not encoded again.
        """
        return self.same_passages.get(str(getattr(retriever, "model", None)), retriever)

    @property
    def labelled_passages(self) -> set[str]:
        """Ids of the passages that the user's pairs name."""
        rows = zip(self.given["kind"], self.given["pos_ids"], strict=True)
        return {name for kind, ids in rows if kind == LABELLED for name in ids}

    def judge(self, held_out: Stage) -> Judge:
        """What compares models on held-out queries."""
        return Judge(self.corpus, held_out.rows(), self.run, self.embedder)


@dataclass
class Round:
    """A round: the models that it has, at first those that it begins with, and what it has made.

    `stages`, `verdicts` and `left_out` (why there is no such stage) are filled on the way, for the
    report.
    """

    setup: Setup
    number: int
    retriever: Retriever
    generator: LLM | None
    used: frozenset[str] = frozenset()
    stages: list[Stage] = field(default_factory=list)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> Options:
        """The options of all rounds."""
        return self.setup.options

    @property
    def seed(self) -> int:
        """The seed of the round's draws."""
        return self.options.seed + self.number

    @property
    def has_answers(self) -> bool:
        """Whether the generator is to answer queries."""
        return self.generator is not None and self.options.answers > 0

    @property
    def passages_used(self) -> frozenset[str]:
        """Ids of the passages that queries were written for, in this round and before, and of those
        that are nearly the same.
        """
        rows = self.stages[0].rows()
        kinds = zip(rows["kind"], rows["pos_ids"], strict=True)
        of_user = (LABELLED, UNLABELLED)
        return self.used.union(*(ids for kind, ids in kinds if kind not in of_user))

    @property
    def shared_key(self) -> dict[str, Any]:
        """What every stage depends on."""
        return {
            "corpus": self.setup.corpus_key,
            "retriever": key_of(self.retriever),
            "task": self.options.task,
            "language": self.options.language,
            "seed": self.seed,
        }

    @cached_property
    def searched(self) -> Dataset:
        """The corpus as the retriever that the round begins with sees it, and its words."""
        embedder = self.setup.embedder(self.retriever)
        return searched_by(embedder, self.setup.corpus, self.setup.run, self.options.language)

    @property
    def teacher_key(self) -> Any:
        """What tells the teacher from another; the usual one follows from retriever and corpus."""
        return None if self.setup.teacher is None else key_of(self.setup.teacher)

    @cached_property
    def teacher(self) -> Teacher:
        """The given teacher, or words and vectors together."""
        return self.setup.teacher or words_and_vectors(self.retriever, self.searched)

    @cached_property
    def teacher_by_vectors(self) -> Teacher:
        """The same for queries that have their vectors, which it need not encode again."""
        return self.setup.teacher or words_and_vectors(
            self.retriever, self.searched, query=EMBEDDING.name
        )

    def rows_at_once(self, teacher: Teacher) -> int:
        """Rows per call of a teacher: few of the user's own, which may be slow."""
        own = (self.setup.teacher, self.setup.queries_teacher)
        return AT_ONCE if any(teacher is each for each in own) else BATCH

    def with_vectors(self, rows: Dataset) -> Dataset:
        """Queries with the retriever's vectors."""
        return self.setup.run(rows, Embed(self.retriever, "query", role="query"))

    def name(self, stage: str) -> str:
        """The path of a stage below the run."""
        return f"round-{self.number}/{stage}"

    def verdict(
        self, stage: str, key: Any, compare: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """What the held-out queries say of the model that a stage has made."""
        found = self.value(f"{stage}.verdict", key, compare)
        self.verdicts[stage] = found
        kept = "kept" if found["kept"] else "turned down"
        logger.info("%s: %s. %s.", self.name(stage), kept, in_words(found, "dev"))
        if found["synthetic"] and found["after"] < LEAST_FOUND:
            logger.warning("%s: the generated queries of dev find next to nothing, so that they "
                           "cannot judge: give --dev.", self.name(stage))  # fmt: skip
        return found

    def rows(self, stage: str, key: Any, make: Callable[[], tuple[Dataset, Counts]]) -> Stage:
        """A stage whose result is a dataset."""
        made = self.setup.folder.rows(self.name(stage), {**self.shared_key, **key}, make)
        self.stages.append(made)
        return made

    def model(self, stage: str, key: Any, make: Callable[[Path], Counts]) -> Stage:
        """A stage whose result is a model."""
        made = self.setup.folder.model(self.name(stage), {**self.shared_key, **key}, make)
        self.stages.append(made)
        return made

    def value(self, stage: str, key: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A stage whose result is a few plain values."""
        return self.setup.folder.value(self.name(stage), {**self.shared_key, **key}, make)


def searched_by(
    retriever: Retriever, corpus: Dataset, run: Runner, language: str | None = None
) -> Dataset:
    """The corpus with an index of a retriever's vectors and one of its words."""
    embedded = attach_index(run(corpus, Embed(retriever)))
    return attach_lexical(embedded, **rules_of_words(language))


def rules_of_words(language: str | None) -> dict[str, Any]:
    """Stemmer and stop words of a language for `attach_lexical`, each None where there is none.

    Example:
        >>> rules_of_words("German"), rules_of_words("Finnish")["stopwords"]
        ({'stemmer': 'german', 'stopwords': 'german'}, None)
    """
    name = (language or "English").lower()
    rules: dict[str, Any] = {"stemmer": None, "stopwords": None}
    for rule in rules:
        if _is_known(rule, name):
            rules[rule] = name
        else:
            logger.warning("language=%r: BM25 has no %s of that name.", language, rule)
    return rules


def _is_known(rule: str, language: str) -> bool:
    rules: Any = {"stemmer": None, "stopwords": None, rule: language}
    try:
        Words(**rules)
    except ValueError:
        return False
    return True


def words_and_vectors(retriever: Retriever, searched: Dataset, query: str | None = None) -> Teacher:
    """The usual teacher: BM25 and the retriever's own similarities together."""
    return Blend([LexicalTeacher(searched), RetrieverTeacher(retriever, searched, query=query)])


def is_kept(row: Mapping[str, Any]) -> bool:
    """Whether nothing speaks against a query."""
    return row["dropped"] is None


def is_copy(row: Mapping[str, Any]) -> bool:
    """Whether a query stands in its passage, all its words."""
    return row["copied"] >= COPIED and row["kind"] not in THINNED


def is_pair(row: Mapping[str, Any]) -> bool:
    """Whether a query has a passage that answers it."""
    may_answer = row["kind"] not in THINNED and row["copied"] < COPIED
    return is_kept(row) and bool(row["pos"]) and may_answer


def is_list(row: Mapping[str, Any]) -> bool:
    """Whether a query has candidates alone: it has no passage, or it is taken from it."""
    return is_kept(row) and not is_pair(row)


def where(rows: Dataset, is_wanted: Callable[[Mapping[str, Any]], bool]) -> Dataset:
    """The rows of which something is true."""
    kept = [place for place, row in enumerate(rows) if is_wanted(row)]
    return rows.select(kept)
