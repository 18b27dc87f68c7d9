"""The base classes of metrics: torchmetrics Metrics over features of real and generated samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from ganexp.metrics.features import Data, Extractor

KINDS = {"real": "real", "fake": "generated"}


class FeatureMetric(Metric):
    """One or more values about generated samples, most of them in comparison with real ones.

    `features`: the extractor; `update` takes its `output` [N, …]. `compute` returns {name: value}, with names such as
    `fid/inception`. Subclasses accumulate batches in `add` and compute in `values`. `compute` raises ValueError, on every rank,
    for fewer than `min_samples` samples of one of the `kinds`, and for samples with NaN or infinite features.
    """

    full_state_update = False
    higher_is_better: bool | None = False
    names: tuple[str, ...]  # of the values; the first one chooses the best checkpoint
    output: ClassVar[str] = "features"  # name of the extractor's output
    kinds: ClassVar[tuple[str, ...]] = ("real", "fake")
    min_samples: int = 2
    requires_labels: ClassVar[bool] = False  # whether samples need a requested class

    def __init__(self, features: Extractor):
        super().__init__()
        self.features = features
        for kind in self.kinds:
            self.add_state(f"{kind}_count", torch.zeros((), dtype=torch.int64), "sum")
            self.add_state(f"{kind}_bad", torch.zeros((), dtype=torch.int64), "sum")

    def setup(self, data: Data) -> None:
        """Prepares for a data set. Raises ValueError for unsuitable data, and FileNotFoundError for missing weights."""
        self.features.setup(data)

    @property
    def name(self) -> str:
        return f"{self.names[0]}/{self.features.name}"

    @property
    def biased_below(self) -> int:
        """The number of samples, real and generated each, below which the value has a large bias."""
        return 0

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the value depends on, for the protocol."""
        return {}

    def update(self, features: Tensor, real: bool, y: Tensor | None = None) -> None:
        """Adds `features` [N, …] of N samples. `y` [N]: labels of real samples, requested classes of generated ones."""
        kind = "real" if real else "fake"
        if kind not in self.kinds:
            return
        bad = (~features.flatten(1).isfinite().all(1)).sum()
        setattr(self, f"{kind}_count", getattr(self, f"{kind}_count") + len(features))
        setattr(self, f"{kind}_bad", getattr(self, f"{kind}_bad") + bad)
        self.add(features, kind, y)

    def compute(self) -> dict[str, Tensor]:
        for kind in self.kinds:
            count, bad = int(getattr(self, f"{kind}_count")), int(getattr(self, f"{kind}_bad"))
            if bad:
                raise ValueError(f"{self.name}: {bad} of {count} {KINDS[kind]} samples have NaN or infinite features")
            if count < self.min_samples:
                raise ValueError(f"{self.name}: requires at least {self.min_samples:,} {KINDS[kind]} samples, got {count:,}")
        values = zip(self.names, self.values(), strict=True)
        return {f"{name}/{self.features.name}": value for name, value in values}

    def add(self, features: Tensor, kind: str, y: Tensor | None) -> None:
        raise NotImplementedError

    def values(self) -> Sequence[Tensor]:
        """Returns one value for each of the `names`."""
        raise NotImplementedError

    def check_varied(self, kind: str, varied: bool | Tensor) -> None:
        if not varied:
            raise ValueError(f"{self.name}: all {KINDS[kind]} samples are identical")


class CachedFeatures(FeatureMetric):
    """A metric that keeps all features [N, dim], float32, in memory."""

    def __init__(self, features: Extractor):
        super().__init__(features)
        for kind in self.kinds:
            self.add_state(f"{kind}_features", [], "cat")

    def add(self, features: Tensor, kind: str, y: Tensor | None) -> None:
        getattr(self, f"{kind}_features").append(features.float())

    def cached(self, kind: str) -> Tensor:
        return dim_zero_cat(getattr(self, f"{kind}_features"))
