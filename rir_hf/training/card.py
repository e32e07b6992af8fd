"""What a model card says of the data that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from rir_hf.core.provenance import provenance
from rir_hf.hub.card import describe_step


def check_dataset_id(dataset_id: str | None) -> None:
    """Raise `ValueError` for what cannot be the name of a dataset on the Hub."""
    if dataset_id is not None:
        validate_repo_id(dataset_id)


def describe_data(
    folder: Path, parts: Mapping[str, Dataset], dataset_id: str | None, dev: Dataset | None
) -> None:
    """Add to the card in a folder which rows were trained on, and how they were made.

    Args:
        folder: of the model, with the trainer's README.md.
        parts: the rows by name; a single one may have an empty name.
        dataset_id: their name on the Hub.
        dev: the rows that the best step was chosen by.
    """
    path = folder / "README.md"
    card = ModelCard(path.read_text(encoding="utf-8"))
    if dataset_id is not None:
        known = card.data.get("datasets") or []
        known = [known] if isinstance(known, str) else known
        card.data["datasets"] = sorted({*known, dataset_id})
    source = (
        "" if dataset_id is None else f" of [{dataset_id}](https://hf.co/datasets/{dataset_id})"
    )
    lines = ["", "## Data", ""]
    for name, rows in parts.items():
        title = f"`{name}`: " if name else ""
        lines.append(f"- {title}{len(rows)} rows{source}")
        steps = map(describe_step, provenance(rows))
        lines += ["    1. " + step.replace("\n", "\n    ") for step in steps]
    if dev is not None:
        lines.append(f"- the best step was chosen by {len(dev)} held-out rows")
    card.content = f"{card.content.rstrip()}\n" + "\n".join(lines) + "\n"
    card.save(path)
