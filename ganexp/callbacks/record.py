"""run.json: what ran, where, how long, and how well."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
import torchvision
from pytorch_lightning.loggers import TensorBoardLogger

import ganexp
from ganexp.callbacks.checkpoint import Checkpoint
from ganexp.callbacks.progress import Progress
from ganexp.systems.base import System


class Record(pl.Callback):
    """Keeps `folder`/run.json true from the first step to the last, and puts the hyper-parameters into TensorBoard.

    `facts` stand in the file as they are; `hyper_parameters` are a nested config. The status is running, finished,
    interrupted or failed; a run that was killed is still `running`.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], hyper_parameters: dict[str, Any]):
        self.file, self.facts, self.hyper_parameters = folder / "run.json", facts, hyper_parameters
        self.started = time.time()

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        if not trainer.is_global_zero:
            return
        self.write(trainer, system, "running")
        metrics = Checkpoint.measured(trainer)
        values = metrics.history[-1][1] if metrics and metrics.history else {}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(flat(self.hyper_parameters), values)
            else:
                logger.log_hyperparams(flat(self.hyper_parameters))

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if system.due(10 * system.log_every, trainer.global_step) and trainer.is_global_zero:
            self.write(trainer, system, "running")

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        if trainer.is_global_zero:
            self.write(trainer, system, "finished" if trainer.global_step >= trainer.max_steps else "interrupted")

    def on_exception(self, trainer: pl.Trainer, system: Any, exception: BaseException) -> None:
        if trainer.is_global_zero:
            interrupted = isinstance(exception, KeyboardInterrupt | SystemExit)
            error = None if interrupted else f"{type(exception).__name__}: {exception}"
            self.write(trainer, system, "interrupted" if interrupted else "failed", error)

    def write(self, trainer: pl.Trainer, system: System, status: str, error: str | None = None) -> None:
        metrics = Checkpoint.measured(trainer)
        checkpoint = find(trainer, Checkpoint)
        progress = find(trainer, Progress)
        record = {
            "status": status,
            **({"error": error} if error else {}),
            **self.facts,
            "steps": trainer.global_step,
            "images_seen": system.images_seen,
            "images_per_second": round(progress.images_per_second, 1) if progress else None,
            "seconds": round(time.time() - self.started, 1),
            "best": checkpoint.best if checkpoint else None,
            "last": metrics.history[-1][1] if metrics and metrics.history else None,
        }
        write_json(record, self.file)


def find(trainer: pl.Trainer, kind: type[Any]) -> Any:
    """The trainer's callback of this kind, or None."""
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def write_json(content: dict[str, Any], file: Path) -> None:
    """Write under a temporary name, then rename."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, file)


def flat(config: Any, path: str = "") -> dict[str, Any]:
    """A nested config as {full key: value}, without the class names."""
    if isinstance(config, dict):
        return {k: v for key, node in config.items() for k, v in flat(node, f"{path}.{key}" if path else key).items()}
    if path.endswith(("_partial_", ".folder", ".gif", ".save_dir")):
        return {}
    return {path: config if isinstance(config, int | float | str | bool) else str(config)}


def environment(trainer: pl.Trainer) -> dict[str, Any]:
    """Versions, commit and hardware: what a number depends on beside the config."""
    device = trainer.strategy.root_device
    return {
        "command": shlex.join(["ganexp", *sys.argv[1:]]),
        "git_commit": git_commit(),
        "versions": {
            "ganexp": ganexp.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "pytorch_lightning": pl.__version__,
            "hydra": hydra.__version__,
        },
        "hardware": {
            "accelerator": device.type,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine(),
            "devices": trainer.world_size,
            "nodes": trainer.num_nodes,
            "threads": torch.get_num_threads(),
            "precision": trainer.precision,
        },
    }


def git_commit() -> str | None:
    """The commit of the code that runs, with `+` if files have changed since; None where no repository holds the code."""
    here = Path(ganexp.__file__).parent
    try:
        subprocess.run(["git", "ls-files", "--error-unmatch", "__init__.py"], cwd=here, capture_output=True, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
