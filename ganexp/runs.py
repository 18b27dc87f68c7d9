"""Resolve run=…: a run folder, `latest`, or a checkpoint file; and what a run is optimized by."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from ganexp.cli.messages import ConfigError
from ganexp.records import read_record

ROOT = Path("outputs")  # searched for `latest`
LATEST = "latest"
WEIGHTS, CONFIG = "model.safetensors", "config.yaml"  # of an exported model


def find_checkpoint(run: str | os.PathLike[str], key: str = "run") -> Path:
    """Returns the checkpoint of a run folder, best.ckpt if it exists, otherwise last.ckpt; for `latest`, that of the newest run
    with one; for an exported folder, its model.safetensors; for a file, the file. `key`: the config key, for messages. Raises
    ConfigError if there is none."""
    if str(run) == LATEST:
        for folder in newest_first(ROOT):
            if (file := checkpoint_in(folder)) is not None:
                return file
        raise ConfigError(
            f"{key}: there is no run with a checkpoint below {ROOT}/; train one first, or pass a folder: {key}=FOLDER"
        )
    path = Path(run).expanduser()
    if os.path.isdir(path):
        if (file := checkpoint_in(path)) is not None:
            return file
        if (path / WEIGHTS).is_file():
            return path / WEIGHTS
        raise ConfigError(
            f"{key}: {path} has no checkpoint, neither checkpoints/best.ckpt nor checkpoints/last.ckpt, and no {WEIGHTS}"
        )
    if not os.path.isfile(path):
        raise ConfigError(f"{key}: there is no file or folder {path}")
    return path


def find_run(run: str) -> Path:
    """Returns the folder of a run to continue; for `latest`, the newest. Raises ConfigError if there is none."""
    if run == LATEST:
        for folder in newest_first(ROOT):
            if (folder / "config.yaml").is_file() and trains(folder):
                return folder
        raise ConfigError(f"run: there is no run below {ROOT}/; pass its folder: run=FOLDER")
    path = Path(run).expanduser()
    if os.path.isfile(path):
        raise ConfigError(f"run: {path} is a file; a run continues in its folder: run=outputs/NAME/TIME")
    if not os.path.isdir(path):
        raise ConfigError(f"run: there is no folder {path}")
    return path


def checkpoint_in(folder: Path) -> Path | None:
    files = [folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    return next((file for file in files if file.is_file()), None)


def newest_first(root: Path) -> list[Path]:
    """Returns the run folders below `root`, jobs of sweeps included, newest first. A run has a config.yaml or checkpoints."""
    found = []
    for folder, subfolders, files in os.walk(root):
        if WEIGHTS in files:  # exported, not trained
            subfolders.clear()
        elif "config.yaml" in files or "checkpoints" in subfolders:
            found.append(Path(folder))
            subfolders.clear()
        elif ".hydra" in subfolders:
            subfolders.remove(".hydra")
    return sorted(found, key=started, reverse=True)


def started(folder: Path) -> float:
    """Returns the start time of a run in seconds, from run.json, or from Hydra's first file while there is no run.json."""
    try:
        return datetime.fromisoformat(read_record(folder)["started"]).timestamp()
    except (KeyError, TypeError, ValueError, OSError):
        first = folder / ".hydra" / "overrides.yaml"
        return (first if first.is_file() else folder).stat().st_mtime


def trains(folder: Path) -> bool:
    """Whether the folder belongs to task=train, according to Hydra's overrides.yaml; True without that file."""
    record = folder / ".hydra" / "overrides.yaml"
    return not record.is_file() or not re.search(r"^- '?task=(?!train\b)", record.read_text(errors="replace"), re.M)


def objective_of(record: dict[str, Any]) -> float | None:
    """Returns from a run.json the last value of the metric that picks best.ckpt; None if there is none, or the run has not
    finished."""
    name = (record.get("best") or {}).get("metric")
    value = record.get("metrics", {}).get(name, {}).get("last")
    return float(value) if value is not None and record.get("status") == "finished" else None
