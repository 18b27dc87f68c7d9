"""A discriminator with a logit for the image and one for each pixel (Schönfeld et al. 2020, arXiv:2002.12655, section 3.1).

    128 px:  image -> 64×64 64 -> 32×32 128 -> 16×16 256 -> 8×8 512 -> 4×4 1024 -> logit of the image
                          |            |             |           |         |
                          v            v             v           v         v
             128×128 64 <- 64×64 64 <- 32×32 128 <- 16×16 256 <- 8×8 512 <-'
                  '-> logit of each pixel

Each arrow is a residual block without norm. A block on the way up takes, beside the map below, the one of that
size from the way down.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks.layers import Head, normalize_spectrally
from ganexp.networks.output import Output
from ganexp.networks.resnet import Down, Up, halvings, init_weights


class NoNorm(nn.Module):
    """In place of a norm that heeds a condition."""

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return h


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output: logits [N, 2 · H · W], in half of the columns the image's, in the others its pixels'.

    The image's logit is repeated, so that in a mean over the columns it counts as much as all pixels together (equation 3).
    Features: the sum of the smallest map's pixels, and the largest map. `width`: channels of the first map; they double up to
    8 × width, with 128 px and more the last to 16 × width. `spectral_norm`: of all layers. `classes`: add the projection of both
    features on the label's embedding; null ignores y. Raises ValueError for images that do not halve to 4 to 7 px.
    """

    def __init__(self, shape: Sequence[int], width: int = 64, classes: int | None = None, spectral_norm: bool = True):
        super().__init__()
        times = halvings(shape, width)
        channels = [width * min(2**i, 8) for i in range(times)]
        if times > 1:
            channels[-1] = 2 * channels[-2]
        self.down = nn.ModuleList()
        for i, outside in enumerate(channels):
            self.down.append(Down(channels[i - 1] if i else shape[0], outside, outside, pool=True, first=i == 0))
        self.up = nn.ModuleList()
        for i in reversed(range(times)):
            inside = channels[i] if i == times - 1 else 2 * channels[i]  # beside the map below, the one from the way down
            self.up.append(Up(inside, channels[max(i - 1, 0)], NoNorm))
        self.image = Head(channels[-1], 1, classes)
        self.pixels = nn.Conv2d(channels[0], 1, 1)
        self.label = nn.Embedding(classes, channels[0]) if classes else None
        init_weights(self)
        for label in (self.image.label, self.label):
            if label is not None:
                nn.init.xavier_uniform_(label.weight)
        if spectral_norm:
            normalize_spectrally(self)

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
