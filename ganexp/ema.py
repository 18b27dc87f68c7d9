"""An exponential moving average of a network (Karras et al. 2018, arXiv:1710.10196, section A; half-life as in StyleGAN2)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA(nn.Module):
    """Holds `average`, a frozen copy of `network` that follows it.

    `half_life`: after so many images an old weight counts half. Early on it is at most 5 % of the images seen, so that the
    random start is forgotten. Parameters are lerped; buffers (batch-norm statistics) are copied, since they are averages already.
    """

    def __init__(self, network: nn.Module, half_life: float):
        super().__init__()
        self.half_life = half_life
        self.average = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: nn.Module, images: int, images_seen: int) -> None:
        """Follow `network` after a step of `images`, `images_seen` of them since the start."""
        decay = 0.5 ** (images / max(min(self.half_life, 0.05 * images_seen), 1e-8))
        torch._foreach_lerp_(list(self.average.parameters()), list(network.parameters()), 1 - decay)
        for mine, theirs in zip(self.average.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
