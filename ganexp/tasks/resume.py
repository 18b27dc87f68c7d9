"""task=resume: go on with a run in its own folder, as if it had never stopped."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig

from ganexp.build import one_line
from ganexp.config import as_typed
from ganexp.mistakes import Mistake
from ganexp.tasks.checkpoint import restore
from ganexp.tasks.train import Train

log = logging.getLogger(__name__)


class Resume:
    """Train from the run's last checkpoint on, with the run's own config.yaml. On the same hardware the weights, logs and
    pictures are those of a run that never stopped.

    Only `trainer` and `hardware` may be changed on the command line; schedules keep the length they began with. A damaged
    checkpoint is left aside for the one before it. Raises Mistake for a folder that holds no run or no whole checkpoint, and for
    a run that is at its last step.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path):
        file = run_dir / "config.yaml"
        if not file.is_file():
            raise Mistake(f"run: {run_dir} holds no config.yaml; name the folder of a run, outputs/NAME/TIME")
        try:
            kept = yaml.safe_load(file.read_text(encoding="utf-8"))
            changes = changed(kept, config)
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise Mistake(f"run: {file} is damaged: {one_line(error)}") from error
        checkpoint, step, self.notes = newest(run_dir / "checkpoints", config["trust"])
        if step >= kept["trainer"]["max_steps"]:
            raise Mistake(f"run: {run_dir} is at its last step, {step}; to go on, add trainer.max_steps={2 * step}")
        self.notes += [f"changed: {change}" for change in changes]
        self.train = Train(kept, run_dir, checkpoint)
        self.notes.insert(0, f"resumed at step {step:,}")

    def run(self) -> int:
        """The exit code, see Train.run."""
        for note in self.notes:
            print(f"  {note}")
            log.info(note)
        return self.train.run()


def changed(kept: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Put what the command line says of `trainer` and `hardware` into the run's config; a line for each change."""
    said = []
    for override in as_typed(HydraConfig.get().overrides.task):
        key = override.partition("=")[0].lstrip("+~")
        if key == "hardware":
            kept["hardware"] = config["hardware"]
            said.append(override)
        elif key.startswith(("trainer.", "hardware.")):
            group, _, name = key.partition(".")
            old, kept[group][name] = kept[group].get(name), config[group][name]
            said.append(f"{key} from {old} to {kept[group][name]}")
    return said


def newest(folder: Path, trust: list[str]) -> tuple[Path, int, list[str]]:
    """The last whole checkpoint, its step, and a note for each that is damaged. Raises Mistake if there is none."""
    files = [folder / "last.ckpt", *sorted(folder.glob("step-*.ckpt"), reverse=True)]
    damaged: list[str] = []
    for file in [file for file in files if file.is_file()]:
        try:
            return file, restore(file, trust)[2], damaged
        except Mistake as mistake:
            damaged.append(f"left aside: {mistake}")
    raise Mistake(f"run: there is no whole checkpoint in {folder}" + "".join(f"; {note}" for note in damaged))
