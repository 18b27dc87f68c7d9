"""The adversarial game (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from ganexp.losses import TwoSided
from ganexp.systems.base import Latent, MakeOptimizer, MakeSchedule, System, checked_clip, evaluating, frozen


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
    one. `clip_g`, `clip_d`: the greatest norm of the gradient of each, null for any.
    `classes`, `ema_half_life`, `width`, `accumulate`: see System. Raises ValueError for a loss without a discriminator, and for
    `separate` with one that compares both batches.
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
        accumulate: int = 1,
        clip_g: float | None = None,
        clip_d: float | None = None,
    ):
        super().__init__(latent, generator, classes, ema_half_life, width, accumulate)
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
        self.clip_g, self.clip_d = checked_clip(clip_g, "clip_g"), checked_clip(clip_d, "clip_d")
        self.to(memory_format=torch.channels_last)  # convolutions are faster so, on the CPU by a tenth

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        real, y = batch
        step = self.global_step + 1
        update_g = step % self.d_steps == 0
        self.measuring = self.due(self.log_every, step) or self.d_steps > 1  # the step that is logged may be none of G's

        z = self.latent.sample(len(y), self.device)
        shared = not self.fresh_fakes and self.accumulate == 1  # G learns through the very graph of the fakes that D sees
        with torch.set_grad_enabled(update_g and shared):
            fake = self.generator(z, y)
        self.discriminator_step(real, fake.detach(), y)
        for k in range(self.g_steps if update_g else 0):
            if k or self.fresh_fakes:
                z = self.latent.sample(len(y), self.device)
            self.generator_step(real, z, y, fake if shared and not k else None)
        self.count_step(len(real), self.d_steps if update_g else 0)

    def discriminator_step(self, real: Tensor, fake: Tensor, y: Tensor) -> None:
        optimizer, _ = cast(list[LightningOptimizer], self.optimizers())
        for sides in [["real"], ["fake"]] if self.separate else [["real", "fake"]]:
            with nullcontext() if "fake" in sides else self.uncounted(optimizer):
                self.descend(optimizer, self.discriminator_losses(sides, real, fake, y), self.clip_d, "discriminator")
        terms = [torch.stack(parts).mean() for name, parts in self.noted.items() if name.startswith("loss/discriminator/")]
        self.note({"loss/discriminator": torch.stack(terms).sum()})

    def discriminator_losses(self, sides: list[str], real: Tensor, fake: Tensor, y: Tensor) -> Iterator[Tensor]:
        """What D minimises on the real batch, on the fake one, or on both, for each part of them."""
        for real_part, fake_part, y_part in self.parts(real, fake, y):
            batch = {"real": real_part, "fake": fake_part}
            logits = {side: self.judge(batch[side], y_part) for side in sides}
            terms = self.discriminator_terms(logits, y_part)
            if "real" in sides:
                terms |= self.penalties(real_part, fake_part, y_part)
            names = {"real": "D(x)", "fake": "D(G(z))_before"}
            self.note({f"logits/{side}": x[:, 0].mean() for side, x in logits.items()})
            self.note({f"score/{names[side]}": x[:, 0].sigmoid().mean() for side, x in logits.items()})
            self.note({f"loss/discriminator/{name}": term for name, term in terms.items()})
            yield torch.stack(list(terms.values())).sum()

    def discriminator_terms(self, logits: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        """What D minimises, from the logits [N, outputs] of `real` and `fake`, or of one of them."""
        adversarial = {side: x[:, :1] for side, x in logits.items()}
        if len(adversarial) == 2:
            return self.loss.discriminator(**adversarial)
        return {side: getattr(self.loss, side)(x) for side, x in adversarial.items()}

    def generator_step(self, real: Tensor, z: Tensor, y: Tensor, fake: Tensor | None) -> None:
        _, optimizer = cast(list[LightningOptimizer], self.optimizers())
        with frozen(self.discriminator), self.uncounted(optimizer):
            self.descend(optimizer, self.generator_losses(real, z, y, fake), self.clip_g, "generator")

    def generator_losses(self, real: Tensor, z: Tensor, y: Tensor, fake: Tensor | None) -> Iterator[Tensor]:
        """What G minimises, for each part of the batch. `fake`: its samples from z, if they are there already."""
        for real_part, z_part, y_part in self.parts(real, z, y):
            logits = self.judge(self.generator(z_part, y_part) if fake is None else fake, y_part)
            terms = self.generator_terms(logits, self.judge(real_part, y_part) if self.needs_real else None, y_part)
            loss = torch.stack(list(terms.values())).sum()
            self.note({"loss/generator": loss, "score/D(G(z))_after": logits[:, 0].sigmoid().mean()})
            if len(terms) > 1:
                self.note({f"loss/generator/{name}": term for name, term in terms.items()})
            yield loss

    def generator_terms(self, fake: Tensor, real: Tensor | None, y: Tensor) -> dict[str, Tensor]:
        """What G minimises, from the logits [N, outputs] of its fakes, and of the real batch where the loss needs them."""
        return {"adversarial": self.loss.generator(fake[:, :1], None if real is None else real[:, :1])}

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
