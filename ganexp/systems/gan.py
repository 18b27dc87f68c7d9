"""The adversarial game (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from ganexp.losses import TwoSided
from ganexp.systems.base import Latent, MakeOptimizer, MakeSchedule, System, evaluating, frozen


class Loss(Protocol):
    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]: ...
    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor: ...


class Regularizer(Protocol):
    every: int

    def __call__(self, score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor: ...


class GAN(System):
    """One batch is one step of D; every `d_steps`-th batch is also `g_steps` updates of G.

    `latent`, `generator(z, y) -> x`, `discriminator(x, y) -> logits [N, outputs]` (column 0 is adversarial).
    `regularizers`, `augment`: by their name in the log; augmentations are applied in order to all that D sees.
    `fresh_fakes`: G learns from a second batch of fakes, not from those D has just seen (one more pass through G); its further
    updates at one step always do. `separate`: D's step is two updates, on the real batch with the penalties and then on the fake
    one, whose gradient norm is logged.
    `classes`, `ema_half_life`, `width`: see System. Raises ValueError for a loss without a discriminator, and for `separate`
    with one that compares both batches.
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
        g_steps: int = 1,
        fresh_fakes: bool = False,
        separate: bool = False,
        ema_half_life: float | None = None,
        width: float = 1.0,
    ):
        super().__init__(latent, generator, classes, ema_half_life, width)
        if min(d_steps, g_steps) < 1:
            raise ValueError(f"{'d_steps' if d_steps < 1 else 'g_steps'}: at least 1, not {min(d_steps, g_steps)}")
        if not hasattr(loss, "discriminator"):
            raise ValueError(f"loss: {type(loss).__name__} is not one for a discriminator; it belongs to another model")
        if separate and not isinstance(loss, TwoSided):
            raise ValueError(f"separate: {type(loss).__name__} compares real with fake, D cannot learn from one alone")
        self.discriminator, self.loss = discriminator, loss
        self.needs_real = getattr(loss, "needs_real", False)
        self.regularizers, self.augment = dict(regularizers), dict(augment)
        self.optimizer_g, self.optimizer_d, self.schedule = optimizer_g, optimizer_d, schedule
        self.d_steps, self.g_steps, self.fresh_fakes, self.separate = d_steps, g_steps, fresh_fakes, separate
        self.to(memory_format=torch.channels_last)  # convolutions are faster so, on the CPU by a tenth

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        real, y = batch
        step = self.global_step + 1
        update_g = step % self.d_steps == 0
        self.measuring = self.due(self.log_every, step) or self.d_steps > 1  # the step that is logged may be none of G's

        with torch.set_grad_enabled(update_g and not self.fresh_fakes):
            fake = self.generate(y)
        self.discriminator_step(real, fake.detach(), y)
        for k in range(self.g_steps if update_g else 0):
            self.generator_step(real, self.generate(y) if self.fresh_fakes or k else fake, y)
        self.count_step(len(real), self.d_steps if update_g else 0)

    def discriminator_step(self, real: Tensor, fake: Tensor, y: Tensor) -> None:
        optimizer, _ = cast(list[LightningOptimizer], self.optimizers())
        everything: dict[str, Tensor] = {}
        for batches in [{"real": real}, {"fake": fake}] if self.separate else [{"real": real, "fake": fake}]:
            logits = {side: self.judge(x, y) for side, x in batches.items()}
            terms = self.discriminator_terms(logits, y)
            if "real" in batches:
                terms |= self.penalties(real, fake, y)
            with nullcontext() if "fake" in batches else self.uncounted(optimizer):
                self.descend(optimizer, torch.stack(list(terms.values())).sum(), "discriminator")

            everything |= terms
            self.note({f"logits/{side}": x[:, 0].mean() for side, x in logits.items()})
            names = {"real": "D(x)", "fake": "D(G(z))_before"}
            self.note({f"score/{names[side]}": x[:, 0].sigmoid().mean() for side, x in logits.items()})
        self.note({f"loss/discriminator/{name}": term for name, term in everything.items()})
        self.note({"loss/discriminator": torch.stack(list(everything.values())).detach().sum()})

    def discriminator_terms(self, logits: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        """What D minimises, from the logits [N, outputs] of `real` and `fake`, or of one of them."""
        adversarial = {side: x[:, :1] for side, x in logits.items()}
        if len(adversarial) == 2:
            return self.loss.discriminator(**adversarial)
        return {side: getattr(self.loss, side)(x) for side, x in adversarial.items()}

    def generator_step(self, real: Tensor, fake: Tensor, y: Tensor) -> None:
        _, optimizer = cast(list[LightningOptimizer], self.optimizers())
        with frozen(self.discriminator):
            logits = self.judge(fake, y)
            terms = self.generator_terms(logits, self.judge(real, y) if self.needs_real else None, y)
            loss = torch.stack(list(terms.values())).sum()
            with self.uncounted(optimizer):
                self.descend(optimizer, loss, "generator")
        self.note({"loss/generator": loss, "score/D(G(z))_after": logits[:, 0].sigmoid().mean()})
        if len(terms) > 1:
            self.note({f"loss/generator/{name}": term for name, term in terms.items()})

    def generator_terms(self, fake: Tensor, real: Tensor | None, y: Tensor) -> dict[str, Tensor]:
        """What G minimises, from the logits [N, outputs] of its fakes, and of the real batch where the loss needs them."""
        return {"adversarial": self.loss.generator(fake[:, :1], None if real is None else real[:, :1])}

    def generate(self, y: Tensor) -> Tensor:
        return self.generator(self.latent.sample(len(y), self.device), y)

    def judge(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits [N, outputs], float32, of augmented images."""
        for augment in self.augment.values():
            x = augment(x)
        return self.discriminator(x, y).float()

    def penalties(self, real: Tensor, fake: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Those due at this step, in float32: under autocast a gradient penalty overflows."""
        due = {name: r for name, r in self.regularizers.items() if self.global_step % r.every == 0}
        with torch.autocast(self.device.type, enabled=False):
            real, fake = real.float(), fake.float()
            return {name: r.every * r(lambda x: self.judge(x, y)[:, :1], real, fake) for name, r in due.items()}

    def networks(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator, "generator": self.generator}

    def configure_optimizers(self) -> Any:
        d = self.optimizer_d(self.discriminator.parameters())
        g = self.optimizer_g(self.generator.parameters())
        return [d, g], [self.schedule(d), self.schedule(g)]

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        super().check_shapes(shape)
        with evaluating(self.discriminator):
            logits = self.judge(torch.zeros(2, *shape), self.draw_labels(2))
        if logits.ndim != 2 or len(logits) != 2 or not logits.shape[1]:
            raise ValueError(f"the discriminator must give logits [N, outputs], not {list(logits.shape)}")
        self.check_outputs(logits.shape[1])

    def check_outputs(self, outputs: int) -> None:
        """Raises ValueError for a number of logits that this game has no use for."""
        if outputs != 1:
            raise ValueError(f"discriminator.outputs: this model reads 1 logit, not {outputs}")
