"""A reward for TRL's `GRPOTrainer`: how well the passage is found with what a model wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import Batch, check_at_least
from rir_hf.evaluation.metrics import evaluate, parse_measures
from rir_hf.index.search import Search
from rir_hf.mining.positives import read_positives
from rir_hf.models.retriever import Encoder, as_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class RetrievalReward:
    """What a text is worth to a retriever: the measure of a search with it, 0 to 1.

    `GRPOTrainer(reward_funcs=RetrievalReward(...))` takes it as it is. Each completion, a
    hypothetical answer or a rewritten query, is encoded as a query and searched with; the reward is
    the measure of its hits against the row's `pos_ids`. So a query writer or an answer writer
    learns online what `PreferencePairs` tells it offline. A completion without text is worth 0.

    Args:
        retriever: the retriever that made the corpus's vectors; what `Embed` takes.
        corpus: dataset with `id` and an index of vectors (`Embed`, then `attach_index`).
        measure: `RR@k` or `nDCG@k`, or another one of `evaluate`.
        k: passages that are searched for. A low measure of a deep search tells more texts apart.
        answer_weight: share of the completion in what is searched with; the rest is the row's
            `query`. 1: the completion alone, as for rewritten queries; the paper searches with 0.2.
        index: name of the index.

    Raises:
        TypeError: nothing that encodes texts, or a corpus that is no dataset.
        ValueError: no such index or measure, a weight out of range; when it is called, no
            `pos_ids` or none that is in the corpus, or no `query` where `answer_weight` is below 1.

    Example:
        >>> from rir_hf import attach_index
        >>> class Lengths:
        ...     def encode_queries(self, texts): return [[len(text), 1.0] for text in texts]
        ...     encode_corpus = encode_queries
        >>> rows = {"id": ["a", "b"], "embedding": [[0.1, 1.0], [1.0, 0.1]]}
        >>> reward = RetrievalReward(Lengths(), attach_index(Dataset.from_dict(rows)))
        >>> reward(completions=["long", "", "a"], pos_ids=[["b"], ["b"], ["a"]])
        [1.0, 0.0, 0.5]
    """

    def __init__(
        self,
        retriever: Encoder | SentenceTransformer | str | os.PathLike[str],
        corpus: Dataset,
        *,
        measure: str = "RR@100",
        k: int = 100,
        answer_weight: float = 1.0,
        index: str = "embedding",
    ) -> None:
        check_at_least("k", k, 1)
        parse_measures([measure])
        self.retriever = as_encoder(retriever)
        self.measure = measure
        self.with_query = answer_weight < 1
        self.search = Search(
            corpus,
            index=index,
            k=k,
            answer="answer_embedding" if self.with_query else None,
            answer_weight=answer_weight,
        )
        self.__name__ = f"retrieval_{measure}"  # under which TRL logs it

    def __call__(
        self,
        completions: Sequence[Any],
        pos_ids: Sequence[Any] | None = None,
        query: Sequence[str] | None = None,
        **columns: Any,
    ) -> list[float]:
        """The reward of each completion.

        Args:
            completions: texts, or lists of messages whose last one is the text.
            pos_ids: id or ids of the relevant passages of each.
            query: the query of each, where it is searched with too.
            columns: what else TRL passes; not used.
        """
        if pos_ids is None or (self.with_query and query is None):
            missing = "pos_ids" if pos_ids is None else "query"
            raise ValueError(
                f"RetrievalReward needs the column {missing!r} in the rows that GRPO trains on, "
                f"found {sorted(columns)}."
            )
        _, ids = read_positives(Batch({"pos_ids": pos_ids}, "RetrievalReward"))
        relevant = [[name for name in row if name is not None] for row in ids]
        self._check(len(completions), relevant)
        texts = [text_of(completion) for completion in completions]
        asked = [place for place, text in enumerate(texts) if text.strip()]
        rewards = [0.0] * len(texts)
        if not asked:
            return rewards
        written = np.asarray(self.retriever.encode_queries([texts[place] for place in asked]))
        batch: dict[str, Any] = {"embedding": written}
        if self.with_query and query is not None:
            queries = self.retriever.encode_queries([query[place] for place in asked])
            batch = {"embedding": np.asarray(queries), "answer_embedding": written}
        found = self.search({name: vectors.tolist() for name, vectors in batch.items()})
        names = [str(place) for place in asked]
        run = Dataset.from_dict({"query_id": names, **found})
        qrels = {str(place): dict.fromkeys(relevant[place], 1.0) for place in asked}
        rows = evaluate(run, qrels, [self.measure], per_query=True)
        for name, value in zip(rows["query_id"], rows[self.measure], strict=True):
            rewards[int(name)] = value
        return rewards

    def _check(self, completions: int, relevant: list[list[str]]) -> None:
        """Raise `ValueError` for other rows than completions, and where no id is in the corpus."""
        if len(relevant) != completions:
            raise ValueError(
                f"RetrievalReward got {completions} completions and {len(relevant)} pos_ids."
            )
        names = [name for ids in relevant for name in ids]
        found = self.search.views[0].positions_of_ids(names)
        if not any(map(len, found)):
            raise ValueError(
                f"RetrievalReward: none of the pos_ids is in the corpus, {names[:3]} for example: "
                "do they belong to this corpus?"
            )


def text_of(completion: Any) -> str:
    """The text of a completion, plain or of a conversation.

    Example:
        >>> text_of("a"), text_of([{"role": "assistant", "content": "b"}]), text_of([])
        ('a', 'b', '')
    """
    if isinstance(completion, str):
        return completion
    return str(completion[-1].get("content") or "") if completion else ""
