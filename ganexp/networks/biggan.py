"""BigGAN (Brock et al. 2019, arXiv:1809.11096, appendix B), for images of 8 to 256 px. The published width is 96.

    G, 32 px:   z -> 4×4 384 -> 8×8 384 -> 16×16 384 -> 32×32 384 -> image                                          (4 × width)
    G, 64 px:   z -> 4×4 1536 -> 8×8 1536 -> 16×16 768 -> 32×32 384 -> 64×64 192 -> image
    G, 128 px:  z -> 4×4 1536 -> 8×8 1536 -> 16×16 768 -> 32×32 384 -> 64×64 192 -> 128×128 96 -> image
    D, 32 px:   image -> 16×16 384 -> 8×8 384 -> 8×8 384 -> 8×8 384 -> logit                                        (4 × width)
    D, 64 px:   image -> 32×32 96 -> 16×16 192 -> 8×8 384 -> 4×4 768 -> 4×4 1536 -> logit
    D, 128 px:  image -> 64×64 96 -> 32×32 192 -> 16×16 384 -> 8×8 768 -> 4×4 1536 -> 4×4 1536 -> logit

The blocks are those of `resnet`. z is split into chunks, one for the first layer and one for each block of G. Batch norm in a
block computes scale and shift from its chunk and a label embedding shared by all blocks. D adds a label projection.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks.attention import attention_at
from ganexp.networks.layers import Head, apply_spectral_norm, embed, zero_bias
from ganexp.networks.output import Output
from ganexp.networks.resnet import Up, num_downsamplings, pyramid

# By the number of downsamplings: channels of G's maps, smallest first, and of D's, largest first, in units of `width`.
UP = {
    1: (4, 4), 2: (4, 4, 4), 3: (4, 4, 4, 4),
    4: (16, 16, 8, 4, 2), 5: (16, 16, 8, 4, 2, 1), 6: (16, 16, 8, 8, 4, 2, 1),
}  # fmt: skip
DOWN = {
    1: (4, 4, 4, 4), 2: (4, 4, 4, 4), 3: (4, 4, 4, 4),
    4: (1, 2, 4, 8, 16), 5: (1, 2, 4, 8, 16, 16), 6: (1, 2, 4, 8, 8, 16, 16),
}  # fmt: skip


def levels(shape: Sequence[int], width: int) -> int:
    """Returns the number of downsamplings. Raises ValueError for a shape that is not in the tables, and for width < 1."""
    count = num_downsamplings(shape, width)
    if count not in UP:
        raise ValueError(f"BigGAN needs images with a shorter side below 512 px, got shape {list(shape)}")
    return count


def init_weights(module: nn.Module) -> None:
    """Orthogonal weights (Saxe et al. 2014, arXiv:1312.6120), zero biases."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        nn.init.orthogonal_(module.weight)
        zero_bias(module)


class BatchNorm(nn.Module):
    """Batch norm with scale and shift computed from a condition [N, features]."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Linear(features, channels, bias=False)
        self.shift = nn.Linear(features, channels, bias=False)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.scale(condition)[:, :, None, None], self.shift(condition)[:, :, None, None]
        return (1 + scale) * self.norm(h) + shift


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape] in [-1, 1].

    z is split into equal chunks, one more than there are blocks; a remainder is not used. `embedding`: length of the label
    embedding. `classes`: null ignores y. `attention`: shorter side, in px, of the map that self-attention is applied to; null
    disables it. `factors`: channels of the maps, smallest first, in units of `width`; null: as above. Raises ValueError for a z
    that is too short, and for another number of factors than of maps.
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_dim: int,
        width: int = 96,
        classes: int | None = None,
        embedding: int = 128,
        attention: int | None = None,
        factors: Sequence[int] | None = None,
        spectral_norm: bool = True,
    ):
        super().__init__()
        blocks = levels(shape, width)
        self.chunks, self.chunk = blocks + 1, latent_dim // (blocks + 1)
        if not self.chunk:
            raise ValueError(f"latent_dim: must be at least {self.chunks}, the number of chunks, got {latent_dim}")
        factors = UP[blocks] if factors is None else factors
        if len(factors) != blocks + 1 or min(factors) < 1:
            raise ValueError(f"factors: must be {blocks + 1} integers of at least 1, one per map, got {list(factors)}")
        channels = [factor * width for factor in factors]
        self.label = nn.Embedding(classes, embedding) if classes else None
        features = self.chunk + (embedding if classes else 0)
        self.bottom = (channels[0], shape[1] >> blocks, shape[2] >> blocks)
        self.project = nn.Linear(self.chunk, self.bottom[0] * self.bottom[1] * self.bottom[2])
        self.blocks = nn.ModuleList(
            Up(channels[i], channels[i + 1], lambda channels: BatchNorm(channels, features)) for i in range(blocks)
        )
        self.attend = attention_at(attention, [min(self.bottom[1:]) << i for i in range(1, blocks + 1)], channels[1:])
        self.norm = nn.BatchNorm2d(channels[-1])
        self.out = nn.Conv2d(channels[-1], shape[0], 3, padding=1)
        self.apply(init_weights)
        if spectral_norm:  # not for the embedding
            apply_spectral_norm(self, nn.Conv2d | nn.Linear, eps=1e-6)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        first, *chunks = z[:, : self.chunks * self.chunk].split(self.chunk, 1)
        h = self.project(first).view(-1, *self.bottom)
        for block, attend, chunk in zip(self.blocks, self.attend, chunks, strict=True):
            h = attend(block(h, chunk if self.label is None else torch.cat([embed(self.label, y), chunk], 1)))
        return self.out(F.relu(self.norm(h))).tanh()


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with logits [N, outputs].

    `attention`: shorter side, in px, of the map that self-attention is applied to; null disables it. `classes`, `auxiliary`,
    `minibatch_std`: see Head.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 96,
        classes: int | None = None,
        outputs: int = 1,
        auxiliary: int = 0,
        minibatch_std: int = 0,
        attention: int | None = None,
        spectral_norm: bool = True,
    ):
        super().__init__()
        count = levels(shape, width)
        channels = [factor * width for factor in DOWN[count]]
        self.blocks = pyramid(shape, channels, pools=count if count > 3 else 2, wide=True, attention=attention)
        self.head = Head(channels[-1], outputs, classes, auxiliary, minibatch_std)
        self.apply(init_weights)
        if spectral_norm:
            apply_spectral_norm(self, eps=1e-6)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return self.head(F.relu(self.blocks(x)).sum((2, 3)), y)
