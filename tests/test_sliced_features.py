"""The sliced Wasserstein distance of features, which G minimizes."""

from __future__ import annotations

import pytest
import torch
from test_regularizer_methods import Same, play
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks.output import Output
from ganexp.regularizers.features import SlicedFeatures
from ganexp.round import Round


class Mapped(nn.Module):
    """Its one map is the image times 2, its features beside it are flat."""

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return Output(x.mean((1, 2, 3))[:, None], None, (2 * x, x.flatten(1)))


def images(n: int, seed: int = 0, side: int = 16) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def value(real: Tensor, fake: Tensor, d: nn.Module | None = None, **options: float) -> Tensor:
    torch.manual_seed(0)
    found = SlicedFeatures(**options)(play(d or Mapped(), real, fake))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_distance_matches_a_computation_by_hand() -> None:
    """First column, halves of real 2 4 | 1 3, of fake 0 3 | 2 5: the four W(real, fake) are 2.5, 0.5, 0.5, 2.5, in the mean 1.5;
    W(real, real') is 1, W(fake, fake') 4; the variance of all eight is 18 / 7. Second column: 2, 4, 4, and 16 / 7."""
    real = torch.tensor([[4.0, 5.0], [2.0, 1.0], [1.0, 3.0], [3.0, 3.0]])
    fake = torch.tensor([[0.0, 3.0], [3.0, 3.0], [5.0, 1.0], [2.0, 5.0]])
    expected = ((1.5 - 0.5 - 2) / (18 / 7) + (2 - 2 - 2) / (16 / 7)) / 2
    assert float(SlicedFeatures.distance(real, fake)) == pytest.approx(expected)
    assert SlicedFeatures.distance(torch.cat([real, real[:1]]), torch.cat([fake, fake[:1]])).isfinite()  # an odd number


def test_distance_of_the_same_distribution_is_zero_in_the_mean() -> None:
    distances = [value(images(32, i, 8), images(32, 100 + i, 8)) for i in range(40)]
    assert float(torch.stack(distances).mean()) == pytest.approx(0, abs=0.01)
    assert float(value(images(32), images(32, 1) + 1)) > 0.25


def test_term_scales_with_its_weight_and_takes_every_image_size() -> None:
    real, fake = images(8), images(8, 1)
    assert float(value(real, fake, weight=3.0)) == pytest.approx(3 * float(value(real, fake)), rel=1e-5)
    for side in (8, 15, 64):
        assert value(images(4, side=side), images(4, 1, side)).isfinite()


def test_gradient_leads_to_the_deviation_of_the_real_images() -> None:
    """From a hundredth of it. With the plain Wasserstein distance of batches it would end at 0.92."""
    deviation = torch.tensor(0.01, requires_grad=True)
    optimizer = torch.optim.SGD([deviation], 0.2)
    means = []
    for i in range(120):
        optimizer.zero_grad()
        SlicedFeatures(directions=32)(play(Mapped(), images(32, i, 8), deviation * images(32, 1000 + i, 8))).backward()  # type: ignore[union-attr]
        optimizer.step()
        means.append(deviation.item())
    assert sum(means[-60:]) / 60 == pytest.approx(1, abs=0.02)


def test_details_count_beside_bright_and_dark_images() -> None:
    """Blurred copies of images whose brightness differs a hundred times as much as their pixels do."""
    brightness = 100 * torch.randn(2, 64, 1, 1, 1, generator=torch.Generator().manual_seed(5))
    real, fake = images(64) + brightness[0], F.avg_pool2d(images(64, 1), 3, 1, 1) + brightness[1]
    torch.manual_seed(0)
    assert float(SlicedFeatures().of_places(real, fake, 5)) > 0.1


def test_patches_are_projected_as_by_a_convolution() -> None:
    real, fake = torch.randn(4, 3, 9, 12), torch.randn(4, 3, 9, 12)
    torch.manual_seed(1)
    found = SlicedFeatures().of_places(real, fake, 5)
    torch.manual_seed(1)
    filters = torch.randn(16, 3, 5, 5)
    filters -= filters.mean((2, 3), keepdim=True)
    rows, columns = torch.randint(5, (64,)), torch.randint(8, (64,))
    a, b = (F.conv2d(x, filters)[:, :, rows, columns].flatten(1) for x in (real, fake))
    torch.testing.assert_close(found, SlicedFeatures.distance(a, b))


def test_term_trains_g_alone() -> None:
    term = SlicedFeatures()
    assert term.player == "generator" and not list(term.parameters())
    real, fake = images(8).requires_grad_(), images(8, 1).requires_grad_()
    value(real, fake * 1.0).backward()
    assert real.grad is None and fake.grad is not None and fake.grad.abs().sum() > 0


def test_features_of_d_change_the_distance() -> None:
    """A D that tells the batches apart makes the distance larger; flat features are left out."""

    class Sharper(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Output:
            return Output(x.mean((1, 2, 3))[:, None], None, ((x + 10 * (x.std() > 1.5)),))

    real, fake = images(16), 2 * images(16, 1)
    assert float(value(real, fake, Sharper())) > 2 * float(value(real, fake))


def test_term_refuses_invalid_options_and_points() -> None:
    with pytest.raises(ValueError, match="directions: must be at least 1"):
        SlicedFeatures(directions=0)
    points = torch.zeros(4, 1)
    with pytest.raises(ValueError, match="needs images"):
        SlicedFeatures()(Round(nn.Identity(), Same(), [], points, points, points, torch.zeros(4, dtype=torch.long)))
