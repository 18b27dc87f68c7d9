"""DCGAN for any image size (Radford et al. 2016, arXiv:1511.06434, figure 1).

    size 64:  z -> 4×4 512 -> 8×8 256 -> 16×16 128 -> 32×32 64 -> 64×64 image        (the discriminator mirrors it)
    size 28:  z -> 7×7 128 -> 14×14 64 -> 28×28 image
    size  8:  z -> 2×2 128 -> 4×4 64 -> 8×8 image

Each block halves (doubles) the map; the number of blocks follows from the image size.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ganexp.networks.layers import Head, append_label, zero_bias
from ganexp.networks.output import Output


def map_sizes(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Returns map sizes, largest first: 64 -> 64, 32, 16, 8, 4; at least two downsamplings, to a last map of 2 to 7 px.

    Raises ValueError for shapes other than [channels, 8-256 px, 8-256 px].
    """
    if len(shape) != 3 or shape[0] < 1 or not all(8 <= side <= 256 for side in shape[1:]):
        raise ValueError(f"DCGAN needs images [channels, 8-256 px, 8-256 px], got shape {list(shape)}")
    sizes = [(shape[1], shape[2])]
    while min(sizes[-1]) >= 8 or len(sizes) < 3:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def widths(width: int, blocks: int) -> list[int]:
    """Returns the channels of each block, next to the image first: doubling up to 8 × width. Raises ValueError for width < 1."""
    if width < 1:
        raise ValueError(f"width: must be at least 1, got {width}")
    return [width * min(2**i, 8) for i in range(blocks)]


def init_weights(module: nn.Module) -> None:
    """Weights from N(0, 0.02), batch-norm scales from N(1, 0.02), zero biases (section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    zero_bias(module)


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape] in [-1, 1].

    `width`: channels of the block next to the image; they double towards z, up to 8 × width.
    `classes`: append a one-hot label to z; null ignores y.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int, width: int = 64, classes: int | None = None):
        super().__init__()
        self.classes = classes
        sizes = map_sizes(shape)
        channels = [shape[0], *widths(width, len(sizes) - 1)]
        sizes, channels = sizes[::-1], channels[::-1]
        self.bottom = (channels[0], *sizes[0])
        # The same as a transposed convolution of a 1×1 map
        self.project = nn.Linear(latent_dim + (classes or 0), channels[0] * sizes[0][0] * sizes[0][1], bias=False)
        self.blocks = nn.Sequential()
        for i in range(len(sizes) - 1):
            odd = (sizes[i + 1][0] % 2, sizes[i + 1][1] % 2)  # 7 px were halved to 3
            self.blocks += nn.Sequential(
                nn.BatchNorm2d(channels[i]),
                nn.ReLU(inplace=True),
                nn.ConvTranspose2d(channels[i], channels[i + 1], 4, 2, 1, output_padding=odd, bias=i == len(sizes) - 2),
            )
        self.squash = nn.Tanh()
        self.apply(init_weights)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        z = append_label(z, y, self.classes)
        return self.squash(self.blocks(self.project(z).view(-1, *self.bottom)))


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with logits [N, outputs].

    `width`: channels of the first block; they double with each block, up to 8 × width. `norm`: batch norm after every block but
    the first, as published; disable it for gradient penalties, which are defined per image (Gulrajani et al. 2017, section 4).
    `classes`, `auxiliary`, `minibatch_std`: see Head.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 64,
        norm: bool = True,
        classes: int | None = None,
        outputs: int = 1,
        auxiliary: int = 0,
        minibatch_std: int = 0,
    ):
        super().__init__()
        sizes = map_sizes(shape)
        channels = [shape[0], *widths(width, len(sizes) - 1)]
        self.blocks = nn.Sequential()
        for i in range(len(sizes) - 1):
            normed = norm and i > 0
            self.blocks.append(nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1, bias=not normed))
            if normed:
                self.blocks.append(nn.BatchNorm2d(channels[i + 1]))
            self.blocks.append(nn.LeakyReLU(0.2, inplace=True))
        self.head = Head(channels[-1] * sizes[-1][0] * sizes[-1][1], outputs, classes, auxiliary, minibatch_std)
        self.apply(init_weights)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return self.head(self.blocks(x).flatten(1), y)
