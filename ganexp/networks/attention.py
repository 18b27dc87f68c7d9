"""Self-attention over the pixels of a map (Zhang et al. 2019, arXiv:1805.08318, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """x [N, C, H, W] -> x + gamma · attention(x), where gamma is learned and starts at 0.

    Queries and keys have C / 8 channels, values C / 2. Keys and values are downsampled by 2, as in the authors' code.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner, outer = max(channels // 8, 1), max(channels // 2, 1)
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, outer, 1, bias=False)
        self.out = nn.Conv2d(outer, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), F.max_pool2d(self.key(x), 2), F.max_pool2d(self.value(x), 2)
        weights = (query.flatten(2).mT @ key.flatten(2)).softmax(2)  # [N, pixels, keys], unscaled
        attended = (value.flatten(2) @ weights.mT).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(attended)


def attention_at(side: int | None, sides: Sequence[int], channels: Sequence[int]) -> nn.ModuleList:
    """Returns a layer for each of the maps with these sides: attention for the first one of `side` px, else the identity.

    Raises ValueError if there is no map of that size.
    """
    if side is not None and (side not in sides or side < 2):
        raise ValueError(f"attention: must be the side of a map, {', '.join(map(str, dict.fromkeys(sides)))} px, got {side}")
    index = sides.index(side) if side is not None else None
    return nn.ModuleList(SelfAttention(channels[i]) if i == index else nn.Identity() for i in range(len(sides)))
