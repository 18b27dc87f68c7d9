"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958, figures 2 and 7), as used with ADA (arXiv:2006.06676, appendix F.1).

    G   z -> mapping -> w, which scales the weights of every convolution
        size 64:  constant 4×4 -> 8×8 -> 16×16 -> 32×32 -> 64×64, two convolutions each (at 4×4 one)
                        RGB 4×4 -> +   ->  +    ->  +    -> image:     each size adds to the upsampled image of the size before
    D   image -> 64×64 -> 32×32 -> 16×16 -> 8×8, residual blocks of two convolutions -> 4×4 with minibatch std -> logit

    channels of a map of side s: channel_base / s, at most channel_max

The learning rate is equalized: weights are initialized from N(0, 1) and multiplied by a constant in every pass. The constant
includes the leaky ReLU's gain of √2, which keeps the variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks.layers import MinibatchStd, map_sizes, one_hot
from ganexp.networks.output import Output
from ganexp.networks.resampling import blur, down, up

ROOT2 = math.sqrt(2)


class Linear(nn.Linear):
    """A linear layer with equalized learning rate: effective weights of scale gain / √inputs, trained `rate` times as fast."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0, rate: float = 1.0, bias: float = 0.0):
        super().__init__(inputs, outputs)
        self.gain, self.rate = gain, rate
        nn.init.normal_(self.weight, std=1 / rate)
        nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gain * self.rate
        return F.linear(x, self.weight * (scale / math.sqrt(self.in_features)), self.bias * scale)


class Conv(nn.Conv2d):
    """A convolution with equalized learning rate: effective weights of scale gain / √inputs. Stride 1 keeps the map's size."""

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float = 1.0, stride: int = 1, bias: bool = True):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, bias=bias)
        self.gain = gain
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * (self.gain / math.sqrt(self.weight[0].numel()))
        return F.conv2d(x, weight, None if self.bias is None else self.bias * self.gain, self.stride, self.padding)


def act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


def normalize(x: Tensor) -> Tensor:
    """x [N, D] -> rows with mean square 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """z [N, latent_dim], y [N] -> w [N, w_dim]. `latent_dim` 0 maps the label only; `classes` null maps z only."""

    def __init__(self, latent_dim: int, w_dim: int, layers: int, classes: int | None):
        super().__init__()
        if layers < 1:
            raise ValueError(f"mapping_layers: must be at least 1, got {layers}")
        if w_dim < 1:
            raise ValueError(f"w_dim: must be at least 1, got {w_dim}")
        self.label = Linear(classes, w_dim) if classes else None
        self.layers = nn.ModuleList()
        for i in range(layers):
            inputs = w_dim if i else latent_dim + (w_dim if classes else 0)
            self.layers.append(Linear(inputs, w_dim, ROOT2, rate=0.01))

    def forward(self, z: Tensor | None, y: Tensor) -> Tensor:
        inputs = [] if z is None else [normalize(z)]
        if self.label is not None:
            inputs.append(normalize(self.label(one_hot(y, self.label.in_features).to(self.label.weight.dtype))))
        w = torch.cat(inputs, 1)
        for layer in self.layers:
            w = act(layer(w))
        return w


def modulated_conv(x: Tensor, weight: Tensor, style: Tensor, upsample: bool = False) -> Tensor:
    """Convolves x [N, C, H, W] with weights [C', C, k, k] scaled by each sample's style [N, C]; `upsample`: by 2.

    Scales the map instead of the weights, which is equivalent and needs one convolution for the whole batch.
    """
    x = x * style[:, :, None, None]
    if upsample:
        return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """Returns factors [N, C', 1, 1] that restore the variance of the input of `modulated_conv`, without autocast."""
    with torch.autocast(style.device.type, enabled=False):
        variance = style.to(weight.dtype).square() @ weight.square().sum((2, 3)).T
        return (variance + 1e-8).rsqrt()[:, :, None, None]


class StyledConv(nn.Module):
    """x [N, C, H, W], w [N, w_dim] -> [N, C', *size]: 3×3 convolution modulated by w, noise, bias, leaky ReLU.

    The noise, one map for all channels, is sampled in every pass in training mode and constant in evaluation mode.
    """

    def __init__(self, inputs: int, outputs: int, w_dim: int, size: tuple[int, int], upsample: bool):
        super().__init__()
        self.style = Linear(w_dim, inputs, 1 / math.sqrt(9 * inputs), bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(()))  # of the noise
        self.noise: Tensor
        self.register_buffer("noise", torch.randn(1, 1, *size))
        self.upsample = upsample

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w)
        x = modulated_conv(x, self.weight, style, self.upsample)
        noise = self.noise.new_empty(len(x), *self.noise.shape[1:]).normal_() if self.training else self.noise
        x = torch.addcmul(self.bias[:, None, None] * ROOT2, x, demodulation(self.weight, style) * ROOT2)
        return act(x + noise * (self.strength * ROOT2))


class ToRGB(nn.Module):
    """x [N, C, H, W], w [N, w_dim] -> [N, channels, H, W]: 1×1 convolution modulated by w, without demodulation, and bias."""

    def __init__(self, inputs: int, channels: int, w_dim: int):
        super().__init__()
        self.style = Linear(w_dim, inputs, 1 / math.sqrt(inputs), bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return modulated_conv(x, self.weight, self.style(w)) + self.bias[:, None, None]


class Generator(nn.Module):
    """z [N, latent_dim], y [N] -> image [N, *shape], around [-1, 1] but not limited to it.

    `map(z, y) -> w` [N, layers, w_dim], the same for all layers; `synthesize(w) -> image`. `w_mean` [w_dim]: moving average of w,
    updated in training mode.

    `mixing`: in training mode, the fraction of images that use the w of the previous z in the batch from a random layer on (style
    mixing, Karras et al. 2019, arXiv:1812.04948, section 3.1). `classes`: the mapping also takes the label; null ignores y.
    Raises ValueError for sides that cannot be halved to 4 to 7 px.
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_dim: int,
        w_dim: int = 128,
        channel_base: int = 2048,
        channel_max: int = 128,
        mapping_layers: int = 2,
        mixing: float = 0.9,
        classes: int | None = None,
    ):
        super().__init__()
        if not 0 <= mixing <= 1:
            raise ValueError(f"mixing: must be in [0, 1], got {mixing}")
        sizes = map_sizes(shape)
        channels = widths(sizes, channel_base, channel_max)
        self.mixing, self.layers = mixing, 2 * len(sizes)
        self.mapping = Mapping(latent_dim, w_dim, mapping_layers, classes)
        self.w_mean: Tensor
        self.register_buffer("w_mean", torch.zeros(w_dim))
        self.constant = nn.Parameter(torch.randn(channels[0], *sizes[0]))
        self.first = StyledConv(channels[0], channels[0], w_dim, sizes[0], upsample=False)
        self.ups, self.convs = nn.ModuleList(), nn.ModuleList()
        self.rgbs = nn.ModuleList([ToRGB(channels[0], shape[0], w_dim)])
        for i in range(1, len(sizes)):
            self.ups.append(StyledConv(channels[i - 1], channels[i], w_dim, sizes[i], upsample=True))
            self.convs.append(StyledConv(channels[i], channels[i], w_dim, sizes[i], upsample=False))
            self.rgbs.append(ToRGB(channels[i], shape[0], w_dim))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        w = self.map(z, y)
        if self.training and self.mixing:
            w = self.mix(w, self.mapping(z.roll(1, 0), y))
        return self.synthesize(w)

    def map(self, z: Tensor, y: Tensor) -> Tensor:
        w = self.mapping(z, y)
        if self.training:
            self.w_mean.lerp_(w.detach().mean(0).to(self.w_mean.dtype), 0.005)
        return w[:, None].expand(-1, self.layers, -1)

    def mix(self, w: Tensor, other: Tensor) -> Tensor:
        """Replaces w [N, layers, w_dim] by `other` [N, w_dim] from a random layer on, never in the first layer."""
        n, device = len(w), w.device
        start = torch.randint(1, self.layers, (n, 1), device=device)
        mask = (torch.arange(self.layers, device=device) >= start) & (torch.rand(n, 1, device=device) < self.mixing)
        return torch.where(mask[:, :, None], other[:, None], w)

    def synthesize(self, w: Tensor) -> Tensor:
        styles = w.unbind(1)
        x = self.first(self.constant.expand(w.shape[0], -1, -1, -1), styles[0])  # torch.export takes len(w) for a constant
        image = self.rgbs[0](x, styles[1])
        for i in range(len(self.ups)):
            x = self.ups[i](x, styles[2 * i + 1])  # shared with the ToRGB of the size before
            x = self.convs[i](x, styles[2 * i + 2])
            image = up(image) + self.rgbs[i + 1](x, styles[2 * i + 3])
        return image


class Block(nn.Module):
    """x [N, C, H, W] -> [N, C', H / 2, W / 2]: two 3×3 convolutions; if `residual`, with a 1×1 convolution as shortcut."""

    def __init__(self, inputs: int, outputs: int, residual: bool):
        super().__init__()
        self.conv = Conv(inputs, inputs, 3, ROOT2)
        self.down = Conv(inputs, outputs, 3, 1.0 if residual else ROOT2, stride=2)  # 1 = √2 · √½: both paths are scaled by √½
        self.shortcut = Conv(inputs, outputs, 1, math.sqrt(0.5), bias=False) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        h = act(self.down(blur(act(self.conv(x)), padding=2)))
        return h if self.shortcut is None else h + self.shortcut(down(x))


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with logits [N, outputs], and the last hidden layer as features.

    `architecture`: `resnet`, or `orig` without shortcuts. `minibatch_std`: group size of MinibatchStd; 0 disables it. `classes`:
    the logits are projections on a mapping of the label with `mapping_layers` layers; null ignores y. `auxiliary`: number of
    class logits; 0 disables them. Raises ValueError for sides that cannot be halved to 4 to 7 px.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channel_base: int = 2048,
        channel_max: int = 128,
        architecture: Literal["resnet", "orig"] = "resnet",
        minibatch_std: int = 4,
        mapping_layers: int = 8,
        classes: int | None = None,
        outputs: int = 1,
        auxiliary: int = 0,
    ):
        super().__init__()
        sizes = map_sizes(shape)[::-1]
        channels = widths(sizes, channel_base, channel_max)
        last = channels[-1]
        self.outputs = outputs
        self.from_rgb = Conv(shape[0], channels[0], 1, ROOT2)
        self.blocks = nn.Sequential()
        for i in range(len(sizes) - 1):
            self.blocks.append(Block(channels[i], channels[i + 1], architecture == "resnet"))
        self.minibatch_std = MinibatchStd(minibatch_std) if minibatch_std else nn.Identity()
        self.conv = Conv(last + bool(minibatch_std), last, 3, ROOT2)
        self.dense = Linear(last * sizes[-1][0] * sizes[-1][1], last, ROOT2)
        self.label = Mapping(0, last, mapping_layers, classes) if classes else None
        self.out = Linear(last, outputs * (last if classes else 1) + auxiliary)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        h = self.blocks(act(self.from_rgb(x)))
        h = act(self.conv(self.minibatch_std(h)))
        h = act(self.dense(h.flatten(1)))
        n = self.outputs * (h.shape[1] if self.label is not None else 1)
        logits, class_logits = self.out(h).tensor_split([n], 1)
        if self.label is not None:
            label = cast(Tensor, self.label(None, y))
            logits = (logits.unflatten(1, (self.outputs, -1)) * label[:, None]).sum(2) / math.sqrt(h.shape[1])
        return Output(logits, class_logits if class_logits.shape[1] else None, (h,))


def widths(sizes: Sequence[tuple[int, int]], channel_base: int, channel_max: int) -> list[int]:
    """Returns the channels of maps of these sizes, at least 1. Raises ValueError for numbers below 1."""
    if min(channel_base, channel_max) < 1:
        name = "channel_base" if channel_base < 1 else "channel_max"
        raise ValueError(f"{name}: must be at least 1, got {min(channel_base, channel_max)}")
    return [max(1, min(channel_base // min(size), channel_max)) for size in sizes]
