"""Measure the generator during training."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl

from ganexp.callbacks.log import ends_between
from ganexp.data.module import DataModule
from ganexp.evaluation import MOST, Evaluation, samples_of
from ganexp.metrics.metric import FeatureMetric
from ganexp.systems.base import System

log = logging.getLogger(__name__)


class Metrics(pl.Callback):
    """Compares `num` samples of the averaged generator with `num` real ones, every `every` steps, at the start and at the end.

    Values are logged under the metric's name; `history` has them as (step, {name: value}). A metric without a value, for example
    because all samples are equal, is left out at that step, with one warning. A run that is made longer drops the measurement at
    its former end, if that is no multiple of `every`.
    """

    def __init__(self, metrics: dict[str, FeatureMetric], every: int = 500, num: int = 2000):
        if every < 1:
            raise ValueError(f"every: must be at least 1, got {every}")
        if not 2 <= num <= MOST:
            raise ValueError(f"num: must be at {'least 2' if num < 2 else f'most {MOST}'}, got {num}")
        self.metrics = list(metrics.values())
        self.every, self.num = every, num
        self.history: list[tuple[int, dict[str, float]]] = []
        self.between = False  # whether the last measurement was made only because the run ended there
        self.evaluation: Evaluation | None = None
        self.warned: set[str] = set()

    def setup(self, trainer: pl.Trainer, system: Any, stage: str) -> None:
        if self.evaluation is None:
            self.setup_evaluation(trainer.datamodule, system)  # type: ignore[attr-defined]

    def setup_evaluation(self, data: DataModule, system: Any) -> None:
        """Raises ValueError if a metric does not support the data or the samples, FileNotFoundError if an extractor's file is
        missing."""
        self.evaluation = Evaluation(self.metrics, data, self.num, bool(system.classes))
        self.evaluation.setup()

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        if trainer.global_step == 0:
            self.measure(trainer, system)

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.measure(trainer, system)

    def measure(self, trainer: pl.Trainer, system: System) -> None:
        if not self.metrics:
            return
        assert self.evaluation is not None
        show = f"measuring at step {trainer.global_step:,}" if trainer.is_global_zero else None
        ranks = trainer.global_rank, trainer.world_size
        values, failed = self.evaluation.measure(samples_of(system), system.device, *ranks, show)
        for name in failed.keys() - self.warned if trainer.is_global_zero else ():
            log.warning("step %s: not measured: %s", f"{trainer.global_step:,}", failed[name])
        self.warned |= failed.keys()
        self.history.append((trainer.global_step, values))
        self.between = ends_between(trainer, self.every)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def names(self) -> list[str]:
        """Returns the names of all values in the log."""
        return [f"{name}/{metric.features.name}" for metric in self.metrics for name in metric.names]

    def ranking(self, monitor: str | None) -> list[FeatureMetric]:
        """Returns the metrics that can rank checkpoints; with `monitor`, a metric's name in the log, only that one."""
        return [m for m in self.metrics if m.higher_is_better is not None and (monitor is None or monitor == m.name)]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Returns `last` and `mean_of_last_5` of every value, and `best` and `best_step` of those that can pick a checkpoint. The
        best alone would be optimistic. Mean and best leave out the untrained networks, unless nothing else was measured."""
        summary: dict[str, dict[str, Any]] = {}
        for metric in self.metrics:
            for i, name in enumerate(f"{short}/{metric.features.name}" for short in metric.names):
                series = [(step, values[name]) for step, values in self.history if name in values]
                if not series:
                    continue
                trained = [(step, value) for step, value in series if step > 0] or series
                recent = [value for _, value in trained[-5:]]
                summary[name] = {"last": series[-1][1], "mean_of_last_5": sum(recent) / len(recent)}
                if metric.higher_is_better is not None and i == 0:
                    step, best = (max if metric.higher_is_better else min)(trained, key=lambda pair: pair[1])
                    summary[name] |= {"best": best, "best_step": step}
        return summary

    def record(self, system: System) -> dict[str, Any]:
        """Returns for run.json the summary, the direction of the values that have a best, and the protocols."""
        assert self.evaluation is not None
        directions = {f"{metric.names[0]}/{metric.features.name}": metric.higher_is_better for metric in self.metrics}
        return {
            "metrics": self.summary(),
            "higher_is_better": {name: higher for name, higher in directions.items() if higher is not None},
            "protocols": self.evaluation.protocols(system.ema is not None),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "between": self.between}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        history = [(step, values) for step, values in state_dict["history"]]
        self.history = history[:-1] if state_dict.get("between") else history
