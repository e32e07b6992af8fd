"""Evaluate a retriever on judged queries, as trec_eval does, with confidence intervals.

    python recipes/evaluate.py --data scifact --split test --model sentence-transformers/all-MiniLM-L6-v2
    python recipes/evaluate.py --data scifact --split test --model tuned --baseline before.run --run after.run

The data is a folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv); or give --corpus, --queries (columns query_id
and query) and --qrels (TREC or BEIR) one by one. --run keeps the ranking as a TREC run file; --baseline compares with an earlier
one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rir_hf import (
    METRICS,
    Embed,
    Search,
    attach_index,
    compare_runs,
    confidence_interval,
    evaluate_better,
    evaluate_queries,
    load_corpus,
    load_qrels,
    load_queries,
    read_run,
    write_run,
)

from _options import add_engine, add_push, add_retriever, load_retriever, log_plainly, push_rows, run_map


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder in BEIR layout")
    parser.add_argument("--corpus", help="passages, with the columns id and text")
    parser.add_argument("--queries", help="rows with query_id and query")
    parser.add_argument("--qrels", help="judgements, a TREC or BEIR file")
    parser.add_argument("--split", default="test", help="split to evaluate (default: %(default)s)")
    add_retriever(parser)
    parser.add_argument("--metrics", nargs="+", default=["ndcg", "recall", "mrr"], choices=sorted(METRICS), help="what to measure")
    parser.add_argument("--k", nargs="+", type=int, default=[10, 100], help="cut-offs (default: 10 100)")
    parser.add_argument("--run", type=Path, help="write the ranking to this TREC run file")
    parser.add_argument("--baseline", type=Path, help="compare with this TREC run file, query by query")
    parser.add_argument("--json", type=Path, help="write the metrics to this file")
    add_engine(parser, 10_000)
    add_push(parser, "run")
    options = parser.parse_args()
    if not options.data and not (options.corpus and options.queries and options.qrels):
        parser.error("give --data, or all of --corpus, --queries and --qrels")
    return options


def main() -> None:
    """Load, embed, search, evaluate, compare."""
    options = arguments()
    log_plainly()
    retriever = load_retriever(options)
    corpus = load_corpus(options.corpus or options.data, options.split)
    qrels = load_qrels(options.qrels or options.data, options.split)
    queries = load_queries(options.queries or options.data, options.split).filter(lambda row: row["query_id"] in qrels)
    before = read_run(options.baseline) if options.baseline else None

    corpus = attach_index(run_map(corpus, Embed(retriever), options, 512))
    queries = run_map(queries, Embed(retriever, "query", role="query"), options, 512)
    run = queries.map(Search(corpus, k=max(options.k)), batched=True, batch_size=512)

    metrics = evaluate_better(options.metrics, options.k, qrels, run)
    rows = evaluate_queries(options.metrics, options.k, qrels, run)
    names = [name for values in metrics.values() for name in values]
    baseline = evaluate_queries(options.metrics, options.k, qrels, before) if before is not None else None
    for name in names:
        low, high = confidence_interval(rows, name)
        line = f"{name:<15}{100 * sum(rows[name]) / len(rows):7.2f}   95% interval {100 * low:6.2f} to {100 * high:6.2f}"
        if baseline is not None:
            test = compare_runs(rows, baseline, name)
            line += f"   difference {100 * test['difference']:+6.2f} ({100 * test['low']:+.2f} to {100 * test['high']:+.2f}), "
            line += f"p = {test['p_value']:.4f}"
        print(line)
    if options.run:
        write_run(run, options.run)
    push_rows(run.remove_columns("embedding"), options)
    if options.json:
        options.json.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
