"""The sliced Wasserstein distance between patches of a Laplacian pyramid (Karras et al. 2018, arXiv:1710.10196, section 5), which
compares structures at every scale without a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.utilities.data import dim_zero_cat

from ganexp.metrics.features import Data, Extractor
from ganexp.metrics.metric import FeatureMetric
from ganexp.metrics.swd import distances

SIDE = 7  # px of a patch
SMALLEST = 16  # px of the coarsest level, as published; smaller images have one level
AT_ONCE = 64  # directions at a time, to save memory


class PyramidSlicedWasserstein(FeatureMetric):
    """The mean over random directions of the Wasserstein-1 distance between projected patches, times 1,000; ≥ 0, lower is better.

    `swd_pyramid` is the mean over the levels, `swd_pyramid_64` the value of the level whose shorter side has 64 px, and so on
    down to 16 px. A level is the difference between an image and its upsampled half; the last one is the smallest image itself.
    From each image and level, `patches` patches of 7×7 px are taken at random positions. Each channel of all real patches, and of
    all generated ones, is normalized to mean 0 and variance 1. Positions and `directions` are sampled with fixed seeds. All
    patches are kept in memory: 1.2 MB for a real and a generated image of 64 px in colour. Raises ValueError for data other than
    images, and for images below 7 px.
    """

    names: tuple[str, ...] = ("swd_pyramid",)
    output = "images"
    min_samples = 1

    def __init__(self, features: Extractor, patches: int = 128, directions: int = 512):
        super().__init__(features)
        if min(patches, directions) < 1:
            name = "patches" if patches < 1 else "directions"
            raise ValueError(f"{name}: must be at least 1, got {min(patches, directions)}")
        self.patches, self.directions = patches, directions
        self.levels: list[int] = []

    @property
    def settings(self) -> dict[str, Any]:
        return {"patches": self.patches, "directions": self.directions}

    def setup(self, data: Data) -> None:
        if len(data.shape) != 3 or min(data.shape[1:]) < SIDE:
            raise ValueError(f"swd_pyramid needs images [C, H, W] of at least {SIDE} px a side, got shape {list(data.shape)}")
        super().setup(data)
        self.levels = [min(data.shape[1:])]
        while self.levels[-1] >= 2 * SMALLEST:
            self.levels.append((self.levels[-1] + 1) // 2)
        self.names = ("swd_pyramid", *(f"swd_pyramid_{level}" for level in self.levels))
        for side in self.kinds:
            for level in self.levels:
                self.add_state(f"{side}_{level}", [], "cat")

    def add(self, features: Tensor, side: str, y: Tensor | None) -> None:
        seeded = torch.Generator().manual_seed(0)  # the n-th images of all batches have the same positions
        for level, image in zip(self.levels, laplacian_pyramid(features.float(), len(self.levels)), strict=True):
            getattr(self, f"{side}_{level}").append(patches_of(image, self.patches, seeded))

    def values(self) -> Sequence[Tensor]:
        distances = [
            self.distance(dim_zero_cat(getattr(self, f"real_{level}")), dim_zero_cat(getattr(self, f"fake_{level}")))
            for level in self.levels
        ]
        return [torch.stack(distances).mean(), *distances]

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the distance between patches [N, C, 7, 7]."""
        seeded = torch.Generator().manual_seed(0)
        directions = torch.randn(real[0].numel(), self.directions, generator=seeded).to(real.device)
        directions /= directions.norm(dim=0)
        real, fake = (normalized(side).flatten(1) for side in (real, fake))
        total = torch.zeros((), dtype=torch.float64, device=real.device)
        for part in directions.split(AT_ONCE, 1):
            total += distances(real @ part, fake @ part).sum()
        return 1e3 * total / self.directions


def laplacian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """Images [N, C, H, W] -> `levels` tensors, each half as large as the one before: differences, then the smallest image."""
    differences = []
    for _ in range(levels - 1):
        small = blurred(images)[:, :, ::2, ::2]
        spread = torch.zeros_like(images)
        spread[:, :, ::2, ::2] = small
        differences.append(images - 4 * blurred(spread))
        images = small
    return [*differences, images]


def blurred(images: Tensor) -> Tensor:
    """Images filtered with the binomial filter of 5×5 px, with reflection padding."""
    taps = images.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(taps, taps).expand(images.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(images, [2, 2, 2, 2], mode="reflect"), kernel, groups=images.shape[1])


def patches_of(images: Tensor, count: int, seeded: torch.Generator) -> Tensor:
    """Returns `count` patches from random positions of each image [N, C, H, W]: [N · count, C, 7, 7]."""
    n = len(images)
    rows, columns = (
        (torch.randint(size - SIDE + 1, (n, count, 1), generator=seeded) + torch.arange(SIDE)).to(images.device)
        for size in images.shape[2:]
    )
    image = torch.arange(n, device=images.device)[:, None, None, None]
    patches = images.permute(0, 2, 3, 1)[image, rows[:, :, :, None], columns[:, :, None, :]]  # [N, count, 7, 7, C]
    return patches.flatten(0, 1).permute(0, 3, 1, 2).contiguous()


def normalized(patches: Tensor) -> Tensor:
    """Normalizes each channel to mean 0 and variance 1 over all patches; a channel without variance becomes 0."""
    deviation, mean = torch.std_mean(patches, (0, 2, 3), correction=0, keepdim=True)
    return (patches - mean) / deviation.clamp(min=1e-8)
