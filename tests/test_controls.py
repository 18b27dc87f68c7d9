"""Annealed numbers: their curves, the numbers they set, what they refuse, and exact resuming."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import BARE, NARROW, Answer
from helpers import SHORT, Shift, fit, kill_after, make_gan, rows, same, state
from torch import nn

from ganexp import losses, regularizers
from ganexp.augment import Flip
from ganexp.controls import Anneal, apply_anneal, set_number

# -- curves ----------------------------------------------------------------------------------------------------------

CURVES = {  # from 2 to 8 over 100 images: after 0, 25, 50, 100, 1000
    "linear": (2, 3.5, 5, 8, 8),
    "cosine": (2, 2 + 6 * (1 - 0.5**0.5) / 2, 5, 8, 8),
    "exponential": (2, 2 * 2**0.5, 4, 8, 8),
    "step": (2, 2, 2, 8, 8),
}


@pytest.mark.parametrize("curve", CURVES)
def test_curves_match_their_formulas(curve: Any) -> None:
    anneal = Anneal("model.ema_half_life", 2.0, 8.0, 100, curve)
    assert [anneal(images) for images in (0, 25, 50, 100, 1000)] == pytest.approx(CURVES[curve])
    down = Anneal("model.ema_half_life", 8.0, 2.0, 100, curve)
    assert [down(0), down(100), down(101)] == pytest.approx([8, 2, 2])
    assert 8 > down(25) > down(50) > down(75) > 2 if curve != "step" else down(99) == 8


def test_curve_is_a_cosine_by_default() -> None:
    assert Anneal("loss.weight", 0.0, 1.0, 4)(1) == pytest.approx((1 - 0.5**0.5) / 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("optimizer.generator.lr", 1.0, 2.0, 10), r"^key: optimizer\.generator\.lr is set by the schedule"),
        (("loss.weight", 1.0, 2.0, 0), r"^images: must be above 0, got 0"),
        (("loss.weight", 0.0, 2.0, 10, "exponential"), r"^curve: exponential needs start and end above 0"),
        (("loss.weight", 1.0, -2.0, 10, "exponential"), r"^curve: exponential needs start and end above 0"),
    ],
)
def test_anneal_refuses_invalid_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Anneal(*arguments)


# -- what a key reaches ----------------------------------------------------------------------------------------------


def test_anneal_sets_numbers_in_modules_lists_tuples_and_buffers() -> None:
    layer = nn.BatchNorm1d(2)
    roots: dict[str, Any] = {"model": layer, "d": {"list": [1.0, {"x": 2.0}], "pair": (0.9, 0.99)}}
    tensor = layer.num_batches_tracked
    numbers = {"a": "model.eps", "b": "d.list.1.x", "c": "d.pair.1", "d": "d.list.0", "e": "model.num_batches_tracked"}
    found = apply_anneal({name: Anneal(key, 5.0, 7.0, 2, "linear") for name, key in numbers.items()}, roots, 1)
    assert found == {f"anneal/{name}": 6.0 for name in numbers}
    assert layer.eps == 6 and roots["d"] == {"list": [6.0, {"x": 6.0}], "pair": (0.9, 6.0)}
    assert layer.num_batches_tracked is tensor and tensor == 6  # in place: it stays a buffer


@pytest.mark.parametrize(
    "key, message",
    [
        ("modl.x", "modl.x must begin with one of model, loss"),
        ("model", "model must begin with one of model, loss"),
        ("model.nothing", "model.nothing does not exist: there is no nothing"),
        ("loss.pair.2", "loss.pair.2 does not exist: there is no element 2"),
        ("loss.pair.x", "loss.pair.x does not exist: there is no element x"),
        ("loss.pair", r"loss.pair is \(1, 2\), not a number"),
        ("loss.flag", "loss.flag is True, not a number"),
        ("loss.name", "loss.name is 'abc', not a number"),
        ("loss.none", "loss.none is None, not a number"),
        ("loss.pair.0.x", "loss.pair.0.x does not exist: there is no x"),
    ],
)
def test_anneal_refuses_keys_that_name_no_number(key: str, message: str) -> None:
    roots = {"model": nn.Linear(1, 1), "loss": {"pair": (1, 2), "flag": True, "name": "abc", "none": None}}
    with pytest.raises(ValueError, match=rf"^anneal\.mine\.key: {message}"):
        apply_anneal({"mine": Anneal(key, 1.0, 2.0, 10)}, roots, 0)


def test_set_number_replaces_in_a_copy() -> None:
    pair = [1.0, 2.0]
    assert set_number({"a": pair}, ["a", "0"], 3.0) == {"a": [3.0, 2.0]} and pair == [1.0, 2.0]


class Numbers(pl.Callback):
    """What has been in force in each step."""

    def __init__(self, read: Callable[[Any], float]):
        self.read, self.seen = read, []

    def on_train_batch_end(self, trainer: Any, system: Any, *rest: Any) -> None:
        self.seen.append(float(self.read(system)))


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, 1e-3, betas=(0.5, 0.9))


KEYS: dict[str, Callable[[Any], float]] = {
    "regularizer.r1.weight": lambda s: s.terms["r1"].weight,
    "optimizer.generator.betas.1": lambda s: s.optimizers_by_name["generator"].param_groups[0]["betas"][1],
    "optimizer.discriminator.eps": lambda s: s.optimizers_by_name["discriminator"].param_groups[0]["eps"],
    "model.ema_half_life": lambda s: s.ema.half_life,
    "augment.flip.probability": lambda s: s.augment["flip"].probability,
    "augment.shift.by": lambda s: s.augment["shift"].by,  # a buffer
    "loss.weight": lambda s: s.loss.weight,
    "loss.targets.real": lambda s: s.loss.targets["real"],
    "model.clip_d": lambda s: s.clip_d,
}


@pytest.mark.parametrize("key", KEYS)
def test_every_annealed_number_is_set_before_each_step(key: str) -> None:
    """By the images seen until then: 16 a step."""
    system = make_gan(
        loss=losses.BCE(), regularizers={"r1": regularizers.R1(7.0)}, augment={"shift": Shift(7.0)}, clip_d=7.0,
        optimizer={"generator": adam, "discriminator": adam}, ema_half_life=7.0,
        anneal={"mine": Anneal(key, 0.25, 0.75, 32, "linear")},
    )  # fmt: skip
    if "flip" in key:
        system.augment["flip"] = Flip(1.0)
        system.augment["flip"].forward = lambda x: x  # for images: here only its number matters
    numbers = Numbers(KEYS[key])
    fit(system, 4, numbers)
    assert numbers.seen == pytest.approx([0.25, 0.5, 0.75, 0.75])
    assert system.scalars.numbers["anneal/mine"] == 0.75


def test_annealed_weight_is_the_one_applied() -> None:
    values = []
    for weight, anneal in ((2.0, {}), (9.0, {"r1": Anneal("regularizer.r1.weight", 2.0, 1.0, 1e9)})):
        system = make_gan(regularizers={"r1": regularizers.R1(weight)}, anneal=anneal)
        fit(system, 1)
        values.append(system.scalars.latest["loss/discriminator/r1"])
    torch.testing.assert_close(*values)


def test_average_may_start_with_a_half_life_of_0() -> None:
    """As published (R3GAN): the average is the generator itself."""
    system = make_gan(ema_half_life=100.0, anneal={"ema": Anneal("model.ema_half_life", 0.0, 100.0, 1e9)})
    fit(system, 1)
    for p, q in zip(system.ema.average.parameters(), system.generator.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_anneal_refuses_the_half_life_of_an_absent_average() -> None:
    with pytest.raises(ValueError, match=r"^anneal\.ema\.key: model\.ema_half_life is None, not a number"):
        make_gan(anneal={"ema": Anneal("model.ema_half_life", 1.0, 2.0, 10)}).make_optimizers()


def test_checking_a_key_keeps_the_first_value() -> None:
    system = make_gan(regularizers={"r1": regularizers.R1()}, anneal={"r1": Anneal("regularizer.r1.weight", 3.0, 1.0, 10)})
    system.make_optimizers()
    assert system.terms["r1"].weight == 3


# -- from the command line -------------------------------------------------------------------------------------------

ANNEAL = "+anneal.{name}={{_target_:ganexp.controls.Anneal,key:{key},start:{start},end:{end},images:{images}{more}}}"


def anneal_option(name: str, key: str, start: float = 1.0, end: float = 0.1, images: float = 100, more: str = "") -> str:
    return ANNEAL.format(name=name, key=key, start=start, end=end, images=images, more=more)


@pytest.mark.parametrize(
    "options, message",
    [
        ([anneal_option("a", "regularizer.r1.weight")], "anneal.a.key: regularizer.r1.weight does not exist: there is no r1"),
        (
            [anneal_option("a", "regularizer.r1.wieght"), "regularizer=[r1]"],
            "anneal.a.key: regularizer.r1.wieght does not exist: there is no wieght",
        ),
        (
            [anneal_option("a", "loss.real"), "loss=top_k"],
            "anneal.a.key: loss.real does not exist: there is no real",  # it is loss.loss.real
        ),
        (
            ["anneal=[ada]", "augment=[ada]"],
            "anneal.ada.key: augment.ada.p is adapted during training unless its target is null",
        ),
        ([anneal_option("a", "loss.real")], "anneal.a.key: loss.real is a method, not a number"),
        ([anneal_option("a", "nothing.x")], "anneal.a.key: nothing.x must begin with one of model, loss"),
        ([anneal_option("a", "optimizer.generator.lr")], "optimizer.generator.lr is set by the schedule; choose schedule=cosine"),
        (
            [anneal_option("a", "optimizer.generator.betas.2")],
            "anneal.a.key: optimizer.generator.betas.2 does not exist: there is no element 2",
        ),
        (
            [anneal_option("a", "optimizer.encoder.eps")],
            "anneal.a.key: optimizer.encoder.eps does not exist: there is no encoder",
        ),
        ([anneal_option("a", "loss.weight", images=0)], "anneal.a.images: must be above 0, got 0"),
        (
            [anneal_option("a", "loss.weight", more=",curve:steep")],
            "anneal.a.curve: 'steep' is not a valid choice; did you mean step?",
        ),
        (["+anneal.a={_target_:ganexp.losses.BCE}"], "anneal.a: BCE is not a ganexp.controls.Anneal"),
        (["anneal=[r3]"], "anneal=r3: there is no such option (there are: "),
    ],
)  # fmt: skip
def test_invalid_anneal_options_are_refused_with_one_message(
    options: list[str], message: str, cli: Callable[..., Answer]
) -> None:
    answer = cli(*BARE, *NARROW["cdcgan"], *options)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err, answer.err
    assert not list(answer.folder.iterdir())


def test_resumed_run_has_the_same_annealed_numbers(cli: Callable[..., Answer], tmp_path: Path) -> None:
    choices = [
        "model=cdcgan", "regularizer=[r1]", "augment=[flip]", "model.d_steps=2", "callbacks.checkpoint.keep=9",
        anneal_option("r1", "regularizer.r1.weight", 1.0, 0.1, 512 * 8),
        anneal_option("beta", "optimizer.generator.betas.1", 0.9, 0.99, 512 * 10, ",curve:exponential"),
        anneal_option("ema", "model.ema_half_life", 100, 9000, 512 * 12, ",curve:linear"),
        anneal_option("flip", "augment.flip.probability", 0, 1, 512 * 12),
        anneal_option("loss", "loss.weight", 1, 2, 512 * 12),
    ]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli(*choices, *SHORT, "trainer.max_steps=10", f"hydra.run.dir={whole}").code == 0
    shutil.copytree(whole, parts)
    kill_after(4, parts)
    answer = cli("task=resume", f"run={parts}")
    assert answer.code == 0 and "resumed at step 4" in answer.out, answer.err
    assert same(state(whole), state(parts)) and rows(whole) == rows(parts)
    logged = {int(row["step"]): row for row in rows(parts) if row["anneal/ema"]}
    assert [float(logged[step]["anneal/ema"]) for step in (1, 7, 10)] == pytest.approx([100, 100 + 8900 / 2, 100 + 8900 * 9 / 12])
    assert float(logged[1]["anneal/r1"]) == 1 and float(logged[10]["anneal/r1"]) == pytest.approx(0.1)
    assert float(logged[1]["anneal/beta"]) == 0.9 and float(logged[6]["anneal/beta"]) == pytest.approx((0.9 * 0.99) ** 0.5)


def test_runs_with_other_weights_log_under_the_same_key(cli: Callable[..., Answer]) -> None:
    columns = []
    for weight in (0.1, 10):
        run = f"run{weight}"
        choices = ["regularizer=[r1]", f"regularizer.r1.weight={weight}", f"hydra.run.dir={run}"]
        assert cli(*BARE, "logger=[csv]", *NARROW["cdcgan"], *choices).code == 0
        with open(Path(run) / "metrics.csv", newline="") as file:
            columns.append(next(csv.reader(file)))
    assert columns[0] == columns[1] and "loss/discriminator/r1" in columns[0]


# -- learning rates --------------------------------------------------------------------------------------------------


def test_learning_rate_is_logged_under_its_optimizers_name() -> None:
    """Three optimizers, of two networks and a part of one: the names do not depend on their order."""

    class Three(type(make_gan())):  # type: ignore[misc]
        def networks_by_optimizer(self) -> dict[str, list[nn.Module]]:
            d, g = self.discriminator, self.generator
            return {"discriminator": [d], "generator": [g.out], "mapping": [g.hidden]}

    torch.manual_seed(0)
    plain = make_gan()
    rates = {"mapping": 0.001, "generator": 0.1, "discriminator": 0.2}
    make = {name: lambda p, rate=rate: torch.optim.SGD(p, rate) for name, rate in rates.items()}
    system = Three(
        plain.latent, plain.generator, plain.discriminator, losses.BCE(), {}, {}, make,
        lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0, 0),
    )  # fmt: skip
    optimizers, _ = system.make_optimizers()
    assert {name: o.param_groups[0]["lr"] for name, o in optimizers.items()} == rates
    assert list(optimizers) == ["discriminator", "generator", "mapping"]


def test_learning_rates_of_g_and_d_are_logged_apart(cli: Callable[..., Answer]) -> None:
    answer = cli(*BARE, "logger=[csv]", *NARROW["cdcgan"], "optimizer.generator.lr=1e-3", "optimizer.discriminator.lr=3e-3")
    (logged, *_) = [row for row in rows(answer.run) if row["lr/generator"]]
    assert float(logged["lr/generator"]) == pytest.approx(1e-3) and float(logged["lr/discriminator"]) == pytest.approx(3e-3)
    answer = cli(
        "model=vae", *BARE, "logger=[csv]", "model.width_multiplier=0.04", "optimizer.generator.lr=1e-3", "hydra.run.dir=vae"
    )
    assert answer.code == 0 and [name for name in rows(Path("vae"))[0] if name.startswith("lr/")] == ["lr/generator"]
