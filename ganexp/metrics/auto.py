"""The default extractor, which needs no download."""

from __future__ import annotations

from torch import Tensor

from ganexp.metrics.classifier import Classifier
from ganexp.metrics.features import Data, Extractor, Pixels, Random
from ganexp.metrics.lite0 import Lite0


class AutoExtractor(Extractor):
    """Chooses an extractor that needs no download: Lite0 for colour images, Classifier for labelled grey images and for images
    with a label per channel, Random for other grey images, Pixels for points. It is logged under the chosen one's name."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: Extractor = Pixels()

    def choose(self, data: Data) -> None:
        self.chosen = choose(data)
        self.name, self.resize, self.costly = self.chosen.name, self.chosen.resize, self.chosen.costly

    def setup(self, data: Data) -> None:
        self.choose(data)
        self.chosen.setup(data)

    @property
    def fingerprint(self) -> str:
        return self.chosen.fingerprint

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.chosen(x)


def choose(data: Data) -> Extractor:
    if len(data.shape) != 3:
        return Pixels()
    if data.shape[0] >= 3 and not data.labels_by_channel:
        return Lite0()
    return Classifier() if data.classes > 1 and min(data.shape[1:]) >= 4 else Random()
