"""Queries without labels in, the same rows with passages for a teacher to rank out: what a
retriever can be distilled from without anybody having labelled anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import Batch, as_id, check_at_least, check_choice
from rir_hf.core.draws import generator_of
from rir_hf.core.garbage import no_garbage_collection
from rir_hf.core.step import Step
from rir_hf.evaluation.fusion import FUSIONS, Fusion, checked_weights
from rir_hf.index.search import (
    FUSED_DEPTH,
    columns_of,
    found_for,
    inputs_of,
    queries_in,
    views_of,
)
from rir_hf.schema import (
    NEG,
    OF_TEACHER,
    PASSAGE_IDS,
    PASSAGE_SCORES,
    PASSAGES,
    PASSAGES_NOTE,
    POS_IDS,
    QUERY,
    Column,
    note,
)


class CandidateLists(Step):
    """Adds `size` passages of the corpus to each query, for a teacher to rank.

    Every index is searched, and what they find is fused (see `Search`). The best `top` passages are
    taken, and the others drawn from the places behind them down to `depth`: a teacher's
    distribution says little about passages that are all alike. No text comes twice, and the query's
    own text never.

    Columns added: `passages` and `passage_ids`, best first, and `passages_note`, why there are
    fewer than asked. `ScorePassages` adds `passage_scores`, and `to_sentence_transformers(...,
    loss="DistillKLDivLoss")` makes training rows of them.

    Args:
        corpus: dataset with indexes attached (`attach_index`, `attach_lexical`).
        index: names of the indexes, or one name.
        query: as in `Search`: by default the column `embedding` for vectors, `query` for words.
        depth: the place down to which passages are drawn. Of each of several indexes 100 passages
            are fused, or so many as that takes.
        size: passages per query.
        top: how many of them are the best.
        method: how indexes are fused, see `fuse`.
        weights: of the indexes. Default: 1 each.
        exclude: column of ids, a list or one, that are never candidates: where queries were made
            from passages and copy their words, those passages. Nor is another passage with the
            text of one of them.
        text: the corpus's text column.
        id: the corpus's id column.
        seed: of the draw, which depends on it and on the query's text alone.

    Raises:
        TypeError: the corpus is not a dataset.
        ValueError: an option out of range, `top` above `size` or `size` above `depth`; no such
            index or column; when mapped, vectors of another dimension.

    Example:
        >>> from rir_hf.index.lexical import attach_lexical
        >>> texts = ["red fox", "red car", "old red barn door", "dog"]
        >>> corpus = Dataset.from_dict({"id": ["a", "b", "c", "d"], "text": texts})
        >>> step = CandidateLists(attach_lexical(corpus), index="bm25", size=2, top=1, seed=1)
        >>> step.one({"query": "the red foxes"})
        {'passages': ['red fox', 'old red barn door'], 'passage_ids': ['a', 'c'], \
'passages_note': None}
    """

    version = 2

    def __init__(
        self,
        corpus: Dataset,
        *,
        index: str | Sequence[str] = ("embedding", "bm25"),
        query: str | Mapping[str, str] | None = None,
        depth: int = 50,
        size: int = 16,
        top: int = 6,
        method: Fusion = "zscore",
        weights: Sequence[float] | None = None,
        exclude: str | None = None,
        text: str = "text",
        id: str = "id",
        seed: int = 0,
    ) -> None:
        check_at_least("size", size, 1)
        check_at_least("top", top, 0)
        check_at_least("seed", seed, 0)
        check_choice("method", method, FUSIONS)
        if not top <= size <= depth:
            raise ValueError(
                f"top={top} must not be above size={size}, and that not above depth={depth}."
            )
        self.views = views_of(corpus, index, id, text)
        self.columns = columns_of(self.views, index, query)
        self.depth = depth
        self.size = size
        self.top = top
        self.method = method
        self.weights = checked_weights(weights, len(self.views), "index")
        self.exclude = exclude
        self.text = text
        self.seed = seed

    @property
    def inputs(self) -> tuple[Column, ...]:
        """What the indexes are asked with, the query's text, and the ids to leave out."""
        wanted = [*inputs_of(self.views, self.columns), QUERY]
        if self.exclude is not None:
            wanted.append(POS_IDS.named(self.exclude))
        return tuple(dict.fromkeys(wanted))

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The passages, and why there are few."""
        return PASSAGES, PASSAGE_IDS, PASSAGES_NOTE

    def outdated(self, columns: Collection[str]) -> tuple[Column, ...]:
        """What a teacher said of other candidates; of rows with negatives it speaks of these."""
        return (PASSAGE_SCORES,) if NEG.name in columns else (PASSAGE_SCORES, *OF_TEACHER)

    @property
    def note(self) -> Column:
        """Why there are few."""
        return PASSAGES_NOTE

    @no_garbage_collection()
    def transform(self, batch: Batch) -> dict[str, list[Any]]:
        """Return the three columns."""
        corpus = self.views[0]
        texts = [text or "" for text in batch.texts(QUERY.name)]
        taboo = [
            [hash(text), *corpus.text_keys[excluded].tolist()]
            for text, excluded in zip(texts, self._excluded(batch), strict=True)
        ]
        deep = [self.depth + len(keys) for keys in taboo]  # enough when those are left out
        depths = [max(FUSED_DEPTH, places) for places in deep]
        asked = queries_in(self.views, self.columns, batch)
        fusing = (max(deep, default=1), depths, self.method, self.weights)
        found = found_for(self.views, asked, *fusing, corpus.first_of_each_text)
        taken, notes = [], []
        for row, ranking in enumerate(found):
            is_wrong = np.isin(corpus.text_keys[ranking[0]], taboo[row])
            positions = ranking[0][~is_wrong][: self.depth]
            places = places_of(len(positions), self.size, self.top, self.seed, texts[row])
            taken.append(positions[places])
            notes.append(why_few(len(places), self.size, found=len(ranking[0])))
        return {
            "passages": corpus.lists_of(self.text, taken),
            "passage_ids": corpus.lists_of(corpus.id, taken),
            "passages_note": notes,
        }

    def _excluded(self, batch: Batch) -> list[np.ndarray]:
        """Positions of each row's ids that are to be left out."""
        if self.exclude is None:
            return [np.empty(0, np.int64)] * len(batch)
        rows = []
        for value in batch.values_of(self.exclude):
            ids = value if isinstance(value, list) else [value]
            names = [name for name in map(as_id, ids) if name is not None]
            found = self.views[0].positions_of_ids(names)
            rows.append(np.concatenate([*found, np.empty(0, np.int64)]))
        return rows


def places_of(found: int, size: int, top: int, seed: int, query: str) -> np.ndarray:
    """Which places of a ranking are candidates: the first, and a draw of the others, in order.

    Example:
        >>> places_of(50, 6, 3, 0, "a query").tolist()[:3], len(places_of(4, 6, 3, 0, "a query"))
        ([0, 1, 2], 4)
    """
    if found <= size:
        return np.arange(found)
    drawn = generator_of(seed, query).choice(np.arange(top, found), size - top, replace=False)
    return np.array([*range(top), *sorted(drawn)], np.int64)


def why_few(number: int, size: int, found: int) -> str | None:
    """The note of a row with so many candidates; None where there are enough."""
    if number >= size:
        return None
    return note("corpus_exhausted" if found else "no_query")
