"""Tuning a generator on preference pairs: DPO, with the trainer of TRL and adapters of peft."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from rir_hf.core.columns import require_columns, require_dataset
from rir_hf.core.configured import identity_of_model, require_place
from rir_hf.export.generators import to_trl, trl_lengths
from rir_hf.models.gguf import unpacked_gguf
from rir_hf.schema import CHOSEN, PROMPT, REJECTED
from rir_hf.training.arguments import (
    check_apart,
    check_report_to,
    checked_arguments,
    evaluation_settings,
    has_native_bf16,
    held_out,
    settings_of,
    shared_settings,
)
from rir_hf.training.card import check_dataset_id, describe_data
from rir_hf.training.checkpoints import (
    remove_checkpoints,
    remove_unfinished,
    train,
)
from rir_hf.training.folders import check_apart_from_model, output_folder, remove_earlier
from rir_hf.training.options import checked_options, checking, require_extra, with_defaults

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_METRIC = "eval_loss"  # as the trainer calls what the best step is chosen by
# They do not decide the weights, or are recorded by their content
NOT_ASKED = (
    *("pairs", "model", "revision", "gguf_file", "output", "merged_output", "logging_steps"),
    *("checkpoint_steps", "dev", "report_to", "dataset_id"),
)


def checked_generator_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `train_generator`, checked without loading anything.

    Args:
        options: some of them by name.

    Returns:
        The same; numbers that were given as texts, as YAML reads `1e-5`, are numbers.

    Raises:
        ImportError: the extra `train` is not installed.
        ValueError: one that `train_generator` does not have, of another type or out of range, that
            does not go with another one, or a setting in `arguments` that the trainer does not
            have.

    Example:
        >>> checked_generator_options({"learning_rate": "1e-5", "lora_r": 32})
        {'learning_rate': 1e-05, 'lora_r': 32}
    """
    require_extra("accelerate", "peft", "trl")
    found = checked_options(train_generator, options)
    given = with_defaults(train_generator, found)
    check_dataset_id(given["dataset_id"])
    check_report_to(given["report_to"])
    if given["full"] and given["merged_output"] is not None:
        raise ValueError(
            "merged_output goes with LoRA; full=True writes the whole model to output."
        )
    if given["arguments"]:  # which need the trainer's class, whose import takes seconds
        kind, ours = _settings(given)
        ours |= evaluation_settings(given["eval_steps"])
        found["arguments"] = checked_arguments(kind, given["arguments"], ours)
    return found


def check_no_adapter(
    model: str | os.PathLike[str], revision: str | None = None, gguf_file: str | None = None
) -> None:
    """`ValueError` for a generator that is an adapter: a new one would take its place.

    Args:
        model: Hub name or folder of the generator to start from.
        revision: branch, tag or commit of a Hub model.
        gguf_file: name of a GGUF file in the model's folder, which no adapter has.

    Raises:
        FileNotFoundError: a path at which nothing is.

    Example:
        >>> check_no_adapter("runs/round-1/adapter")                              # doctest: +SKIP
        Traceback (most recent call last):
        ValueError: runs/round-1/adapter holds an adapter, which cannot be tuned further: ...
    """
    from transformers.utils import find_adapter_config_file

    require_place(model)
    if gguf_file is None and find_adapter_config_file(os.fspath(model), revision=revision):
        raise ValueError(
            f"{model} holds an adapter, which cannot be tuned further: give the model with the "
            "adapter merged in, which merged_output (--merged_output) of its training writes."
        )


@checking(checked_generator_options)
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
    dev: Dataset | str | os.PathLike[str] | None = None,
    eval_steps: float = 0.1,
    logging_steps: int = 10,
    checkpoint_steps: int | None = None,
    report_to: str | list[str] = "none",
    arguments: Mapping[str, Any] | None = None,
    dataset_id: str | None = None,
    seed: int = 0,
) -> Path:
    """Tune a generator on preference pairs by DPO with LoRA.

    A model with a chat template is trained on conversations, any other on plain texts. Weights are
    bfloat16 on a GPU that computes in it, else float32 (with `full` always float32). The same call
    runs on several GPUs under `accelerate launch`.

    Args:
        pairs: with `prompt`, `chosen`, `rejected`: rows of `PreferencePairs` or of `to_trl`. Rows
            without a pair are left out with a warning.
        model: Hub name or folder of the generator to start from, a whole model: not an adapter, but
            what `merged_output` wrote with it.
        output: folder for the adapter (with `full` for the model), which `ChatLLM` loads, and for
            `metrics.json`, the trainer's log. Files of an earlier model or adapter in it are
            removed.
        revision: branch, tag or commit of a Hub model.
        gguf_file: name of a GGUF file in the model's folder.
        merged_output: also write the whole model with the adapter merged in, and its tokenizer,
            into this folder, in place of an earlier model.
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
        dev: held-out pairs, or a folder of them, whose loss is measured before the training and
            while it goes on. The weights of the lowest one are kept. Pairs that are trained on too
            are counted in a warning.
        eval_steps: steps between two evaluations; below 1 their share of the training.
        logging_steps: steps between two lines of metrics.
        checkpoint_steps: write a checkpoint into `output` every so many steps. The same call after
            a kill goes on from the last complete one, and ends with the same weights; the model is
            then known by its content, wherever it lies. Checkpoints are removed when the training
            is done. Not in the folder of `model`.
        report_to: where the metrics are logged to besides, as transformers takes it: `tensorboard`,
            `wandb`, `trackio`, ...
        arguments: further settings of TRL's `DPOConfig`: `{"loss_type": "ipo"}`. `bf16` is on by
            itself where the GPU computes in it.
        dataset_id: name of the pairs on the Hub, for the model card.
        seed: decides LoRA's first weights and the order of the pairs.

    Returns:
        The folder `output`.

    Raises:
        ImportError: the extra `train` is not installed.
        ValueError: a model that is an adapter, no pair, all prompts too long, all held-out pairs
            trained on, `merged_output` with `full`, an option or argument that does not fit, or
            checkpoints of another training in `output`.
        FileNotFoundError: `model` is a path at which nothing is.
        NotADirectoryError: an output is a file.

    Example:
        >>> train_generator(pairs, "Qwen/Qwen3-0.6B", "adapter")                  # doctest: +SKIP
        PosixPath('adapter')
    """
    given = dict(locals())
    asked = {name: value for name, value in given.items() if name not in NOT_ASKED}
    require_dataset(pairs, "train_generator")
    check_no_adapter(model, revision, gguf_file)
    if checkpoint_steps is not None:
        check_apart_from_model(output, model)
        asked["model"] = identity_of_model(Path(model, gguf_file) if gguf_file else model, revision)
    dev = held_out(dev)
    for rows in (pairs, dev):
        if rows is not None:
            require_columns(rows, [PROMPT.name, CHOSEN.name, REJECTED.name], "train_generator")
    from peft import LoraConfig
    from transformers import set_seed
    from trl import DPOTrainer

    kind, options = _settings(given)
    folder = output_folder(output)
    merged = None if merged_output is None else output_folder(merged_output)
    if merged is not None and merged.resolve() == folder.resolve():
        raise ValueError(f"merged_output must be another folder than output, got {merged} twice.")
    tokenizer, source = _tokenizer(model, revision, gguf_file)
    data = _conversations(pairs, tokenizer, max_length)
    judged = None if dev is None else _conversations(dev, tokenizer, max_length)
    if judged is not None:
        check_apart(as_texts(data), as_texts(judged), "pairs")
    generator = _load(source, revision, full)
    passes = epochs if max_steps is None else max_steps * batch_size * accumulate / len(data)
    # The old model is asked about all pairs beforehand only if each comes up several times.
    usual = {"precompute_ref_log_probs": not full and passes > 1}
    settings = settings_of(kind, {**usual, **(arguments or {})}, options)
    adapter = LoraConfig(
        r=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    set_seed(seed)  # TRL 1.0 draws LoRA's first weights before it does
    trainer = DPOTrainer(
        model=generator,
        args=settings,
        train_dataset=data,
        eval_dataset=judged,
        processing_class=tokenizer,
        peft_config=None if full else adapter,
    )
    if judged is not None:
        from rir_hf.training.best import KeepBest, best_of

        trainer.add_callback(KeepBest(trainer.model, _METRIC))
    train(trainer, folder, data if dev is None else {"": data, "(dev)": judged}, asked)
    if trainer.is_world_process_zero():
        remove_earlier(folder)
    trainer.save_model()
    if trainer.is_world_process_zero():
        if judged is not None:
            found = best_of(trainer.state.log_history, _METRIC)
            logger.info("Loss of the held-out pairs: %s.", found)
        trainer.create_model_card(dataset_name=dataset_id)
        describe_data(folder, {"": pairs}, dataset_id, dev)
        _save_beside(trainer, folder, merged, tokenizer)
        remove_checkpoints(folder)
    trainer.accelerator.wait_for_everyone()
    return folder


def _settings(given: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """The trainer's class of settings, and our options under its names."""
    from trl import DPOConfig

    return DPOConfig, {
        **shared_settings(DPOConfig, given),
        "beta": given["beta"],
        "per_device_eval_batch_size": given["batch_size"],
        "gradient_accumulation_steps": given["accumulate"],
        "max_length": given["max_length"],
        "logging_steps": given["logging_steps"],
        "logging_first_step": True,
    }


def as_texts(pairs: Dataset) -> list[str]:
    """Each pair's prompt and chosen answer as one text, by which pairs are the same."""
    both = zip(pairs[PROMPT.name], pairs[CHOSEN.name], strict=True)
    return [f"{prompt} {chosen}" for prompt, chosen in both]


def _tokenizer(
    model: str | os.PathLike[str], revision: str | None, gguf_file: str | None
) -> tuple[PreTrainedTokenizerBase, str]:
    """The generator's tokenizer, and where both are."""
    from transformers import AutoTokenizer

    source = os.fspath(model)
    if gguf_file is not None:
        source = str(unpacked_gguf(Path(source, gguf_file)))
    return AutoTokenizer.from_pretrained(source, revision=revision), source


def _load(source: str, revision: str | None, full: bool) -> PreTrainedModel:
    """The generator; bfloat16 where a GPU computes in it, else float32."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if has_native_bf16() and not full else torch.float32
    return AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=dtype)


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


def _save_beside(
    trainer: Any, folder: Path, merged: Path | None, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write the trainer's log beside the adapter, and the merged model where it is asked for."""
    history = json.dumps(trainer.state.log_history, indent=2)
    (folder / "metrics.json").write_text(history + "\n", encoding="utf-8")
    if merged is None:
        return
    remove_earlier(merged)
    whole = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    whole.save_pretrained(merged)
    remove_unfinished(merged)
    tokenizer.save_pretrained(merged)
    shutil.copy(folder / "README.md", merged)
