"""The discriminator of Projected GAN (Sauer et al. 2021, arXiv:2111.01007, figure 1 and section 4): it sees an image
through a network trained on ImageNet.

    map of the image            1/4 24      1/8 40      1/16 112    1/32 320     EfficientNet-Lite0, fixed
    mixed between channels          64         128           256         512     random 1×1, fixed
    mixed between scales            64          64           128         256     from the right: add, ×2, random 1×1, fixed
    at                              1/2         1/4           1/8        1/16
    a head for each                 4×4 stride 2 down to 8 px, 512 channels the last; 4×4 -> logits
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ganexp.networks.efficientnet_lite import CHANNELS, pretrained
from ganexp.networks.frozen import Frozen
from ganexp.networks.layers import MinibatchStd
from ganexp.networks.output import Output

EMBEDDING = 64  # maps that a head's labels weigh


class Fixed(nn.Module):
    """A random 1×1 convolution that does not learn (section 3.2). Its weights are buffers: a checkpoint has them."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", nn.init.kaiming_normal_(torch.empty(outside, inside, 1, 1)))
        self.register_buffer("bias", torch.empty(outside).uniform_(-1, 1) / inside**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


class Projector(nn.Module):
    """Maps of 24, 40, 112, 320 channels, the first `levels` of them -> maps of twice their size, random mixtures of them all."""

    def __init__(self, width: int, levels: int):
        super().__init__()
        inner = [width << i for i in range(levels)]
        self.channels = [width, *inner[:-1]]
        self.across_channels = nn.ModuleList(map(Fixed, CHANNELS[:levels], inner))
        self.across_scales = nn.ModuleList(map(Fixed, inner, self.channels))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        mixed: list[Tensor] = []
        for i in reversed(range(len(self.channels))):
            h = self.across_channels[i](maps[i])
            h = h + mixed[-1] if mixed else h
            size = maps[i - 1].shape[2:] if i else [2 * side for side in h.shape[2:]]  # an odd map has not twice the size
            mixed.append(self.across_scales[i](F.interpolate(h, size=size, mode="bilinear", align_corners=True)))
        return tuple(mixed[::-1])


class PatchHead(nn.Module):
    """A map [N, inside, H, W], y [N] -> logits [N, patches]. `widest`: the channels that the map of 8 px has.

    A map that is no larger has one block as well, 3×3 with stride 1: without its norm, its scale teaches G little.
    """

    def __init__(
        self, inside: int, size: Sequence[int], width: int, widest: int, norm: bool, classes: int | None, minibatch_std: int
    ):
        super().__init__()
        sides = [tuple(size)]
        while min(sides[-1]) > 8:
            sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
        kernel, stride, blocks = (4, 2, len(sides) - 1) if len(sides) > 1 else (3, 1, 1)
        self.blocks = nn.Sequential()
        for i in range(blocks):
            outside = max(width, widest >> (blocks - 1 - i))
            self.blocks.append(spectral_norm(nn.Conv2d(inside, outside, kernel, stride, 1, bias=not norm)))
            if norm:
                self.blocks.append(nn.BatchNorm2d(outside))
            self.blocks.append(nn.LeakyReLU(0.2, inplace=True))
            inside = outside
        last = (min(4, sides[-1][0]), min(4, sides[-1][1]))  # maps of small images are smaller than 4 px
        if minibatch_std:
            self.blocks.append(MinibatchStd(minibatch_std))
            inside += 1
        self.out = spectral_norm(nn.Conv2d(inside, EMBEDDING if classes else 1, last))
        self.label = nn.Embedding(classes, EMBEDDING) if classes else None

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        h = self.out(self.blocks(h)).flatten(2)
        if self.label is None:
            return h.squeeze(1)
        return (h * self.label(y)[:, :, None]).sum(1) / EMBEDDING**0.5


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output: a column of logits for each patch of each head, the mixed maps as features.

    `width`: channels of the first mixed map. `levels`: scales with a head, from the largest on. `size`: px to which the
    shorter side is brought before the fixed network sees it, 224 as published; null: as it comes. `norm`: batch norm in the
    heads. `minibatch_std`: groups of samples whose deviation each head sees, 0 for none. `classes`: what a head finds is weighed
    by the label's embedding; null ignores y. Spectral norm is of all layers that learn. Heads of fewer patches repeat them, so
    that all weigh alike: of 64 px the deepest head has one, the others 25.

    The fixed network is not in a checkpoint, its random mixtures are. It knows ImageNet, as the network of FID does: do not
    compare the FID with that of discriminators which know nothing. Raises ValueError for what is no image of 1 or 3 channels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 64,
        levels: int = 4,
        size: int | None = None,
        norm: bool = True,
        classes: int | None = None,
        minibatch_std: int = 0,
    ):
        super().__init__()
        if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 8:
            raise ValueError(f"this network takes images [1 or 3 channels, 8 px or more, 8 px or more], not shape {list(shape)}")
        if width < 1:
            raise ValueError(f"width: at least 1 channel, not {width}")
        if not 1 <= levels <= len(CHANNELS):
            raise ValueError(f"levels: 1 to {len(CHANNELS)}, not {levels}")
        if size is not None and size < 8:
            raise ValueError(f"size: at least 8 px, or null for the images' own, not {size}")
        factor = size / min(shape[1:]) if size else 1
        self.size = [round(side * factor) for side in shape[1:]]
        self.see = Frozen(pretrained().folded())
        self.project = Projector(width, levels)
        with torch.no_grad():
            maps = self.project(self.see(torch.zeros(1, 3, *self.size)))
        self.heads = nn.ModuleList(
            PatchHead(h.shape[1], h.shape[2:], width, 8 * width, norm, classes, minibatch_std) for h in maps
        )

    def forward(self, x: Tensor, y: Tensor) -> Output:
        if list(x.shape[2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode="bilinear")
        maps = self.project(self.see(x.expand(-1, 3, -1, -1)))
        return Output(alike([head(h, y) for head, h in zip(self.heads, maps, strict=True)]), None, maps)


def alike(logits: Sequence[Tensor]) -> Tensor:
    """[N, K] of several heads side by side, as many columns of each: in their mean, which losses take, all weigh alike."""
    most = math.lcm(*(x.shape[1] for x in logits))
    return torch.cat([x.repeat_interleave(most // x.shape[1], 1) for x in logits], 1)
