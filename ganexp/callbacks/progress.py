"""Show the progress of a run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from ganexp.progress import Cadence

log = logging.getLogger(__name__)


class Progress(pl.Callback):
    """Shows steps, remaining time, the latest losses and mean images/s: on a terminal as a bar, updated twice a second; in the
    log and elsewhere (a file, a pipe) as lines, after five seconds first and ever more rarely, up to five minutes."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None
        self.lines = False  # in the log, and without a terminal on stderr

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        self.started, self.images_before, self.updated = time.monotonic(), system.images_seen, 0.0
        self.first = self.written = trainer.global_step
        self.kind = "images" if len(trainer.datamodule.shape) == 3 else "points"  # type: ignore[attr-defined]
        self.lines, self.cadence = trainer.is_global_zero, Cadence()
        if trainer.is_global_zero and sys.stderr.isatty():
            self.bar = tqdm(
                total=trainer.max_steps,
                initial=trainer.global_step,
                mininterval=0,  # `on_train_batch_end` decides when to update
                miniters=1,
                unit="step",
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            )

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.bar is not None and time.monotonic() - self.updated >= 0.5:
            self.show(self.bar, trainer, system)
        if self.lines and self.cadence.due():
            self.write(trainer, system)

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        self.close(trainer, system)

    def on_exception(self, trainer: pl.Trainer, system: Any, exception: BaseException) -> None:
        self.close(trainer, system)

    def show(self, bar: tqdm[Any], trainer: pl.Trainer, system: Any) -> None:
        """Update the bar to the current step and values."""
        bar.set_postfix(self.values(system), refresh=False)
        bar.update(trainer.global_step - bar.n)

    def write(self, trainer: pl.Trainer, system: Any) -> None:
        """Write a line with the current step and values."""
        step, steps, values = trainer.global_step, trainer.max_steps, self.values(system)
        elapsed = self.updated - self.started
        left = elapsed / (step - self.first) * (steps - step)
        times = f"{tqdm.format_interval(elapsed)}<{tqdm.format_interval(left)}"
        text = ", ".join(f"{name}={value}" for name, value in values.items())
        line = f"{100 * step // steps:3d}% {step}/{steps} [{times}, {text}]"
        if self.bar is None:
            print(line, file=sys.stderr, flush=True)
        log.info(line)
        self.written = step

    def values(self, system: Any) -> dict[str, str]:
        self.updated = time.monotonic()
        latest = system.scalars.latest
        values = {short: latest[name] for short, name in system.progress.items() if name in latest}
        numbers = torch.stack(list(values.values())).tolist() if values else []
        texts = {short: f"{number:.3f}" for short, number in zip(values, numbers, strict=True)}
        speed = (system.images_seen - self.images_before) / max(self.updated - self.started, 1e-9)
        return texts | {f"{self.kind}/s": f"{speed:,.0f}"}

    def close(self, trainer: pl.Trainer, system: Any) -> None:
        if self.lines and self.written < trainer.global_step:
            self.write(trainer, system)
        if self.bar is not None:
            self.show(self.bar, trainer, system)
            self.bar.close()
            self.bar = None
        self.lines = False
