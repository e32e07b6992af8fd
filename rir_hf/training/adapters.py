"""LoRA for a retriever: a few weights are trained, and a whole model comes out."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import set_seed

from rir_hf.training.best import trained_weights
from rir_hf.training.trainer import RetrieverTrainer

_MATRICES = "lora.safetensors"
"""The file of LoRA's matrices in a checkpoint."""


class LoraTrainer(RetrieverTrainer):
    """Writes and reads checkpoints of LoRA's matrices alone, since sentence-transformers would read
    the whole model without them.
    """

    def _save(
        self, output_dir: str | None = None, state_dict: Mapping[str, Any] | None = None
    ) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_weights(self.model), folder / _MATRICES)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        self.model.load_state_dict(load_file(Path(checkpoint_path, _MATRICES)), strict=False)


def with_lora(
    encoder: SentenceTransformer, lora_r: int, lora_alpha: int, lora_dropout: float, seed: int
) -> SentenceTransformer:
    """Add LoRA's matrices, drawn with the seed, to all linear layers of a model: the only weights
    to be trained.

    Returns:
        The model as it was, for `merged`.
    """
    transformer = getattr(encoder[0], "auto_model", None)
    if transformer is None:
        raise ValueError(f"lora_r needs a model with a transformer, got {type(encoder[0])}.")
    plain = deepcopy(encoder)
    config = LoraConfig(
        r=lora_r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, target_modules="all-linear"
    )
    set_seed(seed)
    # Not encoder.add_adapter: transformers 5.24 refuses peft 0.21 there (November 2026)
    inject_adapter_in_model(config, transformer)
    transformer.enable_input_require_grads()  # for gradient checkpointing
    return plain


def merged(encoder: SentenceTransformer, plain: SentenceTransformer) -> SentenceTransformer:
    """The plain model with the trained weights, which needs neither peft nor the old model."""
    for module in encoder.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    weights = encoder.state_dict().items()
    plain.load_state_dict(
        {name.replace(".base_layer", ""): value for name, value in weights if ".lora_" not in name}
    )
    plain.model_card_data = encoder.model_card_data
    plain.model_card_data.register_model(plain)
    return plain
