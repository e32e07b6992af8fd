"""Trainings as files for `python -m rir_hf.training`, and the weights that come out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from safetensors.numpy import load_file


def scored(number: int, subject: str = "scored") -> Dataset:
    """Rows of short texts with a teacher's scores, of which no two are the same."""
    return pairs(number, subject).map(
        lambda row, place: {
            "neg": [f"{subject} reply {place + 1}"],
            "pos_scores": [1.0],
            "neg_scores": [place / number],
        },
        with_indices=True,
    )


def preferences(number: int) -> Dataset:
    """Prompts with a better and a worse answer, of which no two are the same."""
    numbers = range(number)
    return Dataset.from_dict(
        {
            "prompt": [f"What is {number}?" for number in numbers],
            "chosen": [f"{number} is a number." for number in numbers],
            "rejected": [f"{number} cats sleep." for number in numbers],
        }
    )


def pairs(number: int, subject: str = "pairs") -> Dataset:
    """Queries with a positive and nothing else."""
    return Dataset.from_dict(
        {
            "query": [f"{subject} question {place}" for place in range(number)],
            "pos": [[f"{subject} reply {place}"] for place in range(number)],
        }
    )


def write_job(
    folder: Path, function: str, rows: Dataset | dict[str, Dataset], **options: Any
) -> Path:
    """A file for `python -m rir_hf.training`, with its rows beside it; the model goes to `out`."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = rows if isinstance(rows, dict) else {"rows": rows}
    for name, part in parts.items():
        part.save_to_disk(str(folder / name))
    places = {name: str(folder / name) for name in parts}
    job = {
        "function": function,
        "rows": places if isinstance(rows, dict) else places["rows"],
        "options": {"output": str(folder / "out"), **options},
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def start(job: Path, *launcher: str) -> subprocess.Popen[bytes]:
    """The training in a process of its own, or in those of a launcher."""
    command = [sys.executable, "-m", *launcher]
    with (job.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, *(["-m"] if launcher else []), "rir_hf.training", str(job)],
            stdout=log,
            stderr=log,
        )


def weights_of(job: Path, name: str = "model.safetensors") -> dict[str, np.ndarray]:
    """The weights that a training wrote."""
    return load_file(job.parent / "out" / name)
