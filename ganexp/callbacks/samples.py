"""Render samples from fixed latents during training."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image

from ganexp import pictures, sampling
from ganexp.loggers import RunLogger
from ganexp.systems.base import System

log = logging.getLogger(__name__)


class Samples(pl.Callback):
    """Renders `num` samples from fixed latents every `every` steps, at the start and at the end, where a run is stopped too.

    Pictures go to `folder`/step-N.png and to the loggers; at the end they become the animation `gif`. A conditional system gets a
    column per class. Points are plotted over the real ones. A system with reconstructions gets a second picture: rows of real
    images, each followed by a row of their reconstructions. A run that continues deletes the pictures of its former end, if that
    is no multiple of `every`; the loggers do not get those of a run that was stopped.
    """

    def __init__(self, folder: str, gif: str, every: int = 500, num: int = 64):
        if every < 1:
            raise ValueError(f"every: must be at least 1, got {every}")
        if num < 1:
            raise ValueError(f"num: must be at least 1, got {num}")
        if not Path(gif).name:
            raise ValueError(f"gif: must be a file, got {gif!r}")
        self.folder, self.gif = Path(folder), Path(gif)
        self.every, self.num = every, num
        self.between = False  # whether the last pictures were drawn only because the run ended there

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        self.can_render = trainer.datamodule.shape == (2,) or len(trainer.datamodule.shape) == 3  # type: ignore[attr-defined]
        if not self.can_render and trainer.is_global_zero:
            log.warning("samples: no pictures: cannot render points of shape %s", trainer.datamodule.shape)  # type: ignore[attr-defined]
        if trainer.global_step == 0:
            self.render(trainer, system)
        for file in self.files(trainer.global_step) if self.between and trainer.is_global_zero else ():
            file.unlink(missing_ok=True)
        self.between = False

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps or trainer.should_stop:
            self.between = trainer.global_step % self.every != 0
            self.render(trainer, system)

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        self.animate(trainer)

    def on_exception(self, trainer: pl.Trainer, system: Any, exception: BaseException) -> None:
        with suppress(OSError):  # a full disk may be the exception that ended the run
            self.animate(trainer)

    def animate(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            pictures.animate(sorted(self.folder.glob("step-*.png")), self.gif)

    def render(self, trainer: pl.Trainer, system: System) -> None:
        if not trainer.is_global_zero or not self.can_render:
            return
        samples = sampling.sample(system, self.num, seed=0)
        columns = pictures.columns_for(self.num, system.classes)
        real = trainer.datamodule.real(2000) if samples.ndim == 2 else samples  # type: ignore[attr-defined]
        step = trainer.global_step
        picture, second = self.files(step)
        self.show(trainer, pictures.render(samples, columns, real, f"step {step:,}"), "samples", picture)
        if hasattr(system, "reconstruct") and samples.ndim == 4:
            self.show(trainer, self.reconstructions(trainer, system), "reconstructions", second)

    def files(self, step: int) -> tuple[Path, Path]:
        """Returns the pictures of a step: of samples, of reconstructions."""
        return self.folder / f"step-{step:08d}.png", self.folder / f"reconstructions-{step:08d}.png"

    def reconstructions(self, trainer: pl.Trainer, system: Any) -> Image.Image:
        x, y = trainer.datamodule.real_and_labels(max(1, self.num // 2))  # type: ignore[attr-defined]
        reconstructions = system.reconstruct(x.to(system.device), y.to(system.device)).cpu()
        columns = pictures.columns_for(self.num)
        pairs = zip(x.split(columns), reconstructions.split(columns), strict=True)
        rows = [row for pair in pairs for row in pair if len(row) == columns]
        return pictures.grid(torch.cat(rows) if rows else torch.cat([x, reconstructions]), columns)

    def show(self, trainer: pl.Trainer, picture: Image.Image, name: str, file: Path) -> None:
        pictures.save(picture, file)
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger) and not (self.between and trainer.global_step < trainer.max_steps):
                logger.log_picture(name, picture, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"between": self.between}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.between = state_dict["between"]
