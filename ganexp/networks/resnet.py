"""The residual networks of SNGAN (Miyato et al. 2018, arXiv:1802.05957, tables 4 to 6), for images of at least 8 px; with classes
those of the projection discriminator (Miyato & Koyama 2018, arXiv:1802.05637).

    G, 32 px:   z -> 4×4 256 -> 8×8 256 -> 16×16 256 -> 32×32 256 -> image
    G, 64 px:   z -> 4×4 1024 -> 8×8 512 -> 16×16 256 -> 32×32 128 -> 64×64 64 -> image
    G, 128 px:  z -> 4×4 1024 -> 8×8 1024 -> 16×16 512 -> 32×32 256 -> 64×64 128 -> 128×128 64 -> image
    D, 32 px:   image -> 16×16 128 -> 8×8 128 -> 8×8 128 -> 8×8 128 -> logit
    D, 64 px:   image -> 32×32 64 -> 16×16 128 -> 8×8 256 -> 4×4 512 -> 2×2 1024 -> logit
    D, 128 px:  image -> 64×64 64 -> 32×32 128 -> 16×16 256 -> 8×8 512 -> 4×4 1024 -> 4×4 1024 -> logit

Each arrow is a residual block, except G's first and last and D's last. Up to 32 px all maps of G have 4 × width channels, and all
of D 2 × width; for larger images channels double with each block, up to 16 × width. G starts at 6×6 for 48 px, at 7×7 for 28 px.
The label enters batch norm in G and a projection in D. With self-attention this is SAGAN (Zhang et al. 2019, arXiv:1805.08318).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks.attention import attention_at
from ganexp.networks.layers import Head, apply_spectral_norm, embed, glorot, map_sizes
from ganexp.networks.output import Output


def num_downsamplings(shape: Sequence[int], width: int) -> int:
    """Returns how often an image is halved until its shorter side has 4 to 7 px: 3 for 32 and 48 px, 4 for 64, 2 for 28.

    Raises ValueError for an image that cannot be halved as often, and for width < 1.
    """
    if width < 1:
        raise ValueError(f"width: must be at least 1, got {width}")
    return len(map_sizes(shape)) - 1


class BatchNorm(nn.Module):
    """Batch norm; if there are `classes`, each has its own scale and shift (Dumoulin et al. 2017, arXiv:1610.07629)."""

    def __init__(self, channels: int, classes: int | None):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=not classes)
        self.label = nn.Embedding(classes, 2 * channels) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight[:, :channels], 1.0, 0.02)
            nn.init.zeros_(self.label.weight[:, channels:])

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        h = self.norm(h)
        if self.label is None:
            return h
        scale, shift = embed(self.label, y).to(h.dtype)[:, :, None, None].chunk(2, 1)
        return scale * h + shift


class Up(nn.Module):
    """x [N, n_in, H, W] -> [N, n_out, 2H, 2W]: norm, ReLU, upsampling, 3×3, norm, ReLU, 3×3, and a shortcut.

    `norm`: given a number of channels, returns a module that is called with a map and the condition.
    """

    def __init__(self, n_in: int, n_out: int, norm: Callable[[int], nn.Module], upsampling: str = "nearest"):
        super().__init__()
        self.norm1, self.norm2 = norm(n_in), norm(n_out)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.shortcut = nn.Conv2d(n_in, n_out, 1)
        self.up = nn.Upsample(scale_factor=2, mode=upsampling)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(self.up(F.relu(self.norm1(x, condition))))
        h = self.conv2(F.relu(self.norm2(h, condition)))
        return h + self.up(self.shortcut(x))  # same result as upsampling first, at a quarter of the cost


class Down(nn.Module):
    """x [N, n_in, H, W] -> [N, n_out, H/2, W/2]: ReLU, 3×3, ReLU, 3×3, 2×2 average pooling, and a shortcut.

    `hidden`: channels between the convolutions. `pool`: false keeps the size. `first`: x is an image, so no ReLU before it.
    """

    def __init__(self, n_in: int, n_out: int, hidden: int, pool: bool, first: bool):
        super().__init__()
        self.first = first
        self.conv1 = nn.Conv2d(n_in, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, n_out, 3, padding=1)
        self.shortcut = nn.Conv2d(n_in, n_out, 1) if pool or n_in != n_out else nn.Identity()
        self.pool = nn.AvgPool2d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else F.relu(x)  # not in place: the shortcut needs x
        h = self.conv2(F.relu(self.conv1(h), inplace=True))
        return self.pool(h) + self.shortcut(self.pool(x))  # same result as pooling last, at a quarter of the cost


def pyramid(shape: Sequence[int], channels: Sequence[int], pools: int, wide: bool, attention: int | None) -> nn.Sequential:
    """Returns D's blocks. The first `pools` blocks downsample, as long as the map has even sides."""
    blocks, sides, height, width = [], [], *shape[1:]
    for i, (n_in, n_out) in enumerate(zip([shape[0], *channels[:-1]], channels, strict=True)):
        pool = i < pools and height % 2 == width % 2 == 0
        blocks.append(Down(n_in, n_out, n_out if wide or i == 0 else n_in, pool, first=i == 0))
        height, width = (height // 2, width // 2) if pool else (height, width)
        sides.append(min(height, width))
    attend = attention_at(attention, sides, channels)
    return nn.Sequential(*(layer for pair in zip(blocks, attend, strict=True) for layer in pair))


def init_weights(network: nn.Module) -> None:
    """Xavier-uniform weights, with a gain of √2 for the 3×3 convolutions in blocks, and zero biases."""
    network.apply(glorot)
    for block in network.modules():
        if isinstance(block, Up | Down):
            for conv in (block.conv1, block.conv2):
                nn.init.xavier_uniform_(conv.weight, 2**0.5)


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape] in [-1, 1].

    `width`: channels of the last map, for images of more than 32 px. `classes`: the blocks' batch norm has a scale and shift per
    class; null ignores y. `attention`: shorter side, in px, of the map that self-attention is applied to; null disables it.
    `spectral_norm`: of all convolutions and linear layers, as in SAGAN.
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_dim: int,
        width: int = 64,
        classes: int | None = None,
        upsampling: Literal["nearest", "bilinear"] = "nearest",
        attention: int | None = None,
        spectral_norm: bool = False,
    ):
        super().__init__()
        blocks = num_downsamplings(shape, width)
        small = min(shape[1:]) <= 32
        channels = [width * (4 if small else min(2**i, 16)) for i in range(blocks, -1, -1)]
        self.bottom = (channels[0], shape[1] >> blocks, shape[2] >> blocks)
        self.project = nn.Linear(latent_dim, self.bottom[0] * self.bottom[1] * self.bottom[2])
        norm = partial(BatchNorm, classes=classes)
        self.blocks = nn.ModuleList(Up(channels[i], channels[i + 1], norm, upsampling) for i in range(blocks))
        self.attend = attention_at(attention, [min(self.bottom[1:]) << i for i in range(1, blocks + 1)], channels[1:])
        self.norm = nn.BatchNorm2d(channels[-1])
        self.out = nn.Conv2d(channels[-1], shape[0], 3, padding=1)
        init_weights(self)
        if spectral_norm:
            apply_spectral_norm(self, nn.Conv2d | nn.Linear)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.project(z).view(-1, *self.bottom)
        for block, attend in zip(self.blocks, self.attend, strict=True):
            h = attend(block(h, y))
        return self.out(F.relu(self.norm(h))).tanh()


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with logits [N, outputs].

    `width`: channels of the first map, for images of more than 32 px. `wide`: the first convolution of a block changes the number
    of channels, as in BigGAN; false: the second, as in SNGAN. `attention`: shorter side, in px, of the map that self-attention is
    applied to; null disables it. `spectral_norm`: of all layers, including the label embedding. `classes`, `auxiliary`,
    `minibatch_std`: see Head.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 64,
        wide: bool = False,
        classes: int | None = None,
        outputs: int = 1,
        auxiliary: int = 0,
        minibatch_std: int = 0,
        attention: int | None = None,
        spectral_norm: bool = True,
    ):
        super().__init__()
        count = num_downsamplings(shape, width)
        if min(shape[1:]) <= 32:
            channels, pools = [2 * width] * 4, 2
        else:
            channels, pools = [width * min(2**i, 16) for i in range(max(5, count + 1))], max(5, count)
        self.blocks = pyramid(shape, channels, pools, wide, attention)
        self.head = Head(channels[-1], outputs, classes, auxiliary, minibatch_std)
        init_weights(self)
        if self.head.label is not None:
            nn.init.xavier_uniform_(self.head.label.weight)
        if spectral_norm:
            apply_spectral_norm(self)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return self.head(F.relu(self.blocks(x)).sum((2, 3)), y)
