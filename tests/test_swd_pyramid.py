"""The sliced Wasserstein distance of a Laplacian pyramid's patches: a value by hand, and the order of distortions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import scipy.ndimage
import torch
from torch import Tensor

from ganexp.metrics.features import Pixels
from ganexp.metrics.swd_pyramid import PyramidSlicedWasserstein, laplacian_pyramid, normalized, patches_of


def measure(real: Tensor, fake: Tensor, **options: int) -> dict[str, float]:
    metric = PyramidSlicedWasserstein(Pixels(), **options)
    metric.setup(SimpleNamespace(shape=tuple(real.shape[1:])))  # type: ignore[arg-type]
    for side, x in ((True, real), (False, fake)):
        for part in x.split(40):
            metric.update(part, real=side)
    return {name.removesuffix("/pixels"): float(value) for name, value in metric.compute().items()}


def smooth(n: int, seed: int, side: int = 64) -> Tensor:
    """Images with structure at all scales."""
    noise = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    parts = [torch.from_numpy(scipy.ndimage.gaussian_filter(noise, [0, 0, s, s])) * s for s in (0.5, 2, 8)]
    return torch.stack(parts).sum(0).tanh()


def test_value_matches_a_computation_by_hand() -> None:
    """Images of one grey, as large as a patch: -1 and 1 against -1, -1, -1 and 1. Scaled, the fakes are thrice -1/√3 and once √3;
    the sorted ones are 1 - 1/√3 apart for a half, 1 + 1/√3 for a quarter, √3 - 1 for a quarter. A direction with the sum s makes
    that |s| times as much."""
    grey = torch.ones(4, 1, 7, 7)
    real, fake = (torch.tensor(values)[:, None, None, None] * grey for values in ([-1.0, 1, -1, 1], [-1.0, -1, -1, 1]))
    third = 3**-0.5
    apart = (1 - third) / 2 + (1 + third) / 4 + (3**0.5 - 1) / 4
    directions = torch.randn(49, 256, generator=torch.Generator().manual_seed(0))
    expected = float(1000 * apart * (directions / directions.norm(dim=0)).sum(0).abs().mean())
    assert measure(real, fake, directions=256) == pytest.approx({"swd_pyramid": expected, "swd_pyramid_7": expected}, rel=1e-4)


def test_every_level_has_its_own_value() -> None:
    x = smooth(8, 0)
    found = measure(x, x + 0.1 * torch.randn_like(x), patches=16)
    assert list(found) == ["swd_pyramid", "swd_pyramid_64", "swd_pyramid_32", "swd_pyramid_16"]
    assert found["swd_pyramid"] == pytest.approx(sum(list(found.values())[1:]) / 3)
    assert [tuple(level.shape[2:]) for level in laplacian_pyramid(torch.randn(2, 1, 64, 50), 3)] == [(64, 50), (32, 25), (16, 13)]


def test_pyramid_levels_add_up_to_the_image() -> None:
    """A flat image is in the coarsest level alone."""
    x = smooth(2, 0, 32)
    fine, coarse = laplacian_pyramid(x, 2)
    spread = torch.zeros_like(x)
    spread[:, :, ::2, ::2] = coarse
    taps = torch.tensor([1.0, 4, 6, 4, 1]).numpy() / 8
    wide = scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(spread, taps, 2, mode="mirror"), taps, 3, mode="mirror")
    torch.testing.assert_close(fine + torch.from_numpy(wide), x)
    fine, coarse = laplacian_pyramid(torch.full((1, 3, 32, 32), 0.7), 2)
    assert fine[:, :, 1:-1, 1:-1].abs().max() < 1e-6
    torch.testing.assert_close(coarse, torch.full_like(coarse, 0.7))


def test_patches_are_random_and_reproducible() -> None:
    x = torch.arange(2 * 64 * 64).view(2, 1, 64, 64).float()
    a, b = (patches_of(x, 32, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(a, b) and a.shape == (64, 1, 7, 7)
    assert torch.equal(a[:, 0, 0, 1:] - a[:, 0, 0, :-1], torch.ones(64, 6))  # neighbours, of one image
    assert torch.equal(a[:, 0, 1:, 0] - a[:, 0, :-1, 0], torch.full((64, 6), 64.0))
    assert (a[:32] < 4096).all() and (a[32:] >= 4096).all() and len(a[:, 0, 0, 0].unique()) > 50


def test_channels_are_normalized_one_by_one() -> None:
    x = smooth(20, 0) * torch.tensor([1.0, 5, 0.1])[:, None, None] + torch.tensor([0.0, 3, -1])[:, None, None]
    patches = normalized(patches_of(x, 8, torch.Generator()))
    assert patches.mean((0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(patches.var((0, 2, 3)), torch.ones(3), rtol=1e-3, atol=0)
    assert not normalized(torch.full((4, 1, 7, 7), 2.0)).any()


@pytest.mark.slow
def test_value_grows_with_distortion() -> None:
    """Blur is seen at the finest level and not at the coarsest, a change of large structures there."""
    real, same = smooth(120, 0), smooth(120, 1)
    near = measure(real, same, patches=32)
    blurred = [torch.from_numpy(scipy.ndimage.gaussian_filter(same, [0, 0, sigma, sigma])) for sigma in (0.5, 1, 2)]
    found = [near, *(measure(real, x, patches=32) for x in blurred)]
    assert [x["swd_pyramid_64"] for x in found] == sorted(x["swd_pyramid_64"] for x in found)
    assert [x["swd_pyramid"] for x in found] == sorted(x["swd_pyramid"] for x in found)
    assert found[3]["swd_pyramid_64"] > 3 * near["swd_pyramid_64"] and found[3]["swd_pyramid_16"] < 1.2 * near["swd_pyramid_16"]
    squares = same + torch.kron((torch.rand(120, 1, 8, 8) > 0.5).float(), torch.ones(8, 8))
    assert measure(real, squares, patches=32)["swd_pyramid_16"] > 1.5 * near["swd_pyramid_16"]


def test_counts_of_real_and_fake_may_differ() -> None:
    """The same images twice have the same distribution; batches are of 40."""
    x = smooth(40, 0)
    assert measure(x, torch.cat([x, x]), patches=32)["swd_pyramid"] < 1e-3


@pytest.mark.parametrize("options", [{"patches": 0}, {"directions": 0}])
def test_metric_refuses_invalid_options(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PyramidSlicedWasserstein(Pixels(), **options)


@pytest.mark.parametrize("shape", [(2,), (3, 6, 64)])
def test_metric_refuses_points_and_small_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="7 px"):
        PyramidSlicedWasserstein(Pixels()).setup(SimpleNamespace(shape=shape))  # type: ignore[arg-type]
