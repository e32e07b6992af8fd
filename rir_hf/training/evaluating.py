"""Evaluation of a retriever while it is trained, on held-out rows."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import cos_sim

from rir_hf.export.retrievers import to_sentence_transformers
from rir_hf.export.usable import is_text
from rir_hf.models.retriever import set_length
from rir_hf.schema import NEG, PASSAGES


class HeldOut(InformationRetrievalEvaluator):
    """Searches held-out queries among all passages of their rows.

    Args:
        relevant: the positives of each query.
        passages: what is searched.
        query_prompt: text before each query.
        passage_prompt: text before each passage.
        length: tokens after which a text is cut, in training too.
        encode: gives vectors of passages that are not trained; None: the trained model does.
    """

    def __init__(
        self,
        relevant: dict[str, set[str]],
        passages: list[str],
        query_prompt: str,
        passage_prompt: str,
        length: int,
        encode: Callable[[list[str]], torch.Tensor] | None = None,
    ) -> None:
        self.length = length
        self.given = {} if encode is None else {"corpus_embeddings": encode(passages)}
        super().__init__(
            {text: text for text in relevant},
            {text: text for text in passages},
            relevant,
            name="dev",
            score_functions={"cosine": _cosine},
            accuracy_at_k=[1],
            precision_recall_at_k=[10],
            query_prompt=query_prompt,
            corpus_prompt=passage_prompt,
            write_csv=False,
        )

    def __call__(
        self,
        model: Any,
        output_path: str | None = None,
        epoch: int = -1,
        steps: int = -1,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, float]:
        """The measures of a model."""
        trained = model.max_seq_length
        set_length(model, self.length)
        found: dict[str, float] = super().__call__(model, output_path, epoch, steps, **self.given)
        set_length(model, trained)
        if output_path is not None and not os.listdir(output_path):
            os.rmdir(output_path)  # the trainer made it for files that are not written
        return found


def _cosine(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    """Cosine similarities, of vectors in bfloat16 and float32 alike."""
    return cos_sim(queries.float(), passages.float())


def wanted_and_all(dev: Dataset) -> tuple[dict[str, set[str]], list[str]]:
    """The positives of each query, and all passages of the rows; of a list without labels the
    teacher's best passage counts as the positive.

    Example:
        >>> rows = Dataset.from_dict({"query": ["q"], "pos": [["a"]], "neg": [["b"]]})
        >>> wanted_and_all(rows)
        ({'q': {'a'}}, ['a', 'b'])
    """
    wanted = defaultdict(set)
    for row in to_sentence_transformers(dev, loss="n-tuple", num_negatives=0):
        wanted[row["query"]].add(row["positive"])
    passages = dict.fromkeys(text for texts in wanted.values() for text in texts)
    for name in {NEG.name, PASSAGES.name} & set(dev.column_names):
        passages |= dict.fromkeys(text for texts in dev[name] for text in texts or ())
    return dict(wanted), sorted(filter(is_text, passages))
