"""What a trainer of transformers needs so that a resumed training ends as an uninterrupted one."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Resumable(TrainerCallback):
    """Sees to the order of the batches and to the last step of a resumed training."""

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Tell every sampler the epoch, which decides its order.

        A sampler inside another one is not told by all versions of accelerate and transformers
        (4.56, and 5.24 with several processes).
        """
        sampler = train_dataloader
        while sampler is not None:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(int(state.epoch or 0))
            sampler = getattr(sampler, "batch_sampler", None)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Write no checkpoint after the last step: resumed there, a trainer takes one step more."""
        if state.global_step >= state.max_steps:
            control.should_save = False
