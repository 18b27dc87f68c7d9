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
    changed,
    cut,
    move_pixels,
    per_image,
    recolor,
    replaced,
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
