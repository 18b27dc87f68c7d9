"""Feature extractors. Metrics are logged as METRIC/EXTRACTOR."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Data(Protocol):
    """What extractors and metrics may use of a data module: uint8 images [N, C, H, W] or points, labels and their probabilities,
    and a hash."""

    x: Tensor
    y: Tensor
    shape: tuple[int, ...]
    classes: int
    labels_by_channel: bool

    @property
    def class_probabilities(self) -> Tensor: ...

    @property
    def fingerprint(self) -> str: ...


class Extractor(nn.Module):
    """Samples [N, *shape] in [-1, 1] -> named outputs [N, …], float32: at least `features` [N, dim].

    `resize`: how images are resized before the network, for the protocol. `costly`: whether features of real images are cached.
    """

    name: str
    resize = "none"
    costly = True
    may_download = True  # False for a config that was read from a file

    def choose(self, data: Data) -> None:
        """Decides what depends on the data, the name too, without loading anything."""

    def setup(self, data: Data) -> None:
        """Prepares for a data set. Raises ValueError for unsuitable data, and FileNotFoundError for missing weights."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the outputs depend on."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


class Pixels(Extractor):
    """The samples, images or points: flattened as `features`, unchanged as `images`."""

    name = "pixels"
    costly = False
    fingerprint = "pixels"

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": x.flatten(1), "images": x}


class Laplacian(Extractor):
    """The variance of the Laplacian of the grey image, [N, 1], a measure of sharpness (Pech-Pacheco et al. 2000)."""

    name = "laplacian"
    costly = False
    fingerprint = "laplacian"

    def setup(self, data: Data) -> None:
        if len(data.shape) != 3 or min(data.shape[1:]) < 4:
            raise ValueError(f"sharpness needs images [C, H, W] of at least 4 px a side, got shape {list(data.shape)}")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        kernel = x.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        edges = F.conv2d(x.mean(1, keepdim=True), kernel[None, None])
        return {"features": edges.flatten(1).var(1)[:, None]}


class Random(Extractor):
    """A fixed, seeded, untrained CNN, for images without a suitable trained network.

    It has four 3×3 convolutions of doubling width with average pooling between them. The 2 · 15 · width features are the mean and
    the standard deviation of every channel. Random features rank images by distortion (Naeem et al. 2020, arXiv:2002.09797,
    section 3), but values are comparable only for the same network.
    """

    name = "random"

    def __init__(self, width: int = 16, seed: int = 0):
        super().__init__()
        self.width, self.seed = width, seed
        self.levels = nn.ModuleList()

    def setup(self, data: Data) -> None:
        if len(data.shape) != 3:
            raise ValueError(f"random needs images [C, H, W], not points of shape {list(data.shape)}")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would also seed CUDA's
            widths = [data.shape[0], *(self.width * 2**i for i in range(4))]
            levels = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
            for level in levels:
                nn.init.kaiming_normal_(level.weight)
        self.levels = nn.ModuleList(levels)
        self.requires_grad_(False)

    @property
    def fingerprint(self) -> str:
        return hash_of(self.levels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = []
        for level in self.levels:
            x = F.relu(level(x))
            features += [x.mean((2, 3)), x.flatten(2).std(2)]
            if min(x.shape[2:]) >= 4:
                x = F.avg_pool2d(x, 2)
        return {"features": torch.cat(features, 1)}


def hash_of(*parts: Any) -> str:
    """Returns a hash of values and of modules' weights."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, nn.Module):
            for name, value in part.state_dict().items():
                digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        else:
            digest.update(f"{part!r};".encode())
    return digest.hexdigest()
