"""ganexp.load: a trained model in Python, and which run `run=` means."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BARE, NARROW, Answer
from helpers import call

import ganexp
from ganexp.systems.contexts import seeded

Cli = Callable[..., Answer]


SWD = ["metrics=[swd]", "callbacks=[metrics,checkpoint]", "callbacks.metrics.num=32"]  # picks best.ckpt


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a few steps: of points, of conditional images, of a VAE."""
    folder = tmp_path_factory.mktemp("made")
    for name, choices in {
        "points": ["model=mlp", "data=sine", *NARROW["mlp"]],
        "images": ["model=cdcgan", *NARROW["cdcgan"], "optimizer.generator.lr=0.05"],
        "vae": ["model=vae", "model.width_multiplier=0.05"],
    }.items():
        assert call(folder, *choices, *BARE, *SWD, f"hydra.run.dir={name}") == 0
    return folder


def test_importing_ganexp_does_not_import_torch() -> None:
    said = "import sys, ganexp; print('torch' in sys.modules, 'hydra' in sys.modules, ganexp.ConfigError.__name__, dir(ganexp))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False False ConfigError") and "'load'" in done.stdout
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ganexp.nothing  # type: ignore[attr-defined]


# -- sampling ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 300])
def test_sample_equals_the_sample_task(n: int, made: Path, cli: Cli) -> None:
    """Also where samples are generated in several parts."""
    answer = cli("task=sample", f"run={made}/points", "seed=5", f"task.num={n}", "hydra.run.dir=o")
    assert answer.code == 0, answer.err
    model = ganexp.load(made / "points")
    x = model.sample(n, seed=5)
    assert x.shape == (n, 2) and np.array_equal(x.numpy(), np.load(answer.folder / "o" / "samples.npy"))
    assert not x.requires_grad and not torch.equal(x, model.sample(n, seed=6))


def test_sample_equals_the_samples_of_training(made: Path) -> None:
    model = ganexp.load(made / "images")
    with seeded(0, model.device):
        in_order = model.system.sample(20, torch.arange(20) % 10)
    with seeded(3, model.device):
        fours = model.system.sample(20, torch.full((20,), 4))
    assert torch.equal(model.sample(20, seed=0), in_order) and torch.equal(model.sample(20, seed=3, label=4), fours)


def test_model_states_shape_classes_step_and_checkpoint(made: Path) -> None:
    model = ganexp.load(made / "images")
    assert (model.shape, model.classes, model.config["data"]["classes"]) == ((1, 8, 8), 10, 10)
    assert model.step in (2, 3) and model.checkpoint == made / "images" / "checkpoints" / "best.ckpt"
    assert "images/checkpoints/best.ckpt" in repr(model) and model.to("cpu") is model
    assert ganexp.load(made / "points").classes is None


def test_seeded_sample_leaves_the_random_state_unchanged(made: Path) -> None:
    model = ganexp.load(made / "images")
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    model.sample(3, seed=1)
    assert torch.rand(1) == wanted
    torch.manual_seed(7)
    first, second = model.sample(3), model.sample(3)
    torch.manual_seed(7)
    assert torch.equal(model.sample(3), first) and not torch.equal(first, second)


def test_sample_takes_a_label_and_truncation(made: Path) -> None:
    model = ganexp.load(made / "images")
    mixed, sevens = model.sample(10, seed=1), model.sample(10, label=7, seed=1)
    assert torch.equal(mixed[7], sevens[7]) and not torch.allclose(mixed[3], sevens[3])
    less = model.sample(10, label=7, seed=1, truncation=0.1)
    assert 0 < less.std(0).mean() < 0.5 * sevens.std(0).mean()
    assert model.sample(4, label=7, truncation=0).std(0).max() < 1e-6


@pytest.mark.parametrize(
    "name, call, message",
    [
        ("images", lambda m: m.sample(2, label=10), "label: must be from 0 to 9 for this model, got 10"),
        ("images", lambda m: m.sample(2, label=-1), "label: must be from 0 to 9 for this model, got -1"),
        ("points", lambda m: m.sample(2, label=0), "label: this model is unconditional"),
        ("images", lambda m: m.sample(0), "n: must be at least 1, got 0"),
        ("images", lambda m: m.generate(torch.zeros(2, m.latent.dim)), "y: this model is conditional: pass a class from 0 to 9"),
        ("images", lambda m: m.generate(torch.zeros(2, m.latent.dim), torch.tensor([1])), r"y: must be \[2\], one for each"),
        (
            "images",
            lambda m: m.generate(torch.zeros(2, m.latent.dim), torch.tensor([1, 10])),
            "y: must be from 0 to 9",
        ),
        ("images", lambda m: m.generate(torch.zeros(2, 3), 1), r"z: must be \[N, 100\], got \[2, 3\]"),
        ("points", lambda m: m.generate(torch.zeros(1, m.latent.dim), 1), "y: this model is unconditional"),
    ],
)
def test_model_refuses_what_it_cannot_do(name: str, call: Callable[[ganexp.Model], object], message: str, made: Path) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call(ganexp.load(made / name))


def test_generate_is_differentiable_in_z_alone(made: Path) -> None:
    model = ganexp.load(made / "images")
    z = torch.randn(4, model.latent.dim, requires_grad=True)
    x = model.generate(z, torch.tensor([0, 1, 2, 3]))
    x.square().sum().backward()
    assert x.shape == (4, 1, 8, 8) and z.grad is not None and z.grad.abs().sum(1).min() > 0
    assert all(p.grad is None and not p.requires_grad for p in model.system.parameters())
    alone = model.generate(z[:1], 0)  # evaluation mode: a sample does not depend on the others
    assert torch.allclose(alone[0], x[0], atol=1e-6)
    assert torch.allclose(model.generate(z, 3, truncation=0.5), model.generate(z * 0.5, 3))


def test_generate_uses_the_average_and_restores_the_mode(made: Path) -> None:
    system = ganexp.load(made / "images").system
    system.train()
    z, y = torch.randn(2, system.latent.dim), torch.tensor([1, 2])
    before = {name: value.clone() for name, value in system.state_dict().items()}
    x = system.generate(z, y)
    assert system.generator.training and system.sampler.training
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())  # of batch norm too
    with torch.no_grad():
        assert torch.equal(x, system.sampler.eval()(z, y)) and not torch.equal(x, system.generator.eval()(z, y))


def test_encode_gives_the_mean_of_the_encoder(made: Path) -> None:
    model = ganexp.load(made / "vae")
    x = model.sample(4, seed=0)
    mean = model.encode(x)
    assert mean.shape == (4, model.latent.dim)
    y = torch.zeros(4, dtype=torch.long)
    assert torch.equal(model.generate(mean), model.system.reconstruct(x, y))  # type: ignore[operator]
    with pytest.raises(AttributeError, match="encode: GAN has no encoder; a VAE has one"):
        ganexp.load(made / "images").encode(x)


# -- which run -----------------------------------------------------------------------------------------------------------


def test_run_stands_for_its_best_or_last_checkpoint(made: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(made / "points", tmp_path / "run")
    answer = cli("task=sample", "run=run", "hydra.run.dir=a")
    assert answer.code == 0 and "checkpoint run/checkpoints/best.ckpt, step " in answer.out
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    answer = cli("task=sample", "run=run", "hydra.run.dir=b")
    assert answer.code == 0 and "checkpoint run/checkpoints/last.ckpt, step 3" in answer.out
    answer = cli("task=evaluate", "run=run", "task.num_images=32", "hydra.run.dir=c")
    assert answer.code == 0 and "checkpoint run/checkpoints/last.ckpt, step 3" in answer.out


@pytest.mark.slow
def test_sweep_over_runs_samples_each(made: Path, cli: Cli) -> None:
    answer = cli("-m", "task=sample", f"run={made}/points,{made}/images", "task.num=4")
    assert answer.code == 0 and "all 2 jobs finished" in answer.out, answer.err
    assert [file.name for file in sorted(answer.folder.glob("outputs/sweep/*/*/*.*")) if file.suffix in (".npy", ".png")] == [
        "samples.npy", "scatter.png", "grid.png",
    ]  # fmt: skip


def a_run(made: Path, folder: Path, started: str | None, mtime: float = 0) -> None:
    shutil.copytree(made / "points", folder)
    record = json.loads((folder / "run.json").read_text())
    assert record.pop("started")
    (folder / "run.json").write_text(json.dumps(record | ({"started": started} if started else {})))
    os.utime(folder / ".hydra" / "overrides.yaml", (mtime, mtime))


def test_latest_is_the_run_started_last(made: Path, cli: Cli, tmp_path: Path) -> None:
    """Wherever it is and whatever was written last; without a checkpoint it can only be resumed."""
    outputs = tmp_path / "outputs"
    a_run(made, outputs / "b" / "1", "2026-01-02T00:00:00+00:00")
    a_run(made, outputs / "a" / "2", "2026-01-01T00:00:00+00:00")
    assert ganexp.load("latest").checkpoint == Path("outputs/b/1/checkpoints/best.ckpt")
    a_run(made, outputs / "sweep" / "time" / "0", "2026-01-03T00:00:00+00:00")
    assert "outputs/sweep/time/0/checkpoints/best.ckpt" in cli("task=sample", "run=latest").out
    a_run(made, outputs / "old", None, mtime=2e9)  # of no known start: when Hydra made its folder
    assert ganexp.load("latest").checkpoint == Path("outputs/old/checkpoints/best.ckpt")
    shutil.rmtree(outputs / "old" / "checkpoints")
    assert ganexp.load("latest").checkpoint == Path("outputs/sweep/time/0/checkpoints/best.ckpt")
    other = outputs / "mine"  # of another task, which keeps a config too
    other.mkdir()
    (other / "config.yaml").write_text("a: 1")
    (other / ".hydra").mkdir()
    (other / ".hydra" / "overrides.yaml").write_text("- task=mine\n")
    os.utime(other / ".hydra" / "overrides.yaml", (2.1e9, 2.1e9))
    answer = cli("task=resume", "run=latest")
    assert answer.code == 2 and "outputs/old" in answer.err  # it had checkpoints once: starting anew would lose what is there
    assert "sweep/time/0" in cli("task=resume", "run=outputs/sweep/time/0").err  # at its last step already


def test_resumed_run_keeps_its_start_time(made: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(made / "points", tmp_path / "run")
    before = json.loads((tmp_path / "run" / "run.json").read_text())["started"]
    assert cli("task=resume", "run=run", "trainer.max_steps=5").code == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["started"] == before


@pytest.mark.parametrize(
    "fill, run, message",
    [
        (lambda f: None, "nowhere", "run: there is no file or folder nowhere"),
        (lambda f: (f / "empty").mkdir(), "empty", "run: empty has no checkpoint, neither checkpoints/best.ckpt nor"),
        (lambda f: None, "latest", "run: there is no run with a checkpoint below outputs/"),
        (lambda f: (f / "x.ckpt").write_text("x"), "x.ckpt", "run: x.ckpt is not a checkpoint, or is truncated"),
        (lambda f: torch.save({"a": 1}, f / "x.ckpt"), "x.ckpt", "run: x.ckpt is not a checkpoint of ganexp"),
        (lambda f: torch.save({"a": os.system}, f / "x.ckpt"), "x.ckpt", "run: x.ckpt contains more than tensors"),
    ],
)
def test_load_refuses_bad_paths_in_one_line(
    fill: Callable[[Path], object], run: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    with pytest.raises(ganexp.ConfigError) as refused:
        ganexp.load(run)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_load_refuses_damage_untrusted_classes_and_missing_devices(made: Path, tmp_path: Path) -> None:
    file = made / "points" / "checkpoints" / "last.ckpt"
    (tmp_path / "cut.ckpt").write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ganexp.ConfigError, match="is not a checkpoint, or is truncated"):
        ganexp.load(tmp_path / "cut.ckpt")
    content = torch.load(file, weights_only=True)
    content["config"]["model"]["latent"]["_target_"] = "my_latents.Wide"
    torch.save(content, tmp_path / "mine.ckpt")
    with pytest.raises(ganexp.ConfigError, match=r"asks to run my_latents\.Wide, which is not one of ganexp's own"):
        ganexp.load(tmp_path / "mine.ckpt")
    with pytest.raises(ganexp.ConfigError, match=r"my_latents\.Wide cannot be imported"):
        ganexp.load(tmp_path / "mine.ckpt", trust=["my_latents"])
    with pytest.raises(ganexp.ConfigError, match="device: nothing: "):
        ganexp.load(file, device="nothing")


# -- the format ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("format"), r"has an older format \(without a number\) than this version of ganexp reads \(3\): use the"),
        (lambda c: c.update(format=1), r"has an older format \(1\)"),
        (lambda c: c.update(format=4), r"has a newer format \(4\) than this version of ganexp reads \(3\): update ganexp$"),
        (lambda c: c.update(format="x"), r"has a newer format \(x\)"),
    ],
)
def test_checkpoint_of_another_format_is_refused(change: Callable[[dict], object], message: str, made: Path, cli: Cli) -> None:
    shutil.copytree(made / "points", cli_folder := Path("run").absolute())
    for file in (cli_folder / "checkpoints").iterdir():
        content = torch.load(file, weights_only=True)
        assert content["format"] == 3
        change(content)
        file.unlink()
        torch.save(content, file)
    with pytest.raises(ganexp.ConfigError, match=message):
        ganexp.load("run")
    answer = cli("task=resume", "run=run", "trainer.max_steps=5")
    assert answer.code == 2 and answer.err.count("\n") == 1
    with pytest.raises(ganexp.ConfigError, match=message):
        raise ganexp.ConfigError(answer.err.strip())
