"""The adversarial losses against their formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ganexp.losses import BCE, Hinge, LeastSquares, Relativistic, Wasserstein

REAL, FAKE = np.array([[2.0], [-1.0], [0.25]]), np.array([[0.5], [-3.0], [1.5]])
LOSSES = [BCE, Hinge, Wasserstein, LeastSquares, Relativistic]


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log(1 + np.exp(x))


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(REAL, requires_grad=True), torch.tensor(FAKE, requires_grad=True)


# The class, D's terms, G's loss.
FORMULAS = [
    (BCE, {"real": softplus(-REAL).mean(), "fake": softplus(FAKE).mean()}, softplus(-FAKE).mean()),
    # real: max(0, -1), max(0, 2), max(0, 0.75); fake: max(0, 1.5), max(0, -2), max(0, 2.5)
    (Hinge, {"real": 2.75 / 3, "fake": 4 / 3}, 1 / 3),
    (Wasserstein, {"real": -1.25 / 3, "fake": -1 / 3}, 1 / 3),
    # real: 1, 4, 0.5625; fake: 0.25, 9, 2.25; G: 0.25, 16, 0.25
    (LeastSquares, {"real": 5.5625 / 6, "fake": 11.5 / 6}, 16.5 / 6),
    (Relativistic, {"pair": softplus(FAKE - REAL).mean()}, softplus(REAL - FAKE).mean()),
]


@pytest.mark.parametrize("make, terms, generator", FORMULAS, ids=lambda v: getattr(v, "__name__", ""))
def test_formula(make: type, terms: dict[str, float], generator: float) -> None:
    loss = make()
    real, fake = tensors()
    found = loss.discriminator(real, fake)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(terms, rel=1e-9)
    g = loss.generator(fake, real if loss.needs_real else None)
    assert g.shape == () and g.item() == pytest.approx(generator, rel=1e-9)


@pytest.mark.parametrize("make", LOSSES)
def test_d_and_g_pull_in_opposite_directions(make: type) -> None:
    """D's loss falls as real logits rise and fake ones sink; G's falls as fake ones rise."""
    loss = make()
    # Inside the hinge's margins and on the near side of the least-squares targets, where every loss has a slope.
    real, fake = torch.tensor([[0.5], [-0.3]], requires_grad=True), torch.tensor([[0.2], [0.6]], requires_grad=True)
    d_real, d_fake = torch.autograd.grad(sum(loss.discriminator(real, fake).values()), [real, fake])
    assert (d_real < 0).all() and (d_fake > 0).all()
    (g_fake,) = torch.autograd.grad(loss.generator(fake, real if loss.needs_real else None), fake)
    assert (g_fake < 0).all()


def test_only_the_relativistic_loss_needs_real_logits() -> None:
    assert [make.needs_real for make in LOSSES] == [False, False, False, False, True]


def test_the_relativistic_loss_sees_pairs() -> None:
    """Only differences count: a shift of all logits changes nothing."""
    real, fake = tensors()
    loss = Relativistic()
    assert loss.discriminator(real + 5, fake + 5)["pair"].item() == pytest.approx(loss.discriminator(real, fake)["pair"].item())
    assert loss.discriminator(real + 5, fake)["pair"].item() < loss.discriminator(real, fake)["pair"].item()


@pytest.mark.parametrize("target", [0.0, 0.3, 0.9, 1.0])
def test_bce_targets(target: float) -> None:
    """-t log s(x) - (1 - t) log(1 - s(x)), each of the three with its own target."""
    real, fake = tensors()

    def cross_entropy(x: np.ndarray, t: float) -> float:
        return float((t * softplus(-x) + (1 - t) * softplus(x)).mean())

    terms = BCE(real=target).discriminator(real, fake)
    assert terms["real"].item() == pytest.approx(cross_entropy(REAL, target))
    assert terms["fake"].item() == pytest.approx(cross_entropy(FAKE, 0))  # smoothing is one-sided
    terms = BCE(fake=target).discriminator(real, fake)
    assert terms["real"].item() == pytest.approx(cross_entropy(REAL, 1))
    assert terms["fake"].item() == pytest.approx(cross_entropy(FAKE, target))
    assert BCE(generator=target).generator(fake, None).item() == pytest.approx(cross_entropy(FAKE, target))
    assert BCE(real=target, fake=target).generator(fake, None).item() == pytest.approx(cross_entropy(FAKE, 1))


@pytest.mark.parametrize("side", ["real", "fake", "generator"])
def test_noisy_labels_are_drawn_for_every_sample(side: str) -> None:
    """At logit 0 the gradient of the mean is (1/2 - t) / N: it shows each sample's label."""
    torch.manual_seed(0)
    n = 1000
    loss = BCE(**{side: [0.6, 0.8]})

    def labels() -> torch.Tensor:
        x = torch.zeros(n, 1, requires_grad=True)
        term = loss.generator(x, None) if side == "generator" else loss.discriminator(x, x.detach())["real"]
        if side == "fake":
            term = loss.discriminator(x.detach(), x)["fake"]
        return 0.5 - n * torch.autograd.grad(term, x)[0]

    first = labels()
    assert 0.6 - 1e-4 <= first.min() < 0.605 and 0.795 < first.max() <= 0.8 + 1e-4
    assert first.mean().item() == pytest.approx(0.7, abs=0.01)
    assert len(first.unique()) > 0.9 * n
    assert not torch.equal(first, labels())


@pytest.mark.parametrize("name", ["real", "fake", "generator"])
@pytest.mark.parametrize("target", [-0.1, 1.1, float("nan"), [0.9, 0.8], [-0.1, 0.5], [0.5, 1.5], [0.5], [0.1, 0.2, 0.3], []])
def test_bad_targets_are_refused_by_name(name: str, target: float | list[float]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        BCE(**{name: target})
