"""Losses: functions of tensors only.

An adversarial loss takes logits [N, K]. `discriminator(real, fake)` returns named terms whose sum D minimizes; `generator(fake,
real)` returns a scalar, where `real` is None unless the class has `needs_real = True`. Most have one term for real and one for
fake logits: see TwoSided.

Two losses are for systems without a discriminator: MMD compares samples (model=gmmn), ELBO is a bound (model=vae).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Target = float | Sequence[float]


def sample_targets(target: Target, like: Tensor) -> Tensor:
    """Returns a target for every logit: the number itself, or a sample of U(low, high)."""
    if isinstance(target, Sequence):
        low, high = target
        return torch.empty_like(like).uniform_(low, high)
    return torch.full_like(like, target)


class TwoSided:
    """A loss with independent terms for real and fake logits, so that D can be updated on each batch separately."""

    needs_real = False

    def real(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def fake(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"real": self.real(real), "fake": self.fake(fake)}


class BCE(TwoSided):
    """Binary cross-entropy, non-saturating for G (Goodfellow et al. 2014, section 3).

    `real`, `fake`: D's targets; `generator`: G's target for its fakes. Each is a number in [0, 1], or a range [low, high] that is
    sampled per logit. real=0.9 is one-sided smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4). `weight`: factor on
    both terms of D; 0.5 makes their sum the mean over a joint batch. Raises ValueError for a target outside [0, 1] and a weight
    of 0 or less.
    """

    def __init__(self, real: Target = 1.0, fake: Target = 0.0, generator: Target = 1.0, weight: float = 1.0):
        for name, target in (("real", real), ("fake", fake), ("generator", generator)):
            ends = list(target) if isinstance(target, Sequence) else [target, target]
            if len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= 1:
                raise ValueError(f"{name}: must be a number in [0, 1], or a range [low, high] within it, got {target}")
        if weight <= 0:
            raise ValueError(f"weight: must be above 0, got {weight}")
        self.targets, self.weight = {"real": real, "fake": fake, "generator": generator}, weight

    def real(self, logits: Tensor) -> Tensor:
        return self.weight * F.binary_cross_entropy_with_logits(logits, sample_targets(self.targets["real"], logits))

    def fake(self, logits: Tensor) -> Tensor:
        return self.weight * F.binary_cross_entropy_with_logits(logits, sample_targets(self.targets["fake"], logits))

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return F.binary_cross_entropy_with_logits(fake, sample_targets(self.targets["generator"], fake))


class Hinge(TwoSided):
    """max(0, m - D(x)) + max(0, m + D(G(z))) (Lim & Ye 2017, arXiv:1705.02894).

    `margin`: m, a number above 0, or a range [low, high] that is sampled per logit, [0.8, 1] in FastGAN. Raises ValueError for
    another margin.
    """

    def __init__(self, margin: Target = 1.0):
        ends = list(margin) if isinstance(margin, Sequence) else [margin, margin]
        if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
            raise ValueError(f"margin: must be a number above 0, or a range [low, high] of such numbers, got {margin}")
        self.margin = margin

    def real(self, logits: Tensor) -> Tensor:
        return F.relu(sample_targets(self.margin, logits) - logits).mean()

    def fake(self, logits: Tensor) -> Tensor:
        return F.relu(sample_targets(self.margin, logits) + logits).mean()

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()


class Wasserstein(TwoSided):
    """D(G(z)) - D(x) (Arjovsky et al. 2017, arXiv:1701.07875). D must be Lipschitz: use regularizer=[wgan_gp]."""

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
    """softplus(D(G(z)) - D(x)) over pairs; G minimizes softplus(D(x) - D(G(z))) (RpGAN, Jolicoeur-Martineau 2019; R3GAN, Huang et
    al. 2024, arXiv:2501.05441, section 2). Use with regularizer=[r1,r2]."""

    needs_real = True

    def discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"pair": F.softplus(fake - real).mean()}

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        assert real is not None  # needs_real
        return F.softplus(real - fake).mean()


class TopK:
    """Wraps an adversarial `loss`: G learns only from the `fraction` of its fakes with the largest logits, at least one (Sinha et
    al. 2020, arXiv:2002.06224, section 3). D's loss is unchanged.

    As published, the fraction falls by 1 % per epoch, down to 0.5: see anneal=[top_k]. Raises ValueError outside (0, 1].
    """

    def __init__(self, loss: Any, fraction: float = 1.0):
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: must be in (0, 1], got {fraction}")
        self.loss, self.fraction = loss, fraction

    def __getattr__(self, name: str) -> Any:
        """Delegates everything but the generator's loss."""
        if "loss" not in self.__dict__:  # during copy.copy, which would recurse
            raise AttributeError(name)
        return getattr(self.loss, name)

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        best = fake.mean(1).topk(max(1, round(self.fraction * len(fake)))).indices.sort().values
        return self.loss.generator(fake[best], None if real is None else real[best])


class MMD:
    """The squared maximum mean discrepancy of two sets of samples [N, …], [M, …], unbiased: for equal distributions it is 0 on
    average, and may be negative (Gretton et al. 2012, JMLR 13, equation 3). Differentiable in both.

    Minimizing it trains a generator without a discriminator (Li et al. 2015, arXiv:1502.02761; Dziugaite et al. 2015,
    arXiv:1505.03906). The kernel is the mean of Gaussians exp(-|a - b|² / (2 (w s)²)) of several widths w, where s² is the mean
    squared distance between real samples. Raises ValueError for a width of 0 or less, and for fewer than two samples in a set.
    """

    def __init__(self, widths: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0)):
        if not widths or min(widths) <= 0:
            raise ValueError(f"widths: must be one or more numbers above 0, got {list(widths)}")
        self.widths = list(widths)

    def __call__(self, fake: Tensor, real: Tensor) -> Tensor:
        if min(len(fake), len(real)) < 2:
            raise ValueError(f"MMD needs at least two samples in each set, got {len(fake)} and {len(real)}")
        with torch.autocast(fake.device.type, enabled=False):  # squared differences lose too much precision in bf16
            centre = real.flatten(1).mean(0)  # smaller numbers, smaller rounding errors of the distances
            fake, real = fake.flatten(1) - centre, real.flatten(1) - centre
            scale = (2 * real.var(0, correction=0).sum()).clamp(min=1e-12)  # the mean of |a - b|² over all pairs
            within = [(self.kernel_sum(x, x, scale) - len(x)) / (len(x) * (len(x) - 1)) for x in (fake, real)]
            return within[0] + within[1] - 2 * self.kernel_sum(fake, real, scale) / (len(fake) * len(real))

    def kernel_sum(self, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        """Returns the sum of the kernel over all pairs, computed in blocks of rows to save memory."""
        total = a.new_zeros(())
        for rows in a.split(1024):
            squared = (rows.square().sum(1)[:, None] + b.square().sum(1) - 2 * rows @ b.T).clamp(min=0) / scale
            total = total + sum((squared / (-2 * w**2)).exp().sum() for w in self.widths) / len(self.widths)
        return total


class ELBO:
    """The negative evidence lower bound of a Gaussian VAE, in nats per sample, without constants (Kingma & Welling 2014,
    arXiv:1312.6114, equation 10).

    `beta`: weight of the KL divergence from the prior (Higgins et al. 2017). `sigma`: standard deviation of the decoder's pixels,
    in units of [-1, 1]; null uses the optimum for each batch, the root mean squared error (Rybkin et al. 2021, arXiv:2006.13202,
    equation 6), which balances the two terms. Raises ValueError for a beta below 0 and a sigma of 0 or less.
    """

    def __init__(self, beta: float = 1.0, sigma: float | None = 1.0):
        if beta < 0:
            raise ValueError(f"beta: must be at least 0, got {beta}")
        if sigma is not None and sigma <= 0:
            raise ValueError(f"sigma: must be above 0, got {sigma}; null uses the optimum")
        self.beta, self.sigma = beta, sigma

    def __call__(self, reconstruction: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
        """Returns the two terms. `mean`, `log_variance` [N, dim]: of q(z | x)."""
        pixels = x[0].numel()
        error = (reconstruction - x).square().mean()
        if self.sigma is None:
            likelihood = pixels / 2 * error.log()
        else:
            likelihood = pixels / 2 * error / self.sigma**2
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return {"reconstruction": likelihood, "divergence": self.beta * divergence}
