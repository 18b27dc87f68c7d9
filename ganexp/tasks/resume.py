"""task=resume: continue a run in its own folder, as if it had never stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ganexp.cli.build import OURS, one_line
from ganexp.cli.checks import check_nodes
from ganexp.cli.config import OF_THE_CALL, TYPED
from ganexp.cli.messages import ConfigError
from ganexp.runtime.processes import external
from ganexp.runtime.restoring import OtherFormat, read
from ganexp.tasks.train import Train

log = logging.getLogger(__name__)
ALLOWED = [*OURS, "ganexp.callbacks.", "ganexp.metrics.", "pytorch_lightning."]  # what a run's config.yaml may name
CADENCES = {  # keys of trainer that callbacks refer to
    "samples_every": ["samples.every"],
    "num_samples": ["samples.num"],
    "metrics_every": ["metrics.every", "watchdog.every"],
    "checkpoint_every": ["checkpoint.every"],
}
MAY_CHANGE = ("trainer", "hardware", "logger", "data.root")  # steps, cadences, where and what to: nothing of the game
FOLLOWS = tuple(f"callbacks.{key}" for keys in CADENCES.values() for key in keys)
NOT_COMPARED = (*OF_THE_CALL, "experiment")


class Resume:
    """Train from the last checkpoint of the run in `run_dir`, with the run's own config. On the same hardware the weights, logs
    and pictures are those of a run that never stopped. One that was killed before its first checkpoint starts at its first step.

    `chosen`: full keys of `config` that replace the run's own. What is below MAY_CHANGE may change, so or in config.yaml. A
    damaged checkpoint is skipped for the one before it. Raises ConfigError for a folder without a run of this version or without
    a whole checkpoint, for another config or other data than the checkpoint's, for a config.yaml that names classes neither
    ganexp's nor in config["trust"], for a run at its last step, and for more steps than its schedule is for.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path, chosen: Sequence[str] = ()):
        self.config, self.run_dir, self.chosen = config, run_dir, chosen

    def setup(self) -> None:
        """Find the checkpoint, change the run's config where that is allowed, and set up its training."""
        run_dir = self.run_dir
        check_places(run_dir)
        checkpoint, content, self.notes = newest(run_dir / "checkpoints")
        kept = read_config(run_dir / "config.yaml")
        step = content["global_step"] if content else 0
        before = content["config"] if content else kept
        refuse(differences(before, kept), f"run: {run_dir / 'config.yaml'} is not what the run was started with")
        change(kept, self.config, self.chosen)
        check_schedule(before, kept)
        self.notes += [f"{key} from {old} to {new}" for key, (old, new) in differences(before, kept).items()]
        if step >= kept["trainer"]["max_steps"]:
            raise ConfigError(f"run: {run_dir} is at its last step, {step}; to go on, add trainer.max_steps={2 * step}")
        self.notes.insert(0, f"resumed at step {step:,}" if content else "no checkpoint yet: starts at the first step")
        allowed = [*ALLOWED, *(prefix.rstrip(".") + "." for prefix in self.config.get("trust", []))]
        self.train = Train(kept, run_dir, checkpoint, allowed)
        self.train.setup()
        if content and content["data"] != self.train.data.fingerprint:
            raise ConfigError("data: these are not the samples that the run has learned from so far; a run keeps its data")
        ranks = len(content["random"]) if content else self.train.trainer.world_size
        if ranks != self.train.trainer.world_size:
            self.notes.append(f"on {self.train.trainer.world_size} devices instead of {ranks}: no longer bit for bit")

    def run(self) -> int:
        """The exit code, see Train.run."""
        for note in self.notes if not external() or self.train.trainer.is_global_zero else []:
            print(f"  {note}")
            log.info(note)
        return self.train.run()


def check_places(run_dir: Path) -> None:
    """Raises ConfigError for a file where the run has a folder, or a folder where it has a file."""
    for path in (run_dir / "samples", run_dir / "checkpoints"):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run: {path} is not a folder")
    for path in (run_dir / name for name in ("metrics.csv", "run.json", "hparams.yaml", "log.txt", "training.gif")):
        if path.is_dir():
            raise ConfigError(f"run: {path} is a folder, where a file belongs")


def read_config(file: Path) -> dict[str, Any]:
    """A run's config.yaml. Raises ConfigError if it is not there or not one of this version's."""
    if not file.is_file():
        raise ConfigError(f"run: {file.parent} has no config.yaml; name the folder of a run, outputs/NAME/TIME")
    try:
        kept = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"run: {file} is damaged: {one_line(error)}") from error
    for path, kind in TYPED.items():
        node = kept if not path else kept.get(path)
        missing = kind.__dataclass_fields__.keys() - (node.keys() if isinstance(node, dict) else set()) - set(OF_THE_CALL)
        if missing:
            key = f"{path}.{min(missing)}".lstrip(".")
            raise ConfigError(f"run: {file} is damaged or of another version of ganexp: it has no {key}")
    try:
        check_nodes(kept)
    except (ConfigError, TypeError, AttributeError) as error:
        raise ConfigError(f"run: {file} is damaged or of another version of ganexp: {one_line(error)}") from error
    return kept


def newest(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The last whole checkpoint, its content, and a note for each that is damaged; null and nothing where none was written yet.
    Raises ConfigError if there are only damaged ones, or one of another version."""
    damaged: list[str] = []
    for file in [folder / "last.ckpt", *sorted(folder.glob("step-*.ckpt"), reverse=True)]:
        if not file.is_file():
            continue
        try:
            content = read(file)
            if not {"random", "data"} <= content.keys():
                raise ValueError("is of another version of ganexp")
            return file, content, damaged
        except OtherFormat as error:
            raise ConfigError(f"run: {file} {error}") from error
        except ValueError as error:
            damaged.append(f"left aside: {file.name} {error}")
    if damaged:
        raise ConfigError(f"run: there is no whole checkpoint in {folder}; {'; '.join(damaged)}")
    return None, {}, []


# -- what may change -------------------------------------------------------------------------------------------------


def change(kept: dict[str, Any], config: dict[str, Any], chosen: Sequence[str]) -> None:
    """Put the `chosen` keys into the run's config. Raises ConfigError, with the differences, for what cannot change."""
    named = [key for key in [*chosen, *(kept if "experiment" in chosen else [])] if not below(key, (*NOT_COMPARED, "hydra"))]
    asked = {key: pair for key, pair in differences(kept, config).items() if below(key, named)}
    refuse(asked, "run: a run that resumes keeps its config")
    for key in named:
        if below(key, (*MAY_CHANGE, *FOLLOWS)):
            put(kept, config, key)
    for cadence, follows in CADENCES.items():
        for key in follows if below(f"trainer.{cadence}", named) else []:
            callback, argument = key.split(".")
            if callback in kept["callbacks"] and not below(f"callbacks.{key}", named):
                kept["callbacks"][callback][argument] = kept["trainer"][cadence]


def put(kept: dict[str, Any], config: dict[str, Any], key: str) -> None:
    """Take the value at a full key from the one config into the other."""
    *path, last = key.split(".")
    for part in path:
        if not isinstance(kept.get(part), dict) or not isinstance(config.get(part), dict):
            return  # a callback that the run does not have
        kept, config = kept[part], config[part]
    if last in config:
        kept[last] = config[last]
    else:
        kept.pop(last, None)


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Full keys and their values."""
    if isinstance(node, dict) and node:
        return {key: leaf for name, item in node.items() for key, leaf in leaves(item, f"{path}.{name}".lstrip(".")).items()}
    return {path: node}


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Full keys that differ, with both values; one that is not there counts as null."""
    before, after = leaves(old), leaves(new)
    return {
        key: (before.get(key), after.get(key))
        for key in [*before, *(after.keys() - before.keys())]
        if repr(before.get(key)) != repr(after.get(key)) and not below(key, NOT_COMPARED)  # nan is not nan, but looks like it
    }


def below(key: str, keys: Iterable[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def refuse(found: dict[str, tuple[Any, Any]], why: str) -> None:
    """Raises ConfigError, showing them, for differences in what may not change."""
    others = [key.removesuffix("._target_") for key in found if key.endswith("._target_")]  # whose arguments differ anyway
    shown = {key: pair for key, pair in sorted(found.items()) if key.endswith("._target_") or not below(key, others)}
    fixed = [f"{key} is {old}, not {new}" for key, (old, new) in shown.items() if not below(key, (*MAY_CHANGE, *FOLLOWS))]
    if fixed:
        more = f"; and {len(fixed) - 5} more" if len(fixed) > 5 else ""
        raise ConfigError(f"{why}: {'; '.join(fixed[:5])}{more} (what may change: {', '.join(MAY_CHANGE)})")


def check_schedule(before: dict[str, Any], kept: dict[str, Any]) -> None:
    """Raises ConfigError for steps beyond the end of a schedule that was made for fewer."""
    old, new = before["trainer"]["max_steps"], kept["trainer"]["max_steps"]
    if new > old and old in kept["schedule"].values():
        name = kept["schedule"]["_target_"].rpartition(".")[2]
        raise ConfigError(f"trainer.max_steps: {new}, but the schedule, {name}, was made for {old} steps and has ended there")
