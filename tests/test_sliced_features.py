"""The sliced Wasserstein distance of features, which G minimizes."""

from __future__ import annotations

import pytest
import torch
from test_regularizer_methods import Same, play
from torch import Tensor, nn

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
    """Sorted: 1, 2, 4 against 0, 2, 3 differ by 1, 0, 1, squared 2/3 in the mean; the real variance is 7/3. The second column is
    equal. The mean of both is 1/7."""
    real = torch.tensor([[2.0, 5.0], [4.0, 1.0], [1.0, 3.0]])
    fake = torch.tensor([[0.0, 1.0], [3.0, 3.0], [2.0, 5.0]])
    assert float(SlicedFeatures.distance(real, fake)) == pytest.approx(1 / 7)


def test_distance_of_the_same_distribution_is_near_zero() -> None:
    x = images(32)
    assert float(value(x, x.flip(0))) == pytest.approx(0, abs=1e-6)  # the order does not matter
    assert 0 < float(value(x, images(32, 1))) < 0.25 < float(value(x, images(32, 1) + 1))


def test_term_scales_with_its_weight_and_takes_every_image_size() -> None:
    real, fake = images(8), images(8, 1)
    assert float(value(real, fake, weight=3.0)) == pytest.approx(3 * float(value(real, fake)), rel=1e-5)
    for side in (8, 15, 64):
        assert value(images(4, side=side), images(4, 1, side)).isfinite()


def test_gradient_drives_similar_samples_apart() -> None:
    """From samples that are nearly equal, by gradient descent, to the deviation of the real ones."""
    real = images(32)
    fake = (0.01 * images(32, 1)).requires_grad_()
    optimizer = torch.optim.Adam([fake], 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        found = SlicedFeatures(directions=32)(play(Mapped(), real, fake * 1.0))
        found.backward()
        optimizer.step()
    assert float(fake.detach().std(0).mean()) == pytest.approx(1, abs=0.4)


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
