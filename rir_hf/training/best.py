"""Keeping the weights of the step that did best on held-out rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rir_hf.core.unfinished import replacing
from rir_hf.training.checkpoints import BEST


def best_of(history: Iterable[Mapping[str, Any]], metric: str) -> str:
    """What a trainer's log says of an evaluation: before the training, and the best.

    Args:
        history: the log.
        metric: as in `KeepBest`.

    Example:
        >>> history = [{"step": step, "eval_loss": loss} for step, loss in [(0, 0.7), (5, 0.6)]]
        >>> best_of(history, "eval_loss")
        '0.7000 before the training, 0.6000 at the best step, 5'
    """
    found = [(float(entry[metric]), entry["step"]) for entry in history if metric in entry]
    best, step = (min if metric.endswith("loss") else max)(found, key=itemgetter(0))
    return f"{found[0][0]:.4f} before the training, {best:.4f} at the best step, {step}"


def trained_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model that are trained, not copied."""
    named = model.named_parameters()
    return {name: weight.detach() for name, weight in named if weight.requires_grad}


class KeepBest(TrainerCallback):
    """Gives the model at the end the weights of its best evaluation; that at the start counts too.

    They are kept in main memory, only those that are trained; of a training with checkpoints in a
    file beside those, so that it knows them when it goes on after a kill.

    Args:
        model: the model that is trained.
        metric: what the evaluations are compared by, as the trainer calls it; of one that ends in
            `loss` the lowest is best.
    """

    def __init__(self, model: torch.nn.Module, metric: str) -> None:
        self.model = model
        self.metric = metric
        self.best: dict[str, Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the best weights of the training that goes on here."""
        path = _path(args)
        if state.global_step and path.exists():
            self.best = torch.load(path, map_location="cpu", weights_only=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate after the last step too, which not all versions of transformers do."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep a copy of the weights where they are better than all before."""
        value = kwargs["metrics"][self.metric] * (-1 if self.metric.endswith("loss") else 1)
        if self.best is None or value > self.best["value"]:
            trained = trained_weights(self.model).items()
            weights = {name: weight.to("cpu", copy=True) for name, weight in trained}
            self.best = {"value": value, "weights": weights}
            if args.save_strategy != "no" and state.is_world_process_zero:
                self._write(_path(args))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the model the best weights."""
        if self.best is not None:
            for name, weight in trained_weights(self.model).items():
                weight.copy_(self.best["weights"][name])

    def _write(self, path: Path) -> None:
        with replacing(path) as part:
            torch.save(self.best, part)


def _path(args: TrainingArguments) -> Path:
    return Path(str(args.output_dir), BEST)
