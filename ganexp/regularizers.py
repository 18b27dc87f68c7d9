"""Penalties on D. A regularizer sees a scoring function (logits [N, 1] of images) and the two batches; it returns a scalar.

`every`: apply at every n-th step, weighted n-fold (lazy regularization, Karras et al. 2020, arXiv:1912.04958, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]


def gradient(score: Score, x: Tensor) -> Tensor:
    """d score / d x, itself differentiable: [N, pixels]."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(score(x).sum(), x, create_graph=True)[0].flatten(1)


def checked(weight: float, every: int) -> tuple[float, int]:
    if weight < 0:
        raise ValueError(f"weight: at least 0, not {weight}")
    if every < 1:
        raise ValueError(f"every: at least every step, 1, not {every}")
    return weight, every


class R1:
    """weight / 2 · |grad D(x)|² at real images (Mescheder et al. 2018, arXiv:1801.04406, equation 9)."""

    def __init__(self, weight: float = 1.0, every: int = 1):
        self.weight, self.every = checked(weight, every)

    def __call__(self, score: Score, real: Tensor, fake: Tensor) -> Tensor:
        return self.weight / 2 * gradient(score, real).square().sum(1).mean()


class R2:
    """weight / 2 · |grad D(x)|² at fake images (same paper, equation 10)."""

    def __init__(self, weight: float = 1.0, every: int = 1):
        self.weight, self.every = checked(weight, every)

    def __call__(self, score: Score, real: Tensor, fake: Tensor) -> Tensor:
        return self.weight / 2 * gradient(score, fake).square().sum(1).mean()


class WGANGP:
    """weight · (|grad D(x)| - 1)² between real and fake (Gulrajani et al. 2017, arXiv:1704.00028, equation 3)."""

    def __init__(self, weight: float = 10.0, every: int = 1):
        self.weight, self.every = checked(weight, every)

    def __call__(self, score: Score, real: Tensor, fake: Tensor) -> Tensor:
        mix = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
        return self.weight * (gradient(score, torch.lerp(real, fake, mix)).norm(dim=1) - 1).square().mean()
