"""One bar for the whole run."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from tqdm import tqdm


class Progress(pl.Callback):
    """Steps, time left, the last losses, mean images/s; drawn twice a second on a terminal, every half minute in a file."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        self.started, self.images_before, self.shown = time.monotonic(), system.images_seen, 0.0
        if trainer.is_global_zero:
            self.wait = 0.5 if sys.stderr.isatty() else 30.0
            self.bar = tqdm(
                total=trainer.max_steps,
                initial=trainer.global_step,
                mininterval=0,  # drawn when `on_train_batch_end` says so, with the values of that step
                miniters=1,
                unit="step",
                dynamic_ncols=sys.stderr.isatty(),
                bar_format="{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            )

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.bar is not None and time.monotonic() - self.shown >= self.wait:
            self.show(self.bar, trainer, system)

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        self.close(trainer, system)

    def on_exception(self, trainer: pl.Trainer, system: Any, exception: BaseException) -> None:
        self.close(trainer, system)

    def show(self, bar: tqdm[Any], trainer: pl.Trainer, system: Any) -> None:
        """Draw the bar at the step just made, with its values."""
        self.shown = time.monotonic()
        latest = system.scalars.latest
        values = {short: latest[name] for short, name in system.progress.items() if name in latest}
        numbers = torch.stack(list(values.values())).tolist() if values else []
        shown = {short: f"{number:.3f}" for short, number in zip(values, numbers, strict=True)}
        speed = (system.images_seen - self.images_before) / max(self.shown - self.started, 1e-9)
        bar.set_postfix(shown | {"images/s": f"{speed:,.0f}"}, refresh=False)
        bar.update(trainer.global_step - bar.n)

    def close(self, trainer: pl.Trainer, system: Any) -> None:
        if self.bar is not None:
            self.show(self.bar, trainer, system)
            self.bar.close()
            self.bar = None
