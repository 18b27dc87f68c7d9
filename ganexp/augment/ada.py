"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676, section 3 and appendix B)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor

from ganexp.augment import Augmentation, check_images
from ganexp.augment.transforms import (
    amplify,
    apply_where,
    cut,
    move_pixels,
    not_identity,
    per_image,
    recolor,
    resample,
    rotation,
    scaling,
    translation,
)
from ganexp.networks.output import Output

BLIT = ("xflip", "rotate90", "xint")
GEOMETRY = ("scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
OPS = (*BLIT, *GEOMETRY, *COLOR, "imgfilter", "noise", "cutout")
BGC = dict.fromkeys((*BLIT, *GEOMETRY, *COLOR), 1.0)  # the paper's choice: pixel blits, geometry and colour


class ADA(Augmentation):
    """Applies the operations of `ops` in the order below, each to each image with probability `p` times its factor.

    Random numbers are independent for each image and call; N(m, s) is Gaussian, U(a, b) uniform, images are in [-1, 1].
    - xflip: flip with probability 1/2. rotate90: by 0, 90, 180 or 270 degrees. xint: shift by whole pixels, U(-1/8, 1/8) of the
      sides.
    - scale: by 2^N(0, 0.2). rotate: by U(-180, 180) degrees, before or after aniso, or both, with that probability in total.
      aniso: width by s = 2^N(0, 0.2), height by 1/s. xfrac: shift by N(0, 1/8) of the sides.
    - brightness: add N(0, 0.2). contrast: times 2^N(0, 0.5). lumaflip: negate luma with probability 1/2. hue: rotate by
      U(-180, 180) degrees. saturation: chroma times 2^N(0, 1). Grey images have no hue and saturation; alpha, the channel after
      grey or RGB, is left unchanged.
    - imgfilter: each of four octaves of frequencies times 2^N(0, 1). noise: add N(0, s) per pixel, s = |N(0, 0.1)|.
    - cutout: set a box of half the sides, centred anywhere in the image, to 0 in all channels.
    Geometric operations are combined into one resampling with reflection padding. An image with no active operation is returned
    bit for bit, so p = 0 is the identity.

    `ops`: factors; operations that are not named are off. `p`: initial value. `target`: desired value of r_t, the mean sign of
    D's logits of real images. Every `interval` updates of D, p changes by (images since the last change) / (1000 · `kimg`): up
    if r_t is above the target, down if below. It is clamped to [0, 1]; ADA has no upper bound, although more has no effect. If
    `target` is null, p is fixed or annealed, with the key augment.ada.p. Images are counted in rows of logits (after a Pack,
    several images), each micro-batch counts as an update, and sums are over all processes. Logs p, and r_t since p last changed.

    Computes in float32, or float64 if x is. Differentiable any number of times in x. Raises ValueError for unknown operations,
    for values out of range, and for images of other than 1 to 4 channels or less than 2 pixels a side.
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
                raise ValueError(f"ops.{name}: unknown operation; must be one of {', '.join(OPS)}")
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < math.inf:
                raise ValueError(f"ops.{name}: must be a finite number of at least 0, got {factor!r}")
        if not 0 <= p <= 1:
            raise ValueError(f"p: must be in [0, 1], got {p}")
        if target is not None and not -1 <= target <= 1:
            raise ValueError(f"target: must be in [-1, 1], got {target}; null fixes p")
        if not kimg > 0:
            raise ValueError(f"kimg: must be above 0, got {kimg}")
        if interval < 1:
            raise ValueError(f"interval: must be at least 1, got {interval}")
        self.ops, self.target, self.kimg, self.interval = dict(ops), target, kimg, interval
        self.adapted = {} if target is None else {"p": "its target is null"}  # see ganexp.controls.set_number
        self.register_buffer("p", torch.tensor(float(p), dtype=torch.float32))
        # Since p last changed: the sum of signs, the number of logits, of images and of updates; integers, so exact
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
            adjusted = self.p + (r_t - self.target).sign() * self.seen[2] / (1000 * self.kimg)
            self.p.copy_(torch.where(due, adjusted.clamp(0, 1), self.p))
        self.seen *= ~due
        return {"p": self.p.clone(), "r_t": r_t}

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "ada")
        if x.shape[1] not in (1, 2, 3, 4) or min(x.shape[2:]) < 2:
            raise ValueError(f"ada needs images of 1 to 4 channels and at least 2 pixels a side, got {list(x.shape[1:])}")
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if not len(x) or not self.p:
            return x
        with torch.autocast(x.device.type, enabled=False):
            return self.cutout(self.noise(self.imgfilter(self.color(self.geometry(x)))))

    # -- groups of operations ------------------------------------------------------------------------------------------

    def pick(self, op: str, x: Tensor, on: Callable[..., Tensor], off: float) -> Tensor:
        """Returns a parameter for each image, [N]: `on(N, device=…)` with the operation's probability, else `off`."""
        factor = self.ops.get(op, 0)
        if not factor:
            return torch.full((len(x),), off, device=x.device)
        active = torch.rand(len(x), device=x.device) < self.p * factor
        return torch.where(active, on(len(x), device=x.device), off)

    def pick_angle(self, x: Tensor) -> Tensor:
        """Returns the angles of one of the two rotations. Each has probability 1 - √(1 - p), so that p is that of any."""
        factor = self.ops.get("rotate", 0)
        if not factor:
            return torch.zeros(len(x), device=x.device)
        active = torch.rand(len(x), device=x.device) < 1 - (1 - self.p * factor).clamp(min=0).sqrt()
        return torch.where(active, angle(len(x), device=x.device), 0.0)

    def shift(self, op: str, x: Tensor, on: Callable[..., Tensor]) -> list[Tensor]:
        """Returns the shifts to the right and down, in pixels; both or none are active."""
        active = self.pick(op, x, lambda n, device: torch.ones(n, device=device), 0.0)
        if not self.ops.get(op, 0):
            return [active, active]
        return [active * size * on(len(x), device=x.device) for size in (x.shape[3], x.shape[2])]

    def geometry(self, x: Tensor) -> Tensor:
        """Images with blits only are copied pixel by pixel, without interpolation."""
        ones = torch.ones(len(x), device=x.device)
        flip = scaling(self.pick("xflip", x, sign, 1.0), ones)
        turn = rotation(self.pick("rotate90", x, quarters, 0.0))
        blit = flip @ turn @ translation(*[t.round() for t in self.shift("xint", x, eighths)])
        scale = self.pick("scale", x, lambda n, device: (0.2 * torch.randn(n, device=device)).exp2(), 1.0)
        before = self.pick_angle(x)
        width = self.pick("aniso", x, lambda n, device: (0.2 * torch.randn(n, device=device)).exp2(), 1.0)
        after = self.pick_angle(x)
        shift = self.shift("xfrac", x, lambda n, device: torch.randn(n, device=device) / 8)
        steps = [scaling(scale, scale), rotation(before), scaling(width, 1 / width), rotation(after), translation(*shift)]
        free = reduce(torch.matmul, steps)
        blitted, resampled = (not_identity(matrix) for matrix in (blit, free))
        x = apply_where(blitted & ~resampled, move_pixels, x, blit)
        return apply_where(resampled, resample, x, blit @ free)

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
        """The gains are normalized to keep an image's expected power."""
        factors = [self.pick("imgfilter", x, lambda n, device: torch.randn(n, device=device).exp2(), 1.0) for _ in range(4)]
        powers = [10 / 13, 1 / 13, 1 / 13, 1 / 13]  # of natural images, by octave
        norms = [(1 + power * (factor.square() - 1)).sqrt() for power, factor in zip(powers, factors, strict=True)]
        gains = torch.stack(factors, 1) / reduce(torch.mul, norms)[:, None]
        return apply_where((gains != 1).any(1), amplify, x, gains)

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


# -- random parameters, [n] --------------------------------------------------------------------------------------------


def sign(n: int, device: torch.device) -> Tensor:
    return 1.0 - 2 * torch.randint(0, 2, (n,), device=device)


def angle(n: int, device: torch.device) -> Tensor:
    """Any angle, in radians."""
    return (2 * torch.rand(n, device=device) - 1) * math.pi


def quarters(n: int, device: torch.device) -> Tensor:
    """A multiple of 90 degrees, in radians."""
    return torch.randint(0, 4, (n,), device=device) * (math.pi / 2)


def eighths(n: int, device: torch.device) -> Tensor:
    """A fraction in [-1/8, 1/8]."""
    return (2 * torch.rand(n, device=device) - 1) / 8
