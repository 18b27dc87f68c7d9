"""What the parts of the game rely on: passes made once, terms of both players, augmentations, constraints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BARE, NARROW, Answer
from helpers import Shift, Watch, fit, make_gan
from torch import Tensor, nn

from ganexp import losses, regularizers
from ganexp.augment import Augmentation
from ganexp.constraints import Constraint
from ganexp.networks import mlp
from ganexp.networks.frozen import Frozen
from ganexp.networks.output import Output
from ganexp.regularizers import R1, R2, WGANGP, AuxiliaryClassifier, Term
from ganexp.regularizers.features import FeatureMatching
from ganexp.round import Round
from ganexp.systems.gan import GAN

# -- passes ----------------------------------------------------------------------------------------------------------

RELATIVISTIC = {"loss": losses.Relativistic()}
PASSES: dict[str, tuple[dict[str, Any], dict[str, Term], int, int]] = {  # changes, terms, passes of D and of G in one step
    "nothing": ({}, {}, 3, 1),  # real and fake, and the fakes again for G
    "r1": ({}, {"r1": R1()}, 3, 1),
    "r2": ({}, {"r2": R2()}, 3, 1),
    "r1 and r2": ({}, {"r1": R1(), "r2": R2()}, 3, 1),
    "wgan_gp": ({}, {"gp": WGANGP()}, 4, 1),  # between real and fake
    "relativistic": (RELATIVISTIC, {}, 4, 1),  # G is compared with the real images
    "R3GAN": (RELATIVISTIC, {"r1": R1(), "r2": R2()}, 4, 1),
    "features": ({}, {"features": FeatureMatching()}, 4, 1),
    "features where real images are judged anyway": (RELATIVISTIC, {"features": FeatureMatching()}, 4, 1),
    "separate": ({"separate": True}, {"r1": R1()}, 3, 1),
    "two updates of G": ({"g_steps": 2}, {"r1": R1()}, 4, 2),
    "fresh fakes": ({"fresh_fakes": True}, {}, 3, 2),
    "lazy": ({}, {"gp": WGANGP(every=2)}, 4, 1),  # the first step is its turn
}


def count_passes(system: GAN, steps: int) -> Counter[str]:
    calls: Counter[str] = Counter()
    system.discriminator.register_forward_hook(lambda *_: calls.update(d=1))
    system.generator.register_forward_hook(lambda *_: calls.update(g=1))
    fit(system, steps)
    return calls


@pytest.mark.parametrize("name", PASSES)
def test_every_forward_pass_is_made_once(name: str) -> None:
    changes, terms, d, g = PASSES[name]
    assert count_passes(make_gan(regularizers=terms, **changes), 1) == {"d": d, "g": g}


def test_lazy_term_costs_no_pass_between_its_updates() -> None:
    assert count_passes(make_gan(regularizers={"gp": WGANGP(every=4)}), 8)["d"] == 3 * 8 + 2


def test_auxiliary_classifier_costs_no_extra_pass() -> None:
    """ACGAN: the two heads of the network and both terms."""
    terms = {"class_d": AuxiliaryClassifier("discriminator", 1), "class_g": AuxiliaryClassifier("generator", 1)}
    d = mlp.Discriminator([2], [8], dropout=0.0, auxiliary=1)
    assert count_passes(make_gan(discriminator=d, terms=terms), 1) == {"d": 3, "g": 1}


# -- what D returns --------------------------------------------------------------------------------------------------


class Bare(nn.Module):
    """Gives the logits of a discriminator alone."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner(x, y).logits


def test_bare_tensor_trains_like_an_output() -> None:
    one, other = Watch(), Watch()
    fit(make_gan(regularizers={"r1": R1()}), 3, one)
    system = make_gan(regularizers={"r1": R1()})
    system.discriminator = Bare(system.discriminator)
    fit(system, 3, other)
    torch.testing.assert_close(other.d, one.d, rtol=0, atol=0)
    torch.testing.assert_close(other.g, one.g, rtol=0, atol=0)


def test_every_logit_column_reaches_the_loss() -> None:
    seen: list[tuple[int, ...]] = []

    class Spy(losses.BCE):
        def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
            seen.append(tuple(fake.shape))
            return super().generator(fake, real)

    system = make_gan(loss=Spy(), discriminator=mlp.Discriminator([2], [8], dropout=0.0, outputs=3))
    before = system.discriminator.head.out.weight.detach().clone()
    fit(system, 1)
    assert seen == [(16, 3)] and (system.discriminator.head.out.weight != before).any(1).all()


# -- terms -----------------------------------------------------------------------------------------------------------


class OfG(Term):
    """Writes down what a term of G is given."""

    player = "generator"

    def __init__(self, every: int = 1):
        super().__init__(every=every)
        self.rounds: list[dict[str, Any]] = []

    def forward(self, round: Round) -> Tensor:
        if self.training:
            frozen = not any(p.requires_grad for p in round.discriminator.parameters())
            learns = all(p.requires_grad for p in round.generator.parameters())
            again = round.generator(round.z, round.y)
            same = torch.equal(again, round.fake)
            self.rounds.append(
                {"frozen": frozen, "learns": learns, "same": same, "z": round.z.clone(), "real": round.real.clone()}
            )
        return self.weight * round.fake.square().mean()


@pytest.mark.parametrize("changes", [{}, {"fresh_fakes": True}, {"accumulate": 2}, {"g_steps": 3}], ids=str)
def test_term_of_g_sees_z_g_and_a_frozen_d(changes: dict[str, Any]) -> None:
    term = OfG()
    fit(make_gan(regularizers={"mine": term}, **changes), 2)
    assert len(term.rounds) == 2 * changes.get("g_steps", 1) * changes.get("accumulate", 1)
    assert all(seen["frozen"] and seen["learns"] and seen["same"] for seen in term.rounds)
    assert len({seen["z"].sum().item() for seen in term.rounds}) == len(term.rounds)


def test_term_of_g_trains_g_alone() -> None:
    plain, watch = Watch(), Watch()
    fit(make_gan(), 1, plain)
    system = make_gan(regularizers={"mine": OfG()})
    fit(system, 1, watch)
    assert torch.equal(watch.d[0], plain.d[0]) and not torch.equal(watch.g[0], plain.g[0])
    seen = system.scalars.latest
    torch.testing.assert_close(seen["loss/generator"], seen["loss/generator/adversarial"] + seen["loss/generator/mine"])
    assert "loss/discriminator/mine" not in seen


@pytest.mark.parametrize("d_steps, every, expected", [(1, 1, 12), (1, 4, 3), (3, 1, 4), (3, 2, 2), (2, 4, 2)])
def test_lazy_terms_of_g_count_its_own_updates(d_steps: int, every: int, expected: int) -> None:
    term = OfG(every)
    fit(make_gan(regularizers={"mine": term}, d_steps=d_steps), 12)
    assert len(term.rounds) == expected


def test_lazy_term_of_g_is_weighted_n_fold() -> None:
    values = []
    for every in (1, 3):
        system = make_gan(regularizers={"mine": OfG(every)})
        fit(system, 1)
        values.append(system.scalars.latest["loss/generator/mine"])
    torch.testing.assert_close(values[1], 3 * values[0])


class Silent(Term):
    def forward(self, round: Round) -> Tensor | None:
        return None


def test_term_may_return_nothing() -> None:
    plain, watch = Watch(), Watch()
    fit(make_gan(), 2, plain)
    system = make_gan(regularizers={"silent": Silent()})
    fit(system, 2, watch)
    torch.testing.assert_close(watch.d, plain.d, rtol=0, atol=0)
    assert not any("silent" in name for name in system.scalars.latest)


class Counts(Term):
    """Its state is how often it was asked, and its value so many."""

    def __init__(self, player: regularizers.Player = "discriminator"):
        super().__init__()
        self.player = player
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, round: Round) -> Tensor:
        if self.training:
            self.asked += 1
        round.scalars["asked"] = self.asked.clone()
        return self.asked.clone()


def test_separate_updates_compute_a_term_once() -> None:
    """Two updates of D: the term belongs to the one on the real batch."""
    for separate in (False, True):
        system = make_gan(regularizers={"counts": Counts()}, separate=separate)
        fit(system, 3)
        assert system.terms["counts"].asked == 3
        seen = system.scalars.latest
        assert seen["loss/discriminator/counts"] == 3 and seen["asked"] == 3


def test_state_of_a_term_is_saved() -> None:
    system = make_gan(regularizers={"counts": Counts()}, terms={"own": Counts("generator")})
    fit(system, 3)
    state = system.state_dict()
    assert state["terms.counts.asked"] == 3 and state["terms.own.asked"] == 3
    again = make_gan(regularizers={"counts": Counts()}, terms={"own": Counts("generator")})
    again.load_state_dict(state)
    assert again.terms["counts"].asked == 3
    assert again.double().terms["counts"].asked.dtype == torch.float64
    assert again.to("meta").terms["own"].asked.device.type == "meta"


def test_checking_shapes_changes_no_state() -> None:
    system = make_gan(regularizers={"counts": Counts()})
    system.check_shapes((2,))
    assert system.terms["counts"].asked == 0 and system.training and system.terms["counts"].training


class Fails(Term):
    def forward(self, round: Round) -> Tensor:
        raise RuntimeError("wants four columns")


def test_objects_of_a_wrong_class_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^regularizers\.mine: Linear is not a ganexp\.regularizers\.Term"):
        make_gan(regularizers={"mine": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match=r"^augment\.mine: R1 is not a ganexp\.augment\.Augmentation"):
        make_gan(augment={"mine": R1()})
    with pytest.raises(ValueError, match=r"^constraints\.mine: R1 is not a ganexp\.constraints\.Constraint"):
        make_gan(constraints={"mine": R1()})
    with pytest.raises(ValueError, match=r"^regularizers\.mine: wants four columns"):
        make_gan(regularizers={"mine": Fails()}).check_shapes((2,))


def test_duplicate_and_reserved_term_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^regularizers\.class_d: the model or its loss already has a term of this name"):
        make_gan(terms={"class_d": Silent()}, regularizers={"class_d": R1()})
    with pytest.raises(ValueError, match=r"^regularizers\.real: the model or its loss already has a term of this name"):
        make_gan(regularizers={"real": R1()}).check_shapes((2,))
    with pytest.raises(ValueError, match=r"^regularizers\.adversarial: the model or its loss already has a term of this name"):
        make_gan(regularizers={"adversarial": OfG()}).check_shapes((2,))
    for name in ("a.b", "train", ""):
        with pytest.raises(ValueError, match=r"^regularizers\."):
            make_gan(regularizers={name: R1()})


# -- augmentations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, calls", [({}, 1), ({"accumulate": 4}, 4), ({"separate": True}, 1), ({"d_steps": 2}, 1)], ids=str
)
def test_augmentation_observes_the_logits_of_augmented_real_images(changes: dict[str, Any], calls: int) -> None:
    augment, real = Shift(), []

    class Spy(losses.BCE):
        def real(self, logits: Tensor) -> Tensor:
            real.append(logits.detach().clone())
            return super().real(logits)

    system = make_gan(loss=Spy(), augment={"shift": augment}, **changes)
    fit(system, 2)
    assert len(augment.observed) == 2 * calls == len(real)
    for output, logits in zip(augment.observed, real, strict=True):
        assert torch.equal(output.logits, logits)
    mean = torch.stack([logits.mean() for logits in real[calls:]]).mean()
    torch.testing.assert_close(system.scalars.latest["shift/seen"], mean)


def test_everything_d_sees_is_augmented() -> None:
    system, seen = make_gan(augment={"shift": Shift(1000.0)}, loss=losses.Relativistic()), []
    system.discriminator.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].mean().item()))
    fit(system, 1)
    assert len(seen) == 4 and min(seen) > 900


def test_state_of_an_augmentation_is_saved() -> None:
    assert make_gan(augment={"shift": Shift(3.0)}).state_dict()["augment.shift.by"] == 3


class Pairs(Augmentation):
    samples = 2

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x) // 2, -1)


def test_d_may_see_several_samples_at_once() -> None:
    system = make_gan(
        augment={"pairs": Pairs()}, discriminator=mlp.Discriminator([4], [8], dropout=0.0), regularizers={"r1": R1()}
    )
    system.check_shapes((2,))
    assert system.samples_per_row == 2
    rows: list[int] = []
    system.discriminator.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    fit(system, 1)
    assert rows == [8, 8, 8]
    with pytest.raises(RuntimeError):  # a discriminator for single samples
        make_gan(augment={"pairs": Pairs()}).check_shapes((2,))


PAIRS = """
from ganexp.augment import Augmentation


class Pairs(Augmentation):
    samples = 2

    def forward(self, x):
        return x.reshape(len(x) // 2, -1)
"""


@pytest.mark.parametrize("changes, part", [(["data.batch_size=9"], 9), (["data.batch_size=6", "model.accumulate=2"], 3)])
def test_batch_must_be_a_multiple_of_the_packed_samples(
    changes: list[str], part: int, cli: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "pairs.py").write_text(PAIRS)
    choices = ["model=mlp", "data=sine", *BARE, *NARROW["mlp"], "model.discriminator.shape=[4]"]
    choices += ["+augment.pairs._target_=pairs.Pairs"]
    answer = cli(*choices, *changes)
    assert answer.code == 2 and "Traceback" not in answer.err
    assert f"data.batch_size: each part of {part} on a device must be a multiple of the 2 samples of pack" in answer.err
    assert cli(*choices).code == 0


def test_parts_of_one_sample_are_refused_by_a_term_that_needs_two(cli: Callable[..., Answer]) -> None:
    choices = ["model=dcgan", *BARE, *NARROW["dcgan"], "data.batch_size=4", "model.accumulate=4"]
    answer = cli(*choices, "regularizer=[sliced_features]")
    expected = "data.batch_size: each part of 1 on a device must have at least 2 samples, for sliced_features"
    assert answer.code == 2 and expected in answer.err
    assert cli(*choices).code == 0


def test_images_are_float32_for_terms_and_augmentations() -> None:
    """G's are bfloat16 in mixed precision."""
    x = torch.zeros(2, 1, 4, 4, dtype=torch.bfloat16)
    round = Round(nn.Identity(), nn.Flatten(), [], x, x, torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))
    assert round.real.dtype == round.fake.dtype == torch.float32


# -- constraints -----------------------------------------------------------------------------------------------------


class Wraps(Constraint):
    def __init__(self, name: str, log: list[str]):
        self.name, self.log = name, log

    def apply(self, discriminator: nn.Module) -> nn.Module:
        self.log.append(f"apply {self.name}")
        return Bare(discriminator) if self.name == "first" else discriminator

    def after_step(self, discriminator: nn.Module) -> None:
        assert isinstance(discriminator, Bare)
        self.log.append(f"after {self.name}")


@pytest.mark.parametrize("separate, updates", [(False, 1), (True, 2)])
def test_constraints_are_applied_in_order_after_every_update_of_d(separate: bool, updates: int) -> None:
    log: list[str] = []
    system = make_gan(constraints={name: Wraps(name, log) for name in ("first", "second")}, separate=separate, g_steps=2)
    assert log == ["apply first", "apply second"] and isinstance(system.discriminator, Bare)
    fit(system, 3)
    assert log[2:] == ["after first", "after second"] * 3 * updates


class Halve(Constraint):
    def after_step(self, discriminator: nn.Module) -> None:
        with torch.no_grad():
            for p in discriminator.parameters():
                p.mul_(0.5)


def test_g_is_updated_against_the_constrained_d() -> None:
    free, held = Watch(), Watch()
    fit(make_gan(), 1, free)
    fit(make_gan(constraints={"halve": Halve()}), 1, held)
    torch.testing.assert_close(held.d[0], free.d[0] / 2)
    assert not torch.equal(held.g[0], free.g[0])


# -- what is trained -------------------------------------------------------------------------------------------------


class Projected(nn.Module):
    """A discriminator on features that do not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Frozen(nn.Sequential(nn.Linear(2, 16), nn.ReLU()))
        self.head = mlp.Discriminator([16], [8], dropout=0.0)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return self.head(self.features(x), y)


def test_frozen_part_is_neither_trained_nor_saved() -> None:
    system = make_gan(discriminator=Projected(), ema_half_life=100.0)
    before = [p.clone() for p in system.discriminator.features.network.parameters()]
    watch = Watch()
    trainer = fit(system, 2, watch)
    after = list(system.discriminator.features.network.parameters())
    assert all(torch.equal(a, b) and a.grad is None for a, b in zip(after, before, strict=True))
    assert not torch.equal(watch.g[0], watch.g[1])  # G learns through it
    trained = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in after}
    assert not any("features" in name for name in system.state_dict())
    assert system.double().discriminator.features.network[0].weight.dtype == torch.float64


def test_optimizers_get_trainable_weights_only() -> None:
    system = make_gan()
    first = system.discriminator.hidden[0]
    first.requires_grad_(False)
    before = first.weight.clone()
    trainer = fit(system, 2)
    in_d, in_g = ({id(p) for group in o.param_groups for p in group["params"]} for o in trainer.optimizers)
    assert in_d == {id(p) for p in system.discriminator.head.parameters()}
    assert in_g == {id(p) for p in system.generator.parameters()}
    assert torch.equal(first.weight, before) and not first.weight.requires_grad  # frozen before G's turn, and after it
