"""Numbers that change while a system trains, each a pure function of the images seen: a resumed run has the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn


class Anneal:
    """The number at the config key `key` goes from `start` to `end` over the first `images` images, and stays there.

    `key`: as on the command line, `regularizer.r1.weight`, `optimizer.generator.betas.1`, `model.ema_half_life`,
    `augment.ada.p`, `loss.fraction`. `curve`: `linear`, `cosine` (half a cosine, as R3GAN, Huang et al. 2024, arXiv:2501.05441),
    or `exponential` (constant factor for each image; both ends above 0). Raises ValueError for learning rates, which follow the
    schedule, and for numbers that make no sense.
    """

    def __init__(
        self, key: str, start: float, end: float, images: float, curve: Literal["linear", "cosine", "exponential"] = "cosine"
    ):
        if key.startswith("optimizer.") and key.endswith(".lr"):
            raise ValueError(f"key: {key} follows the schedule: schedule=cosine or schedule=linear")
        if images <= 0:
            raise ValueError(f"images: more than 0, not {images}")
        if curve == "exponential" and min(start, end) <= 0:
            raise ValueError(f"curve: an exponential one needs start and end above 0, not {start} and {end}")
        self.key, self.start, self.end, self.images, self.curve = key, start, end, images, curve

    def __call__(self, images_seen: int) -> float:
        """The number's value after so many images."""
        t = min(images_seen / self.images, 1.0)
        if self.curve == "exponential":
            return self.start * (self.end / self.start) ** t
        if self.curve == "cosine":
            t = (1 - math.cos(math.pi * t)) / 2
        return self.start + (self.end - self.start) * t


def apply(anneal: Mapping[str, Anneal], roots: Mapping[str, Any], images_seen: int) -> dict[str, float]:
    """Set every annealed number, and return them by their name in the log.

    `roots`: by the first word of a config key, what the rest leads through. Raises ValueError for a key that names no number.
    """
    numbers = {f"anneal/{name}": control(images_seen) for name, control in anneal.items()}
    for name, control in anneal.items():
        root, *path = control.key.split(".")
        try:
            if root not in roots or not path:
                raise ValueError(f"begins with none of {', '.join(roots)}")
            with_number(roots[root], path, numbers[f"anneal/{name}"])
        except ValueError as error:
            raise ValueError(f"anneal.{name}.key: {control.key} {error}") from error
    return numbers


def with_number(holder: Any, path: Sequence[str], value: float) -> Any:
    """`holder` with the number at the end of `path` replaced: in place where that can be, else a new tuple.

    The path leads through modules, mappings, sequences and attributes. Raises ValueError where it leads to no number.
    """
    if not path:
        if isinstance(holder, Tensor) and not holder.ndim:
            return holder.fill_(value)
        if isinstance(holder, bool) or not isinstance(holder, int | float):
            raise ValueError(f"is {holder!r}, not a number")
        return value
    name, *rest = path
    if isinstance(holder, list | tuple):
        if not name.isdigit() or int(name) >= len(holder):
            raise ValueError(f"leads nowhere: there is no element {name}")
        changed = [with_number(item, rest, value) if i == int(name) else item for i, item in enumerate(holder)]
        return type(holder)(changed)
    mapping = isinstance(holder, Mapping | nn.ModuleDict)
    if not (name in holder if mapping else hasattr(holder, name)):
        raise ValueError(f"leads nowhere: there is no {name}")
    old = holder[name] if mapping else getattr(holder, name)
    new = with_number(old, rest, value)
    if new is not old and mapping:
        holder[name] = new
    elif new is not old:
        setattr(holder, name, new)
    return holder
