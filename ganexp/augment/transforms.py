"""The transforms of ADA on images [N, C, H, W], with parameters per image: geometry, colour, frequency bands and cutout.

All are differentiable any number of times in the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Low-pass filters of orthogonal wavelets, from the standard tables: each sums to √2.
SYM6 = [
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194,
    0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036,
    -0.007800708325034148,
]  # fmt: skip
SYM2 = [-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025]
CENTER = sum(n * tap for n, tap in enumerate(SYM6)) / sum(SYM6)  # the delay of SYM6, in taps: 5.098
FIRST = int(CENTER)

# -- geometry: inverse matrices [N, 3, 3], from output to input coordinates -------------------------------------------------
# Coordinates are (x, y, 1), in pixels from the image's centre, to the right and down.


def matrices(rows: list[list[Tensor | float]], n: Tensor) -> Tensor:
    return torch.stack([torch.stack([torch.zeros_like(n) + entry for entry in row], -1) for row in rows], -2)


def scaling(width: Tensor, height: Tensor) -> Tensor:
    """Scales width and height by factors [N]; negative factors flip."""
    return matrices([[1 / width, 0, 0], [0, 1 / height, 0], [0, 0, 1]], width)


def rotation(radians: Tensor) -> Tensor:
    """Rotates counterclockwise, like torch.rot90."""
    c, s = radians.cos(), radians.sin()
    return matrices([[c, -s, 0], [s, c, 0], [0, 0, 1]], c)


def translation(right: Tensor, down: Tensor) -> Tensor:
    """Shifts by pixels [N]."""
    return matrices([[1, 0, -right], [0, 1, -down], [0, 0, 1]], right)


def not_identity(inverse: Tensor) -> Tensor:
    """Returns which matrices are not the identity: [N]."""
    return (inverse != torch.eye(3, device=inverse.device)).flatten(1).any(1)


def apply_where(mask: Tensor, transform: Callable[[Tensor, Tensor], Tensor], x: Tensor, parameters: Tensor) -> Tensor:
    """Returns x with `transform(images, parameters)` applied to the images selected by `mask` [N]."""
    rows = mask.nonzero().squeeze(1)
    if not len(rows):
        return x
    new = transform(x.index_select(0, rows), parameters.index_select(0, rows))
    return new if len(rows) == len(x) else x.index_copy(0, rows, new)


def source_coordinates(inverse: Tensor, right: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the input coordinates x and y, each [N, h, w], of the output grid `right` [w] × `down` [h]."""
    columns = inverse[:, :2, :, None, None].unbind(2)  # each [N, 2, 1, 1]
    source = columns[0] * right + columns[1] * down[:, None] + columns[2]
    return source[:, 0], source[:, 1]


def reflect(index: Tensor, size: int) -> Tensor:
    """Maps indices, integer or not, into a row of `size` pixels by reflection, without repeating the outermost pixel."""
    last = size - 1
    return last - ((index % (2 * last)) - last).abs()


def move_pixels(x: Tensor, inverse: Tensor) -> Tensor:
    """For matrices that map pixels to pixels. Half pixels, as in a quarter turn of a 4 × 5 image, are rounded down."""
    height, width = x.shape[2:]
    centre = (width - 1) / 2, (height - 1) / 2
    right, down = (torch.arange(n, device=x.device) - c for n, c in zip((width, height), centre, strict=True))
    across, below = (source + c for source, c in zip(source_coordinates(inverse, right, down), centre, strict=True))
    across, below = ((index + 0.25).floor().long() for index in (across, below))
    index = reflect(below, height) * width + reflect(across, width)
    return x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view(x.shape)


def resample(x: Tensor, inverse: Tensor) -> Tensor:
    """Upsamples by 2, interpolates linearly on a grid of twice the size, and downsamples by 2.

    Both filters are sym6, the second one reversed. They are orthogonal, so that the identity matrix returns the image unchanged.
    """
    height, width = x.shape[2:]
    (up_w, down_w), (up_h, down_h) = (filters(size, x.dtype, x.device) for size in (width, height))
    fine = up_h @ (x @ up_w.T)
    right, down = (
        (torch.arange(len(matrix.T), device=x.device) - CENTER) / 2 - (size - 1) / 2
        for matrix, size in ((down_w, width), (down_h, height))
    )
    grid = [
        (reflect(source + (size - 1) / 2, size) * 2 + CENTER - FIRST) * 2 / (2 * size - 1) - 1
        for source, size in zip(source_coordinates(inverse, right, down), (width, height), strict=True)
    ]
    sampled: Any = Sample.apply(fine, torch.stack(grid, -1).to(x.dtype))
    return down_h @ (sampled @ down_w.T)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a matrix cached during evaluation may be saved for backward in training
def filters(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns matrices for one side of the image: [2 size, size] upsamples, [size, 2 size + 10] downsamples.

    Sample j at twice the resolution is at pixel (j - CENTER) / 2. The first matrix computes the samples that cover the image,
    from FIRST on; the second takes those in reach of the filter, from 0 on.
    """
    up, down = torch.zeros(2 * size, size, dtype=torch.float64), torch.zeros(size, 2 * size + 10, dtype=torch.float64)
    pixels, samples = torch.arange(size), torch.arange(2 * size)
    for n, tap in enumerate(SYM6):
        rows = samples[(samples + FIRST - n) % 2 == 0]
        up[rows, reflect((rows + FIRST - n) // 2, size)] += tap * math.sqrt(2)
        down[pixels, 2 * pixels + n] = tap / math.sqrt(2)
    return up.to(dtype).to(device), down.to(dtype).to(device)  # MPS has no float64


class Sample(torch.autograd.Function):
    """Linear F.grid_sample that is differentiable any number of times in the image, not in the grid. torch's is so once."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = image.shape
        return F.grid_sample(image, grid, align_corners=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Scatter.apply(gradient, ctx.saved_tensors[0], ctx.shape), None


class Scatter(torch.autograd.Function):
    """The transpose of Sample: adds gradients to the sampled pixels."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        image = gradient.new_zeros(()).expand(shape)  # only the shape is used
        return torch.ops.aten.grid_sampler_2d_backward(gradient, image, grid, 0, 0, True, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Sample.apply(gradient, ctx.saved_tensors[0]), None, None


# -- pixel values ------------------------------------------------------------------------------------------------------


def per_image(number: Tensor, x: Tensor) -> Tensor:
    return number.to(x.dtype)[:, None, None, None]


def recolor(
    x: Tensor, brightness: Tensor, contrast: Tensor, flip: Tensor, hue: Tensor | None = None, saturation: Tensor | None = None
) -> Tensor:
    """Adds brightness and multiplies by contrast. Luma, the mean of the channels, is multiplied by flip (-1 or 1); chroma is
    rotated by hue (radians) and multiplied by saturation. Parameters are [N]; without hue and saturation images are grey.
    """
    grey, offset = contrast * flip, contrast * flip * brightness
    if hue is None or saturation is None:
        values, alpha = x[:, :1], x[:, 1:]
        values = values * per_image(grey, x) + per_image(offset, x)
    else:
        values, alpha = x[:, :3], x[:, 3:]
        mean = torch.full((3, 3), 1 / 3, device=x.device)
        turn = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=x.device) / math.sqrt(3)  # 90° about (1, 1, 1)
        along, across = contrast * saturation * hue.cos(), contrast * saturation * hue.sin()
        along, across, grey = (factor[:, None, None] for factor in (along, across, grey))
        matrix = along * torch.eye(3, device=x.device) + across * turn + (grey - along) * mean
        shifted = offset.to(x.dtype)[:, None, None]
        values = torch.baddbmm(shifted, matrix.to(x.dtype), values.flatten(2)).view(values.shape)
    return torch.cat([values, alpha], 1) if alpha.shape[1] else values


@lru_cache(maxsize=64)
def bands(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns band-pass filters for a row of `size` pixels as matrices [4, size, size], for the octaves below 1/16, 1/8, 1/4 and
    1/2 of the sampling rate. They sum to the identity.
    """
    taps = torch.tensor(SYM2, dtype=torch.float64)
    low = F.conv1d(taps[None, None], taps[None, None], padding=3)[0, 0] / 2  # correlated with itself: symmetric, sums to 1
    rest, highs = torch.tensor([1.0], dtype=torch.float64), []
    for spread in (1, 2, 4):
        spaced = torch.zeros(6 * spread + 1, dtype=torch.float64)
        spaced[::spread] = low
        lower = F.conv1d(rest[None, None], spaced[None, None], padding=len(spaced) - 1)[0, 0]
        highs.append(F.pad(rest, (3 * spread, 3 * spread)) - lower)
        rest = lower
    matrix = torch.zeros(4, size, size, dtype=torch.float64)
    pixels = torch.arange(size)
    for band, kernel in zip(matrix, [rest, *reversed(highs)], strict=True):
        for n, tap in enumerate(kernel):
            band[pixels, reflect(pixels + n - len(kernel) // 2, size)] += tap
    return matrix.to(dtype).to(device)


def amplify(x: Tensor, gains: Tensor) -> Tensor:
    """Multiplies four octaves of frequencies, from the lowest, by `gains` [N, 4], in rows and in columns."""
    height, width = (torch.einsum("nb,bij->nij", gains.to(x.dtype), bands(s, x.dtype, x.device))[:, None] for s in x.shape[2:])
    return height @ x @ width.mT


def cut(x: Tensor, center: Tensor, half: Tensor) -> Tensor:
    """Sets a box around `center` [N, 2] (across, down) with half-sides `half` [N] to 0; both in fractions of the sides."""
    height, width = x.shape[2:]
    across, down = (
        ((torch.arange(size, device=x.device) + 0.5) / size - c[:, None]).abs() < half[:, None]
        for size, c in zip((width, height), center.unbind(1), strict=True)
    )
    return x.masked_fill(down[:, None, :, None] & across[:, None, None, :], 0)
