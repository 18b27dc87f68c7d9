"""Several processes: ours on this machine, or torchrun's on many."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.multiprocessing import spawn as spawn_processes

from ganexp.files import read_json
from ganexp.mistakes import Diverged


def external() -> bool:
    """Whether somebody else, torchrun or we ourselves, has started this process as one of several."""
    return "LOCAL_RANK" in os.environ


def must_spawn(trainer: pl.Trainer) -> bool:
    return trainer.world_size > 1 and not external()


def spawn(
    config: dict[str, Any], run_dir: Path, trainer: pl.Trainer, checkpoint: Path | None, allowed: Sequence[str] | None
) -> int:
    """Run the training in one process per device and wait. The exit code: 0, or 128 and the signal that ended it early. Raises
    Diverged if the run does, and ProcessException, after ending the others, if one dies.

    Not Lightning's launcher: that one repeats the command line, and with it the whole sweep the run may be part of.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (config, run_dir, trainer.num_devices, port, checkpoint, allowed)
    workers = spawn_processes(worker, arguments, trainer.num_devices, join=False)
    received = 0

    def forward(number: int, frame: Any) -> None:
        """SIGTERM, which the workers may get twice: a terminal's Ctrl-C reaches them too."""
        nonlocal received
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received = received or number
        if sys.platform == "win32":  # where a signal to a process kills it, and its console tells all of them of Ctrl-C
            return
        for pid in workers.pids():
            with suppress(ProcessLookupError):  # one that has ended
                os.kill(pid, signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not workers.join():
            pass
    except ProcessRaisedException as error:
        said = str(error).rpartition(f"{Diverged.__module__}.{Diverged.__name__}: ")
        if said[1]:
            raise Diverged(said[2].strip()) from error
        raise
    except ProcessExitedException:
        if not received:  # else a worker that was still starting, and is gone as it should
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    finished = read_json(run_dir / "run.json").get("status") == "finished"
    return 128 + received if received and not finished else 0


def worker(
    local_rank: int,
    config: dict[str, Any],
    run_dir: Path,
    ranks: int,
    port: int,
    checkpoint: Path | None,
    allowed: Sequence[str] | None,
) -> None:
    from ganexp.tasks.train import Train

    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(ranks),
        "RANK": str(local_rank),
    }
    if config["hardware"].get("accelerator") == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    if local_rank == 0:
        console = logging.StreamHandler(sys.stdout)
        console.setLevel(logging.WARNING)  # as in the run's first process, conf/config.yaml
        file = logging.FileHandler(run_dir / "log.txt", encoding="utf-8")
        logging.basicConfig(handlers=[file, console], level=logging.INFO, format="%(message)s")
    Train(config, run_dir, checkpoint, allowed).fit()


def in_turn(prepare: Callable[[], None]) -> None:
    """The first process of each machine, then the others: one downloads, all find the files."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    together = dist.is_initialized()
    if together and not first:
        dist.barrier()
    prepare()
    if together and first:
        dist.barrier()


def agree(value: str) -> str:
    """Rank 0's value, on every rank that torchrun started; needed for what each would choose alone: the run folder's time."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]
