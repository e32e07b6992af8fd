"""From queries with several answers to preference pairs for DPO.

    python recipes/preferences.py --rows made/rows --model BAAI/bge-base-en-v1.5 --output preferences
    python recipes/train_generator.py --data preferences/trl --model Qwen/Qwen3-8B --output adapter

The rows are those of generate.py, or any with query, passage and answers (a list). The answer with which the retriever finds the
passage best is preferred to the one with which it finds it worst. OUTPUT/trl holds the dataset that DPOTrainer takes as it is
(`trl dpo --dataset_name OUTPUT/trl`); OUTPUT/rows every row, those without a pair with the reason; OUTPUT/report.json the counts.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from rir_hf import PreferencePairs, as_table, load_rows, report_generation, to_llamafactory, to_trl

from _options import add_engine, add_push, add_retriever, load_retriever, log_plainly, push_rows, run_map


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="rows with query, passage, answers: a file, a folder or a Hub name")
    parser.add_argument("--split", default="train", help="split, where there are several (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    add_retriever(parser)
    parser.add_argument("--task", help="what the answers were written for, where the rows have no column prompt")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.95,
        help="the worst answer must add less than this share of what the best adds (default: %(default)s)",
    )
    parser.add_argument("--answer_weight", type=float, default=0.2, help="of the answer beside the query (default: %(default)s)")
    parser.add_argument("--no_gain_needed", action="store_true", help="take pairs too whose better answer does not help the query")
    parser.add_argument("--plain", action="store_true", help="plain texts, for generators without a chat template")
    parser.add_argument("--no_thinking", action="store_true", help="the generator was told enable_thinking=False")
    parser.add_argument("--tokenizer", help="the generator's Hub name or folder, to check the lengths against")
    parser.add_argument("--dpo_max_length", type=int, default=1024, help="tokens of a pair in DPO (default: %(default)s)")
    parser.add_argument("--llamafactory", action="store_true", help="write OUTPUT/llamafactory too")
    parser.add_argument("--batch_size", type=int, default=256, help="rows per batch (default: %(default)s)")
    add_engine(parser, 10_000)
    add_push(parser, "preferences")
    options = parser.parse_args()
    if options.plain and options.no_thinking:
        parser.error("--no_thinking is told to a chat template, which --plain leaves out")
    if (options.output / "rows").resolve() == Path(options.rows).resolve():
        parser.error("--output would replace the rows that --rows names: choose another folder")
    return options


def main() -> None:
    """Load, compare, report, export."""
    options = arguments()
    log_plainly()
    compare = PreferencePairs(
        load_retriever(options),
        threshold=options.threshold,
        answer_weight=options.answer_weight,
        require_gain=not options.no_gain_needed,
        task=options.task,
        drop=False,
    )
    rows = run_map(load_rows(options.rows, options.split), compare, options, options.batch_size)
    summary = report_generation(rows)
    logging.info("%s", as_table(summary))
    rows.save_to_disk(options.output / "rows")
    (options.output / "report.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    if not summary["pairs"]:
        raise SystemExit(f"No row gives a pair; {options.output}/rows says why, row by row")

    tokenizer = None
    if options.tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    pairs = to_trl(
        rows,
        conversational=not options.plain,
        tokenizer=tokenizer,
        max_length=options.dpo_max_length,
        template_arguments={"enable_thinking": False} if options.no_thinking else None,
    )
    pairs.to_parquet(options.output / "trl" / "train.parquet")
    push_rows(pairs, options)
    if options.llamafactory:
        to_llamafactory(rows, options.output / "llamafactory")
    logging.info("Written to %s: trl/, rows/, report.json", options.output)


if __name__ == "__main__":
    main()
