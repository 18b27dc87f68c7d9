"""The DCGAN for anime faces, 3×64×64.

    G   z -> 4×4 512 -> 8×8 256 -> 16×16 128 -> 32×32 64 -> conv 3×3 64 -> 64×64 image
    D   image -> 32×32 64 -> 16×16 128 -> 8×8 256 -> 4×4 512 -> logit

4×4 kernels, leaky ReLU 0.2 in both, batch norm with momentum 0.5 (in Keras and in torch) and eps 1e-3, Glorot-uniform weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ganexp.networks.layers import Head, append_label, check_image, glorot
from ganexp.networks.output import Output

Norm = partial(nn.BatchNorm2d, momentum=0.5, eps=1e-3)


def up(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(n_in, n_out, 4, 2, 1), Norm(n_out), nn.LeakyReLU(0.2, inplace=True)]


def down(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 4, 2, 1), Norm(n_out), nn.LeakyReLU(0.2, inplace=True)]


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape] in [-1, 1].

    `width`: channels of the last hidden maps; they double towards z. `classes`: append a one-hot label to z; null ignores y.
    Raises ValueError for sides that are not multiples of 16.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int, width: int = 64, classes: int | None = None):
        super().__init__()
        check_image(shape, width, multiple=16, smallest=16)
        self.classes = classes
        bottom = (shape[1] // 16, shape[2] // 16)
        self.blocks = nn.Sequential(
            nn.ConvTranspose2d(latent_dim + (classes or 0), 8 * width, bottom),  # 4×4 for 64 px
            Norm(8 * width),
            nn.LeakyReLU(0.2, inplace=True),
            *up(8 * width, 4 * width),
            *up(4 * width, 2 * width),
            *up(2 * width, width),
            nn.Conv2d(width, width, 3, padding=1),
            Norm(width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.ConvTranspose2d(width, shape[0], 4, 2, 1),
            nn.Tanh(),
        )
        self.apply(glorot)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.blocks(append_label(z, y, self.classes)[:, :, None, None])


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with logits [N, outputs].

    `width`: channels of the first map; they double with each block. `classes`, `auxiliary`, `minibatch_std`: see Head.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 64,
        classes: int | None = None,
        outputs: int = 1,
        auxiliary: int = 0,
        minibatch_std: int = 0,
    ):
        super().__init__()
        check_image(shape, width, multiple=16, smallest=16)
        self.blocks = nn.Sequential(
            nn.Conv2d(shape[0], width, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            *down(width, 2 * width),
            *down(2 * width, 4 * width),
            *down(4 * width, 8 * width),
            nn.Flatten(),
        )
        self.head = Head(8 * width * (shape[1] // 16) * (shape[2] // 16), outputs, classes, auxiliary, minibatch_std)
        self.apply(glorot)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return self.head(self.blocks(x), y)
