"""A trained model in Python: `ganexp.load("outputs/NAME/TIME").sample(16)`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganexp import sampling
from ganexp.cli.build import one_line
from ganexp.cli.messages import ConfigError
from ganexp.export import folder as exporting
from ganexp.export import hub
from ganexp.latents import Latent
from ganexp.runs import find_checkpoint
from ganexp.runtime.restoring import restore
from ganexp.systems.base import System


def load(run_or_checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu", trust: Sequence[str] = ()) -> Model:
    """The model of a run's folder (its best checkpoint if there is one, otherwise its last), of `latest` (the newest run below
    outputs/), or of the file of a checkpoint; or of a folder that task=export has written.

    Runs no code from the file: it may name ganexp's own classes and those below the module prefixes `trust`. Raises
    ganexp.ConfigError, an Exception of one line, if there is no such run or file, it is damaged, or the device is not there.
    """
    file = find_checkpoint(run_or_checkpoint)
    system, config, step = restore(file, trust)
    return Model(system, config, step, file).to(device)


def from_hub(
    repo: str,
    device: str | torch.device = "cpu",
    trust: Sequence[str] = (),
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Model:
    """The exported model USER/NAME of the Hugging Face Hub; see export.hub.download and load."""
    return load(hub.download(repo, revision, token, endpoint), device, trust)


class Model:
    """A trained system, in evaluation mode and with averaged weights if it has them.

    `config`: of the run that made it. `step`: how far it was trained. `checkpoint`: its file.
    """

    def __init__(self, system: System, config: dict[str, Any], step: int, checkpoint: Path):
        self.system, self.config, self.step, self.checkpoint = system.eval().requires_grad_(False), config, step, checkpoint

    def __repr__(self) -> str:
        return f"Model({self.checkpoint}, step {self.step}, shape {list(self.shape)}, classes {self.classes})"

    def to(self, device: str | torch.device) -> Model:
        """Moves this model itself. Raises ConfigError for a device that is not there."""
        try:
            self.system.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device: {device}: {one_line(error)}") from error
        return self

    @property
    def device(self) -> torch.device:
        return self.system.device

    @property
    def latent(self) -> Latent:
        """The prior over z: `latent.sample(n, device)` gives z [n, latent.dim]."""
        return self.system.latent

    @property
    def classes(self) -> int | None:
        """How many classes can be asked for; None for an unconditional model."""
        return self.system.classes

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        with torch.no_grad():
            return tuple(self.generate(torch.zeros(1, self.latent.dim), 0 if self.classes else None).shape[1:])

    def sample(self, n: int, label: int | None = None, seed: int | None = None, truncation: float = 1.0) -> Tensor:
        """n samples [n, *shape], images in [-1, 1], without gradient.

        `label`: the class of all of them; without it those of a conditional model come in turn. `seed`: the samples are those of
        task=sample with this seed, and the random state is left as it was; None samples from the random state. `truncation`:
        below 1, samples are nearer the mean of w, or of z where there is no w, and less diverse. Raises ValueError for a label
        that the model does not have.
        """
        if n < 1:
            raise ValueError(f"n: at least 1 sample, not {n}")
        self.check_label(label)
        return sampling.sample(self.system, n, label, seed, truncation)

    def generate(self, z: Tensor, y: Tensor | int | None = None, truncation: float = 1.0) -> Tensor:
        """x [N, *shape] of latents z [N, latent.dim], differentiable in z. `y`: the classes [N], or one for all, which a
        conditional model requires. Raises ValueError for a z or y that does not fit the model."""
        if z.ndim != 2 or z.shape[1] != self.latent.dim:
            raise ValueError(f"z: must be [N, {self.latent.dim}], not {list(z.shape)}")
        return self.system.generate(z.to(self.device), self.labels(len(z), y), truncation)

    def encode(self, x: Tensor, y: Tensor | int | None = None) -> Tensor:
        """The mean [N, latent.dim] of z given x [N, *shape]; `y` as in generate. Raises AttributeError without an encoder."""
        if not hasattr(self.system, "encoder"):
            raise AttributeError(f"encode: {type(self.system).__name__} has no encoder; a VAE has one (model=vae)")
        mean: Tensor = self.system.encode(x.to(self.device), self.labels(len(x), y))[0]  # type: ignore[operator]
        return mean

    def labels(self, n: int, y: Tensor | int | None) -> Tensor:
        """The labels [n] that the networks take: zeros for an unconditional model."""
        if self.classes is None and y is not None:
            raise ValueError("y: this model is unconditional and has no classes")
        if y is None and self.classes is not None:
            raise ValueError(f"y: this model is conditional: pass a class from 0 to {self.classes - 1}, or one for each sample")
        if isinstance(y, Tensor):
            if y.shape != (n,):
                raise ValueError(f"y: must be [{n}], one for each sample, not {list(y.shape)}")
            if n and not 0 <= int(y.min()) <= int(y.max()) < (self.classes or 0):
                raise ValueError(f"y: the classes of this model are 0 to {(self.classes or 0) - 1}")
            return y.to(self.device)
        self.check_label(y)
        return torch.full((n,), y or 0, device=self.device)

    def check_label(self, label: int | None) -> None:
        """Raises ValueError for a class that the model does not have."""
        if label is not None and self.classes is None:
            raise ValueError("label: this model is unconditional and has no classes")
        if label is not None and not 0 <= label < (self.classes or 0):
            raise ValueError(f"label: {label}, but the classes of this model are 0 to {(self.classes or 0) - 1}")

    def export(
        self,
        folder: str | os.PathLike[str],
        format: str = "safetensors",
        data_license: str | None = None,
        num: int = 64,
        seed: int = 0,
    ) -> Path:
        """Write a folder to give away, which `load` opens; see export.folder.export. Raises ValueError."""
        exporting.export(self, Path(folder), format, data_license, num, seed)
        return Path(folder)
