"""A U-Net discriminator, with one logit for the image and one per pixel (Schönfeld et al. 2020, arXiv:2002.12655, section 3.1).

    128 px:  image -> 64×64 64 -> 32×32 128 -> 16×16 256 -> 8×8 512 -> 4×4 1024 -> logit of the image
                          |            |             |           |         |
                          v            v             v           v         v
             128×128 64 <- 64×64 64 <- 32×32 128 <- 16×16 256 <- 8×8 512 <-'
                  '-> logit of each pixel

Each arrow is a residual block without norm. The decoder's blocks also take the encoder's map of the same size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks.layers import Head, apply_spectral_norm
from ganexp.networks.output import Output
from ganexp.networks.resnet import Down, Up, init_weights, num_downsamplings


class NoNorm(nn.Module):
    """Replaces a conditional norm by the identity."""

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return h


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with logits [N, 2 · H · W]: the image's logit, repeated, then one per pixel.

    The image's logit is repeated so that it weighs as much as all pixels together in a mean over columns (equation 3). The
    features are the sum-pooled smallest map, and the largest map. `width`: channels of the first map; they double up to
    8 × width, the last map of images of 128 px and more has 16 × width. `spectral_norm`: of all layers. `classes`: add label
    projections to both kinds of logits; null ignores y. Raises ValueError for sides that cannot be halved to 4 to 7 px.
    """

    def __init__(self, shape: Sequence[int], width: int = 64, classes: int | None = None, spectral_norm: bool = True):
        super().__init__()
        count = num_downsamplings(shape, width)
        channels = [width * min(2**i, 8) for i in range(count)]
        if count > 1:
            channels[-1] = 2 * channels[-2]
        self.down = nn.ModuleList()
        for i, n_out in enumerate(channels):
            self.down.append(Down(channels[i - 1] if i else shape[0], n_out, n_out, pool=True, first=i == 0))
        self.up = nn.ModuleList()
        for i in reversed(range(count)):
            n_in = channels[i] if i == count - 1 else 2 * channels[i]  # concatenated with the encoder's map
            self.up.append(Up(n_in, channels[max(i - 1, 0)], NoNorm))
        self.image = Head(channels[-1], 1, classes)
        self.pixels = nn.Conv2d(channels[0], 1, 1)
        self.label = nn.Embedding(classes, channels[0]) if classes else None
        init_weights(self)
        for label in (self.image.label, self.label):
            if label is not None:
                nn.init.xavier_uniform_(label.weight)
        if spectral_norm:
            apply_spectral_norm(self)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        maps: list[Tensor] = []
        for down in self.down:
            x = down(x)
            maps.append(x)
        image = self.image(F.relu(x).sum((2, 3)), y)
        for i, up in enumerate(self.up):
            x = up(torch.cat([x, maps[-1 - i]], 1) if i else x, y)
        pixels = self.pixels(x)
        if self.label is not None:
            pixels = pixels + (x * self.label(y)[:, :, None, None]).sum(1, keepdim=True)
        pixels = pixels.flatten(1)
        return Output(torch.cat([image.logits.expand_as(pixels), pixels], 1), None, (*image.features, x))
