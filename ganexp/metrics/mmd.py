"""Maximum mean discrepancy of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures


class MMD(CachedFeatures):
    """The squared maximum mean discrepancy of features, unbiased: 0 on average for equal distributions, smaller is better.

    `discrepancy(fake, real)`: of two sets of features, with its kernel.
    """

    names = ("mmd",)

    def __init__(self, features: Extractor, discrepancy: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(features)
        self.discrepancy = discrepancy

    def values(self) -> Sequence[Tensor]:
        self.refuse_alike("real", (self.cached("real") == self.cached("real")[0]).all())
        return [self.discrepancy(self.cached("fake"), self.cached("real"))]
