"""Compares ganexp's averaging of gradients with DDP's wrapper and find_unused_parameters, with two CPU processes.

    python benchmarks/ranks.py --rounds 5

Runs alternate. Prints the ratio of images/s for the MLP of mnist_mlp and for DCGAN, both on the digits (8×8).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WRAPPER = [
    "hardware.strategy._target_=pytorch_lightning.strategies.DDPStrategy",
    "+hardware.strategy.find_unused_parameters=true",
    "+hardware.strategy.broadcast_buffers=false",
]
GAMES = {
    "mlp": ["model=mlp", "model.fresh_fakes=true", "trainer.max_steps=400"],
    "dcgan": ["model=dcgan", "trainer.max_steps=400"],
}
QUIET = ["callbacks=[progress]", "logger=[]", "metrics=[]", "trainer.log_every=100", "hardware=ddp_cpu"]


def images_per_second(*overrides: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ganexp", *QUIET, *overrides, f"hydra.run.dir={folder}/run"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return json.loads((Path(folder) / "run" / "run.json").read_text())["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for name, game in GAMES.items():
        ratios = []
        for _ in range(rounds):
            ours, wrapper = images_per_second(*game), images_per_second(*game, *WRAPPER)
            ratios.append(ours / wrapper)
            print(f"{name}: {ours:,.0f} images/s, with the wrapper {wrapper:,.0f}: {ratios[-1]:.2f}", flush=True)
        print(f"{name}: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()
