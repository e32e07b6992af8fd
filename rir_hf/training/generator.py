"""Tuning a generator on preference pairs: DPO, with the trainer of TRL and adapters of peft."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from rir_hf.core.columns import check_at_least, require_dataset
from rir_hf.core.configured import require_place
from rir_hf.export.generators import to_trl, trl_lengths
from rir_hf.models.gguf import unpacked_gguf
from rir_hf.training.checkpoints import checkpoint_settings, remove_checkpoints, train
from rir_hf.training.retriever import among_processes_on_cpu, output_folder, require_extra

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NOT_ASKED = ("pairs", "output", "merged_output", "logging_steps", "checkpoint_steps")


def train_generator(
    pairs: Dataset,
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    revision: str | None = None,
    gguf_file: str | None = None,
    merged_output: str | os.PathLike[str] | None = None,
    full: bool = False,
    lora_r: int = 16,
    lora_alpha: int = 32,
    lora_dropout: float = 0.0,
    beta: float = 0.1,
    epochs: float = 1.0,
    max_steps: int | None = None,
    batch_size: int = 4,
    accumulate: int = 4,
    learning_rate: float = 1e-4,
    warmup_steps: int = 0,
    max_length: int = 1024,
    gradient_checkpointing: bool = False,
    logging_steps: int = 10,
    checkpoint_steps: int | None = None,
    seed: int = 0,
) -> Path:
    """Tune a generator on preference pairs by DPO with LoRA.

    A model with a chat template is trained on conversations, any other on plain texts. Weights are
    bfloat16 on a GPU and float32 on the CPU (with `full` always float32). The same call runs on
    several GPUs under `accelerate launch`.

    Args:
        pairs: with `prompt`, `chosen`, `rejected`: rows of `PreferencePairs` or of `to_trl`. Rows
            without a pair are left out with a warning.
        model: Hub name or folder of the generator to start from.
        output: folder for the adapter (with `full` for the model), which `ChatLLM` loads, and for
            `metrics.json`, the trainer's log.
        revision: branch, tag or commit of a Hub model.
        gguf_file: name of a GGUF file in the model's folder.
        merged_output: also write the whole model with the adapter merged in, and its tokenizer,
            here.
        full: train all weights without LoRA; lower the learning rate, to 1e-6 say.
        lora_r: rank of LoRA's matrices; higher learns more and takes more memory.
        lora_alpha: scale of LoRA, which divides it by `lora_r`.
        lora_dropout: dropout of LoRA.
        beta: higher stays closer to the old model.
        epochs: passes over the pairs.
        max_steps: stop after so many steps, in place of `epochs`.
        batch_size: pairs per device and forward pass.
        accumulate: forward passes per step.
        learning_rate: peak of the learning rate, which then falls linearly to 0.
        warmup_steps: steps until that peak.
        max_length: tokens of prompt and answer together; longer answers are cut, and pairs whose
            prompt alone is so long are left out.
        gradient_checkpointing: less memory, a third more time.
        logging_steps: steps between two lines of metrics.
        checkpoint_steps: write a checkpoint into `output` every so many steps. The same call after
            a kill goes on from the last complete one, and ends with the same weights. Checkpoints
            are removed when the training is done.
        seed: decides LoRA's first weights and the order of the pairs.

    Returns:
        The folder `output`.

    Raises:
        ImportError: the extra `train` is not installed.
        ValueError: no pair, all prompts too long, `merged_output` with `full`, or checkpoints of
            another training in `output`.
        FileNotFoundError: `model` is a path at which nothing is.
        NotADirectoryError: an output is a file.

    Example:
        >>> train_generator(pairs, "Qwen/Qwen3-0.6B", "adapter")                  # doctest: +SKIP
        PosixPath('adapter')
    """
    asked = {name: value for name, value in locals().items() if name not in _NOT_ASKED}
    require_extra("accelerate", "peft", "trl")
    require_dataset(pairs, "train_generator")
    check_at_least("batch_size", batch_size, 1)
    check_at_least("accumulate", accumulate, 1)
    if full and merged_output is not None:
        raise ValueError(
            "merged_output goes with LoRA; full=True writes the whole model to output."
        )
    folder = output_folder(output)
    merged = None if merged_output is None else output_folder(merged_output)
    generator, tokenizer = _load(model, revision, gguf_file, full)
    data = _conversations(pairs, tokenizer, max_length)
    passes = epochs if max_steps is None else max_steps * batch_size * accumulate / len(data)
    settings = _settings(
        output_dir=str(folder),
        beta=beta,
        num_train_epochs=epochs,
        max_steps=-1 if max_steps is None else max_steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulate,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        max_length=max_length,
        gradient_checkpointing=gradient_checkpointing,
        # The old model is asked about all pairs beforehand only if each comes up several times.
        precompute_ref_log_probs=not full and passes > 1,
        logging_steps=logging_steps,
        seed=seed,
        **checkpoint_settings(checkpoint_steps),
    )
    from peft import LoraConfig
    from trl import DPOTrainer

    adapter = LoraConfig(
        r=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = DPOTrainer(
        model=generator,
        args=settings,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=None if full else adapter,
    )
    train(trainer, folder, data, asked)
    trainer.save_model()
    if trainer.is_world_process_zero():
        _save_beside(trainer, folder, merged, tokenizer)
        remove_checkpoints(folder)
    trainer.accelerator.wait_for_everyone()
    return folder


def _load(
    model: str | os.PathLike[str], revision: str | None, gguf_file: str | None, full: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The generator and its tokenizer; bfloat16 on a GPU, float32 on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    require_place(model)
    source = os.fspath(model)
    if gguf_file is not None:
        source = str(unpacked_gguf(Path(source, gguf_file)))
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    dtype = torch.bfloat16 if torch.cuda.is_available() and not full else torch.float32
    return AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=dtype), tokenizer


def _conversations(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The pairs as the trainer takes them; `ValueError` where it would leave out all of them."""
    data = to_trl(pairs, conversational=bool(tokenizer.chat_template))
    lengths = trl_lengths(data, tokenizer, max_length)
    if lengths["rows_left_out"] == len(data):
        raise ValueError(
            f"All {len(data)} prompts have max_length={max_length} tokens or more: nothing is left "
            "to train on. Raise max_length."
        )
    return data


def _settings(**options: Any) -> Any:
    """The options in TRL's terms."""
    import torch
    from trl import DPOConfig

    has_gpu = torch.cuda.is_available()
    return DPOConfig(
        bf16=has_gpu,
        use_cpu=among_processes_on_cpu(),
        dataloader_pin_memory=has_gpu,
        logging_first_step=True,
        report_to="none",
        **options,
    )


def _save_beside(
    trainer: Any, folder: Path, merged: Path | None, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write the trainer's log beside the adapter, and the merged model where it is asked for."""
    history = json.dumps(trainer.state.log_history, indent=2)
    (folder / "metrics.json").write_text(history + "\n", encoding="utf-8")
    if merged is None:
        return
    whole = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    whole.save_pretrained(merged)
    tokenizer.save_pretrained(merged)
