"""Prints the tables of docs/explanation/mode-study.md and docs/explanation/seeds-and-checkpoints.md from the folders of studies.

    python -m ganexp task=study study=ring_losses hydra.run.dir=outputs/ring_losses
    python benchmarks/studies.py cells outputs/ring_losses modes/pixels high_quality/pixels reverse_kl/pixels

    python -m ganexp task=study study=mnist_losses hydra.run.dir=outputs/mnist_losses
    python benchmarks/studies.py effects outputs/mnist_losses fid/classifier precision/classifier recall/classifier
    python benchmarks/studies.py seeds outputs/mnist_losses fid/classifier

cells: for every pair of values of the first two axes, the metrics' mean last values over the seeds. effects: for every value
of every axis, their means over all runs with it, and by how much it differs from the axis's first value in the runs that are
otherwise alike, seed included. seeds: how much a best value flatters, and how many seeds find a difference. The measurement
before the first step is left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np

from ganexp.leaderboard.board import Run, read_runs
from ganexp.leaderboard.statistics import Z, summarize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("cells", "effects", "seeds"))
    parser.add_argument("study", type=Path)
    parser.add_argument("metrics", nargs="+")
    arguments = parser.parse_args()
    runs = [run for run in read_runs([arguments.study]) if run.status == "finished"]
    print(f"{arguments.study}: {len(runs)} finished runs")
    {"cells": cells, "effects": effects, "seeds": seeds}[arguments.table](runs, arguments.metrics)


def last(run: Run, metric: str) -> float:
    return float(run.curves[metric][1][-1])


def measured(run: Run, metric: str) -> np.ndarray:
    """The values after the first step."""
    steps, values = run.curves[metric]
    return values[steps > 0]


def seed_of(run: Run) -> int:
    return int(run.record["seed"])


def cells(runs: list[Run], metrics: list[str]) -> None:
    values: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for run in runs:
        row, column, *_ = run.setting.values()
        values[row, column].append([last(run, metric) for metric in metrics])
    rows, columns = (list(dict.fromkeys(key[i] for key in values)) for i in range(2))
    print(f"| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for row in rows:
        means = [[statistics.mean(column) for column in zip(*values[row, column], strict=True)] for column in columns]
        print(f"| `{row}` | {' | '.join(', '.join(f'{mean:.3g}' for mean in cell) for cell in means)} |")


def effects(runs: list[Run], metrics: list[str]) -> None:
    print(f"| axis | value | {' | '.join(f'{metric} | difference, 95 %' for metric in metrics)} |")
    print(f"|{' --- |' * (2 + 2 * len(metrics))}")
    by_key = {(seed_of(run), *run.setting.values()): run for run in runs}
    for place, axis in enumerate(runs[0].setting, 1):
        first, *others = dict.fromkeys(key[place] for key in by_key)
        for value in (first, *others):
            texts = []
            for metric in metrics:
                chosen = {key: last(run, metric) for key, run in by_key.items() if key[place] == value}
                pairs = [(last(by_key[other], metric), mine) for key, mine in chosen.items()
                         if (other := (*key[:place], first, *key[place + 1 :])) in by_key]  # fmt: skip
                texts.append(f"{statistics.mean(chosen.values()):.3g}")
                difference = summarize([mine - theirs for theirs, mine in pairs])
                interval = "{mean:+.2g} ({low:+.2g} to {high:+.2g})".format(**difference)
                texts.append(interval if value != first else "–")
            print(f"| {axis} | `{value}` | {' | '.join(texts)} |")


def seeds(runs: list[Run], metrics: list[str]) -> None:
    for metric in metrics:
        higher = runs[0].record["higher_is_better"][metric]
        best = [(measured(run, metric).max() if higher else measured(run, metric).min()) for run in runs]
        ends = [last(run, metric) for run in runs]
        five = [measured(run, metric)[-5:].mean() for run in runs]
        settings: dict[tuple[str, ...], list[tuple[float, ...]]] = defaultdict(list)
        for run, *values in zip(runs, ends, five, best, strict=True):
            settings[tuple(run.setting.values())].append(tuple(values))
        columns = [list(zip(*values, strict=True)) for values in settings.values()]  # of each setting: last, last five, best
        variances = [[statistics.variance(seeds) for seeds in column] for column in columns]
        deviations = [math.sqrt(statistics.mean(of_settings)) for of_settings in zip(*variances, strict=True)]
        mean = statistics.mean(ends)
        print(f"{metric}: mean of the last values {mean:.4g}; {len(measured(runs[0], metric))} measurements a run")
        print("  standard deviation over the seeds of a setting: last {:.3g}, last five {:.3g}, best {:.3g}".format(*deviations))
        for name, values in (("last", ends), ("mean of last five", five)):
            flattery = [100 * abs(b - value) / value for b, value in zip(best, values, strict=True)]
            print(f"  a run's best is better than its {name} by {statistics.mean(flattery):.1f} %, {max(flattery):.1f} % at most")
        shown = [(statistics.mean(last), max(bests) if higher else min(bests)) for last, _, bests in columns]
        flattery = [100 * abs(best - honest) / honest for honest, best in shown]
        print(f"  a setting's best of all seeds is better than its mean last value by {statistics.mean(flattery):.1f} %")
        for percent in (5, 10, 20, 50):
            needed = max(2, math.ceil(2 * Z**2 * (deviations[0] / (percent / 100 * mean)) ** 2))
            print(f"  a difference of {percent} % is found in four of five studies with {needed} seeds for each setting")


if __name__ == "__main__":
    main()
