"""How time and memory grow with rows, passages, dimensions and negatives.

    python tests/benchmarks/growth.py            # eight minutes of one core
    python tests/benchmarks/growth.py --quick    # small sizes, once each, a minute

Each point is a process of its own with one thread, forked from one that has only imported. Seconds
are those of the processor, so that others on the machine count little and waiting for a disk not at
all; of mining the fewer of two runs. Memory is the peak, looked at fifty times a second: its own is
what nothing can take back; files that are mapped (corpus, index) come on top where there is room,
and all processes share them. The second table has for each series the slope of log time over log
size (1 is twice the time for twice the size), over all sizes and over the last two, and the bytes
per unit over the last two. Vectors are those of mining.py, texts and MiniLM those of encoding.py.
Linux only.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, load_from_disk
from encoding import MODEL, documents
from mining import MARGIN, NEGATIVES, remove_index, write_inputs
from sentence_transformers import CrossEncoder
from threadpoolctl import threadpool_limits

import rir_hf
from rir_hf.index.files import vectors_in
from rir_hf.index.passages import ArrayVectors
from rir_hf.index.products import fastest

TOKENS = 32
FULL: dict[str, Any] = {
    "rows": (500, 2_000, 8_000),
    "passages": (25_000, 100_000, 400_000),
    "dimensions": (384, 768, 1024),
    "encoded": (250, 1_000, 4_000),
    "scored": ((32, 4), (32, 8), (64, 4), (64, 8)),
    "repeat": 2,
}
QUICK: dict[str, Any] = {
    "rows": (100, 400),
    "passages": (5_000, 10_000),
    "dimensions": (384, 768),
    "encoded": (30, 120),
    "scored": ((4, 4), (8, 8)),
    "repeat": 1,
}


def measured(work: Callable[[], object], repeat: int = 1) -> tuple[float, int, int]:
    """What some work takes in a process of its own: seconds, and bytes of memory, those of its own
    and those with the files that it maps.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=lambda: there.send(fewest_seconds(work, repeat)), daemon=True)
    child.start()
    peaks = {"RssAnon": 0, "VmHWM": 0}
    while child.is_alive():
        status = Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
        for name in peaks:
            found = re.search(rf"{name}:\s+(\d+) kB", status)
            peaks[name] = max(peaks[name], 1024 * int(found[1]) if found else 0)
        time.sleep(0.02)
    if child.exitcode:
        raise SystemExit(f"A process ended with {child.exitcode}.")
    return here.recv(), peaks["RssAnon"], peaks["VmHWM"]


def fewest_seconds(work: Callable[[], object], repeat: int) -> float:
    """Seconds of the processor that the fastest of several runs takes."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def run(rows: Path, step: rir_hf.Step) -> None:
    """A step over rows on disk, none of them from the cache."""
    shutil.rmtree(Path(datasets.config.HF_DATASETS_CACHE) / "rir_hf", ignore_errors=True)
    rir_hf.run(load_from_disk(rows), step, batch_size=1024)


def mine(folder: Path) -> None:
    """Exact mining over an index that is there."""
    corpus = rir_hf.attach_index(load_from_disk(folder / "corpus"))
    step = rir_hf.MineNegatives(corpus, num_negatives=NEGATIVES, relative_margin=MARGIN)
    run(folder / "pairs", step)


def build(folder: Path, factory: str) -> None:
    """An index from nothing: vectors read and checked, the file written and signed."""
    remove_index(folder)
    for file in (folder / "corpus").glob("*.arrow"):
        file.touch()  # or the digest of the vectors would be remembered
    rir_hf.attach_index(load_from_disk(folder / "corpus"), factory=factory)


def copy_in_int8(folder: Path) -> None:
    """The copy that mining makes, where int8 is the fastest product, of an index that is there."""
    corpus = rir_hf.attach_index(load_from_disk(folder / "corpus"))
    attached = corpus.get_index("embedding")
    path = Path(attached.file.path)
    path.with_name(f"{path.name}.int8").unlink(missing_ok=True)
    ArrayVectors(vectors_in(attached.faiss_index), path, attached.file.identity).coarse("int8")


def encode(folder: Path) -> None:
    """Vectors of passages, the loading of the model included."""
    run(folder, rir_hf.Embed(rir_hf.Retriever(MODEL, max_length=TOKENS)))


def score(folder: Path) -> None:
    """Scores by MiniLM under a head of random weights, its loading included."""
    model = CrossEncoder(MODEL, num_labels=1, device="cpu")
    teacher = rir_hf.CrossEncoderTeacher(model, max_passage_tokens=TOKENS)
    run(folder, rir_hf.ScorePassages(teacher))


def write_rows(folder: Path, rows: int, passages: int) -> None:
    """Rows of a query, a positive and negatives, each passage another real text."""
    found = documents(rows * passages)["text"][:]
    numbered = [f"{n}. {found[n % len(found)]}" for n in range(rows * passages)]
    groups = [numbered[n::rows] for n in range(rows)]
    columns = {"pos": [group[:1] for group in groups], "neg": [group[1:] for group in groups]}
    queries = [group[0][:60] for group in groups]
    texts = [group[0] for group in groups]
    Dataset.from_dict({"query": queries, "text": texts, **columns}).save_to_disk(folder)


def made(folder: Path, write: Callable[..., object], *sizes: int) -> Path:
    """A folder of inputs, written by a process of its own, so that this one stays small."""
    if not folder.exists():
        measured(partial(write, folder, *sizes))
    return folder


def grow(what: str, works: dict[int, Callable[[], object]], repeat: int = 1) -> str:
    """Measure a series, the work for each size, and print its points; its line of the summary."""
    points: list[tuple[float, int, int]] = []
    for size, work in works.items():
        points.append(measured(work, repeat))
        seconds, own, whole = points[-1]
        print(
            f"| {what} | {size:,} | {seconds:.2f} | {seconds / points[0][0]:.2f} "
            f"| {own / 2**20:.0f} | {whole / 2**20:.0f} |",
            flush=True,
        )
    sizes, (times, owns, wholes) = np.array([*works], float), np.array(points, float).T
    slopes = [np.polyfit(np.log(sizes[at:]), np.log(times[at:]), 1)[0] for at in (0, -2)]
    memory = [np.polyfit(sizes[-2:], values[-2:], 1)[0] for values in (owns, wholes)]
    cells = [f"{sizes[0]:,.0f} to {sizes[-1]:,.0f}", *(f"{slope:.2f}" for slope in slopes)]
    return f"| {' | '.join([what, *cells, *(f'{slope:,.0f}' for slope in memory)])} |"


def measure(root: Path, sizes: dict[str, Any]) -> list[str]:
    """All series; their lines of the summary."""
    usual = {"passages": sizes["passages"][1], "rows": sizes["rows"][1], "dimensions": 384}
    lines = []

    def vectors(**other: int) -> Path:
        shape = {**usual, **other}.values()
        return made(root / "-".join(map(str, shape)), write_inputs, *shape)

    def texts(rows: int, passages: int) -> Path:
        return made(root / f"texts-{rows}-{passages}", write_rows, rows, passages)

    for name in ("rows", "passages", "dimensions"):
        works = {size: partial(mine, vectors(**{name: size})) for size in sizes[name]}
        lines.append(grow(f"mining: {name}", works, sizes["repeat"]))
    folders = {size: vectors(passages=size) for size in sizes["passages"]}
    works = {size: partial(copy_in_int8, folder) for size, folder in folders.items()}
    lines.append(grow("int8 copy: passages", works))
    for factory in ("Flat", "IVF128,Flat"):
        works = {size: partial(build, folder, factory) for size, folder in folders.items()}
        lines.append(grow(f"index {factory}: passages", works))
    works = {size: partial(encode, texts(size, 1)) for size in sizes["encoded"]}
    lines.append(grow("encoding: passages", works))
    scored = [(rows, 1 + negatives) for rows, negatives in sizes["scored"]]
    works = {n * each: partial(score, texts(n, each)) for n, each in scored}
    return [*lines, grow("teacher: rows x passages", works)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, once each")
    sizes = QUICK if parser.parse_args().quick else FULL
    threadpool_limits(1)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    print("| what grows | size | s, here | of the first | own MB | with files, MB |")
    print("| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        lines = measure(Path(folder), sizes)
    print("\n| what grows | sizes | time as size^ | last two | own bytes per unit | with files |")
    print("\n".join(["| --- " * 6 + "|", *lines]))
    print(f"\nThe fastest product here is {fastest('cpu')}.")


if __name__ == "__main__":
    main()
