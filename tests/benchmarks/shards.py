"""What `run` costs beside a plain `map`, where a step takes a millisecond a row.

    python tests/benchmarks/shards.py            # 10,000 rows in 100 shards: a minute
    python tests/benchmarks/shards.py --quick    # a tenth of the rows and shards

Each run starts without a cache; medians of runs in turn. `again` is a run that finds every shard.
The second line is a step that takes no time at all, on ten times as many rows.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, load_from_disk

from rir_hf import Step, run
from rir_hf.core.columns import Batch
from rir_hf.schema import Column

NUMBER = Column("number", pa.int64(), "a number")
NEXT = Column("next", pa.int64(), "the number after it")


class Count(Step):
    """Adds the next number, and takes its time."""

    inputs = (NUMBER,)
    outputs = (NEXT,)

    def __init__(self, seconds_a_row: float) -> None:
        self.seconds_a_row = seconds_a_row

    def transform(self, batch: Batch) -> Mapping[str, Any]:
        """Sleep, then count."""
        time.sleep(self.seconds_a_row * len(batch))
        return {"next": [number + 1 for number in batch.values_of("number")]}


def seconds(call: Callable[[], Dataset]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(ds: Dataset, step: Count, shards: int, repeat: int) -> dict[str, float]:
    """Median seconds of a plain map, of a run in shards, and of its repetition."""
    size = len(ds) // shards
    kinds = {
        "map": lambda: ds.map(step, batched=True, batch_size=size),
        "run": lambda: run(ds, step, batch_size=size, rows_per_shard=size),
    }
    times: dict[str, list[float]] = {"map": [], "run": [], "again": []}
    for _ in range(repeat):
        ds.cleanup_cache_files()
        shutil.rmtree(Path(datasets.config.HF_DATASETS_CACHE) / "rir_hf", ignore_errors=True)
        for kind, call in kinds.items():
            times[kind].append(seconds(call))
        times["again"].append(seconds(kinds["run"]))
    return {kind: statistics.median(values) for kind, values in times.items()}


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    share = 10 if parser.parse_args().quick else 1
    datasets.disable_progress_bars()
    print("| a row takes | rows | shards | map, s | run, s | run / map | again, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        for cost, rows in ((0.001, 10_000 // share), (0.0, 100_000 // share)):
            where = Path(folder) / f"rows-{rows}"
            Dataset.from_dict({"number": list(range(rows))}).save_to_disk(where)
            ds = load_from_disk(where)
            taken = compare(ds, Count(cost), 100 // share, 3)
            ratio = taken["run"] / taken["map"]
            cells = [f"{1000 * cost:.0f} ms", rows, 100 // share, f"{taken['map']:.2f}"]
            cells += [f"{taken['run']:.2f}", f"{ratio:.2f}", f"{taken['again']:.2f}"]
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
