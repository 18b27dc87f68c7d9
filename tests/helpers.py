"""Helpers of several test modules."""

from __future__ import annotations

import copy
import csv
import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import NARROW, NARROW_ALL
from torch import Tensor, nn

from ganexp import latents, losses
from ganexp.augment import Augmentation
from ganexp.callbacks.log import Log
from ganexp.cli import config, messages
from ganexp.cli.build import build
from ganexp.cli.main import main
from ganexp.data.toy import Sine
from ganexp.networks import mlp
from ganexp.networks.output import Output
from ganexp.systems.gan import GAN
from ganexp.systems.vae import VAE


def options(group: str) -> list[str]:
    """Returns the options of a group in the config tree, so that a new one is tested at once."""
    with config.config_tree():
        return messages.options(group)


@cache
def composed_once(*overrides: str) -> dict[str, Any]:
    """Compose without the checks of the command line, which compose several times."""
    with config.config_tree():
        cfg = config.compose_config(overrides, "config")
        config.drop_leftovers(cfg, overrides)
        return config.resolved(cfg)


def compose(*overrides: str) -> dict[str, Any]:
    return copy.deepcopy(composed_once(*overrides))


MODELS = [name for name in options("model") if name != "gan"]  # gan has no networks of its own


REGULARIZERS = ["", *options("regularizer")]


def narrow(model: str) -> list[str]:
    return NARROW["mlp"] if model.startswith("mlp") else NARROW.get(model, NARROW_ALL)


def play(composed: dict[str, Any], precision: Any = "32-true") -> pl.LightningModule:
    """Train for two batches on Lightning's loop, and check that all scalars are finite and all networks have changed."""
    torch.manual_seed(1)  # in a few narrow networks every unit may be dead
    system, module = build(composed["model"], "model"), build(composed["data"], "data")
    system.check_shapes(module.shape)
    module.prepare()
    before = {name: torch.cat([p.flatten() for p in n.parameters()]).clone() for name, n in system.networks().items()}
    pl.Trainer(
        max_steps=2, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, precision=precision,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    ).fit(system, datamodule=module)  # fmt: skip
    assert system.global_step == 2
    assert all(value.isfinite() for value in system.scalars.latest.values()), system.scalars.latest
    for name, network in system.networks().items():
        after = torch.cat([p.flatten() for p in network.parameters()])
        assert after.isfinite().all() and not after.equal(before[name]), name
    return system


SHORT = [
    "hardware=cpu", "hardware.precision=32-true",
    "data.batch_size=512", "trainer.log_every=1", "trainer.log_window=3", "trainer.samples_every=2", "seed=5",
    "trainer.metrics_every=2", "trainer.checkpoint_every=2", "trainer.num_samples=10", "callbacks.metrics.num=32",
    "model.width_multiplier=0.05",
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
    """Returns the content of the last checkpoint that does not depend on the folder's name and the clock."""
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "random", "images_seen", "callbacks")
    return {key: content[key] for key in kept}


def kill_after(step: int, run: Path) -> None:
    """Leave the folder as if the run, which logs every step, had been killed while writing the row after a step."""
    for file in (run / "checkpoints").iterdir():
        if file.name != f"step-{step:08d}.ckpt":
            file.unlink()
    header, *lines = (run / "metrics.csv").read_text().splitlines(keepends=True)
    column = header.strip().split(",").index("step")
    kept = [line for line in lines if int(line.strip().split(",")[column]) <= step + 1]
    (run / "metrics.csv").write_text(header + "".join(kept)[:-40])
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "running", "steps": step}))


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def make_gan(**changes: Any) -> GAN:
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "latent": latents.Normal(2),
        "generator": mlp.Generator([2], 2, [8]),
        "discriminator": mlp.Discriminator([2], [8], dropout=0.0),
        "loss": losses.BCE(),
        "regularizers": {},
        "augment": {},
        "optimizer": {
            "generator": lambda p: torch.optim.SGD(p, 0.1),
            "discriminator": lambda p: torch.optim.SGD(p, 0.2),
        },
        "schedule": lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0, 0),
    }
    return GAN(**(parts | changes))


def fit(system: GAN, steps: int, *callbacks: pl.Callback, data: Any = None) -> pl.Trainer:
    if data is None:
        data = Sine([2], 0, batch_size=16, seed=0)
        data.prepare()
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, callbacks=[Log(), *callbacks],
    )  # fmt: skip
    trainer.fit(system, datamodule=data)
    return trainer


class Watch(pl.Callback):
    """Records the weights of both networks after every batch."""

    def __init__(self) -> None:
        self.d: list[Tensor] = []
        self.g: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, system: Any, *rest: Any) -> None:
        self.d.append(nn.utils.parameters_to_vector(system.discriminator.parameters()).detach().clone())
        self.g.append(nn.utils.parameters_to_vector(system.generator.parameters()).detach().clone())


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, 3e-3)


def constant(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 0)


def fit_data() -> Any:
    from ganexp.data.toy import Sine

    data = Sine([2], 0, batch_size=16, seed=0)
    data.prepare()
    return data


def labelled() -> Any:
    """Returns the points of the sine curve, with three classes."""
    data = fit_data()
    data.y = torch.arange(len(data.x)) % 3
    return data


def make_vae(**changes: Any) -> VAE:
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "latent": latents.Normal(2),
        "generator": mlp.Generator([1, 8, 8], 2, [32]),
        "encoder": mlp.Discriminator([1, 8, 8], [32], dropout=0.0, outputs=4),
        "loss": losses.ELBO(),
        "optimizer": {"generator": adam},
        "schedule": constant,
    }
    return VAE(**(parts | changes))


class Shift(Augmentation):
    """Adds a number, its state, to all images; records what it observes."""

    def __init__(self, by: float = 1.0):
        super().__init__()
        self.register_buffer("by", torch.tensor(by))
        self.observed: list[Output] = []

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by

    def observe(self, real: Output) -> dict[str, Tensor]:
        self.observed.append(real)
        return {"seen": real.logits.mean()}


Y = torch.tensor([0, 1, 2])


def count(make: Any, *arguments: Any, **options: Any) -> int:
    """Returns the number of trainable weights of a network built on the meta device. Spectral norm adds none, and is slow to
    build."""
    with torch.device("meta"):
        return sum(p.numel() for p in make(*arguments, **options).parameters())


PLAIN = {"spectral_norm": False}


def image(side: int) -> tuple[int, int, int]:
    return 3, side, side


def far(network: nn.Module) -> nn.Module:
    """Moves every parameter far from its initial value, including biases and attention's gamma."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn_like(p))
    return network


# A forked rank need not import everything again, which takes ten times as long as the tests do; but CUDA does not survive a fork.
RANKS = "fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"


def on_two_ranks(work: Any, *arguments: Any) -> None:
    """Calls `work(rank, *arguments)` in two processes that torch.distributed connects. Raises if one of them fails."""
    with TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        torch.multiprocessing.start_processes(connected, (meeting, work, arguments), nprocs=2, start_method=RANKS)


def connected(rank: int, meeting: str, work: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork either
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    work(rank, *arguments)
    torch.distributed.destroy_process_group()


def call(folder: Path, *arguments: str) -> int:
    """Runs `python -m ganexp ARGUMENTS` in a folder, in this process, for shared fixtures. Returns the exit code."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", ["ganexp", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)
