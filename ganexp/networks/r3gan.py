"""R3GAN (Huang et al. 2024, arXiv:2501.05441, section 4 and figure 3): StyleGAN2 without its tricks, with modern blocks.

    size 64:  z -> basis 4×4 768 -> blocks -> 8×8 768 -> blocks -> … -> 64×64 384 -> blocks -> image
              (the discriminator mirrors it)
    block:    x + (1×1 to twice the channels, 3×3 in groups, 1×1 back), leaky ReLU between

There are no normalization layers. The last convolution of each block is initialized with 0, so that both networks start linear;
the initial scale of the others falls with the number of blocks (as in Fixup, Zhang et al. 2019, arXiv:1901.09321). Use with
loss=relativistic and regularizer=[r1,r2].
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

GAIN = math.sqrt(2 / (1 + 0.2**2))  # keeps the variance through a leaky ReLU of 0.2
LABEL = 64  # length of the label embedding in G


def scaled_normal(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """Initializes a layer's weights from N(0, gain / √inputs)."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))
    return layer


def convolution_1x1(inputs: int, outputs: int) -> nn.Module:
    return scaled_normal(nn.Conv2d(inputs, outputs, 1, bias=False))


class Block(nn.Module):
    """x [N, C, H, W] -> the same shape. `group`: channels per group of the 3×3 convolution. `blocks`: in the whole network."""

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
    """Upsampling by 2, after a 1×1 convolution if the number of channels changes."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.change = convolution_1x1(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return up(self.change(x))


class Down(Up):
    """Downsampling by 2, before a 1×1 convolution if the number of channels changes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.change(down(x))


def stages(sizes: Sequence[tuple[int, int]], widths: Sequence[int], blocks: int, group: int) -> list[int]:
    """Returns the channels of each stage, smallest map first: `widths`, with the first repeated if there are more stages.

    They are rounded up to whole groups of the 3×3 convolutions, which have twice the channels. Raises ValueError for numbers out
    of range.
    """
    if blocks < 1:
        raise ValueError(f"blocks: must be at least 1, got {blocks}")
    if group < 1 or (group > 1 and group % 2):
        raise ValueError(f"group: must be an even number or 1, got {group}")
    if not widths or min(widths) < 1:
        raise ValueError(f"widths: must be one or more numbers of at least 1, got {list(widths)}")
    if len(widths) > len(sizes):
        raise ValueError(f"widths: must be at most {len(sizes)} for images of this size, got {len(widths)}")
    step = max(1, group // 2)
    return [-(-width // step) * step for width in [widths[0]] * (len(sizes) - len(widths)) + list(widths)]


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape], around [-1, 1] but not limited to it.

    `widths`: channels of the last stages, smallest map first; the first is repeated for earlier stages; rounded up to a multiple
    of `group` / 2. `blocks`: per stage. `group`: channels per group of the 3×3 convolutions. `classes`: append a label embedding
    to z; null ignores y. Raises ValueError for sides that cannot be halved to 4 to 7 px.
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
    """image [N, *shape], y [N] -> Output with logits [N, outputs], and the pooled last map as features.

    `widths`, `blocks`, `group`: see Generator, in the same order. `classes`: the logits are label projections; null ignores y.
    `auxiliary`: number of class logits; 0 disables them.
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
        # A depthwise convolution with a kernel of the map's size
        self.basis = nn.Parameter(torch.randn(last, *sizes[0]) / math.sqrt(sizes[0][0] * sizes[0][1]))
        self.out = scaled_normal(nn.Linear(last, outputs * (last if classes else 1) + auxiliary, bias=False))
        self.label = nn.Embedding(classes, last) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=1 / math.sqrt(self.label.num_embeddings * last))

    def forward(self, x: Tensor, y: Tensor) -> Output:
        h = (self.stages(self.from_rgb(x)) * self.basis).sum((2, 3))
        n = self.outputs * (h.shape[1] if self.label is not None else 1)
        logits, class_logits = self.out(h).tensor_split([n], 1)
        if self.label is not None:
            logits = (logits.unflatten(1, (self.outputs, -1)) * self.label(y)[:, None]).sum(2)
        return Output(logits, class_logits if class_logits.shape[1] else None, (h,))
