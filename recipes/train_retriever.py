"""Fine-tune a retriever on mined or scored rows, and compare it with what it was.

    python recipes/train_retriever.py scored BAAI/bge-base-en-v1.5 scifact tuned

The rows are those of mine.py or distill.py: with a teacher's scores they are distilled, without
contrasted. The collection is a folder in BEIR layout, whose test queries are searched before and
after. The same command runs on a GPU. `rir-hf train-retriever` has all the options.
"""

import argparse

from datasets import Dataset

import rir_hf as rir


def search(model: str, collection: str) -> Dataset:
    """Chain corpus - Embed - attach_index, and queries - Embed - Search."""
    retriever = rir.Retriever(model)
    corpus = rir.attach_index(rir.run(rir.load_corpus(collection), rir.Embed(retriever)))
    queries = rir.load_pairs(collection, "test")
    queries = rir.run(queries, rir.Embed(retriever, "query", role="query"))
    return queries.map(rir.Search(corpus, k=100), batched=True)


def main() -> None:
    """Chain rows - train_retriever, and search before and after - compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", help="mined or scored rows: a folder, a file or a Hub name")
    parser.add_argument("model", help="the retriever to start from: Hub name or folder")
    parser.add_argument("collection", help="folder in BEIR layout to measure on")
    parser.add_argument("output", help="folder for the trained model")
    paths = parser.parse_args()

    before = search(paths.model, paths.collection)
    rir.train_retriever(rir.load_rows(paths.rows), paths.model, paths.output)
    after = search(paths.output, paths.collection)
    found = rir.compare(after, before, rir.load_qrels(paths.collection))
    for measure, of in found.items():
        print(f"{measure}: {of['other']:.4f} before, {of['mean']:.4f} after, p {of['p_value']:.4f}")


if __name__ == "__main__":
    main()
