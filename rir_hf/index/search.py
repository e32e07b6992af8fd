"""Query vectors in, ranked passages out: what an evaluation, or a look at a retriever, needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import Batch, check_at_least
from rir_hf.core.step import Step
from rir_hf.index.corpus import CorpusView
from rir_hf.index.exact import nearest_below
from rir_hf.schema import EMBEDDING, HIT_IDS, HIT_SCORES, Column


class Search(Step):
    """Adds the best passages of each query: `hit_ids` and `hit_scores`, best first.

    The scores are the exact similarities, equal ones in the order of the corpus. A row whose vector
    is missing, zero or not finite gets empty lists.

    Args:
        corpus: dataset with an index attached (`attach_index`), flat for exact results. Over
            another index, the passages that it returns are ranked; where it returns too few, the
            row is finished by an exact search.
        index: name of the index.
        query: column of query vectors.
        k: passages per query; fewer only when the corpus is smaller.
        id: the corpus's id column.

    Raises:
        TypeError: the corpus is not a dataset.
        ValueError: k below 1, no such index or column, an index that does not belong to the corpus;
            when mapped, vectors of another dimension.

    Example:
        >>> from rir_hf.index.attach import attach_index
        >>> rows = {"id": ["a", "b", "c"], "embedding": [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]}
        >>> corpus = attach_index(Dataset.from_dict(rows))
        >>> queries = Dataset.from_dict({"query_id": ["q"], "embedding": [[1.0, 0.0]]})
        >>> row = queries.map(Search(corpus, k=2), batched=True)[0]
        >>> row["hit_ids"], [round(score, 2) for score in row["hit_scores"]]
        (['a', 'b'], [1.0, 0.6])
    """

    def __init__(
        self,
        corpus: Dataset,
        *,
        index: str = "embedding",
        query: str = "embedding",
        k: int = 100,
        id: str = "id",
    ) -> None:
        check_at_least("k", k, 1)
        self.corpus = CorpusView.shared(corpus, index, id, text=None)
        self.query = query
        self.k = k

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The vectors."""
        return (EMBEDDING.named(self.query),)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The hits."""
        return (HIT_IDS, HIT_SCORES)

    def transform(self, batch: Batch) -> dict[str, list[Any]]:
        """Return `{"hit_ids": lists of str, "hit_scores": lists of float}`."""
        queries = batch.vectors(self.query, self.corpus.dimension)
        usable = np.flatnonzero(are_usable(queries))
        found = self.corpus.nearest_below(queries[usable], min(self.k, len(self.corpus)))
        positions = [np.empty(0, np.int64)] * len(queries)
        scores: list[list[float]] = [[]] * len(queries)
        for place, row in enumerate(usable):
            positions[row] = found.positions[place]
            scores[row] = found.scores[place].tolist()
        return {
            "hit_ids": self.corpus.lists_of(self.corpus.id, positions),
            "hit_scores": scores,
        }


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


def are_usable(queries: np.ndarray) -> np.ndarray:
    """Which query vectors can be searched with: finite and not zero, `(n,)` bool."""
    return np.isfinite(queries).all(axis=1) & queries.any(axis=1)
