"""Every model × data × loss × regularizer plays two rounds; every other option stands in a run of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import NARROW, TINY, Answer, data_overrides

from ganexp import config, mistakes
from ganexp.build import build


def options(group: str) -> list[str]:
    """The options the shipped config tree has: a new one is tested from the moment it is there."""
    with config.config_tree():
        return mistakes.options(group)


@cache
def composed_once(*overrides: str) -> dict[str, Any]:
    with config.config_tree():
        return config.resolved(config.compose_checked(overrides))


def compose(*overrides: str) -> dict[str, Any]:
    return copy.deepcopy(composed_once(*overrides))


MODELS = [name for name in options("model") if name != "gan"]  # gan has no networks of its own
DATA = options("data")
LOSSES = options("loss")
REGULARIZERS = ["", *options("regularizer")]


@pytest.mark.parametrize("model, data", product(MODELS, DATA))
def test_every_loss_and_regularizer(model: str, data: str, data_root: Path) -> None:
    """Two batches each, straight on Lightning's loop: finite scalars, both networks moved."""
    composed = compose(f"model={model}", f"data={data}", *TINY, *NARROW[model], *data_overrides(data, data_root))
    for loss, regularizer in product(LOSSES, REGULARIZERS):
        composed["model"] |= {"loss": compose(f"loss={loss}")["loss"]}
        composed["model"] |= {"regularizers": compose(f"regularizer=[{regularizer}]")["regularizer"]}
        if (model == "dcgan" and data == "sine") or (model == "cdcgan" and composed["data"]["classes"] == 0):
            with pytest.raises(mistakes.Mistake, match=r"not shape \[2\]|has no classes"):
                build(composed["model"], "model")
            return
        system, module = build(composed["model"], "model"), build(composed["data"], "data")
        module.prepare()
        before = {name: torch.cat([p.flatten() for p in n.parameters()]).clone() for name, n in system.networks().items()}
        pl.Trainer(
            max_steps=2, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        ).fit(system, datamodule=module)  # fmt: skip
        assert system.global_step == 2, (loss, regularizer)
        assert all(value.isfinite() for value in system.scalars.values()), (loss, regularizer, system.scalars)
        for name, network in system.networks().items():
            after = torch.cat([p.flatten() for p in network.parameters()])
            assert after.isfinite().all() and not after.equal(before[name]), (loss, regularizer, name)


OTHERS = [
    ("augment", "[flip]"),
    ("optimizer", "rmsprop"),
    ("schedule", "linear"),
    ("schedule", "cosine"),
    ("metrics", "[fid,swd]"),
    ("metrics", "[]"),
    ("callbacks", "[checkpoint]"),
    ("logger", "[]"),
    ("model/latent", "uniform"),
    ("hardware", "auto"),
    ("hardware.precision", "bf16-mixed"),
    ("model.d_steps", "2"),
    ("model.fresh_fakes", "true"),
    ("model.ema_half_life", "null"),
    ("model/discriminator", "mlp"),
    ("model/generator", "mlp"),
]


@pytest.mark.parametrize("key, value", OTHERS)
def test_every_other_option(key: str, value: str, cli: Callable[..., Answer]) -> None:
    shrink = [o for o in TINY if not (key == "callbacks" and o.startswith("callbacks."))]
    narrow = {"model/discriminator": NARROW["dcgan"][:1], "model/generator": NARROW["dcgan"][1:]}.get(key, NARROW["dcgan"])
    answer = cli(f"{key}={value}", *shrink, *narrow)
    assert answer.code == 0, answer.err
    assert answer.record["status"] == "finished" and answer.record["steps"] == 3


def test_an_experiment_nobody_wrote(cli: Callable[..., Answer], data_root: Path) -> None:
    answer = cli(
        "model=dcgan", "model/discriminator=mlp", "model.discriminator.hidden=[8]", "model.generator.width=2", "loss=hinge",
        "regularizer=[r1,wgan_gp]", "augment=[flip]", "data=folder", f"data.root={data_root}/pictures", "schedule=cosine", *TINY,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert (answer.run / "samples" / "step-00000003.png").is_file()


def test_the_command_line_wins_over_an_experiment(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "tiny.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /loss: hinge\nname: tiny\noptimizer: {generator: {lr: 1.0e-3}}\n"
    )
    answer = cli("--config-dir", "mine", "experiment=tiny", "loss=lsgan", *TINY, *NARROW["dcgan"])
    assert answer.code == 0, answer.err
    assert "LeastSquares" in answer.out and answer.record["name"] == "tiny"
    assert "lr: 0.001" in (answer.run / "config.yaml").read_text()
