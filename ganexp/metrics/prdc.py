"""Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020, 2002.09797)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures


class PRDC(CachedFeatures):
    """Whether samples are close to real ones (`precision`, `density`), and real ones to samples (`recall`, `coverage`).

    A set's manifold is the union of balls around its members, with the distance to the `k`-th nearest neighbour as radius. Values
    are in [0, 1], density may be above 1; higher is better. Raises ValueError for `k` or fewer samples.
    """

    names = ("precision", "recall", "density", "coverage")
    higher_is_better = True

    def __init__(self, features: Extractor, k: int = 5):
        super().__init__(features)
        if k < 1:
            raise ValueError(f"k: must be at least 1, got {k}")
        self.k, self.min_samples = k, k + 1

    @property
    def settings(self) -> dict[str, Any]:
        return {"k": self.k}

    def values(self) -> Sequence[Tensor]:
        real, fake = self.cached("real"), self.cached("fake")
        for kind, f in (("real", real), ("fake", fake)):
            self.check_varied(kind, (f != f[0]).any())
        real_radii, fake_radii = self.radii(real), self.radii(fake)
        inside = torch.zeros(len(fake), dtype=torch.float64, device=fake.device)  # number of real balls around each sample
        recalled, covered = [], []
        for rows, radii in zip(real.split(1024), real_radii.split(1024), strict=True):
            distances = squared_distances(rows, fake)
            inside += (distances < radii[:, None]).sum(0)
            recalled.append((distances < fake_radii).any(1))
            covered.append(distances.min(1).values < radii)
        precision, density = (inside > 0).double().mean(), inside.mean() / self.k
        return [precision, torch.cat(recalled).double().mean(), density, torch.cat(covered).double().mean()]

    def radii(self, features: Tensor) -> Tensor:
        """Returns each row's squared distance to its k-th nearest neighbour, not counting itself."""
        return torch.cat([squared_distances(rows, features).kthvalue(self.k + 1).values for rows in features.split(1024)])


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Returns squared distances [N, M] between rows [N, dim] and [M, dim], in float64 to avoid cancellation."""
    a, b = a.double(), b.double()
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
