"""Multilayer perceptrons: the generator and discriminator of the original GAN (Goodfellow et al. 2014, arXiv:1406.2661)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from ganexp.networks.layers import Head, append_label
from ganexp.networks.output import Output


def check_hidden(hidden: Sequence[int]) -> Sequence[int]:
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden: must be widths of at least 1, got {list(hidden)}")
    return hidden


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> x [N, *shape]; the last layer is tanh for images, linear for points.

    `hidden`: widths of the hidden layers. `classes`: append a one-hot label to z; null ignores y.
    """

    def __init__(
        self, shape: Sequence[int], latent_dim: int, hidden: Sequence[int] = (256, 512, 1024), classes: int | None = None
    ):
        super().__init__()
        self.shape, self.classes = tuple(shape), classes
        widths = [latent_dim + (classes or 0), *check_hidden(hidden)]
        self.hidden = nn.Sequential()
        for n_in, n_out in pairwise(widths):
            self.hidden += nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU(inplace=True))
        self.out = nn.Linear(widths[-1], prod(shape))
        self.squash = nn.Tanh() if len(shape) == 3 else nn.Identity()

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.squash(self.out(self.hidden(append_label(z, y, self.classes)))).view(-1, *self.shape)


class Discriminator(nn.Module):
    """x [N, *shape], y [N] -> Output with logits [N, outputs].

    `hidden`: widths of the hidden layers. `dropout`: after each of them. `classes`: append a one-hot label to x; null ignores y.
    `auxiliary`, `minibatch_std`: see Head.
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.3,
        classes: int | None = None,
        outputs: int = 1,
        auxiliary: int = 0,
        minibatch_std: int = 0,
    ):
        super().__init__()
        self.classes = classes
        widths = [prod(shape) + (classes or 0), *check_hidden(hidden)]
        self.hidden = nn.Sequential()
        for n_in, n_out in pairwise(widths):
            self.hidden += nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.head = Head(widths[-1], outputs, None, auxiliary, minibatch_std)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return self.head(self.hidden(append_label(x.flatten(1), y, self.classes)), y)
