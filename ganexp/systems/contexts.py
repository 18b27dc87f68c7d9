"""Context managers that change some state and restore it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from ganexp.lightning_internals import swap_step_hooks

RANDOM = threading.RLock()  # torch's random number generators are the process's


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Disables the gradients of all parameters of `network`. Must enclose the forward pass, not only the backward pass."""
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
    """Puts `network` into evaluation mode, and restores the mode of each of its modules."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's random number generators, and restores their state. Of several threads one at a time."""
    with RANDOM:
        mps = torch.mps.get_rng_state() if device.type == "mps" else None  # fork_rng does not save it
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed)
                yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)


@contextmanager
def uncounted(optimizer: Any) -> Iterator[None]:
    """Excludes steps of `optimizer` from Lightning's global step, which counts those of every optimizer."""
    hooks = swap_step_hooks(optimizer, (lambda: None, lambda: None))
    try:
        yield
    finally:
        swap_step_hooks(optimizer, hooks)


def uncompiled(needed: bool) -> AbstractContextManager[Any]:
    """Runs networks as if torch.compile had not been called, if `needed`."""
    # Without an import of the compiler there is nothing compiled, and importing it takes a second.
    return torch.compiler.set_stance("force_eager") if needed and "torch._dynamo" in sys.modules else nullcontext()


def mark_step() -> None:
    """Tells CUDA graphs that a step begins: until the next one, the networks' outputs keep their memory."""
    if "torch._inductor.cudagraph_trees" in sys.modules:  # imported by compile_networks; it takes more than a second
        torch.compiler.cudagraph_mark_step_begin()
