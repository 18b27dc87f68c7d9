"""How many modes of the data do the samples reach? (Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, 1712.04086)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ganexp.metrics.features import Data
from ganexp.metrics.labels import read
from ganexp.metrics.metric import FeatureMetric


class Modes(FeatureMetric):
    """Of a mixture of Gaussians: `high_quality`, the share of samples within three deviations of a centre; `modes`, the number of
    centres with at least one such sample; `reverse_kl`, the divergence in nats of the samples' distribution over the nearest
    centres from the even one.

    The centres and their deviation are the data's own. Raises ValueError for data that has none.
    """

    names = ("high_quality", "modes", "reverse_kl")
    higher_is_better = True
    sides = ("fake",)
    centres: Tensor
    near: Tensor
    nearest: Tensor
    fake_count: Tensor

    def setup(self, data: Data) -> None:
        super().setup(data)
        if not hasattr(data, "centres"):
            raise ValueError("modes: counts the modes of data=ring and data=grid; of labelled images metrics=[class_modes]")
        self.sigma = float(data.sigma)  # type: ignore[attr-defined]
        self.register_buffer("centres", torch.as_tensor(data.centres, dtype=torch.float32), persistent=False)
        self.add_state("near", torch.zeros(len(self.centres), dtype=torch.int64), "sum")
        self.add_state("nearest", torch.zeros(len(self.centres), dtype=torch.int64), "sum")

    @property
    def settings(self) -> dict[str, Any]:
        return {"centres": len(self.centres), "sigma": self.sigma}

    def add(self, features: Tensor, side: str, y: Tensor | None) -> None:
        distances = torch.cdist(features, self.centres)
        nearest = distances.argmin(1)
        near = nearest[distances.min(1).values <= 3 * self.sigma]
        self.nearest = self.nearest + nearest.bincount(minlength=len(self.centres))
        self.near = self.near + near.bincount(minlength=len(self.centres))

    def values(self) -> Sequence[Tensor]:
        even = torch.full_like(self.near, 1, dtype=torch.float64) / len(self.near)
        quality = self.near.sum() / self.fake_count
        return [quality, (self.near > 0).sum(), divergence(self.nearest, even)]


class ClassModes(FeatureMetric):
    """Of labelled images, each class a mode: `modes`, the number of classes that a classifier reads in the samples, and
    `reverse_kl`, the divergence in nats of their distribution from the real labels'."""

    names = ("modes", "reverse_kl")
    higher_is_better = True
    output = "logits"
    real_labels: Tensor
    fake_labels: Tensor

    def setup(self, data: Data) -> None:
        super().setup(data)
        for side in self.sides:
            self.add_state(f"{side}_labels", torch.zeros(data.classes, dtype=torch.int64), "sum")

    def add(self, features: Tensor, side: str, y: Tensor | None) -> None:
        labels = read(features)
        counts = getattr(self, f"{side}_labels")
        setattr(self, f"{side}_labels", counts + labels.bincount(minlength=len(counts)))

    def values(self) -> Sequence[Tensor]:
        real = (self.real_labels + 1) / (self.real_labels + 1).sum()
        return [(self.fake_labels > 0).sum(), divergence(self.fake_labels, real.double())]


def divergence(counts: Tensor, other: Tensor) -> Tensor:
    """KL of the distribution of some counts [M] from probabilities [M], in nats."""
    p = counts.double() / counts.sum()
    return torch.special.xlogy(p, p / other).sum()
