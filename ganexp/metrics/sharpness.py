"""How sharp are the images?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import FeatureMetric


class Sharpness(FeatureMetric):
    """The mean of a measure of sharpness [N, 1], the samples' over the real ones': below 1 is blurred, above 1 is noise.

    Raises ValueError for real images without an edge.
    """

    names = ("sharpness",)
    higher_is_better = None  # 1 is right
    min_samples = 1
    real_sum: Tensor
    fake_sum: Tensor
    real_count: Tensor
    fake_count: Tensor

    def __init__(self, features: Extractor):
        super().__init__(features)
        for side in self.sides:
            self.add_state(f"{side}_sum", torch.zeros((), dtype=torch.float64), "sum")

    def add(self, features: Tensor, side: str, y: Tensor | None) -> None:
        setattr(self, f"{side}_sum", getattr(self, f"{side}_sum") + features.double().sum())

    def values(self) -> Sequence[Tensor]:
        real, fake = self.real_sum / self.real_count, self.fake_sum / self.fake_count
        if not real > 0:
            raise ValueError(f"{self.name}: the real images have no edges")
        return [fake / real]
