"""The adversarial game (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from math import lcm, prod
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
from ganexp.systems.arguments import check_clip, check_named, with_path
from ganexp.systems.base import MakeOptimizer, MakeSchedule, System
from ganexp.systems.contexts import evaluating, frozen, uncompiled, uncounted


class Loss(Protocol):
    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]: ...
    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor: ...


class GAN(System):
    """Each batch is one step of D; every `d_steps`-th batch also gives `g_steps` updates of G.

    `discriminator(x, y)` returns an Output, or just logits [N, K]. `terms`, `regularizers`: what D or G minimizes in addition to
    the adversarial loss, by log name; the model's own terms, and the chosen ones. `augment`: applied in order to all images that
    D sees. `constraints`: applied in order to D. `fresh_fakes`: update G on a second batch of fakes instead of reusing D's (one
    more forward pass of G); updates of G after the first in a step always do so. `separate`: update D twice, on the real batch
    with the terms, then on the fake batch. `clip_g`, `clip_d`: maximum gradient norm; null disables clipping. For the others see
    System. Raises ValueError for a loss that has no discriminator, for `separate` with a loss that compares real and fake
    logits, and for numbers out of range.
    """

    progress: ClassVar = {
        "D": "loss/discriminator",
        "G": "loss/generator",
        "D(x)": "score/D(x)",
        "D(G(z))": "score/D(G(z))_before",
    }
    d_loss = "loss/discriminator"

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
            raise ValueError(f"{'d_steps' if d_steps < 1 else 'g_steps'}: must be at least 1, got {min(d_steps, g_steps)}")
        if not hasattr(loss, "discriminator"):
            raise ValueError(f"loss: {type(loss).__name__} is not an adversarial loss; choose one, such as loss=bce")
        if separate and not hasattr(loss, "real"):
            raise ValueError(f"separate: {type(loss).__name__} compares real and fake logits, so both must be in one update")
        self.loss, self.needs_real = loss, getattr(loss, "needs_real", False)
        model_terms = check_named(terms or {}, Term, "terms")
        self.terms = nn.ModuleDict(model_terms | check_named(regularizers, Term, "regularizers", model_terms))
        self.augment = nn.ModuleDict(check_named(augment, Augmentation, "augment"))
        self.constraints = check_named(constraints or {}, Constraint, "constraints")
        for name, constraint in self.constraints.items():
            try:
                discriminator = constraint.apply(discriminator)
            except ValueError as error:
                raise with_path(error, f"constraints.{name}") from error
        self.discriminator = discriminator
        self.d_steps, self.g_steps, self.fresh_fakes, self.separate = d_steps, g_steps, fresh_fakes, separate
        self.clip_g, self.clip_d = check_clip(clip_g, "clip_g"), check_clip(clip_d, "clip_d")
        self.to(memory_format=torch.channels_last)  # convolutions are 10 % faster on the CPU

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        real, y = batch
        update_g = (self.global_step + 1) % self.d_steps == 0
        self.scalars.measuring |= self.d_steps > 1  # the logged step may have no update of G

        z = self.latent.sample(len(y), self.device)
        reuse = not self.fresh_fakes and self.accumulate == 1  # G's update backpropagates through the graph of D's fakes
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
        for kinds in [["real"], ["fake"]] if self.separate else [["real", "fake"]]:
            counted = "fake" in kinds  # the last one, so that a step counts once
            with nullcontext() if counted else uncounted(optimizer), uncompiled(any_second_order(due, self.constraints)):
                losses = self.discriminator_losses(kinds, due if "real" in kinds else {}, real, fake, z, y)
                self.optimize(optimizer, losses, self.clip_d, "discriminator")
            for constraint in self.constraints.values():
                constraint.after_step(self.discriminator)
        self.scalars.add({"loss/discriminator": self.scalars.total("loss/discriminator/")})

    def discriminator_losses(self, kinds: list[str], due: dict[str, Term], *batch: Tensor) -> Iterator[Tensor]:
        """Yields D's loss for each micro-batch. `kinds`: "real", "fake" or both. `batch`: real, fake, z and y."""
        for micro_batch in self.micro_batches(*batch):
            round = self.round(due, *micro_batch)
            logits = {kind: round.output(kind).logits for kind in kinds}
            if len(kinds) == 2:
                losses = self.loss.discriminator(**logits)
            else:
                losses = {kind: getattr(self.loss, kind)(x) for kind, x in logits.items()}
            losses |= self.term_losses(due, round)
            total = torch.stack(list(losses.values())).sum()
            self.scalars.add({f"logits/{kind}": x.mean() for kind, x in logits.items()})
            names = {"real": "score/D(x)", "fake": "score/D(G(z))_before"}
            self.scalars.add({names[kind]: x.sigmoid().mean() for kind, x in logits.items()})
            self.scalars.add({f"loss/discriminator/{name}": loss for name, loss in losses.items()} | round.scalars)
            yield total
            if "real" in kinds:  # after the backward pass
                for name, augment in cast(Mapping[str, Augmentation], self.augment).items():
                    self.scalars.add({f"{name}/{k}": v for k, v in augment.observe(round.output("real")).items()})

    def generator_step(self, real: Tensor, z: Tensor, y: Tensor, fake: Tensor | None) -> None:
        _, optimizer = cast(list[LightningOptimizer], self.optimizers())
        due = self.due_terms("generator", self.global_step // self.d_steps - 1)
        with frozen(self.discriminator), uncounted(optimizer), uncompiled(any_second_order(due, self.constraints)):
            self.optimize(optimizer, self.generator_losses(due, real, z, y, fake), self.clip_g, "generator")

    def generator_losses(self, due: dict[str, Term], real: Tensor, z: Tensor, y: Tensor, fake: Tensor | None) -> Iterator[Tensor]:
        """Yields G's loss for each micro-batch. `fake`: G(z, y) if it is computed already, with one micro-batch."""
        for micro_real, micro_z, micro_y in self.micro_batches(real, z, y):
            samples = self.generator(micro_z, micro_y) if fake is None else fake
            round = self.round(due, micro_real, samples, micro_z, micro_y)
            logits = round.output("fake").logits
            adversarial = self.loss.generator(logits, round.output("real").logits if self.needs_real else None)
            losses = {"adversarial": adversarial} | self.term_losses(due, round)
            total = torch.stack(list(losses.values())).sum()
            self.scalars.add({"loss/generator": total, "score/D(G(z))_after": logits.sigmoid().mean()} | round.scalars)
            if len(losses) > 1:
                self.scalars.add({f"loss/generator/{name}": loss for name, loss in losses.items()})
            yield total

    def round(self, due: Mapping[str, Term], real: Tensor, fake: Tensor, z: Tensor, y: Tensor) -> Round:
        differentiable = {kind for term in due.values() for kind in term.differentiable}
        return Round(self.generator, self.discriminator, self.augment.values(), real, fake, z, y, differentiable)

    def due_terms(self, player: str, update: int) -> dict[str, Term]:
        """Returns the terms of a player that are due at its update with this index, from 0."""
        terms = cast(Mapping[str, Term], self.terms)
        return {name: term for name, term in terms.items() if term.player == player and update % term.every == 0}

    def period(self) -> int:
        terms = cast(Mapping[str, Term], self.terms).values()
        return lcm(self.d_steps, *(term.every * (self.d_steps if term.player == "generator" else 1) for term in terms))

    def term_losses(self, due: Mapping[str, Term], round: Round) -> dict[str, Tensor]:
        """Returns the terms' losses times their intervals, in float32 outside of the networks; a term may return None."""
        with torch.autocast(self.device.type, enabled=False):
            values = {name: term(round) for name, term in due.items()}
        return {name: due[name].every * value for name, value in values.items() if value is not None}

    def networks(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator, "generator": self.generator}

    def anneal_roots(self) -> dict[str, Any]:
        return {"model": self, "loss": self.loss, "regularizer": self.terms, "augment": self.augment}

    def differentiated_twice(self) -> set[str]:
        terms = cast(Mapping[str, Term], self.terms).values()
        constrained = {"discriminator"} if any_second_order(self.constraints) else set()
        return {term.player for term in terms if term.second_order} | constrained

    @property
    def samples_per_row(self) -> int:
        """The number of samples in one row of D's input. Every micro-batch is a multiple of it."""
        return prod(augment.samples for augment in cast(Mapping[str, Augmentation], self.augment).values())

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        super().check_shapes(shape)
        if self.samples_per_row > 1 and self.classes:
            raise ValueError("augment: pack needs an unconditional model, since samples in one row may differ in class")
        n = 2 * self.samples_per_row
        z, y, real = self.latent.sample(n, self.device), self.sample_labels(n), torch.zeros(n, *shape)
        terms = cast(dict[str, Term], dict(self.terms.items()))
        with evaluating(self):
            round = self.round(terms, real, self.generator(z, y), z, y)
            logits = [round.output(kind).logits for kind in ("real", "fake")]
            if logits[0].ndim != 2 or len(logits[0]) != 2 or not logits[0].shape[1]:
                raise ValueError(f"the discriminator must return logits [N, K], got {list(logits[0].shape)} for 2 rows")
            check_named(terms, Term, "regularizers", ["adversarial", *self.loss.discriminator(*logits)])
            for name, term in terms.items():
                try:
                    term(round)
                except (ValueError, RuntimeError, TypeError, AttributeError) as error:
                    raise with_path(error, f"regularizers.{name}") from error


def any_second_order(*groups: Mapping[str, Term] | Mapping[str, Constraint]) -> bool:
    return any(part.second_order for group in groups for part in group.values())
