"""The adversarial losses against their formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ganexp.losses import BCE, ELBO, MMD, Hinge, LeastSquares, Relativistic, Wasserstein

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
def test_loss_matches_its_formula(make: type, terms: dict[str, float], generator: float) -> None:
    loss = make()
    real, fake = tensors()
    found = loss.discriminator(real, fake)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(terms, rel=1e-9)
    g = loss.generator(fake, real if loss.needs_real else None)
    assert g.shape == () and g.item() == pytest.approx(generator, rel=1e-9)


@pytest.mark.parametrize("make", LOSSES)
def test_losses_of_d_and_g_pull_in_opposite_directions(make: type) -> None:
    """D's loss falls as real logits rise and fake ones fall; G's falls as fake ones rise."""
    loss = make()
    # Inside the hinge's margins and on the near side of the least-squares targets, where every loss has a slope.
    real, fake = torch.tensor([[0.5], [-0.3]], requires_grad=True), torch.tensor([[0.2], [0.6]], requires_grad=True)
    d_real, d_fake = torch.autograd.grad(sum(loss.discriminator(real, fake).values()), [real, fake])
    assert (d_real < 0).all() and (d_fake > 0).all()
    (g_fake,) = torch.autograd.grad(loss.generator(fake, real if loss.needs_real else None), fake)
    assert (g_fake < 0).all()


def test_only_the_relativistic_loss_needs_real_logits() -> None:
    assert [make.needs_real for make in LOSSES] == [False, False, False, False, True]


def test_relativistic_loss_depends_on_differences_of_pairs() -> None:
    """A shift of all logits changes nothing."""
    real, fake = tensors()
    loss = Relativistic()
    assert loss.discriminator(real + 5, fake + 5)["pair"].item() == pytest.approx(loss.discriminator(real, fake)["pair"].item())
    assert loss.discriminator(real + 5, fake)["pair"].item() < loss.discriminator(real, fake)["pair"].item()


@pytest.mark.parametrize("target", [0.0, 0.3, 0.9, 1.0])
def test_bce_uses_its_targets(target: float) -> None:
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
def test_noisy_targets_are_sampled_for_every_image(side: str) -> None:
    """At logit 0 the gradient of the mean is (1/2 - t) / N: it shows the target of each image."""
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
def test_bce_refuses_invalid_targets_by_name(name: str, target: float | list[float]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        BCE(**{name: target})


def test_bce_weight_scales_the_loss_of_d_alone() -> None:
    real, fake = tensors()
    whole, half = BCE(), BCE(weight=0.5)
    for side, term in whole.discriminator(real, fake).items():
        assert half.discriminator(real, fake)[side].item() == pytest.approx(term.item() / 2)
    assert half.generator(fake, None).item() == whole.generator(fake, None).item()
    with pytest.raises(ValueError, match=r"^weight: "):
        BCE(weight=0.0)


# -- losses without a discriminator ----------------------------------------------------------------------------------


def mmd_by_hand(fake: np.ndarray, real: np.ndarray, widths: list[float]) -> float:
    scale = np.mean([((a - b) ** 2).sum() for a in real for b in real])

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.exp(-((a - b) ** 2).sum() / (2 * w**2 * scale)) for w in widths]))

    def within(x: np.ndarray) -> float:
        return float(np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]))

    return within(fake) + within(real) - 2 * float(np.mean([kernel(a, b) for a in fake for b in real]))


def test_mmd_is_the_unbiased_estimate() -> None:
    random = np.random.default_rng(0)
    fake, real = random.normal(size=(5, 3)), random.normal(1, 2, size=(7, 3))
    found = MMD([0.5, 2.0])(torch.from_numpy(fake), torch.from_numpy(real)).item()
    assert found == pytest.approx(mmd_by_hand(fake, real, [0.5, 2.0]), rel=1e-9)


def test_mmd_does_not_depend_on_blocks_or_on_the_scale() -> None:
    torch.manual_seed(0)
    fake, real = torch.randn(2100, 2, dtype=torch.float64) + 1, torch.randn(1500, 2, dtype=torch.float64)
    whole = MMD()(fake, real).item()
    assert MMD()(10 * fake, 10 * real).item() == pytest.approx(whole, rel=1e-9)
    shuffled = fake[torch.randperm(len(fake))]
    assert MMD()(shuffled, real).item() == pytest.approx(whole, rel=1e-9)


def test_mmd_is_about_zero_for_equal_distributions_and_grows_with_the_distance() -> None:
    torch.manual_seed(0)
    real = torch.randn(1000, 2)
    values = [MMD()(torch.randn(1000, 2) + shift, real).item() for shift in (0, 0.5, 1, 2)]
    assert abs(values[0]) < 0.003 and 0.01 < values[1] < values[2] < values[3]


def test_mmd_pulls_samples_towards_the_real_ones() -> None:
    torch.manual_seed(0)
    fake, real = (torch.randn(64, 2) + 2).requires_grad_(), torch.randn(64, 2)
    (slope,) = torch.autograd.grad(MMD()(fake, real), fake)
    assert (slope.mean(0) > 0).all()  # down the slope is towards the origin


def test_mmd_refuses_too_few_samples_and_invalid_widths() -> None:
    with pytest.raises(ValueError, match="needs at least two samples in each set"):
        MMD()(torch.randn(1, 2), torch.randn(5, 2))
    for widths in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match=r"^widths: "):
            MMD(widths)


def elbo_parts() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return (
        random.normal(size=(4, 1, 3, 3)),
        random.normal(size=(4, 1, 3, 3)),
        random.normal(size=(4, 2)),
        random.normal(size=(4, 2)),
    )


@pytest.mark.parametrize("beta, sigma", [(1.0, 1.0), (4.0, 0.5), (1.0, None)])
def test_elbo_matches_its_formula(beta: float, sigma: float | None) -> None:
    """Per sample: squared error over 2 sigma² summed over pixels, or with the best sigma its logarithm; and the divergence."""
    again, x, mean, log_variance = elbo_parts()
    terms = ELBO(beta, sigma)(*(torch.from_numpy(a) for a in (again, x, mean, log_variance)))
    errors = ((again - x) ** 2).sum((1, 2, 3))
    if sigma is None:
        best = np.sqrt(errors.mean() / 9)
        expected = 9 * np.log(best)  # plus 9/2, a constant
    else:
        expected = (errors / (2 * sigma**2)).mean()
    assert terms["reconstruction"].item() == pytest.approx(expected)
    divergence = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1).mean()
    assert terms["divergence"].item() == pytest.approx(beta * divergence)


def test_elbo_divergence_of_the_prior_is_zero() -> None:
    x = torch.ones(2, 1, 2, 2)
    assert ELBO()(0 * x, x, torch.zeros(2, 3), torch.zeros(2, 3))["divergence"] == 0


@pytest.mark.parametrize("arguments", [{"beta": -1.0}, {"sigma": 0.0}])
def test_elbo_refuses_invalid_arguments(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))}: "):
        ELBO(**arguments)


def test_mmd_is_the_same_under_autocast() -> None:
    """bf16 squares of differences are off by more than the estimate."""
    torch.manual_seed(0)
    fake, real = torch.randn(100, 64) * 0.1 - 0.8, torch.randn(100, 64) * 0.1 - 0.8
    with torch.autocast("cpu", torch.bfloat16):
        found = MMD()(fake, real)
    assert found.item() == pytest.approx(MMD()(fake, real).item(), abs=1e-7)


def test_hinge_samples_its_margin_per_logit() -> None:
    torch.manual_seed(0)
    zeros = torch.zeros(4096, 1)
    loss = Hinge([0.8, 1.0])
    for value in (loss.real(zeros), loss.fake(zeros)):  # the mean margin
        assert value.item() == pytest.approx(0.9, abs=0.005)
    assert loss.real(torch.full((64, 1), 0.79)) > 0 and loss.real(torch.full((64, 1), 1.01)) == 0


@pytest.mark.parametrize("margin", [0, -1.0, [1.0, 0.8], [0.0, 1.0], [1.0]])
def test_hinge_refuses_other_margins(margin: object) -> None:
    with pytest.raises(ValueError, match=r"^margin: must be a number above 0, or a range"):
        Hinge(margin)  # type: ignore[arg-type]
