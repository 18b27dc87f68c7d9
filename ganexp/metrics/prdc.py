"""Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020, 2002.09797)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures


class PRDC(CachedFeatures):
    """Whether samples lie among the real ones (`precision`, `density`), and real ones among the samples (`recall`, `coverage`).

    A set's manifold is the union of balls around its members, each as large as the distance to its `k`-th neighbour. All are
    from 0 to 1, larger is better, but for density, which may be above 1. Raises ValueError for `k` or fewer samples.
    """

    names = ("precision", "recall", "density", "coverage")
    higher_is_better = True

    def __init__(self, features: Extractor, k: int = 5):
        super().__init__(features)
        if k < 1:
            raise ValueError(f"k: at least 1 neighbour, not {k}")
        self.k, self.min_samples = k, k + 1

    @property
    def settings(self) -> dict[str, Any]:
        return {"k": self.k}

    def values(self) -> Sequence[Tensor]:
        real, fake = self.cached("real"), self.cached("fake")
        for side, f in (("real", real), ("fake", fake)):
            self.refuse_alike(side, (f == f[0]).all())
        real_radii, fake_radii = self.radii(real), self.radii(fake)
        inside = torch.zeros(len(fake), dtype=torch.float64, device=fake.device)  # of how many real balls
        reached, covered = [], []
        for rows, radii in zip(real.split(1024), real_radii.split(1024), strict=True):
            distances = squared_distances(rows, fake)
            inside += (distances < radii[:, None]).sum(0)
            reached.append((distances < fake_radii).any(1))
            covered.append(distances.min(1).values < radii)
        precision, density = (inside > 0).double().mean(), inside.mean() / self.k
        return [precision, torch.cat(reached).double().mean(), density, torch.cat(covered).double().mean()]

    def radii(self, features: Tensor) -> Tensor:
        """The squared distance of each to its k-th neighbour: itself is the nearest."""
        return torch.cat([squared_distances(rows, features).kthvalue(self.k + 1).values for rows in features.split(1024)])


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """[N, M] of rows [N, dim] and [M, dim], in float64: differences of near rows survive."""
    a, b = a.double(), b.double()
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
