"""Vectors and corpora for the tests of this folder, and the ranking that a reader would write."""

from __future__ import annotations

import numpy as np
from datasets import Dataset


def unit_vectors(rows: int, dimension: int, seed: int) -> np.ndarray:
    """Random directions."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def corpus_of(vectors: np.ndarray) -> Dataset:
    """A corpus of these vectors, its ids p0, p1, ..."""
    names = [f"p{number}" for number in range(len(vectors))]
    texts = [f"text {number}" for number in range(len(vectors))]
    return Dataset.from_dict({"id": names, "text": texts, "embedding": list(vectors)})


def queries_of(vectors: np.ndarray) -> Dataset:
    """Rows with these query vectors."""
    return Dataset.from_dict({"embedding": list(vectors)})


def exact_scores(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """Every similarity in double precision, rounded to float32."""
    return (queries.astype(np.float64) @ passages.astype(np.float64).T).astype(np.float32)


def ranking(scores: np.ndarray) -> np.ndarray:
    """Positions by descending score, equal ones in order, `(n, m)`."""
    positions = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.lexsort((positions, -scores), axis=1)
