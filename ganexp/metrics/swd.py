"""Sliced Wasserstein distance (Rabin et al. 2011; Bonneel et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures


class SlicedWasserstein(CachedFeatures):
    """Mean over random directions of the Wasserstein-1 distance of the projections, ≥ 0, smaller is better.

    `directions`: drawn from a fixed seed, the same for every call. Both sides are compared quantile by quantile, so their counts
    may differ.
    """

    names = ("swd",)
    min_samples = 1

    def __init__(self, features: Extractor, directions: int = 256):
        super().__init__(features)
        if directions < 1:
            raise ValueError(f"directions: at least 1, not {directions}")
        self.directions = directions

    @property
    def settings(self) -> dict[str, Any]:
        return {"directions": self.directions}

    def values(self) -> Sequence[Tensor]:
        real, fake = self.cached("real"), self.cached("fake")
        seeded = torch.Generator().manual_seed(0)
        directions = torch.randn(real.shape[1], self.directions, generator=seeded).to(real.device)
        directions /= directions.norm(dim=0)
        a, b = (real @ directions).sort(0).values, (fake @ directions).sort(0).values
        if len(a) != len(b):
            n = max(len(a), len(b))
            a, b = (stretch(side, n) for side in (a, b))
        return [(a - b).abs().mean()]


def stretch(ordered: Tensor, n: int) -> Tensor:
    """n evenly spaced quantiles of the sorted rows [m, k]."""
    return ordered[(torch.arange(n, device=ordered.device) + 0.5).mul(len(ordered) / n).long()]
