"""From an unlabelled corpus to queries with hypothetical answers: what preferences.py turns into training data for the generator.

    python recipes/generate.py --corpus corpus.jsonl --task scifact --generate_model_path Qwen/Qwen3-8B --no_thinking --output made
    python recipes/generate.py --pairs pairs.jsonl --generate_model_path gpt-4.1-mini --model_type gpt --output made

Writes a query (or several) for each passage, has it checked, and writes hypothetical answers to each query without showing the
passage. With --pairs, rows that have a query and a passage, it writes answers only. The rows go to OUTPUT/rows (for
load_from_disk) and OUTPUT/rows.jsonl, all of them: those without a query or an answer say why. What is there already stays:
--retry takes those rows and asks again for what failed, --overwrite begins anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
from pathlib import Path

from datasets import Dataset, load_from_disk

from rir_hf import (
    ChatLLM,
    GenerateAnswers,
    GenerateQueries,
    OpenAIChat,
    as_table,
    load_corpus,
    load_pairs,
    load_rows,
    report_generation,
)

from _options import add_engine, add_llm, add_push, check_llm, load_llm, log_plainly, positive, push_rows, run_map


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", help="passages, with the columns id and text: a file, a folder, a Hub name, BEIR layout")
    source.add_argument("--pairs", help="rows with query and passage, to write answers only")
    parser.add_argument("--split", default="train", help="split, where there are several (default: %(default)s)")
    parser.add_argument("--sample", type=positive, help="so many passages or pairs, drawn at random (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--retry", action="store_true", help="take the rows in --output, ask again where the generator failed")
    again.add_argument("--overwrite", action="store_true", help="replace the rows in --output")
    add_llm(parser, "generator")
    parser.add_argument("--task", help="a BEIR dataset's name, or a sentence that describes the task (default: questions)")
    parser.add_argument("--examples", help="rows with passage and query to show the generator first")
    parser.add_argument("--queries", type=positive, default=1, help="queries per passage (default: %(default)s)")
    parser.add_argument("--query_temperature", type=float, default=0.7, help="of the queries (default: %(default)s)")
    parser.add_argument("--query_max_tokens", type=positive, default=128, help="longest query (default: %(default)s)")
    parser.add_argument(
        "--quality_check", default="logprobs", choices=["logprobs", "text", "none"],
        help="whether the passage fits the query: compare Yes and No, read a written answer, or do not ask (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--min_quality", type=float, default=0.0, help="log-odds of Yes to No to pass (default: %(default)s)")
    parser.add_argument("--max_chars", type=int, default=8000, help="passages are cut to this (default: %(default)s)")
    parser.add_argument("--max_passage_tokens", type=int, default=1024, help="and to this (default: %(default)s)")
    parser.add_argument("--answers", type=int, default=4, help="answers per query, 0 for none (default: %(default)s)")
    parser.add_argument("--words", type=int, default=60, help="about how long an answer is (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.9, help="of the answers (default: %(default)s)")
    parser.add_argument("--top_p", type=float, default=1.0, help="of queries and answers (default: %(default)s)")
    parser.add_argument("--max_tokens", type=int, default=256, help="longest answer (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of sample and draws (default: %(default)s)")
    parser.add_argument("--batch_size", type=positive, default=64, help="rows per batch (default: %(default)s)")
    add_engine(parser, 1000)
    add_push(parser, "generated")
    options = parser.parse_args()
    check_llm(parser, options)
    has_rows = (options.output / "rows").exists()
    if has_rows and not (options.retry or options.overwrite):
        parser.error(f"{options.output}/rows is there: --retry to ask again where the generator failed, --overwrite to begin anew")
    if options.retry and not has_rows:
        parser.error(f"--retry needs the rows of an earlier run in {options.output}/rows")
    return options


def load_source(options: argparse.Namespace) -> Dataset:
    """The passages, the pairs, or the rows of an earlier run."""
    if options.retry:
        return load_from_disk(options.output / "rows")
    rows = load_corpus(options.corpus, options.split) if options.corpus else load_pairs(options.pairs, options.split)
    if options.sample is not None and options.sample < len(rows):
        rows = rows.shuffle(seed=options.seed).select(range(options.sample)).flatten_indices()
    return rows


def write_queries(rows: Dataset, llm: ChatLLM | OpenAIChat, options: argparse.Namespace) -> Dataset:
    """One or more checked queries per passage."""
    function = GenerateQueries(
        llm,
        task=options.task,
        n=options.queries,
        quality_check=False if options.quality_check == "none" else options.quality_check,
        min_quality=options.min_quality,
        examples=load_rows(options.examples).to_list() if options.examples else (),
        max_chars=options.max_chars,
        max_passage_tokens=options.max_passage_tokens,
        temperature=options.query_temperature,
        top_p=options.top_p,
        max_tokens=options.query_max_tokens,
        keep_generated=options.retry,
        seed=options.seed,
    )
    return run_map(rows, function, options, options.batch_size, "queries")


def write_answers(rows: Dataset, llm: ChatLLM | OpenAIChat, options: argparse.Namespace) -> Dataset:
    """Several hypothetical answers per query."""
    function = GenerateAnswers(
        llm,
        task=options.task,
        n=options.answers,
        words=options.words,
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=options.max_tokens,
        keep_generated=options.retry,
        seed=options.seed,
    )
    return run_map(rows, function, options, options.batch_size, "answers")


def save(rows: Dataset, folder: Path) -> None:
    """Write the rows under other names, then rename: a killed run leaves the old ones, and --retry may read what it replaces."""
    new, old = folder / ".rows.new", folder / ".rows.old"
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    rows.save_to_disk(new)
    rows.to_json(folder / ".rows.jsonl.new", force_ascii=False)
    if (folder / "rows").exists():
        os.rename(folder / "rows", old)
    os.rename(new, folder / "rows")
    os.replace(folder / ".rows.jsonl.new", folder / "rows.jsonl")
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Load, write queries, write answers, report, save."""
    options = arguments()
    log_plainly()
    llm = load_llm(options)
    rows = load_source(options)
    if options.corpus:
        rows = write_queries(rows, llm, options)
    if options.answers:
        rows = write_answers(rows, llm, options)
    summary = report_generation(rows)
    save(rows, options.output)
    (options.output / "report.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    push_rows(rows, options)
    logging.info("%s\nWritten to %s: rows/, rows.jsonl, report.json", as_table(summary), options.output)


if __name__ == "__main__":
    main()
