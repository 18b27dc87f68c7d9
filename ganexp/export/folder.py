"""The folder to give away: model.safetensors, config.yaml, README.md, a picture of samples, and programs where asked for."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

import torch
import yaml
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from ganexp import pictures, sampling
from ganexp.cli.build import one_line
from ganexp.cli.messages import ConfigError
from ganexp.export import card, programs
from ganexp.files import check_writable, finite, replace, staged
from ganexp.records import read_record
from ganexp.runs import CONFIG, WEIGHTS
from ganexp.runtime import exported
from ganexp.runtime.console import count
from ganexp.runtime.restoring import restore, restore_data
from ganexp.systems.base import System
from ganexp.systems.encoding import Encoding

log = logging.getLogger(__name__)
FORMATS = ("safetensors", *programs.FILES)
CARD, PICTURE = "README.md", "samples.png"


class Trained(Protocol):
    """What is exported: a ganexp.Model."""

    @property
    def system(self) -> System: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def step(self) -> int: ...
    @property
    def checkpoint(self) -> Path: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def trust(self) -> Sequence[str]: ...


def check_format(format: str) -> None:
    """Raises ValueError for a format that there is not, and for one whose packages are not installed."""
    if format not in FORMATS:
        raise ValueError(f"format: must be one of {', '.join(FORMATS)}, got {format}")
    programs.check_installed(format)


def check_empty(folder: Path) -> None:
    """Raises ValueError for a folder that holds something, or is the current one, and OSError if it cannot be made."""
    if folder.resolve() == Path.cwd():
        raise ValueError("folder: is the current folder; choose a new one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder: {folder} is not empty; choose a new folder")
    check_writable(folder.resolve().parent)


def export(
    model: Trained, folder: Path, format: str = "safetensors", data_license: str | None = None, num: int = 64, seed: int = 0
) -> list[str]:
    """Write the folder, whole or not at all; the names of its files. What is written is read again, to give the same samples.

    `format`: `onnx` and `torch` add a program to the weights. `num`: samples of `seed` in the picture. Raises ValueError for a
    format or folder that cannot be, a network that the format cannot take, samples that are not finite, and a system whose
    samples are not those of its generator alone.
    """
    check_format(format)
    check_empty(folder)
    facts = facts_of(model, data_license)
    with staged(folder.resolve()) as part:
        write_weights(model, facts, part / WEIGHTS)
        text = yaml.dump(without_paths(model.config), Dumper=Plain, sort_keys=False, allow_unicode=True)
        replace(part / CONFIG, lambda file: file.write(text.encode()))
        check_same(model, part / WEIGHTS)
        if format in programs.FILES:
            content = programs.program(model.system, format)
            replace(part / programs.FILES[format], lambda file: file.write(content))
        picture = picture_of(model, num, seed)
        if picture is not None:
            pictures.save(picture, part / PICTURE)
        made = [programs.FILES[format]] if format in programs.FILES else []
        readme = card.card(facts, PICTURE if picture is not None else None, made)
        replace(part / CARD, lambda file: file.write(readme.encode(errors="replace")))
    return sorted(os.listdir(folder))


class Plain(yaml.SafeDumper):
    """YAML without aliases, for whoever reads it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# -- weights ---------------------------------------------------------------------------------------------------------


def write_weights(model: Trained, facts: card.Facts, file: Path) -> None:
    state = weights_of(model.system)
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    kept = {key: getattr(facts, key) for key in ("system", "images_seen", "data_fingerprint", "metrics", "run", "data_license")}
    about = {"format": exported.FORMAT, "step": model.step, "facts": finite(kept)}
    content = save(tensors, {"ganexp": json.dumps(about, default=str)})  # one entry: safetensors keeps no order of several
    replace(file, lambda opened: opened.write(content))


def weights_of(system: System) -> dict[str, Tensor]:
    """The state of the Sampler or EncodingSampler that samples as this system does."""
    state = {f"generator.{name}": value for name, value in system.sampler.state_dict().items()}
    if isinstance(system, Encoding):
        state |= {f"encoder.{name}": value for name, value in system.encoder.state_dict().items()}
    return state | {"label_counts": system.label_counts}


def check_same(model: Trained, file: Path) -> None:
    """Raises ValueError unless the file alone gives the samples of the model, bit for bit."""
    try:
        again, _, _ = restore(file, sorted(modules_of(model.config.get("model"))))
    except ConfigError as error:
        raise ValueError(f"this model cannot be exported: {one_line(error)}") from error
    again.to(model.system.device)
    samples = [sampling.sample(system.eval(), 4, seed=0) for system in (model.system, again)]
    if not samples[0].isfinite().all():
        raise ValueError(f"the weights of step {model.step} give NaN or infinite samples: the training diverged")
    if not torch.equal(*samples):
        raise ValueError(
            f"{type(model.system).__name__} does not sample by its generator and latent alone; it cannot be exported"
        )
    if isinstance(model.system, Encoding) and isinstance(again, Encoding):
        y = torch.zeros(4, dtype=torch.int64, device=model.system.device)
        with torch.no_grad():
            codes = [system.encode(samples[0], y)[0] for system in (model.system, again)]
        if not torch.equal(*codes):
            raise ValueError(f"{type(model.system).__name__} does not encode by its encoder alone; it cannot be exported")


def modules_of(node: Any) -> set[str]:
    """The packages of the classes that a config names, other than ganexp's and torch's: the model runs, so they are trusted."""
    if isinstance(node, list):
        return set().union(*map(modules_of, node))
    if not isinstance(node, Mapping):
        return set()
    own = {str(node["_target_"]).partition(".")[0]} if "_target_" in node else set()
    return own.union(*map(modules_of, node.values())) - {"ganexp", "torch"}


# -- what the card says ----------------------------------------------------------------------------------------------


def facts_of(model: Trained, data_license: str | None) -> card.Facts:
    """From the checkpoint, and from the run.json of its run where that is still around it."""
    if model.checkpoint.suffix == ".safetensors":  # exported before
        known = exported.read(model.checkpoint)["facts"]
    else:
        known = of_checkpoint(model.checkpoint) | {"run": public(read_record(model.checkpoint.parent.parent))}
    return card.Facts(
        config=without_paths(model.config),
        step=model.step,
        system=str(known.get("system", type(model.system).__name__)),
        shape=model.shape,
        classes=model.system.classes,
        parameters=count(model.system.sampler),
        latent_dim=model.system.latent.dim,
        images_seen=known.get("images_seen"),
        data_fingerprint=known.get("data_fingerprint"),
        metrics=card.mapping(known.get("metrics")),
        run=card.mapping(known.get("run")),
        data_license=data_license or known.get("data_license"),
    )


def of_checkpoint(file: Path) -> dict[str, Any]:
    """Facts about the weights of this very step. The tensors are mapped, not read."""
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    states = content.get("callbacks", {}).values()
    history: list[Any] = next((state["history"] for state in states if isinstance(state, dict) and "history" in state), [])
    measured = {int(step): values for step, values in history}
    return {
        "images_seen": content.get("images_seen"),
        "data_fingerprint": content.get("data"),
        "metrics": measured.get(content["global_step"], {}),
    }


def public(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of run.json what a stranger may know: no command line, notes or names of files."""
    keys = ("started", "hardware", "versions", "git_commit", "seconds", "steps", "images_per_second", "protocols")
    found = {key: record[key] for key in keys if key in record}
    return found | {"data": {"samples": card.mapping(record.get("data")).get("samples")}}


def without_paths(value: Any) -> Any:
    """A config with the names of files and folders in place of their paths, which are nobody else's business."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or PureWindowsPath(value).is_absolute()):
        return (PureWindowsPath(value) if "\\" in value else PurePosixPath(value)).name
    return value


def picture_of(model: Trained, num: int, seed: int) -> Image.Image | None:
    """A grid of images; a scatter of points of two coordinates, over the real ones where they can be had."""
    shape, classes = model.shape, model.system.classes
    if len(shape) == 3:
        samples = sampling.sample(model.system, num, seed=seed)
        return pictures.grid(samples, pictures.columns_for(num, classes))
    if shape != (2,):
        return None
    samples = sampling.sample(model.system, 2000, seed=seed)
    return pictures.scatter(samples, real_points(model, samples), f"step {model.step:,}")


def real_points(model: Trained, samples: Tensor) -> Tensor:
    try:
        data = restore_data(model.config, model.trust)
        data.prepare()
        return data.real(2000)
    except Exception as error:  # a data set of the user's own may raise anything, and may be gone
        log.warning("the picture of samples has no real points: %s", one_line(error))
        return samples


def files_of(folder: Path) -> Iterator[tuple[str, int]]:
    """Names and bytes of what there is to give away."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            yield file.name, file.stat().st_size
