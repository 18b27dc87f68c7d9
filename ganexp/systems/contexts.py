"""States that are changed for a while, and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ganexp.lightning_internals import swap_step_hooks


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside, no parameter of `network` collects a gradient. Put it around the forward, not only the backward."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Inside, `network` is in evaluation mode; afterwards every module is in the mode it was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's random numbers are those of `seed`; afterwards they continue as if nothing had been."""
    mps = torch.mps.get_rng_state() if device.type == "mps" else None  # which fork_rng does not know
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def uncounted(optimizer: Any) -> Iterator[None]:
    """Inside, steps of `optimizer` stay out of Lightning's global step, which counts every optimizer's."""
    hooks = swap_step_hooks(optimizer, (lambda: None, lambda: None))
    try:
        yield
    finally:
        swap_step_hooks(optimizer, hooks)
