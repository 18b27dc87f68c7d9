"""Every experiment of the config tree, shrunk, trains, writes pictures, resumes and samples; in full, ring and grid reach every
mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Answer, data_overrides
from helpers import kill_after, options
from omegaconf import OmegaConf

from ganexp.cli import checks, config
from ganexp.cli.build import check
from ganexp.study import plan
from ganexp.tasks.study import check_setting

DEFAULT_LOSS = {"_target_": "ganexp.losses.BCE", "real": 1.0, "fake": 0.0, "generator": 1.0, "weight": 1.0}
SYSTEMS = ["sine_mlp", "mnist_mlp", "mnist_acgan", "mnist_cgan", "anime_dcgan", "celeba_dcgan", "celeba_vae", "cats_dcgan"]


def test_every_published_experiment_has_a_plus_version() -> None:
    assert set(options("experiment")) >= {f"{name}{end}" for name in SYSTEMS for end in ("", "_plus")}


OTHERS = ["model=gmmn", "model=vae", "loss=hinge", "regularizer=[]"]


@pytest.mark.parametrize(
    "name, other",
    [
        pytest.param(name, other, marks=() if i % 4 == 0 and other == OTHERS[i // 4 % 4] else pytest.mark.slow)
        for i, name in enumerate(options("experiment"))
        for other in OTHERS
    ],
)
def test_experiment_composes_with_every_other_option(name: str, other: str) -> None:
    """Every argument is one that its class has."""
    if "vae" in name and other.startswith(("loss", "regularizer")):
        pytest.skip("refused: see test_mistakes")
    notes: list[str] = []
    with config.config_tree():
        composed = config.resolved(checks.compose_checked([f"experiment={name}", other], notes=notes))
    for group in ("model", "data", "optimizer", "schedule", "callbacks"):
        check(composed[group], group, None)
    unused = other in ("model=gmmn", "model=vae") and composed["loss"] != DEFAULT_LOSS
    assert any(note.endswith("does not use the experiment's loss") for note in notes) == unused


@pytest.mark.slow
@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_trains(name: str, cli: Callable[..., Answer], data_root: Path) -> None:
    with config.config_tree():
        data = checks.compose_checked([f"experiment={name}"]).data
    kinds = {
        "MNIST": "mnist",
        "StackedMNIST": "stacked_mnist",
        "CelebA": "celeba",
        "Cats": "cats",
        "Anime": "anime",
        "CIFAR10": "cifar10",
        "Folder": "folder",
    }
    option = kinds.get(data._target_.split(".")[-1], "made here")
    # FastGAN's generator has no images below 32 px
    size = ["data.shape=[3,32,32]"] if name.endswith("_256") or name.startswith("photos") else []
    answer = cli(f"experiment={name}", "model.width_multiplier=0.04", *TINY, *data_overrides(option, data_root), *size)
    assert answer.code == 0, answer.err
    run, record = answer.run, answer.record
    assert record["name"] == name and record["status"] == "finished" and record["steps"] == 3
    assert (run / "training.gif").is_file() and (run / "samples" / "step-00000003.png").is_file()
    assert (run / "samples" / "reconstructions-00000003.png").is_file() == ("vae" in name)
    kill_after(2, run)
    answer = cli("task=resume", f"run={run}")
    assert answer.code == 0 and "resumed at step 2" in answer.out, answer.err
    assert cli("task=sample", f"run={run}/checkpoints/last.ckpt", "task.num=4").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name, modes", [("ring", 8), ("grid", 25)])
def test_ring_and_grid_reach_every_mode(name: str, modes: int, cli: Callable[..., Answer]) -> None:
    """In full, about a minute of one core each."""
    answer = cli(f"experiment={name}", "seed=1", "hardware=cpu")
    assert answer.code == 0, answer.err
    values = {metric: found["last"] for metric, found in answer.record["metrics"].items()}
    assert values["modes/pixels"] == modes and values["high_quality/pixels"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "jobs"), [("ring_losses", 120), ("grid_losses", 120), ("mnist_losses", 120), ("precision", 28)])
def test_studies_that_come_with_ganexp_compose(name: str, jobs: int) -> None:
    """task=study checks every value of every axis before the first."""
    with config.config_tree():
        cfg = config.compose_config(["task=study", f"study={name}"], "config")
        content = OmegaConf.to_container(cfg.study, resolve=True)
        study = plan.make_plan(content, content["base"])  # type: ignore[arg-type,call-overload,index]
        assert len(study.jobs()) == jobs
        for axis, setting in study.samples():
            check_setting(study, axis, setting)
