"""Mine hard negatives for pairs of query and positive over a corpus.

    python recipes/mine.py --corpus corpus.jsonl --pairs pairs.jsonl --model BAAI/bge-base-en-v1.5 --output mined

Corpus and pairs may be a file (.jsonl, .json, .parquet, .csv, .tsv), a folder, a Hub name ("name" or "name:config"), or a folder in
BEIR layout (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv), which holds both: give it twice. Where rows have a column "answer",
--answers mines negatives for it too (neg_answer). A killed run goes on where it was; --engine ray runs on a Ray cluster;
--streaming holds none of the pairs in memory (a query's positives in other rows are then known from --qrels alone).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections import Counter
from pathlib import Path

from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm

from rir_hf import (
    Embed,
    MineNegatives,
    Retriever,
    attach_index,
    load_corpus,
    load_pairs,
    load_qrels,
    plot_report,
    report,
    stream_pairs,
)

from _options import Rows, add_engine, add_push, add_retriever, load_retriever, log_plainly, push_rows, run_map


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", required=True, help="passages, with the columns id and text (title, if any, goes before the text)"
    )
    parser.add_argument(
        "--pairs", required=True, help="rows with query and pos, passage or pos_ids; query_id where a query has several"
    )
    parser.add_argument("--split", default="train", help="split of pairs and corpus where there are several (default: %(default)s)")
    parser.add_argument("--qrels", help="all known positives by query_id, TREC or BEIR file (default: those of the pairs)")
    add_retriever(parser)
    parser.add_argument("--factory", default="Flat", help="FAISS index, e.g. IVF4096,Flat (default: %(default)s, exact)")
    parser.add_argument("--nprobe", type=int, default=16, help="lists an IVF index looks into (default: %(default)s)")
    parser.add_argument("--num_negatives", type=int, default=15, help="negatives per row (default: %(default)s)")
    parser.add_argument(
        "--margin", type=float, default=0.05, help="share a negative must lie below the positive (default: %(default)s)"
    )
    parser.add_argument("--max_score", type=float, help="no negative more similar than this")
    parser.add_argument("--min_score", type=float, help="no negative less similar than this")
    parser.add_argument("--skip_ranks", type=int, default=0, help="leave out the first ranks (default: %(default)s)")
    parser.add_argument(
        "--strategy", default="top", choices=["top", "random", "stratified"], help="which of the passages below the ceiling"
    )
    parser.add_argument("--pool", type=int, help="passages that random and stratified choose from (default: 100)")
    parser.add_argument("--neg_type", default="hard", choices=["hard", "random", "mixed"], help="default: %(default)s")
    parser.add_argument("--answers", action="store_true", help="mine negatives for the column answer too")
    parser.add_argument(
        "--answer_weight", type=float, default=0.0, help="weight of the answer in the search for the query's negatives"
    )
    parser.add_argument("--max_rank", type=int, help="drop rows whose positive is outranked by this many passages or more")
    parser.add_argument("--seed", type=int, default=0, help="for all that is random (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=512, help="rows per batch (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the dataset, mined.jsonl and report.png")
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="read the pairs as they are needed and write mined.jsonl alone: for millions of them",
    )
    add_engine(parser, 10_000)
    add_push(parser, "mined")
    options = parser.parse_args()
    if options.streaming and (options.push_to_hub or options.engine == "ray"):
        parser.error("--streaming goes with neither --push_to_hub nor --engine ray")
    if options.pool is not None and options.strategy == "top":
        parser.error("--pool goes with --strategy random or stratified")
    return options


def embed_corpus(retriever: Retriever, options: argparse.Namespace) -> Dataset:
    """The corpus with vectors and index."""
    corpus = run_map(load_corpus(options.corpus, options.split), Embed(retriever), options, options.batch_size)
    corpus = attach_index(corpus, factory=options.factory)
    index = corpus.get_index("embedding").faiss_index
    if hasattr(index, "nprobe"):
        index.nprobe = options.nprobe
    return corpus


def mine(
    pairs: Rows,
    corpus: Dataset,
    known: Dataset | dict[str, dict[str, int]] | None,
    retriever: Retriever,
    options: argparse.Namespace,
) -> Rows:
    """The chain over the pairs, a dataset or a stream; without their vectors in the end."""
    size = options.batch_size
    rules = {name: getattr(options, name) for name in ("num_negatives", "margin", "max_score", "min_score", "skip_ranks", "seed")}
    rules |= {name: getattr(options, name) for name in ("strategy", "pool", "neg_type")}
    vectors = ["embedding"]
    mined = run_map(pairs, Embed(retriever, "query", role="query"), options, size)
    if options.answers or options.answer_weight:
        vectors.append("answer_embedding")
        mined = run_map(mined, Embed(retriever, "answer", role="query", output="answer_embedding"), options, size)
    mined = run_map(mined, MineNegatives(corpus, qrels=known, answer_weight=options.answer_weight, **rules), options, size)
    if options.answers:
        of_answer = MineNegatives(corpus, query="answer_embedding", output="neg_answer", qrels=known, **rules)
        mined = run_map(mined, of_answer, options, size)
    if options.max_rank is not None:
        mined = mined.filter(lambda ranks: [rank < options.max_rank for rank in ranks], batched=True, input_columns="pos_rank")
    return mined.remove_columns(vectors)


def write_stream(mined: IterableDataset, path: Path) -> None:
    """Write rows as they come, renamed when complete, and count those with fewer negatives than asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    notes: Counter[str] = Counter()
    with part.open("w", encoding="utf-8") as file:
        for row in tqdm(mined, unit=" rows"):
            notes[row["neg_note"]] += 1
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(part, path)
    short = {note: number for note, number in notes.items() if note}
    logging.info("Written to %s: %d rows; notes: %s", path, notes.total(), short)


def main() -> None:
    """Load, embed, index, mine, report, save."""
    options = arguments()
    log_plainly()
    retriever = load_retriever(options)
    pairs = stream_pairs(options.pairs, options.split) if options.streaming else load_pairs(options.pairs, options.split)
    columns = list(next(iter(pairs), {}))
    if options.qrels and "query_id" not in columns:
        raise SystemExit(f"--qrels needs a column query_id, the pairs have {columns}")
    if (options.answers or options.answer_weight) and "answer" not in columns:
        raise SystemExit(f"--answers and --answer_weight need a column answer, the pairs have {columns}")
    known = load_qrels(options.qrels) if options.qrels else None
    corpus = embed_corpus(retriever, options)
    if options.streaming:
        write_stream(mine(pairs, corpus, known, retriever, options), options.output / "mined.jsonl")
        return
    mined = mine(pairs, corpus, known or (pairs if "query_id" in columns else None), retriever, options)
    logging.info("%d rows of %d pairs.", len(mined), len(pairs))
    report(mined)
    if options.answers:
        report(mined, output="neg_answer")
    mined.save_to_disk(options.output)
    mined.to_json(options.output / "mined.jsonl", force_ascii=False)
    plot_report(mined, options.output / "report.png")
    push_rows(mined, options, corpus=corpus)
    logging.info('Written to %s: load_from_disk("%s"), mined.jsonl, report.png', options.output, options.output)


if __name__ == "__main__":
    main()
