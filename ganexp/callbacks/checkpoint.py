"""Save the run: the last states, and the best by a metric."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ganexp.callbacks.metrics import Metrics
from ganexp.files import replace, sync_folder

Kind = TypeVar("Kind")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file's final name and syncs, where Lightning's own writes to the machine's temporary folder first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        replace(Path(path), lambda file: torch.save(checkpoint, file))


class Checkpoint(pl.Callback):
    """Every `every` steps, at the end, and when the run is stopped, write `folder`/step-N.ckpt, also as last.ckpt; best.ckpt is
    the best by `monitor`.

    `keep`: how many of the step-N files stay. `monitor`: a metric's name in the log (`swd/pixels`); null takes the first of the
    metrics that has a better side. Every file appears by renaming, whole or not at all. Raises RuntimeError if a file that
    was written is not there.
    """

    def __init__(self, folder: str, every: int = 500, keep: int = 2, monitor: str | None = None):
        if every < 1:
            raise ValueError(f"every: at least 1 step, not {every}")
        if keep < 1:
            raise ValueError(f"keep: at least 1 file, not {keep}")
        self.folder, self.every, self.keep, self.monitor = Path(folder), every, keep, monitor
        self.best: dict[str, Any] | None = None  # {"metric", "value", "step"}

    def check_monitor(self, measured: Metrics | None) -> None:
        """Raises ValueError if `monitor` is not measured by the run's metrics."""
        names = {str(m.name): m for m in measured.metrics} if measured else {}
        if self.monitor is not None and self.monitor not in names:
            raise ValueError(f"monitor: no metric {self.monitor} is measured, only {', '.join(names) or 'none'}")
        if self.monitor is not None and names[self.monitor].higher_is_better is None:
            raise ValueError(f"monitor: {self.monitor} is best near 1, it ranks no checkpoints")

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        improved = self.note_best(trainer)
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps or trainer.should_stop
        if not (improved or due):
            return
        temporary = self.folder / "whole.tmp"  # a run that dies here leaves it; the next checkpoint replaces it
        trainer.save_checkpoint(temporary)  # every rank: it ends in a barrier
        if not trainer.is_global_zero:
            return
        if not temporary.is_file():
            raise RuntimeError(f"no checkpoint was written to {self.folder} at step {step}")
        if improved:
            place(temporary, self.folder / "best.ckpt")
        if due:
            place(temporary, self.folder / f"step-{step:08d}.ckpt")
            place(temporary, self.folder / "last.ckpt")
        temporary.unlink()
        sync_folder(self.folder)
        for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
            old.unlink()

    def note_best(self, trainer: pl.Trainer) -> bool:
        """Whether the metrics were measured at this very step and are the best so far."""
        metrics = self.measured(trainer)
        if metrics is None or not metrics.history or metrics.history[-1][0] != trainer.global_step:
            return False
        ranking = [m for m in metrics.metrics if m.higher_is_better is not None and self.monitor in (None, m.name)]
        if not ranking:
            return False
        metric = ranking[0]
        value = metrics.history[-1][1].get(str(metric.name))
        if value is None:
            return False
        sign = -1 if metric.higher_is_better else 1
        if self.best is not None and sign * value >= sign * self.best["value"]:
            return False
        self.best = {"metric": str(metric.name), "value": value, "step": trainer.global_step}
        return True

    @staticmethod
    def measured(trainer: pl.Trainer) -> Metrics | None:
        """The run's metrics, if it has any."""
        metrics = find(trainer.callbacks, Metrics)  # type: ignore[attr-defined]
        return metrics if metrics and metrics.metrics else None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def find(callbacks: Sequence[object], kind: type[Kind]) -> Kind | None:
    """The first callback of this kind."""
    return next((c for c in callbacks if isinstance(c, kind)), None)


def place(file: Path, name: Path) -> None:
    """Give `file` a second name, replacing what had it before, without a moment in which neither is there."""
    fresh = name.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    try:
        os.link(file, fresh)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, fresh)
    os.replace(fresh, name)
