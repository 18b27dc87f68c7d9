"""Diversity of samples, compared with that of real ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures, FeatureMetric


class Diversity(CachedFeatures):
    """The mean distance between features of samples, divided by that of real ones, ≥ 0: 1 is best, near 0 is mode collapse.

    Raises ValueError if the real samples are identical.
    """

    names = ("diversity",)
    higher_is_better = None  # 1 is best

    def values(self) -> Sequence[Tensor]:
        distances = {}
        for kind in self.kinds:
            f = self.cached(kind)
            pairs = len(f) * (len(f) - 1)
            distances[kind] = sum(torch.cdist(rows, f).sum(dtype=torch.float64) for rows in f.split(1024)) / pairs
        self.check_varied("real", distances["real"] > 0)
        return [torch.as_tensor(distances["fake"] / distances["real"])]


class MSSSIM(FeatureMetric):
    """The mean multi-scale structural similarity of pairs of samples of the same class, `ms_ssim`, and of real ones,
    `ms_ssim_real`: if it is higher, the samples lack diversity (Odena et al. 2017, arXiv:1610.09585, section 4.2). Uses constant
    memory.

    Five scales and a window of 11 px if the images are large enough (Wang et al. 2003), otherwise fewer and smaller. Raises
    ValueError if no two samples have the same class.
    """

    names = ("ms_ssim", "ms_ssim_real")
    higher_is_better = None  # the value of real samples is best
    output = "images"
    real_sum: Tensor
    fake_sum: Tensor
    real_pairs: Tensor
    fake_pairs: Tensor
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

    def __init__(self, features: Extractor):
        super().__init__(features)
        for kind in self.kinds:
            self.add_state(f"{kind}_sum", torch.zeros((), dtype=torch.float64), "sum")
            self.add_state(f"{kind}_pairs", torch.zeros((), dtype=torch.int64), "sum")

    def add(self, features: Tensor, kind: str, y: Tensor | None) -> None:
        if features.ndim != 4 or min(features.shape[2:]) < 4:
            raise ValueError(f"ms_ssim needs images [C, H, W] of at least 4 px a side, got shape {list(features.shape[1:])}")
        y = torch.zeros(len(features), device=features.device) if y is None else y
        order = y.argsort(stable=True)
        first, second = order[:-1], order[1:]
        same = y[first] == y[second]
        if not same.any():
            return
        side = min(features.shape[2:])
        window = min(11, (side - 1) // 2 * 2 + 1)
        # torchmetrics needs both
        scales = next(n for n in (5, 4, 3, 2, 1) if min(side // 2 ** (n - 1), side // max(1, n - 1) ** 2) >= window)
        similarity = multiscale_structural_similarity_index_measure(
            features[first[same]], features[second[same]], kernel_size=window, sigma=1.5 * window / 11, data_range=2.0,
            betas=tuple(w / sum(self.weights[:scales]) for w in self.weights[:scales]), normalize="relu", reduction="sum",
        )  # fmt: skip
        setattr(self, f"{kind}_sum", getattr(self, f"{kind}_sum") + similarity.double())
        setattr(self, f"{kind}_pairs", getattr(self, f"{kind}_pairs") + same.sum())

    def values(self) -> Sequence[Tensor]:
        for kind in self.kinds:
            if not getattr(self, f"{kind}_pairs"):
                raise ValueError(f"{self.name}: no two samples have the same class; use more samples")
        return [self.fake_sum / self.fake_pairs, self.real_sum / self.real_pairs]
