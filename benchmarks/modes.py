"""Prints the tables of docs/explanation/mode-study.md from sweeps: which losses and penalties reach every mode.

    python -m ganexp -m experiment=ring trainer.max_steps=2000 callbacks=[metrics] logger=[csv] hydra/launcher=joblib \\
        loss=bce,hinge,lsgan,wasserstein,relativistic 'regularizer=[],[r1,r2],[wgan_gp]' seed=1,2,3,4,5
    python benchmarks/modes.py outputs/sweep/TIME…

Weak penalties: regularizer.r1.weight=0.03 regularizer.r1.every=4, and the same for r2. The column of R1 alone is a separate sweep
with `regularizer=[r1] regularizer.r1.weight=1 regularizer.r1.every=1`. The other rows of labels are `loss=bce` with
loss.weight=0.5, with loss.real=0.9, and with loss.real=[0.8,1.0] loss.fake=[0.0,0.2] loss.generator=[0.8,1.0]. Repeat with
`experiment=grid`.

Each cell is a mean over seeds at the last step: modes reached, fraction of samples within three standard deviations of a mode,
and reverse KL.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections import defaultdict
from pathlib import Path

from ganexp.files import read_json

VALUES = ("modes/pixels", "high_quality/pixels", "reverse_kl/pixels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path)
    for sweep in parser.parse_args().sweeps:
        cells: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
        failed = 0
        for file in sorted(sweep.glob("*/run.json")):
            record = read_json(file)
            chosen = dict(text.split("=", 1) for text in record["overrides"])
            if record["status"] != "finished":
                failed += 1
                continue
            penalties = " + ".join(re.findall(r"\w+", chosen["regularizer"])) or "none"
            cells[chosen["loss"], penalties].append([record["metrics"][name]["last"] for name in VALUES])
        losses, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in range(2))
        seeds = {len(runs) for runs in cells.values()}
        print(f"\n{sweep}: {sum(map(len, cells.values()))} runs, seeds per cell {sorted(seeds)}, {failed} unfinished\n")
        print(f"| loss | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
        for loss in losses:
            row = [summary(cells[loss, penalties]) for penalties in columns]
            print(f"| `{loss}` | {' | '.join(row)} |")


def summary(runs: list[list[float]]) -> str:
    if not runs:
        return "–"
    modes, quality, kl = (statistics.mean(values) for values in zip(*runs, strict=True))
    return f"{modes:.1f}, {100 * quality:.0f} %, {kl:.2f}"


if __name__ == "__main__":
    main()
