"""Add to checkpoints what is needed to sample from them alone, and to resume exactly."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist

FORMAT = 3  # version of the checkpoint format; increase it with every incompatible change


class State(pl.Callback):
    """Adds to every checkpoint the format version, the config as plain containers, the data's fingerprint, and every rank's
    random states and recent scalars.

    A resumed run restores the random states; with another number of processes it starts from its seed instead.
    """

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.states: list[dict[str, Any]] = []

    def on_save_checkpoint(self, trainer: pl.Trainer, system: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = FORMAT
        checkpoint["config"] = self.config
        checkpoint["data"] = trainer.datamodule.fingerprint  # type: ignore[attr-defined]
        mine = random_state() | {"scalars": system.scalars.state()}
        checkpoint["random"] = gather(mine, system.device) if trainer.world_size > 1 else [mine]

    def on_load_checkpoint(self, trainer: pl.Trainer, system: Any, checkpoint: dict[str, Any]) -> None:
        self.states = checkpoint["random"]

    def on_train_batch_start(self, trainer: pl.Trainer, system: Any, batch: Any, batch_idx: int) -> None:
        if len(self.states) == trainer.world_size:
            set_random_state(self.states[trainer.global_rank])
            system.scalars.load_state(self.states[trainer.global_rank]["scalars"], system.device)
        self.states = []


def gather(mine: dict[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """Returns every rank's plain values and tensors. They travel as tensors: nothing that came over the network is unpickled
    without torch's restrictions."""
    file = io.BytesIO()
    torch.save(mine, file)
    content = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(content)], device=device))
    padded = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8, device=device)
    padded[: len(content)] = content
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    files = [io.BytesIO(part[: int(size)].cpu().numpy().tobytes()) for part, size in zip(gathered, sizes, strict=True)]
    return [torch.load(each, map_location="cpu", weights_only=True) for each in files]


def random_state() -> dict[str, Any]:
    """Returns this process's random states as plain values and tensors."""
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
