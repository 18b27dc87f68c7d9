"""Which run is meant by run=…: a run's folder, `latest`, or the file of a checkpoint."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path

from ganexp.cli.messages import ConfigError
from ganexp.files import read_json

ROOT = Path("outputs")  # where `latest` is looked for
LATEST = "latest"
WEIGHTS, CONFIG = "model.safetensors", "config.yaml"  # of an exported model


def find_checkpoint(run: str | os.PathLike[str], key: str = "run") -> Path:
    """The checkpoint of a run's folder, best.ckpt or else last.ckpt; of the newest run that has one for `latest`; or the file
    itself; of an exported folder, its model.safetensors. `key`: for messages. Raises ConfigError if there is none."""
    if str(run) == LATEST:
        for folder in newest_first(ROOT):
            if (file := checkpoint_in(folder)) is not None:
                return file
        raise ConfigError(
            f"{key}: there is no run with a checkpoint below {ROOT}/; train one first, or name a folder: {key}=FOLDER"
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
    """The folder of a run to continue; the newest one for `latest`. Raises ConfigError if there is none."""
    if run == LATEST:
        for folder in newest_first(ROOT):
            if (folder / "config.yaml").is_file() and trains(folder):
                return folder
        raise ConfigError(f"run: there is no run below {ROOT}/; name its folder: run=FOLDER")
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
    """The folders below `root` that hold a run's config or checkpoints, sweeps' jobs included, by when they started."""
    found = []
    for folder, below, files in os.walk(root):
        if WEIGHTS in files:  # exported, not trained
            below.clear()
        elif "config.yaml" in files or "checkpoints" in below:
            found.append(Path(folder))
            below.clear()
        elif ".hydra" in below:
            below.remove(".hydra")
    return sorted(found, key=started, reverse=True)


def started(folder: Path) -> float:
    """When a run started, in seconds: by its run.json, or before there is one by the files that Hydra writes first."""
    try:
        return datetime.fromisoformat(read_json(folder / "run.json")["started"]).timestamp()
    except (KeyError, TypeError, ValueError, OSError):
        first = folder / ".hydra" / "overrides.yaml"
        return (first if first.is_file() else folder).stat().st_mtime


def trains(folder: Path) -> bool:
    """Whether the folder was made by task=train, as far as Hydra's record tells."""
    record = folder / ".hydra" / "overrides.yaml"
    return not record.is_file() or not re.search(r"^- '?task=(?!train\b)", record.read_text(errors="replace"), re.M)
