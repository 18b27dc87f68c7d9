"""What a checkpoint needs beside what Lightning puts into it: enough to sample from it alone, and to go on exactly."""

from __future__ import annotations

import csv
import io
import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import CSVLogger

from ganexp.files import replace

log = logging.getLogger(__name__)
FORMAT = 3  # of what a checkpoint holds; to be counted up whenever an older ganexp, or this one, could not read the other's


class State(pl.Callback):
    """Puts into every checkpoint the number of its format, the config, as plain containers, the data's fingerprint, and every
    rank's random states and last scalars.

    A resumed run takes these up; with another number of processes than before it starts from its seed.
    """

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.states: list[dict[str, Any]] = []

    def on_save_checkpoint(self, trainer: pl.Trainer, system: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = FORMAT
        checkpoint["config"] = self.config
        checkpoint["data"] = trainer.datamodule.fingerprint  # type: ignore[attr-defined]
        mine = random_state() | {"scalars": system.scalars.state()}
        states = [mine]
        if trainer.world_size > 1:
            states = states * trainer.world_size
            dist.all_gather_object(states, mine)
        checkpoint["random"] = states

    def on_load_checkpoint(self, trainer: pl.Trainer, system: Any, checkpoint: dict[str, Any]) -> None:
        self.states = checkpoint["random"]

    def on_train_batch_start(self, trainer: pl.Trainer, system: Any, batch: Any, batch_idx: int) -> None:
        if len(self.states) == trainer.world_size:
            set_random_state(self.states[trainer.global_rank])
            system.scalars.load_state(self.states[trainer.global_rank]["scalars"], system.device)
        self.states = []


def random_state() -> dict[str, Any]:
    """This process's random states, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])
    if state.get("mps") is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def keep_rows(logger: CSVLogger, step: int) -> None:
    """Let the logger go on below the whole rows of its metrics.csv up to `step`; by itself it would begin an empty file."""
    file = Path(logger.log_dir) / "metrics.csv"
    aside = file.with_suffix(".before")  # the logger deletes what it finds
    if file.is_file():
        os.replace(file, aside)
    if not aside.is_file():
        return
    try:
        lines = aside.read_text(encoding="utf-8").splitlines(keepends=True)
        reader = csv.DictReader(line for line in lines if line.endswith("\n"))  # a killed run may have written half a row
        rows = [row for row in reader if int(row["step"]) <= step]
    except (ValueError, TypeError, KeyError, csv.Error):
        os.replace(aside, file.with_suffix(".damaged.csv"))
        log.warning("%s is damaged: begun anew, the old one is metrics.damaged.csv", file)
        return
    columns = list(reader.fieldnames or [])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    logger.experiment.metrics_keys = columns
    replace(file, lambda new: new.write(text.getvalue().encode()))
    aside.unlink()
