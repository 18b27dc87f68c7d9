"""How sharp are the images?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from ganexp.metrics.features import finite

LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])


class Sharpness(Metric):
    """The mean variance of the Laplacian of grey images (Pech-Pacheco et al. 2000), samples' over real ones': below 1 is blurred,
    above 1 is noise.

    Raises ValueError for what are no images of 4 px and more, for an empty side, for real images without an edge, and for
    samples that are not finite.
    """

    higher_is_better = None  # 1 is right
    full_state_update = False
    name = "sharpness/laplacian"

    def __init__(self) -> None:
        super().__init__()
        for side in ("real", "fake"):
            self.add_state(f"{side}_sum", torch.zeros((), dtype=torch.float64), "sum")
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, x: Tensor, real: bool) -> None:
        if x.ndim != 4 or min(x.shape[2:]) < 4:
            raise ValueError(f"{self.name}: is of images [C, H, W] of 4 px and more, not of shape {list(x.shape[1:])}")
        grey = finite(x.float(), self.name, real).mean(1, keepdim=True)
        edges = F.conv2d(grey, LAPLACIAN.to(x.device)[None, None])
        side = "real" if real else "fake"
        setattr(self, f"{side}_sum", getattr(self, f"{side}_sum") + edges.flatten(1).var(1).double().sum())
        setattr(self, f"{side}_count", getattr(self, f"{side}_count") + len(x))

    def compute(self) -> Any:
        if not self.real_count or not self.fake_count:
            raise ValueError(f"{self.name}: no samples on one side")
        real, fake = self.real_sum / self.real_count, self.fake_sum / self.fake_count  # type: ignore[operator, arg-type]
        if not real > 0:
            raise ValueError(f"{self.name}: the real images have no edges")
        return fake / real
