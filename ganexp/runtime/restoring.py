"""Restore a system from a checkpoint file alone."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ganexp.callbacks.state import FORMAT
from ganexp.cli.build import OWN_CLASSES, build, one_line
from ganexp.cli.messages import ConfigError
from ganexp.data.module import DataModule
from ganexp.runtime import exported
from ganexp.systems.base import System

MOST_ENTRIES = 50_000  # tensors of a checkpoint; reading 200,000 takes a minute
Built = TypeVar("Built")


def restore(file: Path, trust: Sequence[str]) -> tuple[System, dict[str, Any], int]:
    """Returns the system of a checkpoint, its run's config and its step. Runs no code from the file.

    `trust`: module prefixes that its config may name besides ganexp's own. Raises ConfigError if the file is missing, damaged or
    not a checkpoint of ganexp, names other classes, or is one of a training that diverged.
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
            raise ConfigError("the step is not a number or the config is not a mapping")
        if file.suffix == ".safetensors":
            system: System = exported.build_sampler(config, content["state_dict"], trust)
        else:
            system = build_node(config, "model", System, trust)
        system.load_state_dict(content["state_dict"])
    except ConfigError as mistake:
        raise ConfigError(f"run: {file}: {mistake}") from mistake
    except (RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"run: the weights in {file} do not fit its config: {one_line(error)[:300]}") from error
    if bad := [name for name, x in system.sampler.state_dict().items() if not x.isfinite().all()]:
        raise ConfigError(
            f"run: {file}, of step {step:,}: the training diverged: the generator's {bad[0]} has NaN or infinite values; choose "
            "an earlier checkpoint"
        )
    return system.eval(), config, step


def transfer(system: System, file: Path) -> list[str]:
    """Load the weights of a checkpoint into the networks of `system` wherever names and shapes agree (transfer learning); the
    average starts from the checkpoint's. Optimizers, steps and random states are not loaded. Returns notes on what was loaded.
    Raises ConfigError for a damaged file, and if no weights of a network agree.
    """
    try:
        weights = read(file)["state_dict"]
    except ValueError as error:
        raise ConfigError(f"start_from: {file} {error}") from error
    prefixes = {name: [f"{name}."] for name in system.networks()}
    if system.ema is not None:
        prefixes["ema.average"] = ["ema.average.", "generator."]  # the generator, if the checkpoint has no average
    notes = []
    for name, sources in prefixes.items():
        network = system.get_submodule(name)
        source = next((s for s in sources if any(key.startswith(s) for key in weights)), sources[0])
        own = network.state_dict()
        matching = {
            k: weights[source + k] for k, v in own.items() if source + k in weights and weights[source + k].shape == v.shape
        }
        if not matching:
            raise ConfigError(f"start_from: {file} has no weights that fit this model's {name}")
        network.load_state_dict(matching, strict=False)
        new = [key for key in own if key not in matching]
        rest = f", except for {len(new)} of {len(own)} tensors: {new[0]} …" if new else ""
        notes.append(f"start_from: {name} has the weights of {file}{rest}")
    return notes


def read(file: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU. Raises ValueError with the end of a sentence about the file, `is damaged: …`; OtherFormat if
    it is from another version.

    torch.load neither verifies checksums nor limits decompression, so the archive is checked first.
    """
    if file.suffix == ".safetensors":
        return exported.read(file)
    try:
        with zipfile.ZipFile(file) as archive:
            if (entries := len(archive.infolist())) > MOST_ENTRIES:
                raise ValueError(f"has {entries:,} entries, more than {MOST_ENTRIES:,}")
            for entry in archive.infolist():
                packed = entry.compress_type != zipfile.ZIP_STORED  # torch never compresses: it may be a decompression bomb
                if packed or entry.external_attr or ".." in entry.filename or entry.filename.startswith("/"):
                    raise ValueError(f"is not a checkpoint, or is damaged: torch does not write entries like {entry.filename}")
            if damaged := archive.testzip():
                raise ValueError(f"is damaged: its entry {damaged} does not match its checksum")
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"is not a checkpoint, or is truncated: {one_line(error)}") from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("contains more than tensors and plain values and could run code: it is not loaded") from error
    except Exception as error:  # torch may raise anything for damaged bytes
        raise ValueError(f"is damaged: {one_line(error)[:200]}") from error
    if not isinstance(content, dict) or not {"config", "state_dict", "global_step"} <= content.keys():
        raise ValueError("is not a checkpoint of ganexp: it contains no config")
    check_format(content.get("format"))
    return content


def step_of(checkpoint: Path) -> int:
    """Returns the step of a checkpoint."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]


class OtherFormat(ValueError):
    """An undamaged checkpoint from another version of ganexp."""


def check_format(number: object) -> None:
    if number is None or (isinstance(number, int) and number < FORMAT):
        raise OtherFormat(
            f"has an older format ({'without a number' if number is None else number}) than this version of ganexp reads "
            f"({FORMAT}): use the version that wrote it, or train again"
        )
    if number != FORMAT:
        raise OtherFormat(f"has a newer format ({number}) than this version of ganexp reads ({FORMAT}): update ganexp")


def restore_data(config: dict[str, Any], trust: Sequence[str]) -> DataModule:
    """Returns the DataModule of a checkpoint's config, not loaded yet. Raises ConfigError as `restore` does."""
    try:
        data = build_node(config, "data", DataModule, trust)
    except ConfigError as mistake:
        raise ConfigError(f"run: the checkpoint's config: {mistake}") from mistake
    data.may_download = False
    return data


def build_node(config: dict[str, Any], key: str, kind: type[Built], trust: Sequence[str]) -> Built:
    """Build one node of a config from a file."""
    node = config.get(key)
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{key}: must be a mapping with a _target_")
    built = build(node, key, [*OWN_CLASSES, *(prefix.rstrip(".") + "." for prefix in trust)])
    if not isinstance(built, kind):
        raise ConfigError(f"{key}._target_: {node['_target_']} is not a {kind.__name__}")
    return built
