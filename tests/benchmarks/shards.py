"""What `map_in_shards` costs beside `map`, on maps that take no time of their own: 100,000 rows, 100 shards.

    python tests/benchmarks/shards.py            # a minute on 2 cores
    python tests/benchmarks/shards.py --quick    # a tenth of the rows and shards

Each run starts without a cache; medians of runs in turn. The last column is a run that finds every shard in the cache.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, load_from_disk

from rir_hf import map_in_shards


def next_number(row: dict[str, Any]) -> dict[str, int]:
    """For one row."""
    return {"next": row["number"] + 1}


def next_numbers(batch: dict[str, list[Any]]) -> dict[str, list[int]]:
    """For a batch."""
    return {"next": [number + 1 for number in batch["number"]]}


def seconds(call: Callable[[], Dataset]) -> float:
    """Time of one call, with the garbage of the last one gone."""
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(ds: Dataset, folder: Path, function: Callable[..., Any], batched: bool, shards: int, repeat: int) -> dict[str, float]:
    """Median seconds of a plain map, a sharded one and its repetition."""
    kinds = {
        "plain": lambda: ds.map(function, batched=batched),
        "sharded": lambda: map_in_shards(ds, function, rows_per_shard=len(ds) // shards, batched=batched),
    }
    found: dict[str, list[float]] = {"plain": [], "sharded": [], "again": []}
    for _ in range(repeat):
        for file in folder.glob("cache-*.arrow"):
            file.unlink()
        for kind, call in kinds.items():
            found[kind].append(seconds(call))
        found["again"].append(seconds(kinds["sharded"]))
    return {kind: statistics.median(times) for kind, times in found.items()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and shards")
    parser.add_argument("--repeat", type=int, default=9, help="runs of each entry (default: 9)")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    rows, shards = (10_000, 10) if options.quick else (100_000, 100)
    print("| map of nothing | map, s | map_in_shards, s | more | per shard, ms | again, s |\n" + "| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        Dataset.from_dict({"text": [f"row {place}" for place in range(rows)], "number": list(range(rows))}).save_to_disk(folder)
        ds = load_from_disk(folder)
        for name, function, batched in (("row by row", next_number, False), ("batched", next_numbers, True)):
            found = compare(ds, Path(folder), function, batched, shards, options.repeat)
            plain, sharded = found["plain"], found["sharded"]
            more = sharded - plain
            print(
                f"| {name} | {plain:.2f} | {sharded:.2f} | {more / plain:.0%} | {1000 * more / shards:.1f} | {found['again']:.3f} |"
            )


if __name__ == "__main__":
    main()
