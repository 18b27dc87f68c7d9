"""task=train: build everything, then play the game."""

from __future__ import annotations

import logging
import os
import random
import threading
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from ganexp.build import build, located
from ganexp.callbacks.checkpoint import Checkpoint, Synced, find, place
from ganexp.callbacks.log import Log
from ganexp.callbacks.metrics import Metrics
from ganexp.callbacks.record import Record, environment
from ganexp.callbacks.state import State, keep_rows
from ganexp.callbacks.stop import Stop
from ganexp.callbacks.watchdog import Watchdog
from ganexp.data.module import DataModule
from ganexp.files import read_json, replace, write_json
from ganexp.mistakes import Diverged, Mistake
from ganexp.runs import find_checkpoint
from ganexp.systems.base import System
from ganexp.tasks import processes
from ganexp.tasks.checkpoint import transfer
from ganexp.tasks.hardware import make_trainer
from ganexp.tasks.memory import keep_freed_memory
from ganexp.tasks.screen import announcement, closing, count, shown

log = logging.getLogger(__name__)


class Train:
    """Train a system. Building raises Mistake for all that can be wrong before the first step, and writes nothing.

    `checkpoint`: one of the run in `run_dir`, to go on from; null starts at the first step. `allowed`: for a config read
    from a file, prefixes of the classes it may name.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, checkpoint: Path | None = None, allowed: Sequence[str] | None = None
    ):
        self.config, self.run_dir, self.checkpoint, self.allowed = config, run_dir, checkpoint, allowed
        if isinstance(config["data"].get("root"), str):  # so that the checkpoint finds it from any folder
            config["data"]["root"] = str(Path(config["data"]["root"]).expanduser().absolute())
        self.notes: list[str] = []  # what the log and run.json say of how it began
        quiet()
        if config["hardware"].get("accelerator") in ("auto", "cpu"):
            keep_freed_memory()
        seed_all(config["seed"])  # the weights: the same on every rank
        self.data: DataModule = build(config["data"], "data", allowed)
        self.system: System = build(config["model"], "model", allowed)
        if not isinstance(self.system, System):
            raise Mistake(f"model._target_: {config['model']['_target_']} is not a System (ganexp.systems)")
        check_fit(self.system, self.data)
        self.system.scalars.keep(config["trainer"]["log_mean"])
        self.trainer = self.make_trainer()
        if self.trainer.num_nodes > 1 and not processes.external():
            raise Mistake("hardware.num_nodes: several machines are started by torchrun, see hardware=multinode")
        started = int(os.environ.get("WORLD_SIZE", "1")) if processes.external() else self.trainer.world_size
        if started != self.trainer.world_size:
            raise Mistake(
                f"hardware: {started} processes were started, but this hardware is {self.trainer.world_size} devices; "
                "under torchrun choose hardware=multinode"
            )
        if self.data.batch_size % self.trainer.world_size:
            raise Mistake(f"data.batch_size: {self.data.batch_size} cannot be split over {self.trainer.world_size} devices")
        local_batch_size = self.data.batch_size // self.trainer.world_size
        if local_batch_size % self.system.accumulate:
            raise Mistake(f"model.accumulate: a device's batch of {local_batch_size} has no {self.system.accumulate} equal parts")
        part, row = local_batch_size // self.system.accumulate, getattr(self.system, "samples_per_row", 1)
        if part % row:
            raise Mistake(f"data.batch_size: a device's part of {part} is no multiple of the {row} samples that D sees at once")
        try:
            processes.in_turn(self.data.prepare)
        except Exception as error:  # a data set of the user's own may raise anything
            raise located(error, "data") from error
        if self.system.classes is not None:
            self.system.label_counts.copy_(self.data.label_counts())
        if config["start_from"] is not None and checkpoint is None:
            config["start_from"] = str(find_checkpoint(config["start_from"], "start_from").absolute())
            self.notes += transfer(self.system, Path(config["start_from"]))
        if metrics := find(self.trainer.callbacks, Metrics):  # type: ignore[attr-defined]
            processes.in_turn(lambda: prepare_metrics(lambda: metrics.prepare(self.data, self.system)))
        if checkpoint_of_run := find(self.trainer.callbacks, Checkpoint):  # type: ignore[attr-defined]
            try:
                checkpoint_of_run.check_monitor(metrics)
            except ValueError as error:
                raise located(error, "callbacks.checkpoint") from error

    def make_trainer(self) -> pl.Trainer:
        config, training = self.config, self.config["trainer"]
        nodes = {group: in_folder(config[group], self.run_dir) for group in ("callbacks", "logger")}
        callbacks = {name: build(node, f"callbacks.{name}", self.allowed) for name, node in nodes["callbacks"].items()}
        for callback in callbacks.values():
            if not isinstance(callback, pl.Callback):
                raise Mistake(f"callbacks: {type(callback).__name__} is no Lightning callback")
        loggers = {name: build(node, f"logger.{name}", self.allowed) for name, node in nodes["logger"].items()}
        for logger in loggers.values():
            if not isinstance(logger, Logger):
                raise Mistake(f"logger: {type(logger).__name__} is no Lightning logger")
        trainer = make_trainer(
            config["hardware"],
            {
                "max_steps": training["max_steps"],
                "max_epochs": -1,
                "log_every_n_steps": training["log_every"],
                "callbacks": [Stop(), Log(), *sorted(callbacks.values(), key=priority), State(config)],
                "logger": list(loggers.values()),
            },
            self.allowed,
        )
        trainer.strategy.checkpoint_io = Synced()
        return trainer

    def run(self) -> int:
        """Train in the run folder; with several devices on this machine, in a process each. The exit code: 0, or 128 and the
        signal that ended the run early."""
        if processes.must_spawn(self.trainer):
            return processes.spawn(self.config, self.run_dir, self.trainer, self.checkpoint, self.allowed)
        return self.fit()

    def fit(self) -> int:
        """This process's part of the training; see `run`."""
        rank_zero = self.trainer.is_global_zero
        if rank_zero:
            text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
            replace(self.run_dir / "config.yaml", lambda file: file.write(text.encode()))
            print(announcement(self), flush=True)
            log.info(announcement(self))
            for note in [f"data: {note}" for note in self.data.notes] + self.notes:
                log.warning("%s", note)
            if self.data.left_out:
                text = "".join(f"{name}: {why}\n" for name, why in self.data.left_out.items())
                replace(self.run_dir / "left_out.txt", lambda file: file.write(text.encode(errors="backslashreplace")))
        while (diverged := self.play()) is not None:
            self.go_back(diverged)
        if rank_zero:
            print(closing(self), flush=True)
            log.info(closing(self))
        stop = find(self.trainer.callbacks, Stop)  # type: ignore[attr-defined]
        early = self.trainer.global_step < self.trainer.max_steps
        return 128 + stop.received if stop and stop.received and early else 0

    def play(self) -> Diverged | None:
        """From the checkpoint on, to the end or to where the run diverged."""
        trainer, config = self.trainer, self.config
        facts = {
            "name": config["name"],
            "started": read_json(self.run_dir / "run.json").get("started") or datetime.now(timezone.utc).isoformat(),
            "seed": config["seed"],
            "parameters": {name: count(network) for name, network in self.system.networks().items()},
            **({"notes": self.notes} if self.notes else {}),
            "data": {"samples": len(self.data.x), "shape": list(self.data.shape), "notes": self.data.notes},
            **environment(trainer),
        }
        trainer.callbacks.append(Record(self.run_dir, facts, hyper_parameters(config)))  # type: ignore[attr-defined]
        if watchdog := find(trainer.callbacks, Watchdog):  # type: ignore[attr-defined]
            watchdog.gone_back = len(read_json(self.run_dir / "run.json").get("gone_back", []))
        if trainer.is_global_zero:
            self.continue_logs()
        seed_all(config["seed"] + trainer.global_rank)  # every rank draws its own z
        try:
            trainer.fit(self.system, datamodule=self.data, ckpt_path=self.checkpoint, weights_only=True)
        except Diverged as diverged:
            return diverged
        return None

    def go_back(self, diverged: Diverged) -> None:
        """Make ready to go on from the last checkpoint before the run diverged; the step-N.ckpt after it are deleted. Raises
        Diverged where it shall not, with what is left to go on from."""
        folder = self.run_dir / "checkpoints"
        steps = {file: step_of(file) for file in (*folder.glob("step-*.ckpt"), *folder.glob("best.ckpt"))}
        good = max((file for file, step in steps.items() if step <= diverged.good), key=steps.__getitem__, default=None)
        if good is None:
            raise Diverged(f"{diverged}; there is no checkpoint from before it") from diverged
        if not diverged.back:
            raise Diverged(f"{diverged}; the last good checkpoint is {shown(good)}, of step {steps[good]:,}") from diverged
        self.trainer.strategy.barrier()  # all have seen the files
        if self.trainer.is_global_zero:
            log.warning("%s; back to step %s, with lower learning rates", diverged, f"{steps[good]:,}")
            record = read_json(self.run_dir / "run.json")
            gone_back = [*record.get("gone_back", []), {"to": steps[good], "because": str(diverged)}]
            write_json(record | {"gone_back": gone_back}, self.run_dir / "run.json")
            place(good, folder / "last.ckpt")
            for file, step in steps.items():
                if step > steps[good] and file.name != "best.ckpt":
                    file.unlink()
        self.trainer.strategy.barrier()
        self.checkpoint, self.trainer = folder / "last.ckpt", self.make_trainer()

    def continue_logs(self) -> None:
        """What a run that resumes had logged beyond its checkpoint is about to be logged again: drop it."""
        step = step_of(self.checkpoint) if self.checkpoint else -1
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger):
                keep_rows(logger, step)
            elif isinstance(logger, TensorBoardLogger) and list(Path(logger.log_dir).glob("events.out.tfevents.*")):
                logger._kwargs["purge_step"] = step + 1  # before its writer is made


def step_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]


def hyper_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """What one compares runs by: the choices and their numbers, each once, though the model refers to others."""
    groups = (
        "seed", "start_from", "model", "loss", "regularizer", "augment", "constraint", "anneal", "optimizer", "schedule", "data",
        "trainer", "hardware",
    )  # fmt: skip
    others = [config[group] for group in groups[3:]] + list(config["optimizer"].values())
    own = {key: value for key, value in config["model"].items() if not isinstance(value, dict) or value not in others}
    # A model may have a loss of its own, and no use for the game's other parts.
    parts = ("loss", "regularizer", "augment", "constraint", "anneal")
    unused = {group for group in parts if config[group] not in config["model"].values()}
    return {group: config[group] for group in groups if group not in unused} | {"model": own}


def priority(callback: pl.Callback) -> int:
    """The watchdog sees a step first; checkpoints come after all that may measure at the same step."""
    return 0 if isinstance(callback, Watchdog) else 2 if isinstance(callback, Checkpoint) else 1


def in_folder(value: Any, run_dir: Path) -> Any:
    """A node with the run's folder in place of `{run_dir}`: a config holds no path of its own, so that a run can be moved."""
    if isinstance(value, dict):
        return {key: in_folder(item, run_dir) for key, item in value.items()}
    return value.replace("{run_dir}", str(run_dir)) if isinstance(value, str) else value


def check_fit(system: System, data: DataModule) -> None:
    """Raises Mistake where the networks do not fit the data, each other, or their augmentations."""
    try:
        with torch.random.fork_rng(devices=[]):
            system.make_optimizers()
            system.check_shapes(data.shape)
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        raise located(error, "model") from error
    if system.classes not in (None, data.classes):
        raise Mistake(f"model.classes: {system.classes}, but the data has {data.classes}; write model.classes=${{data.classes}}")


def prepare_metrics(prepare: Callable[[], None]) -> None:
    """Raises Mistake for a metric that cannot be of this data, and for an extractor's file that is missing."""
    try:
        prepare()
    except (ValueError, RuntimeError, OSError) as error:
        raise located(error, "extractor" if str(error).startswith("weights:") else "metrics") from error


def seed_all(seed: int) -> None:
    """Not Lightning's seed_everything: that leaves a note by which its DDP sets every rank back to the same state."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def on_thread_error(args: threading.ExceptHookArgs) -> None:
    """A line for TensorBoard's writer, whose thread raises its error again at the next value; its trace would come before."""
    if isinstance(args.exc_value, OSError):
        log.warning("TensorBoard: its events are not written: %s", args.exc_value)
    else:
        threading.__excepthook__(args)


def quiet() -> None:
    """Lightning's advice is for other trainers: our data are in memory, our loop has no epochs, our bar is our own."""
    threading.excepthook = on_thread_error
    for library in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*`IterableDataset` has `__len__` defined.*",
        ".*is not a `DataLoader`.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*hyperparameters.*",
        ".*Experiment logs directory.*",
        ".*find_unused_parameters=True was specified.*",
        ".*LeafSpec.*",
        ".*`broadcast_buffers` is deprecated.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", text)
