"""Are the samples as different from one another as the real ones are?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from ganexp.metrics.features import finite


class Diversity(Metric):
    """The mean distance of two samples' features over that of two real ones', ≥ 0: near 1 is right, near 0 is a collapse.

    `features`: an extractor, x -> [N, dim]. Raises ValueError below two samples a side, for real samples that are all alike, and
    for samples that are not finite.
    """

    higher_is_better = None  # 1 is right
    full_state_update = False

    def __init__(self, features: nn.Module):
        super().__init__()
        self.features = features
        self.name = f"diversity/{features.name}"
        self.add_state("real", [], "cat")
        self.add_state("fake", [], "cat")

    def update(self, x: Tensor, real: bool) -> None:
        f = finite(self.features(x).float(), self.name, real)
        (self.real if real else self.fake).append(f)  # type: ignore[union-attr, operator]

    def compute(self) -> Any:
        distances = []
        for name, side in (("real", self.real), ("generated", self.fake)):
            f = dim_zero_cat(side) if len(side) else torch.empty(0, 1)  # type: ignore[arg-type]
            if len(f) < 2:
                raise ValueError(f"{self.name}: {len(f)} {name} samples; at least 2 are needed")
            pairs = len(f) * (len(f) - 1)
            distances.append(sum(torch.cdist(rows, f).sum(dtype=torch.float64) for rows in f.split(1024)) / pairs)
        if not distances[0] > 0:
            raise ValueError(f"{self.name}: the real samples are all alike")
        return distances[1] / distances[0]
