"""Constraints that D is held to: on its weights, or on the function that it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganexp.networks.layers import WEIGHTED, MinibatchStd, normalize_spectrally
from ganexp.networks.output import Output, as_output


class Constraint:
    """Applied to D once when the system is built, and after each of its updates."""

    def apply(self, discriminator: nn.Module) -> nn.Module:
        """The discriminator that plays: the same, changed in place, or a module around it. Raises ValueError where it cannot."""
        return discriminator

    def after_step(self, discriminator: nn.Module) -> None:
        """Called after each update of D, outside of any graph."""


class SpectralNorm(Constraint):
    """Every convolution, linear layer and embedding of D divided by its greatest singular value, from one power iteration a pass
    (Miyato et al. 2018, arXiv:1802.05957, section 2.1). Usually without batch norm: model.discriminator.norm=false."""

    def apply(self, discriminator: nn.Module) -> nn.Module:
        normalize_spectrally(discriminator)
        return discriminator


class GradientNorm(Constraint):
    """D(x) / (|grad D(x)| + |D(x)|) in place of D(x): Lipschitz and bounded (Wu et al. 2021, arXiv:2109.02235, equation 9).

    Every pass costs a gradient by the images, and every update a second derivative. Raises ValueError for more than one logit,
    and for what mixes the gradients of images: batch norm, minibatch_std.
    """

    def apply(self, discriminator: nn.Module) -> nn.Module:
        for module in discriminator.modules():
            if isinstance(module, nn.BatchNorm2d):
                raise ValueError("gradient normalization is of each image alone: no batch norm, model.discriminator.norm=false")
            if isinstance(module, MinibatchStd):
                raise ValueError("gradient normalization is of each image alone: model.discriminator.minibatch_std=0")
        return GradientNormalized(discriminator)


class GradientNormalized(nn.Module):
    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, x: Tensor, y: Tensor) -> Output:
        differentiating = torch.is_grad_enabled()
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.requires_grad else x.detach().float().requires_grad_()
            output = as_output(self.discriminator(x, y))
            if output.logits.shape[1] != 1:
                raise ValueError(f"gradient normalization is of one logit, this discriminator gives {output.logits.shape[1]}")
            (gradient,) = torch.autograd.grad(output.logits.sum(), x, create_graph=differentiating)
            norm = gradient.reshape(len(output.logits), -1).norm(dim=1, keepdim=True)
            logits = output.logits / (norm + output.logits.abs() + 1e-12)
        output = output._replace(logits=logits)
        if differentiating:
            return output
        classes = None if output.classes is None else output.classes.detach()
        return Output(logits.detach(), classes, tuple(h.detach() for h in output.features))


class WeightClip(Constraint):
    """All weights of D within [-limit, limit] after each of its updates (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1).

    Raises ValueError for a limit of 0 or less.
    """

    def __init__(self, limit: float = 0.01):
        if limit <= 0:
            raise ValueError(f"limit: more than 0, not {limit}")
        self.limit = limit

    def after_step(self, discriminator: nn.Module) -> None:
        with torch.no_grad():
            for p in discriminator.parameters():
                p.clamp_(-self.limit, self.limit)


class Freeze(Constraint):
    """The first `layers` layers of D keep the weights they start with (FreezeD, Mo et al. 2020, arXiv:2002.10964), which are
    another run's: start_from=RUN. Raises ValueError where no layer is left to learn."""

    def __init__(self, layers: int = 3):
        if layers < 1:
            raise ValueError(f"layers: at least 1, not {layers}")
        self.layers = layers

    def apply(self, discriminator: nn.Module) -> nn.Module:
        layers = weighted_layers(discriminator)
        if self.layers >= len(layers):
            raise ValueError(f"layers: {self.layers}, but this discriminator has {len(layers)}, of which one at least must learn")
        for module in discriminator.modules():
            if module is layers[self.layers]:
                break
            for p in module.parameters(recurse=False):  # norms between the layers too
                p.requires_grad_(False)
        return discriminator


def weighted_layers(network: nn.Module) -> list[nn.Module]:
    """Convolutions, linear layers and embeddings, in the order of their definition."""
    return [module for module in network.modules() if isinstance(module, WEIGHTED)]
