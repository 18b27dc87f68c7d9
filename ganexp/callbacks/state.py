"""What a checkpoint needs beside what Lightning puts into it: enough to sample from it alone, and to go on exactly."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import CSVLogger

from ganexp.files import replace


class State(pl.Callback):
    """Puts the config into every checkpoint, as plain containers, and every rank's random states, for a resumed run."""

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.states: list[dict[str, Any]] = []

    def on_save_checkpoint(self, trainer: pl.Trainer, system: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        states = [random_state()]
        if trainer.world_size > 1:
            states = states * trainer.world_size
            dist.all_gather_object(states, random_state())
        checkpoint["random"] = states

    def on_load_checkpoint(self, trainer: pl.Trainer, system: Any, checkpoint: dict[str, Any]) -> None:
        self.states = checkpoint["random"]

    def on_train_batch_start(self, trainer: pl.Trainer, system: Any, batch: Any, batch_idx: int) -> None:
        if len(self.states) == trainer.world_size:  # another number of processes starts from its seed
            set_random_state(self.states[trainer.global_rank])
        self.states = []


def random_state() -> dict[str, Any]:
    """This process's random states, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def keep_rows(logger: CSVLogger, folder: Path, step: int) -> None:
    """Let the logger go on below the rows of `folder`/metrics.csv up to `step`; by itself it would begin an empty file."""
    file = folder / "metrics.csv"
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as old:
        reader = csv.DictReader(old)
        rows, columns = [row for row in reader if int(row["step"]) <= step], list(reader.fieldnames or [])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    logger.experiment.metrics_keys = columns  # opens it, which deletes the file
    replace(file, lambda new: new.write(text.getvalue().encode()))
