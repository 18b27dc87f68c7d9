"""Write run.json: what ran, where, how long, and the results."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
import torchvision
from pytorch_lightning.loggers import Logger

import ganexp
from ganexp.callbacks.checkpoint import Checkpoint, find
from ganexp.callbacks.log import due
from ganexp.callbacks.watchdog import Watchdog
from ganexp.cli.messages import format_message
from ganexp.files import write_json
from ganexp.loggers import RunLogger
from ganexp.records import read_record
from ganexp.references import Reference, references, standings
from ganexp.systems.base import System


class Record(pl.Callback):
    """Keeps `folder`/run.json up to date during the run, and logs the hyper-parameters.

    `facts` are written as they are; `hyper_parameters`: a nested config. The status is running, finished, interrupted or failed;
    that of a killed run stays `running`. A resumed run adds to `seconds`, and appends its step to `resumed_at`. `loggers`: by
    their names in the config.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        hyper_parameters: dict[str, Any],
        loggers: Mapping[str, Logger] = MappingProxyType({}),
    ):
        self.loggers = loggers
        self.file, self.facts, self.hyper_parameters = folder / "run.json", facts, hyper_parameters
        self.before = read_record(folder)
        self.before.pop("error", None)
        self.started, self.images_before = time.time(), 0
        self.references: list[Reference] = []

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        self.images_before = system.images_seen
        if self.before:
            self.facts |= {"resumed_at": [*self.before.get("resumed_at", []), trainer.global_step]}
            # Later steps will be done again.
            self.before["remarks"] = [r for r in self.before.get("remarks", []) if r["step"] <= trainer.global_step]
        if not trainer.is_global_zero:
            return
        settings, metrics = flat(self.hyper_parameters), Checkpoint.metrics_of(trainer)
        protocols = metrics.record(system)["protocols"] if metrics else {}
        self.references = references(self.hyper_parameters["data"], protocols)
        self.write(trainer, system, "running")
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.begin(settings, list(protocols), self.references)
            else:
                logger.log_hyperparams(settings)
        own = {name: logger for name, logger in self.loggers.items() if isinstance(logger, RunLogger) and logger.identity}
        if own:
            self.facts["loggers"] = {name: logger.name_in_store() for name, logger in own.items()}
            self.write(trainer, system, "running")

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero and due(trainer, 10 * trainer.log_every_n_steps, trainer.global_step):  # type: ignore[attr-defined]
            self.write(trainer, system, "running")

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        if trainer.is_global_zero:
            self.write(trainer, system, "finished" if trainer.global_step >= trainer.max_steps else "interrupted")
            self.end_logs(trainer)

    def on_exception(self, trainer: pl.Trainer, system: Any, exception: BaseException) -> None:
        if trainer.is_global_zero:
            interrupted = isinstance(exception, KeyboardInterrupt | SystemExit)
            error = None if interrupted else format_message(exception)
            with suppress(OSError):  # a full disk may be the exception that ended the run
                self.write(trainer, system, "interrupted" if interrupted else "failed", error)
                self.end_logs(trainer)

    def standings(self, trainer: pl.Trainer, system: System) -> list[str]:
        """Where the newest values are to the references."""
        metrics = Checkpoint.metrics_of(trainer)
        return standings(self.references, *metrics.history[-1]) if metrics and metrics.history else []

    def end_logs(self, trainer: pl.Trainer) -> None:
        """Give the final metrics to the loggers."""
        metrics = Checkpoint.metrics_of(trainer)
        summary = metrics.summary() if metrics else {}
        final = {f"{name}/{key}": value for name, values in summary.items() for key, value in values.items()}
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.end(final)

    def write(self, trainer: pl.Trainer, system: System, status: str, error: str | None = None) -> None:
        metrics = Checkpoint.metrics_of(trainer)
        checkpoint = find(trainer.callbacks, Checkpoint)  # type: ignore[attr-defined]
        watchdog = find(trainer.callbacks, Watchdog)  # type: ignore[attr-defined]
        seconds = time.time() - self.started
        record = {
            **self.before,
            "status": status,
            **({"error": error} if error else {}),
            **self.facts,
            "steps": trainer.global_step,
            "images_seen": system.images_seen,
            "images_per_second": round((system.images_seen - self.images_before) / max(seconds, 1e-9), 1),
            "seconds": round(seconds + (self.before.get("seconds") or 0.0), 1),
            "best": checkpoint.best if checkpoint else None,
            "standings": self.standings(trainer, system),
            "remarks": self.before.get("remarks", []) + (watchdog.remarks if watchdog else []),
            **(metrics.record(system) if metrics else {"metrics": {}, "higher_is_better": {}, "protocols": {}}),
        }
        write_json(record, self.file)


def flat(config: Any, path: str = "") -> dict[str, Any]:
    """Returns a nested config as {full key: value}, without paths and `_partial_`."""
    if isinstance(config, dict):
        return {k: v for key, node in config.items() for k, v in flat(node, f"{path}.{key}" if path else key).items()}
    if path.endswith(("_partial_", ".folder", ".gif", ".save_dir")):
        return {}
    return {path: config if isinstance(config, int | float | str | bool) else str(config)}


def environment(trainer: pl.Trainer) -> dict[str, Any]:
    """Returns command, commit, versions and hardware, which results depend on besides the config."""
    device = trainer.strategy.root_device
    return {
        "command": os.environ.get("GANEXP_COMMAND"),
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
    """Returns the commit of the running code, with `+` if files have changed since; None if the code is not in a repository."""
    here = Path(ganexp.__file__).parent
    try:
        subprocess.run(["git", "ls-files", "--error-unmatch", "__init__.py"], cwd=here, capture_output=True, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
