"""Calls of the trainers for a round, in this process or by `accelerate launch`."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from rir_hf.boosting.options import Options
from rir_hf.boosting.state import Round
from rir_hf.core.columns import without_indexes
from rir_hf.core.configured import revision_of
from rir_hf.core.secrets import command_without_secrets
from rir_hf.core.unfinished import alone_in
from rir_hf.models.local import ChatLLM, CompletionLLM
from rir_hf.models.retriever import Retriever
from rir_hf.models.vllm import VLLM
from rir_hf.training.generator import train_generator
from rir_hf.training.losses import FROZEN, GUIDED
from rir_hf.training.retriever import train_retriever

QUERIES_SIDE: dict[str, Any] = {
    "freeze_passages": True,
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 1e-4,
    "train_length": 160,
}
"""How a retriever is trained in a round, unless `training` says otherwise."""

BOTH_SIDES: dict[str, Any] = {
    "freeze_passages": False,
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 3e-5,
    "train_length": 160,
}
"""The same with `freeze_passages: false`, or where a loss needs more of a passage than its vector.
"""

DATASETS = ("pairs", "labels", "answers", "query_answer", "lists", "replay")
"""What a retriever may be trained on in a round."""

WARMUP = 20
"""Steps until the peak of the learning rate; of few steps a tenth."""

TUNING: dict[str, Any] = {
    "lora_r": 32,
    "lora_alpha": 64,
    "learning_rate": 1e-5,
    "beta": 0.1,
}
"""How a generator is tuned, as in the original's scripts, unless `tuning` says otherwise."""


def with_usual(training: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a retriever's training, the usual ones where they say nothing.

    Example:
        >>> [with_usual({"loss": loss})["batch_size"] for loss in ("MarginMSELoss", "CoSENTLoss")]
        [32, 8]
    """
    losses = training.get("loss") or {}
    losses = [*losses.values()] if isinstance(losses, Mapping) else [losses]
    freezes = training.get("freeze_passages", all(loss in FROZEN for loss in losses))
    return {**(QUERIES_SIDE if freezes else BOTH_SIDES), **training}


def usual_candidates(are_frozen: bool, passages: int = 300) -> int:
    """How many passages a query is trained with: of frozen ones many, of a small corpus a third.

    Example:
        >>> [usual_candidates(True, number) for number in (5000, 60, 10, 5)]
        [100, 20, 8, 4]
        >>> usual_candidates(False, 5000)
        8
    """
    most = max(8, min(100, passages // 3)) if are_frozen else 8
    return min(most, max(2, passages - 1))


def trained(
    rows: Mapping[str, Dataset], state: Round, folder: Path, temperature: float
) -> dict[str, Any]:
    """Train a retriever into a folder, going on from a checkpoint that lies there."""
    retriever, options = state.retriever, state.options
    steps = options.training.get("max_steps", options.max_steps)
    settings = {
        "warmup_steps": WARMUP if steps is None else min(WARMUP, steps // 10),
        "num_negatives": options.candidates - 1,
        "rescale": "none",
        "teacher_temperature": temperature,
        "max_steps": options.max_steps,
        "keep": options.keep,
        "checkpoint_steps": options.checkpoint_steps,
        "revision": revision_of(retriever.model, retriever.revision),
        "query_prompt": retriever.query_prompt,
        "passage_prompt": retriever.passage_prompt,
        "max_length": retriever.max_length,
        "seed": state.seed,
        **_for_parts(options.training, rows),
        "model": _place_of(retriever.model),
    }
    if options.freezes_passages:  # whose vectors need not be made again
        known = without_indexes(state.searched)
        settings["embedded"] = known.select_columns(["id", "text", "embedding"])
    _call(train_retriever, dict(rows), folder, settings, options.launch)
    return {name: len(part) for name, part in rows.items()}


def _for_parts(training: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """The options of a training without the losses of datasets that have no rows in this round, and
    without the guide that no other loss asks.
    """
    losses = training.get("loss")
    if not isinstance(losses, Mapping):
        return dict(training)
    found = {**training, "loss": {name: losses[name] for name in losses if name in parts}}
    if not set(GUIDED) & set(found["loss"].values()):
        found.pop("guide", None)
    return found


def tuned(
    preferences: Dataset, weights: Mapping[str, Any], folder: Path, options: Options, seed: int
) -> dict[str, Any]:
    """Tune a generator into a folder, as a whole model with its tokenizer."""
    adapter = folder / "adapter"
    settings = {
        **TUNING,
        "max_steps": options.max_steps,
        "checkpoint_steps": options.checkpoint_steps,
        "seed": seed,
        **options.tuning,
        **weights,
        "model": _place_of(weights["model"]),
        "merged_output": str(folder),
    }
    _call(train_generator, preferences, adapter, settings, options.launch)
    shutil.rmtree(adapter)
    return {"pairs": sum(text is not None for text in preferences["chosen"])}


def tunable(generator: Any, weights: Path | None) -> dict[str, Any] | None:
    """What `train_generator` is to start from; None where the generator's weights are elsewhere.

    A model of this process is its own; the given weights are for one that is not, or is packed.
    """
    is_here = isinstance(generator, (ChatLLM, CompletionLLM)) and isinstance(generator.model, str)
    if is_here and (weights is None or generator.gguf_file is None):
        revision = revision_of(generator.model, generator.revision)
        return {
            "model": generator.model,
            "revision": revision,
            "gguf_file": generator.gguf_file,
        }
    if weights is None:
        return None
    files = sorted(weights.glob("*.gguf"))
    is_packed = files and not (weights / "config.json").exists()
    return {"model": str(weights), "gguf_file": files[0].name if is_packed else None}


def with_model(model: Any, folder: Path) -> Any:
    """The same retriever or generator with the weights of another folder.

    What was behind a server or in vLLM is then a `ChatLLM` in this process.
    """
    if isinstance(model, Retriever):
        return Retriever(**{**model.settings(), "model": str(folder), "revision": None})
    if isinstance(model, (ChatLLM, CompletionLLM)):
        own = {"model": str(folder), "revision": None, "gguf_file": None, "tokenizer": None}
        return type(model)(**{**model.settings(), **own})
    length, arguments = (
        getattr(model, name, None) for name in ("max_length", "template_arguments")
    )
    return ChatLLM(folder, max_length=length, template_arguments=arguments)


def unload(model: Any) -> None:
    """Free what a generator of this process takes, until it is used again."""
    if isinstance(model, (ChatLLM, VLLM)):
        model.unload()


def launcher(launch: str) -> list[str]:
    """The words of a launcher's command; that of this environment where it has one of the name."""
    program, *options = shlex.split(launch)
    own = Path(sys.executable).parent / program
    return [str(own) if own.exists() else program, *options]


def _place_of(model: str) -> str:
    """A folder by its whole path, by which checkpoints know it; a Hub name as it is."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _call(
    trainer: Callable[..., Any],
    rows: Dataset | dict[str, Dataset],
    folder: Path,
    options: dict[str, Any],
    launch: str | None,
) -> None:
    """Call a trainer here, or in processes that a launcher starts.

    These live on where this process is killed. So the launcher holds the lock of the folder too,
    and nobody else trains there until it has ended.
    """
    if launch is None:
        trainer(rows, output=folder, **options)
        return
    with alone_in(folder) as lock:
        work = folder.with_name(f"{folder.name}.job")
        shutil.rmtree(work, ignore_errors=True)
        job = {
            "function": trainer.__name__,
            "rows": _written(rows, work / "rows"),
            "options": {
                **{name: _written(value, work / name) for name, value in options.items()},
                "output": str(folder),
            },
        }
        file = work / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        command = [*launcher(launch), "-m", "rir_hf.training", str(file)]
        inherited = () if lock is None else (lock,)
        done = subprocess.run(command, check=False, pass_fds=inherited)  # noqa: S603 - the user's
        if done.returncode:
            said = command_without_secrets(" ".join(command))
            raise RuntimeError(f"{said} ended with {done.returncode}; why stands above.")
        shutil.rmtree(work)


def _written(value: Any, place: Path) -> Any:
    """A value as a job file holds it: of a dataset the folder that it is saved to."""
    if isinstance(value, Dataset):
        value.save_to_disk(place)
        return str(place)
    if isinstance(value, dict):
        return {name: _written(each, place / name) for name, each in value.items()}
    return value
