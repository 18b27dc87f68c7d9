"""A discriminator with one logit per patch, at one or several scales (Isola et al. 2017, arXiv:1611.07004, section 3.2.2; Wang et
al. 2018, arXiv:1711.11585, section 3.2).

    layers 2, on 64×64:  image -> 32×32 64 -> 16×16 128 -> 15×15 256 -> 14×14 logits
    each further scale:  the same on the image at half the size
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks.dcgan import init_weights
from ganexp.networks.output import Output


class Scale(nn.Module):
    """image [N, C, H, W], y [N] -> logits [N, patches], features [N, C', h, w]."""

    def __init__(self, channels: int, width: int, layers: int, norm: bool, classes: int | None):
        super().__init__()
        sizes = [channels, *(width * min(2**i, 8) for i in range(layers + 1))]
        self.blocks = nn.Sequential()
        for i in range(layers + 1):
            normed = norm and i > 0
            self.blocks.append(nn.Conv2d(sizes[i], sizes[i + 1], 4, 2 if i < layers else 1, 1, bias=not normed))
            if normed:
                self.blocks.append(nn.BatchNorm2d(sizes[i + 1]))
            self.blocks.append(nn.LeakyReLU(0.2, inplace=True))
        self.out = nn.Conv2d(sizes[-1], 1, 4, 1, 1)
        self.label = nn.Embedding(classes, sizes[-1]) if classes else None

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.blocks(x)
        logits = self.out(h).flatten(1)
        if self.label is not None:  # one projection, of the mean features, for all patches
            logits = logits + (self.label(y) * h.mean((2, 3))).sum(1, keepdim=True)
        return logits, h


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with one logit per patch and scale, and the last map of each scale as features.

    `width`: channels of the first map; they double with each layer. `layers`: number of downsampling layers. `scales`: number of
    networks, each on the image at half the size of the one before. `norm`: batch norm after every layer but the first. `classes`:
    add a label projection; null ignores y. Raises ValueError for images that are too small.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 64,
        layers: int = 2,
        scales: int = 1,
        norm: bool = True,
        classes: int | None = None,
    ):
        super().__init__()
        if min(width, layers, scales) < 1:
            raise ValueError("width, layers, scales: must be at least 1")
        smallest = 3 * 2 ** (layers + scales - 1)  # the last two layers, of stride 1, need 3 px
        if len(shape) != 3 or min(shape[1:]) < smallest:
            settings = f"layers={layers} and scales={scales}"
            raise ValueError(f"{settings} need images of at least {smallest} px a side, got shape {list(shape)}")
        self.scales = nn.ModuleList(Scale(shape[0], width, layers, norm, classes) for _ in range(scales))
        self.apply(init_weights)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        outputs = []
        for scale in cast(Sequence[Scale], self.scales):
            outputs.append(scale(x, y))
            x = F.avg_pool2d(x, 2)
        return Output(torch.cat([logits for logits, _ in outputs], 1), None, tuple(h for _, h in outputs))
