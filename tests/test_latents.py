"""The priors: shapes, ranges and moments."""

from __future__ import annotations

import pytest
import torch

from ganexp.latents import Normal, Uniform

CPU = torch.device("cpu")


@pytest.mark.parametrize("make", [Normal, Uniform])
def test_samples_have_the_asked_shape(make: type) -> None:
    assert make().sample(3, CPU).shape == (3, 100)
    z = make(dim=7).sample(2, CPU)
    assert z.shape == (2, 7) and z.dtype == torch.float32
    assert make(dim=7).dim == 7
    assert make(dim=7).sample(2, torch.device("meta")).device.type == "meta"


@pytest.mark.parametrize("make", [Normal, Uniform])
@pytest.mark.parametrize("dim", [0, -1])
def test_latent_refuses_a_dimension_below_1(make: type, dim: int) -> None:
    with pytest.raises(ValueError, match=r"^dim: "):
        make(dim)


# E z², E z⁴
@pytest.mark.parametrize("make, second, fourth", [(Normal, 1, 3), (Uniform, 1 / 3, 1 / 5)])
def test_samples_have_the_moments_of_the_distribution(make: type, second: float, fourth: float) -> None:
    torch.manual_seed(0)
    z = make(dim=4).sample(50_000, CPU).double()
    assert z.mean(0).abs().max() < 0.02
    torch.testing.assert_close(z.T @ z / len(z), second * torch.eye(4).double(), atol=0.02, rtol=0)
    assert z.pow(4).mean().item() == pytest.approx(fourth, rel=0.05)


def test_uniform_covers_its_range() -> None:
    torch.manual_seed(0)
    z = Uniform(dim=10).sample(1000, CPU)
    assert -1 <= z.min() < -0.99 and 0.99 < z.max() <= 1


@pytest.mark.parametrize("make", [Normal, Uniform])
def test_samples_follow_the_global_seed(make: type) -> None:
    torch.manual_seed(3)
    first, second = make(5).sample(2, CPU), make(5).sample(2, CPU)
    torch.manual_seed(3)
    assert torch.equal(first, make(5).sample(2, CPU)) and not torch.equal(first, second)
