"""The same work on many files, in processes: threads would wait for one another, as half of reading a picture is Python."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

FEW = 64  # files that are done before another process has begun
TOGETHER = 32  # files that come back at once


class Each(Dataset[Any]):
    def __init__(self, work: Callable[[str], Any], names: Sequence[str]):
        self.work, self.names = work, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Any:
        return self.work(self.names[i])


def in_parallel(work: Callable[[str], Any], names: Sequence[str]) -> Iterator[Any]:
    """The results in order, some ahead of the one that is asked for. `work` can be pickled."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    alone = len(names) <= FEW or multiprocessing.current_process().daemon  # which may have no children
    loader = DataLoader(
        Each(work, names),
        batch_size=TOGETHER,
        num_workers=0 if alone else cores,
        collate_fn=list,
        generator=torch.Generator(),  # its own: the run's random numbers stay as they are
    )
    return chain.from_iterable(loader)
