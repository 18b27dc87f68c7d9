"""Sharpness of images, compared with that of real ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import FeatureMetric


class Sharpness(FeatureMetric):
    """The mean sharpness [N, 1] of samples, divided by that of real images: below 1 they are blurred, above 1 noisy.

    Raises ValueError for real images without edges.
    """

    names = ("sharpness",)
    higher_is_better = None  # 1 is best
    min_samples = 1
    real_sum: Tensor
    fake_sum: Tensor
    real_count: Tensor
    fake_count: Tensor

    def __init__(self, features: Extractor):
        super().__init__(features)
        for kind in self.kinds:
            self.add_state(f"{kind}_sum", torch.zeros((), dtype=torch.float64), "sum")

    def add(self, features: Tensor, kind: str, y: Tensor | None) -> None:
        setattr(self, f"{kind}_sum", getattr(self, f"{kind}_sum") + features.double().sum())

    def values(self) -> Sequence[Tensor]:
        real, fake = self.real_sum / self.real_count, self.fake_sum / self.fake_count
        if not real > 0:
            raise ValueError(f"{self.name}: the real images have no edges")
        return [fake / real]
