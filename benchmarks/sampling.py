"""Samples per second that are written to disk, against a plain loop that discards them, in the same process.

    python benchmarks/sampling.py [--model dcgan] [--data cifar10] [--side 64] [--num 4096] [--rounds 5] [--set KEY=VALUE …]
    python benchmarks/sampling.py --memory

Networks are not trained, since that does not change the speed. The loop is `latent.sample` and the generator alone, in batches of
the same size. Rounds alternate and the ratio is computed per round, so that other load on the machine slows both. `--memory`: the
peak memory of the process with 100,000 and 1,000,000 samples of a small network, written to .npz.
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
from collections.abc import Callable
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


def plain(system: System, num: int) -> None:
    with torch.no_grad():
        for _ in range(num // sampling.CHUNK):
            z = system.latent.sample(sampling.CHUNK, system.device)
            system.sampler(z, torch.zeros(sampling.CHUNK, dtype=torch.int64, device=system.device))
    if system.device.type == "cuda":
        torch.cuda.synchronize()


def npz(system: System, num: int) -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        shape = tuple(system.sample(1).shape[1:])
        write_npz(Path(folder) / "samples.npz", sampling.batches(system, num, seed=0), num, shape)


def png(system: System, num: int) -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        write_pictures(Path(folder), sampling.batches(system, num, seed=0), num)


def seconds(work: Callable[[System, int], None], system: System, num: int) -> float:
    start = time.perf_counter()
    work(system, num)
    return time.perf_counter() - start


def speed(system: System, num: int, rounds: int) -> None:
    num -= num % sampling.CHUNK
    plain(system, sampling.CHUNK)
    ways = {"plain": plain, "npz": npz, "png": png}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].append(seconds(work, system, num))
    for name, times in taken.items():
        ratios = [a / b for a, b in zip(taken["plain"], times, strict=True)]
        rate = num / statistics.median(times)
        print(f"{name:<6} {rate:>10,.0f} samples/s   {statistics.median(ratios):.2f} of the plain loop's rate")


def memory() -> None:
    for num in (100_000, 1_000_000):
        words = [sys.executable, __file__, "--peak", str(num)]
        subprocess.run(words, check=True)


def peak(num: int) -> None:
    system = make("mlp", "cifar10", 16, ["model.generator.hidden=[32]"])
    npz(system, num)
    print(f"{num:>10,} samples of 16×16: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="dcgan")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--num", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", type=int)
    args = parser.parse_args()
    if args.peak:
        peak(args.peak)
    elif args.memory:
        memory()
    else:
        system = make(args.model, args.data, args.side, args.set)
        device = torch.cuda.get_device_name() if system.device.type == "cuda" else "CPU"
        print(f"{args.model}, 3×{args.side}×{args.side}, {device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
        speed(system, args.num, args.rounds)


if __name__ == "__main__":
    main()
