"""Adversarial losses. A loss sees logits [N, 1] and nothing else.

`discriminator(real, fake)` gives named terms whose sum is minimised; `generator(fake, real)` gives a scalar. A class
with `needs_real = True` is given the real logits for the generator's loss too; the others are given None.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Target = float | Sequence[float]


def draw(target: Target, like: Tensor) -> Tensor:
    """A label for every sample: the number itself, or one drawn from U(low, high)."""
    if isinstance(target, Sequence):
        low, high = target
        return torch.empty_like(like).uniform_(low, high)
    return torch.full_like(like, target)


class BCE:
    """Binary cross-entropy, non-saturating for G (Goodfellow et al. 2014, section 3).

    `real`, `fake`: D's targets; `generator`: G's target for its fakes. A number in [0, 1], or [low, high]: drawn per
    sample. real=0.9 is one-sided smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4).
    Raises ValueError for a target outside [0, 1].
    """

    needs_real = False

    def __init__(self, real: Target = 1.0, fake: Target = 0.0, generator: Target = 1.0):
        for name, target in (("real", real), ("fake", fake), ("generator", generator)):
            ends = list(target) if isinstance(target, Sequence) else [target, target]
            if len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= 1:
                raise ValueError(f"{name}: a target is a number in [0, 1] or [low, high] within it, not {target}")
        self.targets = {"real": real, "fake": fake, "generator": generator}

    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {
            "real": F.binary_cross_entropy_with_logits(real, draw(self.targets["real"], real)),
            "fake": F.binary_cross_entropy_with_logits(fake, draw(self.targets["fake"], fake)),
        }

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return F.binary_cross_entropy_with_logits(fake, draw(self.targets["generator"], fake))


class Hinge:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim & Ye 2017, arXiv:1705.02894)."""

    needs_real = False

    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"real": F.relu(1 - real).mean(), "fake": F.relu(1 + fake).mean()}

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()


class Wasserstein:
    """D(G(z)) - D(x) (Arjovsky et al. 2017, arXiv:1701.07875). D must be kept Lipschitz: regularizer=[wgan_gp]."""

    needs_real = False

    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"real": -real.mean(), "fake": fake.mean()}

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()


class LeastSquares:
    """(D(x) - 1)² / 2 + D(G(z))² / 2 (Mao et al. 2017, arXiv:1611.04076, equation 9)."""

    needs_real = False

    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"real": (real - 1).square().mean() / 2, "fake": fake.square().mean() / 2}

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return (fake - 1).square().mean() / 2


class Relativistic:
    """softplus(D(G(z)) - D(x)) over pairs; G's is the mirror (RpGAN, Jolicoeur-Martineau 2019; R3GAN, Huang et al. 2024,
    arXiv:2501.05441, section 2). At its best with regularizer=[r1,r2]-style penalties."""

    needs_real = True

    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"pair": F.softplus(fake - real).mean()}

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        assert real is not None  # needs_real
        return F.softplus(real - fake).mean()
