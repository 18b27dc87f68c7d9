"""Kernel inception distance (Bińkowski et al. 2018, arXiv:1801.01401, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures


class KID(CachedFeatures):
    """The squared MMD with the kernel (a·b / dim + 1)³, unbiased: `kid`, its mean over random subsets, and their standard
    deviation, `kid_sd`. Below 0 is possible where the two sets are equally distributed.

    `subsets` of `subset_size` samples a side; drawn from a fixed seed, as torch-fidelity draws them. Raises ValueError for fewer
    samples than a subset has.
    """

    names = ("kid", "kid_sd")

    def __init__(self, features: Extractor, subsets: int = 100, subset_size: int = 1000):
        super().__init__(features)
        if subsets < 1 or subset_size < 2:
            raise ValueError("subsets, subset_size: at least 1 subset of 2 samples")
        self.subsets, self.subset_size = subsets, subset_size
        self.min_samples = subset_size
        self.of_real: tuple[Tensor, Tensor, Tensor] | None = None  # subsets, features, and what is known of them

    @property
    def settings(self) -> dict[str, Any]:
        return {"subsets": self.subsets, "subset_size": self.subset_size}

    def values(self) -> Sequence[Tensor]:
        real, fake = self.cached("real").double(), self.cached("fake").double()
        m = self.subset_size
        random = np.random.RandomState(2020)
        of_fake, of_real = torch.zeros(2, self.subsets, max(len(fake), len(real)), dtype=torch.float64)
        for k in range(self.subsets):
            of_fake[k, random.choice(len(fake), m, replace=False)] = 1
            of_real[k, random.choice(len(real), m, replace=False)] = 1
        of_fake, of_real = of_fake[:, : len(fake)].to(fake.device), of_real[:, : len(real)].to(real.device)
        if self.of_real is None or not (of_real.equal(self.of_real[0]) and real.equal(self.of_real[1])):
            # In a run it is always the same: a third of the time.
            self.of_real = of_real, real, self.kernel_sums(real, of_real, real, of_real) - of_real @ kernel(real, real)
        within = self.kernel_sums(fake, of_fake, fake, of_fake) - of_fake @ kernel(fake, fake) + self.of_real[2]
        values = within / (m * (m - 1)) - 2 * self.kernel_sums(fake, of_fake, real, of_real) / m**2
        return [values.mean(), values.std(correction=0)]

    @staticmethod
    def kernel_sums(a: Tensor, of_a: Tensor, b: Tensor, of_b: Tensor) -> Tensor:
        """For each subset the sum of the kernel over all its pairs: one kernel of all samples, by blocks, serves all subsets."""
        total, one = a.new_zeros(len(of_a)), a.new_ones(1, 1)
        for rows, chosen in zip(a.split(1024), of_a.split(1024, 1), strict=True):
            kernels = torch.addmm(one, rows, b.T, alpha=1 / a.shape[1]).pow_(3)  # in place: this is most of the metric's time
            total += (kernels @ of_b.T * chosen.T).sum(0)
        return total


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Of rows [N, dim] in pairs: [N]."""
    return ((a * b).sum(1) / a.shape[1] + 1) ** 3
