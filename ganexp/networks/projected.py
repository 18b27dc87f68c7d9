"""The discriminator of Projected GAN (Sauer et al. 2021, arXiv:2111.01007, figure 1 and section 4): it sees the
features of a fixed network trained on ImageNet.

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

EMBEDDING = 64  # length of a head's label embedding


class Fixed(nn.Module):
    """A random 1×1 convolution that is not trained (section 3.2). Its weights are buffers, so that checkpoints hold them."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", nn.init.kaiming_normal_(torch.empty(n_out, n_in, 1, 1)))
        self.register_buffer("bias", torch.empty(n_out).uniform_(-1, 1) / n_in**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


class Projector(nn.Module):
    """The first `levels` maps, of 24, 40, 112 and 320 channels -> as many random mixtures of them, at twice their size."""

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
            size = maps[i - 1].shape[2:] if i else [2 * side for side in h.shape[2:]]  # not twice the size if odd
            mixed.append(self.across_scales[i](F.interpolate(h, size=size, mode="bilinear", align_corners=True)))
        return tuple(mixed[::-1])


class PatchHead(nn.Module):
    """A map [N, n_in, H, W], y [N] -> logits [N, patches]. `widest`: channels of the map of 8 px.

    Maps of up to 8 px have one block too, 3×3 with stride 1: without its norm, the scale of the logits gives G little gradient.
    """

    def __init__(
        self, n_in: int, size: Sequence[int], width: int, widest: int, norm: bool, classes: int | None, minibatch_std: int
    ):
        super().__init__()
        sides = [tuple(size)]
        while min(sides[-1]) > 8:
            sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
        kernel, stride, blocks = (4, 2, len(sides) - 1) if len(sides) > 1 else (3, 1, 1)
        self.blocks = nn.Sequential()
        for i in range(blocks):
            n_out = max(width, widest >> (blocks - 1 - i))
            self.blocks.append(spectral_norm(nn.Conv2d(n_in, n_out, kernel, stride, 1, bias=not norm)))
            if norm:
                self.blocks.append(nn.BatchNorm2d(n_out))
            self.blocks.append(nn.LeakyReLU(0.2, inplace=True))
            n_in = n_out
        last = (min(4, sides[-1][0]), min(4, sides[-1][1]))  # small images have maps below 4 px
        if minibatch_std:
            self.blocks.append(MinibatchStd(minibatch_std))
            n_in += 1
        self.out = spectral_norm(nn.Conv2d(n_in, EMBEDDING if classes else 1, last))
        self.label = nn.Embedding(classes, EMBEDDING) if classes else None

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        h = self.out(self.blocks(h)).flatten(2)
        if self.label is None:
            return h.squeeze(1)
        return (h * self.label(y)[:, :, None]).sum(1) / EMBEDDING**0.5


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with one logit per patch and head, and the mixed maps as features.

    `width`: channels of the first mixed map. `levels`: number of scales with a head, largest first. `size`: px that the
    shorter side is resized to before the fixed network; null keeps the image's size. The authors' code resizes images below
    224 px to 224. `norm`: batch norm in the heads. `minibatch_std`: group size of MinibatchStd in each head; 0 disables
    it. `classes`: the logits are label projections, of an embedding only (the authors' has a layer behind it); null
    ignores y. All trained convolutions have spectral norm. Heads with fewer patches repeat them, so that all heads have equal
    weight: at 64 px the deepest head has one patch, the others 25.

    Checkpoints hold the random mixtures, not the fixed network. It is trained on ImageNet, like FID's network: do not compare
    the FID with that of discriminators without pretraining. Raises ValueError unless images have 1 or 3 channels.
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
            raise ValueError(f"this network needs images [1 or 3 channels, ≥ 8 px, ≥ 8 px], got shape {list(shape)}")
        if width < 1:
            raise ValueError(f"width: must be at least 1, got {width}")
        if not 1 <= levels <= len(CHANNELS):
            raise ValueError(f"levels: must be 1 to {len(CHANNELS)}, got {levels}")
        if size is not None and size < 8:
            raise ValueError(f"size: must be at least 8 px, got {size}; null keeps the images' size")
        factor = size / min(shape[1:]) if size else 1
        self.size = [round(side * factor) for side in shape[1:]]
        self.feature_network = Frozen(pretrained().folded())
        self.project = Projector(width, levels)
        with torch.no_grad():
            maps = self.project(self.feature_network(torch.zeros(1, 3, *self.size)))
        self.heads = nn.ModuleList(
            PatchHead(h.shape[1], h.shape[2:], width, 8 * width, norm, classes, minibatch_std) for h in maps
        )

    def forward(self, x: Tensor, y: Tensor) -> Output:
        if list(x.shape[2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode="bilinear")
        maps = self.project(self.feature_network(x.expand(-1, 3, -1, -1)))
        return Output(equal_columns([head(h, y) for head, h in zip(self.heads, maps, strict=True)]), None, maps)


def equal_columns(logits: Sequence[Tensor]) -> Tensor:
    """Concatenates the logits of several heads to [N, K], with equally many columns each: the mean weighs all heads equally."""
    most = math.lcm(*(x.shape[1] for x in logits))
    return torch.cat([x.repeat_interleave(most // x.shape[1], 1) for x in logits], 1)
