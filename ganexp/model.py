"""A trained model in Python: `ganexp.load("outputs/NAME/TIME").sample(16)`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ganexp.latent_space as latent_space
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
    """Load a trained model from a run folder (best.ckpt if it exists, otherwise last.ckpt), from `latest` (the newest run below
    outputs/), from a checkpoint file, or from a folder that task=export has written.

    Runs no code from the file: it may name ganexp's own classes and those below the module prefixes `trust`. Raises
    ganexp.ConfigError, with a one-line message, if the run or file is missing or damaged, or the device is unavailable.
    """
    file = find_checkpoint(run_or_checkpoint)
    system, config, step = restore(file, trust)
    return Model(system, config, step, file, trust).to(device)


def from_hub(
    repo: str,
    device: str | torch.device = "cpu",
    trust: Sequence[str] = (),
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Model:
    """Load the exported model USER/NAME from the Hugging Face Hub; see export.hub.download and load."""
    return load(hub.download(repo, revision, token, endpoint), device, trust)


class Model:
    """A trained system in evaluation mode, with averaged weights if it has them.

    `config`: the config of its run. `step`: the step of the checkpoint. `checkpoint`: the file. `trust`: prefixes of the modules
    that it may name, see `load`.
    """

    def __init__(self, system: System, config: dict[str, Any], step: int, checkpoint: Path, trust: Sequence[str] = ()):
        self.system, self.config, self.step, self.checkpoint = system.eval().requires_grad_(False), config, step, checkpoint
        self.trust = tuple(trust)

    def __repr__(self) -> str:
        return f"Model({self.checkpoint}, step {self.step}, shape {list(self.shape)}, classes {self.classes})"

    def to(self, device: str | torch.device) -> Model:
        """Move the model in place. Raises ConfigError if the device is unavailable."""
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
        """The prior over z: `latent.sample(n, device)` returns z [n, latent.dim]."""
        return self.system.latent

    @property
    def classes(self) -> int | None:
        """Number of classes; None for an unconditional model."""
        return self.system.classes

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        with torch.no_grad():
            return tuple(self.generate(torch.zeros(1, self.latent.dim), 0 if self.classes else None).shape[1:])

    def sample(self, n: int, label: int | None = None, seed: int | None = None, truncation: float = 1.0) -> Tensor:
        """Returns n samples [n, *shape], images in [-1, 1], without gradient.

        `label`: the class of all samples; None cycles through the classes 0, 1, 2, … of a conditional model. `seed`: gives the
        samples of task=sample with this seed and restores the random state; None uses the global random state. `truncation`:
        below 1 moves samples towards the mean of w, or of z if there is no w: less diverse. Raises ValueError if the model does
        not have the label.
        """
        if n < 1:
            raise ValueError(f"n: must be at least 1, got {n}")
        self.check_label(label)
        return sampling.sample(self.system, n, label, seed, truncation)

    def generate(self, z: Tensor, y: Tensor | int | None = None, truncation: float = 1.0) -> Tensor:
        """Returns x [N, *shape] for latents z [N, latent.dim], differentiable in z. `y`: classes [N], one class for all, or
        floating-point weights of the classes [N, classes]; required by a conditional model. Raises ValueError if z or y does not
        fit the model."""
        if z.ndim != 2 or z.shape[1] != self.latent.dim:
            raise ValueError(f"z: must be [N, {self.latent.dim}], got {list(z.shape)}")
        return self.system.generate(z.to(self.device), self.labels(len(z), y), truncation)

    def encode(self, x: Tensor, y: Tensor | int | None = None) -> Tensor:
        """Returns the mean [N, latent.dim] of z given x [N, *shape]; `y` as in generate. Raises AttributeError without an
        encoder."""
        if not hasattr(self.system, "encoder"):
            raise AttributeError(f"encode: {type(self.system).__name__} has no encoder; a VAE has one (model=vae)")
        mean: Tensor = self.system.encode(x.to(self.device), self.labels(len(x), y))[0]  # type: ignore[operator]
        return mean

    # -- exploring: functions of ganexp.latent_space, whose first argument is the model --------------------------------

    interpolate = latent_space.interpolation.interpolate
    walk = latent_space.interpolation.walk
    truncate = latent_space.mixing.truncate
    style_mix = latent_space.mixing.style_mix
    neighbours = latent_space.neighbours.neighbours
    directions = latent_space.directions.directions
    along = latent_space.directions.along
    project = latent_space.projection.project
    attribute = latent_space.attributes.attribute
    spectrum = latent_space.spectrum.spectrum
    reconstruct = latent_space.reconstruction.reconstruct

    # -- checks -------------------------------------------------------------------------------------------------------

    def labels(self, n: int, y: Tensor | int | None) -> Tensor:
        """Returns the labels [n] that the networks take: zeros for an unconditional model."""
        if self.classes is None and y is not None:
            raise ValueError("y: this model is unconditional and has no classes")
        if y is None and self.classes is not None:
            raise ValueError(f"y: this model is conditional: pass a class from 0 to {self.classes - 1}, or one for each sample")
        if isinstance(y, Tensor) and y.is_floating_point() and y.shape == (n, self.classes):
            return y.to(self.device)
        if isinstance(y, Tensor):
            if y.shape != (n,):
                raise ValueError(f"y: must be [{n}], one for each sample, got {list(y.shape)}")
            if n and not 0 <= int(y.min()) <= int(y.max()) < (self.classes or 0):
                raise ValueError(f"y: must be from 0 to {(self.classes or 0) - 1} for this model")
            return y.to(self.device)
        self.check_label(y)
        return torch.full((n,), y or 0, device=self.device)

    def check_label(self, label: int | None) -> None:
        """Raises ValueError if the model does not have this class."""
        if label is not None and self.classes is None:
            raise ValueError("label: this model is unconditional and has no classes")
        if label is not None and not 0 <= label < (self.classes or 0):
            raise ValueError(f"label: must be from 0 to {(self.classes or 0) - 1} for this model, got {label}")

    # -- exporting ----------------------------------------------------------------------------------------------------

    def export(
        self,
        folder: str | os.PathLike[str],
        format: str = "safetensors",
        data_license: str | None = None,
        num: int = 64,
        seed: int = 0,
    ) -> Path:
        """Write the model to a folder that `load` opens, on any machine; see export.folder.export. Raises ValueError."""
        exporting.export(self, Path(folder), format, data_license, num, seed)
        return Path(folder)
