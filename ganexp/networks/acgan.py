"""The networks of the auxiliary-classifier GAN on MNIST: G upsamples with convolutions, z is multiplied by a label embedding.

    G   z · embedding(y) -> dense 7×7 128, BN -> up 14×14, conv 128, BN -> up 28×28, conv 64, BN -> conv, image
    D   image -> 14×14 16 -> 7×7 32 -> padded to 8×8, 4×4 64 -> 4×4 128 -> logits

Odena et al. 2017, arXiv:1610.09585, in the small version of the MNIST tutorials. Layers are as in Keras: Glorot-uniform weights,
batch norm with momentum 0.8 (0.2 in torch) and eps 1e-3. The initial embedding is not published; here it is N(0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ganexp.networks.layers import Head, check_image, embed, glorot
from ganexp.networks.output import Output

Norm = partial(nn.BatchNorm2d, momentum=0.2, eps=1e-3)


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape] in [-1, 1].

    `width`: channels of the last hidden map; the others have twice as many. `classes`: multiply z by a learned embedding of
    the label; null ignores y. Raises ValueError for sides that are not multiples of 4.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int, width: int = 64, classes: int | None = None):
        super().__init__()
        check_image(shape, width, multiple=4, smallest=8)
        self.bottom = (2 * width, shape[1] // 4, shape[2] // 4)
        self.label = nn.Embedding(classes, latent_dim) if classes else None
        self.project = nn.Sequential(
            nn.Linear(latent_dim, 2 * width * self.bottom[1] * self.bottom[2]),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, self.bottom),
            Norm(2 * width),
        )
        self.blocks = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            Norm(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            Norm(width),
            nn.Conv2d(width, shape[0], 3, padding=1),
            nn.Tanh(),
        )
        self.apply(glorot)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        if self.label is not None:
            z = z * embed(self.label, y)
        return self.blocks(self.project(z))


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with logits [N, outputs].

    `width`: channels of the first map; they double with each block. `dropout`: after each block. `classes`, `auxiliary`,
    `minibatch_std`: see Head.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 16,
        dropout: float = 0.25,
        classes: int | None = None,
        outputs: int = 1,
        auxiliary: int = 0,
        minibatch_std: int = 0,
    ):
        super().__init__()
        check_image(shape, width, multiple=4, smallest=8)
        self.blocks = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ZeroPad2d((0, 1, 0, 1)),  # right and bottom: 7×7 to 8×8
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout(dropout),
            Norm(2 * width),
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout(dropout),
            Norm(4 * width),
            nn.Conv2d(4 * width, 8 * width, 3, 1, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout(dropout),
            nn.Flatten(),
        )
        features = 8 * width * ((shape[1] // 4 + 2) // 2) * ((shape[2] // 4 + 2) // 2)
        self.head = Head(features, outputs, classes, auxiliary, minibatch_std)
        self.apply(glorot)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return self.head(self.blocks(x), y)
