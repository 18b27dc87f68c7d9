"""Constraints on D: on its weights, and on its function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import NARROW, TINY, Answer
from helpers import compose, play
from torch import Tensor, nn

from ganexp.cli.build import build
from ganexp.constraints import Freeze, GradientNorm, SpectralNorm, WeightClip, weighted_layers
from ganexp.networks import acgan, dcgan, mlp, patch, r3gan, stylegan2
from ganexp.networks.layers import MinibatchStd
from ganexp.networks.output import Output, as_output
from ganexp.regularizers import R1
from ganexp.regularizers.features import FeatureMatching
from ganexp.round import Round
from ganexp.systems.gan import any_second_order

NO_CLASS = torch.zeros(6, dtype=torch.long)


def fitted(*overrides: str) -> Any:
    """Two batches of small networks on digits."""
    return play(compose("model=dcgan", *TINY, "model.width_multiplier=0.04", *overrides))


# -- spectral norm -----------------------------------------------------------------------------------------------------


def norms(d: nn.Module) -> list[float]:
    """The greatest singular value of each layer that has a matrix."""
    weights = [getattr(module, "weight", None) for module in d.modules()]
    matrices = [w.detach().flatten(1) for w in weights if isinstance(w, Tensor) and w.ndim > 1]
    return [torch.linalg.svdvals(w)[0].item() for w in matrices]


@pytest.mark.parametrize(
    "make",
    [
        lambda: dcgan.Discriminator([1, 16, 16], 4, classes=3),
        lambda: mlp.Discriminator([1, 16, 16], [16, 8]),
        lambda: patch.Discriminator([1, 16, 16], 4),
    ],
    ids=["dcgan", "mlp", "patch"],
)
def test_spectral_norm_makes_the_largest_singular_value_1(make: Callable[[], nn.Module]) -> None:
    d = make()
    assert max(abs(norm - 1) for norm in norms(d)) > 0.1
    d = SpectralNorm().apply(d)
    x = torch.randn(6, 1, 16, 16)
    for _ in range(100):
        d(x, NO_CLASS)
    assert norms(d) == pytest.approx([1] * len(norms(d)), abs=0.01) and len(norms(d)) == len(weighted_layers(d))
    buffers = {name.rpartition(".")[2] for name in d.state_dict() if "parametrizations" in name}
    assert buffers == {"original", "_u", "_v"}


@pytest.mark.parametrize("d, message", [
    (lambda: stylegan2.Discriminator([1, 16, 16], 64, 8), r"rescale their weights, unlike ganexp\.networks\.stylegan2\.Conv"),
    (lambda: r3gan.Discriminator([1, 16, 16], [4, 4, 4]), "weights that are all 0"),
])  # fmt: skip
def test_spectral_norm_refuses_layers_that_it_would_break(d: Callable[[], nn.Module], message: str) -> None:
    """They would divide by 0, or scale a normalized weight once more."""
    with pytest.raises(ValueError, match=message):
        SpectralNorm().apply(d())


def test_spectral_norm_iterates_once_per_pass_in_training_only() -> None:
    torch.manual_seed(0)
    d, x = SpectralNorm().apply(mlp.Discriminator([4], [5], dropout=0.0)), torch.randn(6, 4)
    held: Any = d.hidden[0].parametrizations.weight
    held[0]._v.copy_(nn.functional.normalize(torch.ones(4), dim=0))
    u = nn.functional.normalize(held.original.detach() @ held[0]._v, dim=0)
    v = nn.functional.normalize(held.original.detach().T @ u, dim=0)
    d(x, NO_CLASS)
    torch.testing.assert_close((held[0]._u, held[0]._v), (u, v))
    d.eval()(x, NO_CLASS)
    torch.testing.assert_close((held[0]._u, held[0]._v), (u, v))


def test_spectral_norm_is_saved_in_the_state_of_the_system() -> None:
    system = fitted("constraint=[spectral_norm]")
    assert sum(name.endswith("_u") for name in system.state_dict()) == len(weighted_layers(system.discriminator)) == 3
    assert not any(name.startswith("generator") and "parametrizations" in name for name in system.state_dict())


# -- gradient normalization --------------------------------------------------------------------------------------------


class LinearD(nn.Module):
    """a · x; as many logits as `a` has columns."""

    def __init__(self, a: Tensor):
        super().__init__()
        self.a = nn.Parameter(a.clone())

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return Output(x.flatten(1) @ self.a, None, (x,))


A = torch.tensor([[3.0], [4.0]])  # |a| = 5


def test_gradient_norm_of_a_linear_d_matches_the_closed_form() -> None:
    torch.manual_seed(0)
    plain, d, x = LinearD(A), GradientNorm().apply(LinearD(A)), 3 * torch.randn(6, 2)
    score = x @ plain.a
    expected = score / (plain.a.norm() + score.abs())
    found = d(x, NO_CLASS).logits
    torch.testing.assert_close(found, expected)
    (by_hand,) = torch.autograd.grad(expected.square().sum(), plain.a)
    (gradient,) = torch.autograd.grad(found.square().sum(), d.parameters())
    torch.testing.assert_close(gradient, by_hand)
    assert torch.equal(d(x, NO_CLASS).features[0], x)


def test_gradient_norm_passes_gradients_to_g() -> None:
    """By x: |a| a / (|a| + |a x|)²."""
    x = torch.tensor([[1.0, -2.0]], requires_grad=True)
    (2 * GradientNorm().apply(LinearD(A))(x, NO_CLASS[:1]).logits).sum().backward()
    torch.testing.assert_close(x.grad, 2 * 5 * A.T / (5 + 5) ** 2)


def test_gradient_norm_bounds_logits_by_1() -> None:
    torch.manual_seed(0)
    d = GradientNorm().apply(dcgan.Discriminator([1, 16, 16], 4, norm=False, classes=3))
    for scale in (1e-3, 1.0, 1e3):
        logits = d(scale * torch.randn(6, 1, 16, 16), NO_CLASS).logits
        assert logits.shape == (6, 1) and logits.abs().max() <= 1 and logits.isfinite().all()


def test_gradient_norm_works_without_gradients() -> None:
    torch.manual_seed(0)
    d, x = GradientNorm().apply(mlp.Discriminator([2], [8], dropout=0.0, auxiliary=2)), torch.randn(6, 2)
    with torch.no_grad():
        output = d(x, NO_CLASS)
    torch.testing.assert_close(output.logits, d(x, NO_CLASS).logits)
    assert not any(t.requires_grad for t in (output.logits, output.classes, *output.features))


def test_r1_combines_with_gradient_norm() -> None:
    """The slope of s / (|a| + |s|) in x is |a| / (|a| + |s|)² times a."""
    d, x = GradientNorm().apply(LinearD(A)), torch.tensor([[1.0, 0.5], [-1.0, 2.0]])
    round = Round(nn.Identity(), d, [], x, x, x, NO_CLASS[:2], ["real"])
    value = R1(weight=2.0)(round)
    score = (x @ A).abs()
    assert value.item() == pytest.approx((25 / (5 + score) ** 2).square().mean().item())
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in d.parameters())
    assert torch.equal(round.output("real").logits, d(x, NO_CLASS[:2]).logits)
    fitted("model.discriminator.norm=false", "constraint=[gradient_norm]", "regularizer=[r1,r2]", "loss=hinge")


@pytest.mark.parametrize(
    "d, layer",
    [
        (dcgan.Discriminator([1, 8, 8], 2), "batch norm"),
        (acgan.Discriminator([1, 8, 8], 2), "batch norm"),
        (nn.Sequential(MinibatchStd(2)), "minibatch_std"),
    ],
)
def test_gradient_norm_refuses_layers_that_mix_images(d: nn.Module, layer: str) -> None:
    with pytest.raises(ValueError, match=f"gradient normalization does not support {layer}; set model.discriminator"):
        GradientNorm().apply(d)


def test_gradient_norm_refuses_several_logits(cli: Callable[..., Answer]) -> None:
    with pytest.raises(ValueError, match="needs one logit, this discriminator returns 2"):
        GradientNorm().apply(LinearD(torch.ones(2, 2)))(torch.randn(6, 2), NO_CLASS)
    answer = cli("model=mlp", "constraint=[gradient_norm]", "model.discriminator.outputs=2", *TINY, *NARROW["mlp"])
    assert answer.code == 2 and "this discriminator returns 2" in answer.err and "Traceback" not in answer.err, answer.err


# -- weight clipping ---------------------------------------------------------------------------------------------------


def test_weights_are_clipped_after_every_update() -> None:
    system = fitted("loss=wasserstein", "constraint=[weight_clip]", "constraint.weight_clip.limit=0.005")
    for p in system.discriminator.parameters():
        assert p.abs().max().item() <= 0.005 + 1e-9
    assert max(p.abs().max().item() for p in system.discriminator.parameters()) == pytest.approx(0.005)
    assert max(p.abs().max().item() for p in system.generator.parameters()) > 0.05
    with pytest.raises(ValueError, match=r"^limit: "):
        WeightClip(0.0)


# -- frozen layers -----------------------------------------------------------------------------------------------------


def moved(*overrides: str) -> dict[str, bool]:
    """Which of D's parameters two batches change."""
    composed = compose("model=dcgan", *TINY, "model.width_multiplier=0.04", *overrides)
    torch.manual_seed(1)  # as play does
    before = dict(build(composed["model"], "model").discriminator.named_parameters())
    after = dict(play(composed).discriminator.named_parameters())
    return {name: not torch.equal(before[name], p) for name, p in after.items()}


@pytest.mark.parametrize(
    "layers, frozen",
    [
        (1, {"blocks.0.weight", "blocks.0.bias"}),
        (2, {"blocks.0.weight", "blocks.0.bias", "blocks.2.weight", "blocks.3.weight", "blocks.3.bias"}),
    ],
)
def test_freeze_keeps_the_first_layers(layers: int, frozen: set[str]) -> None:
    """And the batch norm between them; the others learn."""
    found = moved("constraint=[freeze]", f"constraint.freeze.layers={layers}")
    assert {name for name, moves in found.items() if not moves} == frozen
    assert len(found) == len(frozen) + (5 if layers == 1 else 2)


def test_freeze_leaves_the_last_layer_that_is_a_parameter_of_d_itself() -> None:
    d = Freeze(1).apply(r3gan.Discriminator([3, 32, 32], widths=[16], group=8))
    assert [name for name, p in d.named_parameters() if not p.requires_grad] == ["from_rgb.weight"]


def test_freeze_combines_with_spectral_norm() -> None:
    found = moved("constraint=[spectral_norm,freeze]", "constraint.freeze.layers=1")
    assert {name for name, moves in found.items() if not moves} == {"blocks.0.bias", "blocks.0.parametrizations.weight.original"}


def test_freeze_leaves_at_least_one_layer_to_train() -> None:
    d = mlp.Discriminator([2], [8, 8])
    assert Freeze(2).apply(d) is d and [p.requires_grad for p in d.parameters()] == [False] * 4 + [True] * 2
    with pytest.raises(ValueError, match=r"^layers: must be below 3, the layers of this discriminator, got 3"):
        Freeze(3).apply(mlp.Discriminator([2], [8, 8]))
    with pytest.raises(ValueError, match=r"^layers: must be at least 1"):
        Freeze(0)


def test_constraints_accept_bare_logits() -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.sum(1, keepdim=True)

    x = torch.ones(6, 4)
    torch.testing.assert_close(as_output(GradientNorm().apply(Bare())(x, NO_CLASS)).logits, torch.full((6, 1), 4 / (2 + 4)))


def test_updates_under_a_gradient_norm_are_differentiated_twice() -> None:
    """So they run without torch.compile's networks."""
    assert any_second_order({"a": R1()}) and any_second_order({}, {"a": SpectralNorm(), "b": GradientNorm()})
    assert not any_second_order({"a": FeatureMatching()}, {"a": SpectralNorm()})
