"""The training of a run, as its folder tells it: pictures from fixed latents, and curves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from ganexp import pictures
from ganexp.records import read_record
from ganexp.report.charts import Curve, read_curves

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
        found = read_curves(folder / "metrics.csv")
        self.curves = curves(found, metrics_among(found, folder))

    def picture(self, step: int) -> Image.Image:
        """The samples at a step. Raises ValueError for a file that is gone or damaged."""
        try:
            return pictures.read(self.files[step])
        except (*pictures.UNREADABLE, KeyError) as error:
            raise ValueError(f"The picture of step {step:,} cannot be read any more; the run may have been deleted.") from error

    def curves_at(self, step: int) -> Image.Image:
        """The curves, with a line at a step."""
        picture = self.curves.picture.copy()
        draw = ImageDraw.Draw(picture)
        for left, right, top, bottom in self.curves.boxes:
            x = left + (right - left) * step / max(self.curves.last, 1)
            draw.line([(x, top), (x, bottom)], fill="#d1495b", width=2)
        return picture


class Curves(NamedTuple):
    """`boxes`: left, right, top and bottom of each plot in px; all go from step 0 to the step `last`."""

    picture: Image.Image
    boxes: list[tuple[float, float, float, float]]
    last: float


def metrics_among(curves: Iterable[str], folder: Path) -> list[str]:
    """Which of the columns of metrics.csv are metrics of the run, by its run.json; at most MOST_CURVES."""
    metrics = read_record(folder).get("metrics", {})
    return [name for name in curves if name in metrics][:MOST_CURVES]


def curves(values: Mapping[str, Curve], metrics: Sequence[str]) -> Curves:
    """The losses in one plot, each metric in one of its own."""
    losses = [name for name in values if re.fullmatch(r"loss(/(generator|discriminator|reconstruction|divergence))?", name)]
    plots = [names for names in [losses, *[[name] for name in metrics]] if names]
    high = max((values[name][0].max() for names in plots for name in names), default=1)
    figure = Figure(figsize=(6.4, 0.4 + 2.0 * max(1, len(plots))), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(plots)), squeeze=False)[:, 0]
    for plot, names in zip(axes, plots, strict=False):
        for name in names:
            plot.plot(*values[name], label=name, linewidth=1.2)
        plot.legend(loc="upper right", fontsize=8)
        plot.grid(alpha=0.3)
    if not plots:
        missing = "no curves: metrics.csv is missing or cannot be read"
        axes[0].text(0.5, 0.5, missing, ha="center", va="center", transform=axes[0].transAxes)
    for plot in axes:
        plot.set_xlim(0, high)
    axes[-1].set_xlabel("step")
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    boxes = []
    for plot in axes if plots else []:
        box = plot.get_window_extent()
        boxes.append((box.x0, box.x1, picture.height - box.y1, picture.height - box.y0))
    figure.clear()
    return Curves(picture, boxes, high)
