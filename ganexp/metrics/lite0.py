"""A network trained on ImageNet, as a feature extractor that needs no download."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ganexp.metrics.features import Data, Extractor, hash_of
from ganexp.networks.efficientnet_lite import EfficientNetLite0, pretrained


class Lite0(Extractor):
    """EfficientNet-Lite0 with ImageNet weights: the pooled last map as `features` [N, 1280], and `logits` [N, 1000].

    `size`: side in px that images are resized to (bicubic, antialiased), a multiple of 32. Grey images are repeated to three
    channels; alpha is dropped. Its Fréchet distance is `fid/lite0`, which is not comparable with published FIDs
    (extractor=inception). Raises ValueError for other sizes, for points, and for missing or unexpected weights.
    """

    name = "lite0"

    def __init__(self, size: int = 128):
        super().__init__()
        if size < 32 or size % 32:
            raise ValueError(f"size: must be a multiple of 32 px, got {size}")
        self.size, self.resize = size, f"bicubic to {size}×{size}, antialiased"
        self.network: EfficientNetLite0 | None = None

    def setup(self, data: Data) -> None:
        if len(data.shape) != 3:
            raise ValueError(f"lite0 needs images [C, H, W], not points of shape {list(data.shape)}")
        if self.network is None:
            self.network = pretrained().requires_grad_(False)
            self.digest = hash_of(self.network, self.size)

    @property
    def fingerprint(self) -> str:
        return self.digest

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Returns the network's four maps of images [N, C, H, W], differentiable in the images."""
        assert self.network is not None
        x = x[:, :1].expand(-1, 3, -1, -1) if x.shape[1] < 3 else x[:, :3]
        if x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bicubic", antialias=True).clamp(-1, 1)
        return self.network(x.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        assert self.network is not None
        features = self.network.pooled(self.maps(x)[-1])
        return {"features": features, "logits": self.network.classify(features)}
