"""The settings of a trainer: those of our options, those that a call adds, and ours where no one
says.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from datasets import Dataset

from rir_hf.core.texts import plain
from rir_hf.training.checkpoints import checkpoint_settings
from rir_hf.training.options import of_type

logger = logging.getLogger(__name__)

_NEVER_LISTED = ("azure_ml", "flyte")  # by transformers, even where they are installed


def checked_arguments(
    kind: type, arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What a call adds to a trainer's settings, with numbers that were given as texts made numbers.

    Args:
        kind: the trainer's class of settings.
        arguments: what a call adds.
        options: our options, under the trainer's names.

    Raises:
        ValueError: a setting that the trainer does not have, that has an option of its own, or of
            another type.
    """
    known = {field.name for field in fields(kind)}
    hints = _hints_of(kind)
    found = {}
    for name, value in arguments.items():
        if name in options:
            raise ValueError(f"arguments: {name!r} is decided by an option of its own.")
        if name not in known:
            raise ValueError(f"arguments: {kind.__name__} has no setting {name!r}.")
        found[name] = of_type(value, hints[name], f"arguments: {name}")
    return found


def _hints_of(kind: type, missing: tuple[str, ...] = ()) -> dict[str, Any]:
    """The types of a class's settings; any, where one is of a package that is not installed."""
    try:
        return get_type_hints(kind, localns=dict.fromkeys(missing, Any))
    except NameError as error:  # transformers 4.56 without a recent accelerate
        return _hints_of(kind, (*missing, str(error.name)))


def check_report_to(report_to: Any, option: str = "report_to") -> None:
    """`ValueError` for a place to log to that transformers does not know, or that is not installed.

    Args:
        report_to: as transformers takes it: `none`, `all`, a name, or a list of names.
        option: what gave it, for the error.

    Example:
        >>> check_report_to("foo")                                       # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: report_to: transformers logs to no 'foo', only to none, all, ...
    """
    asked = report_to if isinstance(report_to, (list, tuple)) else [report_to]
    names = [name for name in asked if name not in (None, "none", "all")]
    if not names:
        return
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    installed = get_available_reporting_integrations()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(["none", "all", *sorted(INTEGRATION_TO_CALLBACK)])
            raise ValueError(f"{option}: transformers logs to no {name!r}, only to {known}.")
        if name not in (*installed, *_NEVER_LISTED):
            there = ", ".join(["none", *installed])
            raise ValueError(f"{option}: {name!r} is not installed. What there is: {there}.")


def settings_of(kind: type, arguments: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
    """The options and arguments in the trainer's terms."""
    import torch

    usual = {
        "bf16": has_native_bf16(),
        "use_cpu": among_processes_on_cpu(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 10,
    }
    return kind(**{**usual, **(arguments or {}), **options})


def held_out(dev: Dataset | str | os.PathLike[str] | None) -> Dataset | None:
    """Held-out rows, from a folder where they are given as one."""
    return Dataset.load_from_disk(os.fspath(dev)) if isinstance(dev, (str, os.PathLike)) else dev


def check_apart(trained: Iterable[str], judged: Collection[str], what: str) -> None:
    """Warn of held-out texts that are trained on too, case and white space aside.

    Args:
        trained: queries or pairs that are trained on.
        judged: those that are held out.
        what: they are, for the message.

    Raises:
        ValueError: all are trained on.

    Example:
        >>> check_apart(["Who wrote it?"], ["who  wrote it?"], "queries")
        Traceback (most recent call last):
        ValueError: All 1 held-out queries are trained on: hold out others (`rir-hf split`).
    """
    known = set(map(plain, trained))
    shared = sum(plain(text) in known for text in judged)
    if shared and shared == len(judged):
        raise ValueError(
            f"All {shared} held-out {what} are trained on: hold out others (`rir-hf split`)."
        )
    if shared:
        logger.warning(
            "%d of %d held-out %s are trained on too: their measure says little of others "
            "(`rir-hf split` makes parts that share none).",
            shared,
            len(judged),
            what,
        )


def shared_settings(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that our trainers have in common, under the names of the trainer's settings.

    Args:
        kind: the trainer's class of settings.
        given: all options of the call, under our names.
    """
    max_steps = given["max_steps"]
    return {
        "output_dir": os.fspath(given.get("output", "")),
        "num_train_epochs": given["epochs"],
        "max_steps": -1 if max_steps is None else max_steps,
        "per_device_train_batch_size": given["batch_size"],
        "learning_rate": given["learning_rate"],
        "warmup_steps": given["warmup_steps"],
        "report_to": given["report_to"],
        "seed": given["seed"],
        **recomputing(kind, given["gradient_checkpointing"]),
        **checkpoint_settings(given["checkpoint_steps"]),
        **({} if given["dev"] is None else evaluation_settings(given["eval_steps"])),
    }


def evaluation_settings(eval_steps: float) -> dict[str, Any]:
    """The trainer's settings for an evaluation at the start, every so many steps and at the end.

    Example:
        >>> evaluation_settings(0.1)
        {'eval_strategy': 'steps', 'eval_steps': 0.1, 'eval_on_start': True}
    """
    return {"eval_strategy": "steps", "eval_steps": eval_steps, "eval_on_start": True}


def recomputing(kind: type, wanted: bool) -> dict[str, bool]:
    """The setting for gradient checkpointing, whose name transformers changed in 5."""
    new = "activation_checkpointing"
    known = {field.name for field in fields(kind)}
    return {new if new in known else "gradient_checkpointing": wanted}


def has_native_bf16() -> bool:
    """Whether the accelerator computes in bfloat16 itself, as NVIDIA's have since Ampere."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def among_processes_on_cpu() -> bool:
    """Whether a launcher started this process on a machine without an accelerator.

    The trainer has to be told: by itself it would train a model in each process.
    """
    import torch

    return "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()
