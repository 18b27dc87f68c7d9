"""task=compare: compare runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from ganexp import markdown, pictures
from ganexp.files import replace, write_json
from ganexp.quantities import duration
from ganexp.records import read_record
from ganexp.report.charts import read_curves
from ganexp.runtime.console import display_path, table

log = logging.getLogger(__name__)
STATISTICS = ("best", "last", "mean_of_last_5")


class Compare:
    """Makes a table of runs (metrics with their protocols, steps, images, time, parameters), a figure of their metrics over the
    images seen, and a row of their last pictures.

    Warns about values with different protocols. The table is printed and written to comparison.md and comparison.json. Raises
    ValueError for a folder without a run, and for fewer than two runs.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path, runs: Sequence[str]):
        self.run_dir = run_dir
        self.runs = [Path(run) for run in runs]
        if len(self.runs) < 2:
            raise ValueError("runs: at least two are required: task.runs=[outputs/NAME/TIME,outputs/NAME/TIME]")
        places = [run.resolve() for run in self.runs]
        for run, place in zip(self.runs, places, strict=True):
            if places.count(place) > 1:
                raise ValueError(f"runs: {run} is named more than once")
        for run in self.runs:
            if not (run / "run.json").is_file():
                raise ValueError(f"runs: {run} is not a run folder: it has no run.json")
        self.records = [read_record(run) for run in self.runs]
        for run, record in zip(self.runs, self.records, strict=True):
            if not {"steps", "images_seen", "parameters", "metrics"} <= record.keys():
                raise ValueError(f"runs: {run / 'run.json'} is damaged, or its run never started")
        names = [str(record.get("name")) for record in self.records]
        self.labels = [
            name if names.count(name) == 1 else f"{name} {run.resolve().name}"
            for name, run in zip(names, self.runs, strict=True)
        ]  # fmt: skip
        self.metrics = list(dict.fromkeys(name for record in self.records for name in record["metrics"]))
        if not self.metrics:
            raise ValueError("runs: none of them has metrics")

    def run(self) -> None:
        """Print the comparison, and write it into the run folder."""
        header, rows = self.table()
        print(table(header, rows))
        notes = self.notes()
        for note in notes:
            log.warning("%s", note)
        text = markdown.table(header, rows) + "\n" + "".join(f"\n{markdown.escaped(note)}\n" for note in notes)
        replace(self.run_dir / "comparison.md", lambda file: file.write(text.encode()))
        runs = [{"run": str(run.resolve()), "label": label} | {key: record.get(key) for key in COPIED}
                for run, label, record in zip(self.runs, self.labels, self.records, strict=True)]  # fmt: skip
        write_json({"runs": runs, "notes": notes}, self.run_dir / "comparison.json")
        pictures.save(self.curves(), self.run_dir / "curves.png")
        written = ["comparison.md", "comparison.json", "curves.png"]
        if (strip := self.strip()) is not None:
            pictures.save(strip, self.run_dir / "grids.png")
            written.append("grids.png")
        print(f"  written to {display_path(self.run_dir)}: {', '.join(written)}")

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Returns header and rows: a column per run; rows for steps, images, time and parameters, and for each metric its best,
        its last, the mean of its last five values and its protocol."""
        rows = [
            ["steps", *(f"{record['steps']:,}" for record in self.records)],
            ["images", *(f"{record['images_seen']:,}" for record in self.records)],
            ["time", *(duration(record.get("seconds")) for record in self.records)],
            ["parameters", *(f"{sum(record['parameters'].values()):,}" for record in self.records)],
        ]
        for name in self.metrics:
            measured = [record["metrics"].get(name, {}) for record in self.records]
            for kind in (kind for kind in STATISTICS if any(kind in values for values in measured)):
                cells = [f"{values[kind]:.4g}" if values.get(kind) is not None else "–" for values in measured]
                rows.append([f"{name} {kind.replace('_', ' ')}", *cells])
            rows.append([f"{name} protocol", *(self.fingerprint_of(record, name) or "–" for record in self.records)])
        return ["run", *self.labels], rows

    @staticmethod
    def fingerprint_of(record: dict[str, Any], name: str) -> str:
        return str(record.get("protocols", {}).get(name, {}).get("fingerprint", ""))

    def notes(self) -> list[str]:
        """Returns warnings about the table: different protocols, unfinished runs."""
        notes = []
        for name in self.metrics:
            measured = [record for record in self.records if name in record["metrics"]]
            fingerprints = {self.fingerprint_of(record, name) for record in measured}
            if len(fingerprints) == 1:
                continue
            protocols = [record.get("protocols", {}).get(name, {}) for record in measured]
            keys = dict.fromkeys(key for protocol in protocols for key in protocol if key != "fingerprint")
            differing = [key for key in keys if len({repr(protocol.get(key)) for protocol in protocols}) > 1]
            notes.append(f"{name}: measured under different protocols ({', '.join(differing)}): do not compare these values")
        for label, record in zip(self.labels, self.records, strict=True):
            if record.get("status") != "finished":
                notes.append(f"{label}: the run is {record.get('status')}")
        return notes

    def curves(self) -> Image.Image:
        """Plot every metric over the images seen, on a logarithmic axis if it spans more than a factor of 30."""
        columns = min(3, len(self.metrics))
        figure = Figure(figsize=(4.6 * columns, 3.4 * math.ceil(len(self.metrics) / columns)), dpi=100, layout="constrained")
        axes = figure.subplots(math.ceil(len(self.metrics) / columns), columns, squeeze=False).flatten()
        curves = [read_curves(run / "metrics.csv") for run in self.runs]
        for label, run, found in zip(self.labels, self.runs, curves, strict=True):
            if not found:
                log.warning("%s: %s is missing or has no values; there are no curves of it", label, run / "metrics.csv")
        for axis, name in zip(axes, self.metrics, strict=False):
            for label, record, found in zip(self.labels, self.records, curves, strict=True):
                steps, values = found.get(name, (np.empty(0), np.empty(0)))
                images = record["images_seen"] / max(record["steps"], 1) * steps  # the same number in every step
                axis.plot(images, values, label=label, linewidth=1.6)
            ys = np.concatenate([line.get_ydata() for line in axis.lines])
            if ys.size and 0 < ys.min() < ys.max() / 30:
                axis.set_yscale("log")
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.set(title=name, xlabel="images seen", ylabel=name.partition("/")[0])
            axis.grid(alpha=0.3)
        for axis in axes[len(self.metrics) :]:
            axis.axis("off")
        axes[0].legend(fontsize=9)
        return pictures.from_figure(figure)

    def strip(self) -> Image.Image | None:
        """Returns the runs' last pictures in a row, under their names; None if no run has one."""
        last = {
            label: sorted((run / "samples").glob("step-*.png"))[-1:] for label, run in zip(self.labels, self.runs, strict=True)
        }
        images: dict[str, Image.Image] = {}
        for label, files in last.items():
            try:
                images.update((label, pictures.read(file)) for file in files)
            except pictures.UNREADABLE as error:
                log.warning("%s: its last picture cannot be read: %s", label, error)
        if not images:
            return None
        figure = Figure(figsize=(4 * len(images), 4.3), dpi=100, layout="constrained")
        for axis, (label, picture) in zip(figure.subplots(1, len(images), squeeze=False).flatten(), images.items(), strict=True):
            axis.imshow(picture)
            axis.set_title(label, fontsize=9)
            axis.axis("off")
        return pictures.from_figure(figure)


COPIED = ("name", "status", "seed", "steps", "images_seen", "seconds", "images_per_second", "parameters", "metrics", "protocols")
