"""task=inspect: describe a data set before training on it."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganexp import pictures
from ganexp.cli.build import build
from ganexp.cli.messages import printable
from ganexp.data.folder import Folder
from ganexp.data.module import DataModule
from ganexp.files import write_json
from ganexp.images import to_float
from ganexp.runtime.console import display_path, quiet, table
from ganexp.tasks.evaluate import load

CHUNK = 1024


class Inspect:
    """Reports counts, classes, mean and standard deviation, duplicates and 64 samples of a data set; for files also sizes, types,
    modes and unreadable ones. Prints the report and writes inspection.json and thumbnails.png (points: scatter.png).

    Checks all of the cached pixels. Raises ConfigError if the data is missing. Any number of unreadable files is accepted, since
    the report lists them.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path):
        self.config, self.run_dir = config, run_dir

    def setup(self) -> None:
        """Load the data."""
        quiet()
        self.data: DataModule = build(self.config["data"], "data")  # validates the options as task=train does
        if isinstance(self.data, Folder):
            self.data.max_unreadable, self.data.sample = 1.0, None
        load(self.data, "data")

    def run(self) -> None:
        """Print the report, and write it into the run folder."""
        data = self.data
        files = data.survey() if isinstance(data, Folder) else {}
        mean, deviation = moments(data)
        facts: dict[str, Any] = {
            "data": type(data).__name__,
            "samples": len(data.x),
            "shape": list(data.shape),
            "split": data.split,
            "resize": data.resize,
            "hash": data.fingerprint,
            "mean": mean,
            "deviation": deviation,
            "duplicates": duplicates(data),
            "classes": dict(sorted(Counter(data.y.tolist()).items())) if data.classes else {},
            "files": {kind: dict(found.most_common()) for kind, found in files.items()},
            "left_out": data.left_out,
            "notes": data.notes,
        }
        write_json(facts, self.run_dir / "inspection.json")
        n = 64 if len(data.shape) == 3 else 2000
        samples = data.real(n)
        names = ["inspection.json"]
        if samples.ndim == 4 or samples.shape[1] == 2:  # no picture of other points
            names.append("thumbnails.png" if samples.ndim == 4 else "scatter.png")
            pictures.save(pictures.render(samples, 8, samples, facts["data"]), self.run_dir / names[-1])
        print(table(["data", facts["data"]], self.rows(facts)))
        for note in data.notes:
            print(f"  {note}")
        for file, why in list(data.left_out.items())[:4]:
            print(f"  {printable(f'{file}: {why}', 300)}")
        print(f"  written to {display_path(self.run_dir)}: {', '.join(names)}")

    @staticmethod
    def rows(facts: dict[str, Any]) -> list[list[str]]:
        counts = sorted(facts["classes"].values())
        rows = [
            ["samples", f"{facts['samples']:,}"],
            ["shape", "×".join(map(str, facts["shape"]))],
            ["split", facts["split"]],
            ["mean, in [-1, 1]" if len(facts["shape"]) == 3 else "mean", ", ".join(f"{value:.3f}" for value in facts["mean"])],
            ["deviation", ", ".join(f"{value:.3f}" for value in facts["deviation"])],
            ["duplicates", f"{facts['duplicates']:,}"],
        ]
        if counts:
            rows.append(["classes", f"{len(counts)}, of {counts[0]:,} to {counts[-1]:,} samples"])
        for kind, found in facts["files"].items():
            few = [f"{name} {n:,}" for name, n in list(found.items())[:4]]
            rows.append([kind, ", ".join(few) + (f", and {len(found) - 4} more" if len(found) > 4 else "")])
        rows.append(["unreadable", f"{len(facts['left_out']):,}"])
        return rows


def moments(data: DataModule) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation per channel, in [-1, 1], or per coordinate."""
    total = square = torch.zeros(data.shape[0], dtype=torch.float64)
    count = 0
    for i in torch.arange(len(data.x)).split(CHUNK):
        x = to_float(data.take(i)).double().transpose(0, 1).flatten(1)
        total, square, count = total + x.sum(1), square + x.square().sum(1), count + x.shape[1]
    mean = total / count
    return mean.tolist(), (square / count - mean**2).clamp(min=0).sqrt().tolist()


def duplicates(data: DataModule) -> int:
    """Returns the number of samples that are bitwise equal to an earlier one."""
    seen = set()
    for i in torch.arange(len(data.x)).split(CHUNK):
        seen |= {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in np.asarray(data.take(i))}
    return len(data.x) - len(seen)
