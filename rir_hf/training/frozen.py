"""Training of the queries' side alone: passages keep the vectors that the model began with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.data_collator import BaseDataCollator
from sentence_transformers.base.modules import Router
from transformers import PreTrainedTokenizerBase

from rir_hf.export.usable import is_text
from rir_hf.models.retriever import set_length
from rir_hf.schema import PASSAGE_IDS, PASSAGES, QUERY

_VECTOR = "sentence_embedding"
_LABEL = "label"
_NAMED = "\x1f"  # a control character, with which no text begins
_LOOKED_AT = 8  # texts, of which Embed may read one with a control token in another way
_CLOSE = 0.02  # as RetrieverTeacher takes vectors of a corpus for a retriever's own


class TwoSides:
    """A model whose queries are trained, and the vectors that it gives to passages.

    Each distinct passage is encoded once, before the first step: a step then costs what its queries
    cost.

    Args:
        model: the model to start from. One with a `Router` has two sides already.
        data: rows of a trainer, with texts in the columns of passages.
        prompt: text before each passage.
        length: tokens after which a passage is cut.
        embedded: a corpus with `text` and `embedding`, whose passages need not be encoded, and
            perhaps `id`, by which rows may name them.

    Raises:
        ValueError: the vectors of `embedded` are not those of this model, or it lacks an id.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        data: Iterable[Dataset],
        prompt: str,
        length: int,
        embedded: Dataset | None,
    ) -> None:
        router = model[0]
        if isinstance(router, Router):
            rest = list(model)[1:]
            asking = [*router.sub_modules["query"], *rest]
            self.documents = [*router.sub_modules["document"], *deepcopy(rest)]
        else:
            asking = list(model)
            self.documents = deepcopy(asking)
        self.stored = model
        self.queries = SentenceTransformer(modules=asking, device=str(model.device))
        columns = ((rows, name) for rows in data for name in passages_in(rows.column_names))
        texts = dict.fromkeys(text for rows, name in columns for text in rows.unique(name))
        known = _known(texts, embedded)
        others = [text for text in texts if text not in known]
        _check_named(others)
        self.prompt = prompt
        self.passages = SentenceTransformer(modules=self.documents, device=str(model.device))
        set_length(self.passages, length)
        if embedded is not None:
            self._check(embedded)
        known.update(zip(others, self.encode(others).cpu().numpy(), strict=True))
        self.places = {text: place for place, text in enumerate(known)}
        self.vectors = torch.tensor(np.array([*known.values()], np.float32))

    def collator(self, prompts: Any) -> BaseDataCollator:
        """What makes batches of tokenized queries and vectors of passages."""
        return _Collator(self.queries.preprocess, prompts=prompts, sides=self)

    def lengths(self, queries: list[str]) -> list[int]:
        """The tokens of each query; its characters, where the model has a tokenizer of another
        kind.
        """
        tokenizer = self.queries.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            return [*map(len, queries)]
        return [*map(len, tokenizer(queries)["input_ids"])]

    def encode(self, texts: list[str]) -> torch.Tensor:
        """The vectors of passages."""
        vectors: torch.Tensor = self.passages.encode(
            texts, prompt=self.prompt or None, convert_to_tensor=True
        )
        return vectors.float()

    def asked(self) -> VectorsToo:
        """What a loss asks for embeddings."""
        return VectorsToo(self.queries)

    def joined(self, queries: SentenceTransformer) -> SentenceTransformer:
        """Both sides as one model with a `Router`, with trained queries."""
        router = Router.for_query_document([*queries], self.documents)
        joined = SentenceTransformer(
            modules=[router],
            prompts=self.stored.prompts,
            default_prompt_name=self.stored.default_prompt_name,
            similarity_fn_name=self.stored.similarity_fn_name,
        )
        joined.model_card_data = queries.model_card_data
        joined.model_card_data.register_model(joined)
        return joined

    def _check(self, embedded: Dataset) -> None:
        """`ValueError` where this model gives none of the first texts its vector, but for the
        vector's length.
        """
        places = (place for place, text in enumerate(embedded["text"]) if is_text(text))
        rows = embedded.select([*islice(places, _LOOKED_AT)])
        if not len(rows):
            return
        here = _units(self.encode(rows["text"][:]).cpu().numpy())
        there = _units(np.array(rows["embedding"][:], np.float32))
        if here.shape != there.shape or not any(
            np.abs(one - other).max() <= _CLOSE * np.abs(one).max()
            for one, other in zip(here, there, strict=True)
        ):
            raise ValueError(
                "train_retriever: embedded does not hold this model's vectors, of "
                f"{rows[0]['text']!r:.60} for example: embed the corpus with the same model, "
                "prompt and length, or leave embedded out."
            )


def passages_in(columns: Iterable[str]) -> list[str]:
    """The columns of passages among those of a trainer's rows.

    Example:
        >>> passages_in(["query", "positive", "negative_1", "label"])
        ['positive', 'negative_1']
    """
    return [name for name in columns if name not in (QUERY.name, _LABEL, "dataset_name")]


def _known(texts: Mapping[str, None], embedded: Dataset | None) -> dict[str, np.ndarray]:
    """The vectors of those texts, or ids, that an embedded corpus holds."""
    known: dict[str, np.ndarray] = {}
    if embedded is None:
        return known
    for name in [name for name in ("id", "text") if name in embedded.column_names]:
        keys = [named(key) if name == "id" else key for key in embedded[name]]
        places = [row for row, key in enumerate(keys) if key in texts]
        vectors = embedded.select(places).with_format("numpy")["embedding"][:]
        known.update(zip([keys[row] for row in places], vectors, strict=True))
    return known


def named(id: str) -> str:
    """What stands for a passage that is named by its id, which may be the text of another one."""
    return f"{_NAMED}{id}"


def passages_named(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Passages by their ids, in the place of texts."""
    lists = batch[PASSAGE_IDS.name]
    return {PASSAGES.name: [ids and [named(id) for id in ids] for ids in lists]}


def _check_named(texts: Iterable[str]) -> None:
    """`ValueError` for a passage named by an id that the embedded corpus lacks."""
    for text in texts:
        if text.startswith(_NAMED):
            raise ValueError(
                f"train_retriever: {text.removeprefix(_NAMED)!r:.60} is no id of embedded: give it "
                "the corpus that the rows were made of."
            )


def _units(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 in the same directions; zeros as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


class VectorsToo(torch.nn.Module):
    """What a loss asks for embeddings: of texts the model, while vectors are what they are."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model  # the trainer looks for this name

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """The features with an embedding."""
        return features if _VECTOR in features else self.model(features)


class _Collator(BaseDataCollator):
    """Tokenizes the queries and looks up the vectors of the passages."""

    def __init__(self, *args: Any, sides: TwoSides, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sides = sides

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        names = passages_in(features[0])
        batch = super().__call__([_without(row, names) for row in features])
        for name in names:
            places = [self.sides.places[row[name]] for row in features]
            batch[f"{name}_{_VECTOR}"] = self.sides.vectors[places]
        return batch


def _without(row: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
