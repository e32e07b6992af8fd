"""Pairs of query and positive in, the same rows with hard negatives out: what a retriever is fine-tuned on.

For each row the best-scoring passages of the whole corpus below a ceiling set by the positive's own score, after de Souza Moreira
et al. 2024 (NV-Retriever, arXiv 2407.15831), whose TopK-PercPos at 95 % is the default.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset

from rir_hf.index import CorpusIndex
from rir_hf.positives import KnownPositives, Positives, Qrels, locate
from rir_hf.search import Bounds, Candidates, read_nested, settle, similarities
from rir_hf.transform import SCORES, TEXTS, BatchTransform, Column, check_at_least, read_column, read_vectors, require_columns

logger = logging.getLogger(__name__)

RULES = ("positive", "margin", "abs_margin", "max_score", "duplicate", "empty", "skip_ranks")
"""Why a passage that ranks among the mined ones or before them was not taken, as counted in `neg_skipped`."""

NO_VECTOR = "no query vector"
EXHAUSTED = "corpus exhausted"
BELOW_MIN_SCORE = "rest below min_score"
POSITIVE_UNKNOWN = "positive not in corpus, ranks 30 to 200 exhausted"
POSITIVE_MISSING = "positive not in corpus"

_REMEMBERED = 50_000
_RANKS_WITHOUT_POSITIVE = (30, 200)
_SPARE_DEPTH = 64
_DEFAULT_POOL = 100
_SKIPPED = pa.struct([(rule, pa.int64()) for rule in RULES])


class MineNegatives(BatchTransform):
    """Map function that adds hard negatives, the retriever's similarities and the rank of the positive.

    The positives of a row are its `pos` (a list of texts) or `passage` (one text), and its `pos_ids`; at least one of these
    columns must be there. Never taken as a negative: a known positive of the query, by id or by exact text, an empty passage,
    and a text that the row already has.

    Columns added, for `output="neg"`:

    - `neg`, `neg_ids`, `neg_sims`: texts, ids and similarities of the negatives, best first (random ones in the order drawn);
    - `pos`, `pos_ids`: unless the row has them, the positives' texts, and their ids in the corpus; null where unknown;
    - `pos_sims`: similarities of `pos`, null for one that is not in the corpus;
    - `pos_rank`: how many passages of the corpus rank before the row's best positive, so that 0 is the first rank and
      `pos_rank < 20` means "among the first 20"; the size of the corpus where no positive is in it;
    - `neg_note`: why there are fewer negatives than asked, or that no positive of the row is in the corpus; else "";
    - `neg_skipped`: how many better-ranked passages each rule left out (`RULES`).

    With another `output`, `"neg_answer"` say, the names begin with it instead (`neg_answer_pos_sims`, `neg_answer_pos_rank`).

    The same row gives the same negatives whatever the batch size, the number of processes or the order of the rows (where a query
    has several rows: with `qrels`). Searching uses every core already; more processes seldom help.

    Args:
        corpus: dataset with an index attached (`attach_index`), flat for exact results. Over another index the passages it
            returns are ranked by the vectors in the corpus's own column; where it returns too few, the row is finished by an
            exact search. There `pos_rank` counts what the index returned, a lower bound; an IVF index looks into one list unless
            told more (`corpus.get_index("embedding").faiss_index.nprobe = 16`).
        index: name of the index.
        text: the corpus's text column. None when there is none: ids alone then tell passages apart.
        id: the corpus's id column.
        query: column of query vectors.
        output: name of the added column of negatives.
        num_negatives: negatives per row. A row gets fewer only when the rules leave no more in the corpus.
        margin: keeps passages at most this share below the positive: the ceiling is `p - margin * abs(p)`, p the lowest
            similarity among the known positives. Raise it where negatives turn out to be unlabelled positives. None: no such
            ceiling.
        abs_margin: the same as a difference: `p - abs_margin`.
        max_score: no negative more similar than this.
        min_score: no hard negative less similar than this; for rows that would otherwise be filled with easy ones.
        skip_ranks: leaves out the first ranks of the whole ranking, positives counted.
        strategy: which of the passages below the ceiling: `"top"` the best; `"random"` a random choice of the best `pool`;
            `"stratified"` one from each of `num_negatives` equal slices of the best `pool`, from hard to easy.
        pool: passages that `"random"` and `"stratified"` choose from. Default: 100, or `num_negatives` if that is more.
        neg_type: `"hard"`; `"random"`, drawn uniformly from the corpus with no ceiling; `"mixed"`, the larger half hard, the
            rest random.
        answer: column of answer vectors, read only with `answer_weight`.
        answer_weight: w searches with `(1 - w) * query + w * answer`.
        qrels: all known positives by `query_id`, so that none becomes a negative in another row of the same query: a dict
            `{query_id: {passage_id: relevance}}`, a dataset with the columns `query-id, corpus-id, score` (BEIR), or the
            pairs themselves. Without it only rows of the same batch know of each other.
        seed: for all that is random; the draw depends on it and on the row's texts and ids alone.
        texts: False adds ids and similarities only.

    Where no positive of a row is in the corpus there is no p: the negatives then come from ranks 30 to 200 of the search, as in
    Reinforced-IR.

    Raises:
        ValueError: a parameter out of range (at once); a missing column, `pos` that is not a list, vectors of another dimension
            (at the first batch). A row without a usable query vector is not an error: it gets no negatives and a note.

    Example:
        >>> from datasets import Dataset
        >>> from rir_hf import attach_index
        >>> corpus = Dataset.from_dict({
        ...     "id": ["a", "b", "c"], "text": ["cats purr", "dogs bark", "cats meow"],
        ...     "embedding": [[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]],
        ... })
        >>> pairs = Dataset.from_dict({"query": ["what do cats do"], "passage": ["cats purr"], "embedding": [[1.0, 0.0]]})
        >>> row = pairs.map(MineNegatives(attach_index(corpus), num_negatives=2), batched=True)[0]
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
        margin: float | None = 0.05,
        abs_margin: float | None = None,
        max_score: float | None = None,
        min_score: float | None = None,
        skip_ranks: int = 0,
        strategy: Literal["top", "random", "stratified"] = "top",
        pool: int | None = None,
        neg_type: Literal["hard", "random", "mixed"] = "hard",
        answer: str = "answer_embedding",
        answer_weight: float = 0.0,
        qrels: Qrels | None = None,
        seed: int = 0,
        texts: bool = True,
    ) -> None:
        _check_choice("strategy", strategy, ("top", "random", "stratified"))
        _check_choice("neg_type", neg_type, ("hard", "random", "mixed"))
        check_at_least("num_negatives", num_negatives, 1)
        check_at_least("skip_ranks", skip_ranks, 0)
        check_at_least("seed", seed, 0)
        for name, value in (("margin", margin), ("abs_margin", abs_margin)):
            if value is not None:
                check_at_least(name, value, 0)
        if not 0 <= answer_weight <= 1:
            raise ValueError(f"answer_weight must be between 0 and 1, got {answer_weight}.")
        if pool is not None and (strategy == "top" or pool < num_negatives):
            raise ValueError(
                f'pool={pool} must be at least num_negatives={num_negatives} and goes with strategy="random" or "stratified", '
                f"got strategy={strategy!r}."
            )
        if text is None and texts:
            raise ValueError("text=None names no column to take texts from: pass texts=False too, for ids only.")
        self.corpus = CorpusIndex.shared(corpus, index, id, text)
        self.query = query
        self.output = output
        self.num_negatives = num_negatives
        self.margin = margin
        self.abs_margin = abs_margin
        self.max_score = max_score
        self.min_score = min_score
        self.skip_ranks = skip_ranks
        self.strategy = strategy
        self.pool = None if strategy == "top" else pool or max(_DEFAULT_POOL, num_negatives)
        self.neg_type = neg_type
        self.answer = answer
        self.answer_weight = answer_weight
        self.qrels = None if qrels is None else KnownPositives(qrels)
        self.seed = seed
        self.texts = texts

    @property
    def first_column(self) -> str:
        """The column of query vectors."""
        return self.query

    def transform(self, batch: Mapping[str, Any], worker: int | None) -> dict[str, Any]:
        """Return the columns named in the description of the class."""
        queries = self._query_vectors(batch)
        rows = [_Row(positives) for positives in locate(batch, self.corpus, self.qrels)]
        if self.qrels is None and "query_id" in batch:
            self._warn_of_scattered_queries(read_column(batch, "query_id"), rows)
        lost = sum(not row.positives.known for row in rows)
        if lost:
            logger.warning("MineNegatives: %d of %d rows have no positive that is in the corpus.", lost, len(rows))
        usable = np.flatnonzero(np.isfinite(queries).all(axis=1) & queries.any(axis=1))
        if len(usable) < len(rows):
            logger.warning("MineNegatives: %d rows have no usable vector in %r.", len(rows) - len(usable), self.query)
        self._mine(queries[usable], [rows[place] for place in usable], self._generators(batch, rows, usable), worker)
        return self._columns(batch, rows)

    def _query_vectors(self, batch: Mapping[str, Any]) -> np.ndarray:
        queries = read_vectors(batch, self.query, "MineNegatives", self.corpus.dimension)
        if self.answer_weight == 0:
            return queries
        require_columns(batch, [self.answer], f"MineNegatives(answer_weight={self.answer_weight})")
        answers = read_vectors(batch, self.answer, "MineNegatives", self.corpus.dimension)
        return ((1 - self.answer_weight) * queries + self.answer_weight * answers).astype(np.float32)

    def _warn_of_scattered_queries(self, query_ids: list[Any], rows: list[_Row]) -> None:
        """Say so, once, when a query comes again in another batch with other positives."""
        earlier = self.__dict__.setdefault("_positives_of_query", {})
        for query, row in zip(query_ids, rows, strict=True):
            if len(earlier) > _REMEMBERED:  # a stream may have no end
                return
            known = hash(tuple(row.positives.known))
            if query is not None and earlier.setdefault(query, known) != known and not self.__dict__.get("_has_warned"):
                self._has_warned = True
                logger.warning(
                    "MineNegatives: rows of query_id %r (and maybe others) lie in different batches and do not know each other's "
                    "positives. Pass qrels=pairs, the whole dataset, so that no positive of one row becomes a negative of another.",
                    query,
                )

    def _generators(self, batch: Mapping[str, Any], rows: list[_Row], usable: np.ndarray) -> list[np.random.Generator | None]:
        """A random generator for each usable row, from the seed and the row's content; None where nothing is random."""
        if self.strategy == "top" and self.neg_type == "hard":
            return [None] * len(usable)
        texts = [read_column(batch, name) for name in ("query", "answer") if name in batch]
        contents = [(self.output, *(column[place] for column in texts), *rows[place].positives[:2]) for place in usable]
        return [np.random.default_rng([self.seed, xxhash.xxh3_64_intdigest(repr(content).encode())]) for content in contents]

    def _mine(
        self, queries: np.ndarray, rows: list[_Row], generators: list[np.random.Generator | None], worker: int | None
    ) -> None:
        """Fill the rows: similarities and rank of the positives, hard and random negatives."""
        _score_positives(self.corpus, queries, rows)
        limits = [self._ceiling(row) for row in rows]
        marks = [row.best_own_positive() for row in rows]
        bounds = Bounds(
            np.array([ceiling for ceiling, _ in limits]),
            np.array([score for score, _ in marks], np.float32),
            np.array([place for _, place in marks], np.int64),
        )
        hard = {"hard": self.num_negatives, "random": 0, "mixed": (self.num_negatives + 1) // 2}[self.neg_type]
        wanted = hard and (self.pool or hard)

        def choose(at: int, found: Candidates, place: int) -> bool:
            row = rows[at]
            chosen = self._select(found, place, row, wanted)
            if chosen is None:
                return False
            row.take(chosen, _pick(chosen, hard, self.strategy, generators[at]), hard)
            if not row.note and not row.scores:
                row.note = POSITIVE_MISSING
            ceiling, rule = limits[at]
            if hard:
                positives_above = sum(score > ceiling for score in row.scores.values())
                _count(row.skipped, "positive", positives_above)
                _count(row.skipped, rule, int(found.above[place]) - positives_above)
            if marks[at][1] >= 0:
                row.rank = int(found.better[place])
            return True

        known = max((len(row.positives.known) for row in rows), default=0)
        settle(self.corpus, queries, bounds, wanted + self.skip_ranks + min(known, _SPARE_DEPTH), choose, worker)
        if self.neg_type != "hard":
            self._add_random(queries, rows, generators)

    def _ceiling(self, row: _Row) -> tuple[float, str]:
        """The score that no hard negative of the row may exceed, and the rule that sets it."""
        ceilings = [(np.inf, "margin")]
        if row.scores and self.margin is not None:
            lowest = min(row.scores.values())
            ceilings.append((ceiling_below(lowest, self.margin), "margin"))
        if row.scores and self.abs_margin is not None:
            ceilings.append((min(row.scores.values()) - self.abs_margin, "abs_margin"))
        if self.max_score is not None:
            ceilings.append((self.max_score, "max_score"))
        return min(ceilings)

    def _select(self, found: Candidates, place: int, row: _Row, wanted: int) -> Selection | None:
        ranks = (self.skip_ranks, len(self.corpus))
        exhausted = EXHAUSTED
        if not row.scores:
            first, last = _RANKS_WITHOUT_POSITIVE
            ranks = (max(first, self.skip_ranks), last + max(0, self.skip_ranks - first))
            exhausted = POSITIVE_UNKNOWN
        positions = found.positions[place]
        return select(
            found.scores[place].tolist(),
            positions.tolist(),
            self.corpus.text_keys[positions].tolist(),
            wanted=wanted,
            positives=row.positives,
            rank=int(found.above[place]),
            ranks=ranks,
            min_score=-np.inf if self.min_score is None else self.min_score,
            floor=float(found.floor[place]),
            exhausted=exhausted,
        )

    def _add_random(self, queries: np.ndarray, rows: list[_Row], generators: list[np.random.Generator | None]) -> None:
        for row, generator in zip(rows, generators, strict=True):
            wanted = self.num_negatives - len(row.negatives)
            drawn = draw(generator, self.corpus.text_keys, wanted, row.positives, row.negatives)
            row.negatives.extend(drawn)
            row.note = EXHAUSTED if len(drawn) < wanted else "" if row.scores else POSITIVE_MISSING
        missing = [(at, place) for at, row in enumerate(rows) for place in row.negatives[len(row.sims) :]]
        of_row, places = np.array(missing, np.int64).reshape(-1, 2).T
        for at, score in zip(of_row.tolist(), similarities(self.corpus, queries, of_row, places).tolist(), strict=True):
            rows[at].sims.append(score)

    def _columns(self, batch: Mapping[str, Any], rows: list[_Row]) -> dict[str, Any]:
        prefix = "" if self.output == "neg" else f"{self.output}_"
        own = [row.positives for row in rows]
        columns = {}
        if self.texts and "pos" not in batch:
            texts = [positives.texts for positives in own]
            columns["pos"] = Column(_completed(texts, own, self.corpus, self.corpus.text), TEXTS)
        if "pos" in columns or "pos_ids" not in batch:
            ids = [positives.ids for positives in own]
            columns["pos_ids"] = Column(_completed(ids, own, self.corpus, self.corpus.id), TEXTS)
        sims = [[row.scores.get(place) for place in positives.places] for row, positives in zip(rows, own, strict=True)]
        columns[f"{prefix}pos_sims"] = Column(sims, SCORES)
        ranks = [len(self.corpus) if row.rank is None else row.rank for row in rows]
        columns[f"{prefix}pos_rank"] = Column(ranks, pa.int64())
        names = [self.corpus.text, self.corpus.id] if self.texts else [self.corpus.id]
        read = read_nested(self.corpus, names, [np.array(row.negatives, np.int64) for row in rows])
        if self.texts:
            columns[self.output] = Column(read[0], TEXTS)
        columns[f"{self.output}_ids"] = Column(read[-1], TEXTS)
        columns[f"{self.output}_sims"] = Column([row.sims for row in rows], SCORES)
        columns[f"{self.output}_note"] = Column([row.note for row in rows], pa.string())
        columns[f"{self.output}_skipped"] = Column([{rule: row.skipped.get(rule, 0) for rule in RULES} for row in rows], _SKIPPED)
        return columns


class Selection(NamedTuple):
    """Passages that no rule leaves out, best first: positions, similarities, what was skipped on the way, why there are few."""

    positions: list[int]
    scores: list[float]
    skipped: dict[str, int]
    note: str


def select(
    scores: list[float],
    positions: list[int],
    keys: list[int],
    *,
    wanted: int,
    positives: Positives,
    rank: int,
    ranks: tuple[int, int],
    min_score: float,
    floor: float,
    exhausted: str,
) -> Selection | None:
    """Walk down ranked passages and take those that no rule leaves out, until `wanted` are found.

    Args:
        scores, positions, keys: similarity, corpus position and text key of the passages below the ceiling, best first.
        wanted: how many to take.
        positives: never taken, by position or by text.
        rank: rank of the first passage in the whole ranking.
        ranks: first rank that may be taken, and the one after the last.
        min_score: nothing below it is taken.
        floor: passages with a lower or equal score may have others between them that are missing here.
        exhausted: what to note when the passages end.

    Returns:
        What was found, or None when the passages end at the floor before enough were found.
    """
    chosen = Selection([], [], {}, "")
    seen: set[int] = set()
    known = set(positives.known)
    if floor == np.inf:
        return None
    for rank_here, (score, position, key) in enumerate(zip(scores, positions, keys, strict=True), rank):
        if len(chosen.positions) == wanted:
            break
        if score <= floor:
            return None
        if rank_here >= ranks[1]:
            return chosen._replace(note=exhausted)
        if score < min_score:
            return chosen._replace(note=BELOW_MIN_SCORE)
        rule = _left_out_by(position, key, rank_here < ranks[0], known, positives.keys, seen)
        if rule:
            _count(chosen.skipped, rule)
            continue
        seen.add(key)
        chosen.positions.append(position)
        chosen.scores.append(score)
    if len(chosen.positions) == wanted:
        return chosen
    return chosen._replace(note=exhausted) if floor == -np.inf else None


def ceiling_below(positive: float, margin: float) -> float:
    """The similarity that lies a share of `margin` below a positive's."""
    return positive - margin * abs(positive)


def _left_out_by(position: int, key: int, too_early: bool, known: set[int], known_keys: set[int], seen: set[int]) -> str:
    """The rule that leaves a passage out, "" for none."""
    if position in known or key in known_keys:
        return "positive"
    if too_early:
        return "skip_ranks"
    if key == 0:
        return "empty"
    return "duplicate" if key in seen else ""


def _count(skipped: dict[str, int], rule: str, number: int = 1) -> None:
    skipped[rule] = skipped.get(rule, 0) + number


def draw(generator: np.random.Generator, keys: np.ndarray, wanted: int, positives: Positives, taken: list[int]) -> list[int]:
    """Draw positions uniformly without repeating a text, skipping positives, empty passages and those already taken."""
    avoid = positives.keys | set(keys[taken].tolist()) | {0}
    known = set(positives.known)
    drawn: list[int] = []
    for position in _in_random_order(generator, len(keys), wanted):
        if len(drawn) == wanted:
            break
        key = int(keys[position])
        if key not in avoid and position not in known:
            avoid.add(key)
            drawn.append(position)
    return drawn


def _in_random_order(generator: np.random.Generator, size: int, wanted: int) -> Iterator[int]:
    """Every position below `size` in random order; the first few, repeats included, without shuffling them all."""
    yield from generator.integers(size, size=4 * wanted).tolist()
    yield from generator.permutation(size).tolist()


def _pick(chosen: Selection, wanted: int, strategy: str, generator: np.random.Generator | None) -> list[int]:
    """Which of the selected passages to keep, in order."""
    size = len(chosen.positions)
    if strategy == "top" or generator is None or size <= wanted:
        return list(range(min(size, wanted)))
    if strategy == "random":
        return sorted(generator.choice(size, wanted, replace=False).tolist())
    return [int(generator.choice(part)) for part in np.array_split(np.arange(size), wanted)]


@dataclass
class _Row:
    """What is found out about one row."""

    positives: Positives
    scores: dict[int, float] = field(default_factory=dict)
    negatives: list[int] = field(default_factory=list)
    sims: list[float] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    note: str = NO_VECTOR
    rank: int | None = None

    def best_own_positive(self) -> tuple[float, int]:
        """Similarity and position of the row's best positive; NaN and -1 when none is in the corpus."""
        own = [(-self.scores[place], place) for place in self.positives.places if place is not None]
        if not own:
            return np.nan, -1
        score, place = min(own)
        return -score, place

    def take(self, chosen: Selection, places: list[int], wanted: int) -> None:
        """Keep these of the selected passages, of which `wanted` were asked for."""
        self.negatives = [chosen.positions[place] for place in places]
        self.sims = [chosen.scores[place] for place in places]
        self.skipped = chosen.skipped
        self.note = chosen.note if len(places) < wanted else ""


def _score_positives(corpus: CorpusIndex, queries: np.ndarray, rows: list[_Row]) -> None:
    """Give each row the similarities of all known positives of its query."""
    places = [place for row in rows for place in row.positives.known]
    of_row = np.repeat(np.arange(len(rows)), [len(row.positives.known) for row in rows])
    scores = iter(similarities(corpus, queries, of_row, np.array(places, np.int64)).tolist())
    for row in rows:
        row.scores = {place: next(scores) for place in row.positives.known}


def _completed(own: list[list[str | None]], positives: list[Positives], corpus: CorpusIndex, column: str) -> list[list[str | None]]:
    """The positives' own values, and from the corpus those they lack; null for one that is not in it."""
    pairs = [list(zip(values, row.places, strict=True)) for values, row in zip(own, positives, strict=True)]
    wanted = [place for row in pairs for value, place in row if not value and place is not None]
    found = iter(corpus.values([column], np.array(wanted, np.int64))[0])
    return [[value or (None if place is None else next(found)) for value, place in row] for row in pairs]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")
