"""The maximum mean discrepancy of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures


class MMD(CachedFeatures):
    """The unbiased squared maximum mean discrepancy of features: 0 on average for equal distributions, lower is better.

    `discrepancy(fake, real)`: computes it for two sets of features.
    """

    names = ("mmd",)

    def __init__(self, features: Extractor, discrepancy: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(features)
        self.discrepancy = discrepancy

    def values(self) -> Sequence[Tensor]:
        real = self.cached("real")
        self.check_varied("real", (real != real[0]).any())
        return [self.discrepancy(self.cached("fake"), real)]
