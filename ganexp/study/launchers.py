"""Start the workers of a study: in this process, or in several."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ganexp.study.worker import begin, work


def run_serial(folder: Path, threads: int | None) -> bool:
    """Run the jobs in this process. Returns False if a signal has ended the work."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return work(folder)


def run_joblib(folder: Path, threads: int | None, n_jobs: int) -> bool:
    """Run the jobs in `n_jobs` processes of this machine. A process imports torch once and runs one job after another. Returns
    False if a signal has ended the work."""
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    threads = threads or max(1, (os.cpu_count() or 1) // n_jobs)
    processes = parallel_config(backend="loky", n_jobs=n_jobs, inner_max_num_threads=threads)
    with tempfile.TemporaryDirectory() as pids, forwarded(Path(pids)), processes:
        workers = (delayed(begin)(folder, threads, Path(pids)) for _ in range(n_jobs))
        try:
            return all(Parallel(batch_size=1)(workers))
        except TerminatedWorkerError:
            print("ganexp: a process of the study was killed, perhaps for lack of memory", file=sys.stderr)
            return False


@contextmanager
def forwarded(pids: Path) -> Iterator[None]:
    """Send SIGINT and SIGTERM on to the workers as SIGTERM: each ends its job after the current step. A second SIGINT ends all at
    once."""
    received = 0

    def forward(number: int, frame: Any) -> None:
        nonlocal received
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received = number
        for file in pids.iterdir() if sys.platform != "win32" else []:  # there os.kill would kill them
            with suppress(ProcessLookupError):
                os.kill(int(file.name), signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
