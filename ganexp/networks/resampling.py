"""Maps made twice and half as large through the filter [1, 3, 3, 1], against aliasing (Zhang 2019, arXiv:1904.11486)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TAPS = (1.0, 3.0, 3.0, 1.0)  # [1, 2, 1] convolved with [1, 1]


def up(x: Tensor) -> Tensor:
    """x [N, C, H, W] at twice the size."""
    return Filter.apply(x, 4.0, 2, 1, True)


def down(x: Tensor) -> Tensor:
    """x [N, C, H, W] at half the size; H and W are even."""
    return Filter.apply(x, 1.0, 2, 1, False)


def blur(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """x [N, C, H, W] with `padding` zeros on all sides, filtered: each side is 2 · padding - 3 longer."""
    return Filter.apply(x, gain, 1, padding, False)


class Filter(torch.autograd.Function):
    """Every channel convolved with the outer product of the taps, whose sum is `gain`; or the transposed convolution.

    A linear map, so that its derivative, of any order, is its transpose. The second derivative of torch's own convolution takes
    that by the taps too, channel after channel: on the CPU six times as long as the rest.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float, stride: int, padding: int, transposed: bool) -> Tensor:
        ctx.options = gain, stride, padding, not transposed
        taps = torch.tensor(TAPS, device=x.device, dtype=x.dtype) / sum(TAPS)
        kernel = (gain * taps[:, None] * taps).expand(x.shape[1], 1, 4, 4)
        convolve = F.conv_transpose2d if transposed else F.conv2d
        return convolve(x, kernel, stride=stride, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return Filter.apply(gradients[0], *ctx.options), None, None, None, None
