"""Differentiable augmentations of all images that D sees, on the device.

Real and fake images are both augmented; if only the data were, G would learn to generate augmented images (Zhao et al. 2020,
arXiv:2006.10738, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganexp.networks.output import Output


class Augmentation(nn.Module):
    """Images [N, C, H, W] or points [N, D] -> rows [N / samples, …], float32, with new random numbers in every call.

    `samples`: number of images in one row. Buffers are state, moved and checkpointed with the system.
    """

    samples: int = 1

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def observe(self, real: Output) -> dict[str, Tensor]:
        """Called after each update of D with its output for the augmented real images. Returns scalars for the log."""
        return {}


class Flip(Augmentation):
    """Flips each image horizontally with `probability`. Raises ValueError for data other than images."""

    def __init__(self, probability: float = 0.5):
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"probability: must be in [0, 1], got {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "flip")
        flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < self.probability
        return torch.where(flipped, x.flip(-1), x)


class Crop(Augmentation):
    """Shifts each image at random by up to `fraction` of its size, with reflection padding.

    Raises ValueError for a fraction outside [0, 0.5], and for data other than images.
    """

    def __init__(self, fraction: float = 0.125):
        super().__init__()
        if not 0 <= fraction <= 0.5:
            raise ValueError(f"fraction: must be in [0, 0.5], got {fraction}")
        self.fraction = fraction

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "crop")
        rows, columns = (self.indices(len(x), size, x.device) for size in x.shape[2:])
        image = torch.arange(len(x), device=x.device)[:, None, None]
        return x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def indices(self, n: int, size: int, device: torch.device) -> Tensor:
        """Returns the source rows, or columns, of n shifted images: [n, size]."""
        limit = round(self.fraction * size)
        shifted = torch.arange(size, device=device) + torch.randint(-limit, limit + 1, (n, 1), device=device)
        return (size - 1) - (size - 1 - shifted.abs()).abs()


class Pack(Augmentation):
    """Concatenates `samples` images or points along the channels, so that D sees whether they differ (PacGAN, Lin et al. 2018,
    arXiv:1712.04086, section 2). For unconditional models.

    Raises ValueError for fewer than one sample, and for a batch that is not a multiple of `samples`.
    """

    def __init__(self, samples: int = 2):
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples: must be at least 1, got {samples}")
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        if len(x) % self.samples:
            raise ValueError(f"pack: the batch must be a multiple of {self.samples} samples, got {len(x)}")
        return x.reshape(len(x) // self.samples, self.samples * x.shape[1], *x.shape[2:])


def check_images(x: Tensor, name: str) -> None:
    """Raises ValueError unless x is a batch of images."""
    if x.ndim != 4:
        raise ValueError(f"{name} needs images [C, H, W], not points of shape {list(x.shape[1:])}")
