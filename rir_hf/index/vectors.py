"""A corpus and its FAISS index: vectors by position, and the passages nearest to a vector."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from datasets import Dataset

from rir_hf.core.columns import Batch
from rir_hf.index.approximate import nearest_by_index
from rir_hf.index.attach import file_of, vector_blocks, vectors_at
from rir_hf.index.corpus import CorpusView, StoredColumn
from rir_hf.index.devices import is_on_gpu
from rir_hf.index.exact import Marks, Nearest, nearest_below
from rir_hf.index.files import read_index, search_settings, set_search_settings, vectors_in
from rir_hf.index.passages import ArrayVectors, Vectors, similarities
from rir_hf.schema import EMBEDDING

if TYPE_CHECKING:
    import faiss


class VectorView(CorpusView):
    """A corpus with an attached inner-product index.

    Its key holds too how widely the index looks (`nprobe`, `efSearch`), as set when the view is
    made. An index of the user's own that is in no file is written to one.

    Args:
        corpus: dataset with an index attached, by `attach_index` or by `Dataset.add_faiss_index`
            with inner product.
        index: name of the index.
        id, text: as in `CorpusView`.

    Raises:
        TypeError: not a dataset.
        ValueError: no such index or column, another metric than inner product, an
            index that does not belong to this corpus.

    Example:
        >>> from rir_hf.index.attach import attach_index
        >>> rows = {"id": ["a", "b"], "text": ["cats", "dogs"], "embedding": [[1.0, 0], [0, 1.0]]}
        >>> view = VectorView(attach_index(Dataset.from_dict(rows)))
        >>> view.positions_of_texts(["dogs", "cows"]), view.values("id", np.array([1, 0]))
        ([array([1]), array([], dtype=int64)], ['b', 'a'])
    """

    reads = EMBEDDING
    without_effect = ("path",)
    _device: str | None = None

    def __init__(
        self, corpus: Dataset, index: str = "embedding", id: str = "id", text: str | None = "text"
    ) -> None:
        super().__init__(corpus, id, text)
        file = file_of(corpus, index)
        attached = corpus.get_index(index).faiss_index
        self.column = file.column
        self.path = file.path
        self.index = file.identity
        self.search = search_settings(attached)
        self.kind = type(self._stored_index).__name__
        if is_on_gpu(attached):
            self._index = attached
        if self.column not in corpus.column_names and self._flat is None:
            raise ValueError(
                f"The index {index!r} does not hold the vectors themselves, and the corpus has no "
                f"column {self.column!r}: keep the vector column, similarities are computed from "
                "it, and give an index of your own its name."
            )

    def to(self, device: str) -> None:
        """Multiply on this torch device: the one of the worker."""
        self._device = device

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    @property
    def is_on_gpu(self) -> bool:
        """Whether the index is on a GPU in this process."""
        return is_on_gpu(self._index)

    def queries_in(self, batch: Batch, column: str) -> np.ndarray:
        """The vectors of a column, `(rows, dimension)` float32; a null is a row of NaN."""
        return batch.vectors(column, self.dimension)

    def are_usable(self, queries: np.ndarray) -> np.ndarray:
        """Which query vectors are finite and not zero."""
        return are_usable(queries)

    def nearest_below(
        self,
        queries: np.ndarray,
        k: int,
        ceilings: np.ndarray | None = None,
        marks: Marks | None = None,
        eligible: np.ndarray | None = None,
    ) -> Nearest:
        """The k best passages of each query at or below its ceiling; see `exact.nearest_below`.

        Exact where the index is flat. Over any other, what the index returns is ranked by the
        vectors.
        """
        asked = (queries, self._vectors, k, ceilings, marks, eligible, self._device)
        if self._flat is not None:
            return nearest_below(*asked)
        return nearest_by_index(self._index, *asked)

    def vectors_at(self, positions: np.ndarray) -> np.ndarray:
        """The vectors at these positions, `(len(positions), dimension)` float32."""
        return self._vectors.at(positions)

    def similarities(
        self, queries: np.ndarray, rows: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Similarity of query `rows[i]` with the passage at `positions[i]`, `(pairs,)` float32."""
        return similarities(queries, self._vectors, rows, positions)

    @cached_property
    def _stored_index(self) -> faiss.Index:
        index = read_index(Path(self.path))
        set_search_settings(index, self.search)
        return index

    @cached_property
    def _index(self) -> faiss.Index:
        """The index in use: on a GPU where the user attached it there, in this process."""
        return self._stored_index

    @cached_property
    def _flat(self) -> np.ndarray | None:
        """All vectors when the index is flat; a view of the file, not a copy."""
        import faiss

        index = self._stored_index
        return vectors_in(index) if isinstance(index, faiss.IndexFlat) else None

    @cached_property
    def _vectors(self) -> Vectors:
        if self._flat is not None:
            return ArrayVectors(self._flat, Path(self.path), self.index)
        return StoredVectors(self.corpus, self.column)


def are_usable(queries: np.ndarray) -> np.ndarray:
    """Which query vectors can be searched with: finite and not zero, `(n,)` bool."""
    return np.isfinite(queries).all(axis=1) & queries.any(axis=1)


class StoredVectors(Vectors):
    """The vectors of a column of a corpus, for an index that does not keep them.

    Args:
        corpus: the corpus.
        column: its column of vectors.
    """

    def __init__(self, corpus: Dataset, column: str) -> None:
        self.corpus = corpus
        self.column = column

    def __len__(self) -> int:
        return len(self.corpus)

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All vectors in order."""
        return vector_blocks(self.corpus, self.column, rows)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Vectors at these positions."""
        return vectors_at(pa.table({self.column: self._stored.take(positions)}), self.column)

    @cached_property
    def _stored(self) -> StoredColumn:
        return StoredColumn(self.corpus, self.column)
