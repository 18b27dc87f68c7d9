"""Published methods in training: with every model, in combination, resumed, and with settings that have no effect."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import NARROW_ALL, TINY, Answer, data_overrides
from helpers import compose, kill_after, options, play, same, state
from omegaconf import OmegaConf

from ganexp.cli import config, messages
from ganexp.cli.build import build
from ganexp.losses import BCE, Relativistic, TopK, Wasserstein

REGULARIZERS = ["dragan", "lecam", "consistency", "zcr", "path_length", "feature_matching", "r1", "r2"]
CHOSEN = [
    f"regularizer=[{','.join(REGULARIZERS)}]", "regularizer.lecam.start=1", "regularizer.consistency.fake_weight=1",
    "regularizer.path_length.every=1", "constraint=[spectral_norm,gradient_norm,weight_clip,freeze]",
    "constraint.freeze.layers=1", "augment=[diffaugment]", "loss=top_k", "loss.fraction=0.5", "anneal=[r1,r2,beta2,ema,top_k]",
]  # fmt: skip
TAKES: dict[str, dict[str, list[str]]] = {  # of all that CHOSEN composes, what a method is
    "dragan": {"regularizers": ["dragan"]},
    "lecam": {"regularizers": ["lecam"]},
    "consistency": {"regularizers": ["consistency"]},
    "zcr": {"regularizers": ["zcr_d", "zcr_g"]},
    "path_length": {"regularizers": ["path_length"]},
    "feature_matching": {"regularizers": ["feature_matching"]},
    "diffaugment": {"augment": ["diffaugment"]},
    "top_k": {"loss": []},
    "spectral_norm": {"constraints": ["spectral_norm"]},
    "gradient_norm": {"constraints": ["gradient_norm"]},
    "weight_clip": {"constraints": ["weight_clip"]},
    "freeze": {"constraints": ["freeze"]},
    "anneal": {"regularizers": ["r1", "r2"], "anneal": ["r1", "r2", "beta2_g", "beta2_d", "ema"]},
}
SWITCHES = {  # what a method changes in the model itself
    "pack": ["augment=[pack]"],
    "minibatch_std": ["model.discriminator.minibatch_std=4"],
    "patch": ["model/discriminator=patch", "model.discriminator.layers=1"],
}
METHODS = [*TAKES, *SWITCHES]
MODELS = ["dcgan", "points", "mlp", "cdcgan", "acgan", "cgan", "dcgan_anime", "dcgan_celeba", "dcgan_cats"]
GROUPS = {"regularizers": "regularizer", "constraints": "constraint"}


def of_model(model: str, root: Path, *overrides: str) -> dict[str, Any]:
    data = ["data=folder", *data_overrides("folder", root)] if model.startswith("dcgan_") else []
    name = ["model=mlp", "data=sine"] if model == "points" else [f"model={model}", *data]
    return compose(*name, *TINY, *NARROW_ALL, *overrides)


def with_method(model: str, method: str, root: Path) -> dict[str, Any]:
    composed, chosen = of_model(model, root, *SWITCHES.get(method, [])), compose("model=dcgan", *CHOSEN, *TINY)
    for part, names in TAKES.get(method, {}).items():
        nodes = chosen[GROUPS.get(part, part)]
        composed["model"][part] = {name: nodes[name] for name in names} if names else nodes
    if method == "gradient_norm" and model in ("dcgan", "cdcgan"):
        composed["model"]["discriminator"]["norm"] = False
    return composed


def refusal(model: str, method: str) -> str | None:
    """What is said of a method that makes no sense for a model."""
    if method == "pack" and model in ("cdcgan", "acgan", "cgan"):
        return "needs an unconditional model"
    if method == "gradient_norm" and (model.startswith("dcgan_") or model in ("acgan", "cgan")):
        return "does not support batch norm"
    if model == "points" and method in ("consistency", "diffaugment", "patch"):
        return r"not points|got shape \[2\]"
    return "has no such argument" if (model, method) == ("acgan", "patch") else None


def check(model: str, method: str, root: Path) -> None:
    composed, refused = with_method(model, method, root), refusal(model, method)
    if refused:
        with pytest.raises((messages.ConfigError, ValueError), match=refused):
            play(composed)
        return
    system: Any = play(composed)
    logged = system.scalars.latest.keys()
    for name in TAKES.get(method, {}).get("regularizers", []):
        assert f"loss/{system.terms[name].player}/{name}" in logged, logged


@pytest.mark.parametrize(
    "model, method", [*(("dcgan", method) for method in METHODS), *zip(MODELS[1:], TAKES, strict=False), ("points", "pack")]
)
def test_every_method_and_every_model_train_once(model: str, method: str, data_root: Path) -> None:
    check(model, method, data_root)


@pytest.mark.slow
@pytest.mark.parametrize("model, method", product(MODELS, METHODS))
def test_every_method_trains_with_every_model(model: str, method: str, data_root: Path) -> None:
    check(model, method, data_root)


# -- together ----------------------------------------------------------------------------------------------------------

MIXES = {
    "r3gan": [
        "model=dcgan", "model.discriminator.norm=false", "loss=relativistic", "regularizer=[r1,r2,lecam]",
        "regularizer.lecam.start=1", "augment=[diffaugment]", "constraint=[spectral_norm]", "anneal=[r1,r2,beta2,ema]",
        "model.accumulate=2", "model.d_steps=2", "model.discriminator.minibatch_std=2",
    ],
    "conditional": [
        "model=acgan", "loss=top_k", "loss@loss.loss=hinge", "loss.fraction=0.5", "anneal=[top_k]", "model.separate=true",
        "regularizer=[consistency,zcr,path_length,feature_matching]", "regularizer.path_length.every=1",
        "constraint=[spectral_norm,freeze]", "constraint.freeze.layers=1", "augment=[flip,diffaugment]", "model.g_steps=2",
    ],
    "packed": [
        "model=mlp", "data=sine", "loss=hinge", "regularizer=[dragan,feature_matching,path_length,zcr]",
        "regularizer.path_length.every=1", "augment=[pack]", "constraint=[gradient_norm,weight_clip]", "model.clip_d=1",
    ],
    "patches": [
        "model=dcgan", "model/discriminator=patch", "model.discriminator.layers=1", "loss=top_k",
        "loss@loss.loss=relativistic", "augment=[diffaugment,pack]", "regularizer=[r1,consistency,lecam,feature_matching]",
        "regularizer.lecam.start=0", "model.fresh_fakes=true", "model.accumulate=2",
    ],
}  # fmt: skip


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mix", MIXES)
def test_methods_train_together(mix: str, precision: str) -> None:
    """Every scalar is finite, and both networks learn."""
    composed = compose(*MIXES[mix], *TINY, *NARROW_ALL)
    system: Any = play(composed, precision)
    terms = {f"loss/{term.player}/{name}" for name, term in system.terms.items()}
    assert terms and terms <= system.scalars.latest.keys()
    assert {f"anneal/{name}" for name in composed["anneal"]} <= system.scalars.numbers.keys()


# -- resuming ----------------------------------------------------------------------------------------------------------

QUICK = [
    "hardware=cpu", "hardware.precision=32-true",
    "trainer.max_steps=6", "trainer.checkpoint_every=3", "trainer.log_every=1", "data.batch_size=8",
    "callbacks=[checkpoint]", "metrics=[]", "logger=[csv]", "callbacks.checkpoint.keep=9", *NARROW_ALL,
]  # fmt: skip
LENGTHS = ["anneal.r1.images=40", "anneal.beta2_g.images=40", "anneal.beta2_d.images=40", "anneal.ema.images=40"]
RUNS: dict[str, tuple[list[str], list[str]]] = {  # choices, and what of the state they change while training
    "state": (
        [
            "model=dcgan", "model.discriminator.norm=false", "regularizer=[lecam,path_length]", "regularizer.lecam.start=2",
            "regularizer.path_length.every=2", "constraint=[spectral_norm]", "augment=[diffaugment]",
            "model.discriminator.minibatch_std=4",
        ],
        ["terms.lecam.means", "terms.path_length.mean", "discriminator.blocks.2.parametrizations.weight.0._u"],
    ),
    "numbers": (
        [
            "model=mlp", "loss=top_k", "anneal=[top_k,r1,beta2,ema]", "anneal.top_k.images=40", *LENGTHS, "regularizer=[r1,zcr]",
            "constraint=[gradient_norm,weight_clip]", "constraint.weight_clip.limit=0.1",
        ],
        ["discriminator.discriminator.head.out.weight"],
    ),
    "patches": (
        [
            "model=dcgan", "model/discriminator=patch", "model.discriminator.layers=1", "augment=[pack]", "constraint=[freeze]",
            "constraint.freeze.layers=1", "regularizer=[dragan,consistency,feature_matching]", "model.d_steps=2",
        ],
        ["discriminator.scales.0.out.weight"],
    ),
}  # fmt: skip
ALONE = {
    "lecam": ["regularizer=[lecam]", "regularizer.lecam.start=4"],
    "path_length": ["regularizer=[path_length]", "regularizer.path_length.every=1"],
    "spectral_norm": ["constraint=[spectral_norm]", "loss=hinge"],
    "gradient_norm": ["constraint=[gradient_norm]", "model.discriminator.norm=false"],
    "weight_clip": ["constraint=[weight_clip]"],
    "freeze": ["constraint=[freeze]", "constraint.freeze.layers=2"],
    "minibatch_std": SWITCHES["minibatch_std"],
    "pack": SWITCHES["pack"],
    "patch": SWITCHES["patch"],
    "diffaugment": ["augment=[diffaugment]"],
    "anneal": ["regularizer=[r1]", "anneal=[r1,beta2,ema]", *LENGTHS],
    "top_k": ["loss=top_k", "loss@loss.loss=relativistic", "anneal=[top_k]", "anneal.top_k.images=40"],
    "dragan": ["regularizer=[dragan]"],
    "zcr": ["regularizer=[zcr]"],
    "consistency": ["regularizer=[consistency]"],
    "feature_matching": ["regularizer=[feature_matching]"],
}
RUNS_ALONE = [pytest.param(["model=dcgan", *choices], [], id=name, marks=pytest.mark.slow) for name, choices in ALONE.items()]


@pytest.mark.parametrize(
    "choices, changing",
    [
        *(pytest.param(*run, id=name, marks=() if name == "state" else pytest.mark.slow) for name, run in RUNS.items()),
        *RUNS_ALONE,
    ],
)
def test_resumed_run_equals_the_whole_one(
    choices: list[str], changing: list[str], cli: Callable[..., Answer], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    answer = cli(*choices, *QUICK, f"hydra.run.dir={whole}")
    assert answer.code == 0, answer.err
    shutil.copytree(whole, parts)
    kill_after(3, parts)
    answer = cli("task=resume", f"run={parts}")
    assert answer.code == 0 and "resumed at step 3" in answer.out, answer.err
    assert same(state(whole), state(parts))
    halfway = torch.load(whole / "checkpoints" / "step-00000003.ckpt", weights_only=True)["state_dict"]
    for name in changing:
        assert not torch.equal(halfway[name], state(whole)["state_dict"][name]), name


# -- methods that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, method",
    [
        ("dcgan", ["regularizer=[lecam]", "regularizer.lecam.start=2"]),
        ("dcgan", ["augment=[pack]", "augment.pack.samples=1"]),
        ("dcgan", ["augment=[diffaugment]", "augment.diffaugment.policy=''"]),
        ("mlp", ["loss=top_k", "loss.fraction=1.0"]),
        ("dcgan", ["regularizer=[lecam]", "regularizer.lecam.start=1"]),  # the last one is one
    ],
)
def test_method_without_effect_trains_like_the_plain_model(model: str, method: list[str], data_root: Path) -> None:
    plain, other = (play(of_model(model, data_root, *choices)).state_dict() for choices in ([], method))
    equal = same(plain, {name: value for name, value in other.items() if not name.startswith("terms.")})
    assert equal == (method[1] != "regularizer.lecam.start=1")


# -- top-k -------------------------------------------------------------------------------------------------------------


def loss_option(name: str) -> Any:
    with config.config_tree():
        return build(OmegaConf.to_container(config.option_node("loss", name)), "loss")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in options("loss") if name != "top_k"])
def test_top_k_wraps_every_loss(name: str) -> None:
    """D's side is that of the wrapped loss; G's is that of the best rows, and of all of them with a fraction of 1."""
    loss = loss_option(name)
    needs_real, real, fake = getattr(loss, "needs_real", False), torch.randn(8, 1), torch.randn(8, 1)
    top = TopK(loss, 0.5)
    assert getattr(top, "needs_real", False) == needs_real and hasattr(top, "real") == hasattr(loss, "real")
    for key, value in loss.discriminator(real, fake).items():
        assert torch.equal(top.discriminator(real, fake)[key], value)
    shown = real if needs_real else None
    assert torch.equal(TopK(loss).generator(fake, shown), loss.generator(fake, shown))
    best = (fake >= fake.sort(0).values[4]).flatten()
    torch.testing.assert_close(top.generator(fake, shown), loss.generator(fake[best], real[best] if needs_real else None))


def test_top_k_keeps_the_highest_logits() -> None:
    fake = torch.tensor([[0.0], [5.0], [-2.0], [3.0], [1.0]], requires_grad=True)
    assert TopK(Wasserstein(), 0.4).generator(fake, None).item() == -4
    TopK(Wasserstein(), 0.4).generator(fake, None).backward()
    assert fake.grad is not None and fake.grad.flatten().tolist() == [0, -0.5, 0, -0.5, 0]
    assert TopK(Wasserstein(), 0.01).generator(fake, None).item() == -5  # at least one
    pair = TopK(Relativistic(), 0.2).generator(fake, torch.tensor([[9.0], [7.0], [9.0], [9.0], [9.0]]))
    assert pair.item() == pytest.approx(torch.tensor(2.0).exp().log1p().item())  # softplus(7 - 5)
    columns = torch.tensor([[9.0, -9.0], [1.0, 2.0]])
    assert TopK(Wasserstein(), 0.5).generator(columns, None).item() == -1.5  # a row counts by its mean


def test_top_k_refuses_invalid_choices_and_can_be_copied() -> None:
    for fraction in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"^fraction: "):
            TopK(BCE(), fraction)
    with pytest.raises(AttributeError):
        _ = TopK(BCE()).nothing
    copied = copy.deepcopy(TopK(BCE(weight=0.5), 0.7))
    assert copied.fraction == 0.7 and copied.loss.weight == 0.5
    composed = compose("model=dcgan", "loss=top_k", "loss@loss.loss=relativistic", "model.separate=true", *TINY, *NARROW_ALL)
    with pytest.raises(messages.ConfigError, match=r"separate: TopK compares real and fake logits"):
        build(composed["model"], "model")


# -- annealed numbers as published -------------------------------------------------------------------------------------


def test_anneal_options_have_the_published_curves() -> None:
    """R3GAN's CIFAR-10 preset (its average: of faces): half a cosine over 20 million images; top-k: 1 % an epoch of 50,000."""
    names = ["r1", "r2", "beta2", "ema", "ada", "top_k"]
    nodes: dict[str, Any] = {}
    for name in names:
        nodes |= OmegaConf.to_container(OmegaConf.load(config.CONF_DIR / "anneal" / f"{name}.yaml"))  # type: ignore[operator]
    curves = {name: build(node, name) for name, node in nodes.items()}
    ends = {
        "r1": (0.05, 0.005),
        "r2": (0.05, 0.005),
        "beta2_g": (0.9, 0.99),
        "beta2_d": (0.9, 0.99),
        "ema": (0, 5e5),
        "ada": (0, 0.55),
    }
    assert curves.keys() == ends.keys() | {"top_k"}
    for name, (start, end) in ends.items():
        numbers = [curves[name](images) for images in (0, 5_000_000, 10_000_000, 20_000_000, 30_000_000)]
        assert numbers == pytest.approx([start, start + (end - start) * 0.1464466, (start + end) / 2, end, end]), name
    assert [curves["top_k"](50_000 * epochs) for epochs in (0, 1, 10, 69, 100)] == pytest.approx(
        [1, 0.99, 0.99**10, 0.5, 0.5], abs=1e-3
    )
    assert {name: curve.key for name, curve in curves.items()} == {
        "r1": "regularizer.r1.weight",
        "r2": "regularizer.r2.weight",
        "beta2_g": "optimizer.generator.betas.1",
        "beta2_d": "optimizer.discriminator.betas.1",
        "ema": "model.ema_half_life",
        "ada": "augment.ada.p",
        "top_k": "loss.fraction",
    }
