"""The gradient penalties where D's gradient is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ganexp.regularizers import R1, R2, WGANGP

W = [3.0, 4.0]  # |w| = 5
REAL = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
FAKE = torch.tensor([[0.0, 3.0], [1.0, 1.0]])


def linear(w: Tensor) -> Callable[[Tensor], Tensor]:
    """Gradient w everywhere."""
    return lambda x: x.flatten(1) @ w[:, None] + 7


def quadratic(a: Tensor) -> Callable[[Tensor], Tensor]:
    """Gradient a · x."""
    return lambda x: (a * x.flatten(1).square()).sum(1, keepdim=True) / 2


@pytest.mark.parametrize("make, expected", [(R1, 25 / 2), (R2, 25 / 2), (WGANGP, 16)])
@pytest.mark.parametrize("weight", [1.0, 0.5, 10.0])
def test_linear_d(make: type, expected: float, weight: float) -> None:
    penalty = make(weight=weight)(linear(torch.tensor(W)), REAL, FAKE)
    assert penalty.shape == () and penalty.item() == pytest.approx(weight * expected)


def test_published_weights() -> None:
    assert (R1().weight, R2().weight, WGANGP().weight) == (1, 1, 10)


@pytest.mark.parametrize("make", [R1, R2, WGANGP])
@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}])
def test_bad_options_are_refused_by_name(make: type, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        make(**options)


# |a x|² with a = (1, 2): real 1, 4 + 4; fake 36, 1 + 4.
@pytest.mark.parametrize("make, expected", [(R1, (1 + 8) / 2 / 2), (R2, (36 + 5) / 2 / 2)])
def test_quadratic_d(make: type, expected: float) -> None:
    assert make(weight=1.0)(quadratic(torch.tensor([1.0, 2.0])), REAL, FAKE).item() == pytest.approx(expected)


def test_the_gradient_of_an_image_counts_all_its_pixels() -> None:
    real, fake = torch.zeros(5, 3, 4, 4), torch.ones(5, 3, 4, 4)
    score = linear(torch.full((48,), 0.5))  # |w|² = 12
    assert R1(1.0)(score, real, fake).item() == pytest.approx(6)
    assert WGANGP(1.0)(score, real, fake).item() == pytest.approx((12**0.5 - 1) ** 2)


# d/dw of weight/2 |w|² is weight w; of weight (|w| - 1)² it is 2 weight (|w| - 1) w/|w| = 2 weight · 4/5 w
@pytest.mark.parametrize("make, factor", [(R1, 1.0), (R2, 1.0), (WGANGP, 1.6)])
def test_the_penalty_teaches_d(make: type, factor: float) -> None:
    w = torch.tensor(W, requires_grad=True)
    make(weight=3.0)(linear(w), REAL, FAKE).backward()
    torch.testing.assert_close(w.grad, 3 * factor * w.detach())


def test_the_norm_of_no_gradient_is_differentiable() -> None:
    w = torch.zeros(2, requires_grad=True)
    penalty = WGANGP(10.0)(linear(w), REAL, FAKE)
    penalty.backward()
    assert penalty.item() == 10 and w.grad is not None and w.grad.isfinite().all()


def test_the_batches_collect_no_gradient() -> None:
    w = torch.tensor(W, requires_grad=True)
    for make in (R1, R2, WGANGP):
        real, fake = (torch.tensor(x.tolist(), requires_grad=True) for x in (REAL, FAKE))
        make()(quadratic(w), real, fake).backward()
        assert real.grad is None and fake.grad is None


def seen_by(make: type, real: Tensor, fake: Tensor) -> Tensor:
    """What the scoring function is asked about."""
    seen = []

    def score(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x.flatten(1).sum(1, keepdim=True)

    make()(score, real, fake)
    (x,) = seen
    return x


def test_r1_looks_at_real_and_r2_at_fake() -> None:
    assert torch.equal(seen_by(R1, REAL, FAKE), REAL)
    assert torch.equal(seen_by(R2, REAL, FAKE), FAKE)


def test_wgan_gp_looks_between_real_and_fake() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(500, 3, 2, 2), torch.randn(500, 3, 2, 2)
    x = seen_by(WGANGP, real, fake)
    t = ((x - real) * (fake - real)).sum((1, 2, 3)) / (fake - real).square().sum((1, 2, 3))
    torch.testing.assert_close(x, real + t[:, None, None, None] * (fake - real))  # one t for all pixels of an image
    assert 0 <= t.min() < 0.02 and 0.98 < t.max() <= 1
    assert t.mean().item() == pytest.approx(0.5, abs=0.05) and t.var().item() == pytest.approx(1 / 12, abs=0.01)
