"""Flip and crop: what D sees, and that gradients pass through."""

from __future__ import annotations

import pytest
import torch

from ganexp.augment import Crop, Flip


def images(n: int) -> torch.Tensor:
    """Every pixel of its own value: no image is its own mirror image."""
    return torch.arange(n * 3 * 4 * 5).float().view(n, 3, 4, 5)


def mirrored(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Which images of `out` are mirrored; the others must be as they were."""
    mirror = torch.stack([x[..., i] for i in (4, 3, 2, 1, 0)], -1)
    flipped, same = ((out == y).flatten(1).all(1) for y in (mirror, x))
    assert (flipped ^ same).all()
    return flipped


def test_flip_mirrors_half_of_the_images() -> None:
    torch.manual_seed(0)
    x = images(1000)
    first, second = mirrored(x, Flip()(x)), mirrored(x, Flip()(x))
    assert 440 < first.sum() < 560
    assert not torch.equal(first, second)


@pytest.mark.parametrize("probability", [0, 1])
def test_flip_with_probability_0_or_1_mirrors_none_or_all(probability: float) -> None:
    x = images(200)
    assert (mirrored(x, Flip(probability)(x)) == bool(probability)).all()


def test_flip_mirrors_a_quarter_with_probability_one_quarter() -> None:
    torch.manual_seed(0)
    x = images(1000)
    assert 200 < mirrored(x, Flip(0.25)(x)).sum() < 300


def test_flip_returns_gradients_to_their_own_pixels() -> None:
    torch.manual_seed(0)
    x = images(50).requires_grad_()
    out = Flip()(x)
    out.square().sum().backward()  # 2 x at every pixel, wherever it went
    assert x.grad is not None and torch.equal(x.grad, 2 * x.detach())


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_flip_refuses_a_probability_outside_0_to_1(probability: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        Flip(probability)


def test_flip_refuses_points() -> None:
    with pytest.raises(ValueError, match=r"shape \[2\]"):
        Flip()(torch.zeros(8, 2))


def test_crop_shifts_each_image_by_at_most_its_fraction() -> None:
    """On a ramp, so that a pixel tells where it came from."""
    torch.manual_seed(0)
    ramp = torch.arange(16.0).expand(200, 1, 16, 16)
    found = Crop(0.25)(ramp)
    assert found.shape == ramp.shape
    moved = (found - ramp)[:, 0, 8, 8]
    assert set(moved.tolist()) == set(range(-4, 5))
    for image, by in zip(found[:20, 0], moved[:20].int().tolist(), strict=True):
        seen = torch.arange(16) + by
        mirrored = torch.where(seen < 0, -seen, torch.where(seen > 15, 30 - seen, seen))
        assert torch.equal(image, mirrored.float().expand(16, 16))
    assert set((Crop(0.25)(ramp.mT) - ramp.mT)[:, 0, 8, 8].tolist()) == set(range(-4, 5))  # up and down too
    x = torch.randn(4, 3, 9, 7, requires_grad=True)
    assert torch.equal(Crop(0.0)(x), x)
    Crop(0.0)(x).sum().backward()
    assert x.grad is not None and (x.grad == 1).all()


@pytest.mark.parametrize("fraction", [-0.1, 0.6])
def test_crop_refuses_a_fraction_outside_its_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"^fraction: must be in \[0, 0\.5\], got "):
        Crop(fraction)


def test_crop_refuses_points() -> None:
    with pytest.raises(ValueError, match="not points"):
        Crop()(torch.zeros(4, 2))
