"""Annealed numbers. Each is a pure function of the images seen, so that resuming is exact."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn


class Anneal:
    """Anneals the number at the config key `key` from `start` to `end` over the first `images` images, then keeps it at `end`.

    `key`: as on the command line, such as `regularizer.r1.weight`, `optimizer.generator.betas.1`, `model.ema_half_life`,
    `augment.ada.p` or `loss.fraction`; the targets of `bce` are `loss.targets.real` and so on. `curve`: `linear`, `cosine` (half
    a period, as in R3GAN, Huang et al. 2024, arXiv:2501.05441), `exponential` (a constant factor per image; `start` and `end`
    above 0) or `step` (`start` until `images`).
    Raises ValueError for learning rates, which have a schedule, and for values out of range.
    """

    def __init__(
        self,
        key: str,
        start: float,
        end: float,
        images: float,
        curve: Literal["linear", "cosine", "exponential", "step"] = "cosine",
    ):
        if key.startswith("optimizer.") and key.endswith(".lr"):
            raise ValueError(f"key: {key} is set by the schedule; choose schedule=cosine or schedule=linear")
        if images <= 0:
            raise ValueError(f"images: must be above 0, got {images}")
        if curve == "exponential" and min(start, end) <= 0:
            raise ValueError(f"curve: exponential needs start and end above 0, got {start} and {end}")
        self.key, self.start, self.end, self.images, self.curve = key, start, end, images, curve

    def __call__(self, images_seen: int) -> float:
        """Returns the value after `images_seen` images."""
        t = min(images_seen / self.images, 1.0)
        if self.curve == "exponential":
            return self.start * (self.end / self.start) ** t
        if self.curve == "step":
            t = float(t == 1)
        if self.curve == "cosine":
            t = (1 - math.cos(math.pi * t)) / 2
        return self.start + (self.end - self.start) * t


def apply_anneal(anneal: Mapping[str, Anneal], roots: Mapping[str, Any], images_seen: int) -> dict[str, float]:
    """Sets all annealed numbers, and returns them by log name.

    `roots`: for the first word of a config key, the object that the rest of the key is looked up in. Raises ValueError for a key
    that names no number.
    """
    numbers = {f"anneal/{name}": control(images_seen) for name, control in anneal.items()}
    for name, control in anneal.items():
        root, *path = control.key.split(".")
        try:
            if root not in roots or not path:
                raise ValueError(f"must begin with one of {', '.join(roots)}")
            set_number(roots[root], path, numbers[f"anneal/{name}"])
        except ValueError as error:
            raise ValueError(f"anneal.{name}.key: {control.key} {error}") from error
    return numbers


def set_number(target: Any, path: Sequence[str], value: float) -> Any:
    """Sets the number at `path` inside `target`, and returns `target`; a new object if it is a number, a list or a tuple.

    The path leads through modules, mappings, sequences and attributes. Raises ValueError if it does not lead to a number, or to
    one that its object changes itself: its `adapted` says what prevents that.
    """
    if not path:
        if isinstance(target, Tensor) and not target.ndim:
            return target.fill_(value)
        if isinstance(target, bool) or not isinstance(target, int | float):
            raise ValueError(f"is {'a method' if callable(target) else repr(target)}, not a number")
        return value
    name, *rest = path
    if isinstance(target, list | tuple):
        if not name.isdigit() or int(name) >= len(target):
            raise ValueError(f"does not exist: there is no element {name}")
        items = [set_number(item, rest, value) if i == int(name) else item for i, item in enumerate(target)]
        return type(target)(items)
    mapping = isinstance(target, Mapping | nn.ModuleDict)
    if not (name in target if mapping else has_own(target, name)):
        raise ValueError(f"does not exist: there is no {name}")
    adapted = getattr(target, "adapted", None)
    if isinstance(adapted, dict) and name in adapted:
        raise ValueError(f"is adapted during training unless {adapted[name]}")
    old = target[name] if mapping else getattr(target, name)
    new = set_number(old, rest, value)
    if new is not old and mapping:
        target[name] = new
    elif new is not old:
        setattr(target, name, new)
    return target


def has_own(target: Any, name: str) -> bool:
    """Whether `target` itself has the attribute; an object that it delegates to would not notice a change."""
    return hasattr(target, name) and (isinstance(target, nn.Module) or name in dir(target))
