"""Several processes, each with its part of the batch: one state, and one gradient for each update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor


class Ranks(DDPStrategy):
    """DDP without its wrapper: every update averages the gradients of the network that learns, and of no other, all at once.

    Around two networks that learn in turn, the wrapper has to search each graph for the unused half and reduces both halves at
    every update of either. `process_group_backend`: gloo, nccl; null takes the device's own.
    """

    def __init__(self, process_group_backend: str | None = None):
        super().__init__(process_group_backend=process_group_backend)

    def configure_ddp(self) -> None:
        assert self.model is not None
        broadcast(list(self.model.state_dict().values()))


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Rank 0's values on every rank."""
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors):  # in the same order everywhere
        alike = [tensor for tensor in tensors if tensor.dtype == kind]
        joined = torch.cat([tensor.flatten() for tensor in alike])
        dist.broadcast(joined, 0)
        restore(joined, alike)


def average(tensors: Sequence[Tensor]) -> None:
    """The mean over the ranks, on every rank; all float32."""
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(joined)
    restore(joined.div_(dist.get_world_size()), tensors)


def restore(joined: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = joined.split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])
