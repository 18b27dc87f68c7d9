"""Transfer learning: a run that starts from the weights of another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BARE, NARROW, TINY, Answer

MODEL = ["model=dcgan", *NARROW["dcgan"]]


def weights(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)["state_dict"]


@pytest.fixture
def first(run_of: Callable[..., Path]) -> Path:
    return run_of(*MODEL, *TINY)


def test_start_from_takes_the_weights_of_the_other_run(first: Path, cli: Callable[..., Answer]) -> None:
    answer = cli(
        "hydra.run.dir=second", f"start_from={first}", *MODEL, *BARE,
        "optimizer.generator.lr=0", "optimizer.discriminator.lr=0", "seed=5",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    before, after = weights(first / "checkpoints" / "best.ckpt"), weights(answer.folder / "second/checkpoints/last.ckpt")
    parameters = [key for key in before if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    same = [key for key in parameters if before[key].equal(after[key])]
    assert [key for key in parameters if key.startswith(("generator.", "discriminator."))] == [
        key for key in same if key.startswith(("generator.", "discriminator."))
    ]
    assert torch.load(answer.folder / "second/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert "discriminator has the weights of" in (answer.folder / "second" / "log.txt").read_text()


def test_average_starts_from_that_of_the_other_run(first: Path, cli: Callable[..., Answer]) -> None:
    """With the ramp, the first step would forget all but a millionth of it. A resumed run has none either."""
    answer = cli("hydra.run.dir=second", f"start_from={first}", *MODEL, *BARE, "model.ema_half_life=1e9", "seed=5")
    assert answer.code == 0 and cli("task=resume", "run=second", "trainer.max_steps=5").code == 0
    before, after = weights(first / "checkpoints" / "best.ckpt"), weights(answer.folder / "second/checkpoints/last.ckpt")
    for key in before:
        if key.startswith("ema.average.") and key.endswith(".weight"):
            torch.testing.assert_close(after[key], before[key], rtol=1e-4, atol=1e-5)
            assert not after[key].equal(after["generator." + key.removeprefix("ema.average.")])


def test_frozen_layers_keep_the_weights_they_start_from(first: Path, cli: Callable[..., Answer]) -> None:
    answer = cli(
        "hydra.run.dir=second", f"start_from={first}", *MODEL, *BARE, "seed=5",
        "constraint=[freeze]", "constraint.freeze.layers=1",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    before, after = weights(first / "checkpoints" / "best.ckpt"), weights(answer.folder / "second/checkpoints/last.ckpt")
    assert before["discriminator.blocks.0.weight"].equal(after["discriminator.blocks.0.weight"])
    assert not before["discriminator.blocks.2.weight"].equal(after["discriminator.blocks.2.weight"])


def test_tensors_that_do_not_fit_are_new_and_noted(first: Path, cli: Callable[..., Answer]) -> None:
    answer = cli("hydra.run.dir=second", f"start_from={first}", "model=cdcgan", *NARROW["cdcgan"], *BARE)
    assert answer.code == 0, answer.err
    assert "tensors: head.label.weight …" in (answer.folder / "second" / "log.txt").read_text()
    assert any(" tensors: head.label.weight" in note for note in answer_record(answer.folder / "second")["notes"])


@pytest.mark.slow
def test_photos_small_starts_from_photos_with_frozen_layers(run_of: Callable[..., Path], cli: Callable[..., Answer]) -> None:
    data = ["data=digits", "data.shape=[3,32,32]", "model.width_multiplier=0.1"]
    photos = run_of("experiment=photos", *data, *BARE)
    answer = cli(
        "hydra.run.dir=second", f"start_from={photos}", "experiment=photos_small", "constraint=[freeze]", *data, *BARE, "seed=5"
    )
    assert answer.code == 0, answer.err
    before, after = weights(photos / "checkpoints" / "last.ckpt"), weights(answer.folder / "second/checkpoints/last.ckpt")
    changed = [key for key in before if not before[key].equal(after[key])]
    frozen, learning = (f"discriminator.members.{layer}.weight" for layer in ("plain.blocks.0", "plain.head.out"))
    assert frozen not in changed and learning in changed, "the first layers of its first member are fixed"
    assert any("projected.heads" in key and key.endswith("weight.original") for key in changed), "all heads of the other learn"
    notes = answer_record(answer.folder / "second")["notes"]
    assert [note.split(" ")[1] for note in notes if "has the weights of" in note] == ["discriminator", "generator", "ema.average"]


def answer_record(folder: Path) -> dict[str, Any]:
    import json

    return json.loads((folder / "run.json").read_text())


def test_start_from_refuses_other_networks(first: Path, cli: Callable[..., Answer]) -> None:
    answer = cli("hydra.run.dir=second", f"start_from={first}", "model=mlp", *NARROW["mlp"], *TINY)
    assert answer.code == 2 and "has no weights that fit this model's" in answer.err
    assert not (answer.folder / "second").exists()


def test_start_from_names_a_missing_run(cli: Callable[..., Answer]) -> None:
    answer = cli("start_from=nowhere", *MODEL, *TINY)
    assert answer.code == 2 and answer.err.strip() == "ganexp: start_from: there is no file or folder nowhere"
