"""The adversarial game (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from ganexp.systems.base import Latent, MakeOptimizer, MakeSchedule, System, evaluating, frozen


class Loss(Protocol):
    needs_real: bool

    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]: ...
    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor: ...


class Regularizer(Protocol):
    every: int

    def __call__(self, score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor: ...


class GAN(System):
    """One batch is one update of D; every `d_steps`-th batch is also one update of G.

    `latent`, `generator(z, y) -> x`, `discriminator(x, y) -> logits [N, outputs]` (column 0 is adversarial).
    `regularizers`, `augment`: by their name in the log; augmentations are applied in order to all that D sees.
    `fresh_fakes`: G learns from a second batch of fakes, not from those D has just seen (one more pass through G).
    `classes`, `ema_half_life`: see System.
    """

    def __init__(
        self,
        latent: Latent,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss,
        regularizers: Mapping[str, Regularizer],
        augment: Mapping[str, Callable[[Tensor], Tensor]],
        optimizer_g: MakeOptimizer,
        optimizer_d: MakeOptimizer,
        schedule: MakeSchedule,
        classes: int | None = None,
        d_steps: int = 1,
        fresh_fakes: bool = False,
        ema_half_life: float | None = None,
    ):
        super().__init__(latent, generator, classes, ema_half_life)
        if d_steps < 1:
            raise ValueError(f"d_steps: at least 1 update of D for one of G, not {d_steps}")
        self.discriminator, self.loss = discriminator, loss
        self.regularizers, self.augment = dict(regularizers), dict(augment)
        self.optimizer_g, self.optimizer_d, self.schedule = optimizer_g, optimizer_d, schedule
        self.d_steps, self.fresh_fakes = d_steps, fresh_fakes
        self.to(memory_format=torch.channels_last)  # convolutions are faster so, on the CPU by a tenth
        self.measuring = False  # whether this step's scalars are logged: gradient norms cost a pass over all weights

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        real, y = batch
        step = self.global_step + 1
        update_g = step % self.d_steps == 0
        self.measuring = self.due(self.log_every, step)

        with torch.set_grad_enabled(update_g and not self.fresh_fakes):
            fake = self.generate(y)
        self.discriminator_step(real, fake.detach(), y)
        if update_g:
            self.generator_step(real, self.generate(y) if self.fresh_fakes else fake, y)

        images = len(real) * self.trainer.world_size
        if self.ema is not None and update_g:
            self.ema.update(self.generator, images * self.d_steps, self.images_seen + images)
        self.count_step(images)

    def discriminator_step(self, real: Tensor, fake: Tensor, y: Tensor) -> None:
        optimizer, _ = cast(list[LightningOptimizer], self.optimizers())
        real_logits, fake_logits = self.score(real, y), self.score(fake, y)
        terms = self.loss.discriminator(real_logits, fake_logits) | self.penalties(real, fake, y)
        loss = torch.stack(list(terms.values())).sum()

        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.measuring:
            self.note({"gradient_norm/discriminator": self.gradient_norm(self.discriminator)})
        optimizer.step()

        self.note({f"loss/discriminator/{name}": term for name, term in terms.items()} | {"loss/discriminator": loss})
        self.note({"logits/real": real_logits.mean(), "logits/fake": fake_logits.mean()})
        self.note({"score/D(x)": real_logits.sigmoid().mean(), "score/D(G(z))_before": fake_logits.sigmoid().mean()})

    def generator_step(self, real: Tensor, fake: Tensor, y: Tensor) -> None:
        _, optimizer = cast(list[LightningOptimizer], self.optimizers())
        with frozen(self.discriminator):
            fake_logits = self.score(fake, y)
            loss = self.loss.generator(fake_logits, self.score(real, y) if self.loss.needs_real else None)

            optimizer.zero_grad()
            self.manual_backward(loss)
        if self.measuring or self.d_steps > 1:  # with d_steps > 1 the step that is logged may not be one of G's
            self.note({"gradient_norm/generator": self.gradient_norm(self.generator)})
        self.uncounted(optimizer)
        optimizer.step()
        self.note({"loss/generator": loss, "score/D(G(z))_after": fake_logits.sigmoid().mean()})

    def generate(self, y: Tensor) -> Tensor:
        return self.generator(self.latent.sample(len(y), self.device), y)

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial logits [N, 1], float32, of augmented images."""
        for augment in self.augment.values():
            x = augment(x)
        return self.discriminator(x, y)[:, :1].float()

    def penalties(self, real: Tensor, fake: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Those due at this step, in float32: under autocast a gradient penalty overflows."""
        due = {name: r for name, r in self.regularizers.items() if self.global_step % r.every == 0}
        with torch.autocast(self.device.type, enabled=False):
            real, fake = real.float(), fake.float()
            return {name: r.every * r(lambda x: self.score(x, y), real, fake) for name, r in due.items()}

    def note(self, scalars: dict[str, Tensor]) -> None:
        self.scalars |= {name: value.detach() for name, value in scalars.items()}

    def networks(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator, "generator": self.generator}

    def configure_optimizers(self) -> Any:
        d = self.optimizer_d(self.discriminator.parameters())
        g = self.optimizer_g(self.generator.parameters())
        return [d, g], [self.schedule(d), self.schedule(g)]

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        super().check_shapes(shape)
        y = self.draw_labels(2)
        with evaluating(self.discriminator):
            logits = self.score(torch.zeros(2, *shape), y)
        if tuple(logits.shape) != (2, 1):
            raise ValueError(f"the discriminator must give logits [N, outputs], not {list(logits.shape)}")
