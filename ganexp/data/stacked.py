"""Three MNIST digits in one image: a thousand modes that a classifier can count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ganexp.data.mnist import MNIST


class StackedMNIST(MNIST):
    """`images` triples of MNIST digits, sampled with replacement, as the channels of uint8 [images, 3, 28, 28] (Metz et al. 2017,
    arXiv:1611.02163, section 3.3.1). The label, 0 to 999, has the three digits as its decimal digits, red first.

    `root`: as for MNIST. `images_seed`: seed of the triples, independent of the run's seed. `shape`: 3 channels of any size;
    images are resized to it.
    """

    native_shape = (3, 28, 28)
    labels_by_channel = True

    def __init__(
        self,
        root: str,
        shape: Sequence[int],
        classes: int,
        batch_size: int,
        seed: int,
        images: int = 50_000,
        images_seed: int = 111,
        replacement: bool = False,
    ):
        super().__init__(root, shape, classes, batch_size, seed, replacement)
        if images < 1:
            raise ValueError(f"images: must be at least 1, got {images}")
        if images_seed < 0:
            raise ValueError(f"images_seed: must be at least 0, got {images_seed}")
        self.images, self.images_seed = images, images_seed

    @property
    def class_probabilities(self) -> Tensor:
        """Of the triples, float64 [1000]: products of the digits' frequencies, since the channels are drawn independently."""
        digits = torch.stack([self.y // 100, self.y // 10 % 10, self.y % 10]).flatten()
        p = digits.bincount(minlength=10).double() / len(digits)
        return torch.einsum("i,j,k->ijk", p, p, p).flatten()

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = super().load()
        triples = np.random.default_rng(self.images_seed).integers(len(x), size=(self.images, 3))
        return x[:, 0][triples], y[triples] @ np.array([100, 10, 1])
