"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676, section 3 and appendix B)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ganexp.augment import Augmentation, check_images
from ganexp.networks.output import Output

BLIT = ("xflip", "rotate90", "xint")
GEOMETRY = ("scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
OPS = (*BLIT, *GEOMETRY, *COLOR, "imgfilter", "noise", "cutout")
BGC = dict.fromkeys((*BLIT, *GEOMETRY, *COLOR), 1.0)  # the paper's choice: pixel blits, geometry and colour

# Low-pass filters of orthogonal wavelets, from the standard tables: each sums to √2.
SYM6 = [
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194,
    0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036,
    -0.007800708325034148,
]  # fmt: skip
SYM2 = [-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025]
CENTER = sum(n * tap for n, tap in enumerate(SYM6)) / sum(SYM6)  # the delay of SYM6, in taps: 5.098
FIRST = int(CENTER)


class ADA(Augmentation):
    """Each image goes through the operations of `ops` in the order below, each of them on with probability `p` times its number.

    Sizes: of all that is random, drawn anew for each image and call; N(m, s) is Gaussian, U(a, b) uniform, images lie in [-1, 1].
    - xflip: mirrored in half of the cases. rotate90: by 0, 90, 180 or 270 degrees. xint: moved by whole pixels, U(-1/8, 1/8) of
      the sides.
    - scale: by 2^N(0, 0.2). rotate: by U(-180, 180) degrees, before aniso or after it, with together that probability. aniso:
      width by s = 2^N(0, 0.2), height by 1/s. xfrac: moved by N(0, 1/8) of the sides.
    - brightness: + N(0, 0.2). contrast: times 2^N(0, 0.5). lumaflip: the grey part negated in half of the cases. hue: by
      U(-180, 180) degrees. saturation: the colour part times 2^N(0, 1). Grey images have no hue and no saturation; alpha, the
      channel after grey or RGB, keeps its values here.
    - imgfilter: each of four octaves of frequencies times 2^N(0, 1). noise: + N(0, s) at every pixel, s = |N(0, 0.1)|.
    - cutout: a box of half the sides, its centre anywhere in the image, becomes 0, in all channels.
    Moves, turns and scales are one resampling of the image, whose mirror images continue it on all sides. An image of which
    nothing is on leaves as it came, bit by bit: every image where p is 0.

    `ops`: operations that are not named are off. `p`: at the start. `target`: what r_t, the mean sign of D's logits of real
    images, should be. Every `interval` updates of D, p moves by the images seen since then / (1000 · `kimg`): up where r_t is
    above the target, down where it is below. It stays in [0, 1] (ADA itself has no upper bound, where nothing grows but the way
    back). Where `target` is null, p stays as it is, or is annealed: the key is augment.ada.p. Images are counted in rows of
    logits (after a Pack, several images), each part of an accumulated batch as an update, and the sums are over all processes.
    In the log: p, and r_t since p was last moved.

    Computes in float32 (float64 stays). Differentiable any number of times in x. Raises ValueError for unknown operations, for
    numbers that make no sense, and for what is not an image of 1 to 4 channels and at least 2 pixels a side.
    """

    p: Tensor
    seen: Tensor

    def __init__(
        self,
        ops: Mapping[str, float] = BGC,
        p: float = 0.0,
        target: float | None = 0.6,
        kimg: float = 500.0,
        interval: int = 4,
    ):
        super().__init__()
        for name, factor in ops.items():
            if name not in OPS:
                raise ValueError(f"ops.{name}: not one of {', '.join(OPS)}")
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < math.inf:
                raise ValueError(f"ops.{name}: a factor of p, at least 0, not {factor!r}")
        if not 0 <= p <= 1:
            raise ValueError(f"p: a probability in [0, 1], not {p}")
        if target is not None and not -1 <= target <= 1:
            raise ValueError(f"target: a mean of signs in [-1, 1], or null for a fixed p, not {target}")
        if not kimg > 0:
            raise ValueError(f"kimg: more than 0 thousand images, not {kimg}")
        if interval < 1:
            raise ValueError(f"interval: at least 1 update, not {interval}")
        self.ops, self.target, self.kimg, self.interval = dict(ops), target, kimg, interval
        self.register_buffer("p", torch.tensor(float(p), dtype=torch.float32))
        # Since p was last moved: the sum of the signs, the number of logits, of images, of updates. Whole numbers, so exact.
        self.register_buffer("seen", torch.zeros(4, dtype=torch.int64))

    @torch.no_grad()
    def observe(self, real: Output) -> dict[str, Tensor]:
        logits = real.logits
        signs = (logits > 0).sum() - (logits < 0).sum()
        new = torch.stack([signs, *(torch.full_like(signs, n) for n in (logits.numel(), len(logits)))])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(new)
        self.seen[:3] += new
        self.seen[3] += 1
        r_t = self.seen[0] / self.seen[1]
        due = self.seen[3] >= self.interval
        if self.target is not None:
            moved = self.p + (r_t - self.target).sign() * self.seen[2] / (1000 * self.kimg)
            self.p.copy_(torch.where(due, moved.clamp(0, 1), self.p))
        self.seen *= ~due
        return {"p": self.p.clone(), "r_t": r_t}

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "ada")
        if x.shape[1] not in (1, 2, 3, 4) or min(x.shape[2:]) < 2:
            raise ValueError(f"ada needs images of 1 to 4 channels and at least 2 pixels a side, not {list(x.shape[1:])}")
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if not len(x) or not self.p:
            return x
        with torch.autocast(x.device.type, enabled=False):
            return self.cutout(self.noise(self.imgfilter(self.color(self.geometry(x)))))

    # -- the groups, each with its random numbers ----------------------------------------------------------------------

    def pick(self, op: str, x: Tensor, on: Callable[..., Tensor], off: float) -> Tensor:
        """A number for each image, [N]: `on(N, device=…)` with the operation's probability, else `off`."""
        factor = self.ops.get(op, 0)
        if not factor:
            return torch.full((len(x),), off, device=x.device)
        chosen = torch.rand(len(x), device=x.device) < self.p * factor
        return torch.where(chosen, on(len(x), device=x.device), off)

    def pick_angle(self, x: Tensor) -> Tensor:
        """One of the two rotations: of two chances of 1 - √(1 - p) each, one or both come with probability p."""
        factor = self.ops.get("rotate", 0)
        if not factor:
            return torch.zeros(len(x), device=x.device)
        chosen = torch.rand(len(x), device=x.device) < 1 - (1 - self.p * factor).clamp(min=0).sqrt()
        return torch.where(chosen, angle(len(x), device=x.device), 0.0)

    def shift(self, op: str, x: Tensor, on: Callable[..., Tensor]) -> list[Tensor]:
        """To the right and down, in pixels; one decision for both."""
        moved = self.pick(op, x, lambda n, device: torch.ones(n, device=device), 0.0)
        if not self.ops.get(op, 0):
            return [moved, moved]
        return [moved * size * on(len(x), device=x.device) for size in (x.shape[3], x.shape[2])]

    def geometry(self, x: Tensor) -> Tensor:
        """Images that only blits have changed are moved pixel by pixel, without interpolation."""
        ones = torch.ones(len(x), device=x.device)
        mirror = scaling(self.pick("xflip", x, sign, 1.0), ones)
        turn = rotation(self.pick("rotate90", x, quarters, 0.0))
        blit = mirror @ turn @ translation(*[t.round() for t in self.shift("xint", x, eighths)])
        scale = self.pick("scale", x, lambda n, device: (0.2 * torch.randn(n, device=device)).exp2(), 1.0)
        before = self.pick_angle(x)
        width = self.pick("aniso", x, lambda n, device: (0.2 * torch.randn(n, device=device)).exp2(), 1.0)
        after = self.pick_angle(x)
        moved = self.shift("xfrac", x, lambda n, device: torch.randn(n, device=device) / 8)
        steps = [scaling(scale, scale), rotation(before), scaling(width, 1 / width), rotation(after), translation(*moved)]
        free = reduce(torch.matmul, steps)
        blitted, resampled = (changed(matrix) for matrix in (blit, free))
        x = replaced(x, blitted & ~resampled, move_pixels, blit)
        return replaced(x, resampled, resample, blit @ free)

    def color(self, x: Tensor) -> Tensor:
        brightness = self.pick("brightness", x, lambda n, device: 0.2 * torch.randn(n, device=device), 0.0)
        contrast = self.pick("contrast", x, lambda n, device: (0.5 * torch.randn(n, device=device)).exp2(), 1.0)
        flip = self.pick("lumaflip", x, sign, 1.0)
        if x.shape[1] < 3:
            return recolor(x, brightness, contrast, flip)
        hue = self.pick("hue", x, angle, 0.0)
        saturation = self.pick("saturation", x, lambda n, device: torch.randn(n, device=device).exp2(), 1.0)
        return recolor(x, brightness, contrast, flip, hue, saturation)

    def imgfilter(self, x: Tensor) -> Tensor:
        """After each band's factor all four are divided so that a picture's expected power stays the same."""
        factors = [self.pick("imgfilter", x, lambda n, device: torch.randn(n, device=device).exp2(), 1.0) for _ in range(4)]
        power = [10 / 13, 1 / 13, 1 / 13, 1 / 13]  # of natural images, by octave
        kept = [(1 + share * (factor.square() - 1)).sqrt() for share, factor in zip(power, factors, strict=True)]
        gains = torch.stack(factors, 1) / reduce(torch.mul, kept)[:, None]
        return replaced(x, (gains != 1).any(1), amplify, gains)

    def noise(self, x: Tensor) -> Tensor:
        if not self.ops.get("noise", 0):
            return x
        strength = self.pick("noise", x, lambda n, device: 0.1 * torch.randn(n, device=device).abs(), 0.0)
        return x + per_image(strength, x) * torch.randn_like(x)

    def cutout(self, x: Tensor) -> Tensor:
        if not self.ops.get("cutout", 0):
            return x
        half = self.pick("cutout", x, lambda n, device: torch.full((n,), 0.25, device=device), 0.0)
        return cut(x, torch.rand(len(x), 2, device=x.device), half)


# -- random numbers, one for each of n images --------------------------------------------------------------------------


def sign(n: int, device: torch.device) -> Tensor:
    return 1.0 - 2 * torch.randint(0, 2, (n,), device=device)


def angle(n: int, device: torch.device) -> Tensor:
    """In radians."""
    return (2 * torch.rand(n, device=device) - 1) * math.pi


def quarters(n: int, device: torch.device) -> Tensor:
    """Of a turn, in radians."""
    return torch.randint(0, 4, (n,), device=device) * (math.pi / 2)


def eighths(n: int, device: torch.device) -> Tensor:
    """A fraction in [-1/8, 1/8]."""
    return (2 * torch.rand(n, device=device) - 1) / 8


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
    return up.to(device, dtype), down.to(device, dtype)


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
    return matrix.to(device, dtype)


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
