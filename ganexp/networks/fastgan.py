"""FastGAN, for small data sets and short training (Liu et al. 2021, arXiv:2101.04775, figures 3 and 4), 32 to 1024 px.

    G:   z -> 4 1024 -> 8 512 -> 16 256 -> 32 128 -> 64 128 -> 128 64 -> 256 32 -> 512 16 -> 1024 8 -> image
              '--- excites ------------------------> 64
                       8 ---------------------------------------> 128      16 -------> 256      32 -> 512
    D:   image -> 256 16 -> 128 32 -> 64 64 -> 32 128 -> 16 256 -> 8 512 -> 5×5 logits
                  256 ----- excites --------> 32       128 -> 16      64 -> 8
         image at half the size, at most 128 px -> 64 32 -> 32 64 -> 16 128 -> 8 256 -> 5×5 logits
    D decodes: 8 512 -> the image; a quadrant of 16 256 -> its quadrant; the small image's 8 256 (Reconstruction)

For smaller images D begins, and G ends, at the map of their size. Every convolution has spectral norm and no bias. The G
of Projected GAN (Sauer et al. 2021, arXiv:2111.01007) has two convolutions in every block, or one in its lite version, and its
last convolution has a bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks.dcgan import init_weights
from ganexp.networks.layers import append_label, apply_spectral_norm
from ganexp.networks.output import Output

# By the side of a map in px: its channels in units of `width`
GENERATOR = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}
DISCRIMINATOR = {4: 16, 8: 8, 16: 4, 32: 2, 64: 1, 128: 0.5, 256: 0.25, 512: 0.125}
DECODER = {16: 2, 32: 1, 64: 1, 128: 0.5}
COMPOSITE = (8, 32, 128, 512)  # sides of the maps of G whose blocks have two convolutions


def image_side(shape: Sequence[int], width: int) -> int:
    """Returns the side in px. Raises ValueError for an unsupported image shape, and for width < 1."""
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] not in (32, 64, 128, 256, 512, 1024):
        raise ValueError(f"FastGAN needs square images [channels, side, side] of 32, 64, … or 1024 px, got shape {list(shape)}")
    if width < 1:
        raise ValueError(f"width: must be at least 1, got {width}")
    return shape[1]


def channels(factor: float, width: int) -> int:
    return max(1, int(factor * width))


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False)


class GLU(nn.Module):
    """x [N, 2 C, H, W] -> [N, C, H, W]: the first half of the channels times the sigmoid of the second (Dauphin et al. 2017,
    arXiv:1612.08083). The same as nn.GLU(1), with which batch norm, GLU and convolution take four times as long on CPUs
    in channels-last order."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = (half.contiguous(memory_format=torch.channels_last) for half in x.chunk(2, 1))
        return a * b.sigmoid()


def down(n_in: int, n_out: int) -> list[nn.Module]:
    return [conv(n_in, n_out, 4, 2, 1), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2, inplace=True)]


def up(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), conv(n_in, 2 * n_out, 3, 1, 1), nn.BatchNorm2d(2 * n_out), GLU()]


class Noise(nn.Module):
    """Adds N(0, 1) per pixel times a learned strength, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x + self.strength * torch.randn(len(x), 1, *x.shape[2:], dtype=x.dtype, device=x.device)


def noisy_up(n_in: int, n_out: int) -> list[nn.Module]:
    """Upsampling with two convolutions, each followed by noise."""
    first = [nn.Upsample(scale_factor=2), conv(n_in, 2 * n_out, 3, 1, 1), Noise(), nn.BatchNorm2d(2 * n_out), GLU()]
    return [*first, conv(n_out, 2 * n_out, 3, 1, 1), Noise(), nn.BatchNorm2d(2 * n_out), GLU()]


class Excite(nn.Module):
    """Skip-layer excitation: scales the channels of x by gates computed from an earlier map (section 3.1)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(4), conv(n_in, n_out, 4), nn.SiLU(), conv(n_out, n_out, 1), nn.Sigmoid())

    def forward(self, earlier: Tensor, x: Tensor) -> Tensor:
        return x * self.gate(earlier)


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape] in [-1, 1].

    `width`: channels of the map of 128 px. `classes`: append a one-hot label to z; null ignores y. `composite`: sides in px of
    the maps whose blocks have two convolutions, with noise; the others have one, without. `bias`: of the last convolution.
    Projected GAN's G for 256 px has `width` 128, `composite` [8, 16, 32, 64, 128, 256], or [] in its lite version, and a bias.
    FastGAN's also returns an image of 128 px; here D downsamples the image, as it does with real images. Raises ValueError for
    sizes other than 32, 64, 128, 256, 512 and 1024 px, and for sides in `composite` other than 8, 16, … and 1024.
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_dim: int,
        width: int = 64,
        classes: int | None = None,
        composite: Sequence[int] = COMPOSITE,
        bias: bool = False,
    ):
        super().__init__()
        self.classes = classes
        last = image_side(shape, width)
        if unknown := [px for px in composite if px not in list(GENERATOR)[1:]]:
            raise ValueError(f"composite: must be sides of 8, 16, … or 1024 px, got {unknown[0]}")
        c = {px: channels(factor, width) for px, factor in GENERATOR.items() if px <= last}
        start = nn.ConvTranspose2d(latent_dim + (classes or 0), 2 * c[4], 4, bias=False)
        self.start = nn.Sequential(start, nn.BatchNorm2d(2 * c[4]), GLU())
        self.blocks, self.excite = nn.ModuleList(), nn.ModuleDict()
        for px in list(c)[1:]:
            make = noisy_up if px in composite else up
            self.blocks.append(nn.Sequential(*make(c[px // 2], c[px])))
            if 64 <= px <= 512:
                self.excite[str(px)] = Excite(c[px // 16], c[px])
        self.out = nn.Conv2d(c[last], shape[0], 3, 1, 1, bias=bias)
        self.apply(init_weights)
        apply_spectral_norm(self, nn.Conv2d | nn.ConvTranspose2d)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.start(append_label(z, y, self.classes)[:, :, None, None])
        maps = [h]
        for block in self.blocks:
            h = block(h)
            px = str(h.shape[2])
            h = self.excite[px](maps[-4], h) if px in self.excite else h
            maps.append(h)
        return self.out(h).tanh()


class Down(nn.Module):
    """x [N, n_in, H, W] -> [N, n_out, H/2, W/2]: the mean of a convolutional and a pooling path."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        norm, act = nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2, inplace=True)
        self.path = nn.Sequential(*down(n_in, n_out), conv(n_out, n_out, 3, 1, 1), norm, act)
        self.direct = nn.Sequential(nn.AvgPool2d(2), conv(n_in, n_out, 1), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.path(x) + self.direct(x)) / 2


class Decoder(nn.Sequential):
    """A map [N, n_in, 8, 8] -> an image [N, colours, side, side] in [-1, 1]."""

    def __init__(self, n_in: int, colours: int, side: int, width: int):
        layers: list[nn.Module] = []
        for px, factor in DECODER.items():
            if px <= side:
                layers += up(n_in, channels(factor, width))
                n_in = channels(factor, width)
        super().__init__(*layers, conv(n_in, colours, 3, 1, 1), nn.Tanh())


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with 25 logits of the image, then 25 of its downsampled copy.

    The features, for `decode`, are the maps of 8 px and 16 px, the small image's map of 8 px, and the image itself. `width`:
    channels of the map of 64 px. `classes`: add a label projection of the mean of the map of 8 px to the image's logits; null
    ignores y. Raises ValueError for sizes other than 32, 64, 128, 256, 512 and 1024 px.
    """

    def __init__(self, shape: Sequence[int], width: int = 64, classes: int | None = None):
        super().__init__()
        size = image_side(shape, width)
        c = {px: channels(factor, width) for px, factor in DISCRIMINATOR.items()}
        act = nn.LeakyReLU(0.2, inplace=True)
        if size == 1024:
            stem = [conv(shape[0], c[512], 4, 2, 1), act, *down(c[512], c[256])]
        elif size == 512:
            stem = [conv(shape[0], c[256], 4, 2, 1), act]
        else:
            stem = [conv(shape[0], c[size], 3, 1, 1), act]
        self.stem = nn.Sequential(*stem)
        sides = [px for px in (256, 128, 64, 32, 16, 8) if px <= size]
        self.blocks = nn.ModuleList(Down(c[px], c[px // 2]) for px in sides[:-1])
        self.excite = nn.ModuleList(Excite(c[8 * px], c[px]) for px in sides[3:])
        self.logits = nn.Sequential(conv(c[8], c[4], 1), nn.BatchNorm2d(c[4]), nn.LeakyReLU(0.2, inplace=True), conv(c[4], 1, 4))

        self.small = min(size // 2, 128)
        small = [px for px in (64, 32, 16, 8) if px < self.small]  # with half the channels of the image's maps
        self.small_stem = nn.Sequential(conv(shape[0], c[2 * small[0]], 4, 2, 1), act)
        self.small_blocks = nn.Sequential(*(layer for px in small[:-1] for layer in down(c[2 * px], c[px])))
        self.small_logits = conv(c[16], 1, 4)

        self.decoders = nn.ModuleList(Decoder(n_in, shape[0], self.small, width) for n_in in (c[8], c[16], c[16]))
        self.label = nn.Embedding(classes, c[8]) if classes else None
        self.apply(init_weights)
        apply_spectral_norm(self, nn.Conv2d)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        maps = [self.stem(x)]
        for i, block in enumerate(self.blocks):
            h = block(maps[-1])
            maps.append(self.excite[i - 2](maps[i - 2], h) if i >= 2 else h)
        logits = self.logits(maps[-1]).flatten(1)
        if self.label is not None:
            logits = logits + (self.label(y) * maps[-1].mean((2, 3))).sum(1, keepdim=True)
        small = self.small_blocks(self.small_stem(self.shrink(x)))
        return Output(torch.cat([logits, self.small_logits(small).flatten(1)], 1), None, (maps[-1], maps[-2], small, x))

    def shrink(self, x: Tensor) -> Tensor:
        """Downsamples images to the size of the decoded ones."""
        return F.avg_pool2d(x, x.shape[2] // self.small)

    def decode(self, features: Sequence[Tensor], quadrant: int) -> list[tuple[Tensor, Tensor]]:
        """Returns pairs (decoded, target) for the image, a quadrant of it (0 to 3) and the small image (section 3.2)."""
        whole, larger, small, x = features
        part, x_part = (m.chunk(2, 2)[quadrant // 2].chunk(2, 3)[quadrant % 2] for m in (larger, x))
        decoded = [decoder(h) for decoder, h in zip(self.decoders, (whole, part, small), strict=True)]
        return list(zip(decoded, [self.shrink(target.detach()) for target in (x, x_part, x)], strict=True))
