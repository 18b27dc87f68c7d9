"""task=sample and task=evaluate: a checkpoint alone is sufficient."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import BARE, NARROW, TINY, Answer
from PIL import Image

Cli = Callable[..., Answer]


@pytest.fixture
def trained(run_of: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint on its own, far from its run."""

    def train(model: str, data: str, *more: str) -> Path:
        run = run_of(f"model={model}", f"data={data}", *BARE, *NARROW[model], *more)
        return Path(shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt"))

    return train


def test_sample_writes_a_grid(cli: Cli, trained: Callable[..., Path]) -> None:
    answer = cli("task=sample", f"run={trained('cdcgan', 'digits')}", "task.num=20")
    assert answer.code == 0, answer.err
    assert "20 samples: " in answer.out and "alone.ckpt, step 3" in answer.out
    picture = Image.open(answer.run / "grid.png")
    assert picture.width > picture.height  # ten classes a row, two rows


def test_sample_writes_single_pictures(cli: Cli, trained: Callable[..., Path]) -> None:
    answer = cli("task=sample", f"run={trained('dcgan', 'digits')}", "task.num=3", "task.grid=false")
    files = sorted(answer.run.glob("*.png"))
    assert [f.name for f in files] == ["00000.png", "00001.png", "00002.png"]
    assert Image.open(files[0]).size == (8, 8) and Image.open(files[0]).mode == "L"


def test_sample_writes_points_and_a_scatter(cli: Cli, trained: Callable[..., Path]) -> None:
    answer = cli("task=sample", f"run={trained('mlp', 'sine')}", "task.num=50")
    assert answer.code == 0, answer.err
    assert np.load(answer.run / "samples.npy").shape == (50, 2)
    assert (answer.run / "scatter.png").is_file()


def test_samples_depend_on_the_seed_alone(cli: Cli, trained: Callable[..., Path]) -> None:
    checkpoint = trained("mlp", "sine")
    samples = []
    for i, seed in enumerate((1, 1, 2)):
        answer = cli("task=sample", f"run={checkpoint}", f"seed={seed}", "task.num=9", f"hydra.run.dir={i}")
        assert answer.code == 0, answer.err
        samples.append(np.load(answer.folder / str(i) / "samples.npy"))
    assert np.array_equal(samples[0], samples[1]) and not np.array_equal(samples[0], samples[2])


def test_sample_takes_a_label(cli: Cli, trained: Callable[..., Path]) -> None:
    checkpoint = trained("cdcgan", "digits", "optimizer.generator.lr=0.05")
    pictures = []
    for label in (3, 4):
        answer = cli("task=sample", f"run={checkpoint}", "task.num=4", f"task.label={label}", f"hydra.run.dir=drawn/{label}")
        assert answer.code == 0, answer.err
        pictures.append((answer.folder / "drawn" / str(label) / "grid.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_sample_refuses_unknown_label(cli: Cli, trained: Callable[..., Path]) -> None:
    answer = cli("task=sample", f"run={trained('cdcgan', 'digits')}", "task.label=10")
    assert answer.code == 2 and "task.label: must be from 0 to 9 for this model, got 10" in answer.err
    answer = cli("task=sample", f"run={trained('dcgan', 'digits')}", "task.label=1")
    assert answer.code == 2 and "unconditional" in answer.err


def test_evaluate_writes_metric_values(cli: Cli, trained: Callable[..., Path]) -> None:
    answer = cli(
        "task=evaluate", f"run={trained('cdcgan', 'digits')}", "metrics=[fid,swd]", "task.num_images=300", "extractor=random"
    )
    assert answer.code == 0, answer.err
    result = json.loads((answer.run / "evaluation.json").read_text())
    assert result["values"].keys() == {"fid/random", "swd/pixels"}
    assert all(v["value"] > 0 and v["fingerprint"] in answer.out for v in result["values"].values())
    protocol = result["protocols"]["fid/random"]
    assert (protocol["generated"], protocol["real"]["images"], result["step"], protocol["ema"]) == (300, 300, 3, True)
    assert "fid/random" in answer.out


def test_evaluate_reproduces_the_value_of_training(cli: Cli) -> None:
    """The same samples and the same real ones give the number in the run."""
    answer = cli("model=mlp", "data=sine", *TINY, *NARROW["mlp"])
    checkpoint = answer.run / "checkpoints" / "last.ckpt"
    last = answer.record["metrics"]["swd/pixels"]["last"]
    again = cli("task=evaluate", f"run={checkpoint}", "task.num_images=32", "hydra.run.dir=evaluated")
    assert again.code == 0, again.err
    value = json.loads((again.folder / "evaluated" / "evaluation.json").read_text())["values"]["swd/pixels"]["value"]
    assert value == pytest.approx(last, rel=1e-6)


def test_evaluate_takes_other_data_of_the_same_shape(cli: Cli, trained: Callable[..., Path], data_root: Path) -> None:
    checkpoint = trained("dcgan", "mnist", f"data.root={data_root}")
    answer = cli("task=evaluate", f"run={checkpoint}", "data=fashion_mnist", f"data.root={data_root}", "task.num_images=64")
    assert answer.code == 0, answer.err
    assert json.loads((answer.run / "evaluation.json").read_text())["data"] == "FashionMNIST"
    answer = cli("task=evaluate", f"run={checkpoint}", "data=digits")
    assert answer.code == 2 and "data.shape: [1, 8, 8], but the model generates [1, 28, 28]" in answer.err


def test_sample_refuses_a_checkpoint_of_other_shapes(cli: Cli, trained: Callable[..., Path]) -> None:
    import torch

    checkpoint = trained("mlp", "sine")
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["model"]["generator"]["hidden"] = [9]
    torch.save(content, checkpoint)
    answer = cli("task=sample", f"run={checkpoint}")
    assert answer.code == 2 and "do not fit its config" in answer.err


def test_sample_refuses_an_own_class_without_trust(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my_latents.py").write_text("from ganexp.latents import Normal\n\n\nclass Wide(Normal):\n    pass\n")
    answer = cli("model=mlp", "data=sine", *BARE, *NARROW["mlp"], "model.latent._target_=my_latents.Wide")
    assert answer.code == 0, answer.err
    checkpoint = answer.run / "checkpoints" / "last.ckpt"
    refused = cli("task=sample", f"run={checkpoint}")
    assert refused.code == 2 and "add trust=[my_latents]" in refused.err
    assert cli("task=sample", f"run={checkpoint}", "trust=[my_latents]").code == 0
