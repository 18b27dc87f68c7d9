"""A generator trained on a distance between samples, without a discriminator (Li et al. 2015, arXiv:1502.02761, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from ganexp.controls import Anneal
from ganexp.latents import Latent
from ganexp.systems.arguments import check_clip
from ganexp.systems.base import MakeOptimizer, MakeSchedule, System


class GMMN(System):
    """The generative moment matching network: each batch is one update of G, which minimizes the distance of its samples to it.

    `generator(z, y) -> x`. `loss(fake, real)`: a distance between two sets of samples. `classes` must be null, since the distance
    ignores labels. `clip`: maximum gradient norm; null disables clipping. For the others see System; there is no `accumulate`,
    since the distance needs whole batches. Raises ValueError for classes and for an adversarial loss.
    """

    progress: ClassVar = {"G": "loss/generator"}

    def __init__(
        self,
        latent: Latent,
        generator: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Mapping[str, MakeOptimizer],
        schedule: MakeSchedule,
        anneal: Mapping[str, Anneal] | None = None,
        classes: int | None = None,
        ema_half_life: float | None = None,
        width_multiplier: float = 1.0,
        clip: float | None = None,
    ):
        super().__init__(latent, generator, optimizer, schedule, classes, ema_half_life, width_multiplier, anneal=anneal)
        if not callable(loss):
            raise ValueError(f"loss: {type(loss).__name__} needs a discriminator; use a distance between samples, such as MMD")
        if classes is not None:
            raise ValueError(f"classes: must be null, got {classes}; moment matching is unconditional")
        self.loss = loss
        self.clip = check_clip(clip, "clip")
        self.to(memory_format=torch.channels_last)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        real, y = batch
        optimizer = cast(LightningOptimizer, self.optimizers())
        fake = self.generator(self.latent.sample(len(y), self.device), y).float()
        loss = self.loss(fake, real)
        self.optimize(optimizer, [loss], self.clip, "generator")
        self.scalars.add({"loss/generator": loss})
        self.end_step(len(real))

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        super().check_shapes(shape)
        try:
            self.loss(self.sample(2), torch.zeros(2, *shape))
        except TypeError as error:
            raise ValueError(f"loss: {type(self.loss).__name__} is not a distance between samples: {error}") from error
