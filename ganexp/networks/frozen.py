"""Pretrained networks with fixed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """A network in evaluation mode with fixed weights, such as a feature extractor inside a discriminator.

    It moves with its parent module, and gradients pass through it. Its weights are not registered: optimizers, synchronization
    across processes and checkpoints leave them out.
    """

    network: nn.Module

    def __init__(self, network: nn.Module):
        super().__init__()
        object.__setattr__(self, "network", network.requires_grad_(False).eval())  # not registered as a child

    def forward(self, x: Tensor) -> Any:
        return self.network(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
