"""Teachers that ask no language model: the words of a corpus, and another retriever."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import require_dataset
from rir_hf.index.lexical import WordIndex
from rir_hf.index.search import views_of
from rir_hf.index.vectors import VectorView
from rir_hf.models.retriever import Encoder, as_encoder
from rir_hf.schema import EMBEDDING, Column
from rir_hf.teaching.teacher import Row, Scored, Teacher, scored_with

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BEST = 100
"""Of so many passages the scores say how high a teacher scores for a query; see `Blend`."""

_KEPT = {"query": 10_000, "passage": 200_000}
"""Vectors kept from before: a query comes back soon or not at all."""
_CLOSE = 0.02


class LexicalTeacher(Teacher):
    """The BM25 score of each passage for the query, weighed by a corpus's words.

    The cheapest teacher: no model is asked, and it knows what a retriever does not. Passages need
    not be in the corpus. In a `Blend` it is standardised over its best 100 passages of the corpus.

    Args:
        corpus: dataset with an index of its words (`attach_lexical`).
        index: the name of that index.

    Raises:
        TypeError: the corpus is not a dataset.
        ValueError: no such index, or one of vectors.

    Example:
        >>> from rir_hf.index.lexical import attach_lexical
        >>> corpus = Dataset.from_dict({"text": ["A red fox", "A red car", "A dog"]})
        >>> teacher = LexicalTeacher(attach_lexical(corpus))
        >>> row = Row("red foxes", pos=["A red fox"], neg=["A red car", "Some new text"])
        >>> teacher.score([row])[0].scores.round(2)
        array([0.61, 0.2 , 0.  ])
    """

    version = 2

    def __init__(self, corpus: Dataset, index: str = "bm25") -> None:
        require_dataset(corpus, "LexicalTeacher")
        if index not in corpus.list_indexes() or not isinstance(corpus.get_index(index), WordIndex):
            raise ValueError(
                f"LexicalTeacher needs an index of words, the corpus has {corpus.list_indexes()}: "
                f"attach_lexical(corpus, name={index!r})."
            )
        self.words: WordIndex = corpus.get_index(index)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The BM25 scores of each row's passages."""
        words = [self.words.known(row.query) for row in rows]
        return [
            Scored(self.words.scores_of_texts(known, row.passages))
            for known, row in zip(words, rows, strict=True)
        ]

    def best_scores(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """The scores of the best 100 passages of the corpus; 0 for one without any word."""
        best = np.zeros((len(rows), min(BEST, len(self.words))))
        for of_row, row in zip(best, rows, strict=True):
            found = self.words.search(row.query, BEST).scores
            of_row[: len(found)] = found
        return list(best)


class RetrieverTeacher(Teacher):
    """The similarity of query and passage to another retriever, most often a larger one.

    Each distinct text is encoded once in a run, as far as the vectors of 200,000 passages and
    10,000 queries reach; of a corpus that is given with its index, none that is in it.

    Args:
        retriever: a `Retriever` with its prompts, a model's name or folder, or whatever `Embed`
            takes.
        corpus: dataset with an index of this retriever's vectors (`Embed`, then `attach_index`). In
            a `Blend` the teacher is then standardised over its best 100 passages of the corpus,
            without it over the row.
        index: the name of that index.
        text: the corpus's text column.
        query: a column with this retriever's vectors of the queries (`"embedding"` after
            `Embed(retriever, "query", role="query")`). Default: they are encoded, as is a query
            that has none.

    Raises:
        TypeError: nothing that encodes texts, or a corpus that is no dataset.
        ValueError: no such index; or (when it is first used) one of another retriever's vectors.

    Example:
        >>> class Lengths:
        ...     def encode_queries(self, texts): return [[len(text), 1.0] for text in texts]
        ...     encode_corpus = encode_queries
        >>> RetrieverTeacher(Lengths()).score([Row("four", pos=["a"], neg=["abc"])])[0].scores
        array([ 5., 13.], dtype=float32)
    """

    def __init__(
        self,
        retriever: Encoder | SentenceTransformer | str | os.PathLike[str],
        corpus: Dataset | None = None,
        *,
        index: str = "embedding",
        text: str = "text",
        query: str | None = None,
    ) -> None:
        self.retriever = as_encoder(retriever)
        self.query = query
        self.view = None
        if corpus is not None:
            view = views_of(corpus, index, id=text, text=text)[0]
            if not isinstance(view, VectorView):
                raise ValueError(f"RetrieverTeacher needs an index of vectors, {index!r} is none.")
            self.view = view

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The queries' vectors, where they are given."""
        return () if self.query is None else (EMBEDDING.named(self.query),)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The inner product of the query's vector with each passage's."""
        queries = self._queries(rows)
        passages = self._passages([text for row in rows for text in row.passages])
        scored = []
        for query, row in zip(queries, rows, strict=True):
            vectors = np.array([passages[text] for text in row.passages])
            if vectors.shape[1] != len(query):
                raise ValueError(
                    f"RetrieverTeacher: the column {self.query!r} has vectors of {len(query)} "
                    f"numbers, the passages have {vectors.shape[1]}: both must come from the same "
                    "retriever."
                )
            scored.append(scored_with(vectors @ query))
        return scored

    def best_scores(self, rows: Sequence[Row]) -> list[np.ndarray] | None:
        """The similarities of the best 100 passages of the corpus; None without one."""
        if self.view is None:
            return None
        found = self.view.nearest_below(self._queries(rows), min(BEST, len(self.view)))
        return list(found.scores)

    def _queries(self, rows: Sequence[Row]) -> np.ndarray:
        given = [row.columns.get(self.query) if self.query else None for row in rows]
        lengths = {len(vector) for vector in given if vector is not None}
        if self.view is not None and lengths - {self.view.dimension}:
            raise ValueError(
                f"RetrieverTeacher: the column {self.query!r} must hold vectors of "
                f"{self.view.dimension} numbers, as those of the index, found {sorted(lengths)}."
            )
        texts = [row.query for row, vector in zip(rows, given, strict=True) if vector is None]
        encoded = self._known(texts, "query", self.retriever.encode_queries)
        vectors = [
            encoded[row.query] if vector is None else np.asarray(vector, np.float32)
            for row, vector in zip(rows, given, strict=True)
        ]
        return np.array(vectors)

    def _passages(self, texts: list[str]) -> dict[str, np.ndarray]:
        """The vectors of some passages: those of the corpus where they are in it."""
        stored: dict[str, np.ndarray] = {}
        if self.view is not None:
            distinct = list(dict.fromkeys(texts))
            found = self._stored.positions_of_texts(distinct)
            at = {text: place[0] for text, place in zip(distinct, found, strict=True) if len(place)}
            vectors = self.view.vectors_at(np.array([*at.values()], np.int64))
            stored = dict(zip(at, vectors, strict=True))
        others = [text for text in texts if text not in stored]
        return stored | self._known(others, "passage", self.retriever.encode_corpus)

    def _known(self, texts: list[str], role: str, encode: Any) -> dict[str, Any]:
        """The vectors of some texts, those encoded that are not kept from before."""
        kept = self._kept[role]
        new = sorted({text for text in texts if text not in kept}, key=lambda text: -len(text))
        if new:
            kept.update(zip(new, np.asarray(encode(new), np.float32), strict=True))
        vectors = {text: kept[text] for text in texts}
        for text in list(islice(kept, max(0, len(kept) - _KEPT[role]))):  # the oldest
            del kept[text]
        return vectors

    @cached_property
    def _kept(self) -> dict[str, dict[str, np.ndarray]]:
        return {"query": {}, "passage": {}}

    @cached_property
    def _stored(self) -> VectorView:
        """The view, after a look whether its vectors are this retriever's."""
        view = self.view
        assert view is not None  # noqa: S101 - asked for with a corpus alone
        text = view.values(view.id, np.array([0]))[0]
        here = np.asarray(self.retriever.encode_corpus([text or "empty"]), np.float32)[0]
        there = view.vectors_at(np.array([0]))[0]
        if text and (
            here.shape != there.shape
            or not np.allclose(here, there, rtol=0, atol=_CLOSE * float(np.abs(here).max()))
        ):
            raise ValueError(
                "RetrieverTeacher: the corpus's index does not hold this retriever's vectors of "
                f"{text!r:.60}: embed and index the corpus with the same retriever."
            )
        return view
