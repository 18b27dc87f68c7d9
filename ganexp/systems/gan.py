"""The adversarial game (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from math import prod
from typing import Any, ClassVar, Protocol, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from ganexp.augment import Augmentation
from ganexp.constraints import Constraint
from ganexp.controls import Anneal
from ganexp.latents import Latent
from ganexp.regularizers import Term
from ganexp.round import Round
from ganexp.systems.arguments import checked, checked_clip, located
from ganexp.systems.base import MakeOptimizer, MakeSchedule, System
from ganexp.systems.contexts import evaluating, frozen, uncounted


class Loss(Protocol):
    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]: ...
    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor: ...


class GAN(System):
    """One batch is one step of D; every `d_steps`-th batch is also `g_steps` updates of G.

    `discriminator(x, y)` returns an Output, or logits [N, K] alone. `terms`, `regularizers`: what D or G minimizes beside the
    adversarial loss, by name in the log; the model's own, and the chosen. `augment`: applied in order to all that D sees.
    `constraints`: applied in order to D itself. `fresh_fakes`: G learns from a second batch of fakes, not from those D has just
    seen (one more pass through G); its further updates at one step always do. `separate`: D's step is two updates, on the real
    batch with the terms and then on the fake one. `clip_g`, `clip_d`: the greatest norm of the gradient of each, null for any.
    The others: see System. Raises ValueError for a loss without a discriminator, for `separate` with one that compares both
    batches, and for numbers that make no sense.
    """

    progress: ClassVar = {
        "D": "loss/discriminator",
        "G": "loss/generator",
        "D(x)": "score/D(x)",
        "D(G(z))": "score/D(G(z))_before",
    }
    vanishing = "loss/discriminator"

    def __init__(
        self,
        latent: Latent,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss,
        regularizers: Mapping[str, Term],
        augment: Mapping[str, Augmentation],
        optimizer: Mapping[str, MakeOptimizer],
        schedule: MakeSchedule,
        terms: Mapping[str, Term] | None = None,
        constraints: Mapping[str, Constraint] | None = None,
        anneal: Mapping[str, Anneal] | None = None,
        classes: int | None = None,
        d_steps: int = 1,
        g_steps: int = 1,
        fresh_fakes: bool = False,
        separate: bool = False,
        ema_half_life: float | None = None,
        width_multiplier: float = 1.0,
        accumulate: int = 1,
        clip_g: float | None = None,
        clip_d: float | None = None,
    ):
        super().__init__(latent, generator, optimizer, schedule, classes, ema_half_life, width_multiplier, accumulate, anneal)
        if min(d_steps, g_steps) < 1:
            raise ValueError(f"{'d_steps' if d_steps < 1 else 'g_steps'}: at least 1, not {min(d_steps, g_steps)}")
        if not hasattr(loss, "discriminator"):
            raise ValueError(f"loss: {type(loss).__name__} is not for a discriminator; it belongs to another model")
        if separate and not hasattr(loss, "real"):
            raise ValueError(f"separate: {type(loss).__name__} compares real with fake, D cannot learn from one alone")
        self.loss, self.needs_real = loss, getattr(loss, "needs_real", False)
        own = checked(terms or {}, Term, "terms")
        self.terms = nn.ModuleDict(own | checked(regularizers, Term, "regularizers", own))
        self.augment = nn.ModuleDict(checked(augment, Augmentation, "augment"))
        self.constraints = checked(constraints or {}, Constraint, "constraints")
        for name, constraint in self.constraints.items():
            try:
                discriminator = constraint.apply(discriminator)
            except ValueError as error:
                raise located(error, f"constraints.{name}") from error
        self.discriminator = discriminator
        self.d_steps, self.g_steps, self.fresh_fakes, self.separate = d_steps, g_steps, fresh_fakes, separate
        self.clip_g, self.clip_d = checked_clip(clip_g, "clip_g"), checked_clip(clip_d, "clip_d")
        self.to(memory_format=torch.channels_last)  # convolutions are faster so, on the CPU by a tenth

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        real, y = batch
        update_g = (self.global_step + 1) % self.d_steps == 0
        self.scalars.measuring |= self.d_steps > 1  # the step that is logged may be none of G's

        z = self.latent.sample(len(y), self.device)
        reuse = not self.fresh_fakes and self.accumulate == 1  # G learns through the very graph of the fakes that D sees
        with torch.set_grad_enabled(update_g and reuse):
            fake = self.generator(z, y)
        self.discriminator_step(real, fake.detach(), z, y)
        for k in range(self.g_steps if update_g else 0):
            if k or self.fresh_fakes:
                z = self.latent.sample(len(y), self.device)
            self.generator_step(real, z, y, fake if reuse and not k else None)
        self.end_step(len(real), self.d_steps if update_g else 0)

    def discriminator_step(self, real: Tensor, fake: Tensor, z: Tensor, y: Tensor) -> None:
        optimizer, _ = cast(list[LightningOptimizer], self.optimizers())
        due = self.due_terms("discriminator", self.global_step)
        for sides in [["real"], ["fake"]] if self.separate else [["real", "fake"]]:
            with nullcontext() if "fake" in sides else uncounted(optimizer):
                losses = self.discriminator_losses(sides, due if "real" in sides else {}, real, fake, z, y)
                self.optimize(optimizer, losses, self.clip_d, "discriminator")
            for constraint in self.constraints.values():
                constraint.after_step(self.discriminator)
        self.scalars.add({"loss/discriminator": self.scalars.total("loss/discriminator/")})

    def discriminator_losses(self, sides: list[str], due: dict[str, Term], *batch: Tensor) -> Iterator[Tensor]:
        """What D minimizes on the real batch, on the fake one, or on both, for each part of real, fake, z and y."""
        for part in self.parts(*batch):
            round = self.round(due, *part)
            logits = {side: round.output(side).logits for side in sides}
            if len(sides) == 2:
                losses = self.loss.discriminator(**logits)
            else:
                losses = {side: getattr(self.loss, side)(x) for side, x in logits.items()}
            losses |= self.term_losses(due, round)
            total = torch.stack(list(losses.values())).sum()
            self.scalars.add({f"logits/{side}": x.mean() for side, x in logits.items()})
            names = {"real": "score/D(x)", "fake": "score/D(G(z))_before"}
            self.scalars.add({names[side]: x.sigmoid().mean() for side, x in logits.items()})
            self.scalars.add({f"loss/discriminator/{name}": loss for name, loss in losses.items()} | round.scalars)
            yield total
            for name, augment in cast(Mapping[str, Augmentation], self.augment).items() if "real" in sides else ():
                self.scalars.add({f"{name}/{k}": v for k, v in augment.observe(round.output("real")).items()})

    def generator_step(self, real: Tensor, z: Tensor, y: Tensor, fake: Tensor | None) -> None:
        _, optimizer = cast(list[LightningOptimizer], self.optimizers())
        due = self.due_terms("generator", self.global_step // self.d_steps - 1)
        with frozen(self.discriminator), uncounted(optimizer):
            self.optimize(optimizer, self.generator_losses(due, real, z, y, fake), self.clip_g, "generator")

    def generator_losses(self, due: dict[str, Term], real: Tensor, z: Tensor, y: Tensor, fake: Tensor | None) -> Iterator[Tensor]:
        """What G minimizes, for each part of the batch. `fake`: its samples from z, if they are there already."""
        for real_part, z_part, y_part in self.parts(real, z, y):
            samples = self.generator(z_part, y_part) if fake is None else fake
            round = self.round(due, real_part, samples, z_part, y_part)
            logits = round.output("fake").logits
            adversarial = self.loss.generator(logits, round.output("real").logits if self.needs_real else None)
            losses = {"adversarial": adversarial} | self.term_losses(due, round)
            total = torch.stack(list(losses.values())).sum()
            self.scalars.add({"loss/generator": total, "score/D(G(z))_after": logits.sigmoid().mean()} | round.scalars)
            if len(losses) > 1:
                self.scalars.add({f"loss/generator/{name}": loss for name, loss in losses.items()})
            yield total

    def round(self, due: Mapping[str, Term], real: Tensor, fake: Tensor, z: Tensor, y: Tensor) -> Round:
        differentiable = {side for term in due.values() for side in term.differentiable}
        return Round(self.generator, self.discriminator, self.augment.values(), real, fake, z, y, differentiable)

    def due_terms(self, player: str, update: int) -> dict[str, Term]:
        """The terms of a player that are due at its so-many-th update, from 0."""
        terms = cast(Mapping[str, Term], self.terms)
        return {name: term for name, term in terms.items() if term.player == player and update % term.every == 0}

    def term_losses(self, due: Mapping[str, Term], round: Round) -> dict[str, Tensor]:
        """Weighted by their intervals; outside the networks in float32. A term that returns None has nothing to say yet."""
        with torch.autocast(self.device.type, enabled=False):
            values = {name: term(round) for name, term in due.items()}
        return {name: due[name].every * value for name, value in values.items() if value is not None}

    def networks(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator, "generator": self.generator}

    def annealed_roots(self) -> dict[str, Any]:
        return {"model": self, "loss": self.loss, "regularizer": self.terms, "augment": self.augment}

    @property
    def samples_per_row(self) -> int:
        """How many samples D sees at once; the batch, and each part of it, is a multiple."""
        return prod(augment.samples for augment in cast(Mapping[str, Augmentation], self.augment).values())

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        super().check_shapes(shape)
        if self.samples_per_row > 1 and self.classes:
            raise ValueError("augment: the samples of a row would have different classes; choose an unconditional model")
        n = 2 * self.samples_per_row
        z, y, real = self.latent.sample(n, self.device), self.sample_labels(n), torch.zeros(n, *shape)
        terms = cast(dict[str, Term], dict(self.terms.items()))
        with evaluating(self):
            round = self.round(terms, real, self.generator(z, y), z, y)
            outputs = [round.output(side).logits for side in ("real", "fake")]
            if outputs[0].ndim != 2 or len(outputs[0]) != 2 or not outputs[0].shape[1]:
                raise ValueError(f"the discriminator must give logits [N, K], not {list(outputs[0].shape)} for 2 rows")
            checked(terms, Term, "regularizers", ["adversarial", *self.loss.discriminator(*outputs)])
            for name, term in terms.items():
                try:
                    term(round)
                except (ValueError, RuntimeError, TypeError, AttributeError) as error:
                    raise located(error, f"regularizers.{name}") from error
