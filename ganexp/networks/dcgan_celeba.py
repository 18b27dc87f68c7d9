"""The DCGAN for CelebA faces, 3×64×64. G begins with a dense layer, D ends with average pooling.

    G   z -> dense 4×4 512 -> 8×8 256 -> 16×16 128 -> 32×32 64 -> 64×64 32 -> conv 3×3, image
    D   image -> [conv, BN, conv stride 2, BN] to 32×32 64 -> 16×16 128 -> 8×8 256 -> 4×4 512 -> average pool -> logit

G starts with as many channels as D ends with. The article does not give kernels, widths or activations; here G has 4×4 kernels
and ReLU, D has 3×3 kernels and leaky ReLU 0.2, and widths and initial weights are those of DCGAN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from ganexp.networks.dcgan import init_weights
from ganexp.networks.layers import Head, append_label, check_image
from ganexp.networks.output import Output

Norm = partial(nn.BatchNorm2d, eps=1e-3)


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape] in [-1, 1].

    `width`: channels of D's first block; G's first map has 8 × width channels, its last map width / 2. `classes`: append a
    one-hot label to z; null ignores y. Raises ValueError for sides that are not multiples of 16.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int, width: int = 64, classes: int | None = None):
        super().__init__()
        check_image(shape, width, multiple=16, smallest=16)
        self.classes = classes
        self.bottom = (8 * width, shape[1] // 16, shape[2] // 16)
        self.project = nn.Linear(latent_dim + (classes or 0), self.bottom[0] * self.bottom[1] * self.bottom[2])
        self.blocks = nn.Sequential()
        for n_in, n_out in pairwise([8 * width, 4 * width, 2 * width, width, max(width // 2, 1)]):
            self.blocks += nn.Sequential(
                nn.ConvTranspose2d(n_in, n_out, 4, 2, 1),
                Norm(n_out),
                nn.ReLU(inplace=True),
            )
        self.out = nn.Conv2d(n_out, shape[0], 3, padding=1)
        self.squash = nn.Tanh()
        self.apply(init_weights)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.project(append_label(z, y, self.classes)).view(-1, *self.bottom)
        return self.squash(self.out(self.blocks(h)))


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with logits [N, outputs].

    `width`: channels of the first block; they double with each block. `classes`, `auxiliary`, `minibatch_std`: see Head.
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
        self.blocks = nn.Sequential()
        for n_in, n_out in pairwise([shape[0], width, 2 * width, 4 * width, 8 * width]):
            self.blocks += nn.Sequential(
                nn.Conv2d(n_in, n_out, 3, padding=1),
                Norm(n_out),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(n_out, n_out, 3, 2, 1),
                Norm(n_out),
                nn.LeakyReLU(0.2, inplace=True),
            )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = Head(8 * width, outputs, classes, auxiliary, minibatch_std)
        self.apply(init_weights)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return self.head(self.pool(self.blocks(x)).flatten(1), y)
