"""Regularizers: what a player minimizes beside the adversarial loss.

`every`: apply at every n-th update, weighted n-fold (lazy regularization, Karras et al. 2020, arXiv:1912.04958, section 3.1).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.round import Round

Player = Literal["discriminator", "generator"]


class Term(nn.Module):
    """A scalar that `player` minimizes, from one Round of the game; null while it has nothing to say.

    Its buffers are state: they move with the system, are saved and resumed; change them in training mode only.
    `differentiable`: the sides (`real`, `fake`) at whose images it asks for D's gradient, so that the pass of the loss serves it
    too. `weight` may be annealed: read it at every call. Raises ValueError for a negative weight and for `every` below 1.
    """

    player: Player = "discriminator"
    differentiable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, weight: float = 1.0, every: int = 1):
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight: at least 0, not {weight}")
        if every < 1:
            raise ValueError(f"every: at least 1 update, not {every}")
        self.weight, self.every = weight, every

    def forward(self, round: Round) -> Tensor | None:
        raise NotImplementedError


class R1(Term):
    """weight / 2 · |grad D(x)|² at real images (Mescheder et al. 2018, arXiv:1801.04406, equation 9)."""

    differentiable = ("real",)

    def forward(self, round: Round) -> Tensor:
        return self.weight / 2 * round.gradient("real").square().sum(1).mean()


class R2(Term):
    """weight / 2 · |grad D(x)|² at fake images (same paper, equation 10)."""

    differentiable = ("fake",)

    def forward(self, round: Round) -> Tensor:
        return self.weight / 2 * round.gradient("fake").square().sum(1).mean()


class WGANGP(Term):
    """weight · (|grad D(x)| - 1)² between real and fake (Gulrajani et al. 2017, arXiv:1704.00028, equation 3)."""

    def __init__(self, weight: float = 10.0, every: int = 1):
        super().__init__(weight, every)

    def forward(self, round: Round) -> Tensor:
        real, fake = round.real.float(), round.fake.float()
        mix = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
        return self.weight * (round.gradient_at(torch.lerp(real, fake, mix)).norm(dim=1) - 1).square().mean()


class AuxiliaryClassifier(Term):
    """Cross-entropy of the classes that D names (ACGAN, Odena et al. 2017, arXiv:1610.09585, section 3).

    D learns from the real and the fake batch as if they were one, G from its fakes. A real image has its label. A fake one has,
    for D, the class "generated" if D's output has one more class than there are, and else, as for G always, the label it was made
    for. `classes`: how many there are. Raises ValueError where D's output has another number of classes.
    """

    def __init__(self, player: Player, classes: int | None, weight: float = 1.0):
        super().__init__(weight)
        if not classes:
            raise ValueError("classes: an auxiliary classifier needs data with classes, such as data=mnist")
        self.player, self.classes = player, classes

    def forward(self, round: Round) -> Tensor:
        if self.player == "generator":
            return self.weight * F.cross_entropy(self.named(round, "fake"), round.y)
        losses = []
        for side in ("real", "fake"):
            named = self.named(round, side)
            generated = side == "fake" and named.shape[1] == self.classes + 1
            wanted = torch.full_like(round.y, self.classes) if generated else round.y
            losses.append(F.cross_entropy(named, wanted))
            round.scalars[f"accuracy/{side}"] = (named.argmax(1) == wanted).float().mean()
        return self.weight * (losses[0] + losses[1]) / 2

    def named(self, round: Round, side: str) -> Tensor:
        named = round.output(side).classes
        if named is None or named.shape[1] not in (self.classes, self.classes + 1):
            count = 0 if named is None else named.shape[1]
            raise ValueError(
                f"the discriminator names {count} classes; set model.discriminator.auxiliary to {self.classes}, "
                f'or to {self.classes + 1} with a class for "generated"'
            )
        return named
