"""Compares the images per second of ganexp with those of a plain PyTorch loop that does the same work, in one process.

    python benchmarks/speed.py mlp            MLP on 28×28 grey images
    python benchmarks/speed.py dcgan          DCGAN on 64×64 colour images, the networks of pytorch/examples' dcgan
    python benchmarks/speed.py dcgan --gpu --batch-size 128 --precision bf16-mixed --compile reduce-overhead

Both train the same networks with the same loss, optimizer and batch size on images in memory. The loop is that of tutorials: data
already scaled to float32, D not frozen in G's update, defaults of torch and the C library. ganexp runs with its Trainer, data
module, TensorBoard and CSV loggers at default intervals and progress bar, without pictures, metrics and checkpoints. Neither has
an EMA. Precision and compilation are ganexp's alone. The plain loop stays in float32, with all images on the device; on a GPU its
convolutions use TF32, torch's default, which ganexp switches off. Rounds alternate and the ratio is computed per round, so that
other load on the machine slows both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from ganexp.callbacks.log import Log
from ganexp.cli import checks, config
from ganexp.cli.build import build
from ganexp.data.module import DataModule
from ganexp.loggers import RunLogger
from ganexp.runtime.memory import keep_freed_memory, set_thresholds
from ganexp.runtime.trainer import compile_networks
from ganexp.tasks.train import in_folder, quiet

TASKS = {"mlp": ("model=mlp", [1, 28, 28], 60), "dcgan": ("model=dcgan", [3, 64, 64], 6)}


class Noise(DataModule):
    """Random images; their content does not affect the speed."""

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        x = np.random.default_rng(0).integers(0, 256, (2048, *self.shape), np.uint8)
        return x, np.zeros(len(x), np.int64)


class Clock(pl.Callback):
    """Measures seconds per step after `warm_up` steps."""

    def __init__(self, warm_up: int):
        self.warm_up = warm_up

    def on_train_batch_start(self, trainer: Any, system: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.warm_up:
            wait(system.device)
            self.started = time.perf_counter()

    def on_train_end(self, trainer: Any, system: Any) -> None:
        wait(system.device)
        self.seconds = (time.perf_counter() - self.started) / (trainer.max_steps - self.warm_up)


def wait(device: torch.device) -> None:
    """Kernels are started ahead of time on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Ours:
    def __init__(self, resolved: dict[str, Any], data: DataModule, steps: int):
        self.resolved, self.data, self.steps = resolved, data, steps
        self.system = build(resolved["model"], "model")
        self.hardware = resolved["hardware"] | {"strategy": "auto"}
        if mode := self.hardware.pop("compile"):
            compile_networks(self.system, mode)

    def round(self) -> float:
        keep_freed_memory()
        torch.backends.cudnn.allow_tf32 = False  # as make_trainer does
        clock = Clock(warm_up=max(1, self.steps // 5))
        loggers = [build(node, "logger") for node in self.resolved["logger"].values()]
        for logger in loggers:
            if isinstance(logger, RunLogger):
                logger.begin({}, [], [])
        trainer = build(self.hardware, "hardware")(
            max_steps=self.steps + clock.warm_up, max_epochs=-1, logger=loggers,
            callbacks=[Log(), build(self.resolved["callbacks"]["progress"], "callbacks.progress"), clock],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            log_every_n_steps=self.resolved["trainer"]["log_every"], use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(self.system, datamodule=self.data)
        return clock.seconds


class Plain:
    """The training loop of tutorials."""

    def __init__(self, resolved: dict[str, Any], data: DataModule, steps: int, keep_memory: bool, device: torch.device):
        self.keep_memory, self.device = keep_memory, device
        self.g = build(resolved["model"]["generator"], "generator").to(device)
        self.d = build(resolved["model"]["discriminator"], "discriminator").to(device)
        self.optimizer_g = torch.optim.Adam(self.g.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(self.d.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.images = data.x.contiguous().to(device).float() / 127.5 - 1
        self.batch_size, self.steps, self.latent = data.batch_size, steps, resolved["model"]["latent"]["dim"]

    def round(self) -> float:
        if not self.keep_memory:
            set_thresholds(32 << 20, 64 << 20)  # glibc's own adaptive values
        torch.backends.cudnn.allow_tf32 = True  # torch's default
        warm_up = max(1, self.steps // 5)
        for step in range(self.steps + warm_up):
            if step == warm_up:
                wait(self.device)
                started = time.perf_counter()
            losses = self.step(self.images[torch.randint(len(self.images), (self.batch_size,), device=self.device)])
            if step % 50 == 0:
                _ = [loss.item() for loss in losses]
        wait(self.device)
        return (time.perf_counter() - started) / self.steps

    def step(self, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.zeros(len(real), dtype=torch.long, device=self.device)
        ones, zeros = torch.ones(len(real), 1, device=self.device), torch.zeros(len(real), 1, device=self.device)
        self.optimizer_d.zero_grad()
        fake = self.g(torch.randn(len(real), self.latent, device=self.device), y)
        loss_real = F.binary_cross_entropy_with_logits(self.d(real, y).logits, ones)
        loss_fake = F.binary_cross_entropy_with_logits(self.d(fake.detach(), y).logits, zeros)
        loss_d = loss_real + loss_fake
        loss_d.backward()
        self.optimizer_d.step()

        self.optimizer_g.zero_grad()
        loss_g = F.binary_cross_entropy_with_logits(self.d(fake, y).logits, ones)
        loss_g.backward()
        self.optimizer_g.step()
        return loss_d, loss_g


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory in the plain loop too, as ganexp does")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--compile", default="null", help="a mode of hardware.compile")
    parser.add_argument("--steps", type=int, help="in a round; default: some seconds on two CPU cores")
    arguments = parser.parse_args()
    model, shape, steps = TASKS[arguments.task]

    quiet()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # as make_trainer does; Lightning slows the plain loop too
    steps = arguments.steps or steps
    device = torch.device("cuda" if arguments.gpu else "cpu")
    hardware = [f"hardware={'gpu' if arguments.gpu else 'cpu'}", f"hardware.precision={arguments.precision}"]
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            model,
            "loss=bce",
            "regularizer=[]",
            "model.ema_half_life=null",
            *hardware,
            f"data.shape={shape}",
            f"hardware.compile={arguments.compile}",
        ]
        with config.config_tree():
            resolved = config.resolved(checks.compose_checked([*overrides, "hydra.run.dir=" + folder]))
        resolved["logger"] = in_folder(resolved["logger"], Path(folder))
        data = Noise(shape, 0, arguments.batch_size, 0)
        data.prepare()
        ours, plain = Ours(resolved, data, steps), Plain(resolved, data, steps, arguments.keep_memory, device)
        times = []
        for k in range(arguments.rounds + 1):  # the first round is a warm-up; then the order alternates
            pair = {player: player.round() for player in ((ours, plain) if k % 2 else (plain, ours))}
            times += [(pair[ours], pair[plain])] if k else []

    per_second = [[arguments.batch_size / seconds for seconds in column] for column in zip(*times, strict=True)]
    ratios = [b / a for a, b in times]
    place = torch.cuda.get_device_name() if arguments.gpu else f"{torch.get_num_threads()} threads"
    print(f"{arguments.task}, batch {arguments.batch_size}, {place}, torch {torch.__version__}")
    print(f"ganexp in {arguments.precision}, hardware.compile={arguments.compile}")
    print(f"  ganexp      {statistics.median(per_second[0]):8.1f} images/s")
    print(f"  plain loop  {statistics.median(per_second[1]):8.1f} images/s")
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"  ratio       {middle:8.3f}  (median of {len(ratios)} rounds, {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
