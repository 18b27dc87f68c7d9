"""Settings of an experiment for options that are not chosen are dropped with a note; a typo is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BARE, NARROW, Answer

from ganexp.cli import checks, config
from ganexp.cli.messages import ConfigError

NOTE = "ganexp: regularizer.r1 of the experiment is dropped: regularizer=r1 is not chosen\n"


def compose(*overrides: str, folder: Path | None = None) -> dict[str, Any]:
    notes: list[str] = []
    with config.config_tree(None if folder is None else str(folder)):
        composed = config.resolved(checks.compose_checked(overrides, notes=notes))
    for note in notes:
        print(f"ganexp: {note}", file=sys.stderr)
    return composed


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[str], Path]:
    """A config folder with an experiment `mine`."""

    def write(text: str) -> Path:
        (tmp_path / "mine" / "experiment").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
        return tmp_path / "mine"

    return write


@pytest.mark.parametrize("choice, kept", [([], ["r1", "r2"]), (["regularizer=[r1]"], ["r1"]), (["regularizer=[]"], [])])
def test_numbers_of_options_not_chosen_are_dropped(choice: list[str], kept: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    regularizers = compose("experiment=ring", *choice)["regularizer"]
    assert list(regularizers) == kept and all(node["weight"] == 0.03 and node["every"] == 4 for node in regularizers.values())
    notes = [line for line in capfd.readouterr().err.splitlines() if "dropped" in line]
    gone = [name for name in ("r1", "r2") if name not in kept]
    assert notes == [f"ganexp: regularizer.{n} of the experiment is dropped: regularizer={n} is not chosen" for n in gone]


def test_another_option_keeps_its_own_numbers() -> None:
    assert compose("experiment=ring", "regularizer=[wgan_gp]")["regularizer"]["wgan_gp"]["weight"] == 10


def test_numbers_of_the_command_line_are_kept() -> None:
    assert compose("experiment=ring", "regularizer.r1.weight=5")["regularizer"]["r1"]["weight"] == 5
    with pytest.raises(ConfigError, match=r"^regularizer\.r1: there is no such key"):
        compose("experiment=ring", "regularizer=[r2]", "regularizer.r1.weight=5")


def test_numbers_of_another_loss_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    """sine_mlp sets loss.weight of bce."""
    composed = compose("experiment=sine_mlp", "loss=hinge")
    assert composed["loss"] == {"_target_": "ganexp.losses.Hinge", "margin": 1.0} == composed["model"]["loss"]
    assert "ganexp: loss.weight of the experiment is dropped: loss=hinge has no such key\n" in capfd.readouterr().err
    assert compose("experiment=sine_mlp", "loss=bce")["loss"]["weight"] == 0.5
    assert "dropped" not in capfd.readouterr().err


def test_experiment_based_on_another_may_change_the_loss(capfd: pytest.CaptureFixture[str]) -> None:
    """sine_mlp_plus is sine_mlp with a relativistic loss: its author chose so, and there is no note."""
    assert compose("experiment=sine_mlp_plus")["loss"] == {"_target_": "ganexp.losses.Relativistic"}
    assert "dropped" not in capfd.readouterr().err


def test_numbers_of_another_optimizer_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    composed = compose("experiment=sine_mlp", "optimizer=rmsprop")["optimizer"]["generator"]
    assert composed == {"_target_": "torch.optim.RMSprop", "_partial_": True, "lr": 1e-3}
    said = capfd.readouterr().err
    assert all(f"optimizer.{name}.betas of the experiment is dropped" in said for name in ("generator", "discriminator"))


def test_numbers_of_another_model_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    """The latent, hidden layers and dropout of ring belong to mlp; the numbers that both models have are kept."""
    model = compose("experiment=ring", "model=gmmn")["model"]
    assert model["ema_half_life"] == 20000 and "discriminator" not in model
    assert "model.discriminator of the experiment is dropped: model=gmmn has no such key" in capfd.readouterr().err


@pytest.mark.parametrize("data", ["folder", "celeba"])
def test_root_of_an_experiment_is_kept_for_data_that_require_one(data: str, capfd: pytest.CaptureFixture[str]) -> None:
    """data/folder.yaml has `root: ???`."""
    assert compose("experiment=photos", f"data={data}")["data"]["root"] == "data/photos"
    assert compose("experiment=photos", f"data={data}", "data.root=mine")["data"]["root"] == "mine"
    assert "dropped" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "text, message",
    [
        ("regularizer: {r1_lazy: {weight: 1}}\n", "regularizer.r1_lazy: must be a mapping with a _target_"),
        ("regularizer: {r1: 3}\n", "regularizer.r1: must be a mapping with a _target_"),
        ("loss: {wieght: 0.5}\n", "loss.wieght: ganexp.losses.BCE has no such argument; did you mean weight?"),
        ("model: {d_stepz: 2}\n", "model.d_stepz: ganexp.systems.gan.GAN has no such argument; did you mean d_steps?"),
    ],
)
def test_typos_in_experiments_are_refused(
    text: str, message: str, mine: Callable[[str], Path], cli: Callable[..., Answer]
) -> None:
    mine(text)
    for choice in ([], ["regularizer=[r2]"]) if text.startswith("regularizer") else ([],):
        answer = cli("--config-dir", "mine", "experiment=mine", *choice, *BARE, *NARROW["cdcgan"])
        assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err, answer.err


def test_own_term_of_an_experiment_is_kept(mine: Callable[[str], Path]) -> None:
    folder = mine("regularizer: {soft: {_target_: ganexp.regularizers.R1, weight: 0.1}}\n")
    assert compose("experiment=mine", "regularizer=[r2]", folder=folder)["regularizer"].keys() == {"soft", "r2"}


def test_error_is_printed_without_notes(cli: Callable[..., Answer]) -> None:
    answer = cli("experiment=ring", "regularizer=[]", "data=digits", "loss=hinge", "model.generator.hidden=[0]")
    assert answer.code == 2 and answer.err == "ganexp: model.generator.hidden: must be widths of at least 1, got [0]\n"


def test_dropped_numbers_are_noted_in_log_and_record(cli: Callable[..., Answer]) -> None:
    answer = cli("experiment=sine_mlp_plus", "regularizer=[]", "loss=bce", *BARE, "model.width_multiplier=0.1")
    assert answer.code == 0, answer.err
    assert NOTE in answer.err and answer.err.count("dropped") == 1
    assert NOTE.removeprefix("ganexp: ") in (answer.run / "log.txt").read_text()
    assert answer.record["notes"] == [NOTE.removeprefix("ganexp: ").strip()]
    written = yaml.safe_load((answer.run / "config.yaml").read_text())
    assert written["regularizer"] == written["model"]["regularizers"] == {} and written["loss"]["weight"] == 0.5
    assert cli("task=sample", f"run={answer.run}", "task.num=4").code == 0


@pytest.mark.slow
def test_dropped_numbers_are_noted_in_every_job_of_a_sweep(cli: Callable[..., Answer]) -> None:
    choices = ["regularizer=[],[r1]", "loss=hinge", "trainer.max_steps=1", "trainer.checkpoint_every=1"]
    answer = cli("-m", "experiment=sine_mlp_plus", *BARE, "model.width_multiplier=0.1", *choices)
    assert answer.code == 0, answer.out + answer.err
    jobs = sorted(Path("outputs").glob("sweep/*/*/run.json"))
    assert len(jobs) == 2 and NOTE in answer.err
    for job in jobs:
        record = json.loads(job.read_text())
        kept = yaml.safe_load((job.parent / "config.yaml").read_text())
        chosen = next(o for o in record["overrides"] if o.startswith("regularizer="))
        assert f"[{','.join(kept['regularizer'])}]" == chosen.partition("=")[2]
        assert ("r1" not in kept["regularizer"]) or kept["regularizer"]["r1"]["weight"] == 0.03


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--cfg", "job", "--resolve"], ["--help"]])
def test_printing_the_config_works_with_dropped_numbers(flags: list[str], cli: Callable[..., Answer]) -> None:
    answer = cli("experiment=ring", "regularizer=[r2]", "loss=bce", *flags)
    assert answer.code == 0, answer.err
    assert "Traceback" not in answer.err
