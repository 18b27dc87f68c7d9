"""The Fréchet distance between two sets of features (Heusel et al. 2017, arXiv:1706.08500, equation 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ganexp.metrics.metric import FeatureMetric


def frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """Returns |mean_a - mean_b|² + tr(cov_a + cov_b - 2 (cov_a cov_b)^½) in float64; never complex, NaN or negative.

    tr (AB)^½ is the sum of the roots of the eigenvalues of A^½ B A^½, which is symmetric. With fewer samples than dimensions many
    eigenvalues are 0 up to rounding errors; they are set to 0, since the root of 1e-14 would be 1e-7.
    """
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = vectors * safe_sqrt(values) @ vectors.T
    cross = safe_sqrt(torch.linalg.eigvalsh(root_a @ cov_b @ root_a)).sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return distance.clamp(min=0)


def safe_sqrt(eigenvalues: Tensor) -> Tensor:
    """Returns square roots, 0 for eigenvalues below the rounding error."""
    smallest = eigenvalues.max() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return eigenvalues.where(eigenvalues > smallest, 0).sqrt()


class FID(FeatureMetric):
    """The Fréchet distance between features, ≥ 0, lower is better. Sums in float64: constant memory, exact over ranks.

    Raises ValueError also if all real or all generated samples are identical.
    """

    names = ("fid",)
    dim = 0

    def add(self, features: Tensor, kind: str, y: Tensor | None) -> None:
        f = features.double()
        if not self.dim:
            self.add_sums(f.shape[1])
        for name, value in (("sum", f.sum(0)), ("products", f.T @ f)):
            state = getattr(self, f"{kind}_{name}")
            state += value

    @property
    def biased_below(self) -> int:
        return max(self.dim, 2048)

    def add_sums(self, dim: int) -> None:
        """Adds the states, whose shape is known from the first batch on."""
        self.dim = dim
        for kind in self.kinds:
            self.add_state(f"{kind}_sum", torch.zeros(dim, dtype=torch.float64), "sum")
            self.add_state(f"{kind}_products", torch.zeros(dim, dim, dtype=torch.float64), "sum")
        self.to(self.device)

    def moments(self, kind: str) -> tuple[Tensor, Tensor]:
        n, total, products = (getattr(self, f"{kind}_{name}") for name in ("count", "sum", "products"))
        mean = total / n
        covariance = (products - n * torch.outer(mean, mean)) / (n - 1)
        self.check_varied(kind, covariance.trace() > 1e-12 * (1 + mean.square().sum()))
        return mean, covariance

    def values(self) -> Sequence[Tensor]:
        return [frechet(*self.moments("real"), *self.moments("fake"))]
