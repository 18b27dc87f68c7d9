"""task=train: train a system."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import Logger

from ganexp.callbacks.checkpoint import AtomicCheckpointIO, Checkpoint, find, link_or_copy
from ganexp.callbacks.log import Log
from ganexp.callbacks.metrics import Metrics
from ganexp.callbacks.record import Record, environment
from ganexp.callbacks.samples import Samples
from ganexp.callbacks.state import State
from ganexp.callbacks.stop import REQUEUE, Stop
from ganexp.callbacks.watchdog import Watchdog
from ganexp.cli.build import build, one_line, to_config_error
from ganexp.cli.messages import ConfigError, Diverged, printable
from ganexp.data.module import DataModule
from ganexp.files import replace, write_json
from ganexp.loggers import continuing
from ganexp.model import Model
from ganexp.pictures import check_pixels
from ganexp.records import read_record
from ganexp.report.neighbours import feature_extractor, find_neighbours
from ganexp.report.run import Neighbours, write_report
from ganexp.runs import find_checkpoint
from ganexp.runtime import processes, slurm
from ganexp.runtime.console import announcement, count, display_path, final_summary, quiet
from ganexp.runtime.continuing import continue_logs
from ganexp.runtime.memory import keep_freed_memory
from ganexp.runtime.places import check_apart, check_free, in_folder
from ganexp.runtime.restoring import step_of, transfer
from ganexp.runtime.trainer import choose_precision, compile_networks, has_bf16, make_trainer, synchronize_batch_norm
from ganexp.systems.base import System

log = logging.getLogger(__name__)


class Train:
    """Trains a system.

    `checkpoint`: a checkpoint of the run in `run_dir` to continue from; None starts at the first step. `allowed`: for a config
    read from a file, prefixes of the classes it may name. `callbacks`: further ones, which must be picklable.
    """

    def __init__(
        self,
        config: dict[str, Any],
        run_dir: Path,
        checkpoint: Path | None = None,
        allowed: Sequence[str] | None = None,
        callbacks: Sequence[pl.Callback] = (),
    ):
        self.config, self.run_dir, self.checkpoint, self.allowed = config, run_dir, checkpoint, allowed
        self.callbacks = callbacks
        self.continues = config.get("resume") == "auto"  # whether the same command continues the run
        self.notes: list[str] = []  # for the log and run.json

    # -- before the first step ---------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Build system, data and trainer, and load what they need, which may download data and weights or train a classifier.
        Raises ConfigError for anything that can be checked before the first step. Does not write into the run folder."""
        quiet()
        if self.config["hardware"].get("accelerator") in ("auto", "cpu"):
            keep_freed_memory()
        self.config = with_absolute_paths(self.config, resumes=self.checkpoint is not None)
        seed_all(self.config["seed"])  # the same initial weights on every rank
        self.data: DataModule = build(self.config["data"], "data", self.allowed)
        self.data.may_download = self.allowed is None
        check_apart(self.run_dir, self.data)
        self.system: System = build(self.config["model"], "model", self.allowed)
        if not isinstance(self.system, System):
            raise ConfigError(f"model._target_: {self.config['model']['_target_']} is not a System (ganexp.systems)")
        check_fit(self.system, self.data)
        self.system.scalars.set_window(self.config["trainer"]["log_window"])
        self.trainer = self.make_trainer()
        check_devices(self.trainer, self.data, self.system)
        if self.trainer.world_size > 1 and self.trainer.strategy.root_device.type == "cuda":
            self.notes += synchronize_batch_norm(self.system)
        if mode := self.config["hardware"].get("compile"):
            compile_networks(self.system, mode)
        try:
            processes.main_process_first(self.data.prepare)
            self.data.check_batch_size()
        except Exception as error:  # a user's DataModule may raise anything
            raise to_config_error(error, "data") from error
        if samples := find(self.trainer.callbacks, Samples):  # type: ignore[attr-defined]
            try:
                check_pixels("callbacks.samples.num", samples.num, self.data.shape)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        if self.system.classes is not None:
            self.system.label_counts.copy_(self.data.label_counts())
        if self.config["start_from"] is not None:
            if self.system.ema is not None:
                self.system.ema.ramp = None  # it would forget the average that it starts from in the first step
            if self.checkpoint is None:
                self.notes += transfer(self.system, Path(self.config["start_from"]))
        metrics = find(self.trainer.callbacks, Metrics)  # type: ignore[attr-defined]
        for metric in metrics.metrics if metrics else ():
            metric.features.may_download = self.data.may_download
            metric.features.choose(self.data)
        if checkpoints := find(self.trainer.callbacks, Checkpoint):  # type: ignore[attr-defined]
            try:
                checkpoints.check_monitor(metrics)
            except ValueError as error:
                raise to_config_error(error, "callbacks.checkpoint") from error
        if metrics:
            setup = partial(metrics.setup_evaluation, self.data, self.system)
            processes.main_process_first(lambda: setup_metrics(setup))

    def make_trainer(self) -> pl.Trainer:
        config, training = self.config, self.config["trainer"]
        groups = {group: config[group] for group in ("callbacks", "logger")}
        if not (self.run_dir / "config.yaml").is_file():  # it starts
            check_free(groups, self.run_dir)
        nodes = {group: in_folder(node, self.run_dir) for group, node in groups.items()}
        callbacks = {name: build(node, f"callbacks.{name}", self.allowed) for name, node in nodes["callbacks"].items()}
        for name, callback in callbacks.items():
            if not isinstance(callback, pl.Callback):
                raise ConfigError(f"callbacks.{name}: {type(callback).__name__} is not a Lightning callback")
        chosen = self.logger_nodes(nodes["logger"])
        self.loggers = {name: build(node, f"logger.{name}", self.allowed) for name, node in chosen.items()}
        for name, logger in self.loggers.items():
            if not isinstance(logger, Logger):
                raise ConfigError(f"logger.{name}: {type(logger).__name__} is not a Lightning logger")
            every = chosen[name].get("flush_logs_every_n_steps", 1)  # Lightning divides by it at the first row
            if type(every) is not int or every < 1:
                raise ConfigError(f"logger.{name}.flush_logs_every_n_steps: must be an integer of at least 1, got {every}")
        precision, self.precision_reason = choose_precision(config["hardware"], self.data.shape)
        trainer = make_trainer(
            {**config["hardware"], "precision": precision},
            {
                "max_steps": training["max_steps"],
                "max_epochs": -1,
                "log_every_n_steps": training["log_every"],
                "callbacks": [Stop(), Log(), *sorted([*callbacks.values(), *self.callbacks], key=priority), State(config)],
                "logger": list(self.loggers.values()),
            },
            self.allowed,
        )
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if trainer.precision == "bf16-mixed" and not has_bf16(config["hardware"]):
            self.notes.append(f"hardware.precision: {precision} is emulated here, several times slower than 32-true; choose auto")
        return trainer

    def logger_nodes(self, nodes: dict[str, Any]) -> dict[str, Any]:
        """Returns the nodes of the loggers, which continue their runs if this run does."""
        before = read_record(self.run_dir).get("loggers", {}) if self.checkpoint is not None else {}
        return {name: continuing(node, before.get(name)) for name, node in nodes.items()}

    # -- training ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Train in the run folder, with one process per device, and requeue a SLURM job that SIGUSR1 has ended. Returns the exit
        code: 0, or 128 plus the signal that ended the run early."""
        if processes.must_launch(self.trainer):
            train = partial(train_on_rank, self.config, self.run_dir, self.checkpoint, self.allowed, self.callbacks)
            code = processes.launch(train, self.trainer.num_devices, self.config["hardware"], self.run_dir)
        else:
            code = self.fit()
        if REQUEUE is not None and code == 128 + REQUEUE and self.trainer.is_global_zero:
            slurm.requeue(self.continues)
        return code

    def fit(self) -> int:
        """Train in this process; see `run`."""
        rank_zero = self.trainer.is_global_zero
        if rank_zero:
            text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
            replace(self.run_dir / "config.yaml", lambda file: file.write(text.encode()))
            text = announcement(self.config, self.system, self.data, self.trainer, self.precision_reason, self.run_dir)
            print(text, flush=True)
            log.info(text)
            for note in [f"data: {note}" for note in self.data.notes] + self.notes:
                log.warning("%s", note)
            if self.data.left_out:
                text = "".join(f"{printable(name)}: {printable(why)}\n" for name, why in self.data.left_out.items())
                replace(self.run_dir / "left_out.txt", lambda file: file.write(text.encode()))
        try:
            while (diverged := self.fit_once()) is not None:
                self.roll_back(diverged)
        except BaseException:
            self.report("the run was not completed; task=report shows those of its last checkpoint")
            raise
        self.report()
        if rank_zero:
            text = final_summary(self.trainer, self.run_dir)
            print(text, flush=True)
            log.info(text)
        stop = find(self.trainer.callbacks, Stop)  # type: ignore[attr-defined]
        early = self.trainer.global_step < self.trainer.max_steps
        return 128 + stop.received if stop and stop.received and early else 0

    def report(self, without: str | None = None) -> None:
        """Write report.html. A failure is logged and does not fail the run. `without`: why it shows no nearest training
        samples."""
        if not self.trainer.is_global_zero:
            return
        try:
            metrics = find(self.trainer.callbacks, Metrics)  # type: ignore[attr-defined]
            neighbours: Neighbours | str = without or "the run has no metrics, whose features they would be found by"
            if without is None and metrics is not None and metrics.metrics:
                model = Model(self.system, self.config, self.trainer.global_step, self.run_dir)
                neighbours = find_neighbours(model, self.data, feature_extractor(metrics.metrics), metrics.num)
            write_report(self.run_dir, neighbours)
        except Exception as error:
            log.warning("report.html was not written: %s; try again with task=report", one_line(error))

    def fit_once(self) -> Diverged | None:
        """Train from the checkpoint to the end, or until the run diverges."""
        trainer, config = self.trainer, self.config
        facts = {
            "name": config["name"],
            "started": read_record(self.run_dir).get("started") or datetime.now(timezone.utc).isoformat(),
            "seed": config["seed"],
            "parameters": {name: count(network) for name, network in self.system.networks().items()},
            **({"notes": self.notes} if self.notes else {}),
            "data": {"samples": len(self.data.x), "shape": list(self.data.shape), "notes": self.data.notes},
            **environment(trainer),
        }
        trainer.callbacks.insert(0, Record(self.run_dir, facts, hyper_parameters(config), self.loggers))  # type: ignore[attr-defined]
        if watchdog := find(trainer.callbacks, Watchdog):  # type: ignore[attr-defined]
            watchdog.rollbacks = len(read_record(self.run_dir).get("rollbacks", []))
        if trainer.is_global_zero:
            continue_logs(trainer, self.checkpoint)
        seed_all(config["seed"] + trainer.global_rank)  # different z on every rank
        try:
            with processes.environment_restored():
                trainer.fit(self.system, datamodule=self.data, ckpt_path=self.checkpoint, weights_only=True)
        except Diverged as diverged:
            return diverged
        except RuntimeError as error:
            operation, found, _ = str(error).partition(" does not have a deterministic implementation")
            if not found:
                raise
            raise ConfigError(
                f"hardware.deterministic: {operation} has no deterministic kernel on this device; with warn instead of "
                "true the run goes on without one there, and says so"
            ) from error
        return None

    def roll_back(self, diverged: Diverged) -> None:
        """Go back to the last checkpoint before the run diverged, and delete later step-N.ckpt files. Raises Diverged, naming the
        last good checkpoint, if the run must end."""
        checkpoints = find(self.trainer.callbacks, Checkpoint)  # type: ignore[attr-defined]
        folder = checkpoints.folder if checkpoints else self.run_dir / "checkpoints"
        steps = {file: step_of(file) for file in (*folder.glob("step-*.ckpt"), *folder.glob("best.ckpt"))}
        good = max((file for file, step in steps.items() if step <= diverged.last_good_step), key=steps.__getitem__, default=None)
        if good is None:
            raise Diverged(f"{diverged}; there is no earlier checkpoint") from diverged
        if not diverged.rollback:
            raise Diverged(f"{diverged}; the last good checkpoint is {display_path(good)}, of step {steps[good]:,}") from diverged
        self.trainer.strategy.barrier()  # all ranks have read the files
        if self.trainer.is_global_zero:
            log.warning("%s; rolling back to step %s, with lower learning rates", diverged, f"{steps[good]:,}")
            record = read_record(self.run_dir)
            rollbacks = [*record.get("rollbacks", []), {"to": steps[good], "because": str(diverged)}]
            write_json(record | {"rollbacks": rollbacks}, self.run_dir / "run.json")
            link_or_copy(good, folder / "last.ckpt")
            for file, step in steps.items():
                if step > steps[good] and file.name != "best.ckpt":
                    file.unlink()
        self.trainer.strategy.barrier()
        self.checkpoint = folder / "last.ckpt"
        self.trainer = self.make_trainer()  # its loggers continue their runs, since there is a checkpoint


def train_on_rank(
    config: dict[str, Any],
    run_dir: Path,
    checkpoint: Path | None,
    allowed: Sequence[str] | None,
    callbacks: Sequence[pl.Callback],
) -> None:
    """Train in one process of a run on several devices."""
    train = Train(config, run_dir, checkpoint, allowed, callbacks)
    train.setup()
    train.fit()


def with_absolute_paths(config: dict[str, Any], resumes: bool) -> dict[str, Any]:
    """Make `data.root` and `start_from` absolute, since checkpoints contain the config."""
    config = {**config, "data": dict(config["data"])}
    if isinstance(root := config["data"].get("root"), str):
        config["data"]["root"] = str(Path(root).expanduser().absolute())
    if config["start_from"] is not None and not resumes:
        config["start_from"] = str(find_checkpoint(config["start_from"], "start_from").absolute())
    return config


def hyper_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that runs are compared by, each once although the model refers to others."""
    groups = (
        "seed", "start_from", "model", "loss", "regularizer", "augment", "constraint", "anneal", "optimizer", "schedule", "data",
        "trainer", "hardware",
    )  # fmt: skip
    others = [config[group] for group in groups[3:]] + list(config["optimizer"].values())
    own = {key: value for key, value in config["model"].items() if not isinstance(value, dict) or value not in others}
    # A model may define its own loss and ignore the other groups.
    parts = ("loss", "regularizer", "augment", "constraint", "anneal")
    unused = {group for group in parts if config[group] not in config["model"].values()}
    return {group: config[group] for group in groups if group not in unused} | {"model": own}


def priority(callback: pl.Callback) -> int:
    """Order of the callbacks: the watchdog first, checkpoints after all callbacks that may measure at the same step."""
    return 0 if isinstance(callback, Watchdog) else 2 if isinstance(callback, Checkpoint) else 1


def check_fit(system: System, data: DataModule) -> None:
    """Raises ConfigError if the networks do not fit the data, each other, or the augmentations."""
    try:
        with torch.random.fork_rng(devices=[]):
            system.make_optimizers()
            system.check_shapes(data.shape)
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        raise to_config_error(error, "model") from error
    if system.classes not in (None, data.classes):
        raise ConfigError(
            f"model.classes: {system.classes}, but the data has {data.classes}; set model.classes=${{data.classes}}"
        )


def check_devices(trainer: pl.Trainer, data: DataModule, system: System) -> None:
    """Raises ConfigError if a batch cannot be split over the devices, or the number of processes is wrong."""
    if trainer.num_nodes > 1 and not processes.external():
        raise ConfigError("hardware.num_nodes: training on several machines requires torchrun or srun, see hardware=multinode")
    ranks = trainer.world_size
    started = int(os.environ.get("WORLD_SIZE", "1")) if processes.external() else ranks
    if started != ranks:
        raise ConfigError(
            f"hardware: {started} processes were started, but this hardware has {ranks} devices; "
            "under torchrun choose hardware=multinode"
        )
    if data.batch_size % ranks:
        raise ConfigError(f"data.batch_size: {data.batch_size} cannot be split over {ranks} devices")
    local_batch_size = data.batch_size // ranks
    if local_batch_size % system.accumulate:
        raise ConfigError(f"model.accumulate: {system.accumulate} does not divide the batch of {local_batch_size} on each device")
    part, row = local_batch_size // system.accumulate, getattr(system, "samples_per_row", 1)
    if part % row:
        raise ConfigError(f"data.batch_size: each part of {part} on a device must be a multiple of the {row} samples of pack")
    for name, term in getattr(system, "terms", {}).items():
        if part < term.min_samples:
            raise ConfigError(
                f"data.batch_size: each part of {part} on a device must have at least {term.min_samples} samples, for {name}"
            )


def setup_metrics(setup: Callable[[], None]) -> None:
    """Raises ConfigError if a metric does not support this data, or an extractor's file is missing."""
    try:
        setup()
    except (ValueError, RuntimeError, OSError) as error:
        raise to_config_error(error, "extractor" if str(error).startswith("weights:") else "metrics") from error


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch. Unlike Lightning's seed_everything, set no PL_GLOBAL_SEED: DDP would reset all ranks to
    it."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
