"""The training of a run, as its folder tells it: pictures from fixed latents, and curves."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from ganexp.data.decoding import UNREADABLE
from ganexp.files import read_json

MOST_CURVES = 4  # metrics that are drawn


class History:
    """`steps`: those with a picture. Raises ValueError for a checkpoint without its run's folder, and a run without pictures."""

    def __init__(self, folder: Path | None):
        if folder is None:
            raise ValueError("This checkpoint does not lie in its run's folder, which has the pictures of the training.")
        self.folder = folder
        files = [file for file in sorted((folder / "samples").glob("step-*.png")) if file.stem[5:].isdecimal()]
        self.files = {int(file.stem[5:]): file for file in files}
        if not self.files:
            raise ValueError(f"There are no pictures of the training in {folder / 'samples'}.")
        self.steps = list(self.files)
        self.curves = curves(*read_curves(folder))

    def picture(self, step: int) -> Image.Image:
        """The samples at a step. Raises ValueError for a file that is gone or damaged."""
        try:
            with Image.open(self.files[step]) as picture:
                return picture.convert("RGB")
        except (*UNREADABLE, KeyError) as error:
            raise ValueError(f"The picture of step {step:,} cannot be read any more; the run may have been deleted.") from error

    def curves_at(self, step: int) -> Image.Image:
        """The curves, with a line at a step."""
        picture = self.curves.picture.copy()
        draw = ImageDraw.Draw(picture)
        for left, right, top, bottom in self.curves.boxes:
            low, high = self.curves.steps
            x = left + (right - left) * (step - low) / max(high - low, 1)
            draw.line([(x, top), (x, bottom)], fill="#d1495b", width=2)
        return picture


class Curves(NamedTuple):
    """`boxes`: left, right, top and bottom of each plot in px; all go from the first to the last of `steps`."""

    picture: Image.Image
    boxes: list[tuple[float, float, float, float]]
    steps: tuple[float, float]


def read_curves(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], list[str]]:
    """The columns of metrics.csv as (step, value), without NaN, and which of them are metrics; both empty without the file."""
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error):
        return {}, []
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, text in row.items():
            if name and text and name != "step" and number(row.get("step")) is not None and (value := number(text)) is not None:
                found.setdefault(name, []).append((int(float(row["step"])), value))
    metrics = read_json(folder / "run.json").get("metrics", {})
    return found, [name for name in found if name in metrics][:MOST_CURVES]


def number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def curves(values: dict[str, list[tuple[int, float]]], metrics: list[str]) -> Curves:
    """The losses in one plot, each metric in one of its own."""
    losses = [name for name in values if re.fullmatch(r"loss(/(generator|discriminator|reconstruction|divergence))?", name)]
    plots = [names for names in [losses, *[[name] for name in metrics]] if names]
    steps = [step for names in plots for name in names for step, _ in values[name]] or [0, 1]
    low, high = min(0, *steps), max(steps)
    figure = Figure(figsize=(6.4, 0.4 + 2.0 * max(1, len(plots))), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(plots)), squeeze=False)[:, 0]
    for plot, names in zip(axes, plots, strict=False):
        for name in names:
            plot.plot(*zip(*values[name], strict=True), label=name, linewidth=1.2)
        plot.legend(loc="upper right", fontsize=8)
        plot.grid(alpha=0.3)
    if not plots:
        axes[0].text(0.5, 0.5, "no curves: there is no metrics.csv", ha="center", va="center", transform=axes[0].transAxes)
    for plot in axes:
        plot.set_xlim(low, high)
    axes[-1].set_xlabel("step")
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    boxes = []
    for plot in axes if plots else []:
        box = plot.get_window_extent()
        boxes.append((box.x0, box.x1, picture.height - box.y1, picture.height - box.y0))
    figure.clear()
    return Curves(picture, boxes, (low, high))
