"""Differentiable augmentation (Zhao et al. 2020, arXiv:2006.10738, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from ganexp.augment import Augmentation, check_images


class DiffAugment(Augmentation):
    """Applies each operation of the policy to every image, with independent random numbers.

    `policy`: comma-separated operations, in order. `color` changes brightness, saturation and contrast (grey images have no
    saturation); `translation` shifts an image by up to 1/8 of its sides, with zero padding; `cutout` sets a rectangle of half the
    sides to zero. Raises ValueError for other names, and for data other than images.
    """

    def __init__(self, policy: str = "color,translation,cutout"):
        super().__init__()
        self.operations = {"color": color, "translation": translation, "cutout": cutout}
        self.policy = [name.strip() for name in policy.split(",") if name.strip()]
        for name in self.policy:
            if name not in self.operations:
                raise ValueError(f"policy: must consist of {', '.join(self.operations)}, got {name}")

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "diffaugment")
        for name in self.policy:
            x = self.operations[name](x)
        return x


def uniform(x: Tensor, low: float, high: float) -> Tensor:
    """Returns a random number per image: [N, 1, 1, 1]."""
    return torch.rand(len(x), 1, 1, 1, device=x.device) * (high - low) + low


def color(x: Tensor) -> Tensor:
    """Adds U(-0.5, 0.5), scales differences from the channel mean by U(0, 2), and from the image mean by U(0.5, 1.5)."""
    x = x + uniform(x, -0.5, 0.5)
    mean = x.mean(1, keepdim=True)
    x = mean + (x - mean) * uniform(x, 0, 2)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * uniform(x, 0.5, 1.5)


def translation(x: Tensor, ratio: float = 0.125) -> Tensor:
    """Shifts by a whole number of pixels on each axis, at most `ratio` of the side."""
    for axis in (2, 3):
        size = x.shape[axis]
        limit = int(size * ratio + 0.5)
        shift = torch.randint(-limit, limit + 1, (len(x), 1), device=x.device)
        source = torch.arange(size, device=x.device) + shift  # of each row, or column
        source = source[:, None, :, None] if axis == 2 else source[:, None, None, :]
        valid = (source >= 0) & (source < size)
        x = x.gather(axis, source.clamp(0, size - 1).expand_as(x)) * valid
    return x


def cutout(x: Tensor, ratio: float = 0.5) -> Tensor:
    """Sets a rectangle with `ratio` times the sides to zero; its centre may be anywhere in the image."""
    covered = torch.ones((), dtype=torch.bool, device=x.device)
    for axis in (2, 3):
        size = x.shape[axis]
        side = int(size * ratio + 0.5)
        centre = torch.randint(0, size + 1 - side % 2, (len(x), 1), device=x.device)
        distance = torch.arange(size, device=x.device) - (centre - side // 2)
        inside = (distance >= 0) & (distance < side)
        covered = covered & (inside[:, None, :, None] if axis == 2 else inside[:, None, None, :])
    return x * ~covered
