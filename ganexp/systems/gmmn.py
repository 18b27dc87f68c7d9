"""A generator trained on a distance of samples, with no discriminator (Li et al. 2015, arXiv:1502.02761, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from ganexp.systems.base import Latent, MakeOptimizer, MakeSchedule, System, checked_clip


class GMMN(System):
    """The generative moment matching network: one batch is one update of G, down the distance of its samples from the batch.

    `generator(z, y) -> x`. `loss(fake, real)`: a distance of samples. `classes` must be null: the distance knows no labels.
    `ema_half_life`, `width`: see System; the distance is of whole batches, which cannot be gone through in parts. `clip`: the
    greatest norm of the gradient, null for any. Raises ValueError for classes and for an adversarial loss.
    """

    def __init__(
        self,
        latent: Latent,
        generator: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: MakeOptimizer,
        schedule: MakeSchedule,
        classes: int | None = None,
        ema_half_life: float | None = None,
        width: float = 1.0,
        clip: float | None = None,
    ):
        super().__init__(latent, generator, classes, ema_half_life, width)
        if not callable(loss):
            raise ValueError(f"loss: {type(loss).__name__} needs a discriminator; here it is a distance of samples, loss=mmd")
        if classes is not None:
            raise ValueError(f"classes: moment matching is unconditional, so null, not {classes}")
        self.loss, self.optimizer, self.schedule = loss, optimizer, schedule
        self.clip = checked_clip(clip, "clip")
        self.to(memory_format=torch.channels_last)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        real, y = batch
        self.measuring = self.due(self.log_every, self.global_step + 1)
        optimizer = cast(LightningOptimizer, self.optimizers())
        fake = self.generator(self.latent.sample(len(y), self.device), y).float()
        loss = self.loss(fake, real)
        self.descend(optimizer, [loss], self.clip, "generator")
        self.note({"loss/generator": loss})
        self.count_step(len(real))

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.generator.parameters())
        return [optimizer], [self.schedule(optimizer)]

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        super().check_shapes(shape)
        try:
            self.loss(self.sample(2), torch.zeros(2, *shape))
        except TypeError as error:
            raise ValueError(f"loss: {type(self.loss).__name__} is no distance of samples: {error}") from error
