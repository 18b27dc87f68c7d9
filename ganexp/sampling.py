"""Sample from a trained system by seed and label, in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from ganexp.systems.base import System
from ganexp.systems.contexts import seeded

CHUNK = 256  # largest number of samples in one forward pass


def sample(system: System, n: int, label: int | None = None, seed: int | None = None, truncation: float = 1.0) -> Tensor:
    """Returns n samples [n, *shape], without gradient.

    `label`: the class of all samples; None cycles through the classes 0, 1, 2, … of a conditional system. `seed`: makes the
    samples a function of the weights and the seed, and restores the random state; None uses the global random state.
    `truncation`: see System.generate.
    """
    return torch.cat([x for x, _ in batches(system, n, label, seed, truncation)])


def batches(
    system: System, n: int, label: int | None = None, seed: int | None = None, truncation: float = 1.0
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields the samples of `sample` and their labels, at most CHUNK at a time, so that they need not fit into memory.

    With a seed, the global random state is replaced until the last chunk is taken, and then restored.
    """
    y = torch.arange(n, device=system.device) % system.classes if system.classes else None
    if label is not None:
        y = torch.full((n,), label, device=system.device)
    parts = [slice(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]
    with nullcontext() if seed is None else seeded(seed, system.device):
        for part in parts:
            labels = None if y is None else y[part]
            yield system.sample(part.stop - part.start, labels, truncation), labels
