"""The weights of a retriever that is trained: in float32, and stored as its model was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import torch
from sentence_transformers import SentenceTransformer


def in_float32(encoder: SentenceTransformer) -> dict[str, torch.dtype]:
    """Give a model float32 weights: a step is lost where they are rounded to bfloat16 or float16.

    Returns:
        What they were in, for `stored_as`.
    """
    precision = {name: tensor.dtype for name, tensor in _tensors(encoder)}
    encoder.float()
    return precision


def stored_as(encoder: SentenceTransformer, precision: Mapping[str, torch.dtype]) -> None:
    """Give a model weights in the precision that they had."""
    for name, tensor in _tensors(encoder):
        tensor.data = tensor.data.to(precision[name])


def copied(encoder: SentenceTransformer) -> dict[str, torch.Tensor]:
    """A copy of the weights in main memory, without buffers of whole numbers."""
    weights = encoder.state_dict().items()
    return {
        name: value.to("cpu", copy=True) for name, value in weights if value.is_floating_point()
    }


def mix_in(encoder: SentenceTransformer, started: Mapping[str, torch.Tensor], keep: float) -> None:
    """Give a model `keep` parts of these weights and `1 - keep` parts of its own."""
    trained = encoder.state_dict()
    mixed = {
        name: keep * value.to(trained[name].device) + (1 - keep) * trained[name]
        for name, value in started.items()
    }
    encoder.load_state_dict(mixed, strict=False)


def _tensors(encoder: SentenceTransformer) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(encoder.named_parameters(), encoder.named_buffers())
