"""Samples per second that are written to disk, against a plain loop that discards them, in the same process.

    python benchmarks/sampling.py [--model dcgan] [--data cifar10] [--side 64] [--num 4096] [--rounds 5] [--set KEY=VALUE …]
    python benchmarks/sampling.py --million

Networks are not trained, since that does not change the speed. The loop is `latent.sample` and the generator alone, in batches of
the same size. Rounds alternate and the ratio is computed per round, so that other load on the machine slows both. Files are
written into the current folder, whose disk matters: to create one took 0.03 ms in memory (/dev/shm) and 0.05 to 0.6 ms on a disk.
`--million`: time and peak memory of the process for 100,000 and for 1,000,000 samples of a small network.
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
from pathlib import Path

import torch

from ganexp import sampling
from ganexp.cli import checks, config
from ganexp.cli.build import build
from ganexp.export.samples import write_npz, write_pictures
from ganexp.systems.base import System


def make(model: str, data: str, side: int, more: list[str]) -> System:
    with config.config_tree():
        words = [f"model={model}", f"data={data}", f"data.shape=[3,{side},{side}]", *more]
        resolved = config.resolved(checks.compose_checked(words))
    torch.manual_seed(0)
    system: System = build(resolved["model"], "model")
    return system.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def plain(system: System, num: int, folder: Path) -> None:
    with torch.no_grad():
        for i in range(0, num, sampling.CHUNK):
            n = min(sampling.CHUNK, num - i)
            system.sampler(system.latent.sample(n, system.device), torch.zeros(n, dtype=torch.int64, device=system.device))
    if system.device.type == "cuda":
        torch.cuda.synchronize()


def npz(system: System, num: int, folder: Path) -> None:
    shape = tuple(system.sample(1).shape[1:])
    write_npz(folder / "samples.npz", sampling.batches(system, num, seed=0), num, shape)


def png(system: System, num: int, folder: Path) -> None:
    write_pictures(folder, sampling.batches(system, num, seed=0), num)


WAYS = {"plain": plain, "npz": npz, "png": png}


def measured(way: str, system: System, num: int) -> tuple[float, float]:
    """Seconds, and the peak memory of the process in MiB; without the removal of what was written."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        start = time.perf_counter()
        WAYS[way](system, num, Path(folder))
        return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speed(system: System, num: int, rounds: int) -> None:
    measured("plain", system, sampling.CHUNK)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, times in taken.items():
            times.append(measured(way, system, num)[0])
    for name, times in taken.items():
        ratios = [a / b for a, b in zip(taken["plain"], times, strict=True)]
        rate = num / statistics.median(times)
        print(f"{name:<6} {rate:>10,.0f} samples/s   {statistics.median(ratios):.2f} of the plain loop's rate")


def million() -> None:
    """Each in a process of its own, so that one's memory is not another's."""
    for num in (100_000, 1_000_000):
        for way in WAYS:
            subprocess.run([sys.executable, __file__, "--way", way, "--num", str(num)], check=True)


def large(way: str, num: int) -> None:
    system = make("mlp", "cifar10", 16, ["model.generator.hidden=[32]"])
    measured(way, system, sampling.CHUNK)
    taken, peak = measured(way, system, num)
    print(f"{way:<6} {num:>10,} samples of 3×16×16 in {taken:6.1f} s, {num / taken:>8,.0f} samples/s, {peak:,.0f} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="dcgan")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--num", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--way", choices=WAYS)
    args = parser.parse_args()
    if args.way:
        large(args.way, args.num)
    elif args.million:
        million()
    else:
        system = make(args.model, args.data, args.side, args.set)
        device = torch.cuda.get_device_name() if system.device.type == "cuda" else "CPU"
        print(f"{args.model}, 3×{args.side}×{args.side}, {device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
        speed(system, args.num, args.rounds)


if __name__ == "__main__":
    main()
