"""Measure the generator while it learns."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl

from ganexp.data.module import DataModule
from ganexp.evaluation import Evaluation, samples_of
from ganexp.metrics.metric import FeatureMetric
from ganexp.systems.base import System

log = logging.getLogger(__name__)


class Metrics(pl.Callback):
    """Every `every` steps, and at the start and the end, compare `num` samples of the averaged generator with `num` real ones.

    Values go to every logger under the metric's name; `history` holds them as (step, {name: value}). A metric that has no value,
    for example of samples that are all alike, is left out at that step, which is said once.
    """

    def __init__(self, metrics: dict[str, FeatureMetric], every: int = 500, num: int = 2000):
        if every < 1:
            raise ValueError(f"every: at least 1 step, not {every}")
        if num < 2:
            raise ValueError(f"num: at least 2 samples, not {num}")
        self.metrics = list(metrics.values())
        self.every, self.num = every, num
        self.history: list[tuple[int, dict[str, float]]] = []
        self.evaluation: Evaluation | None = None
        self.said: set[str] = set()

    def setup(self, trainer: pl.Trainer, system: Any, stage: str) -> None:
        if self.evaluation is None:
            self.setup_evaluation(trainer.datamodule, system)  # type: ignore[attr-defined]

    def setup_evaluation(self, data: DataModule, system: Any) -> None:
        """Raises ValueError if a metric cannot be of such data or samples, FileNotFoundError for an extractor's file."""
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
        values, failed = self.evaluation.measure(samples_of(system), system.device, trainer.global_rank, trainer.world_size)
        for name in failed.keys() - self.said if trainer.is_global_zero else ():
            log.warning("step %s: not measured: %s", f"{trainer.global_step:,}", failed[name])
        self.said |= failed.keys()
        self.history.append((trainer.global_step, values))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def summary(self) -> dict[str, dict[str, Any]]:
        """For every value its `last` and the mean of the last five, and for the one that can pick a checkpoint its `best` and
        `best_step`: the best alone flatters."""
        summary: dict[str, dict[str, Any]] = {}
        for metric in self.metrics:
            for i, name in enumerate(f"{short}/{metric.features.name}" for short in metric.names):
                seen = [(step, values[name]) for step, values in self.history if name in values]
                if not seen:
                    continue
                recent = [value for _, value in seen[-5:]]
                summary[name] = {"last": seen[-1][1], "mean_of_last_5": sum(recent) / len(recent)}
                if metric.higher_is_better is not None and i == 0:
                    step, best = (max if metric.higher_is_better else min)(seen, key=lambda pair: pair[1])
                    summary[name] |= {"best": best, "best_step": step}
        return summary

    def record(self, system: System) -> dict[str, Any]:
        """For run.json: the summary, and how each value was measured."""
        assert self.evaluation is not None
        return {"metrics": self.summary(), "protocols": self.evaluation.protocols(system.ema is not None)}

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [(step, values) for step, values in state_dict["history"]]
