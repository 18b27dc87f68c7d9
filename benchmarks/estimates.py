"""How near task=check comes: its time and memory against those of real runs of about a minute, metrics, pictures and checkpoints
included.

    python benchmarks/estimates.py                         all experiments
    python benchmarks/estimates.py ring stylegan2          some of them
    python benchmarks/estimates.py --hardware cpu --seconds 90

Each is checked twice: once to find how many steps a run of that length has, and once as the run that is then made. Prints the
Markdown table of docs/how-to/check-first.md. The machine should have nothing else to do; its load is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback

PICTURES = ["data=folder", "data.root={pictures}", "model.width_multiplier=0.5"]
EXPERIMENTS = {
    "default": [],
    "ring": ["experiment=ring"],
    "dcgan, 64 px, R1": ["model=dcgan", *PICTURES, "data.shape=[3,64,64]", "metrics=[swd]", "regularizer=[r1]",
                         "regularizer.r1.every=4"],
    "wgan-gp, 32 px": ["model=dcgan", *PICTURES, "data.shape=[3,32,32]", "metrics=[swd,kid]", "extractor=random",
                       "loss=wasserstein", "regularizer=[wgan_gp]", "model.d_steps=5"],
    "stylegan2, 32 px, ADA": ["model=stylegan2", *PICTURES, "data.shape=[3,32,32]", "metrics=[swd]", "data.batch_size=16",
                              "augment=[ada]", "regularizer=[r1,path_length]", "regularizer.r1.every=16",
                              "regularizer.path_length.every=8"],
    "vae": ["model=vae", "trainer.log_every=1"],
}  # fmt: skip


class GpuPeak(Callback):
    """Prints the most memory that torch has reserved on the GPU."""

    def on_train_end(self, trainer: Any, system: Any) -> None:
        if torch.cuda.is_available():
            print(f"\ngpu_memory {torch.cuda.max_memory_reserved()}", flush=True)


def main() -> None:
    """Check and run each experiment, and print a line of the table for each."""
    parser = argparse.ArgumentParser(description="Compare the estimates of task=check with real runs.")
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--hardware", default="auto")
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available() and arguments.hardware != "cpu"
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    print(f"{name}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}\n")
    gpu = " GPU memory, estimated | measured | error |" if on_gpu else ""
    print(f"| experiment | steps | time, estimated | measured | error | memory, estimated | measured | error |{gpu} load |")
    print("| --- " * (9 + 3 * on_gpu) + "|")
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder) / "pictures")
        for chosen in arguments.experiments:
            print(row(chosen, [f"hardware={arguments.hardware}"], Path(folder), arguments.seconds), flush=True)


def row(chosen: str, hardware: list[str], folder: Path, seconds: float) -> str:
    """Check and run one experiment; returns its line."""
    overrides = [*hardware, *(word.format(pictures=folder / "pictures") for word in EXPERIMENTS[chosen])]
    facts = check([*overrides, *lasting(1000)], folder)
    parts = facts["time"]["parts"]
    fixed = sum(part["times"] * part["seconds"] for name, part in parts.items() if name not in ("steps", "log"))
    steps = 40 * max(1, round((seconds - fixed) / (parts["steps"]["seconds"] + parts["log"]["seconds"] / 20) / 40))
    command = [*overrides, *lasting(steps)]
    estimate, load = check(command, folder), os.getloadavg()[0]
    started = time.perf_counter()
    out, peak = call([*command, f"+callbacks.peak._target_={Path(__file__).stem}.GpuPeak"], folder)
    cells = [chosen, f"{steps:,}", *pair(estimate["time"]["seconds"], time.perf_counter() - started, 1, "s")]
    cells += pair(estimate["memory"]["bytes"], peak, 1e6, "MB")
    if estimate["memory"]["gpu_bytes"] is not None:
        cells += pair(estimate["memory"]["gpu_bytes"], int(out.split("gpu_memory ")[1].split()[0]), 1e6, "MB")
    return f"| {' | '.join([*cells, f'{load:.1f}'])} |"


def lasting(steps: int) -> list[str]:
    """A run of so many steps, with about as many pictures, metrics and checkpoints as usual."""
    every = max(1, steps // 10)
    return [f"trainer.max_steps={steps}", f"trainer.samples_every={every}", f"trainer.metrics_every={every}",
            f"trainer.checkpoint_every={max(1, steps // 5)}"]  # fmt: skip


def pair(estimated: float, measured: float, unit: float, name: str) -> list[str]:
    return [f"{estimated / unit:,.0f} {name}", f"{measured / unit:,.0f} {name}", f"{100 * (estimated / measured - 1):+.0f} %"]


def check(overrides: list[str], folder: Path) -> dict[str, Any]:
    """The report of task=check."""
    call(["task=check", f"task.json={folder / 'check.json'}", *overrides], folder)
    return json.loads((folder / "check.json").read_text())


def call(overrides: list[str], folder: Path) -> tuple[str, int]:
    """`python -m ganexp OVERRIDES`; returns its output, and the most main memory it has had, in bytes."""
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with (folder / "output.txt").open("w+") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ganexp", *overrides],
            cwd=folder,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONPATH": here},
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            time.sleep(0.1)
        out.seek(0)
        text = out.read()
    if process.returncode:
        sys.exit(f"{' '.join(overrides)}\n{text}")
    return text, peak


def high_water(pid: int) -> int:
    """The most main memory in bytes that a process has had; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def write_pictures(folder: Path) -> None:
    """1,200 pictures of 72 px: smooth noise."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(1200):
        picture = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        picture.resize((72, 72), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.png")


if __name__ == "__main__":
    main()
