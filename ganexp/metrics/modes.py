"""Coverage of the data's modes (Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, 1712.04086)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ganexp.metrics.features import Data
from ganexp.metrics.labels import predicted_labels
from ganexp.metrics.metric import FeatureMetric


class Modes(FeatureMetric):
    """For a mixture of Gaussians: `high_quality`, the fraction of samples within three standard deviations of a centre; `modes`,
    the number of centres with at least one such sample; `reverse_kl`, the KL divergence, in nats, of the distribution over the
    nearest centres from the uniform one.

    Centres and standard deviation are given by the data. Raises ValueError for data without centres.
    """

    names = ("high_quality", "modes", "reverse_kl")
    higher_is_better = True
    kinds = ("fake",)
    centres: Tensor
    near: Tensor
    nearest: Tensor
    fake_count: Tensor

    def setup(self, data: Data) -> None:
        super().setup(data)
        if not hasattr(data, "centres"):
            raise ValueError("modes: needs data=ring or data=grid; for labelled images choose metrics=[class_modes]")
        self.sigma = float(data.sigma)  # type: ignore[attr-defined]
        self.register_buffer("centres", torch.as_tensor(data.centres, dtype=torch.float32), persistent=False)
        self.add_state("near", torch.zeros(len(self.centres), dtype=torch.int64), "sum")
        self.add_state("nearest", torch.zeros(len(self.centres), dtype=torch.int64), "sum")

    @property
    def settings(self) -> dict[str, Any]:
        return {"centres": len(self.centres), "sigma": self.sigma}

    def add(self, features: Tensor, kind: str, y: Tensor | None) -> None:
        distances = torch.cdist(features, self.centres)
        nearest = distances.argmin(1)
        near = nearest[distances.min(1).values <= 3 * self.sigma]
        self.nearest = self.nearest + nearest.bincount(minlength=len(self.centres))
        self.near = self.near + near.bincount(minlength=len(self.centres))

    def values(self) -> Sequence[Tensor]:
        uniform = torch.full_like(self.near, 1, dtype=torch.float64) / len(self.near)
        quality = self.near.sum() / self.fake_count
        return [quality, (self.near > 0).sum(), divergence(self.nearest, uniform)]


class ClassModes(FeatureMetric):
    """For labelled images, where each class is a mode: `modes`, the number of classes that a classifier predicts for the samples,
    and `reverse_kl`, the KL divergence, in nats, of their distribution from the data's `class_probabilities`.

    N samples of a perfect generator have a reverse KL of about (classes - 1) / (2 N), since their frequencies vary. Raises
    ValueError for data without labels.
    """

    names = ("modes", "reverse_kl")
    higher_is_better = True
    output = "logits"
    kinds = ("fake",)
    probabilities: Tensor
    predicted: Tensor

    def setup(self, data: Data) -> None:
        if data.classes < 2:
            raise ValueError("class_modes: needs data with labels; for data=ring or data=grid choose metrics=[modes]")
        super().setup(data)
        self.register_buffer("probabilities", data.class_probabilities, persistent=False)
        self.add_state("predicted", torch.zeros(data.classes, dtype=torch.int64), "sum")

    def add(self, features: Tensor, kind: str, y: Tensor | None) -> None:
        self.predicted = self.predicted + predicted_labels(features).bincount(minlength=len(self.predicted))

    def values(self) -> Sequence[Tensor]:
        return [(self.predicted > 0).sum(), divergence(self.predicted, self.probabilities)]


def divergence(counts: Tensor, other: Tensor) -> Tensor:
    """Returns the KL divergence, in nats, of the distribution of counts [M] from probabilities [M]."""
    p = counts.double() / counts.sum()
    return torch.special.xlogy(p, p / other).sum()
