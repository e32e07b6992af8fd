"""A text column in, a vector column out: the first step for a corpus, for queries and for answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rir_hf.retriever import Encoder, Role, as_encoder
from rir_hf.transform import BatchTransform, read_texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


class Embed(BatchTransform):
    """Map function that adds the vectors of a text column, one float32 array per batch.

    A row whose text is empty or null keeps its place with a vector of zeros, whose similarity to anything is 0: `Search` and
    `MineNegatives` give such a query no hits and a note, and such a passage never becomes a negative.
    Inside a batch texts are encoded from the longest to the shortest, so a large `batch_size` of the map (512, say) wastes
    little on padding.

    Args:
        retriever: a `Retriever`, a model name or folder, a `SentenceTransformer`, or any object with `encode_queries` and
            `encode_corpus`. For the cache such an object is what its `identity()` returns; without one it is its pickled
            content, which must then not change in use (as it does when a model is loaded late).
        column: the text column.
        role: `"passage"` or `"query"`: which prompt and which of the two encoding methods. Hypothetical answers are searched
            with, so their role is `"query"`.
        output: name of the added column.

    Example:
        >>> corpus = corpus.map(Embed("BAAI/bge-base-en-v1.5"), batched=True, batch_size=512)           # doctest: +SKIP
        >>> pairs = pairs.map(Embed("BAAI/bge-base-en-v1.5", "query", role="query"), batched=True)      # doctest: +SKIP

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
        if role not in ("passage", "query"):
            raise ValueError(f'role must be "passage" or "query", got {role!r}.')
        self.retriever = as_encoder(retriever)
        self.column = column
        self.role = role
        self.output = output

    @property
    def first_column(self) -> str:
        """The text column."""
        return self.column

    def transform(self, batch: Mapping[str, Any], rank: int | None) -> dict[str, Any]:
        """Return `{output: (rows, d) float32}`."""
        texts = read_texts(batch, self.column, "Embed")
        put_on_device_of_rank(self.retriever, rank)
        filled = [row for row, text in enumerate(texts) if text and not text.isspace()]
        filled.sort(key=lambda row: -len(texts[row]))
        if len(filled) < len(texts):
            logger.warning("Embed: %d empty texts in %r get a vector of zeros.", len(texts) - len(filled), self.column)
        return {self.output: self._encode(texts, filled)}

    def _encode(self, texts: list[str | None], filled: list[int]) -> np.ndarray:
        encode = self.retriever.encode_queries if self.role == "query" else self.retriever.encode_corpus
        # One text at least, so that the dimension is known even where a whole batch is empty.
        distinct = list(dict.fromkeys(texts[row] for row in filled)) or ["empty"]
        found = np.asarray(encode(distinct), np.float32)
        if found.ndim != 2 or len(found) != len(distinct):
            raise ValueError(
                f"The retriever gave an array of shape {found.shape} for {len(distinct)} texts; expected one vector each."
            )
        place = {text: number for number, text in enumerate(distinct)}
        vectors = np.zeros((len(texts), found.shape[1]), np.float32)
        vectors[filled] = found[[place[texts[row]] for row in filled]]
        return vectors


def device_of_rank(rank: int | None) -> str | None:
    """The GPU of a worker: `"cuda:1"` for rank 1; None without a rank or without a GPU."""
    if rank is None:
        return None
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{rank % gpus}" if gpus else None


def put_on_device_of_rank(model: Any, rank: int | None) -> None:
    """Move a model that can be moved to the GPU of a worker, if there is one."""
    device = device_of_rank(rank)
    if device is not None and hasattr(model, "to"):
        model.to(device)
