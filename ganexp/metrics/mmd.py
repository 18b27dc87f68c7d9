"""Maximum mean discrepancy of features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from ganexp.metrics.features import finite


class MMD(Metric):
    """The squared maximum mean discrepancy of features, unbiased: 0 on average for equal distributions, smaller is better.

    `features`: an extractor, x -> [N, dim]. `discrepancy(fake, real)`: of two sets of them, with its kernel. Raises ValueError
    below two samples a side and for samples that are not finite.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, features: nn.Module, discrepancy: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.features, self.discrepancy = features, discrepancy
        self.name = f"mmd/{features.name}"
        self.add_state("real", [], "cat")
        self.add_state("fake", [], "cat")

    def update(self, x: Tensor, real: bool) -> None:
        f = finite(self.features(x).float(), self.name, real)
        (self.real if real else self.fake).append(f)  # type: ignore[union-attr, operator]

    def compute(self) -> Any:
        if not len(self.real) or not len(self.fake):  # type: ignore[arg-type]
            raise ValueError(f"{self.name}: no samples on one side")
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)  # type: ignore[arg-type]
        return self.discrepancy(fake, real)
