"""Anti-aliased up- and downsampling by 2 with the filter [1, 3, 3, 1] (Zhang 2019, arXiv:1904.11486)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TAPS = (1.0, 3.0, 3.0, 1.0)  # [1, 2, 1] convolved with [1, 1]


def up(x: Tensor) -> Tensor:
    """x [N, C, H, W] -> [N, C, 2H, 2W]."""
    return Filter.apply(x, 4.0, 2, 1, True)


def down(x: Tensor) -> Tensor:
    """x [N, C, H, W] -> [N, C, H/2, W/2], for even H and W."""
    return Filter.apply(x, 1.0, 2, 1, False)


def blur(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Filters x [N, C, H, W] with zero padding. Each side grows by 2 · padding - 3."""
    return Filter.apply(x, gain, 1, padding, False)


class Filter(torch.autograd.Function):
    """A depthwise convolution with the outer product of the taps, whose sum is `gain`; or its transpose.

    The map is linear, so that its backward pass is its transpose. torch's double backward would also differentiate with respect
    to the taps, channel by channel, which takes six times as long as the rest on the CPU.
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
