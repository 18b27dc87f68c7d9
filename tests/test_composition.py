"""Every model, data set, loss and regularizer, combined with a base option, trains for two batches; every other option in a run.

The full products are slow tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from conftest import BARE, NARROW, NARROW_ALL, TINY, Answer, data_overrides
from helpers import MODELS, REGULARIZERS, compose, narrow, options, play
from omegaconf import OmegaConf

from ganexp.cli import config, messages
from ganexp.cli.build import build

DATA = options("data")
LOSSES = options("loss")
REFUSALS = r"got shape \[|has no classes|needs data with classes|not points"


def fits(model: str, composed: dict[str, Any]) -> bool:
    """Whether a model's networks are made for the data: image sizes in their docstrings, labels for the conditional ones."""
    shape, labelled = composed["data"]["shape"], composed["data"]["classes"] > 0
    if model.startswith(("mlp", "gmmn")):
        return True
    if len(shape) != 3:
        return False
    if model in ("cdcgan", "cgan", "acgan", "acgan_dcgan", "biggan"):
        return labelled
    if model == "fastgan":
        return shape[1] == shape[2] and shape[1] in (32, 64, 128, 256, 512, 1024)
    return shape[1] % 16 == 0 if model.startswith("dcgan_") else True


def axes(first: Sequence[str], second: Sequence[str], *base: tuple[str, str]) -> list[Any]:
    """Every pair; those in which neither is the other's base are slow."""
    near = {(a, b) for one, two in base for a, b in product(first, second) if a == one or b == two}
    return [pytest.param(*pair, marks=() if pair in near else pytest.mark.slow) for pair in product(first, second)]


@pytest.mark.parametrize("model, data", axes(MODELS, DATA, ("dcgan", "digits"), ("mlp", "")))
def test_every_model_trains_on_every_data_set_it_fits(model: str, data: str, data_root: Path) -> None:
    composed = compose(f"model={model}", f"data={data}", *TINY, *narrow(model), *data_overrides(data, data_root))
    if fits(model, composed):
        play(composed)
    else:
        with pytest.raises(messages.ConfigError, match=REFUSALS):
            build(composed["model"], "model")


@pytest.mark.parametrize("loss, regularizer", axes(LOSSES, REGULARIZERS, ("bce", ""), ("", "r1")))
@pytest.mark.parametrize(
    "model, data",
    [
        ("dcgan", "digits"),
        *(
            pytest.param(m, d, marks=pytest.mark.slow)
            for m, d in (("mlp", "digits"), ("mlp", "sine"), ("cdcgan", "digits"), ("acgan", "digits"))
        ),
    ],
)
def test_every_loss_trains_with_every_regularizer(model: str, data: str, loss: str, regularizer: str) -> None:
    composed = compose(f"model={model}", f"data={data}", *TINY, *narrow(model))
    composed["model"] |= {"loss": compose(f"loss={loss}")["loss"]}
    composed["model"] |= {"regularizers": compose(f"regularizer=[{regularizer}]")["regularizer"]}
    if data == "sine" and regularizer in ("consistency", "sliced_features"):  # of mirrored and moved images, and of maps
        with pytest.raises(ValueError, match=rf"^regularizers\.{regularizer}: .* not points"):
            play(composed)
    else:
        play(composed)


@pytest.mark.parametrize(
    "regularizer",
    ["r1", "path_length", *(pytest.param(r, marks=pytest.mark.slow) for r in REGULARIZERS if r not in ("r1", "path_length"))],
)
def test_every_regularizer_trains_in_bf16(regularizer: str) -> None:
    """Networks in bf16, penalties in float32: nothing overflows, not even with unbounded logits."""
    composed = compose("model=dcgan", "data=digits", "loss=wasserstein", f"regularizer=[{regularizer}]", *TINY, *narrow("dcgan"))
    play(composed, "bf16-mixed")


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_on_separate_updates_of_d(loss: str) -> None:
    """D learns from real and fake images in turn, G twice; only a loss that compares both refuses."""
    composed = compose("model=acgan", f"loss={loss}", "model.separate=true", "model.g_steps=2", *TINY, *NARROW_ALL)
    if loss == "relativistic":
        with pytest.raises(messages.ConfigError, match=r"model\.separate: Relativistic compares"):
            build(composed["model"], "model")
    else:
        assert {"loss/discriminator/real", "loss/discriminator/class_d"} <= play(composed).scalars.latest.keys()


@pytest.mark.parametrize("data", options("data"))
def test_images_are_measured_by_fid_unless_asked_otherwise(data: str) -> None:
    chosen = [f"data={data}", *(["data.root=pictures"] if data == "folder" else [])]
    composed = compose(*chosen)
    assert list(composed["metrics"]) == (["fid", "swd"] if len(composed["data"]["shape"]) == 3 else ["swd"])
    assert list(compose(*chosen, "metrics=[mmd]")["metrics"]) == ["mmd"]


GENERATORS, DISCRIMINATORS = options("model/generator"), options("model/discriminator")


def pairs_of_networks() -> list[Any]:
    """Every pair in turn on one kind of images, grey or colour, with or without classes, which is slow; with DCGAN's G or D also
    on the kind that differs in both."""
    kinds = [([1, 32, 32], "null"), ([1, 32, 32], "10"), ([3, 32, 32], "10"), ([3, 32, 32], "null")]
    pairs = []
    for (i, generator), (j, discriminator) in product(enumerate(GENERATORS), enumerate(DISCRIMINATORS)):
        near = "dcgan" in (generator, discriminator)
        for k in (i + j, i + j + 2) if near else (i + j,):
            pairs.append(pytest.param(generator, discriminator, *kinds[k % 4], marks=() if near else pytest.mark.slow))
    return pairs


@pytest.mark.parametrize("generator, discriminator, shape, classes", pairs_of_networks())
def test_every_generator_trains_against_every_discriminator(
    generator: str, discriminator: str, shape: list[int], classes: str
) -> None:
    networks = [f"model/generator={generator}", f"model/discriminator={discriminator}", "model.width_multiplier=0.1"]
    system = play(compose("model=dcgan", *networks, *TINY, f"data.shape={shape}".replace(" ", ""), f"model.classes={classes}"))
    assert list(system.sample(2).shape[1:]) == shape


@pytest.mark.parametrize("name", options("model/discriminator"))
def test_every_discriminator_is_an_encoder_or_is_refused(name: str) -> None:
    shape = "data.shape=[1,8,8]" if name in ("mlp", "dcgan", "acgan") else "data.shape=[1,32,32]"
    composed = compose(
        "model=vae", f"model/discriminator@model.encoder={name}", shape, "model.width_multiplier=0.04", "model.latent.dim=3"
    )
    if name in ("patch", "projected", "unet", "fastgan", "joint"):
        key = "classes" if name == "joint" else "outputs"
        with pytest.raises(messages.ConfigError, match=rf"^model\.encoder\.{key}: .*{name}.* has no such argument"):
            build(composed["model"], "model")
        return
    system = build(composed["model"], "model")
    system.check_shapes(tuple(composed["data"]["shape"]))
    assert system.encode(torch.zeros(2, *composed["data"]["shape"]), torch.zeros(2, dtype=torch.long))[0].shape == (2, 3)


OTHERS = [
    ("augment", "[flip]"),
    ("optimizer", "rmsprop"),
    ("schedule", "linear"),
    ("schedule", "cosine"),
    ("metrics", "[fid,swd,mmd,diversity,sharpness,prdc,ms_ssim]"),
    ("extractor", "random"),
    ("metrics", "[]"),
    ("callbacks", "[checkpoint]"),
    ("logger", "[]"),
    ("model/latent", "uniform"),
    ("hardware", "auto"),
    ("hardware.precision", "bf16-mixed"),
    ("model.d_steps", "2"),
    ("model.fresh_fakes", "true"),
    ("model.g_steps", "2"),
    ("model.separate", "true"),
    ("data.replacement", "true"),
    ("trainer.log_window", "2"),
    ("model.accumulate", "4"),
    ("model.clip_g", "0.1"),
    ("model.clip_d", "0.1"),
    ("callbacks", "[watchdog,checkpoint]"),
    ("optimizer.generator.betas", "[0.9,0.999]"),
    ("constraint", "[spectral_norm]"),
    ("model.ema_half_life", "null"),
    ("model/discriminator", "mlp"),
    ("model/generator", "mlp"),
]


@pytest.mark.parametrize("key, value", OTHERS)
def test_every_option_of_the_other_groups_trains(key: str, value: str, cli: Callable[..., Answer]) -> None:
    shrink = TINY if key in ("metrics", "extractor", "logger", "trainer.log_window") else BARE
    narrow = {"model/discriminator": NARROW["dcgan"][:1], "model/generator": NARROW["dcgan"][1:]}.get(key, NARROW["dcgan"])
    answer = cli(*shrink, *narrow, f"{key}={value}")
    assert answer.code == 0, answer.err
    assert answer.record["status"] == "finished" and answer.record["steps"] == 3


@pytest.mark.parametrize(
    "words",
    [
        ["seed=3", "model=mlp", "+trainer.precision='64'", "~optimizer.generator.fused", "model.generator.hidden=[8,8]"],
        ["experiment=ring", "++loss.weight=2", "hydra.run.dir=${now:%S}", "name=${seed}", "model={d_steps: 3}"],
        ["hydra.job.name=own", "hydra/job_logging=none", "data=sine", "hydra.job.config.override_dirname.kv_sep=-", "seed=1"],
    ],
)  # fmt: skip
def test_command_line_composes_as_in_hydra(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ganexp sets keys in a copy of the composed options."""
    for folder in (tmp_path, tmp_path.parent):  # the second time from a copy
        monkeypatch.chdir(folder)
        with config.config_tree():
            composed = config.compose_config(words, "config")
            expected = hydra.compose("config", overrides=words, return_hydra_config=True)
        pair = [OmegaConf.to_container(cfg, resolve=False) for cfg in (composed, expected)]
        assert str(pair[0]) == str(pair[1]) and composed.hydra.runtime.cwd == str(folder)
        assert OmegaConf.is_struct(composed)


def test_command_lines_do_not_change_each_other() -> None:
    with config.config_tree():
        config.compose_config(["seed=5", "~optimizer.generator.fused", "+model.generator.x=1"], "config")
        cfg = config.compose_config(["seed=6"], "config")
    assert cfg.seed == 6 and "fused" in cfg.optimizer.generator and "x" not in cfg.model.generator


def test_unusual_combination_trains_from_the_command_line(cli: Callable[..., Answer], data_root: Path) -> None:
    answer = cli(
        "model=dcgan", "model/discriminator=mlp", "model.discriminator.hidden=[8]", "model.generator.width=2", "loss=hinge",
        "regularizer=[r1,wgan_gp]", "augment=[flip]", "data=folder", f"data.root={data_root}/pictures", "schedule=cosine",
        *TINY, "metrics=[swd]",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert (answer.run / "samples" / "step-00000003.png").is_file()


def test_command_line_wins_over_an_experiment(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "tiny.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /loss: hinge\nname: tiny\noptimizer: {generator: {lr: 1.0e-3}}\n"
    )
    answer = cli("--config-dir", "mine", "experiment=tiny", "loss=lsgan", *BARE, *NARROW["dcgan"])
    assert answer.code == 0, answer.err
    assert "LeastSquares" in answer.out and answer.record["name"] == "tiny"
    assert "lr: 0.001" in (answer.run / "config.yaml").read_text()
