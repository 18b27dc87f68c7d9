"""The DCGAN for cats, 3×128×128.

    G   z -> dense 8×8 1024 -> 16×16 512 -> 32×32 256 -> 64×64 128 -> 128×128 64 -> conv 5×5, image
    D   image -> 64×64 64 -> 32×32 128 -> 16×16 256 -> 16×16 512 -> 8×8 1024 -> logit

5×5 kernels, leaky ReLU 0.2 and batch norm (eps 1e-5) except at the ends, weights from a truncated normal distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ganexp.networks.layers import Head, append_label, check_image, truncated_normal
from ganexp.networks.output import Output


def up(n_in: int, n_out: int) -> list[nn.Module]:
    """Upsamples by 2, like TensorFlow's `same` padding."""
    same = nn.ConvTranspose2d(n_in, n_out, 5, 2, 2, output_padding=1)
    return [same, nn.BatchNorm2d(n_out, eps=1e-5), nn.LeakyReLU(0.2, inplace=True)]


def down(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 5, stride, 2), nn.BatchNorm2d(n_out, eps=1e-5), nn.LeakyReLU(0.2, inplace=True)]


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape] in [-1, 1].

    `width`: channels of the last hidden map; they double towards z. `classes`: append a one-hot label to z; null ignores y.
    Raises ValueError for sides that are not multiples of 16.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int, width: int = 64, classes: int | None = None):
        super().__init__()
        check_image(shape, width, multiple=16, smallest=16)
        self.classes = classes
        bottom = (16 * width, shape[1] // 16, shape[2] // 16)
        self.blocks = nn.Sequential(
            nn.Linear(latent_dim + (classes or 0), bottom[0] * bottom[1] * bottom[2]),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Unflatten(1, bottom),
            *up(16 * width, 8 * width),
            *up(8 * width, 4 * width),
            *up(4 * width, 2 * width),
            *up(2 * width, width),
            nn.ConvTranspose2d(width, shape[0], 5, 1, 2),
            nn.Tanh(),
        )
        self.apply(truncated_normal)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.blocks(append_label(z, y, self.classes))


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
            *down(shape[0], width, 2),
            *down(width, 2 * width, 2),
            *down(2 * width, 4 * width, 2),
            *down(4 * width, 8 * width, 1),
            *down(8 * width, 16 * width, 2),
            nn.Flatten(),
        )
        self.head = Head(16 * width * (shape[1] // 16) * (shape[2] // 16), outputs, classes, auxiliary, minibatch_std)
        self.apply(truncated_normal)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return self.head(self.blocks(x), y)
