"""The training picture: samples of the same latents, again and again as the generator learns."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from ganexp import pictures, sampling
from ganexp.systems.base import System

log = logging.getLogger(__name__)


class Samples(pl.Callback):
    """Every `every` steps, and at the start and the end, a picture of `num` samples from fixed latents.

    It goes to `folder`/step-N.png and to TensorBoard; at the end all of them become `gif`. Conditional systems draw a column for
    each class. Points are drawn over the real ones. For a system that reconstructs there is a second picture: rows of real
    images, and below each its reconstructions.
    """

    def __init__(self, folder: str, gif: str, every: int = 500, num: int = 64):
        if every < 1:
            raise ValueError(f"every: at least 1 step, not {every}")
        if num < 1:
            raise ValueError(f"num: at least 1 sample, not {num}")
        if not Path(gif).name:
            raise ValueError(f"gif: a file, not {gif!r}")
        self.folder, self.gif = Path(folder), Path(gif)
        self.every, self.num = every, num

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        self.can_render = trainer.datamodule.shape == (2,) or len(trainer.datamodule.shape) == 3  # type: ignore[attr-defined]
        if not self.can_render and trainer.is_global_zero:
            log.warning("samples: no pictures, there is none of points of shape %s", trainer.datamodule.shape)  # type: ignore[attr-defined]
        if trainer.global_step == 0:
            self.render(trainer, system)

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.render(trainer, system)

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        self.animate(trainer)

    def on_exception(self, trainer: pl.Trainer, system: Any, exception: BaseException) -> None:
        with suppress(OSError):  # which may be the exception itself
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
        self.show(trainer, pictures.render(samples, columns, real, f"step {step:,}"), "samples", f"step-{step:08d}.png")
        if hasattr(system, "reconstruct") and samples.ndim == 4:
            self.show(trainer, self.reconstructions(trainer, system), "reconstructions", f"reconstructions-{step:08d}.png")

    def reconstructions(self, trainer: pl.Trainer, system: Any) -> Image.Image:
        x, y = trainer.datamodule.labelled(max(1, self.num // 2))  # type: ignore[attr-defined]
        again = system.reconstruct(x.to(system.device), y.to(system.device)).cpu()
        columns = pictures.columns_for(self.num)
        rows = [
            part for pair in zip(x.split(columns), again.split(columns), strict=True) for part in pair if len(part) == columns
        ]
        return pictures.grid(torch.cat(rows) if rows else torch.cat([x, again]), columns)

    def show(self, trainer: pl.Trainer, picture: Image.Image, name: str, file: str) -> None:
        pictures.save(picture, self.folder / file)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, pictures.to_tensor(picture), trainer.global_step)
