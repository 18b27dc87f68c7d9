"""Save checkpoints: the last ones, and the best by a metric."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ganexp.callbacks.log import ends_between
from ganexp.callbacks.metrics import Metrics
from ganexp.files import replace, sync_folder

Kind = TypeVar("Kind")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, to a temporary file in the same folder. Lightning's own goes through the system's temporary
    folder and does not sync."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        replace(Path(path), lambda file: torch.save(checkpoint, file))


class Checkpoint(pl.Callback):
    """Writes `folder`/step-N.ckpt and last.ckpt every `every` steps, at the end and when the run is stopped, and best.ckpt when
    `monitor` improves.

    `keep`: number of step-N files to keep. `monitor`: a metric's name in the log (`swd/pixels`); None monitors the first metric
    that can rank checkpoints. Files are written atomically. Raises RuntimeError if a written file is missing.

    If a run ends between two measurements and its last one improves `monitor`, the former best.ckpt is kept as best.before, and
    put back if the run is made longer. A step-N.ckpt from which the run continued is deleted with the next one, if N is no
    multiple of `every`.
    """

    def __init__(self, folder: str, every: int = 500, keep: int = 2, monitor: str | None = None):
        if every < 1:
            raise ValueError(f"every: must be at least 1, got {every}")
        if keep < 1:
            raise ValueError(f"keep: must be at least 1, got {keep}")
        self.folder, self.every, self.keep, self.monitor = Path(folder), every, keep, monitor
        self.best: dict[str, Any] | None = None  # {"metric", "value", "step"}
        self.former: dict[str, Any] | None = None  # {"best"}: before an improvement of an end between two measurements
        self.first = 0  # the step from which the run continued

    def check_monitor(self, callback: Metrics | None) -> None:
        """Raises ValueError if the run's metrics do not include `monitor`, or if it cannot rank checkpoints."""
        names = {str(m.name): m for m in callback.metrics} if callback else {}
        if self.monitor is not None and self.monitor not in names:
            raise ValueError(f"monitor: {self.monitor} is not one of the run's metrics: {', '.join(names) or 'none'}")
        if self.monitor is not None and names[self.monitor].higher_is_better is None:
            raise ValueError(f"monitor: {self.monitor} cannot rank checkpoints: it is best near 1")

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        self.first = trainer.global_step
        best, before = self.folder / "best.ckpt", self.folder / "best.before"
        if before.is_file() and trainer.is_global_zero:  # also if the end was killed before it wrote last.ckpt
            os.replace(before, best)
        if self.former is not None:
            self.best, self.former = self.former["best"], None
            if self.best is None and trainer.is_global_zero:
                best.unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        former = {"best": self.best}
        improved = self.update_best(trainer)
        metrics = self.metrics_of(trainer)
        self.former = former if improved and metrics and ends_between(trainer, metrics.every) else None
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps or trainer.should_stop
        if not (improved or due):
            return
        temporary = self.folder / "whole.tmp"  # left behind by a killed run; the next checkpoint overwrites it
        trainer.save_checkpoint(temporary)  # on every rank: it ends with a barrier
        if not trainer.is_global_zero:
            return
        if not temporary.is_file():
            raise RuntimeError(f"no checkpoint was written to {self.folder} at step {step}")
        if improved:
            if self.former and self.former["best"] and (self.folder / "best.ckpt").is_file():
                link_or_copy(self.folder / "best.ckpt", self.folder / "best.before")
            link_or_copy(temporary, self.folder / "best.ckpt")
        if due:
            link_or_copy(temporary, self.folder / f"step-{step:08d}.ckpt")
            link_or_copy(temporary, self.folder / "last.ckpt")
        temporary.unlink()
        sync_folder(self.folder)
        if self.first % self.every and due:
            (self.folder / f"step-{self.first:08d}.ckpt").unlink(missing_ok=True)
        for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
            old.unlink()

    def update_best(self, trainer: pl.Trainer) -> bool:
        """Returns whether the metrics were measured at this step and are the best so far."""
        metrics = self.metrics_of(trainer)
        if metrics is None or not metrics.history or metrics.history[-1][0] != trainer.global_step:
            return False
        ranking = metrics.ranking(self.monitor)
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
    def metrics_of(trainer: pl.Trainer) -> Metrics | None:
        """Returns the run's Metrics callback if it measures anything."""
        metrics = find(trainer.callbacks, Metrics)  # type: ignore[attr-defined]
        return metrics if metrics and metrics.metrics else None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "former": self.former}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.former = state_dict["best"], state_dict.get("former")


def find(callbacks: Sequence[object], kind: type[Kind]) -> Kind | None:
    """Returns the first callback of this class, or None."""
    return next((c for c in callbacks if isinstance(c, kind)), None)


def link_or_copy(file: Path, target: Path) -> None:
    """Atomically replace `target` by a hard link to `file`, or by a copy if the file system has no hard links."""
    temporary = target.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copyfile(file, temporary)
    os.replace(temporary, target)
