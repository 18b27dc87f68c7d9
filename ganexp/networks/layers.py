"""What the networks share: how they heed the label, and how weights start."""

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
    """x [N, D] with the one-hot label y [N] behind it: [N, D + classes] (Mirza & Osindero 2014, arXiv:1411.1784)."""
    return torch.cat([x, F.one_hot(y, classes).to(x.dtype)], 1) if classes else x


class MinibatchStd(nn.Module):
    """x [N, C, …] -> [N, C + 1, …]: behind it, how much the samples of a group differ, which shows a D that G repeats itself.

    The standard deviation over a group of each feature, averaged over all of them to one number for each group (Karras et al.
    2018, arXiv:1710.10196, section 3). `group`: its size; where the batch is no multiple, the largest below that divides it.
    """

    def __init__(self, group: int = 4):
        super().__init__()
        if group < 2:
            raise ValueError(f"minibatch_std: groups of at least 2 samples, not {group}")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        size = next(size for size in range(min(self.group, n), 0, -1) if n % size == 0)
        groups = x.float().reshape(size, n // size, -1)
        variance = (groups - groups.mean(0)).square().mean(0)  # Tensor.var over the first dimension takes twenty times as long
        std = (variance + 1e-8).sqrt().mean(1).to(x.dtype)  # [groups]
        return torch.cat([x, std.repeat(size).view(n, *[1] * (x.ndim - 1)).expand(n, 1, *x.shape[2:])], 1)


class Head(nn.Module):
    """Features h [N, features], y [N] -> Output: logits [N, outputs], logits of `auxiliary` classes, and h as its features.

    `classes`: add the projection of the features on the label's embedding to the first logit (Miyato & Koyama 2018,
    arXiv:1802.05637, figure 1d). `auxiliary`: classes that D names, 0 for none (Odena et al. 2017, arXiv:1610.09585).
    `minibatch_std`: see MinibatchStd, 0 for none.
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
        logits, named = self.out(self.minibatch_std(h)).tensor_split([self.outputs], 1)
        if self.label is not None:
            logits = logits + F.pad((self.label(y) * h).sum(1, keepdim=True), (0, logits.shape[1] - 1))
        return Output(logits, named if named.shape[1] else None, (h,))


def map_sizes(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Map sizes from the smallest to the image: 64 -> 4, 8, 16, 32, 64 and 28 -> 7, 14, 28.

    Raises ValueError for what is no image whose sides can be halved to a smallest map of 4 to 7 px on its shorter side.
    """
    sizes = [(shape[1], shape[2])] if len(shape) == 3 and shape[0] >= 1 else []
    while sizes and min(sizes[0]) >= 8 and not any(side % 2 for side in sizes[0]):
        sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
    if len(sizes) < 2 or not 4 <= min(sizes[0]) < 8:
        wanted = "the shorter side 4, 5, 6 or 7 px times a power of two (28, 32, 48, 64, …) that divides the other one too"
        raise ValueError(f"this network takes images [channels, height, width], {wanted}, not shape {list(shape)}")
    return sizes


def normalize_spectrally(network: nn.Module, kinds: Any = WEIGHTED, eps: float = 1e-12) -> None:
    """Divide the weights of all layers of these kinds by their greatest singular value, from one power iteration a pass
    (Miyato et al. 2018, arXiv:1802.05957, section 2.1). Layers that have it already are left as they are."""
    for layer in list(network.modules()):
        if isinstance(layer, kinds) and not is_parametrized(layer, "weight"):
            spectral_norm(layer, eps=eps)


def check_image(shape: Sequence[int], width: int, multiple: int, smallest: int) -> None:
    """Raises ValueError for what is no image of `smallest` px or more a side, in multiples of `multiple`, and for width < 1."""
    if len(shape) != 3 or any(side < smallest or side % multiple for side in shape[1:]):
        sides = f"sides from {smallest} px on that are multiples of {multiple}"
        raise ValueError(f"this network takes images [channels, height, width] with {sides}, not shape {list(shape)}")
    if width < 1:
        raise ValueError(f"width: at least 1 channel, not {width}")


def glorot(module: nn.Module) -> None:
    """For `network.apply`: weights from U(-a, a), a² = 6 / (fan in + fan out) (Glorot & Bengio 2010, equation 16), biases 0.

    What Keras starts from.
    """
    if isinstance(module, LAYERS):
        nn.init.xavier_uniform_(module.weight)
        zero_bias(module)


def truncated_normal(module: nn.Module) -> None:
    """For `network.apply`: weights from N(0, 0.02) within two standard deviations (TensorFlow's truncated normal), biases 0."""
    if isinstance(module, LAYERS):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        zero_bias(module)


def zero_bias(module: nn.Module) -> None:
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
