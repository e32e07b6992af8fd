"""Mine hard negatives for the pairs of a collection, for its trainer and for a person to look at.

    python recipes/mine.py scifact BAAI/bge-base-en-v1.5 mined

The collection is a folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels/train.tsv). The output
is for `load_from_disk`, with report.png beside it. `rir-hf mine` has all the options.
"""

import argparse
from pathlib import Path

import rir_hf as rir


def main() -> None:
    """Chain corpus - Embed - attach_index, and pairs - Embed - MineNegatives - report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", help="folder in BEIR layout")
    parser.add_argument("model", help="the retriever: Hub name or folder")
    parser.add_argument("output", type=Path, help="folder for the mined rows")
    paths = parser.parse_args()

    retriever = rir.Retriever(paths.model)
    corpus = rir.attach_index(rir.run(rir.load_corpus(paths.collection), rir.Embed(retriever)))

    pairs = rir.load_pairs(paths.collection, "train")
    pairs = rir.run(pairs, rir.Embed(retriever, "query", role="query"))
    mined = rir.run(pairs, rir.MineNegatives(corpus, num_negatives=15, qrels=pairs))
    mined = mined.remove_columns("embedding")

    print(rir.as_table(rir.report(mined)))
    mined.save_to_disk(paths.output)
    rir.plot_report(mined, paths.output / "report.png")


if __name__ == "__main__":
    main()
