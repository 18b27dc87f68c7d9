"""Measure the generator while it learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric
from tqdm import tqdm

from ganexp.systems.base import CHUNK, System, seeded


class Metrics(pl.Callback):
    """Every `every` steps, and at the start and the end, compare `num` samples of the averaged generator with `num` real ones.

    Values go to every logger under the metric's name; `history` holds them as (step, {name: value}).
    """

    def __init__(self, metrics: dict[str, Metric], every: int = 500, num: int = 2000):
        if every < 1:
            raise ValueError(f"every: at least 1 step, not {every}")
        if num < 2:
            raise ValueError(f"num: at least 2 samples, not {num}")
        self.metrics = list(metrics.values())
        self.every, self.num = every, num
        self.history: list[tuple[int, dict[str, float]]] = []

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError if a metric cannot be of samples of this shape."""
        for metric in self.metrics:
            metric.update(torch.zeros(2, *shape), real=True)
            metric.reset()

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        if trainer.global_step == 0:
            self.measure(trainer, system)

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.measure(trainer, system)

    def measure(self, trainer: pl.Trainer, system: System) -> None:
        if not self.metrics:
            return
        real = trainer.datamodule.real(self.num)  # type: ignore[attr-defined]
        values = evaluate(self.metrics, system, real, len(real), trainer.global_rank, trainer.world_size)
        self.history.append((trainer.global_step, values))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [(step, values) for step, values in state_dict["history"]]


def chunks(n: int, rank: int = 0, ranks: int = 1) -> Iterator[slice]:
    """This rank's part of range(n) in slices of at most CHUNK."""
    start, stop = n * rank // ranks, n * (rank + 1) // ranks
    for i in range(start, stop, CHUNK):
        yield slice(i, min(i + CHUNK, stop))


def evaluate(
    metrics: Sequence[Metric],
    system: System,
    real: Tensor,
    num: int,
    rank: int = 0,
    ranks: int = 1,
    show: str | None = None,
) -> dict[str, float]:
    """Every metric by its name: `num` samples of the system against the real ones [M, *shape] in [-1, 1].

    The ranks share the work. The samples depend on the weights and the number of ranks alone, and the random state is left as it
    was: measuring more often changes nothing. `show`: the name of a progress bar; null shows none.
    """
    for metric in metrics:
        metric.to(system.device)
        metric.reset()
        for part in chunks(len(real), rank, ranks):
            metric.update(real[part].to(system.device), real=True)
    with seeded(rank, system.device):
        for part in tqdm(list(chunks(num, rank, ranks)), desc=show, disable=None if show else True, leave=False):
            fake = system.sample(part.stop - part.start)
            for metric in metrics:
                metric.update(fake, real=False)
    return {str(metric.name): float(metric.compute()) for metric in metrics}
