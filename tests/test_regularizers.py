"""The gradient penalties for discriminators with known gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganexp.augment import Augmentation
from ganexp.networks.output import Output
from ganexp.regularizers import R1, R2, WGANGP, Term
from ganexp.round import Round

W = [3.0, 4.0]  # |w| = 5
REAL = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
FAKE = torch.tensor([[0.0, 3.0], [1.0, 1.0]])


class Scores(nn.Module):
    """A discriminator whose logits are a known function of x; `seen`: what it was shown."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function, self.seen = function, []

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.function(x)


def linear(w: Tensor) -> Scores:
    """Gradient w everywhere."""
    return Scores(lambda x: x.flatten(1) @ w[:, None] + 7)


def quadratic(a: Tensor) -> Scores:
    """Gradient a · x."""
    return Scores(lambda x: (a * x.flatten(1).square()).sum(1, keepdim=True) / 2)


def make_round(d: nn.Module, *terms: Term, real: Tensor = REAL, fake: Tensor = FAKE, augment: Any = ()) -> Round:
    """As the game makes it for these terms."""
    sides = {side for term in terms for side in term.differentiable}
    labels = torch.zeros(len(real), dtype=torch.int64)
    return Round(nn.Identity(), d, augment, real, fake, torch.zeros(len(real), 1), labels, sides)


def penalty_of(term: Term, d: nn.Module, real: Tensor = REAL, fake: Tensor = FAKE) -> Tensor:
    value = term(make_round(d, term, real=real, fake=fake))
    assert value is not None
    return value


@pytest.mark.parametrize("make, expected", [(R1, 25 / 2), (R2, 25 / 2), (WGANGP, 16)])
@pytest.mark.parametrize("weight", [1.0, 0.5, 10.0])
def test_penalties_of_a_linear_d_match_the_closed_form(make: type, expected: float, weight: float) -> None:
    penalty = penalty_of(make(weight=weight), linear(torch.tensor(W)))
    assert penalty.shape == () and penalty.item() == pytest.approx(weight * expected)


def test_default_weights_are_the_published_ones() -> None:
    assert (R1().weight, R2().weight, WGANGP().weight) == (1, 1, 10)


@pytest.mark.parametrize("make", [R1, R2, WGANGP])
@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}])
def test_invalid_options_are_refused_by_name(make: type, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        make(**options)


# |a x|² with a = (1, 2): real 1, 4 + 4; fake 36, 1 + 4.
@pytest.mark.parametrize("make, expected", [(R1, (1 + 8) / 2 / 2), (R2, (36 + 5) / 2 / 2)])
def test_penalties_of_a_quadratic_d_match_the_closed_form(make: type, expected: float) -> None:
    assert penalty_of(make(weight=1.0), quadratic(torch.tensor([1.0, 2.0]))).item() == pytest.approx(expected)


def test_gradient_norm_of_an_image_covers_all_its_pixels() -> None:
    real, fake = torch.zeros(5, 3, 4, 4), torch.ones(5, 3, 4, 4)
    score = linear(torch.full((48,), 0.5))  # |w|² = 12
    assert penalty_of(R1(1.0), score, real, fake).item() == pytest.approx(6)
    assert penalty_of(WGANGP(1.0), score, real, fake).item() == pytest.approx((12**0.5 - 1) ** 2)


# d/dw of weight/2 |w|² is weight w; of weight (|w| - 1)² it is 2 weight (|w| - 1) w/|w| = 2 weight · 4/5 w
@pytest.mark.parametrize("make, factor", [(R1, 1.0), (R2, 1.0), (WGANGP, 1.6)])
def test_penalty_trains_d(make: type, factor: float) -> None:
    w = torch.tensor(W, requires_grad=True)
    penalty_of(make(weight=3.0), linear(w)).backward()
    torch.testing.assert_close(w.grad, 3 * factor * w.detach())


def test_norm_of_a_zero_gradient_is_differentiable() -> None:
    w = torch.zeros(2, requires_grad=True)
    penalty = penalty_of(WGANGP(10.0), linear(w))
    penalty.backward()
    assert penalty.item() == 10 and w.grad is not None and w.grad.isfinite().all()


def test_batches_collect_no_gradient() -> None:
    w = torch.tensor(W, requires_grad=True)
    for make in (R1, R2, WGANGP):
        real, fake = (torch.tensor(x.tolist(), requires_grad=True) for x in (REAL, FAKE))
        penalty_of(make(), quadratic(w), real, fake).backward()
        assert real.grad is None and fake.grad is None


def seen_by(make: type, real: Tensor, fake: Tensor) -> Tensor:
    """What D is shown."""
    d = Scores(lambda x: x.flatten(1).sum(1, keepdim=True))
    penalty_of(make(), d, real, fake)
    (x,) = d.seen
    return x


def test_r1_uses_real_and_r2_fake_images() -> None:
    assert torch.equal(seen_by(R1, REAL, FAKE), REAL)
    assert torch.equal(seen_by(R2, REAL, FAKE), FAKE)


def test_wgan_gp_uses_points_between_real_and_fake() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(500, 3, 2, 2), torch.randn(500, 3, 2, 2)
    x = seen_by(WGANGP, real, fake)
    t = ((x - real) * (fake - real)).sum((1, 2, 3)) / (fake - real).square().sum((1, 2, 3))
    torch.testing.assert_close(x, real + t[:, None, None, None] * (fake - real))  # one t for all pixels of an image
    assert 0 <= t.min() < 0.02 and 0.98 < t.max() <= 1
    assert t.mean().item() == pytest.approx(0.5, abs=0.05) and t.var().item() == pytest.approx(1 / 12, abs=0.01)


# -- one round: what losses and penalties share ----------------------------------------------------------------------

Y = torch.zeros(2, dtype=torch.int64)


def test_penalty_of_several_logits_uses_the_gradient_of_their_mean() -> None:
    """Columns with the gradients (3, 4), (1, 0), (2, 2): their mean is (2, 2)."""
    w = torch.tensor([[3.0, 1.0, 2.0], [4.0, 0.0, 2.0]])
    d = Scores(lambda x: x @ w)
    assert penalty_of(R1(), d).item() == pytest.approx(8 / 2)
    assert penalty_of(WGANGP(1.0), d).item() == pytest.approx((8**0.5 - 1) ** 2)


def test_penalties_reuse_the_forward_pass_of_the_loss() -> None:
    d = quadratic(torch.tensor([1.0, 2.0]))
    r1, r2 = R1(), R2()
    round = make_round(d, r1, r2)
    logits = round.output("real").logits
    values = [term(round) for term in (r1, r2, r1)]
    assert [x.tolist() for x in d.seen] == [REAL.tolist(), FAKE.tolist()]  # each once, in all of that
    assert round.output("real").logits is logits and logits.grad_fn is not None
    assert values[0] == values[2] == penalty_of(r1, d) and values[1] == penalty_of(r2, d)


def test_gradients_of_a_side_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    inner = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: calls.append(1) or inner(*args, **options))
    round = make_round(linear(torch.tensor(W)), R1())
    assert R1()(round) == R1()(round) and calls == [1]


def test_side_without_a_penalty_needs_no_gradient() -> None:
    round = make_round(linear(torch.tensor(W)), R1())
    assert round.fake is FAKE and round.real.requires_grad and not REAL.requires_grad and torch.equal(round.real, REAL)


def test_term_of_g_with_a_gradient_of_d_trains_g() -> None:
    """The gradient by images that came from G: it reaches G's weights through the penalty and through the loss."""
    shift = torch.zeros(2, requires_grad=True)
    round = make_round(quadratic(torch.tensor([1.0, 2.0])), R2(), fake=FAKE + shift)
    round.output("fake").logits.sum().backward(retain_graph=True)
    torch.testing.assert_close(shift.grad, (torch.tensor([1.0, 2.0]) * FAKE).sum(0))
    shift.grad = None
    R2()(round).backward()  # the mean of (x² + 4 y²) / 2: the sum of x / 2 and of 4 y / 2
    torch.testing.assert_close(shift.grad, (torch.tensor([1.0, 4.0]) * FAKE).sum(0) / 2)


class Twice(Augmentation):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Pairs(Augmentation):
    """Two samples beside each other are one row."""

    samples = 2

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x) // 2, -1)


def test_penalty_uses_the_gradient_by_images_before_augmentation() -> None:
    d = linear(torch.tensor(W))
    term = R1()
    assert term(make_round(d, term, augment=[Twice()])).item() == pytest.approx(4 * 25 / 2)
    assert torch.equal(d.seen[0], 2 * REAL)


def test_penalty_of_packed_samples_uses_their_joint_gradient() -> None:
    """|w|² of a row: that of both of its samples together."""
    d, term = linear(torch.tensor([3.0, 4.0, 0.0, 12.0])), R1()
    round = make_round(d, term, augment=[Pairs()])
    assert round.output("real").logits.shape == (1, 1) and round.output("real").logits.item() == 3 * 1 - 12 + 7
    assert term(round).item() == pytest.approx(169 / 2)
    assert WGANGP(1.0)(make_round(d, augment=[Pairs()])).item() == pytest.approx((13 - 1) ** 2)


def test_packed_row_has_the_label_of_its_first_sample() -> None:
    class Labels(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return y[:, None].float()

    x = torch.zeros(6, 2)
    round = Round(nn.Identity(), Labels(), [Pairs()], x, x, torch.zeros(6, 1), torch.arange(6))
    assert round.output("real").logits.flatten().tolist() == [0, 2, 4]


def test_augmentations_are_applied_in_order() -> None:
    class More(Augmentation):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    for augment, expected in (([Twice(), More()], 2 * REAL + 1), ([More(), Twice()], 2 * (REAL + 1))):
        d = linear(torch.tensor(W))
        make_round(d, augment=augment).output("real")
        assert torch.equal(d.seen[0], expected)


def test_features_come_from_the_pass_of_the_logits() -> None:
    class Shows(nn.Module):
        calls = 0

        def forward(self, x: Tensor, y: Tensor) -> Output:
            self.calls += 1
            return Output(x.sum(1, keepdim=True), None, (x,))

    d = Shows()
    round = make_round(d)
    difference = round.output("real").features[0] - round.output("fake").features[0]
    assert torch.equal(difference, REAL - FAKE) and round.output("fake").logits.shape == (2, 1) and d.calls == 2


def test_passes_for_penalties_run_without_autocast() -> None:
    d = nn.Linear(2, 1)
    kinds: list[torch.dtype] = []
    inner = Scores(lambda x: d(x))
    d.register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        round = make_round(inner, R1(), real=REAL.bfloat16())
        assert round.output("real").logits.dtype == round.output("fake").logits.dtype == round.real.dtype == torch.float32
        round.gradient_at(REAL)
        with torch.autocast("cpu", enabled=False):  # as terms are called
            round.score(FAKE)
    assert kinds == [torch.float32, torch.bfloat16, torch.float32, torch.bfloat16]
