"""Losses. A loss sees tensors and nothing else.

An adversarial loss sees logits [N, 1]: `discriminator(real, fake)` gives named terms whose sum is minimised, `generator(fake,
real)` gives a scalar. A class with `needs_real = True` is given the real logits for the generator's loss too; the others are
given None. Most have a term for each side: see TwoSided.

Two are for systems without a discriminator: MMD compares samples (model=gmmn), ELBO is a bound (model=vae).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Target = float | Sequence[float]


def sample_targets(target: Target, like: Tensor) -> Tensor:
    """A label for every sample: the number itself, or one sampled from U(low, high)."""
    if isinstance(target, Sequence):
        low, high = target
        return torch.empty_like(like).uniform_(low, high)
    return torch.full_like(like, target)


class TwoSided:
    """A loss whose terms on the real and on the fake batch do not depend on each other: D may learn from each in turn."""

    needs_real = False

    def real(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def fake(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"real": self.real(real), "fake": self.fake(fake)}


class BCE(TwoSided):
    """Binary cross-entropy, non-saturating for G (Goodfellow et al. 2014, section 3).

    `real`, `fake`: D's targets; `generator`: G's target for its fakes. A number in [0, 1], or [low, high]: sampled per
    sample. real=0.9 is one-sided smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4).
    `weight`: of each of D's two terms; 0.5 makes their sum the mean over both batches, as if they were one.
    Raises ValueError for a target outside [0, 1] and a weight of 0 or less.
    """

    def __init__(self, real: Target = 1.0, fake: Target = 0.0, generator: Target = 1.0, weight: float = 1.0):
        for name, target in (("real", real), ("fake", fake), ("generator", generator)):
            ends = list(target) if isinstance(target, Sequence) else [target, target]
            if len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= 1:
                raise ValueError(f"{name}: a target is a number in [0, 1] or [low, high] within it, not {target}")
        if weight <= 0:
            raise ValueError(f"weight: more than 0, not {weight}")
        self.targets, self.weight = {"real": real, "fake": fake, "generator": generator}, weight

    def real(self, logits: Tensor) -> Tensor:
        return self.weight * F.binary_cross_entropy_with_logits(logits, sample_targets(self.targets["real"], logits))

    def fake(self, logits: Tensor) -> Tensor:
        return self.weight * F.binary_cross_entropy_with_logits(logits, sample_targets(self.targets["fake"], logits))

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return F.binary_cross_entropy_with_logits(fake, sample_targets(self.targets["generator"], fake))


class Hinge(TwoSided):
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim & Ye 2017, arXiv:1705.02894)."""

    def real(self, logits: Tensor) -> Tensor:
        return F.relu(1 - logits).mean()

    def fake(self, logits: Tensor) -> Tensor:
        return F.relu(1 + logits).mean()

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()


class Wasserstein(TwoSided):
    """D(G(z)) - D(x) (Arjovsky et al. 2017, arXiv:1701.07875). D must be kept Lipschitz: regularizer=[wgan_gp]."""

    def real(self, logits: Tensor) -> Tensor:
        return -logits.mean()

    def fake(self, logits: Tensor) -> Tensor:
        return logits.mean()

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()


class LeastSquares(TwoSided):
    """(D(x) - 1)² / 2 + D(G(z))² / 2 (Mao et al. 2017, arXiv:1611.04076, equation 9)."""

    def real(self, logits: Tensor) -> Tensor:
        return (logits - 1).square().mean() / 2

    def fake(self, logits: Tensor) -> Tensor:
        return logits.square().mean() / 2

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


class TopK:
    """Another adversarial `loss`, of which G sees only the `fraction` of its fakes that D finds most real (Sinha et al. 2020,
    arXiv:2002.06224, section 3); at least one. D's side is unchanged.

    Published: the fraction falls by 1 % an epoch, down to 0.5; see anneal=[top_k]. Raises ValueError outside (0, 1].
    """

    def __init__(self, loss: Any, fraction: float = 1.0):
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: in (0, 1], not {fraction}")
        self.loss, self.fraction = loss, fraction

    def __getattr__(self, name: str) -> Any:
        """D's side, and whatever else the other loss has."""
        if "loss" not in self.__dict__:  # while it is copied
            raise AttributeError(name)
        return getattr(self.loss, name)

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        best = fake.mean(1).topk(max(1, round(self.fraction * len(fake)))).indices.sort().values
        return self.loss.generator(fake[best], None if real is None else real[best])


class MMD:
    """The squared maximum mean discrepancy of two batches of samples [N, …], [M, …]: unbiased, so 0 on average for equal
    distributions and then also below (Gretton et al. 2012, JMLR 13, equation 3); differentiable in both.

    Minimising it trains a generator with no discriminator (Li et al. 2015, arXiv:1502.02761; Dziugaite et al. 2015,
    arXiv:1505.03906). The kernel is the mean of Gaussians exp(-|a - b|² / (2 (w s)²)) of several widths w, where s² is the mean
    squared distance of the real samples. Raises ValueError for a width of 0 or less, and below two samples a side.
    """

    def __init__(self, widths: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0)):
        if not widths or min(widths) <= 0:
            raise ValueError(f"widths: one or more, all above 0, not {list(widths)}")
        self.widths = list(widths)

    def __call__(self, fake: Tensor, real: Tensor) -> Tensor:
        if min(len(fake), len(real)) < 2:
            raise ValueError(f"MMD takes at least two samples a side, not {len(fake)} and {len(real)}")
        with torch.autocast(fake.device.type, enabled=False):  # squares of differences do not survive bf16
            centre = real.flatten(1).mean(0)  # distances do not change, their rounding does
            fake, real = fake.flatten(1) - centre, real.flatten(1) - centre
            scale = (2 * real.var(0, correction=0).sum()).clamp(min=1e-12)  # the mean of |a - b|² over all pairs
            within = [(self.kernel_sum(x, x, scale) - len(x)) / (len(x) * (len(x) - 1)) for x in (fake, real)]
            return within[0] + within[1] - 2 * self.kernel_sum(fake, real, scale) / (len(fake) * len(real))

    def kernel_sum(self, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        """The kernel's sum over all pairs, by blocks of rows: a large set is compared in little memory."""
        total = a.new_zeros(())
        for rows in a.split(1024):
            squared = (rows.square().sum(1)[:, None] + b.square().sum(1) - 2 * rows @ b.T).clamp(min=0) / scale
            total = total + sum((squared / (-2 * w**2)).exp().sum() for w in self.widths) / len(self.widths)
        return total


class ELBO:
    """The variational bound of a Gaussian VAE, in nats per sample, negated (Kingma & Welling 2014, arXiv:1312.6114, equation 10).

    `beta`: weight of the divergence from the prior (Higgins et al. 2017). `sigma`: deviation of the decoder's pixels, in units of
    [-1, 1]; null takes the best one for each batch, the root mean squared error (Rybkin et al. 2021, arXiv:2006.13202, equation
    6), which balances both terms by itself. Constants are left out. Raises ValueError for numbers below 0.
    """

    def __init__(self, beta: float = 1.0, sigma: float | None = 1.0):
        if beta < 0:
            raise ValueError(f"beta: at least 0, not {beta}")
        if sigma is not None and sigma <= 0:
            raise ValueError(f"sigma: more than 0, or null for the best, not {sigma}")
        self.beta, self.sigma = beta, sigma

    def __call__(self, reconstruction: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
        """`mean`, `log_variance` [N, dim]: the encoder's."""
        pixels = x[0].numel()
        error = (reconstruction - x).square().mean()
        if self.sigma is None:
            likelihood = pixels / 2 * error.log()
        else:
            likelihood = pixels / 2 * error / self.sigma**2
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return {"reconstruction": likelihood, "divergence": self.beta * divergence}
