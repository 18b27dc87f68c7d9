"""task=check: its report, what it refuses, and that it writes nothing else."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import NARROW, TINY, Answer
from helpers import compose, make_gan
from torch import nn

from ganexp import regularizers
from ganexp.cli.build import build
from ganexp.quantities import duration, size
from ganexp.runtime import rehearsal
from ganexp.runtime.layers import layers_of
from ganexp.tasks.check import layers_of_system, without_effect


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rehearsal in this process, with few steps."""
    monkeypatch.setattr(rehearsal, "SECONDS", 0.01)
    monkeypatch.setattr("ganexp.tasks.check.spawn", lambda work, arguments, processes: work(0, *arguments))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CHECK = [*TINY, *NARROW["cdcgan"], "task=check", "trainer.max_steps=300"]


@pytest.mark.usefixtures("quick")
def test_check_reports_and_leaves_nothing(cli: Callable[..., Answer], tmp_path: Path) -> None:
    elsewhere = ["callbacks.checkpoint.folder=elsewhere", "logger.csv.save_dir=log"]
    answer = cli(*CHECK, "task.json=check.json", "trainer.log_every=400", *elsewhere)
    assert answer.code == 0, answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["check.json"]
    for text in (
        "transposed conv 4×4, stride 2 + tanh", "1×8×8", "cdcgan_digits: discriminator", "32-true (as set by hardware.precision)",
        "whole run", "of main memory", "are free", "holds the weights, the average of G, both optimizers", "every 2 steps",
        "trainer.log_every: 400 is more than trainer.max_steps, 300",
        "the run can start: data, weights and devices are available",
    ):  # fmt: skip
        assert text in answer.out, text
    facts = json.loads((tmp_path / "check.json").read_text())
    parts = facts["time"]["parts"]
    assert {name: part["times"] for name, part in parts.items()} == {
        "start": 1, "steps": 300, "log": 1, "samples": 150, "metrics": 150, "checkpoint": 150, "watchdog": 150, "record": 1,
        "end": 1,
    }  # fmt: skip
    assert all(part["seconds"] > 0 for name, part in parts.items() if name not in ("log", "steps"))
    assert facts["time"]["seconds"] == pytest.approx(sum(part["times"] * part["seconds"] for part in parts.values()))
    assert facts["memory"]["bytes"] > 1e8 and facts["problems"] == [] and facts["disk"]["parts"]["pictures"]["times"] == 151
    assert sum(layer["parameters"] for layer in facts["networks"]["generator"]) == facts["parameters"]["generator"]


@pytest.mark.usefixtures("quick")
def test_check_estimates_the_rest_of_a_run_to_continue(
    cli: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the folder of the run changes."""
    run = [*TINY, *NARROW["cdcgan"], "resume=auto", "hydra.run.dir=run"]
    assert cli(*run).code == 0
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of its own: the run's log.txt is among them
    before = contents(tmp_path / "run")
    answer = cli(*run, "task=check", "trainer.max_steps=9", "task.json=check.json")
    assert answer.code == 0 and "resumed at step 3" in answer.out, answer.err
    facts = json.loads((tmp_path / "check.json").read_text())
    assert facts["first_step"] == 3 and facts["time"]["parts"]["steps"]["times"] == 6
    assert facts["time"]["parts"]["samples"]["times"] == 4  # at 4, 6, 8 and 9
    answer = cli(*run, "task=check")
    assert answer.code == 0 and "is at its last step, 3: nothing to do" in answer.out
    answer = cli(*run, "task=check", "loss=hinge")
    assert answer.code == 2 and "a resumed run keeps its config" in answer.err
    answer = cli(*run[:-2], "hydra.run.dir=run", "task=check")
    assert answer.code == 2 and "is not empty; every run needs a new folder" in answer.err
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["model=vae", "loss=bce"], "loss: not used by model=vae"),
        (["data=folder", "model=dcgan", "data.root=nowhere"], "there is no folder or zip archive"),
        (["data.batch_size=4000"], "data.batch_size"),
        (["task.json=report"], "task.json: must be a file that ends in .json, got report"),
        (["task.num=3"], "task.num: there is no such key"),
        (["seed=1,2", "-m"], "-m: starts several runs, but task=check tries one command line"),
        (["task.leaves_nothing=false"], "task.leaves_nothing: cannot be set"),
        (["run=latest"], "run: not used by task=check"),
        (["hardware=gpu"], "hardware.accelerator: this machine has no GPU"),
    ],
)
def test_check_refuses_what_training_refuses(arguments: list[str], message: str, cli: Callable[..., Answer]) -> None:
    if "hardware=gpu" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    answer = cli("task=check", *arguments)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err, answer.err
    assert not list(answer.folder.iterdir())


BROKEN = """
from pytorch_lightning import Callback


class Breaks(Callback):
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 2:
            raise MemoryError("no room for the second step")
"""


@pytest.mark.usefixtures("quick")
def test_check_reports_a_run_that_fails_in_its_first_steps(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    answer = cli(*CHECK, "+callbacks.breaks._target_=broken.Breaks")
    assert answer.code == 2 and "fails within its first steps: MemoryError: no room for the second step" in answer.out
    assert "the run would fail" in answer.out and not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("quick")
def test_check_reports_a_disk_that_is_too_small(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganexp.tasks.check.free_disk", lambda folder: 5000)
    answer = cli(*CHECK)
    assert answer.code == 2 and "but 5 kB are free" in answer.out


@pytest.mark.slow
def test_check_rehearses_in_new_processes(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """In one, and in two that train together; a rank that dies is reported."""
    for hardware in ("cpu", "ddp_cpu"):
        arguments = [word for word in CHECK if word != "hardware=cpu"]
        answer = cli(*arguments, f"hardware={hardware}", "task.json=check.json")
        assert answer.code == 0, answer.err + answer.out
        facts = json.loads((tmp_path / "check.json").read_text())
        assert facts["memory"]["processes"] == (2 if hardware == "ddp_cpu" else 1)
        assert facts["step"]["timed"] > 20 and not (tmp_path / "outputs").exists()
    (tmp_path / "broken.py").write_text(
        "import os\n" + BROKEN.replace('raise MemoryError("no room for the second step")', "os.kill(os.getpid(), 9)")
    )
    answer = cli(*CHECK, "+callbacks.breaks._target_=broken.Breaks")
    assert answer.code == 2 and "its process was killed, most likely because memory ran out" in answer.out


# -- its parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [["model=biggan"], ["model=stylegan2"], ["model=vae"], ["experiment=sngan_cifar10"]])
def test_layers_hold_all_parameters_and_end_in_the_data_shape(overrides: list[str]) -> None:
    composed = compose(*overrides)
    system, shape = build(composed["model"], "model"), composed["data"]["shape"]
    for name, layers in layers_of_system(system, tuple(shape)).items():
        assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in system.networks()[name].parameters())
        assert 1 < len(layers) <= 33
        if name == "generator" and "stylegan2" not in overrides[0]:
            assert layers[-1].shape == list(shape)


def test_deep_network_is_listed_by_its_blocks() -> None:
    block = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(30)]
    network = nn.Sequential(*block)
    (layers,) = layers_of({"D": network}, lambda: network(torch.zeros(1, 3, 8, 8))).values()
    assert [layer.kind for layer in layers] == ["block"] * 30 and layers[0].parameters == 84 + 12
    small = nn.Sequential(*block[:2])
    (layers,) = layers_of({"D": small}, lambda: small(torch.zeros(1, 3, 8, 8))).values()
    assert [layer.kind for layer in layers] == ["conv 3×3", "conv 1×1 + ReLU"] * 2
    assert layers[0].shape == [3, 8, 8] and layers[1].name == "0.1"


def test_period_covers_lazy_terms_and_d_steps() -> None:
    terms = {"r1": regularizers.R1(1.0, every=4), "r2": regularizers.R2(1.0, every=6)}
    assert make_gan().period() == 1
    assert make_gan(regularizers=terms, d_steps=5).period() == math.lcm(4, 6, 5)


@pytest.mark.parametrize(
    "overrides, line",
    [
        (["callbacks=[progress]", "trainer.samples_every=3"], "trainer.samples_every: callbacks has no samples"),
        (["callbacks=[progress]"], "metrics: callbacks has no metrics, so nothing is measured"),
        (["metrics=[swd]", "extractor=random"], "extractor: none of the metrics uses it"),
        (["regularizer=[r1]", "regularizer.r1.weight=0"], "regularizer.r1.weight: is 0"),
        (["trainer.max_steps=100"], "callbacks.metrics.every: 250 is more than trainer.max_steps, 100"),
    ],
)
def test_settings_without_effect_are_listed(overrides: list[str], line: str) -> None:
    keys = [word.partition("=")[0] for word in overrides]
    assert line in without_effect(compose(*overrides), keys)
    assert without_effect(compose(), []) == []


def times(**changes: Any) -> dict[str, float]:
    acts = {
        "Samples": {"every": 250, "at_the_end": True, "seconds": 2.0},
        "Metrics": {"every": 300, "at_the_end": True, "seconds": 3.0},
        "Checkpoint": {"every": 500, "at_the_end": True, "seconds": 1.0},
        "Watchdog": {"every": 300, "at_the_end": False, "seconds": 1.0},
    }
    measured = {
        "startup": 4.0, "start": {"Metrics": 3.0}, "step": 0.1, "log": 0.01, "record": 0.02, "acts": acts,
        "end": {"Samples": 0.4, "Progress": 0.1}, "exit": 0.5,
    }  # fmt: skip
    parts = rehearsal.parts_of_time(measured | changes, {"max_steps": 1000, "log_every": 50}, changes.get("first", 0))
    return {name: part["times"] for name, part in parts.items()} | {"end_seconds": parts["end"]["seconds"]}


def test_parts_of_a_run_are_counted() -> None:
    """Metrics at 300, 600, 900 and 1000; each but the last may write a best.ckpt in addition to the checkpoints of 500 and
    1000."""
    found = times()
    assert found["samples"] == 4 and found["metrics"] == 4 and found["watchdog"] == 3 and found["checkpoint"] == 2 + 3
    assert found["steps"] == 1000 and found["log"] == 20 and found["record"] == 2
    assert found["end_seconds"] == pytest.approx(0.4 + 0.1 + 0.5)
    late = times(first=550)
    assert late["steps"] == 450 and late["samples"] == 2 and late["metrics"] == 3 and late["watchdog"] == 2


def test_durations_and_sizes_are_readable() -> None:
    assert (duration(0.9996), size(999_700)) == ("1 s", "1 MB")
    assert [duration(s) for s in (0.0082, 4.1, 200, 18600, 183600)] == [
        "8.2 ms",
        "4.1 s",
        "3 min 20 s",
        "5 h 10 min",
        "2 days 3 h",
    ]
    assert [size(n) for n in (12_000, 3_400_000, 1.23e9)] == ["12 kB", "3.4 MB", "1.23 GB"]
