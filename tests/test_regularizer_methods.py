"""Published regularizers against closed forms: linear players, and values computed by hand."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from conftest import NARROW_ALL, TINY
from helpers import compose
from torch import Tensor, nn

from ganexp.cli.build import build
from ganexp.networks.output import Output
from ganexp.regularizers import (
    DRAGAN,
    AuxiliaryClassifier,
    Consistency,
    LatentConsistency,
    LeCam,
    PathLength,
)
from ganexp.regularizers.features import FeatureMatching
from ganexp.round import Round

A = torch.tensor([3.0, 4.0])  # |a| = 5


class LinearD(nn.Module):
    """a · x + 7; remembers what it was asked about."""

    def __init__(self, a: Tensor = A):
        super().__init__()
        self.a, self.seen = nn.Parameter(a.clone()), list[Tensor]()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return x.flatten(1) @ self.a[:, None] + 7


class LinearG(nn.Module):
    """A z as an image [C, H, W]."""

    def __init__(self, a: Tensor, shape: tuple[int, ...]):
        super().__init__()
        self.a, self.shape = nn.Parameter(a.clone()), shape

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return (z @ self.a.T).view(-1, *self.shape)


class Same(nn.Module):
    """Logits [N, 1] are the points [N, 1] themselves."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x


def play(d: nn.Module, real: Tensor, fake: Tensor, g: nn.Module | None = None, z: Tensor | None = None) -> Round:
    z = torch.zeros(len(real), 2) if z is None else z
    return Round(g or nn.Identity(), d, [], real, fake, z, torch.zeros(len(real), dtype=torch.long))


def column(*values: float) -> Tensor:
    return torch.tensor(values).float()[:, None]


# -- DRAGAN ------------------------------------------------------------------------------------------------------------


def test_dragan_of_a_linear_d_matches_the_closed_form() -> None:
    d, real = LinearD(), torch.randn(6, 2)
    value = DRAGAN(weight=3.0)(play(d, real, real))
    assert value.item() == pytest.approx(3 * (5 - 1) ** 2)
    value.backward()
    torch.testing.assert_close(d.a.grad, 3 * 2 * (5 - 1) * A / 5)
    assert DRAGAN().weight == 10


def test_dragan_penalizes_gradients_near_real_images() -> None:
    torch.manual_seed(0)
    d, real = LinearD(torch.ones(108)), 3 * torch.randn(600, 3, 6, 6) + 5
    DRAGAN()(play(d, real, real + 100))
    (x,) = d.seen
    steps = (x - real).flatten(1) / (real.std() / 2)  # a · u: one a for an image, a u for every pixel
    assert steps.min() >= -1e-5 and steps.max() <= 1 + 1e-5 and steps.max() > 0.95
    a = steps.amax(1)
    assert a.mean().item() == pytest.approx(0.5, abs=0.05) and a.var().item() == pytest.approx(1 / 12, abs=0.02)
    torch.testing.assert_close(steps.mean(1) / a, torch.full_like(a, 0.5), atol=0.15, rtol=0)
    assert (steps.std(1) / a).mean().item() == pytest.approx(1 / math.sqrt(12), abs=0.02)


# -- LeCam -------------------------------------------------------------------------------------------------------------


def test_lecam_matches_a_computation_by_hand() -> None:
    term = LeCam(weight=0.5, decay=0.75, start=2)
    assert term(play(Same(), column(9, 9), column(-9, -9))) is None
    assert term(play(Same(), column(3, 5), column(-3, -1))) is None
    assert term.means.tolist() == [4, -2]  # until it sets in they follow at once
    # Now 4 -> 4 + (0 - 4) / 4 = 3, -2 -> -2 + (2 + 2) / 4 = -1.
    real, fake = column(-2, 2).requires_grad_(), column(-1, 5).requires_grad_()
    value = term(play(Same(), real, fake))
    assert value is not None and term.means.tolist() == [3, -1] and term.updates == 3
    assert value.item() == pytest.approx(0.5 * ((0 + 9) / 2 + (16 + 0) / 2))
    value.backward()
    assert real.grad is not None and real.grad.flatten().tolist() == [0, 0.5 * 3]
    assert fake.grad is not None and fake.grad.flatten().tolist() == [-0.5 * 4, 0]


def test_lecam_starts_at_an_update_of_d_also_if_it_is_lazy() -> None:
    term = LeCam(start=5, every=4)
    inactive = [term(play(Same(), column(1, 2), column(0, 0))) is None for _ in (0, 4, 8)]
    assert inactive == [True, True, False]


def test_lecam_updates_its_averages_in_training_only() -> None:
    term = LeCam(start=0)
    term(play(Same(), column(1, 2), column(0, 0)))
    assert term.means.tolist() == [1.5, 0]  # the first means, not averages that begin at 0
    term(play(Same(), column(2, 3), column(0, 0)))
    before = {name: value.clone() for name, value in term.state_dict().items()}
    assert before.keys() == {"means", "updates"} and before["means"][0].item() == pytest.approx(0.99 * 1.5 + 0.01 * 2.5)
    assert term.eval()(play(Same(), column(7, 7), column(7, 7))) is not None
    assert all(torch.equal(before[name], value) for name, value in term.state_dict().items())
    other = LeCam(start=0)
    other.load_state_dict(before)
    assert torch.equal(other.means, term.means)


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"start": -1}, {"weight": -1.0}])
def test_lecam_refuses_invalid_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        LeCam(**options)


# -- consistency -------------------------------------------------------------------------------------------------------


class Negative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


def test_consistency_is_zero_for_a_d_that_ignores_the_transform() -> None:
    """On images of one colour, which equal their mirror images and windows."""
    torch.manual_seed(0)  # in one of 32 calls no image is mirrored
    d, flat = LinearD(torch.randn(48)), torch.randn(5, 3, 1, 1).expand(5, 3, 4, 4)
    assert Consistency(fake_weight=10.0)(play(d, flat, flat + 1)).item() == 0
    assert Consistency()(play(d, torch.randn(5, 3, 4, 4), flat)).item() > 0


def test_consistency_of_a_linear_d_matches_the_closed_form() -> None:
    """D(x) - D(-x) = 2 a · x."""
    real, fake = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 1], [0, 0]])
    for fake_weight, of_fakes in ((0.0, 0), (2.0, 2 * 4 * (49 + 0) / 2)):
        d, term = LinearD(), Consistency(3.0, fake_weight)
        term.transform = Negative()
        value = term(play(d, real, fake))
        assert value.item() == pytest.approx(3 * 4 * (9 + 16) / 2 + of_fakes)
        assert len(d.seen) == (4 if fake_weight else 2)  # of real images alone no fake is looked at
        if not fake_weight:
            value.backward()
            torch.testing.assert_close(d.a.grad, 3 * 4 * A)  # 3 · 4 · 2 (a · x) x, the mean of both


def test_consistency_mirrors_half_and_moves_by_an_eighth() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(16.0).expand(400, 1, 16, 16)
    columns = Consistency().transform(ramp)[:, 0, 0]
    mirrored = columns[:, 8] < columns[:, 7]
    assert 150 < mirrored.sum() < 250
    assert set((columns[:, 8] - 8)[~mirrored].tolist()) == set(range(-2, 3))
    assert set((Consistency().transform(ramp.mT).mT - ramp)[:, 0, 0, 8].tolist()) == set(range(-2, 3))


def test_consistency_refuses_negative_weights_and_points() -> None:
    with pytest.raises(ValueError, match=r"^fake_weight: "):
        Consistency(fake_weight=-1.0)
    with pytest.raises(ValueError, match="not points"):
        Consistency()(play(LinearD(), torch.zeros(2, 2), torch.zeros(2, 2)))


# -- latent consistency ------------------------------------------------------------------------------------------------


def linear_players() -> tuple[LinearG, LinearD, Tensor, Tensor]:
    """G, D, latents and the noise that the next call will draw for them."""
    g, d = LinearG(torch.tensor([[1.0, 2.0], [0.0, -1.0]]), (2,)), LinearD()
    z = torch.randn(5, 2)
    torch.manual_seed(3)
    noise = torch.randn_like(z)
    torch.manual_seed(3)
    return g, d, z, noise


def test_latent_consistency_of_d_matches_the_closed_form() -> None:
    g, d, z, noise = linear_players()
    term = LatentConsistency("discriminator", weight=20.0, sigma=0.5)
    value = term(play(d, torch.zeros(5, 2), g(z, z).detach(), g, z))
    assert value.item() == pytest.approx(20 * (0.5 * noise @ g.a.T @ A).square().mean().item(), rel=1e-4)
    value.backward()
    assert g.a.grad is None and d.a.grad is not None and d.a.grad.abs().sum() > 0


def test_latent_consistency_of_g_matches_the_closed_form() -> None:
    g, d, z, noise = linear_players()
    term = LatentConsistency("generator", weight=0.5, sigma=0.1)
    value = term(play(d, torch.zeros(5, 2), g(z, z), g, z))
    assert value.item() == pytest.approx(-0.5 * (0.1 * noise @ g.a.T).square().mean().item(), rel=1e-4)
    value.backward()
    expected = -0.5 * 2 * 0.01 * g.a.detach() @ noise.T @ noise / 10  # 5 samples of 2 numbers
    torch.testing.assert_close(g.a.grad, expected, rtol=1e-4, atol=1e-6)
    assert not d.seen


@pytest.mark.parametrize("mixing", [0.0, 0.9])
def test_latent_consistency_refuses_mixed_styles(mixing: float) -> None:
    composed = compose("model=stylegan2", "regularizer=[zcr]", *TINY, *NARROW_ALL, f"model.generator.mixing={mixing}")
    system = build(composed["model"], "model")
    expected = r"^regularizers\.zcr_d: .* set model\.generator\.mixing=0"
    with pytest.raises(ValueError, match=expected) if mixing else nullcontext():
        system.check_shapes((1, 8, 8))


def test_latent_consistency_refuses_sigma_0() -> None:
    with pytest.raises(ValueError, match=r"^sigma: "):
        LatentConsistency("generator", 1.0, sigma=0.0)


# -- path length -------------------------------------------------------------------------------------------------------


class Styled(nn.Module):
    """w [n, layers, dim] = z tripled for each layer; an image is the sum of A_l w_l."""

    def __init__(self, a: Tensor, shape: tuple[int, ...]):
        super().__init__()
        self.a, self.shape = nn.Parameter(a.clone()), shape  # [layers, pixels, dim]
        self.scale = nn.Parameter(torch.tensor(3.0))

    def map(self, z: Tensor, y: Tensor) -> Tensor:
        return self.scale * z[:, None].expand(-1, len(self.a), -1)

    def synthesize(self, w: Tensor) -> Tensor:
        return torch.einsum("lpd,nld->np", self.a, w).view(-1, *self.shape)


SHAPE = (2, 3, 4)


def noise_of(n: int, seed: int) -> Tensor:
    """What the next PathLength projects n images of SHAPE on, flat: deviation 1 / √(height · width)."""
    torch.manual_seed(seed)
    noise = torch.randn(n, *SHAPE).flatten(1) / math.sqrt(12)
    torch.manual_seed(seed)
    return noise


def test_path_length_of_a_linear_generator_matches_the_closed_form() -> None:
    """E |Aᵀ y|² = |A|² / (H W), whatever z; with an average of 0 that is the penalty."""
    torch.manual_seed(0)
    g, z = LinearG(torch.randn(24, 3), SHAPE), torch.randn(20_000, 3)
    term = PathLength(weight=1.0, fraction=1.0).eval()
    value = term(play(Same(), z, z, g, z)).item()
    assert value == pytest.approx(g.a.square().sum().item() / 12, rel=0.02)
    assert term.mean == 0


def test_path_length_by_w_is_the_mean_over_layers() -> None:
    torch.manual_seed(0)
    g, z = Styled(torch.randn(5, 24, 3), SHAPE), torch.randn(6, 3)
    noise, term = noise_of(6, 1), PathLength(weight=2.0, fraction=1.0, decay=0.0)
    round = play(Same(), z, z, g, z)
    value = term(round)
    lengths = torch.einsum("lpd,np->nld", g.a, noise).square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(round.scalars["path_length"], lengths.mean())
    torch.testing.assert_close(value, 2 * lengths.var(correction=0))  # decay 0: the average is that of this batch
    value.backward()
    assert g.a.grad is not None and g.a.grad.isfinite().all() and g.a.grad.abs().sum() > 0


def test_path_length_updates_its_average_in_training_only() -> None:
    torch.manual_seed(0)
    g, z = LinearG(torch.randn(24, 3), SHAPE), torch.randn(8, 3)
    term, mean = PathLength(weight=1.0, decay=0.9), 0.0
    for seed in range(3):
        lengths = (noise_of(4, seed) @ g.a).norm(dim=1)  # of half the batch
        mean = mean + 0.1 * (lengths.mean().item() - mean)
        value = term(play(Same(), z, z, g, z))
        assert term.mean.item() == pytest.approx(mean, rel=1e-5)
        assert value.item() == pytest.approx((lengths - mean).square().mean().item(), rel=1e-5)
    term.eval()(play(Same(), z, z, g, z))
    assert term.state_dict()["mean"].item() == pytest.approx(mean, rel=1e-5)


def test_path_length_works_for_points_and_small_batches() -> None:
    g, z = LinearG(torch.eye(2), (2,)), torch.randn(3, 2)
    torch.manual_seed(0)
    lengths = torch.randn(2, 2).norm(dim=1)  # no fewer than two
    torch.manual_seed(0)
    value = PathLength(weight=1.0).eval()(play(Same(), z, z, g, z))
    torch.testing.assert_close(value, lengths.square().mean())


def test_path_length_of_a_constant_generator_has_a_finite_gradient() -> None:
    """As with all units of a narrow layer dead: the length is 0."""
    g, z = LinearG(torch.zeros(24, 3), SHAPE), torch.randn(4, 3)
    PathLength(decay=0.0)(play(Same(), z, z, g, z)).backward()
    assert g.a.grad is not None and g.a.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"fraction": 0.0}, {"fraction": 1.5}, {"every": 0}])
def test_path_length_refuses_invalid_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        PathLength(**options)


# -- feature matching, auxiliary classifier ----------------------------------------------------------------------------


class Featured(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Output:
        return Output(x[:, :1], None, (x, x[:, :1].square()))


def test_feature_matching_matches_a_computation_by_hand() -> None:
    real = torch.tensor([[1.0, 2], [3, 4]], requires_grad=True)
    fake = torch.tensor([[2.0, 5], [0, 7]], requires_grad=True)
    value = FeatureMatching(weight=2.0)(play(Featured(), real, fake))
    # Means (2, 3) and (1, 6); of squares 5 and 2.
    assert value.item() == pytest.approx(2 * ((1 + 3) / 2 + 3) / 2)
    value.backward()
    assert real.grad is None  # D's features of real images are the goal
    # Two maps with half the weight 2; of the first by either feature half a sample's half, of the second by x half of 2 x.
    torch.testing.assert_close(fake.grad, torch.tensor([[-0.25 - 2, 0.25], [-0.25, 0.25]]))


def test_feature_matching_refuses_a_d_without_features() -> None:
    with pytest.raises(ValueError, match="returns no features"):
        FeatureMatching()(play(Same(), column(1, 2), column(1, 2)))


class Classes(nn.Module):
    """Says the same of every image: its class has the weight e^2, the others 1."""

    def __init__(self, count: int, named: int):
        super().__init__()
        self.logits = torch.zeros(count)
        self.logits[named] = 2.0

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return Output(x[:, :1], self.logits.expand(len(x), -1))


def test_auxiliary_classifier_matches_a_computation_by_hand() -> None:
    """Two classes, all images of class 0."""
    x = torch.zeros(4, 1)
    hit, miss = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    for named, cost in ((0, hit), (1, miss)):
        round = play(Classes(2, named), x, x)
        assert AuxiliaryClassifier("discriminator", 2, 3.0)(round).item() == pytest.approx(3 * cost)
        assert AuxiliaryClassifier("generator", 2, 3.0)(round).item() == pytest.approx(3 * cost)
    # With a class "generated", here named: wrong for the real images, right for D's fakes, wrong for G's.
    hit, miss = math.log(1 + 2 * math.exp(-2)), math.log(2 + math.exp(2))
    round = play(Classes(3, 2), x, x)
    assert AuxiliaryClassifier("discriminator", 2)(round).item() == pytest.approx((hit + miss) / 2)
    assert (round.scalars["accuracy/real"], round.scalars["accuracy/fake"]) == (0, 1)
    assert AuxiliaryClassifier("generator", 2)(round).item() == pytest.approx(miss)
    with pytest.raises(ValueError, match=r"has 3 class logits; set model\.discriminator\.auxiliary to 5"):
        AuxiliaryClassifier("generator", 5)(round)
