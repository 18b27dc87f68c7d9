"""task=check: try a command line for training before a long run."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.multiprocessing import spawn

from ganexp.callbacks.checkpoint import Checkpoint, find
from ganexp.callbacks.metrics import Metrics
from ganexp.cli.messages import Diverged, format_message
from ganexp.files import check_writable, read_json, write_json
from ganexp.quantities import duration, size
from ganexp.runtime import processes
from ganexp.runtime.console import announcement, count, display_path
from ganexp.runtime.layers import Layer, layers_of
from ganexp.runtime.memory import available_memory
from ganexp.runtime.places import ARGUMENTS, check_apart, within
from ganexp.runtime.rehearsal import NEVER, Clock, parts_of_disk, parts_of_time, sizes_of, times_in
from ganexp.systems.base import System
from ganexp.systems.contexts import evaluating, uncompiled
from ganexp.tasks.resume import Resume
from ganexp.tasks.train import Train

MEASURED = "measured.json"  # written by the rehearsal into its folder
OWNERS = {  # keys of trainer, and the callbacks that use them
    "samples_every": ["samples"],
    "num_samples": ["samples"],
    "metrics_every": ["metrics", "watchdog"],
    "checkpoint_every": ["checkpoint"],
}


class Check:
    """Does everything that training does before its first step, rehearses the run in a temporary folder (three steps with every
    callback, then steps alone for about ten seconds), and reports layers, parameters, memory, time and disk of the whole run,
    precision, settings without effect, and the contents of a checkpoint. Writes nothing else.

    `json`: a file to write the report to. `destination`: the folder that the run would have; with resume=auto, a run in it is
    checked as a run to continue. `notes`: on settings of an experiment that have no effect. The exit code is 2 if the run could
    not start, fails in its first steps, or lacks memory or disk.
    """

    def __init__(
        self,
        config: dict[str, Any],
        run_dir: Path,
        destination: Path,
        notes: Sequence[str],
        override_keys: Sequence[str],
        json: str | None = None,
    ):
        self.config, self.run_dir, self.destination = config, run_dir, destination
        self.notes, self.override_keys = notes, override_keys
        self.json = Path(json).expanduser() if json is not None else None
        if self.json is not None and (self.json.is_dir() or self.json.suffix != ".json"):
            raise ValueError(f"json: must be a file that ends in .json, got {json}")
        if self.json is not None and self.json.exists() and not {"about", "networks"} <= read_json(self.json).keys():
            raise ValueError(f"json: {json} exists and is not a report of task=check; choose another file")

        if self.json is not None:
            check_writable(self.json.absolute().parent)

    def setup(self) -> None:
        """Set up data, weights and devices as training does. Raises ConfigError for everything that training refuses."""
        resume = None
        if (self.destination / "config.yaml").is_file():
            resume = Resume(self.config, self.destination, self.override_keys)
            resume.setup()
        self.first_step, self.resume_notes = (resume.step, resume.notes) if resume else (0, [])
        self.train = resume.train if resume else Trial(self.config, self.run_dir)
        if resume is None and self.train is not None:
            self.train.setup()
            check_apart(self.destination, self.train.data)

    def run(self) -> int:
        """Print the report. Returns the exit code: 0, or 2 if there is a problem."""
        if self.train is None:
            print("\n".join(f"  {note}" for note in self.resume_notes))
            return 0
        rank_zero = os.environ.get("RANK", "0") == "0"
        if rank_zero:
            print("  three steps with every callback, then steps alone for ten seconds or more …", flush=True)
        problem = self.rehearse()
        if not rank_zero:
            return 0
        facts = self.facts(read_json(self.run_dir / MEASURED), problem)
        print("\n".join(report(facts)), flush=True)
        if self.json is not None:
            write_json(facts, self.json)
            print(f"  written to {display_path(self.json)}")
        return 2 if facts["problems"] else 0

    def rehearse(self) -> str | None:
        """Rehearse the run in new processes, as many as it would have. Returns an error in one line, or None."""
        assert self.train is not None
        config, hardware, allowed = self.train.config, self.train.config["hardware"], self.train.allowed
        work = partial(rehearse, config, self.run_dir, allowed, self.first_step, time.time())
        try:
            if processes.external():
                work()
            elif processes.must_launch(self.train.trainer):
                processes.launch(work, self.train.trainer.num_devices, hardware, self.run_dir)
            else:
                spawn(rehearse_alone, (work,), 1)
        except Exception as error:
            if os.environ.get("HYDRA_FULL_ERROR"):
                raise
            return f"fails within its first steps: {in_process(error)}"
        return None

    # -- the report --------------------------------------------------------------------------------------------------

    def facts(self, measured: dict[str, Any], problem: str | None) -> dict[str, Any]:
        """Returns the report as plain values."""
        train = self.train
        assert train is not None
        config, trainer = train.config, train.trainer
        checkpoint: Any = find(trainer.callbacks, Checkpoint)  # type: ignore[attr-defined]
        facts: dict[str, Any] = {
            "about": dict(rows_of(train, self.destination)),
            "networks": {
                name: [vars(layer) for layer in layers]
                for name, layers in layers_of_system(train.system, train.data.shape).items()
            },
            "parameters": {name: count(network) for name, network in train.system.networks().items()},
            "precision": {"precision": trainer.precision, "reason": train.precision_reason or "as set by hardware.precision"},
            "first_step": self.first_step,
            "notes": [
                *self.resume_notes,
                *(f"data: {note}" for note in train.data.notes),
                *train.notes,
                *untried(config["logger"]),
            ],
            "without_effect": [*self.notes, *without_effect(config, self.override_keys)],
            "checkpoint": held(train.system, trainer),
            "problems": [problem] if problem else [],
        }
        if problem or not measured:
            return facts
        parts = parts_of_time(measured, self.config["trainer"] | config["trainer"], self.first_step)
        disk = parts_of_disk(measured["sizes"], parts, checkpoint.keep if checkpoint else 0)
        facts |= {
            "step": {"seconds": measured["step"], "timed": measured["steps_timed"], "images": train.data.batch_size},
            "time": {"seconds": sum(part["times"] * part["seconds"] for part in parts.values()), "parts": parts},
            "disk": {"bytes": round(sum(part["times"] * part["bytes"] for part in disk.values())), "parts": disk},
            "memory": {"bytes": measured["memory"], "gpu_bytes": measured["gpu_memory"], "processes": trainer.world_size},
            "warnings": measured["warnings"],
        }
        facts["checkpoint"] |= {"bytes": measured["sizes"]["checkpoint"], "every": checkpoint.every if checkpoint else None}
        free = free_disk(self.destination)
        facts["disk"]["free_bytes"], facts["memory"]["available_bytes"] = free, available_memory()
        if facts["disk"]["bytes"] > free:
            facts["problems"].append(f"disk: the run needs about {size(facts['disk']['bytes'])}, but {size(free)} are free")
        return facts


def rehearse_alone(rank: int, work: Any) -> None:
    """Rehearse a run of one process in a new process, so that its peak memory is the run's."""
    work()


def rehearse(config: dict[str, Any], run_dir: Path, allowed: Sequence[str] | None, first_step: int, started: float) -> None:
    """Rehearse in one process of a run from `first_step` on; rank 0 writes its measurements into `run_dir`. `started`: start
    time, in seconds since 1970."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "output.txt").open("a") as out, redirect_stdout(out), redirect_stderr(out):
        train = Rehearsal(config, run_dir, allowed, first_step, started)
        train.setup()
        with collected_warnings() as warnings:
            code = train.fit()
    if code:
        raise KeyboardInterrupt
    if train.trainer.is_global_zero:
        measured = train.clock.measured(train.trainer)
        facts = {"warnings": warnings, "sizes": sizes_of(run_dir), "exit": time.perf_counter() - train.clock.last}
        write_json(measured | facts, run_dir / MEASURED)


def untried(loggers: dict[str, Any]) -> list[str]:
    """Returns a line for each logger that a rehearsal leaves out."""
    others = [name for name, node in loggers.items() if node["_target_"] not in ARGUMENTS]
    return [f"logger.{name}: not tried here, since it writes outside of the run folder" for name in others]


class Trial(Train):
    """A run without the loggers that write outside of its folder; W&B offline and silent."""

    def logger_nodes(self, nodes: dict[str, Any]) -> dict[str, Any]:
        os.environ["WANDB_SILENT"] = "true"
        kept = {name: node for name, node in nodes.items() if node["_target_"] in ARGUMENTS}
        return {name: node | ({"offline": True} if "offline" in node else {}) for name, node in kept.items()}


class Rehearsal(Trial):
    """A run that its clock stops."""

    def __init__(self, config: dict[str, Any], run_dir: Path, allowed: Sequence[str] | None, first_step: int, started: float):
        every, last = config["callbacks"].get("samples", {}).get("every", NEVER), config["trainer"]["max_steps"]
        self.pictures = 1 + times_in(first_step, last, every, True)
        changed = {group: within(config[group]) for group in ("callbacks", "logger")}
        changed["trainer"] = config["trainer"] | {"max_steps": NEVER}
        super().__init__(config | changed, run_dir, None, allowed)
        self.started = started

    def make_trainer(self) -> pl.Trainer:
        trainer = super().make_trainer()
        self.clock = Clock(self.started, self.system.period(), self.pictures)
        trainer.callbacks.append(self.clock)  # type: ignore[attr-defined]
        return trainer


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Yields a list that collects the messages of logged warnings."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(handler)


def in_process(error: Exception) -> str:
    """Describe an error of another process in one line."""
    if isinstance(error, Diverged):
        return str(error)
    killed = getattr(error, "signal_name", None)
    if killed == signal.SIGKILL.name:
        return "its process was killed, most likely because memory ran out"
    return format_message(error).rpartition("ProcessRaisedException: ")[2]


def layers_of_system(system: System, shape: tuple[int, ...]) -> dict[str, list[Layer]]:
    """Returns the layers of the system's networks."""
    samples = 2 * getattr(system, "samples_per_row", 1)

    def run() -> None:
        with torch.no_grad(), evaluating(system.generator):
            system.generator(system.latent.sample(samples, system.device), system.sample_labels(samples))
        system.check_shapes(tuple(shape))

    networks: dict[str, nn.Module] = system.networks()
    with torch.random.fork_rng(devices=[]), uncompiled(True):
        return layers_of(networks, run)


def without_effect(config: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """Returns a line for each setting that has no effect in this run. `keys`: those set on the command line."""
    callbacks, trainer = config["callbacks"], config["trainer"]
    lines = []
    for key, owners in OWNERS.items():
        if f"trainer.{key}" in keys and not set(owners) & callbacks.keys():
            lines.append(f"trainer.{key}: callbacks has no {' or '.join(owners)}")
    for name, callback in callbacks.items():
        if isinstance(every := callback.get("every"), int) and every > trainer["max_steps"]:
            lines.append(f"callbacks.{name}.every: {every:,} is more than trainer.max_steps, {trainer['max_steps']:,}")
    if trainer["log_every"] > trainer["max_steps"]:
        lines.append(f"trainer.log_every: {trainer['log_every']:,} is more than trainer.max_steps, {trainer['max_steps']:,}")
    if config["metrics"] and "metrics" not in callbacks:
        lines.append("metrics: callbacks has no metrics, so nothing is measured")
    elif any(key.split(".")[0] == "extractor" for key in keys) and config["extractor"] not in [
        metric.get("features") for metric in config["metrics"].values()
    ]:
        lines.append("extractor: none of the metrics uses it")
    lines += [f"regularizer.{name}.weight: is 0" for name, term in config["regularizer"].items() if term.get("weight") == 0]
    return lines


def held(system: System, trainer: pl.Trainer) -> dict[str, Any]:
    """Returns the contents of a checkpoint, with which a resumed run equals the run that never stopped."""
    contents = ["the weights", *(["the average of G"] if system.ema is not None else []), "both optimizers", "the schedules"]
    if len(system.networks_by_optimizer()) == 1:
        contents[contents.index("both optimizers")] = "the optimizer"
    contents += ["the random states" + (f" of {trainer.world_size} processes" if trainer.world_size > 1 else "")]
    if find(trainer.callbacks, Metrics):  # type: ignore[attr-defined]
        contents.append("the history of the metrics")
    return {"holds": contents}


def rows_of(train: Train, folder: Path) -> list[tuple[str, str]]:
    """Returns the rows of the announcement."""
    text = announcement(train.config, train.system, train.data, train.trainer, train.precision_reason, folder)
    return [(line[2:13].strip(), line[14:]) for line in text.splitlines()]


def report(facts: dict[str, Any]) -> list[str]:
    """Returns the lines of the report."""
    lines = []
    for name, layers in facts["networks"].items():
        lines += [layer_table(name, layers, facts["parameters"][name]), ""]
    rows = dict(facts["about"])
    rows["precision"] = "{precision} ({reason})".format(**facts["precision"])
    if "step" in facts:
        step, time_, memory, disk = facts["step"], facts["time"], facts["memory"], facts["disk"]
        rows["step"] = f"{duration(step['seconds'])}, {step['images'] / step['seconds']:,.0f} images/s; mean of {step['timed']}"
        rows["whole run"] = f"about {duration(time_['seconds'])}: " + ", ".join(
            f"{name} {duration(part['times'] * part['seconds'])}"
            + (f" ({part['times']:,} × {duration(part['seconds'])})" if part["times"] > 1 else "")
            for name, part in time_["parts"].items()
            if part["times"] * part["seconds"] >= 0.01 * time_["seconds"]
        )
        rows["memory"] = ", ".join(
            f"{size(memory[key])} {where}{' in each process' if memory['processes'] > 1 else ''}"
            for key, where in (("bytes", "of main memory"), ("gpu_bytes", "of GPU memory"))
            if memory[key] is not None
        )
        rows["disk"] = f"about {size(disk['bytes'])}; {size(disk['free_bytes'])} are free: " + ", ".join(
            f"{name} {size(part['times'] * part['bytes'])}"
            for name, part in disk["parts"].items()
            if part["times"] * part["bytes"]
        )
    held = facts["checkpoint"]
    rows["checkpoint"] = "holds " + ", ".join(held["holds"])
    if held.get("every"):
        rows["checkpoint"] += f": {size(held['bytes'])} every {held['every']:,} steps"
    elif "every" in held:
        rows["checkpoint"] = "none, so the run cannot be resumed: callbacks has no checkpoint"
    width = max(map(len, rows))
    lines += [f"  {key:<{width}} {value}" for key, value in rows.items()]
    for title in ("notes", "warnings", "without_effect", "problems"):
        lines += [f"  {title.replace('_', ' '):<{width}} {line}" for line in facts.get(title, [])]
    return [
        *lines,
        "  the run would fail" if facts["problems"] else "  the run can start: data, weights and devices are available",
    ]


def layer_table(name: str, layers: list[dict[str, Any]], parameters: int) -> str:
    """Format the layers of a network."""
    cells = [(layer["name"], layer["kind"], "×".join(map(str, layer["shape"])), f"{layer['parameters']:,}") for layer in layers]
    cells = [(name, "", "output", "parameters"), *cells, ("", "all", "", f"{parameters:,}")]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    return "\n".join(f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in cells)


def free_disk(folder: Path) -> int:
    """Returns the free bytes of the disk on which a folder would be created."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
