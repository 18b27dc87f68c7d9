"""Map a function over many files in worker processes. Half of decoding a picture is Python, so threads would wait for the GIL."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

FEW = 64  # files that one process finishes before workers have started
BATCH_SIZE = 32


class Mapped(Dataset[Any]):
    def __init__(self, work: Callable[[str], Any], names: Sequence[str]):
        self.work, self.names = work, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Any:
        return self.work(self.names[i])


def in_parallel(
    work: Callable[[str], Any], names: Sequence[str], workers: int | None = None, batch_size: int = BATCH_SIZE
) -> Iterator[Any]:
    """Yields the results in order; workers compute ahead. `work` must be picklable.

    `workers`: number of processes; None for one per core, or none for few files. `batch_size`: files that a worker returns
    together.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers is None:
        workers = 1 if len(names) <= FEW else cores
    if workers == 1 or multiprocessing.current_process().daemon:  # a daemon may not have children
        yield from map(work, names)
        return
    generator = torch.Generator()  # leaves the global random state alone
    with exit_on_sigterm():
        yield from chain.from_iterable(
            DataLoader(Mapped(work, names), batch_size=batch_size, num_workers=workers, collate_fn=list, generator=generator)
        )


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, which ends the workers too: one that is writing a result would otherwise hang forever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, raise_system_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def raise_system_exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
