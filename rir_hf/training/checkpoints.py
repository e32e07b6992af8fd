"""Checkpoints of a training: from which one a killed training goes on, and what is removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from rir_hf.core.columns import check_at_least, digest_of_rows
from rir_hf.core.secrets import without_secrets

RECORD = "checkpoints.json"
"""The file beside the checkpoints that says which training they are of."""

_STATE = "trainer_state.json"  # which the trainer writes last

_OF_SAFETENSORS = ".tmp" + 6 * "[A-Za-z0-9]"
"""The name of a file that safetensors (0.8) has not finished."""

BEST = "best.pt"
"""The file of the weights that did best until now."""


def checkpoint_settings(checkpoint_steps: int | None) -> dict[str, Any]:
    """The trainer's settings for a checkpoint every so many steps, of which the last one is kept.

    Example:
        >>> checkpoint_settings(None)
        {'save_strategy': 'no'}
    """
    if checkpoint_steps is None:
        return {"save_strategy": "no"}
    check_at_least("checkpoint_steps", checkpoint_steps, 1)
    return {"save_strategy": "steps", "save_steps": checkpoint_steps, "save_total_limit": 1}


def train(
    trainer: Any, folder: Path, data: Dataset | Mapping[str, Dataset], asked: Mapping[str, Any]
) -> None:
    """Train, with checkpoints from the last complete one in the folder.

    Args:
        trainer: a trainer of transformers, which writes its checkpoints into the folder.
        folder: where they lie.
        data: what is trained on.
        asked: the options that decide the outcome; models are known by their content, as
            `identity_of_model` gives it.

    Raises:
        ValueError: the checkpoints in the folder are of a training on other rows or with other
            options.
    """
    if trainer.args.save_strategy == "no":
        trainer.train()
        return
    from rir_hf.training.resuming import Resumable

    trainer.add_callback(Resumable())
    record = _record(data, {**asked, "processes": trainer.args.world_size})
    last = last_checkpoint(folder)
    if last is not None:
        _check_record(folder, record)
    elif trainer.is_world_process_zero():
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if trainer.is_world_process_zero():
        _remove(path for path in _checkpoints(folder) if path != last)
    if last is not None:  # whose log has the evaluation at the start
        trainer.args.eval_on_start = False
    trainer.train(resume_from_checkpoint=None if last is None else str(last))


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most steps among the complete ones; None where there is none."""
    complete = filter(_is_complete, _checkpoints(folder))
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)


def remove_checkpoints(folder: Path) -> None:
    """Remove what a training wrote into the folder in order to go on after a kill."""
    if (folder / RECORD).exists():
        _remove(_checkpoints(folder))
        (folder / BEST).unlink(missing_ok=True)
        remove_unfinished(folder)
        (folder / RECORD).unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove the files that safetensors had not finished when its process was killed."""
    for path in folder.rglob(_OF_SAFETENSORS):
        path.unlink()


def _checkpoints(folder: Path) -> list[Path]:
    found = folder.glob("checkpoint-*")
    return [path for path in found if path.is_dir() and path.name.split("-", 1)[1].isdigit()]


def _remove(paths: Any) -> None:
    for path in paths:
        (path / _STATE).unlink(missing_ok=True)  # first: what a kill leaves is not complete
        shutil.rmtree(path)


def _is_complete(checkpoint: Path) -> bool:
    """Whether the trainer wrote the checkpoint to its end: its state comes last."""
    try:
        json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _record(data: Dataset | Mapping[str, Dataset], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The rows' digests and the options, as they are read back from a file; no secret."""
    parts = data if isinstance(data, Mapping) else {"": data}
    rows = {name: digest_of_rows(part) for name, part in parts.items()}
    plain = json.dumps({"rows": rows, **asked}, default=str)
    record: dict[str, Any] = without_secrets(json.loads(plain))
    return record


def _check_record(folder: Path, record: Mapping[str, Any]) -> None:
    """`ValueError` where the checkpoints are not of this training."""
    path = folder / RECORD
    theirs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    other = sorted(name for name in {*record, *theirs} if record.get(name) != theirs.get(name))
    if other:
        raise ValueError(
            f"{folder} holds checkpoints of another training: {', '.join(other)} differ. Give it "
            "the same rows and options, or delete the checkpoints, or choose another output."
        )
