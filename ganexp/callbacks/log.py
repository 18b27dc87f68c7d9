"""Log the scalars of training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch


class Log(pl.Callback):
    """Logs the system's scalars, averaged over recent steps and over the ranks, and its plain numbers, every `log_every_n_steps`
    of the trainer and at the first and the last step. Costly scalars are not measured for a last step between two multiples: a
    longer run would not have measured them. Their latest values are logged."""

    def on_train_batch_start(self, trainer: pl.Trainer, system: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step + 1
        system.scalars.measuring = step == 1 or step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not due(trainer, trainer.log_every_n_steps, trainer.global_step):  # type: ignore[attr-defined]
            return
        means = system.scalars.means()
        values = trainer.strategy.reduce(torch.stack(list(means.values())), reduce_op="mean")
        scalars = dict(zip(means, values.tolist(), strict=True)) | system.scalars.numbers
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.global_step)


def due(trainer: pl.Trainer, every: int, step: int) -> bool:
    """Whether `step` is the first, the last or a multiple of `every`."""
    return step == 1 or step % every == 0 or step == trainer.max_steps


def ends_between(trainer: pl.Trainer, every: int) -> bool:
    """Whether the current step is the last and no multiple of `every`. What is done there only for this reason is withdrawn if
    the run is made longer."""
    return trainer.global_step == trainer.max_steps and trainer.global_step % every != 0
