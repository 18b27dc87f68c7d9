"""Scalars of the last steps, for the log."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class Scalars:
    """Scalars by log name, not reduced over ranks.

    `recent`: scalars of the last steps, which the log averages. `latest`: the last value of each. `numbers`: Python numbers of
    the last step, such as learning rates. `measuring`: whether this step will be logged; costly scalars such as gradient norms
    are computed only then.
    """

    def __init__(self) -> None:
        self.step: dict[str, list[Tensor]] = {}
        self.recent: deque[dict[str, Tensor]] = deque(maxlen=1)
        self.latest: dict[str, Tensor] = {}
        self.numbers: dict[str, float] = {}
        self.measuring = False

    def set_window(self, steps: int) -> None:
        """Sets the number of steps that the log averages over."""
        self.recent = deque(self.recent, maxlen=steps)

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds values to the current step, which averages all values added under a name."""
        for name, value in values.items():
            self.step.setdefault(name, []).append(value.detach())

    def total(self, prefix: str) -> Tensor:
        """Returns the sum of the current step's means whose name begins with `prefix`."""
        return torch.stack([mean(v) for name, v in self.step.items() if name.startswith(prefix)]).sum()

    def end_step(self) -> None:
        means = {name: mean(v) for name, v in self.step.items()}
        self.latest |= means
        self.recent.append(means)
        self.step = {}

    def means(self) -> dict[str, Tensor]:
        """Returns means over the recent steps; for a scalar that none of them has, the latest value."""
        recent = {name: [s[name].float() for s in self.recent if name in s] for name in sorted(self.latest)}
        return {name: torch.stack(values or [self.latest[name].float()]).mean() for name, values in recent.items()}

    def state(self) -> list[dict[str, float]]:
        """Returns the recent steps, then the latest values, as Python numbers."""
        return [{name: value.item() for name, value in values.items()} for values in [*self.recent, self.latest]]

    def load_state(self, state: list[dict[str, float]], device: torch.device) -> None:
        *recent, self.latest = [{name: torch.tensor(v, device=device) for name, v in values.items()} for values in state]
        self.recent.extend(recent)


def mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean()
