"""Compares the loading speed of torchvision's ImageFolder, in a DataLoader with two workers, with that of ganexp's Folder, which
decodes every image once; and measures the memory of the latter.

    python benchmarks/reading.py FOLDER [--size 64] [--batch 64]
    python benchmarks/reading.py --memory
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets, transforms

from ganexp.data.folder import Folder


class Flat(datasets.ImageFolder):
    """All images of a folder, as one class."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        return ["."], {".": 0}


def plain(folder: Path, size: int, batch: int) -> float:
    """Returns the seconds of an epoch with ImageFolder."""
    steps = [
        transforms.Resize(size),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    loader = torch.utils.data.DataLoader(
        Flat(str(folder), transforms.Compose(steps)), batch, shuffle=True, num_workers=2, drop_last=True
    )
    start = time.perf_counter()
    for x, _ in loader:
        assert x.shape == (batch, 3, size, size)
    return time.perf_counter() - start


def ours(folder: Path, size: int, batch: int) -> tuple[float, float, float]:
    """Returns the seconds of the first epoch, including decoding; of a later one; and of the first epoch of another run."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        times = [time.perf_counter()]
        for _ in range(2):
            data = Folder(str(folder), [3, size, size], 0, batch, 0)
            data.prepare()
            for _ in range(2):
                epoch(data)
                times.append(time.perf_counter())
        first, later, again, _ = np.diff(times)
        return first, later, again


def epoch(data: Folder) -> None:
    batch = data.batch_size
    for x, y in islice(data.train_dataloader(), len(data.x) // batch):
        x, y = data.on_after_batch_transfer((x, y), 0)
        assert x.shape == (batch, *data.shape)


def memory(images: int) -> None:
    """Prints the peak memory of this process, in MiB, after an epoch of random images of 64×64 px."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        folder = Path(cache) / "pictures"
        folder.mkdir()
        random = np.random.default_rng(0)
        for i in range(images):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i:06d}.bmp")
        ours(folder, 64, 64)
        print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--images", type=int)
    arguments = parser.parse_args()
    if arguments.images:
        memory(arguments.images)
    elif arguments.memory:
        for images in (5_000, 200_000):
            run = subprocess.run([sys.executable, __file__, "--images", str(images)], capture_output=True, text=True, check=True)
            print(f"{images:,} images: peak {run.stdout.split()[-1]} MiB")
    else:
        rounds = [
            (plain(*args), *ours(*args)) for args in [(arguments.folder, arguments.size, arguments.batch)] * arguments.rounds
        ]
        count = len(Flat(str(arguments.folder)))
        for name, column in (("ImageFolder, 2 workers", 0), ("first epoch", 1), ("later epochs", 2), ("another run", 3)):
            seconds = statistics.median(row[column] for row in rounds)
            ratio = statistics.median(row[0] / row[column] for row in rounds)
            print(f"{name:<24} {count / seconds:>10,.0f} images/s  {ratio:.2f}")


if __name__ == "__main__":
    main()
