"""One micro-batch of the game. Losses and regularizers share its passes through the discriminator."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ganexp.networks.output import Output, as_output


class Round:
    """`real`, `fake` [N, *shape] in [-1, 1], `z` [N, dim] the latents of the fakes, `y` [N] the labels of both. Images are
    converted to float32.

    Outputs and gradients of the discriminator are computed on first use and cached. `differentiable`: the kinds of images, "real"
    or "fake", that need gradients of D's output; their pass is in float32, since double backward is unstable in 16 bits.
    `scalars`: values that terms log, by name.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        augment: Iterable[nn.Module],
        real: Tensor,
        fake: Tensor,
        z: Tensor,
        y: Tensor,
        differentiable: Iterable[str] = (),
    ):
        self.generator, self.discriminator, self.augment = generator, discriminator, list(augment)
        self.images, self.z, self.y = {"real": real.float(), "fake": fake.float()}, z, y
        self.differentiable = set(differentiable)
        for kind in self.differentiable:
            x = self.images[kind]
            self.images[kind] = x if x.grad_fn is not None else x.detach().requires_grad_()  # fakes may have a graph, of G
        self.outputs: dict[str, Output] = {}
        self.gradients: dict[str, Tensor] = {}
        self.scalars: dict[str, Tensor] = {}
        self.autocast = torch.is_autocast_enabled(real.device.type)

    @property
    def real(self) -> Tensor:
        return self.images["real"]

    @property
    def fake(self) -> Tensor:
        return self.images["fake"]

    def output(self, kind: str) -> Output:
        """Returns D's output for the augmented images of a kind, "real" or "fake"."""
        if kind not in self.outputs:
            self.outputs[kind] = self.score(self.images[kind], float32=kind in self.differentiable)
        return self.outputs[kind]

    def score(self, x: Tensor, float32: bool = False) -> Output:
        """Returns D's output for other images, augmented, with the first labels of `y`. `float32`: without autocast."""
        y = self.y[: len(x)]
        for augment in self.augment:
            x = augment(x)
        with torch.autocast(x.device.type, enabled=self.autocast and not float32):
            return as_output(self.discriminator(x, y[:: len(y) // len(x)]))  # a packed row has the label of its first image

    def gradient(self, kind: str) -> Tensor:
        """Returns the gradient of the mean logit with respect to the images of a differentiable kind: [N, pixels]."""
        if kind not in self.gradients:
            self.gradients[kind] = input_gradient(self.output(kind), self.images[kind])
        return self.gradients[kind]

    def gradient_at(self, x: Tensor) -> Tensor:
        """Returns the same gradient at other images. Costs one more pass."""
        x = x.detach().float().requires_grad_()
        return input_gradient(self.score(x, float32=True), x)


def input_gradient(output: Output, x: Tensor) -> Tensor:
    """Returns the gradient of the mean logit of each row with respect to x, differentiable itself: [rows, pixels]."""
    (gradient,) = torch.autograd.grad(output.logits.mean(1).sum(), x, create_graph=True)
    return gradient.reshape(len(output.logits), -1)
