"""R3GAN (Huang et al. 2024, arXiv:2501.05441, section 4 and figure 3): StyleGAN2 without its tricks, on blocks of 2022.

    size 64:  z -> basis 4×4 768 -> blocks -> 8×8 768 -> blocks -> … -> 64×64 384 -> blocks -> image
              (the discriminator mirrors it)
    block:    x + (1×1 to twice the channels, 3×3 in groups, 1×1 back), leaky ReLU between

No normalisation layers: the last convolution of each block starts at 0, so that both networks start linear, and the others start
the smaller, the more blocks there are (as in Fixup, Zhang et al. 2019, arXiv:1901.09321). It is played with loss=relativistic and
regularizer=[r1,r2].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks.layers import embed, map_sizes
from ganexp.networks.output import Output
from ganexp.networks.resampling import down, up

GAIN = math.sqrt(2 / (1 + 0.2**2))  # what keeps the variance through a leaky ReLU of 0.2
LABEL = 64  # length of the label's embedding in G


def scaled_normal(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """The layer with weights from N(0, gain / √inputs)."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))
    return layer


def convolution_1x1(inputs: int, outputs: int) -> nn.Module:
    return scaled_normal(nn.Conv2d(inputs, outputs, 1, bias=False))


class Block(nn.Module):
    """x [N, C, H, W] -> the same shape. `group`: channels of a group of the 3×3 convolution. `blocks`: of the whole network."""

    def __init__(self, channels: int, group: int, blocks: int):
        super().__init__()
        inner = 2 * channels
        self.expand = nn.Conv2d(channels, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group)
        self.reduce = nn.Conv2d(inner, channels, 1, bias=False)
        for conv in (self.expand, self.mix):
            scaled_normal(conv, GAIN * blocks**-0.25)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.reduce.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.expand(x), 0.2, inplace=True)
        h = F.leaky_relu(self.mix(h), 0.2, inplace=True)
        return x + self.reduce(h)


class Up(nn.Module):
    """The 1×1 convolution, where the channels change, before the map grows."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.change = convolution_1x1(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return up(self.change(x))


class Down(Up):
    """The 1×1 convolution, where the channels change, after the map has shrunk."""

    def forward(self, x: Tensor) -> Tensor:
        return self.change(down(x))


def stages(sizes: Sequence[tuple[int, int]], widths: Sequence[int], blocks: int, group: int) -> list[int]:
    """Channels of each stage, from the smallest map up: `widths`, the first of them repeated where there are more stages.

    Rounded up to whole groups of the 3×3 convolutions, which have twice the channels. Raises ValueError for numbers that make
    no sense.
    """
    if blocks < 1:
        raise ValueError(f"blocks: at least 1 in each stage, not {blocks}")
    if group < 1 or (group > 1 and group % 2):
        raise ValueError(f"group: an even number of channels, or 1, not {group}")
    if not widths or min(widths) < 1:
        raise ValueError(f"widths: at least one stage, of at least 1 channel, not {list(widths)}")
    if len(widths) > len(sizes):
        raise ValueError(f"widths: {len(widths)} stages, but images of this size have {len(sizes)}")
    step = max(1, group // 2)
    return [-(-width // step) * step for width in [widths[0]] * (len(sizes) - len(widths)) + list(widths)]


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape], around [-1, 1] but not confined to it.

    `widths`: channels of each stage, from the smallest map to the image; the first one also of further stages before it; rounded
    up to a multiple of `group` / 2. `blocks`: in each stage. `group`: channels of a group of the 3×3 convolutions. `classes`:
    append the label's embedding to z; null ignores y. Raises ValueError for sides that do not halve to 4 to 7 px.
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_dim: int,
        widths: Sequence[int] = (128, 64),
        blocks: int = 1,
        group: int = 16,
        classes: int | None = None,
    ):
        super().__init__()
        sizes = map_sizes(shape)
        channels = stages(sizes, widths, blocks, group)
        self.label = nn.Embedding(classes, LABEL) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=1 / math.sqrt(self.label.num_embeddings))
        self.basis = nn.Parameter(torch.randn(channels[0], *sizes[0]))
        self.project = scaled_normal(nn.Linear(latent_dim + (LABEL if classes else 0), channels[0], bias=False))
        self.stages = nn.Sequential()
        for i in range(len(sizes)):
            if i > 0:
                self.stages.append(Up(channels[i - 1], channels[i]))
            for _ in range(blocks):
                self.stages.append(Block(channels[i], group, blocks * len(sizes)))
        self.to_rgb = convolution_1x1(channels[-1], shape[0])

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        if self.label is not None:
            z = torch.cat([z, embed(self.label, y).to(z.dtype)], 1)
        return self.to_rgb(self.stages(self.basis * self.project(z)[:, :, None, None]))


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output, its logits [N, outputs], what the last map is summed up to as its features.

    `widths`, `blocks`, `group`: as of the generator, in the same order. `classes`: logits are the projection on the label's
    embedding; null ignores y. `auxiliary`: classes that D names, 0 for none.
    """

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int] = (128, 64),
        blocks: int = 1,
        group: int = 16,
        classes: int | None = None,
        outputs: int = 1,
        auxiliary: int = 0,
    ):
        super().__init__()
        sizes = map_sizes(shape)
        channels = stages(sizes, widths, blocks, group)[::-1]
        last = channels[-1]
        self.outputs = outputs
        self.from_rgb = convolution_1x1(shape[0], channels[0])
        self.stages = nn.Sequential()
        for i in range(len(sizes)):
            if i > 0:
                self.stages.append(Down(channels[i - 1], channels[i]))
            for _ in range(blocks):
                self.stages.append(Block(channels[i], group, blocks * len(sizes)))
        # A convolution of each channel with a kernel of the map's size
        self.basis = nn.Parameter(torch.randn(last, *sizes[0]) / math.sqrt(sizes[0][0] * sizes[0][1]))
        self.out = scaled_normal(nn.Linear(last, outputs * (last if classes else 1) + auxiliary, bias=False))
        self.label = nn.Embedding(classes, last) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=1 / math.sqrt(self.label.num_embeddings * last))

    def forward(self, x: Tensor, y: Tensor) -> Output:
        h = (self.stages(self.from_rgb(x)) * self.basis).sum((2, 3))
        n = self.outputs * (h.shape[1] if self.label is not None else 1)
        logits, named = self.out(h).tensor_split([n], 1)
        if self.label is not None:
            logits = (logits.unflatten(1, (self.outputs, -1)) * self.label(y)[:, None]).sum(2)
        return Output(logits, named if named.shape[1] else None, (h,))
