"""Differentiable augmentation (Zhao et al. 2020, arXiv:2006.10738, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from ganexp.augment import Augmentation, check_images


class DiffAugment(Augmentation):
    """Every image is changed by each operation of the policy, with random numbers of its own.

    `policy`: names in the order of their use, separated by commas. `color` changes brightness, saturation and contrast (grey
    images have no saturation); `translation` moves an image by up to 1/8 of its sides, zeros come in; `cutout` sets a square of
    half the sides to zero. Raises ValueError for other names and for what is not an image.
    """

    def __init__(self, policy: str = "color,translation,cutout"):
        super().__init__()
        self.operations = {"color": color, "translation": translation, "cutout": cutout}
        self.policy = [name.strip() for name in policy.split(",") if name.strip()]
        for name in self.policy:
            if name not in self.operations:
                raise ValueError(f"policy: {name} is none of {', '.join(self.operations)}")

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "diffaugment")
        for name in self.policy:
            x = self.operations[name](x)
        return x


def uniform(x: Tensor, low: float, high: float) -> Tensor:
    """A number for each image: [N, 1, 1, 1]."""
    return torch.rand(len(x), 1, 1, 1, device=x.device) * (high - low) + low


def color(x: Tensor) -> Tensor:
    """x + U(-0.5, 0.5); distances from the mean of the channels times U(0, 2); those from the image's mean times U(0.5, 1.5)."""
    x = x + uniform(x, -0.5, 0.5)
    mean = x.mean(1, keepdim=True)
    x = mean + (x - mean) * uniform(x, 0, 2)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * uniform(x, 0.5, 1.5)


def translation(x: Tensor, ratio: float = 0.125) -> Tensor:
    """Moved by a whole number of pixels, at most `ratio` of the side, on each axis."""
    for axis in (2, 3):
        size = x.shape[axis]
        most = int(size * ratio + 0.5)
        shift = torch.randint(-most, most + 1, (len(x), 1), device=x.device)
        source = torch.arange(size, device=x.device) + shift  # the row, or column, that comes here
        source = source[:, None, :, None] if axis == 2 else source[:, None, None, :]
        seen = (source >= 0) & (source < size)
        x = x.gather(axis, source.clamp(0, size - 1).expand_as(x)) * seen
    return x


def cutout(x: Tensor, ratio: float = 0.5) -> Tensor:
    """A rectangle of `ratio` of the sides, whose centre lies anywhere in the image, becomes zero."""
    covered = torch.ones((), dtype=torch.bool, device=x.device)
    for axis in (2, 3):
        size = x.shape[axis]
        side = int(size * ratio + 0.5)
        centre = torch.randint(0, size + 1 - side % 2, (len(x), 1), device=x.device)
        distance = torch.arange(size, device=x.device) - (centre - side // 2)
        inside = (distance >= 0) & (distance < side)
        covered = covered & (inside[:, None, :, None] if axis == 2 else inside[:, None, None, :])
    return x * ~covered
