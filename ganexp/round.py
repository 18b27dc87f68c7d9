"""One part of a batch as both players see it: losses and regularizers share its passes through the networks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ganexp.networks.output import Output, as_output


class Round:
    """`real`, `fake` [N, *shape] in [-1, 1], `z` [N, dim] the latents of the fakes, `y` [N] the labels of both.

    Every pass through the discriminator is made when it is first asked for, and once. `differentiable`: the sides whose images
    the discriminator is differentiated by; their pass is in float32, since gradients of gradients do not survive 16 bits.
    `scalars`: what a term wants to have in the log, by name.
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
        self.images, self.z, self.y = {"real": real, "fake": fake}, z, y
        self.differentiable = set(differentiable)
        for side in self.differentiable:
            x = self.images[side].float()
            self.images[side] = x if x.grad_fn is not None else x.detach().requires_grad_()  # fakes may lead back to G
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

    def output(self, side: str) -> Output:
        """The discriminator's answer to the augmented images of a side, `real` or `fake`."""
        if side not in self.outputs:
            self.outputs[side] = self.score(self.images[side], exact=side in self.differentiable)
        return self.outputs[side]

    def score(self, x: Tensor, exact: bool = False) -> Output:
        """The discriminator's answer to other images, augmented; they have the first labels of this part. `exact`: in float32."""
        y = self.y[: len(x)]
        for augment in self.augment:
            x = augment(x)
        with torch.autocast(x.device.type, enabled=self.autocast and not exact):
            return as_output(self.discriminator(x, y[:: len(y) // len(x)]))  # a row of several images has the label of the first

    def gradient(self, side: str) -> Tensor:
        """The gradient of `score(x).logits`, the mean over its columns, by the images of a differentiable side: [N, pixels]."""
        if side not in self.gradients:
            self.gradients[side] = slope(self.output(side), self.images[side])
        return self.gradients[side]

    def gradient_at(self, x: Tensor) -> Tensor:
        """The same at other images: one more pass."""
        x = x.detach().float().requires_grad_()
        return slope(self.score(x, exact=True), x)


def slope(output: Output, x: Tensor) -> Tensor:
    """Gradients by x, differentiable themselves, a row for each row of logits."""
    (gradient,) = torch.autograd.grad(output.logits.mean(1).sum(), x, create_graph=True)
    return gradient.reshape(len(output.logits), -1)
