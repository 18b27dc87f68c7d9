"""Stop a run on Ctrl-C, SIGTERM or SIGUSR1 after the current step, with a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import pytorch_lightning as pl
import torch

REQUEUE = getattr(signal, "SIGUSR1", None)  # SLURM's, as set by `--signal=USR1@SECONDS`; Windows has none
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([REQUEUE] if REQUEUE is not None else []))


class Stop(pl.Callback):
    """Ends the run after the current step on the first of SIGNALS; the checkpoint callback then saves. A second SIGINT stops at
    once.

    Ranks synchronize only every tenth step, to keep this cheap. `received`: the signal, 0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self.before = {number: signal.signal(number, self.receive) for number in SIGNALS}

    def receive(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.received:
            print("\nganexp: stopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        self.received = self.received or number

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.world_size == 1:
            trainer.should_stop |= bool(self.received)
        elif trainer.global_step % 10 == 0:
            received = torch.tensor(self.received, device=system.device)
            self.received = int(trainer.strategy.reduce(received, reduce_op="max"))
            trainer.should_stop |= bool(self.received)

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        self.restore()

    def on_exception(self, trainer: pl.Trainer, system: Any, exception: BaseException) -> None:
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
