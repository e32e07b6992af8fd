"""Train a generator on preference pairs: DPO with LoRA, through TRL and peft.

    pip install "rir-hf[train]"
    python recipes/train_generator.py --data preferences/trl --model Qwen/Qwen3-0.6B --output adapter --merged_output merged

The data is OUTPUT/trl of preferences.py, a file or a Hub name with prompt, chosen and rejected. The adapter goes to --output, and
loads as ChatLLM("adapter"); --merged_output holds the whole model with its tokenizer. The same command runs on one GPU;
`accelerate launch recipes/train_generator.py ...` on several.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rir_hf import load_rows, to_trl, trl_lengths
from rir_hf.llm import unpacked_gguf

from _options import add_push, log_plainly, push_model

try:
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer
except ImportError as error:
    raise SystemExit(f'Training needs TRL and peft ({error}): pip install "rir-hf[train]"') from error


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="preference pairs: a folder, a file or a Hub name")
    parser.add_argument("--split", default="train", help="split, where there are several (default: %(default)s)")
    parser.add_argument("--model", required=True, help="the generator to train: Hub name or folder")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")
    parser.add_argument("--gguf_file", help="name of a GGUF file in the model's folder")
    parser.add_argument("--output", type=Path, required=True, help="where the adapter goes (with --full: the model)")
    parser.add_argument("--merged_output", type=Path, help="also write the model with the adapter merged in, and its tokenizer")
    parser.add_argument("--full", action="store_true", help="train all weights, no LoRA; lower the learning rate, 1e-6 say")
    parser.add_argument("--lora_r", type=int, default=16, help="rank of LoRA (default: %(default)s)")
    parser.add_argument("--lora_alpha", type=int, default=32, help="scale of LoRA (default: %(default)s)")
    parser.add_argument("--lora_dropout", type=float, default=0.0, help="dropout of LoRA (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=1e-4, help="peak, then falling linearly (default: %(default)s)")
    parser.add_argument("--beta", type=float, default=0.1, help="higher stays closer to the old model (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over the pairs (default: %(default)s)")
    parser.add_argument("--max_steps", type=int, default=-1, help="stop after so many steps, in place of --epochs")
    parser.add_argument("--batch_size", type=int, default=4, help="pairs per device and forward pass (default: %(default)s)")
    parser.add_argument("--accumulate", type=int, default=4, help="forward passes per step (default: %(default)s)")
    parser.add_argument("--warmup_steps", type=int, default=0, help="steps until the peak (default: %(default)s)")
    parser.add_argument("--max_length", type=int, default=1024, help="tokens of prompt and answer (default: %(default)s)")
    parser.add_argument("--gradient_checkpointing", action="store_true", help="less memory, a third more time")
    parser.add_argument("--logging_steps", type=int, default=10, help="steps between two lines of metrics (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of LoRA's weights and the order of pairs (default: %(default)s)")
    add_push(parser)
    options = parser.parse_args()
    if options.full and options.merged_output:
        parser.error("--merged_output goes with LoRA; --full writes the whole model to --output")
    return options


def load_model(options: argparse.Namespace) -> tuple[torch.nn.Module, object]:
    """The generator and its tokenizer; bfloat16 on a GPU, float32 on the CPU."""
    place = str(unpacked_gguf(Path(options.model, options.gguf_file))) if options.gguf_file else options.model
    tokenizer = AutoTokenizer.from_pretrained(place, revision=options.revision)
    dtype = torch.bfloat16 if torch.cuda.is_available() and not options.full else torch.float32
    return AutoModelForCausalLM.from_pretrained(place, revision=options.revision, dtype=dtype), tokenizer


def settings(options: argparse.Namespace, pairs: int) -> DPOConfig:
    """The options in TRL's terms; the old model is asked about all pairs beforehand only if each comes up several times."""
    seen = options.max_steps * options.batch_size * options.accumulate / pairs if options.max_steps > 0 else options.epochs
    return DPOConfig(
        output_dir=str(options.output),
        learning_rate=options.learning_rate,
        beta=options.beta,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        warmup_steps=options.warmup_steps,
        max_length=options.max_length,
        gradient_checkpointing=options.gradient_checkpointing,
        precompute_ref_log_probs=not options.full and seen > 1,
        bf16=torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=options.logging_steps,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        seed=options.seed,
    )


def main() -> None:
    """Load, check, train, save."""
    options = arguments()
    log_plainly()
    model, tokenizer = load_model(options)
    pairs = to_trl(load_rows(options.data, options.split), conversational=bool(tokenizer.chat_template))
    lengths = trl_lengths(pairs, tokenizer, options.max_length)
    if lengths["rows_left_out"] == len(pairs):
        raise SystemExit(
            f"All {len(pairs)} prompts have --max_length {options.max_length} tokens or more; nothing is left to train on"
        )
    lora = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = DPOTrainer(
        model=model,
        args=settings(options, len(pairs)),
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=None if options.full else lora,
    )
    trainer.train()
    trainer.save_model()
    if trainer.accelerator.is_main_process:
        history = json.dumps(trainer.state.log_history, indent=2)
        (options.output / "metrics.json").write_text(history + "\n", encoding="utf-8")
        if options.merged_output:
            trainer.accelerator.unwrap_model(trainer.model).merge_and_unload().save_pretrained(options.merged_output)
            tokenizer.save_pretrained(options.merged_output)
        push_model(options.output, options)
    logging.info("Written to %s%s", options.output, f" and {options.merged_output}" if options.merged_output else "")


if __name__ == "__main__":
    main()
