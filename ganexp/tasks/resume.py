"""task=resume: continue a run in its folder, as if it had never stopped."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml

from ganexp.cli.build import OWN_CLASSES, one_line
from ganexp.cli.checks import check_nodes
from ganexp.cli.config import CALL_KEYS, TYPED
from ganexp.cli.messages import ConfigError, printable
from ganexp.files import check_yaml
from ganexp.records import read_record
from ganexp.runtime.console import display_path
from ganexp.runtime.continuing import last_logged
from ganexp.runtime.places import check_places, in_folder, is_below
from ganexp.runtime.restoring import OtherFormat, read
from ganexp.tasks.train import Train

log = logging.getLogger(__name__)
LIGHTNING = ("Trainer", "trainer.", "loggers.", "callbacks.", "strategies.")  # not its command line, which builds anything
ALLOWED = [  # classes that config.yaml may name
    *OWN_CLASSES, "ganexp.callbacks.", "ganexp.metrics.", "ganexp.loggers.", *(f"pytorch_lightning.{name}" for name in LIGHTNING),
]  # fmt: skip
CADENCES = {  # keys of trainer that callbacks refer to
    "samples_every": ["samples.every"],
    "num_samples": ["samples.num"],
    "metrics_every": ["metrics.every", "watchdog.every"],
    "checkpoint_every": ["checkpoint.every"],
}
MAY_CHANGE = ("trainer", "hardware", "logger", "data.root")  # nothing that changes the algorithm
FOLLOWS = tuple(f"callbacks.{key}" for keys in CADENCES.values() for key in keys)
ANEW = "start a new run in another folder with the command in run.json"
NOT_COMPARED = (*CALL_KEYS, "experiment")


class Resume:
    """Continues training from the last checkpoint of the run in `run_dir`, with the run's config. On the same hardware, weights,
    logs and pictures equal those of a run that never stopped. A run without a checkpoint starts at its first step.

    `override_keys`: full keys whose values in `config` replace the run's; only keys below MAY_CHANGE may change, here or in
    config.yaml. With resume=auto, `config` is that of the command that started the run: all of it except `start_from` is
    compared, its classes are trusted, and a run at its last step is not an error. Damaged checkpoints are skipped. Raises
    ConfigError if the folder has no run of this version or only damaged checkpoints, if config or data differ from the
    checkpoint's, if config.yaml names classes that are neither ganexp's nor in config["trust"], if the run is at its last step,
    or if the steps exceed its schedule. `callbacks`: further ones, see Train.
    """

    def __init__(
        self,
        config: dict[str, Any],
        run_dir: Path,
        override_keys: Sequence[str] = (),
        callbacks: Sequence[pl.Callback] = (),
    ):
        self.config, self.run_dir, self.override_keys, self.callbacks = config, run_dir, override_keys, callbacks
        self.auto = config.get("resume") == "auto"
        self.train: Train | None = None  # None: the run is at its last step

    def setup(self) -> None:
        """Find the checkpoint, apply the changes to the run's config, and set up training."""
        run_dir = self.run_dir
        check_paths(run_dir)
        config = read_config(run_dir / "config.yaml")
        if not self.auto:
            check_places(config, run_dir, self.override_keys, self.config.get("trust", []))
        folder, every = checkpoints_of(config, run_dir)
        checkpoint, content, damaged = newest(folder)
        step = self.step = content["global_step"] if content else 0
        before = content["config"] if content else config
        refuse_changes(differences(before, config), f"run: {run_dir / 'config.yaml'} differs from the checkpoint's config")
        change(config, self.config, self.compared())
        check_schedule(before, config)
        changes = [f"{key} from {old} to {new}" for key, (old, new) in differences(before, config).items()]
        self.notes = [*damaged, *changes]
        record = read_record(run_dir)
        at = max(step, steps_of(record)) if record.get("status") == "finished" else step  # it may write no checkpoints
        if self.auto and at >= config["trainer"]["max_steps"]:
            self.notes = [f"{display_path(run_dir)} is at its last step, {at:,}: nothing to do"]
            return
        if not damaged:
            check_nothing_lost(run_dir, record, folder, every, step, restarts=self.auto)
        if step >= config["trainer"]["max_steps"]:
            raise ConfigError(f"run: {run_dir} is at its last step, {step}; to continue, add trainer.max_steps={2 * step}")
        self.notes.insert(0, f"resumed at step {step:,}" if content else "no checkpoint yet: starts at the first step")
        trusted = [*ALLOWED, *(prefix.rstrip(".") + "." for prefix in self.config.get("trust", []))]
        allowed = None if self.auto else trusted
        self.train = Train(config, run_dir, checkpoint, allowed, self.callbacks)
        self.train.continues = True
        self.train.setup()
        if content and content["data"] != self.train.data.fingerprint:
            raise ConfigError("data: differs from the data that the run was trained on; a run must keep its data")
        ranks = len(content["random"]) if content else self.train.trainer.world_size
        if ranks != self.train.trainer.world_size:
            self.notes.append(f"on {self.train.trainer.world_size} devices instead of {ranks}: not bitwise reproducible")
        precision = record.get("hardware", {}).get("precision")
        if content and precision not in (None, self.train.trainer.precision):
            self.notes.append(f"in {self.train.trainer.precision} instead of {precision}: not bitwise reproducible")

    def run(self) -> int:
        """Returns the exit code, see Train.run."""
        for note in self.notes if os.environ.get("RANK", "0") == "0" else []:
            print(f"  {printable(note)}")
            log.info("%s", note)
        return self.train.run() if self.train else 0

    def compared(self) -> list[str]:
        """Returns the keys that are compared with the run's config; those that may change are set in it."""
        if not self.auto:
            return [*self.override_keys, *(self.config if "experiment" in self.override_keys else [])]
        return [key for key in (*self.override_keys, *self.config) if not is_below(key, ["start_from"])]


def check_paths(run_dir: Path) -> None:
    """Raises ConfigError for a file in place of a folder, a folder in place of a file, and for pipes, sockets and devices, which
    may never end, and for what has no permissions."""
    for path in run_dir.rglob("*"):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise ConfigError(f"run: {path} is neither a file nor a folder")
        if stat.S_ISLNK(mode) and not path.exists():
            continue
        wanted = os.R_OK | (os.W_OK | os.X_OK if stat.S_ISDIR(mode) else os.W_OK if path.name == "log.txt" else 0)
        if not os.access(path, wanted):
            raise ConfigError(f"run: {path} may not be read{' and written' if wanted & os.W_OK else ''}: see its permissions")
    for path in (run_dir / "samples", run_dir / "checkpoints"):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run: {path} is not a folder")
    for path in (run_dir / name for name in (
        "metrics.csv", "run.json", "hparams.yaml", "log.txt", "training.gif", "checkpoints/best.before", "checkpoints/whole.tmp",
    )):  # fmt: skip
        if path.is_dir():
            raise ConfigError(f"run: {path} is a folder, not a file")


def read_config(file: Path) -> dict[str, Any]:
    """Returns a run's config.yaml. Raises ConfigError if it is missing, damaged or from another version."""
    if not file.is_file():
        raise ConfigError(f"run: {file.parent} has no config.yaml; pass the folder of a run, outputs/NAME/TIME")
    try:
        check_yaml(file)
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"run: {file} is damaged: {one_line(error)}") from error
    for path, kind in TYPED.items():
        node = config if not path else config.get(path)
        missing = kind.__dataclass_fields__.keys() - (node.keys() if isinstance(node, dict) else set()) - set(CALL_KEYS)
        if missing:
            key = f"{path}.{min(missing)}".lstrip(".")
            raise ConfigError(f"run: {file} is damaged or from another version of ganexp: it has no {key}")
    try:
        check_nodes(config)
    except (ConfigError, TypeError, AttributeError) as error:
        raise ConfigError(f"run: {file} is damaged or from another version of ganexp: {one_line(error)}") from error
    return config


def checkpoints_of(config: dict[str, Any], run_dir: Path) -> tuple[Path, int]:
    """Returns the folder of a run's checkpoints, and their interval; 0 if it writes none."""
    node = config["callbacks"].get("checkpoint")
    if not isinstance(node, dict) or not isinstance(node.get("folder"), str) or not isinstance(node.get("every"), int):
        return run_dir / "checkpoints", 0
    return Path(in_folder(node["folder"], run_dir)), node["every"]


def check_nothing_lost(run_dir: Path, record: dict[str, Any], folder: Path, every: int, step: int, restarts: bool) -> None:
    """Raises ConfigError if the newest checkpoint, of `step`, is older than run.json or metrics.csv say: continuing from there
    would delete what was logged later.

    `record`: the run.json. `every`: interval of the checkpoints, 0 for none. `restarts`: whether a run that writes none may start
    again before its end.
    """
    rollbacks, finished = record.get("rollbacks"), record.get("status") == "finished"
    if isinstance(rollbacks, list) and rollbacks and isinstance(rollbacks[-1], dict) and rollbacks[-1].get("to") == step:
        return  # killed before its logs were cut
    at = max(steps_of(record), last_logged(run_dir))
    if not every and at > step and (finished or not restarts):
        raise ConfigError(f"run: {run_dir} is at step {at} and writes no checkpoints, so it cannot continue; {ANEW}")
    written = at if finished else (at - 1) // every * every if every else 0  # the step of the last checkpoint that was written
    if written > step:
        found = f"the newest checkpoint in {folder} is of step {step}" if step else f"{folder} has no checkpoint"
        raise ConfigError(f"run: {run_dir} was at step {at}, but {found}; put the checkpoints back, or {ANEW}")


def steps_of(record: dict[str, Any]) -> int:
    steps = record.get("steps")
    return steps if isinstance(steps, int) else 0


def newest(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Returns the newest undamaged checkpoint, its content, and a note for each damaged one; None and an empty content if there
    are no checkpoints. Raises ConfigError if all are damaged, or one is from another version."""
    damaged: list[str] = []
    for file in [folder / "last.ckpt", *sorted(folder.glob("step-*.ckpt"), reverse=True)]:
        if not file.is_file():
            continue
        try:
            content = read(file)
            if not {"random", "data"} <= content.keys():
                raise ValueError("is from another version of ganexp")
            return file, content, damaged
        except OtherFormat as error:
            raise ConfigError(f"run: {file} {error}") from error
        except ValueError as error:
            damaged.append(f"skipped {file.name}: it {error}")
    if damaged:
        raise ConfigError(f"run: all checkpoints in {folder} are damaged; {'; '.join(damaged)}")
    return None, {}, []


# -- changes of the config -------------------------------------------------------------------------------------------


def change(config: dict[str, Any], new: dict[str, Any], override_keys: Sequence[str]) -> None:
    """Copy the values of `override_keys` from `new` into the run's config. Raises ConfigError for keys that must not change."""
    keys = [key for key in override_keys if not is_below(key, (*NOT_COMPARED, "hydra"))]
    changes = {key: pair for key, pair in differences(config, new).items() if is_below(key, keys)}
    refuse_changes(changes, "run: a resumed run keeps its config")
    for key in keys:
        if is_below(key, (*MAY_CHANGE, *FOLLOWS)):
            copy_value(config, new, key)
    for cadence, followers in CADENCES.items():
        for key in followers if is_below(f"trainer.{cadence}", keys) else []:
            callback, argument = key.split(".")
            if callback in config["callbacks"] and not is_below(f"callbacks.{key}", keys):
                config["callbacks"][callback][argument] = config["trainer"][cadence]


def copy_value(config: dict[str, Any], new: dict[str, Any], key: str) -> None:
    """Copy the value at a full key from `new` into `config`."""
    *path, last = key.split(".")
    for part in path:
        if not isinstance(config.get(part), dict) or not isinstance(new.get(part), dict):
            return  # a callback that the run does not have
        config, new = config[part], new[part]
    if last in new:
        config[last] = new[last]
    else:
        config.pop(last, None)


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Returns all values by their full keys."""
    if isinstance(node, dict) and node:
        return {key: leaf for name, item in node.items() for key, leaf in leaves(item, f"{path}.{name}".lstrip(".")).items()}
    return {path: node}


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns both values of all full keys that differ; a missing key counts as None."""
    before, after = leaves(old), leaves(new)
    return {
        key: (before.get(key), after.get(key))
        for key in [*before, *(after.keys() - before.keys())]
        if repr(before.get(key)) != repr(after.get(key)) and not is_below(key, NOT_COMPARED)  # repr: nan != nan
    }


def refuse_changes(changes: dict[str, tuple[Any, Any]], message: str) -> None:
    """Raises ConfigError listing the changes outside MAY_CHANGE, if there are any."""
    nodes = [key.removesuffix("._target_") for key in changes if key.endswith("._target_")]  # another class has other arguments
    listed = {key: pair for key, pair in sorted(changes.items()) if key.endswith("._target_") or not is_below(key, nodes)}
    fixed: dict[str, list[str]] = {}  # by values: many keys refer to another one
    for key, (old, new) in sorted(
        listed.items(), key=lambda item: (item[0].startswith(("model.", "callbacks.", "metrics.")), item[0])
    ):
        if not is_below(key, (*MAY_CHANGE, *FOLLOWS)):
            fixed.setdefault(f"is {old}, not {new}", []).append(key)
    if fixed:
        lines = [f"{keys[0]} {what}" + (f" ({len(keys) - 1} more keys too)" if keys[1:] else "") for what, keys in fixed.items()]
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise ConfigError(f"{message}: {'; '.join(lines[:5])}{more} (these may change: {', '.join(MAY_CHANGE)})")


def check_schedule(before: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises ConfigError if the new number of steps exceeds a schedule that ends at the old one."""
    old, new = before["trainer"]["max_steps"], config["trainer"]["max_steps"]
    if new > old and old in config["schedule"].values():
        name = config["schedule"]["_target_"].rpartition(".")[2]
        raise ConfigError(f"trainer.max_steps: {new}, but the schedule, {name}, ends at step {old}")
