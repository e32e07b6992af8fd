"""`rir-hf train-generator`: preference pairs in, a tuned generator out."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from rir_hf.cli.checks import check_model, check_sources
from rir_hf.cli.inputs import said_of
from rir_hf.cli.options import ModelHubOptions, progress_bars
from rir_hf.cli.output import ModelOutput
from rir_hf.cli.train_retriever import held_out, hub_name

logger = logging.getLogger(__name__)

MARKS = ("adapter_config.json", "generation_config.json")


@dataclass
class Training:
    """Training.

    Args:
        revision: branch, tag or commit of a Hub model.
        gguf_file: name of a GGUF file in the model's folder.
        merged_output: also write the model with the adapter merged in, and its tokenizer, here: it
            can be tuned further, while an adapter cannot.
        full: train all weights; lower the learning rate, to 1e-6 for example.
        lora_r: rank of LoRA's matrices; higher learns more and takes more memory.
        lora_alpha: scale of LoRA.
        lora_dropout: dropout of LoRA.
        beta: higher stays closer to the old model.
        epochs: passes over the pairs.
        max_steps: stop after so many steps, in place of --epochs.
        batch_size: pairs per device and forward pass.
        accumulate: forward passes per step.
        learning_rate: peak of the learning rate, which then falls linearly.
        warmup_steps: steps until that peak.
        max_length: tokens of prompt and answer together.
        gradient_checkpointing: less memory, a third more time.
        eval_steps: steps between two evaluations on --eval_rows or --eval_split; below 1 their
            share of the training.
        logging_steps: steps between two lines of metrics.
        checkpoint_steps: steps between two checkpoints, from the last of which the same command
            goes on after a kill; none: no checkpoint.
        report_to: where the metrics are logged to besides, as transformers takes it: tensorboard,
            wandb, trackio.
        arguments: further settings of TRL's DPOConfig.
        dataset_id: name of the pairs on the Hub, for the model card; none: --rows, where it is one.
        seed: of LoRA's first weights and the order of the pairs.
    """

    revision: str | None = None
    gguf_file: str | None = None
    merged_output: str | None = None
    full: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    beta: float = 0.1
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 4
    accumulate: int = 4
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    max_length: int = 1024
    gradient_checkpointing: bool = False
    eval_steps: float = 0.1
    logging_steps: int = 10
    checkpoint_steps: int | None = None
    report_to: str = "none"
    arguments: dict[str, Any] | None = None
    dataset_id: str | None = None
    seed: int = 0


def command(
    training: Training,
    hub: ModelHubOptions,
    writing: ModelOutput,
    rows: str,
    model: str,
    output: str,
    split: str | None = None,
    limit: int | None = None,
    eval_rows: str | None = None,
    eval_split: str | None = None,
) -> None:
    """Tune a generator on preference pairs by DPO, with LoRA unless --full is given.

    rir-hf train-generator --rows preferred --model Qwen/Qwen3-0.6B --output adapter

    The adapter goes to --output and loads as `ChatLLM("adapter")`. On several GPUs:
    accelerate launch -m rir_hf.cli.main train-generator ...

    Args:
        rows: preference pairs with prompt, chosen and rejected: a file, a folder, a Hub name.
        model: the generator to start from, Hub name or folder.
        output: folder for the adapter, with --full for the model, and for metrics.json.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        eval_rows: held-out pairs, whose loss is measured while the model is trained: the weights of
            the lowest one are kept; none: those of --rows in --eval_split.
        eval_split: their split; none, and without --eval_rows: no evaluation.
    """
    writing.check(output, *MARKS)
    if training.merged_output is not None:
        writing.check(training.merged_output, "config.json")
    hub.check()
    from rir_hf.training.arguments import check_apart, check_report_to

    check_report_to(training.report_to, "--report_to")
    check_model(model, "--model", training.revision, training.gguf_file)
    check_sources(rows, eval_rows)
    from rir_hf.training.generator import as_texts, check_no_adapter, checked_generator_options

    checked_generator_options(vars(training))
    check_no_adapter(model, training.revision, training.gguf_file)
    from rir_hf import load_rows, to_trl, train_generator

    pairs = load_rows(rows, split, limit=limit)
    judged = held_out(rows, eval_rows, eval_split)
    training.dataset_id = training.dataset_id or hub_name(rows)
    if writing.dry_run:
        made, size = to_trl(pairs), training.batch_size * training.accumulate
        if judged is not None:
            with said_of("--eval_rows, --eval_split"):
                held = to_trl(judged)
            check_apart(as_texts(made), as_texts(held), "pairs")
        number = len(made)
        steps = training.max_steps or math.ceil(training.epochs * number / size)
        writing.says(f"train on {number:,} rows in {steps:,} steps, and write to {output}")
        return
    with progress_bars(), writing.folder(output, *MARKS) as folder:
        train_generator(pairs, model, folder, dev=judged, **vars(training))
    hub.push(output)
    merged = f" and {training.merged_output}" if training.merged_output else ""
    logger.info("Written to %s%s", output, merged)
