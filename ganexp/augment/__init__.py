"""Augmentations of what D sees, real and fake alike, on the device. Each is differentiable.

Augmenting both sides keeps the game fair; augmenting only the data would teach G the augmentation (Zhao et al. 2020,
arXiv:2006.10738, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganexp.networks.output import Output


class Augmentation(nn.Module):
    """Images [N, C, H, W] or points [N, D] -> rows [N / samples, …], float32, with new random numbers at every call.

    `samples`: how many images become one row. Buffers are state: they move with the system, are saved and resumed.
    """

    samples: int = 1

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def observe(self, real: Output) -> dict[str, Tensor]:
        """Called after each update of D with its answer to the augmented real images. Returns scalars for the log."""
        return {}


class Flip(Augmentation):
    """Mirror left to right, each image with `probability`. Raises ValueError for what is not an image."""

    def __init__(self, probability: float = 0.5):
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"probability: in [0, 1], not {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "flip")
        flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < self.probability
        return torch.where(flipped, x.flip(-1), x)


class Crop(Augmentation):
    """A window of each image, of its own size, moved at random by up to `fraction` of that; edges are mirrored.

    Raises ValueError for a fraction outside [0, 0.5], and for what is not an image.
    """

    def __init__(self, fraction: float = 0.125):
        super().__init__()
        if not 0 <= fraction <= 0.5:
            raise ValueError(f"fraction: in [0, 0.5], not {fraction}")
        self.fraction = fraction

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "crop")
        rows, columns = (self.window(len(x), size, x.device) for size in x.shape[2:])
        image = torch.arange(len(x), device=x.device)[:, None, None]
        return x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def window(self, n: int, size: int, device: torch.device) -> Tensor:
        """Which of `size` rows are seen, for each of n images: [n, size]."""
        most = round(self.fraction * size)
        moved = torch.arange(size, device=device) + torch.randint(-most, most + 1, (n, 1), device=device)
        return (size - 1) - (size - 1 - moved.abs()).abs()


class Pack(Augmentation):
    """`samples` images, or points, side by side in the channels of one row: D sees whether they differ (PacGAN, Lin et al. 2018,
    arXiv:1712.04086, section 2). For unconditional models.

    Raises ValueError for fewer than one sample and for a batch that is no multiple.
    """

    def __init__(self, samples: int = 2):
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples: at least 1, not {samples}")
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        if len(x) % self.samples:
            raise ValueError(f"pack: a batch of {len(x)} is no multiple of {self.samples} samples")
        return x.reshape(len(x) // self.samples, self.samples * x.shape[1], *x.shape[2:])


def check_images(x: Tensor, name: str) -> None:
    """Raises ValueError for what is not a batch of images."""
    if x.ndim != 4:
        raise ValueError(f"{name} needs images [C, H, W], not points of shape {list(x.shape[1:])}")
