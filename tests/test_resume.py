"""A resumed run is the run that never stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Answer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SHORT = [
    "hardware=cpu", "data.batch_size=512", "trainer.log_every=1", "trainer.log_mean=3", "trainer.samples_every=2", "seed=5",
    "trainer.metrics_every=2", "trainer.checkpoint_every=2", "trainer.num_samples=10", "callbacks.metrics.num=32",
    "model.width=0.05",
]  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def state(run: Path) -> dict[str, Any]:
    """All of the last checkpoint that the folder's name and the clock do not change."""
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {
        k: content[k] for k in ("state_dict", "optimizer_states", "lr_schedulers", "random", "images_seen", "recent", "callbacks")
    }


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "choices",
    [
        ["model=mlp", "data=sine"],
        ["model=cdcgan", "regularizer=[r1,wgan_gp]", "regularizer.r1.every=4", "augment=[flip]", "model.d_steps=5"],
        ["model=acgan", "loss=bce_noisy", "model.separate=true", "model.g_steps=2", "data.replacement=true"],
        ["model=vae", "schedule=cosine", "optimizer=rmsprop"],
        ["model=gmmn", "hardware.precision=bf16-mixed"],
    ],
    ids=lambda c: c[0],
)
def test_six_steps_and_six_more_are_twelve(choices: list[str], cli: Callable[..., Answer], tmp_path: Path) -> None:
    """In the middle of an epoch: three batches each."""
    whole, parts = tmp_path / "outputs" / "whole", tmp_path / "outputs" / "parts"
    assert cli(*choices, *SHORT, "trainer.max_steps=12", f"hydra.run.dir={whole}").code == 0
    length = ["schedule.T_max=12"] if "schedule=cosine" in choices else []
    assert cli(*choices, *SHORT, "trainer.max_steps=7", *length, f"hydra.run.dir={parts}").code == 0
    for file in ("last.ckpt", "step-00000007.ckpt"):  # as if killed in step 8
        (parts / "checkpoints" / file).unlink()
    answer = cli("task=resume", f"run={parts}", "trainer.max_steps=12")
    assert answer.code == 0, answer.err
    assert "resumed at step 6" in answer.out
    assert same(state(whole), state(parts))
    assert rows(whole) == rows(parts)
    for picture in (whole / "samples").iterdir():
        assert picture.read_bytes() == (parts / "samples" / picture.name).read_bytes(), picture.name
    record = json.loads((parts / "run.json").read_text())
    assert record["status"] == "finished" and record["resumed_at"] == [6] and record["steps"] == 12


def test_tensorboard_shows_one_curve(cli: Callable[..., Answer], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("model=mlp", "data=sine", *SHORT, "trainer.max_steps=5", f"hydra.run.dir={run}").code == 0
    for file in ("last.ckpt", "step-00000005.ckpt"):
        (run / "checkpoints" / file).unlink()
    assert cli("task=resume", f"run={run}", "trainer.max_steps=8").code == 0
    events = EventAccumulator(str(run))
    events.Reload()
    assert [e.step for e in events.Scalars("loss/generator")] == list(range(1, 9))


def test_a_damaged_checkpoint_is_left_aside(cli: Callable[..., Answer], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("model=mlp", "data=sine", *SHORT, "trainer.max_steps=6", f"hydra.run.dir={run}").code == 0
    for file in ("last.ckpt", "step-00000006.ckpt"):
        whole = (run / "checkpoints" / file).read_bytes()
        (run / "checkpoints" / file).unlink()
        (run / "checkpoints" / file).write_bytes(whole[: len(whole) // 2])
    answer = cli("task=resume", f"run={run}")
    assert answer.code == 0, answer.err
    assert "left aside" in answer.out and "resumed at step 4" in answer.out
    answer = cli("task=resume", f"run={run}")
    assert answer.code == 2 and "at its last step, 6; to go on, add trainer.max_steps=12" in answer.err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["task=resume"], "run: task=resume needs the folder of one: run=outputs/NAME/TIME"),
        (["task=resume", "run=nowhere"], "run: there is no folder nowhere"),
        (["task=resume", "run=."], "holds no config.yaml; name the folder of a run"),
        (["task=resume", "run=.", "loss=hinge"], "loss: task=resume does not read it, only run, trainer, hardware"),
        (["run=outputs"], "run: task=train does not read it"),
    ],
)
def test_mistakes(arguments: list[str], message: str, cli: Callable[..., Answer]) -> None:
    answer = cli(*arguments)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err
    assert not list(answer.folder.iterdir())
