"""Data-parallel training: each rank has a part of the batch, all have the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor


class Ranks(DDPStrategy):
    """DDP without its wrapper: each update averages the gradients of the updated network only, in one all-reduce.

    With two networks that are updated alternately, the wrapper has to search every graph for unused parameters and reduces the
    gradients of both networks at every update. `process_group_backend`: gloo or nccl; null chooses by device.
    """

    def __init__(self, process_group_backend: str | None = None):
        super().__init__(process_group_backend=process_group_backend)

    def configure_ddp(self) -> None:
        assert self.model is not None
        broadcast(list(self.model.state_dict().values()))


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Copies the values of rank 0 to all ranks, in place."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # the same order on all ranks
        same_dtype = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in same_dtype])
        dist.broadcast(flat, 0)
        unflatten_into(flat, same_dtype)


def average(tensors: Sequence[Tensor]) -> None:
    """Replaces float32 tensors by their mean over the ranks, in place."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    unflatten_into(flat.div_(dist.get_world_size()), tensors)


def unflatten_into(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    chunks = flat.split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        torch._foreach_copy_(list(tensors), [chunk.view(t.shape) for chunk, t in zip(chunks, tensors, strict=True)])
