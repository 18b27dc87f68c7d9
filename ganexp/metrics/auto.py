"""The extractor that a data set can be measured with anywhere."""

from __future__ import annotations

from torch import Tensor

from ganexp.metrics.classifier import Classifier
from ganexp.metrics.features import Data, Extractor, Pixels, Random


class AutoExtractor(Extractor):
    """Needs no download: a Classifier where there are labels, Random for other images, Pixels for points. Its name in the log is
    theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: Extractor = Pixels()

    def setup(self, data: Data) -> None:
        if len(data.shape) != 3:
            self.chosen = Pixels()
        else:
            self.chosen = Classifier() if data.classes > 1 and min(data.shape[1:]) >= 4 else Random()
        self.chosen.setup(data)
        self.name, self.resize, self.costly = self.chosen.name, self.chosen.resize, self.chosen.costly

    @property
    def fingerprint(self) -> str:
        return self.chosen.fingerprint

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.chosen(x)
