"""Paths through a latent space: between keyframes, and around them in a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.nn import functional as F

from ganexp.latent_space.codes import (
    MOST,
    Codes,
    Space,
    TrainedModel,
    check_choice,
    check_number,
    check_seeds,
    from_seeds,
    render,
)
from ganexp.latents import Normal

Curve = Literal["slerp", "lerp", "spline"]
CURVES = ("slerp", "lerp", "spline")


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation of vectors a, b [N, D] at t [N] in [0, 1]: sin((1−t)ω)/sin ω · a + sin(tω)/sin ω · b, where ω is
    the angle between them (Shoemake 1985; for latents White 2016, arXiv:1609.04468, section 2.1).

    Vectors of one norm keep it, where a straight line shrinks it to about .71 in the middle. Nearly parallel vectors, of the
    same or the opposite direction, are interpolated on the straight line.
    """
    cosine = (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1, keepdim=True).clamp(-1, 1)
    omega, t = cosine.acos(), t[:, None].to(a)
    sine = omega.sin()
    curved = (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / sine.clamp(min=1e-12)
    return torch.where(sine < 1e-3, torch.lerp(a, b, t), curved)


def path(keys: Tensor, t: Tensor, curve: Curve, closed: bool) -> Tensor:
    """Points [F, …] at the times t [F] of a path that is at keyframe i of keys [K, …] at time i; `closed`: back at the first at
    time K. A spline is cubic, with continuous second derivatives."""
    if closed:
        keys = torch.cat([keys, keys[:1]])
    if curve == "spline":
        ends = "periodic" if closed else "not-a-knot"
        found = CubicSpline(range(len(keys)), keys.double().cpu().numpy(), bc_type=ends)(t.cpu().numpy())
        return torch.from_numpy(found).to(keys)
    start = t.floor().long().clamp(max=len(keys) - 2)
    a, b, rest = keys[start.to(keys.device)], keys[(start + 1).to(keys.device)], (t - start).to(keys)
    if curve == "slerp":
        return slerp(a.flatten(1), b.flatten(1), rest).view_as(a)
    return torch.lerp(a, b, rest.view(-1, *[1] * (a.ndim - 1)))


def code_path(keys: Codes, t: Tensor, curve: Curve, closed: bool, classes: int | None) -> Codes:
    """The codes at times t of the path through the keyframes. In z, labels that differ become weights of the classes, on a
    straight line (a path in w needs none)."""
    x = path(keys.x, t, curve, closed)
    if keys.space == "w" or bool((keys.y == keys.y[0]).all()):
        return Codes(x, keys.y[:1].expand(len(t)), keys.space)
    assert classes is not None
    return Codes(x, path(F.one_hot(keys.y, classes).to(keys.x.dtype), t, "lerp", closed), keys.space)


def keyframes(
    model: TrainedModel, seeds: Sequence[int], labels: Sequence[int] | None, space: Space | None, truncation: float
) -> Codes:
    """As many as there are seeds or labels, whichever are more; the fewer are repeated in turn. Raises ValueError below 2."""
    check_seeds(seeds)
    n = max(len(seeds), len(labels or ()))
    if n < 2:
        raise ValueError("seeds: at least two keyframes are required: two seeds, or one seed and two labels")
    return from_seeds(model, [seeds[i % len(seeds)] for i in range(n)], labels, space, truncation)


def chosen_curve(model: TrainedModel, space: Space, curve: Curve | None) -> Curve:
    """Null: slerp for z of a normal prior, otherwise lerp."""
    check_choice("curve", curve, (None, *CURVES))
    return curve or ("slerp" if space == "z" and isinstance(model.latent, Normal) else "lerp")


def interpolation(
    model: TrainedModel,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    steps: int = 8,
    space: Space | None = None,
    curve: Curve | None = None,
    truncation: float = 1.0,
) -> Codes:
    """The codes of `interpolate`, [(keyframes − 1) · steps]."""
    check_number("steps", steps, 2, MOST)
    keys = keyframes(model, seeds, labels, space, truncation)
    pairs = len(keys.x) - 1
    check_number("steps", pairs * steps, 2, MOST)
    t = torch.cat([torch.linspace(i, i + 1, steps, dtype=torch.float64) for i in range(pairs)])
    return code_path(keys, t, chosen_curve(model, keys.space, curve), False, model.classes)


def interpolate(
    model: TrainedModel,
    seeds: Sequence[int] = (0, 1),
    labels: Sequence[int] | None = None,
    steps: int = 8,
    space: Space | None = None,
    curve: Curve | None = None,
    truncation: float = 1.0,
) -> Tensor:
    """Samples between keyframes: [keyframes − 1, steps, *shape], a row from each to the next, both included.

    A keyframe is a seed and a class; of seeds and labels, the fewer are repeated in turn, so that `seeds=[3], labels=[1, 7]`
    goes from one class to another with z fixed. Without labels the classes of a conditional model come in turn. `space`: z or
    w; null: w where there is one. `curve`: slerp, lerp or spline; null: slerp for z of a normal prior, otherwise lerp.
    `truncation`: of the keyframes. Raises ValueError for numbers out of range and for what the model does not have.
    """
    codes = interpolation(model, seeds, labels, steps, space, curve, truncation)
    return render(model, codes).unflatten(0, (-1, steps))


def loop(
    model: TrainedModel,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    frames: int = 24,
    space: Space | None = None,
    curve: Curve | None = None,
    truncation: float = 1.0,
) -> Codes:
    """The codes of `walk`, [keyframes · frames]."""
    check_number("frames", frames, 1, MOST)
    keys = keyframes(model, seeds, labels, space, truncation)
    check_number("frames", len(keys.x) * frames, 2, MOST)
    t = torch.arange(len(keys.x) * frames, dtype=torch.float64) / frames
    chosen = curve or ("spline" if keys.space == "w" else None)
    return code_path(keys, t, chosen_curve(model, keys.space, chosen), True, model.classes)


def walk(
    model: TrainedModel,
    seeds: Sequence[int] = (0, 1, 2, 3),
    labels: Sequence[int] | None = None,
    frames: int = 24,
    space: Space | None = None,
    curve: Curve | None = None,
    truncation: float = 1.0,
) -> Tensor:
    """A closed path through keyframes: [keyframes · frames, *shape]; the last frame is one step before the first.

    `frames`: from one keyframe to the next. `curve`: null is a spline in w, where it has no corners (Karras et al. 2021,
    arXiv:2106.12423, make their films so), and as in `interpolate` in z. The others: see `interpolate`.
    """
    return render(model, loop(model, seeds, labels, frames, space, curve, truncation))
