"""Feature extractors: x [N, *shape] in [-1, 1] -> features [N, dim] float32. `name` stands in the log, behind the metric's."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Pixels(nn.Module):
    """The sample itself, flattened; also for points."""

    name = "pixels"

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Random(nn.Module):
    """A fixed, seeded, untrained CNN: for images where no trained network is at hand.

    Four 3×3 convolutions of doubling width with average pooling between them; the features are the mean and the standard
    deviation of every map of every level, 2 · 15 · width of them. Random features order images by how far they are
    distorted (Naeem et al. 2020, arXiv:2002.09797, section 3), but values compare only with values of the same network.
    """

    name = "random"

    def __init__(self, width: int = 16, seed: int = 0):
        super().__init__()
        self.width, self.seed = width, seed
        self.levels: nn.ModuleList | None = None

    def build(self, channels: int) -> nn.ModuleList:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            widths = [channels, *(self.width * 2**i for i in range(4))]
            levels = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
            for level in levels:
                nn.init.kaiming_normal_(level.weight)
        return nn.ModuleList(levels).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"random features are of images [C, H, W], not of points of shape {list(x.shape[1:])}")
        if self.levels is None:
            self.levels = self.build(x.shape[1]).to(x.device)
        features = []
        for level in self.levels:
            x = F.relu(level(x))
            features += [x.mean((2, 3)), x.flatten(2).std(2)]
            if min(x.shape[2:]) >= 4:
                x = F.avg_pool2d(x, 2)
        return torch.cat(features, 1)


def finite(features: Tensor, metric: str, real: bool) -> Tensor:
    """The features. Raises ValueError for NaN or infinite ones."""
    if not features.isfinite().all():
        raise ValueError(f"{metric}: {'real' if real else 'generated'} samples with NaN or infinite features")
    return features
