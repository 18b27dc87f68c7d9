"""The sliced Wasserstein distance (Rabin et al. 2011; Bonneel et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures


class SlicedWasserstein(CachedFeatures):
    """The mean over random directions of the Wasserstein-1 distance between projections, ≥ 0, lower is better.

    `directions`: number of directions, sampled with a fixed seed. Quantiles are compared, so that the numbers of real and
    generated samples may differ.
    """

    names = ("swd",)
    min_samples = 1

    def __init__(self, features: Extractor, directions: int = 256):
        super().__init__(features)
        if directions < 1:
            raise ValueError(f"directions: must be at least 1, got {directions}")
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
            a, b = (quantiles(projected, n) for projected in (a, b))
        return [(a - b).abs().mean()]


def quantiles(rows: Tensor, n: int) -> Tensor:
    """Returns n evenly spaced quantiles of sorted rows [m, k]: [n, k]."""
    return rows[(torch.arange(n, device=rows.device) + 0.5).mul(len(rows) / n).long()]
