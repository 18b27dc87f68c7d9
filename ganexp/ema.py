"""An exponential moving average of a network (Karras et al. 2018, arXiv:1710.10196, section A; half-life as in StyleGAN2)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA(nn.Module):
    """Holds `average`, a frozen copy of `network` whose parameters are averaged.

    `half_life`: number of images after which an old weight counts half. `ramp`: it is at most this fraction of the images seen,
    so that the initial weights are soon forgotten (StyleGAN2-ADA); null: no such limit. Buffers (batch-norm statistics) are
    copied, since they are averages already.
    """

    def __init__(self, network: nn.Module, half_life: float, ramp: float | None = 0.05):
        super().__init__()
        self.half_life, self.ramp = half_life, ramp
        self.average = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: nn.Module, images: int, images_seen: int) -> None:
        """Updates the average after a step of `images` images, with `images_seen` images in total."""
        half_life = self.half_life if self.ramp is None else min(self.half_life, self.ramp * images_seen)
        decay = 0.5 ** (images / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.average.parameters()), list(network.parameters()), 1 - decay)
        for target, source in zip(self.average.buffers(), network.buffers(), strict=True):
            target.copy_(source)
