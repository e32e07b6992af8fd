"""Fine-tune a retriever on mined or scored rows, and measure it before and after.

    python recipes/train_retriever.py --data mined --model BAAI/bge-base-en-v1.5 --output tuned --dev scifact --dev_split train
    python recipes/train_retriever.py --data scored --model sentence-transformers/all-MiniLM-L6-v2 --output tuned --rescale zscore

The data is what mine.py or distill.py wrote: rows with query, pos and neg. Where they have a teacher's scores (pos_scores and
neg_scores) the retriever learns its distribution over the passages (DistillKLDivLoss); else the positive against all others of the
batch (MultipleNegativesRankingLoss). --dev names a folder in BEIR layout: its judged queries are searched with the old and the new
model, and the difference gets an interval and a paired test. The model goes to --output. The same command runs on a GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MultipleNegativesRankingLoss
from sentence_transformers.util import pairwise_cos_sim

from rir_hf import (
    Embed,
    Search,
    attach_index,
    compare_runs,
    confidence_interval,
    evaluate_queries,
    load_corpus,
    load_qrels,
    load_queries,
    load_rows,
    to_sentence_transformers,
)

from _options import add_push, add_retriever, load_retriever, log_plainly, positive, push_model

METRICS = ("ndcg", "recall", "mrr")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="rows with query, pos, neg: a file, a folder or a Hub name")
    parser.add_argument("--split", default="train", help="split, where there are several (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="where the trained model goes")
    add_retriever(parser)
    parser.add_argument("--dev", help="folder in BEIR layout to measure on")
    parser.add_argument("--dev_split", default="test", help="its split (default: %(default)s)")
    parser.add_argument("--contrastive", action="store_true", help="do not use the scores, where the rows have them")
    parser.add_argument("--num_negatives", type=positive, help="negatives per row (default: as many as most rows have)")
    parser.add_argument(
        "--rescale", default="zscore", choices=["none", "minmax", "zscore"], help="of each row's scores (default: %(default)s)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="of both distributions (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=20.0, help="of the cosine similarities (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over the rows (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=2e-5, help="peak (default: %(default)s)")
    parser.add_argument("--warmup_steps", type=int, default=0, help="steps until the peak (default: %(default)s)")
    parser.add_argument("--batch_size", type=positive, default=16, help="rows per device and step (default: %(default)s)")
    parser.add_argument("--train_length", type=positive, help="tokens of a text in training (default: --max_length)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rows (default: %(default)s)")
    add_push(parser)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> Dataset:
    """A row per judged query, with its metrics."""
    retriever = load_retriever(options)
    qrels = load_qrels(options.dev, options.dev_split)
    queries = load_queries(options.dev, options.dev_split).filter(lambda row: row["query_id"] in qrels)
    corpus = load_corpus(options.dev, options.dev_split)
    corpus = attach_index(corpus.map(Embed(retriever), batched=True, batch_size=512))
    queries = queries.map(Embed(retriever, "query", role="query"), batched=True, batch_size=512)
    return evaluate_queries(METRICS, [10, 100], qrels, queries.map(Search(corpus, k=100), batched=True, batch_size=512))


def compare(before: Dataset, after: Dataset) -> dict[str, dict[str, float]]:
    """Print and return each metric before and after, with the difference's interval and p."""
    found = {}
    for name in ("NDCG@10", "Recall@100", "MRR@10"):
        test = compare_runs(after, before, name)
        old, new = (100 * sum(rows[name]) / len(rows) for rows in (before, after))
        low, high = confidence_interval(after, name)
        found[name] = {"before": old, "after": new, **{key: float(value) for key, value in test.items()}}
        logging.info(
            "%-11s %6.2f before, %6.2f after (%.2f to %.2f); difference %+.2f (%+.2f to %+.2f), p = %.4f",
            name, old, new, 100 * low, 100 * high, *(100 * test[key] for key in ("difference", "low", "high")), test["p_value"],
        )  # fmt: skip
    return found


def train(model: SentenceTransformer, rows: Dataset, options: argparse.Namespace) -> None:
    """Contrast or distil, in place."""
    is_scored = {"pos_scores", "neg_scores"} <= set(rows.column_names) and not options.contrastive
    name = "DistillKLDivLoss" if is_scored else "MultipleNegativesRankingLoss"
    data = to_sentence_transformers(rows, loss=name, num_negatives=options.num_negatives, rescale=options.rescale)
    logging.info("%s on %d rows: %s", name, len(data), ", ".join(data.column_names))
    if is_scored:
        loss = DistillKLDivLoss(model, lambda *pair: options.scale * pairwise_cos_sim(*pair), temperature=options.temperature)
    else:
        loss = MultipleNegativesRankingLoss(model, scale=options.scale)
    texts = [column for column in data.column_names if column != "label"]
    prompts = {column: options.query_prompt if column == "query" else options.passage_prompt for column in texts}
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(options.output),
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_steps,
        per_device_train_batch_size=options.batch_size,
        prompts={column: prompt for column, prompt in prompts.items() if prompt} or None,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        seed=options.seed,
    )
    SentenceTransformerTrainer(model=model, args=settings, train_dataset=data, loss=loss).train()


def main() -> None:
    """Load, measure, train, measure, save."""
    options = arguments()
    log_plainly()
    before = measure(options) if options.dev else None
    model = SentenceTransformer(options.model, revision=options.revision)
    length = min(options.max_length, model.max_seq_length or options.max_length)
    model.max_seq_length = min(options.train_length or length, length)
    train(model, load_rows(options.data, options.split), options)
    model.max_seq_length = length
    model.save(str(options.output))
    if before is not None:
        tuned = {"model": str(options.output), "revision": None}
        found = compare(before, measure(argparse.Namespace(**{**vars(options), **tuned})))
        (options.output / "metrics.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    push_model(options.output, options)
    logging.info("Written to %s", options.output)


if __name__ == "__main__":
    main()
