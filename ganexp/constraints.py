"""Constraints on D: on its weights, or on its output."""

from __future__ import annotations

from typing import cast, get_args

import torch
from torch import Tensor, nn

from ganexp.networks.layers import WEIGHTED, MinibatchStd, apply_spectral_norm
from ganexp.networks.output import Output, as_output


class Constraint:
    """Applied to D when the system is built, and after each update of D. `second_order`: D's passes are differentiated twice."""

    second_order = False

    def apply(self, discriminator: nn.Module) -> nn.Module:
        """Returns the constrained discriminator: the same module, or a wrapper. Raises ValueError for an unsuitable one."""
        return discriminator

    def after_step(self, discriminator: nn.Module) -> None:
        """Called after each update of D."""


class SpectralNorm(Constraint):
    """Divides the weights of all convolutions, linear layers and embeddings of D by their largest singular value, estimated with
    one power iteration per forward pass (Miyato et al. 2018, arXiv:1802.05957, section 2.1). Usually without batch norm:
    model.discriminator.norm=false. Raises ValueError for layers that rescale their weights, as in StyleGAN2, and for weights that
    are all 0, as in R3GAN."""

    def apply(self, discriminator: nn.Module) -> nn.Module:
        for layer in weighted_layers(discriminator):
            if type(layer).forward not in (kind.forward for kind in get_args(WEIGHTED)):  # not torch's own
                name = f"{type(layer).__module__}.{type(layer).__name__}"
                raise ValueError(f"spectral normalization needs layers that do not rescale their weights, unlike {name}")
            if not cast(Tensor, layer.weight).any():
                raise ValueError("spectral normalization cannot scale weights that are all 0, as some of this discriminator are")
        apply_spectral_norm(discriminator)
        return discriminator


class GradientNorm(Constraint):
    """Replaces D(x) by D(x) / (|grad D(x)| + |D(x)|), which is Lipschitz and bounded (Wu et al. 2021, arXiv:2109.02235, equation
    9).

    Every pass needs a gradient with respect to the images, and every update a second derivative. Raises ValueError for more than
    one logit, and for layers that mix samples: batch norm and minibatch_std.
    """

    second_order = True

    def apply(self, discriminator: nn.Module) -> nn.Module:
        for module in discriminator.modules():
            if isinstance(module, nn.BatchNorm2d):
                raise ValueError("gradient normalization does not support batch norm; set model.discriminator.norm=false")
            if isinstance(module, MinibatchStd):
                raise ValueError("gradient normalization does not support minibatch_std; set model.discriminator.minibatch_std=0")
        return GradientNormalized(discriminator)


class GradientNormalized(nn.Module):
    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, x: Tensor, y: Tensor) -> Output:
        grad_enabled = torch.is_grad_enabled()
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.requires_grad else x.detach().float().requires_grad_()
            output = as_output(self.discriminator(x, y))
            if output.logits.shape[1] != 1:
                raise ValueError(f"gradient normalization needs one logit, this discriminator returns {output.logits.shape[1]}")
            (gradient,) = torch.autograd.grad(output.logits.sum(), x, create_graph=grad_enabled)
            norm = gradient.reshape(len(output.logits), -1).norm(dim=1, keepdim=True)
            logits = output.logits / (norm + output.logits.abs() + 1e-12)
        output = output._replace(logits=logits)
        if grad_enabled:
            return output
        classes = None if output.classes is None else output.classes.detach()
        return Output(logits.detach(), classes, tuple(h.detach() for h in output.features))


class WeightClip(Constraint):
    """Clips all parameters of D to [-limit, limit] after each update of D (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1).

    Raises ValueError for a limit of 0 or less.
    """

    def __init__(self, limit: float = 0.01):
        if limit <= 0:
            raise ValueError(f"limit: must be above 0, got {limit}")
        self.limit = limit

    def after_step(self, discriminator: nn.Module) -> None:
        with torch.no_grad():
            for p in discriminator.parameters():
                p.clamp_(-self.limit, self.limit)


class Freeze(Constraint):
    """Freezes the first `layers` layers of D (FreezeD, Mo et al. 2020, arXiv:2002.10964). Use with start_from=RUN. Raises
    ValueError if no layer is left to train."""

    def __init__(self, layers: int = 3):
        if layers < 1:
            raise ValueError(f"layers: must be at least 1, got {layers}")
        self.layers = layers

    def apply(self, discriminator: nn.Module) -> nn.Module:
        layers = weighted_layers(discriminator)
        if self.layers >= len(layers):
            raise ValueError(f"layers: must be below {len(layers)}, the layers of this discriminator, got {self.layers}")
        for module in discriminator.modules():
            if module is layers[self.layers]:
                break
            if layers[self.layers] in set(module.modules()):  # its own parameters may belong to later layers
                continue
            for p in module.parameters(recurse=False):  # includes the norms in between
                p.requires_grad_(False)
        return discriminator


def weighted_layers(network: nn.Module) -> list[nn.Module]:
    """Returns convolutions, linear layers and embeddings in the order of their definition."""
    return [module for module in network.modules() if isinstance(module, WEIGHTED)]
