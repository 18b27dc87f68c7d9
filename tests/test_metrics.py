"""Distances with a known value, and extractors that stay what they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.stats
import torch
from torch import Tensor
from torchmetrics import Metric

from ganexp.losses import MMD as Discrepancy
from ganexp.metrics.diversity import Diversity
from ganexp.metrics.features import Pixels, Random
from ganexp.metrics.fid import FID
from ganexp.metrics.mmd import MMD
from ganexp.metrics.sharpness import Sharpness
from ganexp.metrics.swd import SlicedWasserstein, stretch


class PlainMMD(MMD):
    def __init__(self, features: torch.nn.Module):
        super().__init__(features, Discrepancy())


METRICS = [FID, SlicedWasserstein, PlainMMD]


def measure(metric: Metric, real: Tensor, fake: Tensor, split: Sequence[int] = ()) -> float:
    for side, x in ((True, real), (False, fake)):
        for part in x.tensor_split(list(split)):
            metric.update(part, real=side)
    return float(metric.compute())


def fid(real: Tensor, fake: Tensor, split: Sequence[int] = ()) -> float:
    return measure(FID(Pixels()), real, fake, split)


def swd(real: Tensor, fake: Tensor, **options: int) -> float:
    return measure(SlicedWasserstein(Pixels(), **options), real, fake)


def normal(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


# -- both ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", METRICS)
def test_names(make: type[Metric]) -> None:
    short = {"FID": "fid", "SlicedWasserstein": "swd", "PlainMMD": "mmd"}[make.__name__]
    assert make(Pixels()).name == f"{short}/pixels" and make(Random()).name == f"{short}/random"
    assert make(Pixels()).higher_is_better is False


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize("features", [Pixels, Random])
def test_smaller_is_better(make: type[Metric], features: type) -> None:
    """More noise is farther away."""
    real = normal(64, 192).view(64, 3, 8, 8).tanh()
    values = [measure(make(features()), real, real + s * normal(64, 192, 1).view_as(real)) for s in (0, 0.3, 1)]
    nothing = 0.05 if make is PlainMMD else 1e-4  # unbiased: below 0 for a set and itself
    assert values[0] == pytest.approx(0, abs=nothing) and values[0] < values[1] < values[2]


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize("side", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused(make: type[Metric], side: bool, value: float) -> None:
    x = normal(4, 3)
    x[2, 1] = value
    with pytest.raises(ValueError, match="real" if side else "generated"):
        make(Pixels()).update(x, real=side)


@pytest.mark.parametrize("make", METRICS)
def test_reset(make: type[Metric]) -> None:
    metric = make(Pixels())
    first = measure(metric, normal(50, 3), normal(50, 3, 1))
    metric.reset()
    other = measure(metric, normal(50, 3), normal(50, 3, 1) + 2)
    metric.reset()
    assert measure(metric, normal(50, 3), normal(50, 3, 1)) == first != other


@pytest.mark.parametrize("make", METRICS)
def test_batches_make_no_difference(make: type[Metric]) -> None:
    real, fake = normal(100, 5), normal(100, 5, 1) * 2 + 1
    whole = measure(make(Pixels()), real, fake)
    assert whole > 0.1
    for split in ([50], [1, 2, 3], [30, 31, 99]):
        assert measure(make(Pixels()), real, fake, split) == pytest.approx(whole, rel=1e-9)


# -- FID -----------------------------------------------------------------------------------------------------------------


def test_fid_is_that_of_the_matrix_square_root() -> None:
    mixed = normal(8, 8, 2)
    real, fake = normal(2000, 8) @ mixed, normal(1500, 8, 1) @ normal(8, 8, 3) + 0.5
    a, b = real.double().numpy(), fake.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root.real)
    assert fid(real, fake) == pytest.approx(expected, rel=1e-6)
    assert fid(fake, real) == pytest.approx(expected, rel=1e-6)


def test_fid_of_a_shift_is_its_square() -> None:
    real = normal(500, 4)
    assert fid(real, real + torch.tensor([1.0, 2.0, 0.0, -2.0])) == pytest.approx(9, rel=1e-5)
    assert fid(real, real) == pytest.approx(0, abs=1e-9)


def test_fid_of_scales() -> None:
    """One dimension: (m₁ - m₂)² + (s₁ - s₂)². The samples ±1 have variance 2, ±3 + 1 variance 18."""
    a, b = torch.tensor([[-1.0], [1.0]]), torch.tensor([[-2.0], [4.0]])
    assert fid(a, b) == pytest.approx(1 + (18**0.5 - 2**0.5) ** 2, rel=1e-12)


def test_fid_takes_the_unbiased_covariance() -> None:
    """The corners of the square have variance 4/3, not 1, in each of two dimensions."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert fid(corners, torch.zeros(4, 2)) == pytest.approx(8 / 3)


@pytest.mark.parametrize("n", [2, 10, 63])
def test_fid_of_fewer_samples_than_dimensions(n: int) -> None:
    real, fake = normal(n, 64), normal(n, 64, 1)
    value = fid(real, fake)
    assert isinstance(value, float) and np.isfinite(value) and value > 1
    assert fid(real, real + 1) == pytest.approx(64, rel=1e-5)


@pytest.mark.parametrize("n", [2, 10, 100])
def test_fid_is_never_negative(n: int) -> None:
    """Rounded eigenvalues must not count as variance: features of size 100 in 64 dimensions."""
    real = 100 * normal(n, 64)
    assert 0 <= fid(real, real) < 1


def test_fid_far_from_the_origin() -> None:
    """The sums are float64: what the mean adds to the products cancels again."""
    real, fake = normal(200, 4).round(decimals=3), normal(200, 4, 1).round(decimals=3)
    assert fid(real + 1000, fake + 1000) == pytest.approx(fid(real, fake), rel=1e-2)


@pytest.mark.parametrize("real, fake, side", [(1, 5, "real"), (5, 1, "fake"), (5, 0, "fake"), (0, 5, "real")])
def test_fid_needs_two_samples_a_side(real: int, fake: int, side: str) -> None:
    metric = FID(Pixels())
    for n, is_real in ((real, True), (fake, False)):
        if n:
            metric.update(normal(n, 3), real=is_real)
    with pytest.raises(ValueError, match=f"{min(real, fake)} {side} samples"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
@pytest.mark.parametrize("make", METRICS)
def test_no_samples_at_all_are_refused(make: type[Metric]) -> None:
    with pytest.raises(ValueError, match="samples"):
        make(Pixels()).compute()


# -- sliced Wasserstein --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.5, -3.0])
def test_swd_of_a_shift_in_one_dimension(shift: float) -> None:
    real = normal(300, 1)
    shuffled = real[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    assert swd(real, shuffled + shift) == pytest.approx(abs(shift), rel=1e-5)


def test_swd_of_scales_in_one_dimension() -> None:
    """W₁ of x and 3 x is 2 E|x|."""
    real = normal(300, 1)
    assert swd(real, 3 * real) == pytest.approx(2 * real.abs().mean().item(), rel=1e-5)


def test_swd_of_a_shift_in_two_dimensions() -> None:
    """|s| E|cos| = 2/π |s| over all directions, here over 20,000."""
    real = normal(50, 2)
    assert swd(real, real + torch.tensor([3.0, 4.0]), directions=20_000) == pytest.approx(5 * 2 / np.pi, rel=0.02)


def test_swd_of_unequal_counts() -> None:
    real = normal(60, 1)
    assert swd(real, real.repeat_interleave(4, 0)) == pytest.approx(0, abs=1e-6)
    assert swd(real.repeat(3, 1), real + 2) == pytest.approx(2, rel=1e-5)
    assert swd(torch.zeros(7, 1), torch.ones(4, 1)) == pytest.approx(1)
    other = 2 * normal(143, 1, 1) + 1
    expected = scipy.stats.wasserstein_distance(real.flatten(), other.flatten())
    assert swd(real, other) == pytest.approx(expected, rel=0.02)
    assert swd(other, real) == pytest.approx(expected, rel=0.02)


def test_stretch_takes_evenly_spaced_quantiles() -> None:
    rows = torch.tensor([[0.0], [1.0], [2.0]])
    assert stretch(rows, 6).flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert stretch(rows, 5).flatten().tolist() == [0, 0, 1, 2, 2]
    assert stretch(rows, 3).flatten().tolist() == [0, 1, 2]


def test_swd_of_the_same_set_is_zero_in_any_order() -> None:
    real = normal(100, 6)
    assert swd(real, real) == 0
    assert swd(real, real.flip(0)) == pytest.approx(0, abs=1e-6)


def test_swd_is_the_same_every_time_and_leaves_the_random_state_alone() -> None:
    real, fake = normal(100, 6), normal(100, 6, 1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = swd(real, fake)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert swd(real, fake) == first > 0
    assert swd(real, fake, directions=16) != first


@pytest.mark.parametrize("side", [True, False])
def test_swd_needs_both_sides(side: bool) -> None:
    metric = SlicedWasserstein(Pixels())
    metric.update(normal(5, 3), real=side)
    with pytest.raises(ValueError, match="one side"):
        metric.compute()


# -- features ------------------------------------------------------------------------------------------------------------


def test_pixels_are_the_sample_itself() -> None:
    x = normal(2, 12).view(2, 3, 2, 2)
    assert torch.equal(Pixels()(x), x.flatten(1)) and torch.equal(Pixels()(x[:, 0, 0]), x[:, 0, 0])


@pytest.mark.parametrize("channels, side", [(1, 8), (3, 8), (4, 28), (2, 64)])
def test_random_features_have_a_fixed_size(channels: int, side: int) -> None:
    features = Random(width=4)(torch.rand(3, channels, side, side))
    assert features.shape == (3, 2 * 15 * 4) and features.dtype == torch.float32 and features.isfinite().all()
    assert not features.requires_grad


def test_random_features_are_those_of_their_seed() -> None:
    x = torch.rand(3, 1, 8, 8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Random(4)(x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(Random(4)(x), first)
    assert not torch.equal(Random(4, seed=1)(x), first)


def test_random_features_are_built_once_and_see_each_image_alone() -> None:
    x, features = torch.rand(6, 1, 8, 8), Random(4)
    first = features(x)
    torch.testing.assert_close(torch.cat([features(x[:2]), features(x[2:])]), first)
    assert (first[0] != first[1]).any()


def test_random_features_refuse_points() -> None:
    with pytest.raises(ValueError, match=r"shape \[2\]"):
        Random()(torch.zeros(4, 2))


# -- MMD, diversity, sharpness -------------------------------------------------------------------------------------------


def test_mmd_is_that_of_all_features_at_once() -> None:
    real, fake = normal(40, 3), normal(30, 3, 1) + 1
    assert measure(PlainMMD(Pixels()), real, fake, split=[7, 20]) == pytest.approx(Discrepancy()(fake, real).item(), rel=1e-5)


def test_diversity_is_a_ratio_of_distances() -> None:
    real = normal(50, 4)
    assert measure(Diversity(Pixels()), real, 0.5 * real) == pytest.approx(0.5, rel=1e-5)
    expected = torch.pdist(normal(30, 4, 1) * 2).mean() / torch.pdist(real).mean()
    assert measure(Diversity(Pixels()), real, normal(30, 4, 1) * 2, split=[11]) == pytest.approx(expected.item(), rel=1e-5)
    assert measure(Diversity(Pixels()), real, real[:1].expand(20, 4)) == pytest.approx(0, abs=1e-4)
    assert Diversity(Pixels()).name == "diversity/pixels" and Diversity(Pixels()).higher_is_better is None


@pytest.mark.parametrize(
    "real, fake, message",
    [
        (torch.zeros(1, 2), torch.ones(5, 2), "1 real samples"),
        (normal(5, 2), torch.ones(1, 2), "1 generated"),
        (torch.ones(5, 2), normal(5, 2), "all alike"),
    ],
)
def test_diversity_refuses(real: Tensor, fake: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"diversity/pixels: .*{message}"):
        measure(Diversity(Pixels()), real, fake)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    """Against scipy's, on grey images; of twice the contrast it is four times as much."""
    real = normal(5, 3 * 64).view(5, 3, 8, 8)
    fake = normal(4, 3 * 64, 1).view(4, 3, 8, 8)

    def by_hand(x: Tensor) -> float:
        grey = x.mean(1).numpy().astype(np.float64)
        return float(np.mean([scipy.ndimage.laplace(image)[1:-1, 1:-1].var(ddof=1) for image in grey]))

    assert measure(Sharpness(), real, fake, split=[2]) == pytest.approx(by_hand(fake) / by_hand(real), rel=1e-5)
    assert measure(Sharpness(), real, 2 * real) == pytest.approx(4, rel=1e-5)
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    assert measure(Sharpness(), real, blurred) < 0.2


@pytest.mark.parametrize(
    "real, fake, message",
    [
        (torch.zeros(3, 2), torch.zeros(3, 2), "is of images"),
        (torch.zeros(3, 1, 3, 8), torch.zeros(3, 1, 3, 8), "4 px and more"),
        (torch.zeros(3, 1, 8, 8), normal(3, 64).view(3, 1, 8, 8), "no edges"),
        (torch.zeros(0, 1, 8, 8), normal(3, 64).view(3, 1, 8, 8), "no samples"),
        (normal(3, 64).view(3, 1, 8, 8), torch.full((3, 1, 8, 8), float("nan")), "generated samples with NaN"),
    ],
)
def test_sharpness_refuses(real: Tensor, fake: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"sharpness/laplacian: .*{message}"):
        measure(Sharpness(), real, fake)
