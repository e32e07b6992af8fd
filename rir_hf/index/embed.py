"""The first step for a corpus, queries and hypothetical answers: the vectors of a text column, or
of a column of lists of texts.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Features

from rir_hf.core.columns import Batch, Typed, check_choice
from rir_hf.core.step import Step
from rir_hf.core.texts import is_whole
from rir_hf.models.retriever import Encoder, Retriever, Role, as_encoder
from rir_hf.schema import ANSWER_EMBEDDING, EMBEDDING, TEXT, Column

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Embed(Step):
    """Adds the vectors of a text column.

    A row whose text is empty, null or no valid Unicode (half an emoji) keeps its place with a
    vector of zeros, whose similarity to anything is 0: `Search` and `MineNegatives` give such a
    query no hits and a note, and such a passage never becomes a negative. Within a batch each
    distinct text is encoded once, from the longest to the shortest, so a large `batch_size` of the
    map (512, say) wastes little on padding.

    Where a row holds a list of texts, the `answers` of `GenerateAnswers` say, it gets a list of as
    many vectors, which `Search(..., answer=...)` takes; an empty or null list gives an empty one.

    Args:
        retriever: a `Retriever`, a model name or folder, a `SentenceTransformer`, or any object
            with `encode_queries` and `encode_corpus` (a FlagEmbedding model), or with
            `encode_query` and `encode_document`; see `as_encoder`.
        column: the column of texts, or of lists of texts.
        role: `"passage"` or `"query"`: which prompt, and which of the two encoding methods.
            Hypothetical answers are searched with, so their role here is `"query"`, in mining and
            for preferences alike. The original's scripts encode them as passages where they mine
            and as queries where they make preferences; `role="passage"` mines as they do.
        output: name of the added column, a list of float32; of lists of texts a list of those.

    Raises:
        TypeError: `retriever` is nothing that encodes texts.
        ValueError: another `role`; when mapped, a missing column, values that are no texts, or
            vectors that do not fit.

    Example:
        >>> from datasets import Dataset
        >>> class Lengths:
        ...     def encode_queries(self, texts):
        ...         return [[len(text), 1.0] for text in texts]
        ...     encode_corpus = encode_queries
        >>> rows = Dataset.from_dict({"text": ["one", ""]})
        >>> rows.map(Embed(Lengths()), batched=True)["embedding"][:]
        [[3.0, 1.0], [0.0, 0.0]]
        >>> Embed(Lengths(), "answers", role="query").one({"answers": ["a", "four"]})
        {'embedding': [[1.0, 1.0], [4.0, 1.0]]}
        >>> retriever = Retriever("BAAI/bge-base-en-v1.5")                      # doctest: +SKIP
        >>> corpus = corpus.map(Embed(retriever), batched=True, batch_size=512)  # doctest: +SKIP
        >>> embed = Embed(retriever, "query", role="query")                      # doctest: +SKIP
        >>> pairs = pairs.map(embed, batched=True, batch_size=512)               # doctest: +SKIP

    On several GPUs: `map(Embed(...), batched=True, with_rank=True, num_proc=8)` after
    `multiprocess.set_start_method("spawn")`.
    """

    def __init__(
        self,
        retriever: Encoder | SentenceTransformer | str | os.PathLike[str],
        column: str = "text",
        *,
        role: Role = "passage",
        output: str = "embedding",
    ) -> None:
        check_choice("role", role, ("passage", "query"))
        self.retriever = as_encoder(retriever)
        self.column = column
        self.role = role
        self.output = output

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The text column."""
        return (TEXT.named(self.column),)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The vectors."""
        return (EMBEDDING.named(self.output),)

    def outputs_for(self, columns: Collection[str]) -> tuple[Column, ...]:
        """The vectors; of lists of texts, lists of them."""
        of_lists = isinstance(columns, Features) and hasattr(columns.get(self.column), "feature")
        return (ANSWER_EMBEDDING.named(self.output),) if of_lists else self.outputs

    def check(self, features: Features) -> None:
        """Raise `ValueError` where the column holds neither texts nor lists of texts."""
        column = features.get(self.column)
        inside = {self.column: column.feature} if hasattr(column, "feature") else {}
        super().check(Features({**features, **inside}))

    def remark(self) -> str:
        """How many texts were cut."""
        if not isinstance(self.retriever, Retriever):
            return ""
        read, cut = self.retriever.take_counts()
        return (
            f"{cut} of {read} texts fill max_length and were cut ({cut / read:.0%})" if cut else ""
        )

    def transform(self, batch: Batch) -> dict[str, np.ndarray | Typed]:
        """Return `{output: (rows, d) float32}`, or of lists of texts lists of vectors."""
        if batch.is_of_lists(self.column):
            return {self.output: self._vectors_of_lists(batch.lists_of_texts(self.column))}
        return {self.output: self._vectors(batch.texts(self.column))}

    def _vectors(self, texts: list[str | None]) -> np.ndarray:
        """A vector for each text, `(texts, d)` float32."""
        numbers, distinct = distinct_texts(texts)
        # One text at least, so that the dimension is known even where a whole batch is empty.
        encoder: Any = self.retriever
        encode = encoder.encode_queries if self.role == "query" else encoder.encode_corpus
        found = encode(distinct or ["empty"])
        vectors = np.zeros((len(texts), found.shape[1]), np.float32)
        filled = numbers >= 0
        vectors[filled] = found[numbers[filled]]
        return vectors

    def _vectors_of_lists(self, rows: list[list[Any]]) -> Typed:
        """A list of vectors for each list of texts."""
        texts = [text for row in rows for text in row]
        vectors = self._vectors(texts).tolist()
        ends = np.cumsum([len(row) for row in rows]).tolist()
        lists = [vectors[end - len(row) : end] for row, end in zip(rows, ends, strict=True)]
        return Typed(lists, ANSWER_EMBEDDING.type)


def distinct_texts(texts: list[str | None]) -> tuple[np.ndarray, list[str]]:
    """The distinct texts that can be encoded, from the longest to the shortest, and where each
    row's is among them.

    Returns:
        For each row the position of its text, -1 where that is empty or no valid Unicode, `(rows,)`
        int64; and the texts.

    Example:
        >>> distinct_texts(["a", None, "longer", "a", " "])
        (array([ 1, -1,  0,  1, -1]), ['longer', 'a'])
    """
    filled = [text for text in texts if text and not text.isspace() and is_whole(text)]
    distinct = sorted(dict.fromkeys(filled), key=len, reverse=True)
    position = {text: number for number, text in enumerate(distinct)}
    numbers = [position.get(text, -1) if text is not None else -1 for text in texts]
    return np.array(numbers, np.int64), distinct
