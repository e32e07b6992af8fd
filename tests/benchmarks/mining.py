"""Time and memory of mining against what it cannot avoid and against what people use today.

    python tests/benchmarks/mining.py            # the whole table, about seven minutes on 2 cores
    python tests/benchmarks/mining.py --quick    # a tenth of the rows, for a look

Synthetic clustered unit vectors; each row has a query and an answer vector, both near its positive.
Every entry does the work for both, `--repeat` times in turn, and the fastest run counts. The peers
find the same negatives as we do, which is checked.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from datasets import Dataset, load_from_disk
from sentence_transformers.util import dot_score, mine_hard_negatives, pairwise_dot_score

from rir_hf import MineNegatives, attach_index
from rir_hf.index.products import fastest

DIMENSION = 384
NEGATIVES = 15
MARGIN = 0.05
WIDE = 2000
PEER_RANGE = 200


def clustered_vectors(rows: int, seed: int, dimension: int = DIMENSION) -> np.ndarray:
    """Unit vectors around a thousand centres: neighbours are near, and ranks mean something."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((1000, dimension), dtype=np.float32)
    vectors = centres[rng.integers(len(centres), size=rows)]
    for start in range(0, rows, 10_000):
        part = vectors[start : start + 10_000]
        part += 1.5 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def near(vectors: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Unit vectors at some distance from the given ones."""
    rng = np.random.default_rng(seed)
    moved = vectors + noise / np.sqrt(vectors.shape[1]) * rng.standard_normal(
        vectors.shape, dtype=np.float32
    )
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def write_inputs(folder: Path, passages: int, rows: int, dimension: int = DIMENSION) -> None:
    """Corpus and pairs on disk, as a user has them after `Embed`; the index is built once."""
    corpus = clustered_vectors(passages, 0, dimension)
    positives = np.random.default_rng(1).choice(passages, rows, replace=False)
    ids = [f"passage-{place}" for place in range(passages)]
    texts = [f"The text of passage number {place}." for place in range(passages)]
    Dataset.from_dict({"id": ids, "text": texts}).add_column(
        "embedding", list(corpus)
    ).save_to_disk(folder / "corpus")
    pairs = {
        "query": [f"query {place}" for place in positives],
        "pos": [[texts[place]] for place in positives],
        "pos_ids": [[ids[place]] for place in positives],
        "embedding": list(near(corpus[positives], 1.0, seed=2)),
        "answer_embedding": list(near(corpus[positives], 0.7, seed=3)),
    }
    Dataset.from_dict(pairs).save_to_disk(folder / "pairs")
    attach_index(load_from_disk(folder / "corpus"))


def mine(folder: Path) -> list[list[str]]:
    """Our mining, through the public chain: two maps over the pairs, nothing cached."""
    corpus = attach_index(load_from_disk(folder / "corpus"))
    mined = load_from_disk(folder / "pairs")
    for query, output in (("embedding", "neg"), ("answer_embedding", "neg_answer")):
        miner = MineNegatives(
            corpus, query=query, output=output, num_negatives=NEGATIVES, relative_margin=MARGIN
        )
        mined = mined.map(miner, batched=True, batch_size=2048, load_from_cache_file=False)
    return mined["neg_ids"][:]


def products(queries: list[np.ndarray], corpus: np.ndarray) -> None:
    """The bare float32 products: 512 queries at a time against the whole corpus."""
    for vectors in queries:
        for start in range(0, len(vectors), 512):
            vectors[start : start + 512] @ corpus.T


class GivenVectors:
    """In place of a SentenceTransformer: hands out vectors that are there already, at no cost."""

    device = "cpu"

    def __init__(self, queries: np.ndarray, corpus: np.ndarray) -> None:
        self.queries = queries
        self.corpus = corpus

    def encode_query(self, texts: list[str], **_: object) -> np.ndarray:
        return self.queries

    def encode_document(self, texts: list[str], **_: object) -> np.ndarray:
        return self.corpus

    def get_embedding_dimension(self) -> int:
        return DIMENSION

    def similarity(self, a: np.ndarray, b: np.ndarray) -> torch.Tensor:
        return dot_score(a, b)

    def similarity_pairwise(self, a: np.ndarray, b: np.ndarray) -> torch.Tensor:
        return pairwise_dot_score(a, b)


def sentence_transformers(
    folder: Path, queries: list[np.ndarray], corpus: np.ndarray, use_faiss: bool
) -> list[set[str]]:
    """`mine_hard_negatives` on the same vectors, its range wide enough for the same negatives."""
    pairs, texts = load_from_disk(folder / "pairs"), load_from_disk(folder / "corpus")["text"][:]
    rows = Dataset.from_dict(
        {"query": pairs["query"][:], "positive": [row[0] for row in pairs["pos"]]}
    )
    found: list[set[str]] = []
    for vectors in queries:
        mined = mine_hard_negatives(
            rows,
            GivenVectors(vectors, corpus),  # type: ignore[arg-type]
            anchor_column_name="query",
            positive_column_name="positive",
            corpus=texts,
            range_max=PEER_RANGE,
            relative_margin=MARGIN,
            num_negatives=NEGATIVES,
            sampling_strategy="top",
            use_faiss=use_faiss,
            output_format="n-tuple",
            verbose=False,
        )
        negatives = {
            row["query"]: {row[f"negative_{n}"] for n in range(1, NEGATIVES + 1)} for row in mined
        }
        found = found or [negatives.get(query, set()) for query in pairs["query"]]
    return found


def original(folder: Path, queries: list[np.ndarray], corpus: np.ndarray) -> list[list[str]]:
    """The original scripts' way: FAISS top 2000 for 32 queries at a time, then Python."""
    ids = load_from_disk(folder / "corpus")["id"][:]
    places = {passage: place for place, passage in enumerate(ids)}
    positives = [places[row[0]] for row in load_from_disk(folder / "pairs")["pos_ids"]]
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(corpus)
    found: list[list[str]] = []
    for vectors in queries:
        negatives = []
        for start in range(0, len(vectors), 32):
            scores, hits = index.search(vectors[start : start + 32], WIDE)
            for row, (row_scores, row_hits) in enumerate(zip(scores, hits, strict=True), start):
                p = float(vectors[row] @ corpus[positives[row]])
                chosen = []
                for score, hit in zip(row_scores, row_hits, strict=True):
                    if score <= p - MARGIN * abs(p) and hit != positives[row]:
                        chosen.append(ids[hit])
                    if len(chosen) == NEGATIVES:
                        break
                negatives.append(chosen)
        found = found or negatives
    return found


def timed(function: Callable[[], object], repeat: int) -> tuple[float, object]:
    """Fewest seconds of several runs, and the last result."""
    seconds = []
    result = None
    for _ in range(repeat):
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            start = time.perf_counter()
            result = function()
            seconds.append(time.perf_counter() - start)
    return min(seconds), result


def peak_memory(folder: Path) -> int:
    """Peak resident megabytes of a fresh process that mines."""
    return int(
        subprocess.run(
            [sys.executable, "-c", ALONE, str(folder)], capture_output=True, text=True, check=True
        ).stdout
    )


ALONE = f"""
import pathlib, re, sys
import faiss, datasets
from rir_hf import MineNegatives, attach_index
from rir_hf.index.products import fastest
corpus = attach_index(datasets.load_from_disk(sys.argv[1] + "/corpus"))
mined = datasets.load_from_disk(sys.argv[1] + "/pairs")
for query, output in (("embedding", "neg"), ("answer_embedding", "neg_answer")):
    miner = MineNegatives(
        corpus, query=query, output=output, num_negatives={NEGATIVES}, relative_margin={MARGIN}
    )
    mined = mined.map(miner, batched=True, batch_size=2048, load_from_cache_file=False)
print(int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) // 1024)
"""


def compare(folder: Path, rows: int, passages: int, repeat: int) -> None:
    """Print the table of times against the peers."""
    corpus = load_from_disk(folder / "corpus").with_format("numpy")["embedding"][:]
    pairs = load_from_disk(folder / "pairs").with_format("numpy")
    queries = [pairs["embedding"][:], pairs["answer_embedding"][:]]
    ours, found = timed(lambda: mine(folder), repeat)
    floor, _ = timed(lambda: products(queries, corpus), repeat)
    peers = [
        timed(lambda way=way: sentence_transformers(folder, queries, corpus, way), 1)
        for way in (True, False)
    ]
    (peer, peer_found), slower = sorted(peers, key=lambda entry: entry[0])
    old, old_found = timed(lambda: original(folder, queries, corpus), 1)
    numbers = {
        f"The text of passage number {place}.": f"passage-{place}" for place in range(passages)
    }
    same_old = np.mean([a == b for a, b in zip(found, old_found, strict=True)])
    same_peer = np.mean(
        [set(a) == {numbers[text] for text in b} for a, b in zip(found, peer_found, strict=True)]
    )
    print(
        f"\n{passages:,} passages x {DIMENSION}, {rows:,} rows with query and answer, "
        f"{NEGATIVES} negatives, margin {MARGIN}\n"
    )
    print("| what | seconds | ours takes | same negatives |\n| --- | --- | --- | --- |")
    print(f"| `MineNegatives`, two maps | {ours:.2f} | | |")
    print(f"| (a) the bare float32 products | {floor:.2f} | {ours / floor:.2f} x | |")
    print(
        f"| (b) `mine_hard_negatives`, its faster search | {peer:.2f} | 1/{peer / ours:.1f} "
        f"| {same_peer:.1%} of rows |"
    )
    print(f"| its other search | {slower[0]:.2f} | 1/{slower[0] / ours:.1f} | |")
    print(
        f"| (c) FAISS top {WIDE} by 32, then Python | {old:.2f} | 1/{old / ours:.1f} "
        f"| {same_old:.1%} of rows |"
    )


def remove_index(folder: Path) -> None:
    """Let the next process build it."""
    for file in (folder / "corpus").glob("index-*.faiss"):
        file.unlink()


def growth(root: Path, sizes: list[int], rows: int, repeat: int) -> None:
    """Print time and memory over the size of the corpus, the index there or yet to be built."""
    columns = (
        "passages | vectors, MB | mining, s | per 100k | peak RSS, MB | building the index, s "
        "| peak RSS with building it, MB"
    )
    print(f"\n| {columns} |\n" + "| --- " * 7 + "|")
    for size in sizes:
        folder = root / str(size)
        if not folder.exists():
            write_inputs(folder, size, rows)
        seconds, _ = timed(lambda folder=folder: mine(folder), repeat)
        peak = peak_memory(folder)
        remove_index(folder)
        peak_building = peak_memory(folder)
        remove_index(folder)
        building, _ = timed(
            lambda folder=folder: attach_index(load_from_disk(folder / "corpus")), 1
        )
        vectors = size * DIMENSION * 4 / 2**20
        times = f"{seconds:.2f} | {seconds / size * 100_000:.2f} | {peak} | {building:.2f}"
        print(f"| {size:,} | {vectors:.0f} | {times} | {peak_building} |")
        shutil.rmtree(folder)


def shapes(root: Path, passages: int, rows: int, repeat: int) -> None:
    """Print time against the bare products for longer vectors and for more rows."""
    print("\n| dimensions | rows | mining, s | the bare float32 products, s | ours takes |")
    print("| --- " * 5 + "|")
    for dimension, many in ((768, rows), (1024, rows), (DIMENSION, 10 * rows)):
        folder = root / f"{dimension}-{many}"
        write_inputs(folder, passages, many, dimension)
        corpus = load_from_disk(folder / "corpus").with_format("numpy")["embedding"][:]
        pairs = load_from_disk(folder / "pairs").with_format("numpy")
        queries = [pairs["embedding"][:], pairs["answer_embedding"][:]]
        seconds, _ = timed(lambda folder=folder: mine(folder), repeat)
        floor, _ = timed(lambda queries=queries, corpus=corpus: products(queries, corpus), repeat)
        print(f"| {dimension} | {many:,} | {seconds:.2f} | {floor:.2f} | {seconds / floor:.2f} x |")
        shutil.rmtree(folder)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the passages and rows")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each entry (default: 3)")
    options = parser.parse_args()
    shrink = 10 if options.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        root, rows = Path(folder), 2000 // shrink
        first = 100_000 // shrink
        write_inputs(root / str(first), first, rows)
        print(f"The fastest product is {fastest('cpu')}.")
        compare(root / str(first), rows, first, options.repeat)
        shapes(root, first, rows, options.repeat)
        growth(
            root,
            [size // shrink for size in (100_000, 250_000, 500_000, 1_000_000)],
            rows,
            options.repeat,
        )


if __name__ == "__main__":
    main()
