"""The extractor that a data set can be measured with anywhere."""

from __future__ import annotations

from torch import Tensor

from ganexp.metrics.classifier import Classifier
from ganexp.metrics.features import Data, Extractor, Pixels, Random
from ganexp.metrics.lite0 import Lite0


class AutoExtractor(Extractor):
    """Needs no download: Lite0 for images in colour, a Classifier for labelled grey ones and for those whose channels have labels
    of their own, Random for other grey ones, Pixels for points. Its name in the log is theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: Extractor = Pixels()

    def setup(self, data: Data) -> None:
        self.chosen = choice(data)
        self.chosen.setup(data)
        self.name, self.resize, self.costly = self.chosen.name, self.chosen.resize, self.chosen.costly

    @property
    def fingerprint(self) -> str:
        return self.chosen.fingerprint

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.chosen(x)


def choice(data: Data) -> Extractor:
    if len(data.shape) != 3:
        return Pixels()
    if data.shape[0] >= 3 and not data.labels_by_channel:
        return Lite0()
    return Classifier() if data.classes > 1 and min(data.shape[1:]) >= 4 else Random()
