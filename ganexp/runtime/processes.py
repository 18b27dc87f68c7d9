"""Distributed training: our own processes on one machine, or those of torchrun or srun on many."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.multiprocessing import spawn as spawn_processes

from ganexp.callbacks.stop import SIGNALS
from ganexp.cli.messages import Diverged, Formatter
from ganexp.records import read_record
from ganexp.runtime.screen import screens


def external() -> bool:
    """Whether this process is already one of several, started by torchrun, srun or `launch`."""
    return "LOCAL_RANK" in os.environ


@contextmanager
def environment_restored() -> Iterator[None]:
    """Undoes changes of the environment: Lightning's launcher leaves variables in it, which a later run of this process would
    take for torchrun's."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for key in os.environ.keys() - before.keys():
            del os.environ[key]
        os.environ.update(before)


def must_launch(trainer: pl.Trainer) -> bool:
    return trainer.world_size > 1 and not external()


def launch(train: Callable[[], object], ranks: int, hardware: dict[str, Any], run_dir: Path) -> int:
    """Call `train`, which must be picklable, in `ranks` processes on this machine, and wait. Returns the exit code: 0, or 128
    plus the signal that ended the run early. Raises Diverged if the run diverges. If a process dies, ends the others and raises
    ProcessException.

    `hardware`: the node of the config. Lightning's launcher would repeat the command line, including a whole sweep. Processes
    rendezvous through a file, so no port is open.
    """
    with tempfile.TemporaryDirectory() as folder:
        workers = spawn_processes(worker, (train, ranks, hardware, run_dir, Path(folder) / "ranks"), ranks, join=False)
        received = 0

        def forward(number: int, frame: Any) -> None:
            """Send SIGTERM to the workers. Ctrl-C in a terminal reaches them too, so they may get two signals."""
            nonlocal received
            if received and number == signal.SIGINT:
                raise KeyboardInterrupt
            received = received or number
            if sys.platform == "win32":  # os.kill would kill the worker, and the console sends Ctrl-C to all processes
                return
            for pid in workers.pids():
                with suppress(ProcessLookupError):  # it has ended
                    os.kill(pid, signal.SIGTERM)

        before = {number: signal.signal(number, forward) for number in SIGNALS}
        try:
            while not workers.join():
                pass
        except ProcessRaisedException as error:
            message = str(error).rpartition(f"{Diverged.__module__}.{Diverged.__name__}: ")
            if message[1]:
                raise Diverged(message[2].strip()) from error
            raise
        except ProcessExitedException:
            if not received:  # otherwise the signal has ended a worker that was still starting
                raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    finished = read_record(run_dir).get("status") == "finished"
    return 128 + received if received and not finished else 0


def worker(
    local_rank: int, train: Callable[[], object], ranks: int, hardware: dict[str, Any], run_dir: Path, rendezvous: Path
) -> None:
    """Run `train` in one of the processes. `rendezvous`: the file for torch.distributed's rendezvous."""
    os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(local_rank), "WORLD_SIZE": str(ranks), "RANK": str(local_rank)}
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)  # keep gradients off the network
    if hardware.get("accelerator") == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    if local_rank == 0:
        console = logging.StreamHandler(sys.stdout)
        console.setLevel(logging.WARNING)  # as in conf/config.yaml
        file = logging.FileHandler(run_dir / "log.txt", encoding="utf-8")
        for handler in (file, console):
            handler.setFormatter(Formatter("%(message)s"))
        logging.raiseExceptions = False  # as in cli/main.py
        logging.basicConfig(handlers=[file, console], level=logging.INFO)
    strategy = hardware.get("strategy")
    backend = strategy.get("process_group_backend") if isinstance(strategy, dict) else None
    on_gpu = torch.cuda.is_available() and hardware.get("accelerator") != "cpu"
    if on_gpu:
        torch.cuda.set_device(local_rank)
    backend = backend or ("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    dist.init_process_group(backend, init_method=rendezvous.as_uri(), rank=local_rank, world_size=ranks)
    with screens():
        train()


def main_process_first(work: Callable[[], None]) -> None:
    """Call `work` in the first process of each machine, then in the others: one downloads, all find the files."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    distributed = dist.is_initialized()
    if distributed and not first:
        dist.barrier()
    work()
    if distributed and first:
        dist.barrier()


def broadcast_text(value: str) -> str:
    """Returns rank 0's value on every rank of torchrun, for values that differ between ranks, such as the run folder's time."""
    if not dist.is_initialized():
        join_ranks()
    text = value.encode()
    size = torch.tensor([len(text)])
    dist.broadcast(size, 0)
    content = torch.zeros(int(size), dtype=torch.uint8)
    if dist.get_rank() == 0:
        content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(content, 0)
    return bytes(content.tolist()).decode()


def join_ranks() -> None:
    """Initialize torch.distributed for the processes of torchrun or srun.

    torchrun's restarts share one store, in which a rank would find the addresses of dead processes (pytorch issue 135712); a
    prefix hides them. Each node counts its own restarts, so this works on one node only.
    """
    store, rank, ranks = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
