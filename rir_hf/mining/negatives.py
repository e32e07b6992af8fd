"""Pairs of query and positive in, the same rows with hard negatives out: what a retriever is
fine-tuned on.

For each row the best-scoring passages of the whole corpus below a ceiling that the positive's own
score sets, after de Souza Moreira et al. 2024 (NV-Retriever, arXiv 2407.15831), whose TopK-PercPos
at 95 % is the default.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from datasets import Dataset, Features, List, Value

from rir_hf.core.columns import Batch, check_at_least, check_choice
from rir_hf.core.draws import generator_of
from rir_hf.core.garbage import no_garbage_collection
from rir_hf.core.step import Step
from rir_hf.evaluation.runs import Qrels
from rir_hf.index.corpus import CorpusView
from rir_hf.index.exact import Marks, Pairs
from rir_hf.index.search import FUSED_DEPTH, columns_of, inputs_of, queries_in, views_of
from rir_hf.mining.merging import (
    Lane,
    Question,
    count_skipped_by,
    have_enough,
    lanes_of,
    merge,
    most_texts,
)
from rir_hf.mining.positives import KnownPositives, Positives, find_positives
from rir_hf.mining.rules import (
    NOTHING_SKIPPED,
    RELATIVE_MARGIN,
    Limits,
    Row,
    best_of,
    ceilings_of,
    count_skipped,
    draw,
    limits_of,
    pick,
    pools_of,
    positive_scores,
    why_short,
)
from rir_hf.schema import (
    ANSWER,
    ANSWER_EMBEDDING,
    EMBEDDING,
    NEG,
    NEG_FROM,
    NEG_IDS,
    NEG_NOTE,
    NEG_SCORES,
    NEG_SIMS,
    NEG_SKIPPED,
    OF_TEACHER,
    PASSAGE,
    POS,
    POS_IDS,
    POS_RANK,
    POS_SCORES,
    POS_SIMS,
    QUERY,
    QUERY_ID,
    RELABELLED,
    Column,
    OneOf,
    note,
)

Limit: TypeAlias = float | Mapping[str, float | None] | None
"""A limit of similarities; for several indexes also a dict, by name of the index."""

_TAKEN = (POS.name, POS_IDS.name, PASSAGE.name, QUERY.name, QUERY_ID.name, ANSWER.name)
_MANY_POSITIVES = 64
_DEEPER = 4
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
    - `pos`, `pos_ids`: the positives' texts and ids, completed from the corpus; null where unknown.
      A positive whose text neither row nor corpus has is left out of a row that has others. A text
      that the row has stays, also where the corpus has another under its id. `run` warns at its
      end how many of both its own process has seen;
    - `pos_sims`: similarities of `pos`, null for one that is not in the corpus;
    - `pos_rank`: how many passages of the corpus rank before the row's best positive, so that 0 is
      the first rank and `pos_rank < 20` means "among the first 20"; the size of the corpus where
      no positive is in it, or the first index knows nothing of the query;
    - `neg_note`: why there are fewer negatives than asked, else null;
    - `neg_skipped`: how many better-ranked passages each rule left out; of several indexes added
      up.

    What a teacher said of the negatives that the row had (`neg_scores`, `pos_scores`, `relabelled`)
    becomes null.

    With another `output`, `"neg_answer"` say, the names begin with it instead
    (`neg_answer_pos_sims`, `neg_answer_pos_rank`).

    The same row gives the same negatives whatever the batch size, the number of processes or the
    order of the rows; where a query has several rows, with `qrels`. Searching uses every core
    already: more processes seldom help.

    Args:
        corpus: dataset with an index attached (`attach_index`), flat for exact results. Over
            another index the passages that it returns are ranked by the vectors in the corpus's own
            column; where it returns too few, the row is finished by an exact search. There
            `pos_rank` and `neg_skipped` count what the index returned, lower bounds; an IVF index
            looks into one list unless told more (`corpus.get_index("embedding").faiss_index.nprobe
            = 16`).
        index: name of the index: of vectors (`attach_index`) or of words (`attach_lexical`). A list
            of names takes negatives from each in turn; see `merge`.
        text: the corpus's text column. None when there is none: ids alone then tell passages apart.
        id: the corpus's id column.
        query: column to search with: of vectors, or for an index of words of texts; with several
            indexes a dict by name. Default: `embedding` and `query`, and for negatives of an answer
            (`output="neg_answer"`) `answer_embedding` and `answer`.
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
            easy ones. Margins and scores may be dicts by name of the index, whose similarities
            differ in kind; an index that such a dict lacks has the default.
        range_min: leaves out the first so many of the passages that the other rules left.
        range_max: `"random"` and `"stratified"` draw from the passages before this place among
            those that the other rules left. None: from the best 100, or `num_negatives` if that is
            more; `"top"` then searches the whole corpus.
        sampling_strategy: which of them. `"top"`: the best. `"random"`: a random choice.
            `"stratified"`: one from each of `num_negatives` equal slices, from hard to easy.
            `"uniform"`: drawn from the whole corpus, with no ceiling, margin or range.
        merge: how the negatives of several indexes become one list, no text twice: `"turns"`, the
            best of the first index, the best of the second, and so on; or `"zscore"`, by the mean
            of their z-scores over the first 100 that each proposes, or as many as are asked for
            where that is more. A passage above the ceiling of any of the
            indexes is out; one that gives the positive no score at all (no word in common) proposes
            nothing and forbids nothing. The column `neg_from` names the index that each negative
            comes from; all similarities and ranks are those of the first index.
        answer: column of the answers' vectors, read only with `answer_weight`; as in `Search`, one
            vector for each row or a list of several, and a row without any is searched with its
            query alone.
        answer_weight: w searches with `(1 - w) * query + w * answer`.
        qrels: all known positives, so that none becomes a negative in another row of the same
            query: a dict `{query_id: {passage_id: relevance}}`, a dataset with the columns
            `query-id, corpus-id, score` (BEIR), the pairs themselves, or a file of TREC or BEIR.
            Rows with the same `query_id` are of one query; of pairs and rows without that column
            those with exactly the same text in `query`. Without `qrels` only rows of the same batch
            know of each other: pass it wherever a query has several rows.
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

    version = 3

    def __init__(
        self,
        corpus: Dataset,
        *,
        index: str | Sequence[str] = "embedding",
        text: str | None = "text",
        id: str = "id",
        query: str | Mapping[str, str] | None = None,
        output: str = "neg",
        num_negatives: int = 15,
        ceiling: Literal["lowest", "mean", "highest"] = "lowest",
        relative_margin: Limit = RELATIVE_MARGIN,
        absolute_margin: Limit = None,
        max_score: Limit = None,
        min_score: Limit = None,
        range_min: int = 0,
        range_max: int | None = None,
        sampling_strategy: Literal["top", "random", "stratified", "uniform"] = "top",
        merge: Literal["turns", "zscore"] = "turns",
        answer: str = "answer_embedding",
        answer_weight: float = 0.0,
        qrels: Qrels | None = None,
        seed: int = 0,
        texts: bool = True,
    ) -> None:
        check_choice("ceiling", ceiling, ("lowest", "mean", "highest"))
        strategies = ("top", "random", "stratified", "uniform")
        check_choice("sampling_strategy", sampling_strategy, strategies)
        check_choice("merge", merge, ("turns", "zscore"))
        check_at_least("num_negatives", num_negatives, 1)
        check_at_least("seed", seed, 0)
        _check_range(range_min, range_max, num_negatives)
        if not 0 <= answer_weight <= 1:
            raise ValueError(f"answer_weight must be between 0 and 1, got {answer_weight}.")
        if output in _TAKEN:
            raise ValueError(f"output={output!r} names another column of the rows: name a new one.")
        if text is None and texts:
            raise ValueError(
                "text=None names no column to take texts from: pass texts=False too, for ids only."
            )
        of_answer = output == "neg_answer"
        words, vectors = (ANSWER.name, answer) if of_answer else (QUERY.name, EMBEDDING.name)
        self.views = views_of(corpus, index, id, text)
        self.columns = columns_of(self.views, index, query, words, vectors)
        self.index = [index] if isinstance(index, str) else [*index]
        if len(self.index) > 1 and sampling_strategy == "uniform":
            raise ValueError("uniform draws from the whole corpus: name one index.")
        if answer_weight and EMBEDDING not in [view.reads for view in self.views]:
            raise ValueError("answer_weight mixes vectors: name an index of vectors.")
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
        self.merge = merge
        self.answer = answer
        self.answer_weight = answer_weight
        self.qrels = None if qrels is None else KnownPositives(qrels)
        self.seed = seed
        self.texts = texts
        _ = self._limits  # what is wrong with them is told at once

    @property
    def corpus(self) -> CorpusView:
        """The corpus with its first index."""
        return self.views[0]

    @property
    def inputs(self) -> tuple[Column | OneOf, ...]:
        """Vectors, and what tells the positives."""
        asked = [*inputs_of(self.views, self.columns)]
        if self.answer_weight:
            asked.append(ANSWER_EMBEDDING.named(self.answer))
        if self.qrels is None:
            return (*asked, POS | PASSAGE | POS_IDS)
        return (*asked, QUERY if self.qrels.by == QUERY.name else QUERY_ID)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """Positives and negatives, texts only with `texts`."""
        columns = [POS_SIMS, POS_RANK, NEG, NEG_IDS, NEG_SIMS, NEG_NOTE, NEG_SKIPPED]
        if len(self.views) > 1:
            columns.append(NEG_FROM)
        every = (POS, POS_IDS, *(self._named(column) for column in columns))
        of_texts = () if self.texts else (POS.name, self.output)
        return tuple(column for column in every if column.name not in of_texts)

    def outdated(self, columns: Collection[str]) -> tuple[Column, ...]:
        """The texts of other negatives, where they come from, and what a teacher said of them."""
        own = (self._named(NEG), self._named(NEG_FROM))
        if self.output != NEG.name:
            return own
        return (*own, POS_SCORES, NEG_SCORES, RELABELLED, *OF_TEACHER)

    @property
    def reads_batch(self) -> bool:
        """Whether positives of a query are gathered from its rows."""
        return self.qrels is None

    @property
    def note(self) -> Column:
        """Why there are fewer negatives than asked."""
        return self._named(NEG_NOTE)

    def check(self, features: Features) -> None:
        """Raise `ValueError` for what cannot be mined; a single positive is as good as a list."""
        both = (POS.name, POS_IDS.name)
        scalars = [name for name in both if isinstance(features.get(name), Value)]
        super().check(Features({**features, **{name: List(features[name]) for name in scalars}}))

    def remark(self) -> str:
        """How many positives have another text than the corpus, and how many have none."""
        others, unknown = (self.__dict__.pop(name, []) for name in ("_other_texts", "_unknown"))
        said = []
        if others:
            said.append(
                f"{_total(others)} positives have another text than the corpus has under their id, "
                f"{others[0][1]!r} for one: pos keeps the rows' texts, neg has the corpus's. "
                "Without pos and passage in the rows all texts are the corpus's"
            )
        if unknown:
            said.append(
                f"{_total(unknown)} positives are not in the corpus, {unknown[0][1]!r} for one: "
                "rows that have others go without them, as their texts are not known"
            )
        return "; ".join(said)

    @no_garbage_collection()
    def transform(self, batch: Batch) -> dict[str, Sequence[Any]]:
        """Return the columns named in the description of the class."""
        answers = (self.answer if self.answer_weight else None, self.answer_weight)
        asked = queries_in(self.views, self.columns, batch, *answers)
        rows = self._rows(batch)
        positives = [row.positives for row in rows]
        if self.texts and (others := ids_of_other_texts(positives, self.corpus)):
            self._other_texts.append((len(others), others[0]))
        has_query = self._can_ask(asked)
        has_positive = np.array([len(row.positives.known) > 0 for row in rows], bool)
        nothing = (self._nothing("no_vector"), self._nothing("no_positive"))
        mined = [nothing[usable] for usable in has_query.tolist()]
        for group in _by_depth(np.flatnonzero(has_query & has_positive), rows):
            some = [queries[group] for queries in asked]
            found = self._mine(some, [rows[number] for number in group])
            for number, negatives in zip(group, found, strict=True):
                mined[number] = negatives
        return self._columns(positives, mined)

    def _can_ask(self, asked: list[np.ndarray]) -> np.ndarray:
        """Which rows have a query, `(rows,)` bool: for the first index, or where that is of words,
        for another one.
        """
        usable = [view.are_usable(queries) for view, queries in zip(self.views, asked, strict=True)]
        if self.corpus.reads is EMBEDDING:
            return usable[0]
        return np.logical_or.reduce(usable)

    def _nothing(self, code: str) -> Negatives:
        """What a row gets that cannot be mined."""
        none = np.empty(0, np.int64)
        return Negatives(none, [], note(code), NOTHING_SKIPPED, rank=len(self.corpus))

    def _mine(self, asked: list[np.ndarray], rows: list[Row]) -> list[Negatives]:
        """The negatives of rows that have a query and a positive in the corpus."""
        own = scored(self.corpus, asked[0], [row.positives.positions for row in rows])
        marks = best_of(own, len(rows))
        if self.sampling_strategy == "uniform":
            before = self.corpus.nearest_below(asked[0], 0, marks=marks).before
            mined = self._drawn(asked[0], rows)
        elif len(self.views) > 1:
            mined, before = self._merged(asked, rows, marks)
        else:
            mined, before = self._chosen(asked, rows, marks)
        ranks = np.where(marks.positions < 0, len(self.corpus), before).tolist()
        parts = zip(mined, ranks, own.split(len(rows)), strict=True)
        return [row._replace(rank=rank, own=scores.tolist()) for row, rank, scores in parts]

    def _chosen(
        self, asked: list[np.ndarray], rows: list[Row], marks: Marks
    ) -> tuple[list[Negatives], np.ndarray]:
        """Negatives from what lies below the ceilings; and how many passages rank before the
        marks.
        """
        lane = self._lanes(asked, rows, self._depth(rows), marks)[0]
        found, left = lane.found, lane.left
        pools = pools_of(left, self.range_min, self._pool_size)
        limits = (lane.known, lane.ceilings, self.range_min, lane.min_score)
        skipped = count_skipped(found, left, pools, *limits)
        chosen = []
        for number, row in enumerate(rows):
            places = np.flatnonzero(pools.taken[number])
            places = places[self._picked(len(places), row)]
            reason = self._why_short(len(places), [lane], number)
            at, scores = found.positions[number, places], found.scores[number, places]
            chosen.append(Negatives(at, scores.tolist(), reason, skipped[number]))
        return chosen, found.before

    def _merged(
        self, asked: list[np.ndarray], rows: list[Row], marks: Marks
    ) -> tuple[list[Negatives], np.ndarray]:
        """The same from several indexes, searched deeper for the rows that are not full yet."""
        wanted = self._proposed
        depth = min(2 * wanted + most_texts(rows), len(self.corpus))
        mined = [self._nothing("no_positive")] * len(rows)
        before = np.zeros(len(rows), np.int64)
        is_ranked = np.zeros(len(rows), bool)
        todo = np.arange(len(rows))
        while len(todo):
            some = [queries[todo] for queries in asked]
            of_some = Marks(marks.scores[todo], marks.positions[todo])
            lanes = self._lanes(some, [rows[number] for number in todo], depth, of_some)
            is_done = have_enough(lanes, wanted) | (depth == len(self.corpus))
            for place in np.flatnonzero(is_done).tolist():
                number = todo[place]
                query = asked[0][number : number + 1]
                mined[number] = self._merged_row(lanes, place, rows[number], query)
                before[number] = lanes[0].found.before[place]
                is_ranked[number] = lanes[0].asks[place]
            todo = todo[~is_done]
            depth = min(_DEEPER * depth, len(self.corpus))
        before[~is_ranked] = len(self.corpus)
        silent = ~is_ranked & self.corpus.are_usable(asked[0])
        if silent.any():  # words that miss the positive have no say, but a rank
            marks = Marks(marks.scores[silent], marks.positions[silent])
            before[silent] = self.corpus.nearest_below(asked[0][silent], 0, marks=marks).before
        return mined, before

    def _merged_row(self, lanes: list[Lane], place: int, row: Row, query: np.ndarray) -> Negatives:
        """The negatives of one row from what its indexes propose."""
        positions = np.concatenate([lane.found.positions[place] for lane in lanes])
        keys = dict(zip(positions.tolist(), self.corpus.text_keys[positions].tolist(), strict=True))
        end = self.range_min + self._pool_size
        merged = merge(lanes, place, keys, self.merge, self._proposed, end)
        in_range = len(merged.places[: self.range_min])
        pool = range(in_range, len(merged.places))
        taken = merged.take([pool[at] for at in self._picked(len(pool), row)])
        at = [lanes[of].found.positions[place, where] for of, where in zip(*taken, strict=True)]
        chosen = np.array(at, np.int64)
        scores = scored(self.corpus, query, [chosen]).scores
        is_full = len(merged.places) == end
        skipped = count_skipped_by(lanes, place, merged, is_full)
        skipped["range_min"] = in_range
        reason = self._why_short(len(chosen), lanes, place)
        names = [self.index[number] for number in taken.lanes]
        return Negatives(chosen, scores.tolist(), reason, skipped, origin=names)

    def _lanes(
        self, asked: list[np.ndarray], rows: list[Row], depth: int, marks: Marks
    ) -> list[Lane]:
        """What each index proposes, `depth` passages, and what the rules say of them."""
        questions = []
        for view, queries, limits in zip(self.views, asked, self._limits, strict=True):
            known = scored(view, queries, [row.positives.known for row in rows])
            scores = positive_scores(known, len(rows), self.ceiling)
            asks = np.ones(len(rows), bool)
            if len(self.views) > 1:  # words that miss the positive have no say
                asks = view.are_usable(queries) & ((scores > 0) | (view.reads is EMBEDDING))
            ceilings = ceilings_of(scores, limits)
            questions.append(Question(view, queries, asks, known, ceilings, limits.min_score))
        return lanes_of(questions, rows, depth, marks)

    def _picked(self, size: int, row: Row) -> list[int]:
        """Which of the passages of a row's pool are its negatives."""
        if self.sampling_strategy == "top":
            return list(range(min(size, self.num_negatives)))
        generator = generator_of(self.seed, *row.content)
        return pick(size, self.num_negatives, self.sampling_strategy, generator)

    def _why_short(self, number: int, lanes: list[Lane], row: int) -> str | None:
        """The note of a row with so many negatives; None where that is enough."""
        if number >= self.num_negatives:
            return None
        is_below = any(bool(lane.left.below[row].any()) for lane in lanes)
        return why_short(float(lanes[0].ceilings.scores[row]), is_below)

    def _drawn(self, queries: np.ndarray, rows: list[Row]) -> list[Negatives]:
        """Negatives from the whole corpus."""
        drawn = []
        for row in rows:
            generator = generator_of(self.seed, *row.content)
            taboo_keys = [*row.positives.keys.tolist(), row.own_key]
            taboo = row.positives.known.tolist()
            keys = self.corpus.text_keys
            drawn.append(draw(generator, keys, self.num_negatives, taboo_keys, taboo))
        scores = scored(self.corpus, queries, drawn).split(len(rows))
        negatives = []
        for positions, similarities in zip(drawn, scores, strict=True):
            is_short = len(positions) < self.num_negatives
            reason = why_short(np.inf, is_below=False) if is_short else None
            negatives.append(Negatives(positions, similarities.tolist(), reason, NOTHING_SKIPPED))
        return negatives

    def _columns(
        self, positives: list[Positives], mined: list[Negatives]
    ) -> dict[str, Sequence[Any]]:
        corpus = self.corpus
        own = [row.positions for row in positives]
        at = [row.positions for row in mined]
        columns: dict[str, Sequence[Any]] = {
            POS_IDS.name: completed([row.ids for row in positives], own, corpus, corpus.id),
            self._named(POS_SIMS).name: [
                aligned(positions, row.own) for positions, row in zip(own, mined, strict=True)
            ],
            self._named(POS_RANK).name: [row.rank for row in mined],
            self._named(NEG_IDS).name: corpus.lists_of(corpus.id, at),
            self._named(NEG_SIMS).name: [row.scores for row in mined],
            self._named(NEG_NOTE).name: [row.note for row in mined],
            self._named(NEG_SKIPPED).name: [row.skipped for row in mined],
            self._named(NEG_FROM).name: [row.origin for row in mined],
        }
        if self.texts and corpus.text is not None:
            texts = [row.texts for row in positives]
            columns[POS.name] = completed(texts, own, corpus, corpus.text)
            columns[self.output] = corpus.lists_of(corpus.text, at)
        return columns

    @property
    def _pool_size(self) -> int:
        """From how many passages below the ceiling, counted from `range_min`, the negatives are
        taken.
        """
        if self.sampling_strategy == "top":
            return self.num_negatives
        if self.range_max is None:
            return max(_DEFAULT_RANGE, self.num_negatives)
        return self.range_max - self.range_min

    @property
    def _proposed(self) -> int:
        """How many passages below the ceilings each of several indexes proposes."""
        wanted = self.range_min + self._pool_size
        return max(wanted, FUSED_DEPTH) if self.merge == "zscore" else wanted

    @cached_property
    def _other_texts(self) -> list[tuple[int, str]]:
        """Of each batch how many positives have another text than the corpus, and the id of one."""
        return []

    @cached_property
    def _unknown(self) -> list[tuple[int, str]]:
        """The same of each row's positives that are left out, as nobody knows their texts."""
        return []

    @cached_property
    def _limits(self) -> list[Limits]:
        return limits_of(
            self.index,
            relative_margin=self.relative_margin,
            absolute_margin=self.absolute_margin,
            max_score=self.max_score,
            min_score=self.min_score,
        )

    def _depth(self, rows: list[Row]) -> int:
        """How many passages to ask for, so that enough are left when the positives' texts and the
        query's own are taken out.
        """
        wanted = self.range_min + self._pool_size + most_texts(rows) + 1
        return min(wanted, len(self.corpus))

    def _rows(self, batch: Batch) -> list[Row]:
        positives = find_positives(batch, self.corpus, self.qrels)
        if self.texts:
            positives = [self._with_texts(row) for row in positives]
        columns = [batch.values_of(name) for name in (QUERY.name, ANSWER.name) if name in batch]
        has_own_text = QUERY.name in batch and self.corpus.text is not None
        rows = []
        for number, known in enumerate(positives):
            content = [column[number] for column in columns]
            own_key = hash(content[0]) if has_own_text and isinstance(content[0], str) else 0
            rows.append(Row(known, own_key, (self.output, *content, known.texts, known.ids)))
        return rows

    def _with_texts(self, row: Positives) -> Positives:
        """The positives without those whose text nobody knows; as they are where it is all."""
        if all(row.texts):
            return row
        pairs = zip(row.texts, row.positions.tolist(), strict=True)
        kept = [place for place, (text, at) in enumerate(pairs) if text or at >= 0]
        if len(kept) in (0, len(row.texts)):
            return row
        lost = min(set(range(len(row.texts))).difference(kept))
        self._unknown.append((len(row.texts) - len(kept), str(row.ids[lost])))
        texts, ids = ([values[at] for at in kept] for values in (row.texts, row.ids))
        return row._replace(texts=texts, ids=ids, positions=row.positions[kept])

    def _named(self, column: Column) -> Column:
        """A column under the name that goes with `output`."""
        if column.name.startswith(NEG.name):
            return column.named(self.output + column.name.removeprefix(NEG.name))
        return column if self.output == NEG.name else column.named(f"{self.output}_{column.name}")


class Negatives(NamedTuple):
    """What was mined for one row.

    positions, scores: of the negatives.
    note: why there are fewer than asked.
    skipped: how many passages each rule left out.
    rank: of the best positive.
    own: the similarities of the row's own positives that are in the corpus, in order.
    origin: the index that each negative comes from, where there are several.
    """

    positions: np.ndarray
    scores: list[float]
    note: str | None
    skipped: dict[str, int]
    rank: int = 0
    own: Sequence[float] = ()
    origin: Sequence[str] = ()


def scored(view: CorpusView, queries: np.ndarray, positions: Sequence[np.ndarray]) -> Pairs:
    """Each query with each of its passages that is in the corpus, and their similarities."""
    rows = np.repeat(np.arange(len(positions)), [len(each) for each in positions])
    at = np.concatenate(positions)
    rows, at = rows[at >= 0], at[at >= 0]
    return Pairs(rows, at, view.similarities(queries, rows, at))


def _total(found: Sequence[tuple[int, str]]) -> int:
    return sum(number for number, _ in found)


def ids_of_other_texts(positives: Sequence[Positives], corpus: CorpusView) -> list[str]:
    """The ids of the positives under which the corpus has another text."""
    keys = corpus.text_keys
    return [
        passage
        for row in positives
        for text, passage, at in zip(row.texts, row.ids, row.positions.tolist(), strict=True)
        if text and passage is not None and at >= 0 and hash(text) != keys[at]
    ]


def completed(
    values: Sequence[Sequence[str | None]],
    positions: Sequence[np.ndarray],
    corpus: CorpusView,
    column: str,
) -> list[list[str | None]]:
    """The positives' own values, and from the corpus those they lack; null for one that is not in
    it.
    """
    if all(map(all, values)):
        return [list(own) for own in values]
    found = corpus.lists_of(column, [row[row >= 0] for row in positions])
    rows: list[list[str | None]] = []
    for own, at, stored in zip(values, positions, found, strict=True):
        pairs = zip(own, aligned(at, stored), strict=True)
        rows.append([value or other for value, other in pairs])
    return rows


def aligned(positions: np.ndarray, values: Sequence[Any]) -> list[Any]:
    """For each positive its value, null for one that is not in the corpus.

    Example:
        >>> aligned(np.array([7, -1, 4]), ["a", "b"])
        ['a', None, 'b']
    """
    rest = iter(values)
    return [next(rest, None) if position >= 0 else None for position in positions.tolist()]


def _by_depth(numbers: np.ndarray, rows: list[Row]) -> Iterator[np.ndarray]:
    """These rows at once, but those with unusually many positives apart: they must be searched
    deeper.
    """
    is_many = np.array([len(rows[number].positives.keys) > _MANY_POSITIVES for number in numbers])
    for many in (False, True):
        group = numbers[is_many == many]
        if len(group):
            yield group


def _check_range(range_min: int, range_max: int | None, num_negatives: int) -> None:
    check_at_least("range_min", range_min, 0)
    if range_max is not None and range_max - range_min < num_negatives:
        raise ValueError(
            f"range_max={range_max} must leave at least num_negatives={num_negatives} passages "
            f"behind range_min={range_min}."
        )
