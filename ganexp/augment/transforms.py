"""What ADA does to images [N, C, H, W], each with its own numbers: moves and turns, colours, frequencies, boxes cut out.

Every one is differentiable any number of times in the images.
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

# -- geometry: inverse matrices [N, 3, 3], from a place in the new image to its place in the old one ------------------------
# Places are (x, y, 1): pixels to the right of the image's centre and below it.


def matrices(rows: list[list[Tensor | float]], n: Tensor) -> Tensor:
    return torch.stack([torch.stack([torch.zeros_like(n) + entry for entry in row], -1) for row in rows], -2)


def scaling(width: Tensor, height: Tensor) -> Tensor:
    """Wider and higher by these factors [N]; negative ones mirror."""
    return matrices([[1 / width, 0, 0], [0, 1 / height, 0], [0, 0, 1]], width)


def rotation(radians: Tensor) -> Tensor:
    """Counterclockwise, as torch.rot90 turns."""
    c, s = radians.cos(), radians.sin()
    return matrices([[c, -s, 0], [s, c, 0], [0, 0, 1]], c)


def translation(right: Tensor, down: Tensor) -> Tensor:
    """By pixels."""
    return matrices([[1, 0, -right], [0, 1, -down], [0, 0, 1]], right)


def changed(inverse: Tensor) -> Tensor:
    """Which matrices are not the identity: [N]."""
    return (inverse != torch.eye(3, device=inverse.device)).flatten(1).any(1)


def replaced(x: Tensor, which: Tensor, change: Callable[[Tensor, Tensor], Tensor], parameters: Tensor) -> Tensor:
    """x with `change(images, their parameters)` where `which` [N] says so; the other images are not touched."""
    rows = which.nonzero().squeeze(1)
    if not len(rows):
        return x
    new = change(x.index_select(0, rows), parameters.index_select(0, rows))
    return new if len(rows) == len(x) else x.index_copy(0, rows, new)


def sources(inverse: Tensor, right: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Where the grid of the places `right` [w] × `down` [h] comes from: x and y, each [N, h, w]."""
    entries = inverse[:, :2, :, None, None].unbind(2)  # of each column [N, 2, 1, 1]
    place = entries[0] * right + entries[1] * down[:, None] + entries[2]
    return place[:, 0], place[:, 1]


def mirrored(index: Tensor, size: int) -> Tensor:
    """Indices, whole or not, of a row of `size` pixels that its own mirror images continue, the outermost not repeated."""
    last = size - 1
    return last - ((index % (2 * last)) - last).abs()


def move_pixels(x: Tensor, inverse: Tensor) -> Tensor:
    """For matrices that lead from pixels to pixels. Half a pixel, as a quarter turn of a 4 × 5 image gives, is left out."""
    height, width = x.shape[2:]
    middle = (width - 1) / 2, (height - 1) / 2
    right, down = (torch.arange(n, device=x.device) - m for n, m in zip((width, height), middle, strict=True))
    across, below = (place + m for place, m in zip(sources(inverse, right, down), middle, strict=True))
    across, below = ((index + 0.25).floor().long() for index in (across, below))
    index = mirrored(below, height) * width + mirrored(across, width)
    return x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view(x.shape)


def resample(x: Tensor, inverse: Tensor) -> Tensor:
    """Upsampled by 2, interpolated linearly at the places of an image of twice the size, and downsampled by 2.

    Both filters are sym6, the second in reverse: they are orthogonal, so that an image which is not moved comes back as it was.
    """
    height, width = x.shape[2:]
    (up_w, down_w), (up_h, down_h) = (filters(size, x.dtype, x.device) for size in (width, height))
    fine = up_h @ (x @ up_w.T)
    right, down = (
        (torch.arange(len(matrix.T), device=x.device) - CENTER) / 2 - (size - 1) / 2
        for matrix, size in ((down_w, width), (down_h, height))
    )
    grid = [
        (mirrored(place + (size - 1) / 2, size) * 2 + CENTER - FIRST) * 2 / (2 * size - 1) - 1
        for place, size in zip(sources(inverse, right, down), (width, height), strict=True)
    ]
    found: Any = Sample.apply(fine, torch.stack(grid, -1).to(x.dtype))
    return down_h @ (found @ down_w.T)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is made here for evaluation serves training too, which saves it for backward
def filters(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices for one side of the image: [2 size, size], its upsampling, and [size, 2 size + 10], the downsampling.

    Sample j of twice the resolution lies at pixel (j - CENTER) / 2. The first matrix gives those from FIRST on, which cover the
    image; the second takes those from 0 on, which the filter reaches.
    """
    up, down = torch.zeros(2 * size, size, dtype=torch.float64), torch.zeros(size, 2 * size + 10, dtype=torch.float64)
    pixels, samples = torch.arange(size), torch.arange(2 * size)
    for n, tap in enumerate(SYM6):
        reached = samples[(samples + FIRST - n) % 2 == 0]
        up[reached, mirrored((reached + FIRST - n) // 2, size)] += tap * math.sqrt(2)
        down[pixels, 2 * pixels + n] = tap / math.sqrt(2)
    return up.to(dtype).to(device), down.to(dtype).to(device)  # Apple's GPU has no float64


class Sample(torch.autograd.Function):
    """F.grid_sample, linear, with as many derivatives by the image as asked for; torch's own has one. None by the grid."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = image.shape
        return F.grid_sample(image, grid, align_corners=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Scatter.apply(gradient, ctx.saved_tensors[0], ctx.shape), None


class Scatter(torch.autograd.Function):
    """The transpose of Sample: what was sampled goes back to the pixels it came from."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        image = gradient.new_zeros(()).expand(shape)  # only its shape is used
        return torch.ops.aten.grid_sampler_2d_backward(gradient, image, grid, 0, 0, True, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Sample.apply(gradient, ctx.saved_tensors[0]), None, None


# -- values ------------------------------------------------------------------------------------------------------------


def per_image(number: Tensor, x: Tensor) -> Tensor:
    return number.to(x.dtype)[:, None, None, None]


def recolor(
    x: Tensor, brightness: Tensor, contrast: Tensor, flip: Tensor, hue: Tensor | None = None, saturation: Tensor | None = None
) -> Tensor:
    """Brightness added, then all times contrast; the grey part, the channels' mean, times flip (-1 or 1), the rest turned by hue
    (radians) about the grey axis and times saturation. Numbers are [N]; without hue and saturation images are grey.
    """
    grey, offset = contrast * flip, contrast * flip * brightness
    if hue is None or saturation is None:
        values, alpha = x[:, :1], x[:, 1:]
        values = values * per_image(grey, x) + per_image(offset, x)
    else:
        values, alpha = x[:, :3], x[:, 3:]
        mean = torch.full((3, 3), 1 / 3, device=x.device)
        turn = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=x.device) / math.sqrt(3)  # a quarter, about (1, 1, 1)
        along, across = contrast * saturation * hue.cos(), contrast * saturation * hue.sin()
        along, across, grey = (factor[:, None, None] for factor in (along, across, grey))
        matrix = along * torch.eye(3, device=x.device) + across * turn + (grey - along) * mean
        shifted = offset.to(x.dtype)[:, None, None]
        values = torch.baddbmm(shifted, matrix.to(x.dtype), values.flatten(2)).view(values.shape)
    return torch.cat([values, alpha], 1) if alpha.shape[1] else values


@lru_cache(maxsize=64)
def bands(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Band-pass filters of a row of `size` pixels, as matrices [4, size, size]: of the octaves below 1/16, 1/8, 1/4 and 1/2 of
    the sampling rate. Together they are the identity.
    """
    taps = torch.tensor(SYM2, dtype=torch.float64)
    low = F.conv1d(taps[None, None], taps[None, None], padding=3)[0, 0] / 2  # with its mirror image: symmetric, sums to 1
    rest, found = torch.tensor([1.0], dtype=torch.float64), []
    for spread in (1, 2, 4):
        spaced = torch.zeros(6 * spread + 1, dtype=torch.float64)
        spaced[::spread] = low
        lower = F.conv1d(rest[None, None], spaced[None, None], padding=len(spaced) - 1)[0, 0]
        found.append(F.pad(rest, (3 * spread, 3 * spread)) - lower)
        rest = lower
    matrix = torch.zeros(4, size, size, dtype=torch.float64)
    pixels = torch.arange(size)
    for band, kernel in zip(matrix, [rest, *reversed(found)], strict=True):
        for n, tap in enumerate(kernel):
            band[pixels, mirrored(pixels + n - len(kernel) // 2, size)] += tap
    return matrix.to(dtype).to(device)


def amplify(x: Tensor, gains: Tensor) -> Tensor:
    """Four octaves of frequencies, from the lowest, times `gains` [N, 4], in rows and in columns."""
    height, width = (torch.einsum("nb,bij->nij", gains.to(x.dtype), bands(s, x.dtype, x.device))[:, None] for s in x.shape[2:])
    return height @ x @ width.mT


def cut(x: Tensor, center: Tensor, half: Tensor) -> Tensor:
    """0 in a box around `center` [N, 2] (across, down) that reaches `half` [N] to each side; both in fractions of the sides."""
    height, width = x.shape[2:]
    across, down = (
        ((torch.arange(size, device=x.device) + 0.5) / size - c[:, None]).abs() < half[:, None]
        for size, c in zip((width, height), center.unbind(1), strict=True)
    )
    return x.masked_fill(down[:, None, :, None] & across[:, None, None, :], 0)
