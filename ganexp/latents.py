"""Priors over z."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Latent(Protocol):
    """A prior over z: `sample` returns z [n, dim]."""

    dim: int

    def sample(self, n: int, device: torch.device) -> Tensor: ...


def check_dim(dim: int) -> int:
    if dim < 1:
        raise ValueError(f"dim: must be at least 1, got {dim}")
    return dim


class Normal:
    """z ~ N(0, 1)."""

    def __init__(self, dim: int = 100):
        self.dim = check_dim(dim)

    def sample(self, n: int, device: torch.device) -> Tensor:
        return torch.randn(n, self.dim, device=device)


class Uniform:
    """z ~ U(-1, 1)."""

    def __init__(self, dim: int = 100):
        self.dim = check_dim(dim)

    def sample(self, n: int, device: torch.device) -> Tensor:
        return torch.rand(n, self.dim, device=device) * 2 - 1
