"""Every recipe gets the same pictures and the same minutes of one CPU core; which samples are best?

    python benchmarks/players.py --root data --data cats --minutes 30 --out outputs/players
    python benchmarks/players.py --root data --only dcgan photos --minutes 5 --seeds 0 1

A recipe is a list of overrides of `python -m ganexp`, in which `{data}` is the data set's name. The minutes are CPU time of the
training's steps, all resumptions together; what was stopped goes on where it was, also when it is given more minutes. On a busy
machine a minute of CPU time may still buy fewer images, since two threads share what a core has: compare images/s before
anything else.

Then `--samples` images of each recipe's averaged generator are measured against as many real ones. OUT/DATA/players.md and
players.csv hold the table, OUT/DATA/RECIPE-sSEED.png the first 100 samples, unselected, and OUT/DATA/wall.png the first thirty of
every recipe. `share` is that of samples which EfficientNet-Lite0 calls a cat (ImageNet's classes 281 to 287). It flatters, as
its distances do, recipes whose discriminator sees through the same network; swd_pyramid knows nothing of it, and neither does
the eye.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ganexp import pictures, sampling
from ganexp.evaluation import Evaluation, samples_of
from ganexp.files import read_json, replace, write_json
from ganexp.metrics.diversity import Diversity
from ganexp.metrics.features import Extractor, Pixels
from ganexp.metrics.fid import FID
from ganexp.metrics.kid import KID
from ganexp.metrics.lite0 import Lite0
from ganexp.metrics.metric import FeatureMetric
from ganexp.metrics.prdc import PRDC
from ganexp.metrics.swd_pyramid import PyramidSlicedWasserstein
from ganexp.runtime.restoring import restore, restore_data

# What the published recipes have in common here, where they are as small as half an hour of a CPU asks for
SMALL = ["data.batch_size=32", "augment=[flip,diffaugment]", "model.ema_half_life=10000"]


def widths(width: str) -> list[str]:
    return [f"model.{player}.width={width}" for player in ("generator", "discriminator")]


def adam(generator: str, discriminator: str, betas: str) -> list[str]:
    """The players' learning rates, and the betas of both."""
    rates = [f"optimizer.generator.lr={generator}", f"optimizer.discriminator.lr={discriminator}"]
    return [*rates, *(f"optimizer.{player}.betas={betas}" for player in ("generator", "discriminator"))]


RECIPES = {
    "dcgan": ["experiment={data}_dcgan", "model.width_multiplier=0.5", "augment=[flip]", "model.ema_half_life=10000",
        "model.fresh_fakes=false", "model.separate=false", "loss.real=1", "loss.fake=0", "loss.generator=1",
        "optimizer.generator.lr=2e-4", "optimizer.discriminator.lr=2e-4"],  # cats, celeba, anime: what _plus was before photos
    "photos": ["experiment=photos"],
    "photos_small": ["experiment=photos_small"],
    "photos_128": ["experiment=photos_128"],
    "photos_projected": ["experiment=photos", "model/discriminator=projected", *(
        f"model.discriminator.{option}" for option in ("width=16", "norm=false", "minibatch_std=8"))],
    "photos_unsliced": ["experiment=photos", "regularizer=[r1]"],
    "photos_dcgan": ["experiment=photos", "model/generator=dcgan", "model.generator.width=32", "model.latent.dim=100"],
    "photos_stylegan2": ["experiment=photos", "model/generator=stylegan2", "model.generator.channel_base=1024",
        "model.latent.dim=128", "optimizer.generator.lr=2e-3", "optimizer.generator.betas=[0.0,0.99]"],
    "sngan": [*SMALL, "model=resnet", "loss=hinge", *widths("16"), *adam("2e-4", "4e-4", "[0.0,0.9]")],
    "sagan": [*SMALL, "model=resnet", "loss=hinge", *widths("16"), *adam("1e-4", "4e-4", "[0.0,0.9]"),
        "model.generator.spectral_norm=true", "model.generator.attention=32", "model.discriminator.attention=32"],
    "unet": [*SMALL, "model=dcgan", "model/discriminator=unet", "loss=hinge", *widths("32"),
        *adam("2e-4", "4e-4", "[0.0,0.999]")],
    "patch": [*SMALL, "model=dcgan", "model/discriminator=patch", "loss=lsgan", *widths("32"),
        *adam("2e-4", "2e-4", "[0.5,0.999]")],
    "biggan": [*SMALL, "model=biggan", "model.classes=null", "loss=hinge", *widths("12"), *adam("2e-4", "4e-4", "[0.0,0.999]")],
    "stylegan2": [*SMALL, "model=stylegan2", "regularizer=[r1]", "regularizer.r1.every=16", *adam("2e-3", "2e-3", "[0.0,0.99]")],
    "r3gan": [*SMALL, "model=r3gan", "loss=relativistic", "regularizer=[r1,r2]", "regularizer.r1.every=4",
        "regularizer.r2.every=4", "model.width_multiplier=0.5", *adam("5e-4", "5e-4", "[0.0,0.99]")],
    "fastgan": [*SMALL, "model=fastgan", "loss=hinge", *widths("8")],
    "projected": [*SMALL, "model=projected", "loss=hinge", "model.generator.width=32", "model.discriminator.width=16"],
}  # fmt: skip
ON_REQUEST = ("photos_small", "photos_128")  # for --data folder with few pictures, and for --side 128
ALL = ["hardware=cpu", "callbacks=[checkpoint]", "logger=[csv]", "trainer.max_steps=1000000"]
MINUTES = "GANEXP_CPU_MINUTES"  # not in the config, so that a run may be given more
CATS = (281, 287)
LINE = 28  # px


class Budget(pl.Callback):
    """Ends a run when its steps have taken as many minutes of this process's CPU time as the environment says, all the run's
    resumptions together. `file`: where it notes them, with images and peak memory."""

    def __init__(self, file: str):
        self.file, self.seconds, self.last = Path(file), 0.0, 0.0
        self.limit = 60 * float(os.environ[MINUTES])

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        self.last = time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.process_time()
        self.seconds, self.last = self.seconds + now - self.last, now
        trainer.should_stop |= self.seconds >= self.limit

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # MiB
        write_json({"seconds": self.seconds, "images": system.images_seen, "peak": peak}, self.file)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]


class Share(FeatureMetric):
    """The share of samples whose most likely ImageNet class is one of `first` to `last`."""

    names = ("share",)
    higher_is_better = True
    output = "logits"
    kinds = ("fake",)

    def __init__(self, features: Extractor, first: int, last: int):
        super().__init__(features)
        self.first, self.last = first, last
        self.add_state("found", torch.zeros((), dtype=torch.int64), "sum")

    def add(self, features: Tensor, side: str, y: Tensor | None) -> None:
        found = features.argmax(1)
        self.found = self.found + ((self.first <= found) & (found <= self.last)).sum()

    def values(self) -> Sequence[Tensor]:
        return [self.found / self.fake_count]


def train(folder: Path, overrides: list[str], minutes: float) -> None:
    """Start the run in `folder`, or go on with it, until its minutes are spent."""
    note = folder / "budget.json"
    if read_json(note).get("seconds", 0) >= 60 * minutes:
        return
    if list((folder / "checkpoints").glob("*.ckpt")):
        command = ["task=resume", f"run={folder}", "trust=[players]"]
    else:
        budget = ["+callbacks.budget._target_=players.Budget", f"+callbacks.budget.file={note}"]
        command = [*overrides, *budget, f"hydra.run.dir={folder}"]
    places = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", MINUTES: str(minutes), "PYTHONPATH": os.pathsep.join(places)}
    subprocess.run([sys.executable, "-m", "ganexp", *command], check=True, env=environment)


def measure(folder: Path, picture: Path, samples: int) -> dict[str, float]:
    """Of the run's last averaged generator. Also draws its first samples."""
    system, config, step = restore(folder / "checkpoints" / "last.ckpt", ["players"])
    data = restore_data(config, ["players"])
    data.prepare()
    lite0 = Lite0()
    pixels = Pixels()
    metrics = [
        FID(lite0), KID(lite0, 100, min(1000, samples, len(data.x))), PyramidSlicedWasserstein(pixels), PRDC(lite0, 5),
        Diversity(pixels), Share(lite0, *CATS),
    ]  # fmt: skip
    evaluation = Evaluation(metrics, data, samples, bool(system.classes))
    evaluation.setup()
    values, failed = evaluation.measure(samples_of(system), system.device)
    for why in failed.values():
        print(why)
    pictures.save(pictures.grid(sampling.sample(system, 100, seed=0), 10), picture)
    spent = read_json(folder / "budget.json")
    speed = spent["images"] / spent["seconds"]
    return {"steps": step, "images": spent["images"], "images/s": speed, "MiB": spent["peak"], **values}


COLUMNS = {  # of the table: the value, and how it is written
    "images": "{:,.0f}", "images/s": "{:.0f}", "MiB": "{:.0f}", "fid/lite0": "{:.1f}", "kid/lite0": "{:.3f}",
    "swd_pyramid/pixels": "{:.1f}", "precision/lite0": "{:.2f}", "recall/lite0": "{:.2f}", "diversity/pixels": "{:.2f}",
    "share/lite0": "{:.2f}",
}  # fmt: skip


def read_rows(file: Path) -> dict[str, dict[str, float]]:
    """What this and other calls have measured."""
    if not file.is_file():
        return {}
    with open(file, newline="") as opened:
        rows = {row.pop("recipe"): row for row in csv.DictReader(opened)}
    return {recipe: {name: float(value) for name, value in row.items() if value} for recipe, row in rows.items()}


def write_table(rows: dict[str, dict[str, float]], folder: Path) -> None:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    with open(folder / "players.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["recipe", *names])
        writer.writeheader()
        writer.writerows({"recipe": recipe, **row} for recipe, row in rows.items())
    lines = [f"| recipe | {' | '.join(COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for recipe, row in rows.items():
        cells = [form.format(row[name]) if name in row else "–" for name, form in COLUMNS.items()]
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    replace(folder / "players.md", lambda file: file.write(text.encode()))
    print(text, flush=True)


def write_wall(names: Sequence[str], folder: Path) -> None:
    """The first three rows of every recipe's samples, under its name."""
    grids = [Image.open(folder / f"{name}.png") for name in names]
    heights = [LINE + grid.height * 3 // 10 for grid in grids]
    wall = Image.new("RGB", (max(grid.width for grid in grids), sum(heights)), "white")
    for i, (name, grid) in enumerate(zip(names, grids, strict=True)):
        top = sum(heights[:i])
        ImageDraw.Draw(wall).text((4, top + 2), name, "black", ImageFont.load_default(LINE - 8))
        wall.paste(grid.crop((0, 0, grid.width, heights[i] - LINE)), (0, top + LINE))
    pictures.save(wall, folder / "wall.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds cats/, celeba/ or anime/")
    parser.add_argument("--data", default="cats")
    parser.add_argument("--side", type=int, default=64, help="of the images, px")
    parser.add_argument("--minutes", type=float, default=30, help="CPU time of each recipe's training")
    parser.add_argument(
        "--only", nargs="+", choices=RECIPES, default=[name for name in RECIPES if name not in ON_REQUEST], help="these recipes"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--precision", default="32-true", help="bf16-mixed is faster where the CPU has AMX or AVX512-BF16")
    parser.add_argument("--set", nargs="+", default=[], help="further overrides of all recipes; use another --out")
    parser.add_argument("--out", type=Path, default=Path("outputs/players"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = (arguments.out / arguments.data).absolute()
    data = [
        f"data={arguments.data}",
        f"data.root={arguments.root.absolute()}",
        f"data.shape=[3,{arguments.side},{arguments.side}]",
    ]
    same = [*ALL, *data, f"hardware.precision={arguments.precision}"]
    for seed in arguments.seeds:
        for recipe in arguments.only:
            name = f"{recipe}-s{seed}"
            overrides = [override.format(data=arguments.data) for override in RECIPES[recipe]]
            train(out / name, [*overrides, *same, *arguments.set, f"seed={seed}"], arguments.minutes)
            row = measure(out / name, out / f"{name}.png", arguments.samples)
            rows = read_rows(out / "players.csv") | {name: row}  # another call may have added some
            write_table(rows, out)
            write_wall(list(rows), out)


if __name__ == "__main__":
    main()
