"""Are the samples as different from one another as the real ones are?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures, FeatureMetric


class Diversity(CachedFeatures):
    """The mean distance of two samples' features over that of two real ones', ≥ 0: near 1 is right, near 0 is a collapse.

    Raises ValueError for real samples that are all alike.
    """

    names = ("diversity",)
    higher_is_better = None  # 1 is right

    def values(self) -> Sequence[Tensor]:
        distances = {}
        for side in self.sides:
            f = self.cached(side)
            pairs = len(f) * (len(f) - 1)
            distances[side] = sum(torch.cdist(rows, f).sum(dtype=torch.float64) for rows in f.split(1024)) / pairs
        self.refuse_alike("real", not distances["real"] > 0)
        return [torch.as_tensor(distances["fake"] / distances["real"])]


class MSSSIM(FeatureMetric):
    """The mean multi-scale structural similarity of two samples of one class, `ms_ssim`, beside that of two real ones,
    `ms_ssim_real`: above it the samples lack variety (Odena et al. 2017, arXiv:1610.09585, section 4.2). In constant memory.

    Five scales and a window of 11 px where the images are large enough (Wang et al. 2003), fewer and a smaller one below. Raises
    ValueError where no two samples share a class.
    """

    names = ("ms_ssim", "ms_ssim_real")
    higher_is_better = None  # that of the real ones is right
    output = "images"
    real_sum: Tensor
    fake_sum: Tensor
    real_pairs: Tensor
    fake_pairs: Tensor
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

    def __init__(self, features: Extractor):
        super().__init__(features)
        for side in self.sides:
            self.add_state(f"{side}_sum", torch.zeros((), dtype=torch.float64), "sum")
            self.add_state(f"{side}_pairs", torch.zeros((), dtype=torch.int64), "sum")

    def add(self, features: Tensor, side: str, y: Tensor | None) -> None:
        if features.ndim != 4 or min(features.shape[2:]) < 4:
            raise ValueError(f"ms_ssim: is of images [C, H, W] of 4 px and more, not of shape {list(features.shape[1:])}")
        y = torch.zeros(len(features), device=features.device) if y is None else y
        order = y.argsort(stable=True)
        first, second = order[:-1], order[1:]
        same = y[first] == y[second]
        if not same.any():
            return
        window = min(11, (min(features.shape[2:]) - 1) // 2 * 2 + 1)
        scales = max(n for n in range(1, 6) if min(features.shape[2:]) // 2 ** (n - 1) >= window)
        similar = multiscale_structural_similarity_index_measure(
            features[first[same]], features[second[same]], kernel_size=window, sigma=1.5 * window / 11, data_range=2.0,
            betas=tuple(w / sum(self.weights[:scales]) for w in self.weights[:scales]), normalize="relu", reduction="sum",
        )  # fmt: skip
        setattr(self, f"{side}_sum", getattr(self, f"{side}_sum") + similar.double())
        setattr(self, f"{side}_pairs", getattr(self, f"{side}_pairs") + same.sum())

    def values(self) -> Sequence[Tensor]:
        for side in self.sides:
            if not getattr(self, f"{side}_pairs"):
                raise ValueError(f"{self.name}: no two samples of one class; take more")
        return [self.fake_sum / self.fake_pairs, self.real_sum / self.real_pairs]
