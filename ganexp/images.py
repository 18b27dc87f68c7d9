"""Conversion between stored images, uint8, and the networks' inputs, float32 in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(x: Tensor) -> Tensor:
    """Convert uint8 images to float32 in [-1, 1]; anything else, such as points, to float32 without scaling."""
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x.float()


def to_uint8(x: Tensor) -> Tensor:
    """Convert images in [-1, 1] to uint8, rounded; values outside are clamped."""
    return x.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
