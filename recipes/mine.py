"""Mine hard negatives for pairs of query and positive over a corpus.

    python recipes/mine.py --corpus corpus.jsonl --pairs pairs.jsonl --model BAAI/bge-base-en-v1.5 --output mined

Corpus and pairs may be a file (.jsonl, .json, .parquet, .csv, .tsv), a folder, a Hub name ("name" or "name:config"), or a folder in
BEIR layout (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv), which holds both: give it twice. Where rows have a column "answer",
--answers mines negatives for it too (neg_answer).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from rir_hf import Embed, MineNegatives, attach_index, load_corpus, load_pairs, plot_report, report

from _options import add_push, add_retriever, load_retriever, log_plainly, push_rows


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
    add_push(parser, "mined")
    options = parser.parse_args()
    if options.pool is not None and options.strategy == "top":
        parser.error("--pool goes with --strategy random or stratified")
    return options


def main() -> None:
    """Load, embed, index, mine, report, save."""
    options = arguments()
    log_plainly()
    batches = {"batched": True, "batch_size": options.batch_size}
    retriever = load_retriever(options)
    corpus = load_corpus(options.corpus, options.split)
    pairs = load_pairs(options.pairs, options.split)
    if (options.answers or options.answer_weight) and "answer" not in pairs.column_names:
        raise SystemExit(f"--answers and --answer_weight need a column answer, the pairs have {pairs.column_names}")

    corpus = attach_index(corpus.map(Embed(retriever), **batches), factory=options.factory)
    index = corpus.get_index("embedding").faiss_index
    if hasattr(index, "nprobe"):
        index.nprobe = options.nprobe
    known = pairs if "query_id" in pairs.column_names else None
    vectors = ["embedding"]
    mined = pairs.map(Embed(retriever, "query", role="query"), **batches)
    if options.answers or options.answer_weight:
        vectors.append("answer_embedding")
        mined = mined.map(Embed(retriever, "answer", role="query", output="answer_embedding"), **batches)
    rules = {name: getattr(options, name) for name in ("num_negatives", "margin", "max_score", "min_score", "skip_ranks", "seed")}
    rules |= {name: getattr(options, name) for name in ("strategy", "pool", "neg_type")}
    mined = mined.map(MineNegatives(corpus, qrels=known, answer_weight=options.answer_weight, **rules), **batches)
    if options.answers:
        mined = mined.map(MineNegatives(corpus, query="answer_embedding", output="neg_answer", qrels=known, **rules), **batches)

    report(mined)
    if options.answers:
        report(mined, output="neg_answer")
    if options.max_rank is not None:
        found = mined.filter(lambda ranks: [rank < options.max_rank for rank in ranks], batched=True, input_columns="pos_rank")
        logging.info("%d of %d rows have a positive in the first %d.", len(found), len(mined), options.max_rank)
        mined = found
    mined = mined.remove_columns(vectors)
    mined.save_to_disk(options.output)
    mined.to_json(options.output / "mined.jsonl", force_ascii=False)
    plot_report(mined, options.output / "report.png")
    push_rows(mined, options, corpus=corpus)
    logging.info('Written to %s: load_from_disk("%s"), mined.jsonl, report.png', options.output, options.output)


if __name__ == "__main__":
    main()
