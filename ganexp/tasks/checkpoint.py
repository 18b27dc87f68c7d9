"""A checkpoint back into a system: the file alone is enough."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ganexp.build import OURS, build, one_line
from ganexp.data.module import DataModule
from ganexp.mistakes import Mistake
from ganexp.systems.base import System

Built = TypeVar("Built")


def restore(file: Path, trust: Sequence[str]) -> tuple[System, dict[str, Any], int]:
    """The system of a checkpoint, its run's config and its step. Runs no code from the file.

    `trust`: module prefixes that the config in it may name beside ganexp's own. Raises Mistake for a file that is not
    there, not a whole checkpoint of ours, or names anything else.
    """
    if not file.is_file():
        raise Mistake(f"checkpoint: there is no file {file}")
    try:
        content = read(file)
    except ValueError as error:
        raise Mistake(f"checkpoint: {file} {error}") from error
    config, step = content["config"], content["global_step"]
    try:
        if not isinstance(step, int) or not isinstance(config, dict):
            raise Mistake("its step or its config is something else")
        system = build_node(config, "model", System, trust)
        system.load_state_dict(content["state_dict"])
    except Mistake as mistake:
        raise Mistake(f"checkpoint: {file}: {mistake}") from mistake
    except (RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Mistake(f"checkpoint: {file} does not fit its own config: {one_line(error)[:300]}") from error
    return system.eval(), config, step


def read(file: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU. Raises ValueError, saying what is wrong with it: `is damaged, …`.

    torch.load compares no checksums and unpacks whatever it is given; the archive is therefore checked first.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                packed = entry.compress_type != zipfile.ZIP_STORED  # torch packs nothing: it may be a decompression bomb
                if packed or entry.external_attr or ".." in entry.filename or entry.filename.startswith("/"):
                    raise ValueError(f"is no checkpoint, or damaged: {entry.filename} in it is not as torch writes it")
            if damaged := archive.testzip():
                raise ValueError(f"is damaged: {damaged} in it does not fit its checksum")
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"is no checkpoint, or cut off: {one_line(error)}") from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("holds more than tensors and plain values, and may run code: refused") from error
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise ValueError(f"is damaged: {one_line(error)[:200]}") from error
    if not isinstance(content, dict) or not {"config", "state_dict", "global_step"} <= content.keys():
        raise ValueError("is not one of ganexp's: it holds no config")
    return content


def restore_data(config: dict[str, Any], trust: Sequence[str]) -> DataModule:
    """The data of a checkpoint's config, not loaded yet. Raises Mistake as `restore` does."""
    try:
        return build_node(config, "data", DataModule, trust)
    except Mistake as mistake:
        raise Mistake(f"checkpoint: its config: {mistake}") from mistake


def build_node(config: dict[str, Any], key: str, kind: type[Built], trust: Sequence[str]) -> Built:
    """The object of one node of a config that a file holds."""
    node = config.get(key)
    if not isinstance(node, dict) or "_target_" not in node:
        raise Mistake(f"{key}: no mapping with a _target_")
    built = build(node, key, [*OURS, *(prefix.rstrip(".") + "." for prefix in trust)])
    if not isinstance(built, kind):
        raise Mistake(f"{key}._target_: {node['_target_']} is no {kind.__name__}")
    return built
