"""Each operation against its closed form; p against the paper's rule."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BARE, NARROW, Answer
from helpers import on_two_ranks
from torch import Tensor, nn

from ganexp.augment import ada as module
from ganexp.augment.ada import ADA, COLOR, OPS
from ganexp.augment.transforms import (
    Sample,
    amplify,
    bands,
    cut,
    filters,
    move_pixels,
    recolor,
    resample,
    rotation,
    scaling,
    translation,
)
from ganexp.controls import Anneal, apply_anneal
from ganexp.networks.output import Output

ALL = dict.fromkeys(OPS, 1.0)


def only(*ops: str, p: float = 1.0) -> ADA:
    torch.manual_seed(0)
    return ADA(dict.fromkeys(ops, 1.0), p=p)


def noise(n: int, channels: int = 3, height: int = 12, width: int = 10) -> Tensor:
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1))


def t(*numbers: float) -> Tensor:
    return torch.tensor(numbers)


def unchanged(x: Tensor, out: Tensor) -> Tensor:
    return (x == out).flatten(1).all(1)


# -- what all operations share -----------------------------------------------------------------------------------------


def test_p_of_0_changes_nothing_and_uses_no_random_numbers() -> None:
    x, before = noise(4), torch.get_rng_state()
    assert torch.equal(ADA(ALL)(x), x) and torch.equal(torch.get_rng_state(), before)
    assert torch.equal(ADA({}, p=1)(x), x)
    low = x.bfloat16()
    assert ADA(ALL)(low).dtype == torch.float32 and torch.equal(ADA(ALL)(low), low.float())


@pytest.mark.parametrize("op", OPS)
def test_p_and_factor_set_the_fraction_of_changed_images(op: str) -> None:
    """The others stay bitwise equal."""
    probability = {"xflip": 0.25, "rotate90": 0.375, "lumaflip": 0.25, "imgfilter": 1 - 0.5**4}
    probability["xint"] = 0.5 * (1 - 1 / 16)  # U(-2, 2) pixels round to (0, 0) once in 16
    torch.manual_seed(0)
    x = noise(2000, 3, 16, 16)
    for p, factor in ((0.5, 1.0), (1.0, 0.5)):
        rate = (~unchanged(x, ADA({op: factor}, p=p)(x))).float().mean().item()
        assert abs(rate - probability.get(op, 0.5)) < 0.045, (op, p)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 9, 14), (3, 13, 8), (4, 33, 20), (3, 2, 40)])
def test_ada_handles_every_size_and_channel_count(shape: tuple[int, int, int]) -> None:
    x = noise(6, *shape)
    for p in (0.3, 1.0):
        torch.manual_seed(0)
        out = ADA(ALL, p=p)(x)
        torch.manual_seed(0)
        other = ADA(ALL, p=p)(x.contiguous(memory_format=torch.channels_last))
        assert out.shape == x.shape and out.dtype == torch.float32 and out.isfinite().all()
        torch.testing.assert_close(other, out)


def test_every_image_gets_its_own_random_numbers() -> None:
    for op in OPS:
        out = only(op)(noise(1, 3, 32, 32).expand(40, -1, -1, -1)).flatten(1)
        kinds = len(torch.unique(out, dim=0))
        assert kinds >= {"xflip": 2, "lumaflip": 2, "rotate90": 4, "xint": 20}.get(op, 40), op
    assert len(torch.unique(ADA(ALL, p=1)(noise(1).expand(40, -1, -1, -1)).flatten(1), dim=0)) == 40


def test_ada_computes_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    x, expected = noise(8), ADA(ALL, p=0.7)(noise(8))
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        out = ADA(ALL, p=0.7)(x)
    assert out.dtype == torch.float32 and torch.equal(out, expected)


def test_matrices_cached_in_inference_mode_work_in_training() -> None:
    filters.cache_clear()
    bands.cache_clear()
    with torch.inference_mode():
        only("scale", "imgfilter")(noise(2))
    x = noise(2).requires_grad_()
    only("scale", "imgfilter")(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"ops": {"blur": 1}}, "ops.blur: unknown operation; must be one of xflip, rotate90"),
        ({"ops": {"hue": -1}}, "ops.hue: must be a finite number of at least 0, got -1"),
        ({"ops": {"hue": float("nan")}}, "ops.hue: must be a finite number"),
        ({"ops": {"hue": "much"}}, "ops.hue: must be a finite number of at least 0, got 'much'"),
        ({"ops": {"hue": True}}, "ops.hue: must be a finite number"),
        ({"p": 1.1}, r"p: must be in \[0, 1\]"),
        ({"target": 2}, r"target: must be in \[-1, 1\]"),
        ({"kimg": 0}, "kimg: must be above 0"),
        ({"interval": 0}, "interval: must be at least 1"),
    ],
)
def test_ada_refuses_invalid_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADA(**arguments)


def test_ada_refuses_inputs_that_are_not_images() -> None:
    with pytest.raises(ValueError, match=r"ada needs images \[C, H, W\], not points of shape \[2\]"):
        ADA()(torch.zeros(8, 2))
    for shape in ([6, 8, 8], [3, 1, 8]):
        with pytest.raises(ValueError, match="1 to 4 channels and at least 2 pixels"):
            ADA()(torch.zeros(8, *shape))


# -- blits and geometry ------------------------------------------------------------------------------------------------


def test_flips_turns_and_shifts_move_pixels_exactly() -> None:
    x = noise(1, height=9, width=9)
    none = t(0.0)
    assert torch.equal(move_pixels(x, scaling(t(-1.0), t(1.0))), x.flip(3))
    for k in range(4):
        assert torch.equal(move_pixels(x, rotation(t(k * math.pi / 2))), torch.rot90(x, k, (2, 3)))
    assert torch.equal(move_pixels(x, translation(t(2.0), none))[..., 2:], x[..., :-2])
    assert torch.equal(move_pixels(x, translation(t(2.0), none))[..., :2], x[..., [2, 1]])  # mirrored, the edge not repeated
    assert torch.equal(move_pixels(x, translation(none, t(-3.0)))[..., :-3, :], x[..., 3:, :])
    both = move_pixels(x, rotation(t(math.pi / 2)) @ translation(t(1.0), none))  # turned, and then moved
    assert torch.equal(both[..., 1:], torch.rot90(x, 1, (2, 3))[..., :-1])


def test_quarter_turn_rotates_an_oblong_image_about_its_middle() -> None:
    """4 × 8: a square of 4 in the middle is kept."""
    x = noise(1, height=4, width=8)
    assert torch.equal(move_pixels(x, rotation(t(math.pi / 2)))[..., 2:6], torch.rot90(x[..., 2:6], 1, (2, 3)))
    assert move_pixels(noise(1, height=4, width=9), rotation(t(math.pi / 2))).isfinite().all()


def test_xflip_and_quarter_turns_are_uniform() -> None:
    x = noise(2000, 1, 8, 8)
    assert 900 < unchanged(only("xflip")(x), x.flip(3)).sum() < 1100
    turned = only("rotate90")(x)
    counts = [int(unchanged(turned, torch.rot90(x, k, (2, 3))).sum()) for k in range(4)]
    assert sum(counts) == 2000 and min(counts) > 420


def test_xint_moves_by_whole_pixels_up_to_an_eighth() -> None:
    ramp = torch.arange(24.0).expand(3000, 1, 16, 24).clone()
    across = (ramp - only("xint")(ramp))[:, 0, 8, 12]
    assert set(across.tolist()) == set(range(-3, 4))
    down = (ramp.mT - only("xint")(ramp.mT))[:, 0, 12, 8]  # 24 × 16
    assert set(down.tolist()) == set(range(-3, 4))
    assert 0.13 < (across == 0).float().mean() < 0.21  # 1 of 6 pixels rounds to 0


def smooth(right: Tensor, down: Tensor) -> Tensor:
    return (0.31 * right + 0.5).cos() + (0.23 * down - 0.17 * right).sin()


def places(height: int, width: int) -> tuple[Tensor, Tensor]:
    down, right = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    return right, down


@pytest.mark.parametrize(
    "inverse",
    [
        torch.eye(3)[None],
        scaling(t(1.3), t(1.3)),
        scaling(t(1.4), t(1 / 1.4)) @ translation(t(0.0), t(0.37)),
        scaling(t(-1.0), t(1.0)),
        rotation(t(0.4)) @ scaling(t(1.5), t(1.5)),
        rotation(t(math.pi / 2)),
        rotation(t(math.pi)),
        translation(t(2.3), t(-1.7)),
    ],
)
def test_resample_of_a_smooth_image_follows_its_formula(inverse: Tensor) -> None:
    right, down = places(40, 48)
    image = smooth(right, down)[None, None]
    x, y, _ = (inverse[0] @ torch.stack([right, down, torch.ones_like(right)]).flatten(1)).view(3, 40, 48)
    inside = (x.abs() < 20) & (y.abs() < 16)  # where no mirror image comes near
    out = resample(image, inverse)[0, 0]
    assert inside.sum() > 500 and (out - smooth(x, y))[inside].abs().max() < 0.02
    if torch.equal(inverse, torch.eye(3)[None]):
        assert (out - image[0, 0])[inside].abs().max() < 1e-5  # the two filters are orthogonal


def test_resample_mirrors_the_image_at_its_edges() -> None:
    """At any distance: here the image is a quarter of its size, a cosine that equals its mirror images."""
    wave = (math.pi * torch.arange(33) / 16).cos().expand(1, 1, 33, 33)
    expected = (math.pi * (torch.arange(33) * 4 - 48) / 16).cos()  # pixel i from 16 + 4 (i - 16)
    out = resample(wave, scaling(t(0.25), t(0.25)))
    assert (out - expected).abs().max() < 0.07


def test_resample_by_the_identity_keeps_noise() -> None:
    """At every frequency; away from the edges."""
    x = noise(1, height=24, width=30)
    out = resample(x, torch.eye(3)[None])
    torch.testing.assert_close(out[..., 6:-6, 6:-6], x[..., 6:-6, 6:-6], atol=1e-5, rtol=0)
    moved = resample(x, translation(t(2.0), t(1.0)))
    torch.testing.assert_close(moved[..., 8:-6, 8:-6], x[..., 7:-7, 6:-8], atol=1e-5, rtol=0)


def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Tensor]:
    """What a function is called with beside the images, which it no longer changes."""
    found: list[Tensor] = []

    def spy(x: Tensor, parameters: Tensor) -> Tensor:
        found.append(parameters)
        return x

    monkeypatch.setattr(module, name, spy)
    return found


def recorded(monkeypatch: pytest.MonkeyPatch, op: str) -> Tensor:
    """The inverse matrices of 3000 images of 8 × 16 for an operation that is on."""
    found = spied(monkeypatch, "resample")
    only(op)(torch.zeros(3000, 1, 8, 16))
    return found[0]


def test_geometry_has_the_published_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = recorded(monkeypatch, "scale")
    assert torch.equal(scale[:, 0, 0], scale[:, 1, 1]) and abs(scale[:, 0, 0].log2().std() - 0.2) < 0.01
    aniso = recorded(monkeypatch, "aniso")
    torch.testing.assert_close(aniso[:, 0, 0] * aniso[:, 1, 1], torch.ones(3000))
    assert abs(aniso[:, 0, 0].log2().std() - 0.2) < 0.01
    moved = recorded(monkeypatch, "xfrac")
    assert abs(moved[:, 0, 2].std() - 2) < 0.1 and abs(moved[:, 1, 2].std() - 1) < 0.05  # an eighth of 16, and of 8
    assert abs(moved[:, 0, 2] @ moved[:, 1, 2] / 3000) < 0.12
    turned = recorded(monkeypatch, "rotate")
    torch.testing.assert_close(turned[:, :2, :2] @ turned[:, :2, :2].mT, torch.eye(2).expand(3000, 2, 2), atol=1e-5, rtol=0)
    quarter = torch.atan2(turned[:, 1, 0], turned[:, 0, 0]).div(math.pi / 2).floor().long() + 2
    assert quarter.bincount(minlength=4).min() > 680  # uniform


def test_geometry_is_resampled_once_by_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is resampled once, and not at all if pixels are only moved."""
    found = spied(monkeypatch, "resample")
    only(*OPS[:7])(noise(50))
    assert len(found) == 1 and len(found[0]) == 50
    assert found[0][:, :2, :2].det().lt(0).sum() in range(12, 38)  # the mirrored half
    only("xflip", "rotate90", "xint")(noise(50))
    assert len(found) == 1
    only("xint", "scale")(noise(50, 1, 32, 32))  # moved, and then scaled: where the old middle was is not scaled back
    assert torch.equal(found[1][:, :2, 2], found[1][:, :2, 2].round()) and found[1][:, :2, 2].any()


# -- values ------------------------------------------------------------------------------------------------------------

ZERO, ONE = t(0.0), t(1.0)


def test_recolor_matches_closed_forms() -> None:
    x = noise(1)
    color = partial(recolor, x)
    torch.testing.assert_close(color(t(0.3), t(2.0), ONE, ZERO, ONE), 2 * (x + 0.3))
    mean = x.mean(1, keepdim=True)
    torch.testing.assert_close(color(ZERO, ONE, -ONE, ZERO, ONE), x - 2 * mean)
    torch.testing.assert_close(color(ZERO, ONE, ONE, ZERO, t(0.0)), mean.expand_as(x))
    torch.testing.assert_close(color(ZERO, ONE, ONE, ZERO, t(3.0)), mean + 3 * (x - mean))
    torch.testing.assert_close(color(ZERO, ONE, ONE, t(2 * math.pi / 3), ONE), x.roll(1, 1))  # red becomes green
    torch.testing.assert_close(color(ZERO, ONE, ONE, t(math.pi), ONE), 2 * mean - x)
    # All at once, in the order of the table: (x + b) c, grey part negated, the rest turned and strengthened.
    shifted = 3 * (x + 0.1)
    grey = shifted.mean(1, keepdim=True)
    expected = -grey + 0.5 * (shifted - grey).roll(1, 1)
    torch.testing.assert_close(color(t(0.1), t(3.0), -ONE, t(2 * math.pi / 3), t(0.5)), expected)


def test_hue_by_pi_and_lumaflip_are_their_own_inverses() -> None:
    x = noise(1)
    for numbers in ((ZERO, ONE, ONE, t(math.pi), ONE), (ZERO, ONE, -ONE, ZERO, ONE)):
        assert not torch.allclose(recolor(x, *numbers), x)
        torch.testing.assert_close(recolor(recolor(x, *numbers), *numbers), x)
    assert torch.equal(recolor(x, ZERO, ONE, ONE, ZERO, ONE), x)


def test_grey_stays_grey() -> None:
    x = noise(50, 1)
    torch.testing.assert_close(only("hue", "saturation")(x.expand(-1, 3, -1, -1)), x.expand(-1, 3, -1, -1))
    torch.manual_seed(0)
    numbers = torch.randn(50), torch.randn(50).exp2(), torch.randn(50).sign()
    grey, rgb = recolor(x, *numbers), recolor(x.expand(-1, 3, -1, -1), *numbers, torch.randn(50), torch.randn(50).exp2())
    torch.testing.assert_close(rgb, grey.expand(-1, 3, -1, -1), atol=1e-4, rtol=1e-4)
    assert torch.equal(only("hue", "saturation")(x), x)  # one channel has neither


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_left_unchanged(channels: int) -> None:
    x = noise(20, channels)
    out = only(*COLOR)(x)
    assert torch.equal(out[:, -1:], x[:, -1:]) and not unchanged(out[:, :-1], x[:, :-1]).any()
    torch.manual_seed(0)
    torch.testing.assert_close(ADA(dict.fromkeys(COLOR, 1.0), p=1)(x[:, :-1].contiguous()), out[:, :-1])


def test_colours_have_the_published_strengths() -> None:
    flat = torch.zeros(4000, 3, 2, 2)
    brightness = only("brightness")(flat)[:, 0, 0, 0]
    assert abs(brightness.mean()) < 0.01 and abs(brightness.std() - 0.2) < 0.01
    assert abs(only("contrast")(flat + 1)[:, 0, 0, 0].log2().std() - 0.5) < 0.03
    colored = flat + t(1, -1, 0).view(3, 1, 1)
    assert abs(only("saturation")(colored)[:, 0, 0, 0].log2().std() - 1) < 0.05
    assert 1880 < (only("lumaflip")(flat + 1) < 0).flatten(1).all(1).sum() < 2120
    red = only("hue")(colored)[:, 0, 0, 0]  # √(4/3) of a cosine of a uniform angle
    assert abs(red.mean()) < 0.05 and abs(red.square().mean() - 2 / 3) < 0.03
    torch.testing.assert_close(only("hue")(colored).norm(dim=1), colored.norm(dim=1))


def test_bands_split_frequencies_into_octaves() -> None:
    x = noise(2, height=32, width=40)
    torch.testing.assert_close(amplify(x, torch.ones(2, 4)), x)
    torch.testing.assert_close(bands(9, torch.float64, torch.device("cpu")).sum(0), torch.eye(9, dtype=torch.float64))
    flat = torch.ones(1, 1, 32, 32)
    torch.testing.assert_close(amplify(flat, t(3, 5, 7, 9)[None]), 9 * flat)  # in rows and in columns
    checks = (-1.0) ** (torch.arange(32)[:, None] + torch.arange(32))
    torch.testing.assert_close(amplify(checks[None, None], t(3, 5, 7, 9)[None]), 81 * checks[None, None])
    for band, frequency in enumerate([1 / 32, 3 / 32, 3 / 16, 3 / 8]):
        wave = (2 * math.pi * frequency * (torch.arange(257) - 128)).cos()
        kept = [float((matrix @ wave)[128]) for matrix in bands(257, torch.float32, torch.device("cpu"))]
        assert max(range(4), key=kept.__getitem__) == band and kept[band] > 0.7, frequency


def test_gain_of_one_band_keeps_the_expected_power(monkeypatch: pytest.MonkeyPatch) -> None:
    found = spied(monkeypatch, "amplify")
    only("imgfilter", p=0.1)(torch.zeros(2000, 1, 8, 8))
    gains = found[0]
    single = torch.stack([(gains == gains[:, [k]]).sum(1) == 3 for k in range(4)]).any(0)
    power = (gains.square() * t(10, 1, 1, 1) / 13).sum(1)
    assert len(gains) in range(600, 780) and single.sum() > 400  # 1 - 0.9⁴ of the images
    torch.testing.assert_close(power[single], torch.ones(int(single.sum())))


def test_noise_strength_differs_between_images() -> None:
    strength = only("noise")(torch.zeros(3000, 1, 16, 16)).flatten(1).std(1)
    assert abs(strength.square().mean().sqrt() - 0.1) < 0.005 and abs(strength.mean() - 0.1 * math.sqrt(2 / math.pi)) < 0.004


def test_cutout_zeroes_a_box() -> None:
    x = torch.ones(1, 2, 8, 12)
    expected = x.clone()
    expected[..., 0:4, 3:9] = 0
    assert torch.equal(cut(x, t(0.5, 0.25)[None], t(0.25)), expected)
    expected = x.clone()
    expected[..., 0:2, 9:12] = 0  # only a quarter of it lies inside
    assert torch.equal(cut(x, t(1.0, 0.0)[None], t(0.25)), expected)
    assert torch.equal(cut(x, t(0.5, 0.5)[None], ZERO), x)
    gone = only("cutout")(torch.ones(2000, 3, 16, 16)) == 0
    fraction = gone.float().mean((1, 2, 3))
    assert fraction.max() == 0.25 and fraction.min() >= 1 / 16 and abs(fraction.mean() - 0.4375**2) < 0.005
    assert abs(gone.float().mean((0, 1))[8, 8] - 0.25) < 0.04


# -- derivatives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [*OPS, "all"])
def test_gradients_match_finite_differences(op: str) -> None:
    x = noise(4, 3, 8, 9).double().requires_grad_()

    def augmented(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return ADA(ALL if op == "all" else {op: 1}, p=1)(x)

    assert torch.autograd.gradcheck(augmented, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: augmented(x).pow(3), (x,), fast_mode=True)


def test_grid_sampling_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    image, grid = torch.randn(2, 2, 4, 5).double().requires_grad_(), 2.4 * torch.rand(2, 3, 6, 2).double() - 1.2
    sample: Any = Sample.apply
    torch.testing.assert_close(sample(image, grid), nn.functional.grid_sample(image, grid, align_corners=True))
    assert torch.autograd.gradcheck(lambda x: sample(x, grid), (image,))
    assert torch.autograd.gradgradcheck(lambda x: sample(x, grid).pow(3), (image,))
    assert torch.autograd.gradgradcheck(lambda x: sample(sample(x, grid).sin(), grid), (image,))


def test_r1_through_ada_trains_d() -> None:
    """The gradient by the images before augmentation; its own by the weights of D."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 3), nn.Linear(320, 1)
    discriminator = nn.Sequential(first, nn.Softplus(), nn.Flatten(), last)
    x = noise(8).requires_grad_()
    logits = discriminator(ADA(ALL, p=0.8)(x))
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    gradient.square().sum(1).mean().backward()
    for parameter in (first.weight, last.weight, x):
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


# -- the controller ----------------------------------------------------------------------------------------------------


def answer(*logits: float, batch: int = 64) -> Output:
    return Output(torch.tensor(logits).expand(batch, -1))


def test_p_rises_with_the_images_seen_at_every_fourth_update() -> None:
    ada = ADA()
    for k in range(12):
        scalars = ada.observe(answer(2.0))
        assert scalars["p"] == ada.p and scalars["r_t"] == 1
        assert ada.p.item() == pytest.approx((k + 1) // 4 * 64 * 4 / 500_000)
    before = scalars["p"]
    ada.p.fill_(0.5)
    assert before != 0.5  # the log keeps its own


def test_p_falls_and_stays_within_its_bounds() -> None:
    ada = ADA(p=0.0006, kimg=500)
    seen = [ada.observe(answer(-1.0))["p"].item() for _ in range(8)]
    assert seen == pytest.approx([0.0006] * 3 + [0.0006 - 0.000512] * 4 + [0.0])
    ada = ADA(p=0.9, kimg=1)
    assert [round(ada.observe(answer(1.0))["p"].item(), 3) for _ in range(4)] == [0.9, 0.9, 0.9, 1.0]


def test_r_t_is_the_mean_sign_of_all_logits() -> None:
    """0 has no sign; 4 of 5 are positive in one update and 1 of 2 in the next."""
    ada = ADA(interval=2, target=0.5, kimg=1)
    assert ada.observe(answer(1.0, 3.0, 0.5, 9.0, -20.0, batch=2))["r_t"].item() == pytest.approx(0.6)
    scalars = ada.observe(answer(0.0, 5.0, batch=6))  # (6 + 6) / (10 + 12)
    assert scalars["r_t"].item() == pytest.approx(12 / 22) and scalars["p"].item() == pytest.approx(8 / 1000)
    assert ada.observe(answer(-1.0))["r_t"] == -1  # counted anew


def test_p_stays_when_r_t_equals_the_target() -> None:
    ada = ADA(target=0.0, interval=1, p=0.2)
    ada.observe(answer(1.0, -1.0))
    assert ada.p == torch.tensor(0.2)


def test_without_a_target_p_is_only_annealed() -> None:
    ada = ADA(target=None, p=0.25)
    for _ in range(9):
        assert ada.observe(answer(1.0))["p"] == 0.25
    anneal = {
        "ada": Anneal("augment.ada.p", 0.0, 0.5, 1000, "linear"),
        "hue": Anneal("augment.ada.ops.hue", 0, 1, 1000, "linear"),
    }
    apply_anneal(anneal, {"augment": nn.ModuleDict({"ada": ada})}, 500)
    assert ada.p == 0.25 and ada.ops["hue"] == 0.5
    apply_anneal(anneal, {"augment": nn.ModuleDict({"ada": ada})}, 2000)
    assert ada.p == 0.5


def test_restored_state_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    logits = [Output(torch.randn(16, 2) + 0.8) for _ in range(21)]
    whole, first, second = ADA(kimg=1), ADA(kimg=1), ADA(kimg=1)
    for output in logits[:10]:
        first.observe(output)
    assert {name: value.dtype for name, value in first.state_dict().items()} == {"p": torch.float32, "seen": torch.int64}
    second.load_state_dict(first.state_dict())
    expected = [whole.observe(output) for output in logits][10:]
    assert [second.observe(output) for output in logits[10:]] == expected
    assert whole.p > 0 and all(torch.equal(a, b) for a, b in zip(whole.buffers(), second.buffers(), strict=True))


def adapt_half(rank: int, logits: Tensor, folder: Path) -> None:
    ada = ADA(kimg=1, interval=2, target=0.3)
    for batch in logits:
        ada.observe(Output(batch[rank]))
    torch.save(ada.state_dict(), folder / f"{rank}.pt")


def test_two_processes_adapt_p_like_one(tmp_path: Path) -> None:
    """Each has half of the batch; the end is in the middle of an interval."""
    torch.manual_seed(0)
    logits = torch.randn(7, 2, 8, 1) + 0.5
    on_two_ranks(adapt_half, logits, tmp_path)
    whole = ADA(kimg=1, interval=2, target=0.3)
    for batch in logits:
        whole.observe(Output(batch.flatten(0, 1)))
    assert whole.p > 0 and whole.seen[3] == 1
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(state[name], value) for name, value in whole.state_dict().items())


# -- a run -------------------------------------------------------------------------------------------------------------

RUN = [
    "augment=[ada]", "augment.ada.p=0.5", "augment.ada.kimg=0.1", "augment.ada.interval=1", "augment.ada.ops.cutout=1",
    "regularizer=[r1]", *NARROW["cdcgan"], *BARE, "logger=[csv]",
]  # fmt: skip


def test_resumed_run_equals_the_whole_one(cli: Callable[..., Answer], tmp_path: Path) -> None:
    ended = cli(*RUN, "trainer.max_steps=4", "hydra.run.dir=whole")
    assert ended.code == 0, ended.err
    assert cli(*RUN, "trainer.max_steps=2", "hydra.run.dir=parts").code == 0
    ended = cli("task=resume", "run=parts", "trainer.max_steps=4")
    assert ended.code == 0 and "resumed at step 2" in ended.out, ended.err
    rows, states = {}, {}
    for name in ("whole", "parts"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            rows[name] = [(row["ada/p"], row["ada/r_t"]) for row in csv.DictReader(file) if row["ada/p"]]
        states[name] = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert rows["whole"] == rows["parts"] and len(rows["whole"]) == 4
    assert float(rows["whole"][0][0]) != 0.5
    assert "augment.ada.p" in states["whole"] and states["whole"].keys() == states["parts"].keys()
    assert all(torch.equal(value, states["parts"][name]) for name, value in states["whole"].items())


def test_invalid_options_are_named_by_their_config_key(cli: Callable[..., Answer]) -> None:
    ended = cli("augment=[ada]", "+augment.ada.ops.blur=1", *BARE)
    assert ended.code == 2 and "augment.ada.ops.blur: unknown operation; must be one of" in ended.err
    ended = cli("augment=[ada]", "augment.ada.ops.hue=-1", *BARE)
    assert ended.code == 2 and "augment.ada.ops.hue: must be a finite number of at least 0, got -1" in ended.err
