"""The kernel inception distance (Bińkowski et al. 2018, arXiv:1801.01401, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures


class KID(CachedFeatures):
    """The unbiased squared MMD with the kernel (a·b / dim + 1)³: `kid`, the mean over random subsets, and `kid_sd`, the standard
    deviation. It may be negative if the distributions are equal.

    `subsets`: number of pairs of subsets with `subset_size` real and generated samples, chosen with a fixed seed as in
    torch-fidelity. Raises ValueError for fewer than `subset_size` samples.
    """

    names = ("kid", "kid_sd")

    def __init__(self, features: Extractor, subsets: int = 100, subset_size: int = 1000):
        super().__init__(features)
        if subsets < 1:
            raise ValueError(f"subsets: must be at least 1, got {subsets}")
        if subset_size < 2:
            raise ValueError(f"subset_size: must be at least 2, got {subset_size}")
        self.subsets, self.subset_size = subsets, subset_size
        self.min_samples = subset_size
        self.real_sums: tuple[Tensor, Tensor, Tensor] | None = None  # cached: subsets, features, and their kernel sums

    @property
    def settings(self) -> dict[str, Any]:
        return {"subsets": self.subsets, "subset_size": self.subset_size}

    def values(self) -> Sequence[Tensor]:
        real, fake = self.cached("real").double(), self.cached("fake").double()
        m = self.subset_size
        random = np.random.RandomState(2020)
        in_fake, in_real = torch.zeros(2, self.subsets, max(len(fake), len(real)), dtype=torch.float64)
        for k in range(self.subsets):
            in_fake[k, random.choice(len(fake), m, replace=False)] = 1
            in_real[k, random.choice(len(real), m, replace=False)] = 1
        in_fake, in_real = in_fake[:, : len(fake)].to(fake.device), in_real[:, : len(real)].to(real.device)
        if self.real_sums is None or not (in_real.equal(self.real_sums[0]) and real.equal(self.real_sums[1])):
            # The same throughout a run; recomputing would take a third of the time.
            self.real_sums = in_real, real, self.kernel_sums(real, in_real, real, in_real) - in_real @ kernel(real, real)
        within = self.kernel_sums(fake, in_fake, fake, in_fake) - in_fake @ kernel(fake, fake) + self.real_sums[2]
        values = within / (m * (m - 1)) - 2 * self.kernel_sums(fake, in_fake, real, in_real) / m**2
        return [values.mean(), values.std(correction=0)]

    @staticmethod
    def kernel_sums(a: Tensor, in_a: Tensor, b: Tensor, in_b: Tensor) -> Tensor:
        """Returns the sum of the kernel over all pairs of each subset. `in_a`, `in_b` [subsets, N]: 1 for members, else 0.

        The kernel of all samples, in blocks of rows, is computed once for all subsets."""
        total, one = a.new_zeros(len(in_a)), a.new_ones(1, 1)
        for rows, members in zip(a.split(1024), in_a.split(1024, 1), strict=True):
            kernels = torch.addmm(one, rows, b.T, alpha=1 / a.shape[1]).pow_(3)  # in place: this takes most of the time
            total += (kernels @ in_b.T * members.T).sum(0)
        return total


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Returns the kernel [N] of corresponding rows [N, dim]."""
    return ((a * b).sum(1) / a.shape[1] + 1) ** 3
