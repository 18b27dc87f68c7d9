"""Points of a model's latent space, and the samples that they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ganexp.latents import Latent
from ganexp.sampling import CHUNK
from ganexp.systems.base import System
from ganexp.systems.contexts import evaluating, seeded

Space = Literal["z", "w"]
MOST = 10_000  # samples that one call may ask for


class TrainedModel(Protocol):
    """What the functions of this package use of a ganexp.Model."""

    system: System
    config: dict[str, Any]
    step: int
    checkpoint: Path

    @property
    def latent(self) -> Latent: ...
    @property
    def classes(self) -> int | None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def device(self) -> torch.device: ...
    def encode(self, x: Tensor, y: Tensor | int | None = None) -> Tensor: ...
    def check_label(self, label: int | None) -> None: ...


class Codes(NamedTuple):
    """N points: `x` is z [N, dim], or w [N, layers, w_dim]; `y` their labels [N] or weights of the classes [N, classes]."""

    x: Tensor
    y: Tensor
    space: Space


def has_w(model: TrainedModel) -> bool:
    """Whether the generator maps z to a second latent space (StyleGAN)."""
    return hasattr(model.system.sampler, "synthesize")


def chosen_space(model: TrainedModel, space: Space | None) -> Space:
    """w where there is one, otherwise z, unless one is asked for. Raises ValueError for a w that is not there."""
    if space not in (None, "z", "w"):
        raise ValueError(f"space: must be z or w, got {space}")
    if space == "w" and not has_w(model):
        raise ValueError("space: this generator has no w, only z; w is StyleGAN's (model=stylegan2)")
    return space or ("w" if has_w(model) else "z")


def labels_in_turn(model: TrainedModel, n: int, labels: Sequence[int] | None) -> Tensor:
    """Labels [n]: the given ones in turn, without any all classes in turn; zeros for an unconditional model.

    Raises ValueError for a class that the model does not have, and for no label at all.
    """
    if labels is not None and model.classes is None:
        raise ValueError("labels: this model is unconditional and has no classes")
    if labels is not None and not labels:
        raise ValueError("labels: must hold at least one class; null is all of them in turn")
    for label in labels or ():
        if not 0 <= label < (model.classes or 0):
            raise ValueError(f"labels: must be from 0 to {(model.classes or 0) - 1} for this model, got {label}")
    turn = list(labels) if labels is not None else list(range(model.classes or 1))
    return torch.tensor([turn[i % len(turn)] for i in range(n)], device=model.device)


def latents(model: TrainedModel, seeds: Sequence[int]) -> Tensor:
    """z [N, dim], one for each seed: that of `model.sample(1, seed=SEED)`."""
    z = []
    for seed in seeds:
        with seeded(seed, model.device):
            z.append(model.latent.sample(1, model.device))
    return torch.cat(z)


def to_space(model: TrainedModel, z: Tensor, y: Tensor, space: Space, truncation: float = 1.0) -> Codes:
    """The codes of z [N, dim], y [N] in a space; `truncation` as in Model.generate."""
    if space == "z":
        return Codes(z * truncation, y, space)
    generator: Any = model.system.sampler
    with evaluating(generator):
        w = generator.map(z, y)
    return Codes(w if truncation == 1 else generator.w_mean.lerp(w, truncation), y, space)


@torch.no_grad()
def from_seeds(
    model: TrainedModel,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    space: Space | None = None,
    truncation: float = 1.0,
) -> Codes:
    """A code for each seed, whose labels follow one another as in `labels_in_turn`."""
    check_seeds(seeds)
    check_number("truncation", truncation, -10, 10)
    y = labels_in_turn(model, len(seeds), labels)
    return to_space(model, latents(model, seeds), y, chosen_space(model, space), truncation)


@torch.no_grad()
def from_prior(model: TrainedModel, n: int, seed: int, labels: Sequence[int] | None = None, space: Space | None = None) -> Codes:
    """n codes from the prior; a function of the seed alone."""
    y = labels_in_turn(model, n, labels)
    with seeded(seed, model.device):
        z = model.latent.sample(n, model.device)
    return to_space(model, z, y, chosen_space(model, space))


def synthesize(model: TrainedModel, codes: Codes) -> Tensor:
    """The samples [N, *shape] of codes; differentiable in them."""
    if codes.space == "z":
        return model.system.generate(codes.x, codes.y)
    generator: Any = model.system.sampler
    with evaluating(generator):
        return generator.synthesize(codes.x).float()


@torch.no_grad()
def render_parts(model: TrainedModel, codes: Codes) -> Iterator[Tensor]:
    """The samples of codes, some at a time, on the CPU. Raises ValueError for samples that are not finite."""
    size = max(1, min(CHUNK, 2**24 // math.prod(model.shape)))
    for i in range(0, len(codes.x), size):
        part = slice(i, i + size)
        samples = synthesize(model, Codes(codes.x[part], codes.y[part], codes.space)).cpu()
        if not samples.isfinite().all():
            raise ValueError(f"the weights of step {model.step} give NaN or infinite samples: the training diverged")
        yield samples


def render(model: TrainedModel, codes: Codes) -> Tensor:
    """The samples [N, *shape] of codes, on the CPU."""
    return torch.cat(list(render_parts(model, codes)))


# -- checks of arguments -------------------------------------------------------------------------------------------------


def check_number(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError for a number that is not from low to high; NaN is not."""
    if not low <= value <= high:
        raise ValueError(f"{name}: must be from {low:,} to {high:,}, got {value}")


def check_seeds(seeds: Sequence[int] | None, name: str = "seeds") -> None:
    """Raises ValueError for no or too many seeds, and for a number that is not a seed. None stands for default seeds."""
    if seeds is None:
        return
    if not 1 <= len(seeds) <= MOST:
        raise ValueError(f"{name}: must be 1 to {MOST:,} seeds, got {len(seeds)}")
    for seed in seeds:
        check_number(name, seed, 0, 2**63 - 1)


def check_choice(name: str, value: str | None, choices: Sequence[str | None]) -> None:
    """Raises ValueError for a word that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(c for c in choices if c)}, got {value}")
