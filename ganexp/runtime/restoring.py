"""A checkpoint back into a system: the file alone is enough."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ganexp.callbacks.state import FORMAT
from ganexp.cli.build import OURS, build, one_line
from ganexp.cli.messages import ConfigError
from ganexp.data.module import DataModule
from ganexp.runtime import exported
from ganexp.systems.base import System

Built = TypeVar("Built")


def restore(file: Path, trust: Sequence[str]) -> tuple[System, dict[str, Any], int]:
    """The system of a checkpoint, its run's config and its step. Runs no code from the file.

    `trust`: module prefixes that the config in it may name beside ganexp's own. Raises ConfigError for a file that is not
    there, not a whole checkpoint of ours, or names anything else.
    """
    if not file.is_file():
        raise ConfigError(f"run: there is no file {file}")
    try:
        content = read(file)
    except ValueError as error:
        raise ConfigError(f"run: {file} {error}") from error
    config, step = content["config"], content["global_step"]
    try:
        if not isinstance(step, int) or not isinstance(config, dict):
            raise ConfigError("its step is not a number or its config is not a mapping")
        if file.suffix == ".safetensors":
            system: System = exported.build_sampler(config, content["state_dict"], trust)
        else:
            system = build_node(config, "model", System, trust)
        system.load_state_dict(content["state_dict"])
    except ConfigError as mistake:
        raise ConfigError(f"run: {file}: {mistake}") from mistake
    except (RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"run: {file} does not fit its own config: {one_line(error)[:300]}") from error
    return system.eval(), config, step


def transfer(system: System, file: Path) -> list[str]:
    """Give the networks of `system` the weights of a checkpoint, wherever names and shapes are the same (transfer learning); the
    average starts from the checkpoint's. Optimizers, steps and random states stay new. Returns notes of what was taken and what
    was not. Raises ConfigError as `restore` does, and where a network has nothing in common with the checkpoint's.
    """
    try:
        theirs = read(file)["state_dict"]
    except ValueError as error:
        raise ConfigError(f"start_from: {file} {error}") from error
    prefixes = {name: [f"{name}."] for name in system.networks()}
    if system.ema is not None:
        prefixes["ema.average"] = ["ema.average.", "generator."]  # of a checkpoint without an average, its generator
    notes = []
    for name, sources in prefixes.items():
        network = system.get_submodule(name)
        source = next((s for s in sources if any(key.startswith(s) for key in theirs)), sources[0])
        ours = network.state_dict()
        same = {k: theirs[source + k] for k, v in ours.items() if source + k in theirs and theirs[source + k].shape == v.shape}
        if not same:
            raise ConfigError(f"start_from: {file} has no weights that fit this model's {name}")
        network.load_state_dict(same, strict=False)
        new = [key for key in ours if key not in same]
        rest = f", but for {len(new)} of {len(ours)} tensors, which are new: {new[0]} …" if new else ""
        notes.append(f"start_from: {name} has the weights of {file}{rest}")
    return notes


def read(file: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU. Raises ValueError, saying what is wrong with it: `is damaged, …`; OtherFormat for one
    of another version.

    torch.load compares no checksums and unpacks whatever it is given; the archive is therefore checked first.
    """
    if file.suffix == ".safetensors":
        return exported.read(file)
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                packed = entry.compress_type != zipfile.ZIP_STORED  # torch packs nothing: it may be a decompression bomb
                if packed or entry.external_attr or ".." in entry.filename or entry.filename.startswith("/"):
                    raise ValueError(f"is not a checkpoint, or is damaged: {entry.filename} in it is not as torch writes it")
            if damaged := archive.testzip():
                raise ValueError(f"is damaged: {damaged} in it does not match its checksum")
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"is not a checkpoint, or is truncated: {one_line(error)}") from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("contains more than tensors and plain values and could run code: refused") from error
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise ValueError(f"is damaged: {one_line(error)[:200]}") from error
    if not isinstance(content, dict) or not {"config", "state_dict", "global_step"} <= content.keys():
        raise ValueError("is not one of ganexp's: it contains no config")
    check_format(content.get("format"))
    return content


def step_of(checkpoint: Path) -> int:
    """How far a checkpoint was trained."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]


class OtherFormat(ValueError):
    """A whole checkpoint that another version of ganexp has written."""


def check_format(number: object) -> None:
    if number is None or (isinstance(number, int) and number < FORMAT):
        raise OtherFormat(
            f"has an older format ({'without a number' if number is None else number}) than this version of ganexp reads "
            f"({FORMAT}): use the version that wrote it, or train again"
        )
    if number != FORMAT:
        raise OtherFormat(f"has a newer format ({number}) than this version of ganexp reads ({FORMAT}): update ganexp")


def restore_data(config: dict[str, Any], trust: Sequence[str]) -> DataModule:
    """The data of a checkpoint's config, not loaded yet. Raises ConfigError as `restore` does."""
    try:
        return build_node(config, "data", DataModule, trust)
    except ConfigError as mistake:
        raise ConfigError(f"run: the checkpoint's config: {mistake}") from mistake


def build_node(config: dict[str, Any], key: str, kind: type[Built], trust: Sequence[str]) -> Built:
    """The object of one node of a config that a file holds."""
    node = config.get(key)
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{key}: must be a mapping with a _target_")
    built = build(node, key, [*OURS, *(prefix.rstrip(".") + "." for prefix in trust)])
    if not isinstance(built, kind):
        raise ConfigError(f"{key}._target_: {node['_target_']} is not a {kind.__name__}")
    return built
