"""Augmentations of what D sees, real and fake alike, on the device. Each is differentiable: images [N, C, H, W] -> the same.

Augmenting both sides keeps the game fair; augmenting only the data would teach G the augmentation (Zhao et al. 2020,
arXiv:2006.10738, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor


class Flip:
    """Mirror left to right, each image with `probability`. Raises ValueError for what is not an image."""

    def __init__(self, probability: float = 0.5):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability lies in [0, 1], not {probability}")
        self.probability = probability

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"flip mirrors images [C, H, W], not points of shape {list(x.shape[1:])}")
        flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < self.probability
        return torch.where(flipped, x.flip(-1), x)


class Crop:
    """A window of each image, of its own size, moved at random by up to `share` of that; what lies beyond the edge is mirrored.

    Raises ValueError for a share outside [0, 0.5], and for what is not an image.
    """

    def __init__(self, share: float = 0.125):
        if not 0 <= share <= 0.5:
            raise ValueError(f"share lies in [0, 0.5], not {share}")
        self.share = share

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"crop cuts images [C, H, W], not points of shape {list(x.shape[1:])}")
        rows, columns = (self.window(len(x), size, x.device) for size in x.shape[2:])
        image = torch.arange(len(x), device=x.device)[:, None, None]
        return x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def window(self, n: int, size: int, device: torch.device) -> Tensor:
        """Which of `size` rows are seen, for each of n images: [n, size]."""
        most = round(self.share * size)
        moved = torch.arange(size, device=device) + torch.randint(-most, most + 1, (n, 1), device=device)
        return (size - 1) - (size - 1 - moved.abs()).abs()
