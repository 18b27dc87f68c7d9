"""Stop the runs of a search that are worse than the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from ganexp.callbacks.checkpoint import Checkpoint, find
from ganexp.study import search
from ganexp.study.plan import Job


class Prune(pl.Callback):
    """Reports the metric that picks best.ckpt to the search in `folder` after every measurement, except that of the untrained
    networks, and stops the run of `job` if the search says so."""

    def __init__(self, folder: Path, job: Job):
        self.folder, self.job = folder, job

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        checkpoint, metrics = find(trainer.callbacks, Checkpoint), Checkpoint.metrics_of(trainer)  # type: ignore[attr-defined]
        if checkpoint is None or metrics is None or not metrics.history or metrics.history[-1][0] != trainer.global_step:
            return
        value = metrics.history[-1][1].get(str(metrics.ranking(checkpoint.monitor)[0].name))
        stop = False
        if trainer.is_global_zero and value is not None:
            stop = search.report(self.folder, self.job, trainer.global_step, value)
        trainer.should_stop |= trainer.strategy.broadcast(stop)
