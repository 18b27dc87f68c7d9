"""task=resume: go on with a run in its own folder, as if it had never stopped."""

from __future__ import annotations

import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.hydra_config import HydraConfig

from ganexp.build import OURS, one_line
from ganexp.config import TYPED, as_typed
from ganexp.mistakes import Mistake
from ganexp.tasks.processes import external
from ganexp.tasks.train import Train

log = logging.getLogger(__name__)
ALLOWED = [*OURS, "ganexp.callbacks.", "ganexp.metrics.", "pytorch_lightning."]  # what a run's config.yaml may name


class Resume:
    """Train from the run's last checkpoint on, with the run's own config.yaml. On the same hardware the weights, logs and
    pictures are those of a run that never stopped.

    `trainer.max_steps` and `hardware` may be changed on the command line, nothing else. A damaged checkpoint is left aside for
    the one before it. Raises Mistake for a folder that holds no run of this version or no whole checkpoint, for a config.yaml
    that names classes neither ganexp's nor trusted, for a run at its last step, and for more steps than its schedule is for.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path):
        kept = read_config(run_dir / "config.yaml")
        self.notes = change(kept, config)
        checkpoint, content, damaged = newest(run_dir / "checkpoints")
        step = content["global_step"]
        if step >= kept["trainer"]["max_steps"]:
            raise Mistake(f"run: {run_dir} is at its last step, {step}; to go on, add trainer.max_steps={2 * step}")
        self.notes = [f"resumed at step {step:,}", *self.notes, *damaged]
        allowed = [*ALLOWED, *(prefix.rstrip(".") + "." for prefix in config["trust"])]
        self.train = Train(kept, run_dir, checkpoint, allowed)
        ranks = len(content["random"])
        if ranks != self.train.trainer.world_size:
            self.notes.append(f"on {self.train.trainer.world_size} devices instead of {ranks}: no longer bit for bit")

    def run(self) -> int:
        """The exit code, see Train.run."""
        for note in self.notes if not external() or self.train.trainer.is_global_zero else []:
            print(f"  {note}")
            log.info(note)
        return self.train.run()


def read_config(file: Path) -> dict[str, Any]:
    """A run's config.yaml. Raises Mistake if it is not there or not one of this version's."""
    if not file.is_file():
        raise Mistake(f"run: {file.parent} holds no config.yaml; name the folder of a run, outputs/NAME/TIME")
    try:
        kept = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Mistake(f"run: {file} is damaged: {one_line(error)}") from error
    for path, kind in TYPED.items():
        node = kept if not path else kept[path]
        missing = kind.__dataclass_fields__.keys() - (node.keys() if isinstance(node, dict) else set())
        if missing:
            key = f"{path}.{min(missing)}".lstrip(".")
            raise Mistake(f"run: {file} is damaged or of another version of ganexp: it has no {key}")
    return kept


def change(kept: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Put what the command line changes into the run's config; a line for each change. Raises Mistake for what cannot change."""
    said = []
    for override in as_typed(HydraConfig.get().overrides.task):
        key = override.partition("=")[0].lstrip("+")
        if key == "trainer.max_steps":
            old, new = kept["trainer"]["max_steps"], config["trainer"]["max_steps"]
            if new > old and old in kept["schedule"].values():
                name = kept["schedule"]["_target_"].rpartition(".")[2]
                raise Mistake(f"trainer.max_steps: {new}, but the schedule, {name}, was made for {old} steps and has ended there")
            kept["trainer"]["max_steps"] = new
            said.append(f"trainer.max_steps from {old} to {new}")
        elif key == "hardware":
            kept["hardware"] = config["hardware"]
            said.append(override)
        elif key.count(".") == 1 and key.startswith("hardware."):
            name = key.partition(".")[2]
            kept["hardware"][name] = config["hardware"][name]
            said.append(override)
        elif key not in ("task", "run", "trust"):
            raise Mistake(f"{key}: a run that resumes keeps it; only trainer.max_steps, hardware and hardware.KEY may change")
    return said


def newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The last whole checkpoint, its content, and a note for each that is damaged. Raises Mistake if there is none."""
    damaged: list[str] = []
    for file in [folder / "last.ckpt", *sorted(folder.glob("step-*.ckpt"), reverse=True)]:
        if not file.is_file():
            continue
        try:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no checkpoint, or cut off")
            content = torch.load(file, map_location="cpu", weights_only=True)
            if not {"global_step", "random", "state_dict"} <= content.keys():
                raise ValueError("it is not of this version of ganexp")
            return file, content, damaged
        except (pickle.UnpicklingError, RuntimeError, ValueError, OSError, EOFError, KeyError, AttributeError) as error:
            damaged.append(f"left aside {file.name}: {one_line(error)[:200]}")
    raise Mistake(f"run: there is no whole checkpoint in {folder}" + "".join(f"; {note}" for note in damaged))
