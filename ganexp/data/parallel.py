"""The same work on many files, in processes: threads would wait for one another, as half of reading a picture is Python."""

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

FEW = 64  # files that are done before another process has begun
TOGETHER = 32


class Each(Dataset[Any]):
    def __init__(self, work: Callable[[str], Any], names: Sequence[str]):
        self.work, self.names = work, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Any:
        return self.work(self.names[i])


def in_parallel(
    work: Callable[[str], Any], names: Sequence[str], workers: int | None = None, together: int = TOGETHER
) -> Iterator[Any]:
    """The results in order, some ahead of the one that is asked for. `work` can be pickled.

    `workers`: processes; null for one on each core, and none for few files. `together`: files that come back at once.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers is None:
        workers = 1 if len(names) <= FEW else cores
    if workers == 1 or multiprocessing.current_process().daemon:  # which may have no children
        yield from map(work, names)
        return
    own = torch.Generator()  # the run's random numbers stay as they are
    with ending_properly():
        yield from chain.from_iterable(
            DataLoader(Each(work, names), batch_size=together, num_workers=workers, collate_fn=list, generator=own)
        )


@contextmanager
def ending_properly() -> Iterator[None]:
    """SIGTERM ends the workers too: one that is writing its result when this process dies would wait for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
