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
