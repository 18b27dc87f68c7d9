"""Layers, shape checks and weight initializations shared by the networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from ganexp.networks.output import Output

LAYERS = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
WEIGHTED = LAYERS | nn.Embedding


def append_label(x: Tensor, y: Tensor, classes: int | None) -> Tensor:
    """x [N, D], y [N] -> [N, D + classes]: appends the one-hot label (Mirza & Osindero 2014, arXiv:1411.1784)."""
    return torch.cat([x, one_hot(y, classes).to(x.dtype)], 1) if classes else x


def one_hot(y: Tensor, classes: int) -> Tensor:
    """Labels y [N] -> [N, classes]. Floating-point weights of the classes [N, classes] are returned as they are."""
    return y if y.is_floating_point() else F.one_hot(y, classes)


def embed(embedding: nn.Module, y: Tensor) -> Tensor:
    """Labels y [N] -> their embeddings [N, features]; weights of the classes [N, classes] -> the weighted sum of embeddings."""
    assert isinstance(embedding, nn.Embedding)
    return y.to(embedding.weight.dtype) @ embedding.weight if y.is_floating_point() else embedding(y)


class MinibatchStd(nn.Module):
    """x [N, C, …] -> [N, C + 1, …]: appends the standard deviation within a group of samples, which shows D mode collapse.

    It is computed for each feature and averaged to one number per group (Karras et al. 2018, arXiv:1710.10196, section 3).
    `group`: group size; if the batch is not a multiple of it, the next smaller divisor of the batch.
    """

    def __init__(self, group: int = 4):
        super().__init__()
        if group < 2:
            raise ValueError(f"minibatch_std: must be at least 2, the samples of a group, got {group}")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        size = next(size for size in range(min(self.group, n), 0, -1) if n % size == 0)
        groups = x.float().reshape(size, n // size, -1)
        variance = (groups - groups.mean(0)).square().mean(0)  # Tensor.var over the first dimension takes twenty times as long
        std = (variance + 1e-8).sqrt().mean(1).to(x.dtype)  # [groups]
        return torch.cat([x, std.repeat(size).view(n, *[1] * (x.ndim - 1)).expand(n, 1, *x.shape[2:])], 1)


class Head(nn.Module):
    """h [N, features], y [N] -> Output with logits [N, outputs], class logits [N, auxiliary], and h as features.

    `classes`: add the inner product of h and a label embedding to the first logit (projection, Miyato & Koyama 2018,
    arXiv:1802.05637, figure 1d); null ignores y. `auxiliary`: number of class logits (Odena et al. 2017, arXiv:1610.09585); 0
    disables them. `minibatch_std`: group size of MinibatchStd; 0 disables it.
    """

    def __init__(self, features: int, outputs: int, classes: int | None, auxiliary: int = 0, minibatch_std: int = 0):
        super().__init__()
        self.outputs = outputs
        self.minibatch_std = MinibatchStd(minibatch_std) if minibatch_std else nn.Identity()
        self.out = nn.Linear(features + bool(minibatch_std), outputs + auxiliary)
        self.label = nn.Embedding(classes, features) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, 0.0, 0.02)

    def forward(self, h: Tensor, y: Tensor) -> Output:
        logits, class_logits = self.out(self.minibatch_std(h)).tensor_split([self.outputs], 1)
        if self.label is not None:
            logits = logits + F.pad((self.label(y) * h).sum(1, keepdim=True), (0, logits.shape[1] - 1))
        return Output(logits, class_logits if class_logits.shape[1] else None, (h,))


def map_sizes(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Returns map sizes, smallest first: 64 -> 4, 8, 16, 32, 64 and 28 -> 7, 14, 28.

    Raises ValueError unless both sides can be halved until the shorter one has 4 to 7 px.
    """
    sizes = [(shape[1], shape[2])] if len(shape) == 3 and shape[0] >= 1 else []
    while sizes and min(sizes[0]) >= 8 and not any(side % 2 for side in sizes[0]):
        sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
    if len(sizes) < 2 or not 4 <= min(sizes[0]) < 8:
        sides = "whose shorter side is 4, 5, 6 or 7 px times a power of two (28, 32, 48, 64, …) that divides the other side too"
        raise ValueError(f"this network needs images [channels, height, width] {sides}, got shape {list(shape)}")
    return sizes


def apply_spectral_norm(network: nn.Module, types: Any = WEIGHTED, eps: float = 1e-12) -> None:
    """Divides the weights of all layers of these types by their largest singular value, with one power iteration per pass
    (Miyato et al. 2018, arXiv:1802.05957, section 2.1). Skips layers that have spectral norm already."""
    for layer in list(network.modules()):
        if isinstance(layer, types) and not is_parametrized(layer, "weight"):
            spectral_norm(layer, eps=eps)


def check_image(shape: Sequence[int], width: int, multiple: int, smallest: int) -> None:
    """Raises ValueError for width < 1, and for sides below `smallest` px or that are not multiples of `multiple` px."""
    if len(shape) != 3 or any(side < smallest or side % multiple for side in shape[1:]):
        sides = f"sides of at least {smallest} px that are multiples of {multiple}"
        raise ValueError(f"this network needs images [channels, height, width] with {sides}, got shape {list(shape)}")
    if width < 1:
        raise ValueError(f"width: must be at least 1, got {width}")


def glorot(module: nn.Module) -> None:
    """For `network.apply`: weights from U(-a, a), a² = 6 / (fan in + fan out) (Glorot & Bengio 2010, equation 16), zero biases.

    The default of Keras.
    """
    if isinstance(module, LAYERS):
        nn.init.xavier_uniform_(module.weight)
        zero_bias(module)


def truncated_normal(module: nn.Module) -> None:
    """For `network.apply`: weights from N(0, 0.02), truncated at two standard deviations as in TensorFlow, zero biases."""
    if isinstance(module, LAYERS):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        zero_bias(module)


def zero_bias(module: nn.Module) -> None:
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
