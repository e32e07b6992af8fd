"""Evaluate a retriever on a collection as trec_eval does, with confidence intervals.

    python recipes/evaluate.py scifact BAAI/bge-base-en-v1.5 bge.run

The collection is a folder in BEIR layout, of which the split test is searched. The ranking is kept
as a TREC run file, which `rir-hf compare` compares with another. `rir-hf evaluate` has all the
options.
"""

import argparse

import rir_hf as rir

MEASURES = ["nDCG@10", "R@100", "RR@10"]


def main() -> None:
    """Chain corpus - Embed - attach_index, and queries - Embed - Search - evaluate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", help="folder in BEIR layout")
    parser.add_argument("model", help="the retriever: Hub name or folder")
    parser.add_argument("output", help="TREC run file to write")
    paths = parser.parse_args()

    retriever = rir.Retriever(paths.model)
    corpus = rir.attach_index(rir.run(rir.load_corpus(paths.collection), rir.Embed(retriever)))
    queries = rir.load_pairs(paths.collection, "test")
    queries = rir.run(queries, rir.Embed(retriever, "query", role="query"))
    hits = queries.map(rir.Search(corpus, k=100), batched=True)

    measured = rir.evaluate(hits, rir.load_qrels(paths.collection), MEASURES, per_query=True)
    for measure in MEASURES:
        mean = sum(measured[measure]) / len(measured)
        low, high = rir.confidence_interval(measured, measure)
        print(f"{measure:<10}{100 * mean:6.2f}   95% interval {100 * low:.2f} to {100 * high:.2f}")
    rir.write_run(hits, paths.output)


if __name__ == "__main__":
    main()
