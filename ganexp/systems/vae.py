"""The variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114). Its decoder is a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from ganexp.controls import Anneal
from ganexp.latents import Latent, Normal
from ganexp.networks.output import as_output
from ganexp.systems.arguments import check_clip
from ganexp.systems.base import MakeOptimizer, MakeSchedule
from ganexp.systems.contexts import evaluating
from ganexp.systems.encoding import Encoding


class VAE(Encoding):
    """Each batch is one joint update of encoder and decoder.

    `generator(z, y) -> x` is the decoder. `encoder(x, y) -> [N, 2 · dim]` returns mean and log variance; any discriminator with
    2 · dim outputs will do. `loss`: an ELBO. `classes`: number of classes the decoder is conditioned on. `clip`: maximum norm of
    the joint gradient; null disables clipping. For the others see System. Raises ValueError for a prior that is not normal and
    for an adversarial loss.
    """

    progress: ClassVar = {"loss": "loss"}

    def __init__(
        self,
        latent: Latent,
        generator: nn.Module,
        encoder: nn.Module,
        loss: Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]],
        optimizer: Mapping[str, MakeOptimizer],
        schedule: MakeSchedule,
        anneal: Mapping[str, Anneal] | None = None,
        classes: int | None = None,
        ema_half_life: float | None = None,
        width_multiplier: float = 1.0,
        accumulate: int = 1,
        clip: float | None = None,
    ):
        super().__init__(latent, generator, optimizer, schedule, classes, ema_half_life, width_multiplier, accumulate, anneal)
        if not isinstance(latent, Normal):
            raise ValueError("latent: must be normal for a VAE")
        if not callable(loss):
            raise ValueError(f"loss: {type(loss).__name__} needs a discriminator; use an ELBO")
        self.encoder, self.loss = encoder, loss
        self.clip = check_clip(clip, "clip")
        self.to(memory_format=torch.channels_last)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        optimizer = cast(LightningOptimizer, self.optimizers())
        self.optimize(optimizer, self.losses(x, y), self.clip, "generator", "encoder")
        self.end_step(len(x))

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Yields the negative ELBO for each micro-batch."""
        for micro_x, micro_y in self.micro_batches(x, y):
            mean, log_variance = self.encode(micro_x, micro_y)
            z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            terms = self.loss(self.generator(z, micro_y).float(), micro_x, mean, log_variance)
            loss = torch.stack(list(terms.values())).sum()
            self.scalars.add({f"loss/{name}": term for name, term in terms.items()} | {"loss": loss})
            yield loss

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "encoder": self.encoder}

    def networks_by_optimizer(self) -> dict[str, list[nn.Module]]:
        return {"generator": [self.generator, self.encoder]}  # one optimizer for both

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        super().check_shapes(shape)
        x, y = torch.zeros(2, *shape), self.sample_labels(2)
        with evaluating(self.encoder), torch.no_grad():
            output_shape = list(as_output(self.encoder(x, y)).logits.shape)
        dim = self.latent.dim
        if output_shape != [2, 2 * dim]:
            raise ValueError(f"encoder.outputs: must be {2 * dim}, mean and log variance of {dim} latents, got {output_shape[1]}")
        try:
            self.loss(self.sample(2), x, *self.encode(x, y))
        except TypeError as error:
            raise ValueError(f"loss: {type(self.loss).__name__} is not a loss of a VAE: {error}") from error
