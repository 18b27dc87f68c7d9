"""The folder in which a task works."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from ganexp.cli.messages import ConfigError
from ganexp.cli.overrides import as_typed
from ganexp.runs import find_run
from ganexp.runtime.lock import LOCK_FILES

EARLY = {".hydra", "log.txt", "error.txt", "run.json", ".config.yaml.part"}  # files of a run folder before its config.yaml


def in_run_folder(cfg: DictConfig) -> bool:
    """Whether the task works in the folder of run=…"""
    return bool(cfg.task.get("in_run_folder"))


def leaves_nothing(cfg: DictConfig) -> bool:
    """Whether the task works in a temporary folder."""
    return bool(cfg.task.get("leaves_nothing"))


def starts_runs(cfg: DictConfig) -> bool:
    """Whether the task starts runs."""
    return bool(cfg.task.get("starts_runs"))


def under_torchrun() -> bool:
    return "LOCAL_WORLD_SIZE" in os.environ


def is_set(cfg: DictConfig, mode: str) -> bool:
    """Whether the command line sets the folder of a `run` or a `sweep`."""
    return any(override.startswith(f"hydra.{mode}.dir=") for override in as_typed(cfg.hydra.overrides.hydra))


def choose_folder(cfg: DictConfig, temporary: Path | None = None) -> Path:
    """Returns the absolute run folder, and sets it in Hydra's part of the config, for interpolations.

    The folder is new, except for a task that works in the folder of run=…. Raises ConfigError if that does not exist.
    `temporary`: the folder of a task that leaves nothing.
    """
    if in_run_folder(cfg):
        if is_set(cfg, "run"):
            raise ConfigError("hydra.run.dir: cannot be set: this task works in the folder of run=…")
        folder = find_run(cfg.run).resolve()
        check_name(folder, "run")
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"run: the folder {folder} is not writable")
    else:
        folder = temporary or free_folder(cfg, "run")
    if under_torchrun():
        from ganexp.runtime.processes import broadcast_text

        folder = temporary or Path(broadcast_text(str(folder)))
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.run.dir = str(folder)
        cfg.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(cfg)
    return folder


def destination(cfg: DictConfig) -> Path:
    """Returns the folder that a run of this command line would have, for a task that leaves nothing. Raises ConfigError if that
    folder cannot be used."""
    folder = Path(str(cfg.hydra.run.dir)).resolve()
    continues = cfg.get("resume") and is_set(cfg, "run") and (folder / "config.yaml").is_file()
    return folder if continues else free_folder(cfg, "run")


def free_folder(cfg: DictConfig, mode: str) -> Path:
    """Returns the folder of a `run` or a `sweep`, with a number appended if it exists. Raises ConfigError if the command line
    sets one that is not empty, see check_empty, or one with ${ in its path."""
    default = Path(str(cfg.hydra[mode].dir)).resolve()
    check_name(default, f"hydra.{mode}.dir")
    if is_set(cfg, mode):
        check_empty(default, cfg, mode)
        return default
    folder, n = default, 1
    while folder.exists():
        n += 1
        folder = default.with_name(f"{default.name}_{n}")
    return folder


def check_name(folder: Path, key: str) -> None:
    """Raises ConfigError for a folder that Hydra could not write into."""
    if "${" in str(folder):
        raise ConfigError(f"{key}: {folder}: the folder of a run cannot have ${{ in its path, which starts an interpolation")


def check_empty(folder: Path, cfg: DictConfig, mode: str) -> None:
    """Raises ConfigError if the folder of a `run` or a `sweep` cannot be created, or contains anything but a lock. With
    resume=auto it may also contain the files of a start that was killed before it wrote its config."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"hydra.{mode}.dir: {there} is a file, not a folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"hydra.{mode}.dir: the folder {there} is not writable")
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found - LOCK_FILES - (EARLY if cfg.get("resume") else set()):
        raise ConfigError(f"hydra.{mode}.dir: {folder} is not empty; every {mode} needs a new folder")
