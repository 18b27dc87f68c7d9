"""What the log shows of a training: the scalars of its last steps."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class Scalars:
    """Scalars by their name in the log, not reduced over ranks.

    `recent`: those of the last steps, as many as the log shows the mean of. `latest`: each one's last value. `numbers`: plain
    numbers of the last step, such as learning rates. `measuring`: whether this step will be logged; what costs time, as gradient
    norms do, is measured only then.
    """

    def __init__(self) -> None:
        self.step: dict[str, list[Tensor]] = {}
        self.recent: deque[dict[str, Tensor]] = deque(maxlen=1)
        self.latest: dict[str, Tensor] = {}
        self.numbers: dict[str, float] = {}
        self.measuring = False

    def set_window(self, steps: int) -> None:
        """Let the log show means over so many steps."""
        self.recent = deque(self.recent, maxlen=steps)

    def add(self, values: dict[str, Tensor]) -> None:
        """For the current step, whose value is the mean of all that is added under a name."""
        for name, value in values.items():
            self.step.setdefault(name, []).append(value.detach())

    def total(self, prefix: str) -> Tensor:
        """The sum of the current step's means under names that begin so."""
        return torch.stack([mean(v) for name, v in self.step.items() if name.startswith(prefix)]).sum()

    def end_step(self) -> None:
        means = {name: mean(v) for name, v in self.step.items()}
        self.latest |= means
        self.recent.append(means)
        self.step = {}

    def means(self) -> dict[str, Tensor]:
        """Over the recent steps; of what they do not have, the latest value."""
        seen = {name: [s[name].float() for s in self.recent if name in s] for name in sorted(self.latest)}
        return {name: torch.stack(values or [self.latest[name].float()]).mean() for name, values in seen.items()}

    def state(self) -> list[dict[str, float]]:
        """The recent steps and then the latest values, as plain numbers."""
        return [{name: value.item() for name, value in values.items()} for values in [*self.recent, self.latest]]

    def load_state(self, state: list[dict[str, float]], device: torch.device) -> None:
        *recent, self.latest = [{name: torch.tensor(v, device=device) for name, v in values.items()} for values in state]
        self.recent.extend(recent)


def mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean()
