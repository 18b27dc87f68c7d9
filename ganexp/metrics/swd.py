"""Sliced Wasserstein distance (Rabin et al. 2011; Bonneel et al. 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from ganexp.metrics.features import finite


class SlicedWasserstein(Metric):
    """Mean over random directions of the Wasserstein-1 distance of the projections, ≥ 0, smaller is better.

    `features`: an extractor, x -> [N, dim]. `directions`: drawn from a fixed seed, the same for every call. Both sides are
    compared quantile by quantile, so their counts may differ. Raises ValueError for an empty side and for samples that are
    not finite.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, features: nn.Module, directions: int = 256):
        super().__init__()
        if directions < 1:
            raise ValueError(f"directions: at least 1, not {directions}")
        self.features, self.directions = features, directions
        self.name = f"swd/{features.name}"
        self.add_state("real", [], "cat")
        self.add_state("fake", [], "cat")

    def update(self, x: Tensor, real: bool) -> None:
        f = finite(self.features(x).float(), self.name, real)
        (self.real if real else self.fake).append(f)  # type: ignore[union-attr, operator]

    def compute(self) -> Any:
        if not len(self.real) or not len(self.fake):  # type: ignore[arg-type]
            raise ValueError(f"{self.name}: no samples on one side")
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)  # type: ignore[arg-type]
        seeded = torch.Generator().manual_seed(0)
        directions = torch.randn(real.shape[1], self.directions, generator=seeded).to(real.device)
        directions /= directions.norm(dim=0)
        a, b = (real @ directions).sort(0).values, (fake @ directions).sort(0).values
        if len(a) != len(b):
            n = max(len(a), len(b))
            a, b = (stretch(side, n) for side in (a, b))
        return (a - b).abs().mean()


def stretch(ordered: Tensor, n: int) -> Tensor:
    """n evenly spaced quantiles of the sorted rows [m, k]."""
    return ordered[(torch.arange(n, device=ordered.device) + 0.5).mul(len(ordered) / n).long()]
