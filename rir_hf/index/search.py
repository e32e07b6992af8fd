"""Queries in, ranked passages out: by vectors, by words, or by several indexes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import Batch, check_at_least, check_choice, require_dataset
from rir_hf.core.garbage import no_garbage_collection
from rir_hf.core.step import Step
from rir_hf.evaluation.fusion import FUSIONS, Fusion, checked_weights, fused_at
from rir_hf.index.corpus import CorpusView, shared
from rir_hf.index.exact import Nearest, nearest_below
from rir_hf.index.lexical import WordIndex, WordView
from rir_hf.index.vectors import VectorView, are_usable
from rir_hf.schema import ANSWER_EMBEDDING, EMBEDDING, HIT_IDS, HIT_SCORES, QUERY, Column

Ranking: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Positions and scores of the passages of one query, best first."""

FUSED_DEPTH = 100
"""Of each of several indexes so many passages are fused, or more where more are asked for."""


class Search(Step):
    """Adds the best passages of each query: `hit_ids` and `hit_scores`, best first.

    Over one index the scores are its own: exact similarities or BM25 scores. Over several each is
    searched, and their rankings are fused. Equal scores stand in the order of the corpus. A row
    whose vector is missing, zero or not finite, or whose query has no word that the corpus knows,
    gets nothing from that index; words find only passages that have one of them.

    With `answer` the vectors of hypothetical answers are searched with, beside the query's:
    `(1 - w) * query + w * answer`, as Reinforced-IR does (arXiv 2502.11562). The sum is not brought
    to unit length: for one query a scale does not change the ranking. So a score is the same sum of
    the similarities.

    Args:
        corpus: dataset with an index attached (`attach_index`, `attach_lexical`), flat for exact
            results. Over another FAISS index, the passages that it returns are ranked; where it
            returns too few, the row is finished by an exact search.
        index: name of the index, or a list of names.
        query: the column to search with: of vectors for an index of vectors, of texts for one of
            words. With several indexes a dict of columns by name of the index. Default:
            `embedding` for vectors, `query` for words.
        k: passages per query; fewer only when the corpus is smaller, or `depth` leaves fewer.
        id: the corpus's id column.
        method: how several indexes are fused; see `fuse`.
        weights: of the indexes, in their order. Default: 1 each.
        depth: of each of several indexes the first so many passages are fused. Default: 100, or `k`
            where that is more.
        answer: column of the answers' vectors, unit vectors of the query's retriever: one for each
            row, or a list of several, whose mean is taken. An answer that is null, empty, zero or
            not finite does not count, and a row without any is searched with its query alone. An
            index of words is asked with the query alone. Default: no answers.
        answer_weight: w, 0 to 1; 0.2 in the paper.

    Raises:
        TypeError: the corpus is not a dataset.
        ValueError: k or depth below 1, no such index or column, an index that does not belong to
            the corpus, an option that does not fit, `answer` without an index of vectors; when
            mapped, vectors of another dimension.

    Example:
        >>> from rir_hf.index.attach import attach_index
        >>> from rir_hf.index.lexical import attach_lexical
        >>> rows = {"id": ["a", "b", "c"], "text": ["red fox", "blue car", "red car"],
        ...         "embedding": [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]}
        >>> corpus = attach_lexical(attach_index(Dataset.from_dict(rows)))
        >>> queries = Dataset.from_dict({"query": ["blue cars"], "embedding": [[0.0, 1.0]]})
        >>> row = queries.map(Search(corpus, k=2), batched=True)[0]
        >>> row["hit_ids"], [round(score, 2) for score in row["hit_scores"]]
        (['c', 'b'], [1.0, 0.8])
        >>> queries.map(Search(corpus, index="bm25"), batched=True)[0]["hit_ids"]
        ['b', 'c']
        >>> queries.map(Search(corpus, index=["embedding", "bm25"]), batched=True)[0]["hit_ids"]
        ['b', 'c', 'a']
        >>> answered = queries.add_column("answer_embedding", [[[1.0, 0.0], [0.6, 0.8]]])
        >>> search = Search(corpus, k=1, answer="answer_embedding", answer_weight=0.5)
        >>> answered.map(search, batched=True)[0]["hit_ids"]
        ['b']
    """

    version = 2

    def __init__(
        self,
        corpus: Dataset,
        *,
        index: str | Sequence[str] = "embedding",
        query: str | Mapping[str, str] | None = None,
        k: int = 100,
        id: str = "id",
        method: Fusion = "zscore",
        weights: Sequence[float] | None = None,
        depth: int | None = None,
        answer: str | None = None,
        answer_weight: float = 0.2,
    ) -> None:
        check_at_least("k", k, 1)
        check_at_least("depth", 1 if depth is None else depth, 1)
        check_choice("method", method, FUSIONS)
        if not 0 <= answer_weight <= 1:
            raise ValueError(f"answer_weight must be between 0 and 1, got {answer_weight}.")
        self.views = views_of(corpus, index, id, text=None)
        self.columns = columns_of(self.views, index, query)
        self.k = k
        self.method = method
        self.weights = checked_weights(weights, len(self.views), "index")
        self.depth = depth
        self.answer = answer
        self.answer_weight = answer_weight
        if answer is not None and EMBEDDING not in [view.reads for view in self.views]:
            raise ValueError(
                f"answer={answer!r} mixes vectors, but index={index!r} searches words: name an "
                "index of vectors, or no answer."
            )

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The vectors, the words, or both; and the answers' vectors."""
        answers = () if self.answer is None else (ANSWER_EMBEDDING.named(self.answer),)
        return (*inputs_of(self.views, self.columns), *answers)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The hits."""
        return (HIT_IDS, HIT_SCORES)

    @no_garbage_collection()
    def transform(self, batch: Batch) -> dict[str, list[Any]]:
        """Return `{"hit_ids": lists of str, "hit_scores": lists of float}`."""
        answers = (self.answer, self.answer_weight)
        asked = queries_in(self.views, self.columns, batch, *answers)
        depth = max(FUSED_DEPTH, self.k) if self.depth is None else self.depth
        fusing = (self.k, [depth] * len(batch), self.method, self.weights)
        found = found_for(self.views, asked, *fusing)
        passages = self.views[0]
        return {
            "hit_ids": passages.lists_of(passages.id, [positions for positions, _ in found]),
            "hit_scores": [scores.tolist() for _, scores in found],
        }


def views_of(
    corpus: Dataset, index: str | Sequence[str], id: str, text: str | None
) -> list[CorpusView]:
    """A view for each named index; those of one corpus that are in use already are used again.

    Raises:
        TypeError: the corpus is not a dataset.
        ValueError: no index, the same one twice, or one that is not attached.
    """
    names = [index] if isinstance(index, str) else list(index)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"index must name one index or several different ones, got {index!r}.")
    return [_view_of(corpus, name, id, text) for name in names]


def columns_of(
    views: Sequence[CorpusView],
    index: str | Sequence[str],
    query: str | Mapping[str, str] | None,
    words: str = QUERY.name,
    vectors: str = EMBEDDING.name,
) -> list[str]:
    """The column that each index is asked with.

    Args:
        views: the indexes.
        index: their names.
        query: as in `Search`: one column, columns by name, or None.
        words, vectors: what is read where nothing is named.
    """
    names = [index] if isinstance(index, str) else list(index)
    if isinstance(query, str):
        if len(names) > 1:
            raise ValueError(
                f"query={query!r} names one column for {len(names)} indexes: name them by index, "
                f"{dict.fromkeys(names, query)}."
            )
        query = {names[0]: query}
    unknown = set(query or {}) - set(names)
    if unknown:
        raise ValueError(f"query names the index {sorted(unknown)[0]!r}, but index={names}.")
    usual = [vectors if view.reads is EMBEDDING else words for view in views]
    return [(query or {}).get(name, column) for name, column in zip(names, usual, strict=True)]


def inputs_of(views: Sequence[CorpusView], columns: Sequence[str]) -> tuple[Column, ...]:
    """The columns that are read to ask some indexes."""
    pairs = zip(views, columns, strict=True)
    return tuple(dict.fromkeys(view.reads.named(column) for view, column in pairs))


def queries_in(
    views: Sequence[CorpusView],
    columns: Sequence[str],
    batch: Batch,
    answer: str | None = None,
    answer_weight: float = 0.0,
) -> list[np.ndarray]:
    """What each index is asked with, for the rows of a batch.

    Args:
        views: the indexes.
        columns: what each is asked with.
        batch: the rows.
        answer, answer_weight: as in `Search`.
    """
    asked = []
    for view, column in zip(views, columns, strict=True):
        queries = view.queries_in(batch, column)
        if answer is not None and view.reads is EMBEDDING:
            answers = answers_in(batch, answer, queries.shape[1])
            queries = with_answers(queries, answers, answer_weight)
        asked.append(queries)
    return asked


def found_for(
    views: Sequence[CorpusView],
    asked: Sequence[np.ndarray],
    k: int,
    depths: Sequence[int],
    method: Fusion,
    weights: Sequence[float],
    eligible: np.ndarray | None = None,
) -> list[Ranking]:
    """The best k passages of each row: an index's own, or of several fused the first so many as
    `depths` says for the row.
    """
    if len(views) == 1:
        return rankings_of(views[0], asked[0], k, eligible)
    deepest = max(depths, default=1)
    rankings = [
        rankings_of(view, queries, deepest, eligible)
        for view, queries in zip(views, asked, strict=True)
    ]
    found = []
    for depth, of_row in zip(depths, zip(*rankings, strict=True), strict=True):
        first = [(positions[:depth], scores[:depth]) for positions, scores in of_row]
        found.append(fused_ranking(first, method, weights, k))
    return found


def rankings_of(
    view: CorpusView, queries: np.ndarray, k: int, eligible: np.ndarray | None = None
) -> list[Ranking]:
    """What an index finds for each query, among the passages that are eligible."""
    rankings: list[Ranking] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
    usable = np.flatnonzero(view.are_usable(queries))
    found = view.nearest_below(queries[usable], min(k, len(view)), eligible=eligible)
    for place, row in enumerate(usable):
        rankings[row] = ranking_at(found, place)
    return rankings


def ranking_at(found: Nearest, row: int) -> Ranking:
    """What was found for one of the queries."""
    is_there = found.positions[row] >= 0
    return found.positions[row][is_there], found.scores[row][is_there]


def fused_ranking(
    rankings: Sequence[Ranking], method: Fusion, weights: Sequence[float], k: int
) -> Ranking:
    """The best k of several rankings of one query together, equal scores by position."""
    found = [positions for positions, _ in rankings]
    positions = np.unique(np.concatenate(found))
    places = [np.searchsorted(positions, each) for each in found]
    own = [scores.astype(np.float64) for _, scores in rankings]
    scores = fused_at(places, own, len(positions), method, weights).astype(np.float32)
    order = np.argsort(-scores, kind="stable")[:k]
    return positions[order], scores[order]


def answers_in(batch: Batch, column: str, dimension: int) -> np.ndarray:
    """The mean of each row's answer vectors, `(rows, dimension)` float64; zeros where it has none
    that is finite and not zero.

    Raises:
        ValueError: neither vectors nor lists of vectors, or another dimension.
    """
    rows = batch.lists(column)
    if not any(hasattr(item, "__len__") for row in rows for item in row):  # a vector for each row
        rows = [[row] if row else [] for row in rows]
    owners = np.array([number for number, row in enumerate(rows) for _ in row], np.int64)
    every = Batch({column: [vector for row in rows for vector in row]}, batch.who)
    vectors = every.vectors(column, dimension)
    usable = are_usable(vectors)
    means = np.zeros((len(rows), dimension))
    np.add.at(means, owners[usable], vectors[usable])
    counts = np.bincount(owners[usable], minlength=len(rows))
    return means / np.maximum(counts, 1)[:, None]


def with_answers(queries: np.ndarray, answers: np.ndarray, weight: float) -> np.ndarray:
    """The vectors to search with: `(1 - weight) * query + weight * answer`.

    Args:
        queries: `(n, d)`. One that is zero or not finite stays as it is.
        answers: `(n, d)`. Beside one that is zero or not finite stands the query alone.
        weight: of the answers.

    Returns:
        `(n, d)` float32, not of unit length: a scale does not change the ranking of one query.

    Example:
        >>> queries, answers = np.eye(2), np.array([[0.0, 1.0], [0.0, 0.0]])
        >>> with_answers(queries, answers, 0.25).tolist()
        [[0.75, 0.25], [0.0, 1.0]]
    """
    mixed = (1 - weight) * queries.astype(np.float64) + weight * answers
    are_both = are_usable(queries) & are_usable(answers)
    return np.where(are_both[:, None], mixed, queries).astype(np.float32)


def _view_of(corpus: Dataset, name: str, id: str, text: str | None) -> CorpusView:
    require_dataset(corpus, "A search")
    attached = corpus.get_index(name) if name in corpus.list_indexes() else None
    if isinstance(attached, WordIndex):
        return shared(WordView(corpus, name, id, text), attached.path)
    view = VectorView(corpus, name, id, text)
    return shared(view, view.path, view.is_on_gpu)


def search(
    queries_emb: np.ndarray, doc_emb: np.ndarray, topk: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Find the best passages of each query by inner product, exactly.

    Args:
        queries_emb: `(n, d)` query vectors.
        doc_emb: `(m, d)` passage vectors.
        topk: passages per query; never more than `m` come back, and never a padding id.

    Returns:
        scores `(n, min(topk, m))` float32 in descending order, and the rows of `doc_emb` they
        belong to, int64; ties by row.

    Raises:
        ValueError: arrays that are not two-dimensional or of different `d`, NaN or infinite values,
            `topk` below 1.

    Example:
        >>> docs = np.array([[1, 0], [0, 1], [0.6, 0.8]], "float32")
        >>> scores, indices = search(np.array([[0, 1]], "float32"), docs, topk=2)
        >>> indices.tolist(), scores.round(2).tolist()
        ([[1, 2]], [[1.0, 0.800000011920929]])
    """
    queries = np.asarray(queries_emb, np.float32)
    passages = np.ascontiguousarray(doc_emb, np.float32)
    if queries.ndim != 2 or passages.ndim != 2 or queries.shape[1] != passages.shape[1]:
        raise ValueError(
            "queries_emb and doc_emb must be (n, d) and (m, d) arrays with one d, got "
            f"{queries.shape} and {passages.shape}."
        )
    check_at_least("topk", topk, 1)
    if not np.isfinite(queries).all() or not np.isfinite(passages).all():
        raise ValueError("queries_emb and doc_emb must be finite, found NaN or infinity.")
    found = nearest_below(queries, passages, min(topk, len(passages)))
    return found.scores, found.positions
