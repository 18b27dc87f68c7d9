"""What every metric is: a torchmetrics Metric over the features of real and generated samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from ganexp.metrics.features import Data, Extractor

SIDES = {"real": "real", "fake": "generated"}


class FeatureMetric(Metric):
    """One or more numbers about generated samples, most of them against real ones.

    `features`: the extractor whose `reads` [N, …] are given to `update`. `compute` gives {name: value} with the extractor's name
    in each name: `fid/inception`. Subclasses keep what they need of a batch (`add`) and compute from it (`values`). Raises
    ValueError, from `compute` and on every rank alike, for fewer samples than `least` on one of the `sides`, and for samples with
    NaN or infinite features.
    """

    full_state_update = False
    higher_is_better: bool | None = False
    names: tuple[str, ...]  # of the values; by the first one the best checkpoint is chosen
    reads: ClassVar[str] = "features"  # which of the extractor's outputs
    sides: ClassVar[tuple[str, ...]] = ("real", "fake")
    least: int = 2
    wants_labels: ClassVar[bool] = False  # whether it is of samples that were asked for

    def __init__(self, features: Extractor):
        super().__init__()
        self.features = features
        for side in self.sides:
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.int64), "sum")
            self.add_state(f"{side}_bad", torch.zeros((), dtype=torch.int64), "sum")

    def prepare(self, data: Data) -> None:
        """Make ready for a data set. Raises ValueError where it cannot be of such data, FileNotFoundError as extractors do."""
        self.features.prepare(data)

    @property
    def name(self) -> str:
        return f"{self.names[0]}/{self.features.name}"

    @property
    def biased_below(self) -> int:
        """So many samples a side make the bias of its value small."""
        return 0

    @property
    def settings(self) -> dict[str, Any]:
        """The numbers its value depends on beside the samples."""
        return {}

    def update(self, features: Tensor, real: bool, y: Tensor | None = None) -> None:
        """`features` [N, …] of N samples; `y` [N] their labels: of real ones the true, of generated ones the wanted."""
        side = "real" if real else "fake"
        if side not in self.sides:
            return
        bad = (~features.flatten(1).isfinite().all(1)).sum()
        setattr(self, f"{side}_count", getattr(self, f"{side}_count") + len(features))
        setattr(self, f"{side}_bad", getattr(self, f"{side}_bad") + bad)
        self.add(features, side, y)

    def compute(self) -> dict[str, Tensor]:
        for side in self.sides:
            count, bad = int(getattr(self, f"{side}_count")), int(getattr(self, f"{side}_bad"))
            if bad:
                raise ValueError(f"{self.name}: {bad} of {count} {SIDES[side]} samples have NaN or infinite features")
            if count < self.least:
                raise ValueError(f"{self.name}: {count} {SIDES[side]} samples; at least {self.least} are needed")
        values = zip(self.names, self.values(), strict=True)
        return {f"{name}/{self.features.name}": value for name, value in values}

    def add(self, features: Tensor, side: str, y: Tensor | None) -> None:
        raise NotImplementedError

    def values(self) -> Sequence[Tensor]:
        """One for each of the `names`."""
        raise NotImplementedError

    def refuse_alike(self, side: str, alike: bool | Tensor) -> None:
        if alike:
            raise ValueError(f"{self.name}: the {SIDES[side]} samples are all alike")


class Kept(FeatureMetric):
    """A metric that needs all features at once, `real` and `fake` [N, dim] float32: memory grows with the samples."""

    def __init__(self, features: Extractor):
        super().__init__(features)
        for side in self.sides:
            self.add_state(f"{side}_features", [], "cat")

    def add(self, features: Tensor, side: str, y: Tensor | None) -> None:
        getattr(self, f"{side}_features").append(features.float())

    def kept(self, side: str) -> Tensor:
        return dim_zero_cat(getattr(self, f"{side}_features"))
