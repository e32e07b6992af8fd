"""`python -m rir_hf.training JOB.json`: one training by a file, on one process or on several.

The file says which function, on which rows, with which options:

    {"function": "train_retriever", "rows": {"query": "scored", "labels": "mined"},
     "options": {"model": "BAAI/bge-base-en-v1.5", "output": "tuned", "epochs": 2}}

`rows` is a folder that `Dataset.save_to_disk` wrote, or several by name. On several GPUs:
`accelerate launch -m rir_hf.training JOB.json`, or
`torchrun --nproc_per_node 2 -m rir_hf.training JOB.json`.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from datasets import load_from_disk

from rir_hf.core.columns import check_choice
from rir_hf.training.generator import train_generator
from rir_hf.training.retriever import train_retriever

FUNCTIONS = {"train_generator": train_generator, "train_retriever": train_retriever}


def main(path: str) -> Path:
    """Do the training that the file describes; the folder of the model."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    if set(job) != {"function", "rows", "options"}:
        raise ValueError(f"{path} must hold function, rows and options, found {sorted(job)}.")
    check_choice("function", job["function"], sorted(FUNCTIONS))
    function: Any = FUNCTIONS[job["function"]]
    return function(_loaded(job["rows"]), **job["options"])


def _loaded(rows: str | dict[str, str]) -> Any:
    """The dataset in a folder, or those of several folders by name."""
    if isinstance(rows, str):
        return load_from_disk(rows)
    return {name: load_from_disk(folder) for name, folder in rows.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m rir_hf.training JOB.json")
    logging.basicConfig(level=logging.INFO)
    main(sys.argv[1])
