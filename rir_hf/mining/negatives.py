"""Pairs of query and positive in, the same rows with hard negatives out: what a retriever is
fine-tuned on.

For each row the best-scoring passages of the whole corpus below a ceiling that the positive's own
score sets, after de Souza Moreira et al. 2024 (NV-Retriever, arXiv 2407.15831), whose TopK-PercPos
at 95 % is the default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from datasets import Dataset, Features, List, Value

from rir_hf.core.columns import Batch, check_at_least, check_choice
from rir_hf.core.draws import generator_of
from rir_hf.core.step import Step
from rir_hf.evaluation.runs import Qrels
from rir_hf.index.corpus import CorpusView
from rir_hf.index.exact import Marks, Nearest, nothing
from rir_hf.index.search import are_usable
from rir_hf.mining.positives import KnownPositives, Positives, find_positives
from rir_hf.mining.rules import (
    Ceilings,
    Pairs,
    best_of,
    ceilings_of,
    count_skipped,
    draw,
    leave_out,
    pick,
    positive_scores,
    why_short,
    within,
)
from rir_hf.schema import (
    ANSWER,
    EMBEDDING,
    NEG,
    NEG_IDS,
    NEG_NOTE,
    NEG_SIMS,
    NEG_SKIPPED,
    PASSAGE,
    POS,
    POS_IDS,
    POS_RANK,
    POS_SIMS,
    QUERY,
    QUERY_ID,
    SKIP_RULES,
    Column,
    OneOf,
    note,
)

_MANY_POSITIVES = 64
_DEFAULT_RANGE = 100


class MineNegatives(Step):
    """Adds hard negatives, the retriever's similarities and the rank of the positive.

    The positives of a row are its `pos` (texts) or `passage` (one text), and its `pos_ids`; one of
    these columns must be there, and a single value is one positive. Never taken as a negative: a
    known positive of the query, by id or by exact text, the query's own text, an empty passage, and
    a text that the row already has (of passages with equal text the first stands for all).

    Columns added, for `output="neg"`:

    - `neg`, `neg_ids`, `neg_sims`: texts, ids and similarities of the negatives, best first
      (uniform ones in the order drawn);
    - `pos`, `pos_ids`: the positives' texts and ids, completed from the corpus; null where unknown;
    - `pos_sims`: similarities of `pos`, null for one that is not in the corpus;
    - `pos_rank`: how many passages of the corpus rank before the row's best positive, so that 0 is
      the first rank and `pos_rank < 20` means "among the first 20"; the size of the corpus where
      no positive is in it;
    - `neg_note`: why there are fewer negatives than asked, else null;
    - `neg_skipped`: how many better-ranked passages each rule left out.

    With another `output`, `"neg_answer"` say, the names begin with it instead
    (`neg_answer_pos_sims`, `neg_answer_pos_rank`).

    The same row gives the same negatives whatever the batch size, the number of processes or the
    order of the rows; where a query has several rows, with `qrels`. Searching uses every core
    already: more processes seldom help.

    Args:
        corpus: dataset with an index attached (`attach_index`), flat for exact results. Over
            another index the passages that it returns are ranked by the vectors in the corpus's own
            column; where it returns too few, the row is finished by an exact search. There
            `pos_rank` counts what the index returned, a lower bound; an IVF index looks into one
            list unless told more (`corpus.get_index("embedding").faiss_index.nprobe = 16`).
        index: name of the index.
        text: the corpus's text column. None when there is none: ids alone then tell passages apart.
        id: the corpus's id column.
        query: column of query vectors.
        output: name of the added column of negatives.
        num_negatives: negatives per row. A row gets fewer only when the rules leave no more.
        ceiling: which similarity p of the query's known positives the margins are counted from.
            `"lowest"`: every positive lies above its negatives. `"mean"` or `"highest"`: one
            hopeless positive does not empty the row.
        relative_margin: keeps passages at most this share below p: the ceiling is `p -
            relative_margin * abs(p)`. Raise it where negatives turn out to be unlabelled positives.
            None: no such ceiling.
        absolute_margin: the same as a difference: `p - absolute_margin`.
        max_score: no negative more similar than this.
        min_score: no negative less similar than this; for rows that would otherwise be filled with
            easy ones.
        range_min: leaves out the first so many of the passages that the other rules left.
        range_max: `"random"` and `"stratified"` draw from the passages before this place among
            those that the other rules left. None: from the best 100, or `num_negatives` if that is
            more; `"top"` then searches the whole corpus.
        sampling_strategy: which of them. `"top"`: the best. `"random"`: a random choice.
            `"stratified"`: one from each of `num_negatives` equal slices, from hard to easy.
            `"uniform"`: drawn from the whole corpus, with no ceiling, margin or range.
        answer: column of answer vectors, read only with `answer_weight`.
        answer_weight: w searches with `(1 - w) * query + w * answer`.
        qrels: all known positives by `query_id`, so that none becomes a negative in another row of
            the same query: a dict `{query_id: {passage_id: relevance}}`, a dataset with the columns
            `query-id, corpus-id, score` (BEIR), the pairs themselves, or a file of TREC or BEIR.
            Without it, only rows of the same batch know of each other: pass it wherever a query has
            several rows.
        seed: for all that is random; the draw depends on it and on the row's texts and ids alone.
        texts: False adds ids and similarities only.

    Raises:
        TypeError: the corpus is not a dataset, or `qrels` is neither a dict nor one.
        ValueError: an option out of range or not a number, a corpus without the index or a column
            (at once); a missing column, vectors of another dimension (at the first batch). A row
            without a usable query vector, or with no positive in the corpus, is not an error: it
            gets no negatives and a note.

    Example:
        >>> from rir_hf.index.attach import attach_index
        >>> corpus = Dataset.from_dict({
        ...     "id": ["a", "b", "c"],
        ...     "text": ["cats purr", "dogs bark", "cats meow"],
        ...     "embedding": [[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]],
        ... })
        >>> pairs = Dataset.from_dict({
        ...     "query": ["what do cats do"], "passage": ["cats purr"], "embedding": [[1.0, 0.0]],
        ... })
        >>> step = MineNegatives(attach_index(corpus), num_negatives=2)
        >>> row = pairs.map(step, batched=True)[0]
        >>> row["neg"], [round(score, 2) for score in row["neg_sims"]], row["pos_rank"]
        (['cats meow', 'dogs bark'], [0.8, 0.0], 0)
    """

    def __init__(
        self,
        corpus: Dataset,
        *,
        index: str = "embedding",
        text: str | None = "text",
        id: str = "id",
        query: str = "embedding",
        output: str = "neg",
        num_negatives: int = 15,
        ceiling: Literal["lowest", "mean", "highest"] = "lowest",
        relative_margin: float | None = 0.05,
        absolute_margin: float | None = None,
        max_score: float | None = None,
        min_score: float | None = None,
        range_min: int = 0,
        range_max: int | None = None,
        sampling_strategy: Literal["top", "random", "stratified", "uniform"] = "top",
        answer: str = "answer_embedding",
        answer_weight: float = 0.0,
        qrels: Qrels | None = None,
        seed: int = 0,
        texts: bool = True,
    ) -> None:
        check_choice("ceiling", ceiling, ("lowest", "mean", "highest"))
        strategies = ("top", "random", "stratified", "uniform")
        check_choice("sampling_strategy", sampling_strategy, strategies)
        check_at_least("num_negatives", num_negatives, 1)
        check_at_least("seed", seed, 0)
        _check_numbers(max_score=max_score, min_score=min_score)
        for name, margin in (
            ("relative_margin", relative_margin),
            ("absolute_margin", absolute_margin),
        ):
            if margin is not None:
                check_at_least(name, margin, 0)
        _check_range(range_min, range_max, num_negatives)
        if not 0 <= answer_weight <= 1:
            raise ValueError(f"answer_weight must be between 0 and 1, got {answer_weight}.")
        if text is None and texts:
            raise ValueError(
                "text=None names no column to take texts from: pass texts=False too, for ids only."
            )
        self.corpus = CorpusView.shared(corpus, index, id, text)
        self.query = query
        self.output = output
        self.num_negatives = num_negatives
        self.ceiling = ceiling
        self.relative_margin = relative_margin
        self.absolute_margin = absolute_margin
        self.max_score = max_score
        self.min_score = min_score
        self.range_min = range_min
        self.range_max = range_max
        self.sampling_strategy = sampling_strategy
        self.answer = answer
        self.answer_weight = answer_weight
        self.qrels = None if qrels is None else KnownPositives(qrels)
        self.seed = seed
        self.texts = texts

    @property
    def inputs(self) -> tuple[Column | OneOf, ...]:
        """Vectors, and what tells the positives."""
        vectors = [EMBEDDING.named(self.query)]
        if self.answer_weight:
            vectors.append(EMBEDDING.named(self.answer))
        return (*vectors, POS | PASSAGE | POS_IDS if self.qrels is None else QUERY_ID)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """Positives and negatives, texts only with `texts`."""
        columns = (POS_SIMS, POS_RANK, NEG, NEG_IDS, NEG_SIMS, NEG_NOTE, NEG_SKIPPED)
        every = (POS, POS_IDS, *(self._named(column) for column in columns))
        of_texts = () if self.texts else (POS.name, self.output)
        return tuple(column for column in every if column.name not in of_texts)

    @property
    def note(self) -> Column:
        """Why there are fewer negatives than asked."""
        return self._named(NEG_NOTE)

    def check(self, features: Features) -> None:
        """Raise `ValueError` for what cannot be mined; a single positive is as good as a list."""
        scalars = [name for name in (POS.name, POS_IDS.name) if _is_scalar(features.get(name))]
        super().check(Features({**features, **{name: List(features[name]) for name in scalars}}))

    def transform(self, batch: Batch) -> dict[str, Sequence[Any]]:
        """Return the columns named in the description of the class."""
        queries = self._queries(batch)
        positives = find_positives(batch, self.corpus, self.qrels)
        has_vector = are_usable(queries)
        has_positive = np.array([len(known) > 0 for known in positives.known], bool)
        notes = np.full(len(batch), None, object)
        notes[~has_positive] = note("no_positive")
        notes[~has_vector] = note("no_vector")
        rows = np.flatnonzero(has_vector & has_positive)
        asked = Asked(
            queries[rows],
            positives.take(rows),
            self._own_keys(batch)[rows],
            self._generators(batch, positives, rows),
        )
        mined = self._mine(asked)
        notes[rows] = mined.choice.notes
        return self._columns(positives, rows, mined, notes.tolist())

    def _mine(self, asked: Asked) -> Mined:
        """The negatives of queries that have a vector and a positive in the corpus."""
        known = self._scored(asked.queries, asked.positives.known)
        own = self._scored(asked.queries, asked.positives.positions)
        marks = best_of(own, len(asked.queries))
        ceilings = self._ceilings(known, len(asked.queries))
        found = self._nearest(asked, ceilings, marks)
        if self.sampling_strategy == "uniform":
            choice = self._drawn(asked)
        else:
            choice = self._chosen(asked, found, known, ceilings)
        ranks = np.where(marks.positions < 0, len(self.corpus), found.before)
        return Mined(choice, own, ranks)

    def _scored(self, queries: np.ndarray, positions: Sequence[np.ndarray]) -> Pairs:
        """Each query with each of its passages that is in the corpus, and their similarities."""
        rows = np.repeat(np.arange(len(positions)), [len(each) for each in positions])
        at = np.concatenate([*positions, np.empty(0, np.int64)]).astype(np.int64)
        rows, at = rows[at >= 0], at[at >= 0]
        return Pairs(rows, at, self.corpus.similarities(queries, rows, at))

    def _ceilings(self, known: Pairs, n: int) -> Ceilings:
        if self.sampling_strategy == "uniform":
            return ceilings_of(np.zeros(n), None, None, None)
        scores = positive_scores(known, n, self.ceiling)
        return ceilings_of(scores, self.relative_margin, self.absolute_margin, self.max_score)

    def _nearest(self, asked: Asked, ceilings: Ceilings, marks: Marks) -> Nearest:
        """So many passages below each ceiling that enough are left when the positives' texts and
        the query's own are taken out; queries with unusually many positives in a pass of their own.
        """
        texts = np.array([len(keys) for keys in asked.positives.keys], np.int64)
        is_many = texts > _MANY_POSITIVES
        groups = [np.flatnonzero(is_many == many) for many in (False, True)]
        parts = [self._nearest_of(group, texts, asked, ceilings, marks) for group in groups]
        found = nothing(len(texts), max(part.scores.shape[1] for part in parts))
        for group, part in zip(groups, parts, strict=True):
            width = part.scores.shape[1]
            found.scores[group, :width] = part.scores
            found.positions[group, :width] = part.positions
            found.above[group] = part.above
            found.before[group] = part.before
        return found

    def _nearest_of(
        self,
        group: np.ndarray,
        texts: np.ndarray,
        asked: Asked,
        ceilings: Ceilings,
        marks: Marks,
    ) -> Nearest:
        """The search for some of the queries, deep enough for all of them."""
        k = self.range_min + self._pool_size + int(texts[group].max(initial=0)) + 1
        k = 0 if self.sampling_strategy == "uniform" else min(k, len(self.corpus))
        return self.corpus.nearest_below(
            asked.queries[group],
            k,
            ceilings.scores[group],
            Marks(marks.scores[group], marks.positions[group]),
            self.corpus.first_of_each_text,
        )

    def _chosen(self, asked: Asked, found: Nearest, known: Pairs, ceilings: Ceilings) -> Choice:
        """Of what lies below the ceilings leave out what the rules forbid, and choose."""
        keys = self.corpus.text_keys[found.positions]
        left = leave_out(found, keys, asked.positives.keys, asked.own_keys, self.min_score)
        pool = within(left.allowed, self.range_min, self._pool_size)
        skipped = count_skipped(
            found, left, pool, self._pool_size, known, ceilings, self.range_min, self.min_score
        )
        choice = Choice([], [], [], skipped)
        for row, generator in enumerate(asked.generators):
            places = np.flatnonzero(pool[row])
            picked = pick(len(places), self.num_negatives, self.sampling_strategy, generator)
            choice.positions.append(found.positions[row, places[picked]])
            choice.scores.append(found.scores[row, places[picked]])
            is_short = len(picked) < self.num_negatives
            ceiling, is_below = float(ceilings.scores[row]), bool(left.below[row].any())
            choice.notes.append(why_short(ceiling, is_below) if is_short else None)
        return choice

    def _drawn(self, asked: Asked) -> Choice:
        """Drawn from the whole corpus."""
        keys = self.corpus.text_keys
        choice = Choice([], [], [], [dict.fromkeys(SKIP_RULES, 0)] * len(asked.queries))
        # None only for "top", which does not come here.
        generators = cast(list[np.random.Generator], asked.generators)
        for row, generator in enumerate(generators):
            taboo_keys = [*asked.positives.keys[row].tolist(), int(asked.own_keys[row])]
            taboo = asked.positives.known[row].tolist()
            drawn = draw(generator, keys, self.num_negatives, taboo_keys, taboo)
            choice.positions.append(drawn)
            is_short = len(drawn) < self.num_negatives
            choice.notes.append(why_short(np.inf, is_below=False) if is_short else None)
        scored = self._scored(asked.queries, choice.positions)
        choice.scores.extend(scored.split(len(asked.queries)))
        return choice

    def _columns(
        self, positives: Positives, rows: np.ndarray, mined: Mined, notes: list[str | None]
    ) -> dict[str, Sequence[Any]]:
        """The columns of the whole batch, from what was mined for its usable rows."""
        n, corpus = len(notes), self.corpus
        positions = _spread(mined.choice.positions, rows, n, np.empty(0, np.int64))
        sims = [scores.tolist() for scores in mined.choice.scores]
        ranks = np.full(n, len(corpus))
        ranks[rows] = mined.ranks
        own = _spread(mined.own.by_position(len(rows)), rows, n, {})
        columns: dict[str, Sequence[Any]] = {
            POS_IDS.name: completed(positives.ids, positives.positions, corpus, corpus.id),
            self._named(POS_SIMS).name: [
                [scores.get(position) for position in each.tolist()]
                for scores, each in zip(own, positives.positions, strict=True)
            ],
            self._named(POS_RANK).name: ranks.tolist(),
            self._named(NEG_IDS).name: corpus.lists_of(corpus.id, positions),
            self._named(NEG_SIMS).name: _spread(sims, rows, n, []),
            self._named(NEG_NOTE).name: notes,
            self._named(NEG_SKIPPED).name: _spread(
                mined.choice.skipped, rows, n, dict.fromkeys(SKIP_RULES, 0)
            ),
        }
        if self.texts and corpus.text is not None:
            texts = completed(positives.texts, positives.positions, corpus, corpus.text)
            columns[POS.name] = texts
            columns[self.output] = corpus.lists_of(corpus.text, positions)
        return columns

    @property
    def _pool_size(self) -> int:
        """From how many passages below the ceiling, counted from `range_min`, the negatives are
        taken.
        """
        if self.sampling_strategy in ("top", "uniform"):
            return self.num_negatives
        if self.range_max is None:
            return max(_DEFAULT_RANGE, self.num_negatives)
        return self.range_max - self.range_min

    def _queries(self, batch: Batch) -> np.ndarray:
        queries = batch.vectors(self.query, self.corpus.dimension)
        if self.answer_weight == 0:
            return queries
        answers = batch.vectors(self.answer, self.corpus.dimension)
        w = self.answer_weight
        return ((1 - w) * queries + w * answers).astype(np.float32)

    def _own_keys(self, batch: Batch) -> np.ndarray:
        """The key of each query's own text, as in `CorpusView.text_keys`, 0 for none."""
        if QUERY.name not in batch or self.corpus.text is None:
            return np.zeros(len(batch), np.int64)
        texts = batch.values_of(QUERY.name)
        keys = [hash(text) if isinstance(text, str) else 0 for text in texts]
        return np.array(keys, np.int64)

    def _generators(
        self, batch: Batch, positives: Positives, rows: np.ndarray
    ) -> list[np.random.Generator | None]:
        """A random generator for each row, from the seed and the row's content; None where nothing
        is random.
        """
        if self.sampling_strategy == "top":
            return [None] * len(rows)
        columns = [batch.values_of(name) for name in (QUERY.name, ANSWER.name) if name in batch]
        contents = [[column[row] for column in columns] for row in rows]
        return [
            generator_of(self.seed, self.output, *content, positives.texts[row], positives.ids[row])
            for content, row in zip(contents, rows, strict=True)
        ]

    def _named(self, column: Column) -> Column:
        """A column under the name that goes with `output`."""
        if column.name.startswith(NEG.name):
            return column.named(self.output + column.name.removeprefix(NEG.name))
        return column if self.output == NEG.name else column.named(f"{self.output}_{column.name}")


class Asked(NamedTuple):
    """What is asked for the usable rows of a batch, one entry for each.

    queries: `(n, d)` float32.
    positives: the known positives.
    own_keys: `(n,)` int64, the key of the query's own text, 0 for none.
    generators: for the draws.
    """

    queries: np.ndarray
    positives: Positives
    own_keys: np.ndarray
    generators: list[np.random.Generator | None]


class Choice(NamedTuple):
    """The negatives of each query: positions and scores, why there are fewer than asked, and how
    many passages each rule left out.
    """

    positions: list[np.ndarray]
    scores: list[np.ndarray]
    notes: list[str | None]
    skipped: list[dict[str, int]]


class Mined(NamedTuple):
    """The negatives, the similarities of the rows' own positives, and the best one's rank."""

    choice: Choice
    own: Pairs
    ranks: np.ndarray


def completed(
    values: Sequence[Sequence[str | None]],
    positions: Sequence[np.ndarray],
    corpus: CorpusView,
    column: str,
) -> list[list[str | None]]:
    """The positives' own values, and from the corpus those they lack; null for one that is not in
    it.
    """
    found = corpus.lists_of(column, [row[row >= 0] for row in positions])
    rows: list[list[str | None]] = []
    for own, at, stored in zip(values, positions, found, strict=True):
        rest = iter(stored)
        read = [next(rest) if position >= 0 else None for position in at.tolist()]
        rows.append([value or other for value, other in zip(own, read, strict=True)])
    return rows


def _spread(values: Sequence[Any], rows: np.ndarray, n: int, missing: Any) -> list[Any]:
    """The values of some rows of a batch as a list for all n, with `missing` for the others."""
    spread = [missing] * n
    for row, value in zip(rows.tolist(), values, strict=True):
        spread[row] = value
    return spread


def _is_scalar(feature: Any) -> bool:
    return isinstance(feature, Value)


def _check_numbers(**options: float | None) -> None:
    for name, value in options.items():
        if value is not None and math.isnan(value):
            raise ValueError(f"{name} must be a number, got {value}.")


def _check_range(range_min: int, range_max: int | None, num_negatives: int) -> None:
    check_at_least("range_min", range_min, 0)
    if range_max is not None and range_max - range_min < num_negatives:
        raise ValueError(
            f"range_max={range_max} must leave at least num_negatives={num_negatives} passages "
            f"behind range_min={range_min}."
        )
