"""Curves over the steps, as SVG."""

from __future__ import annotations

import base64
import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from ganexp.files import LARGEST_CSV
from ganexp.references import Reference

log = logging.getLogger(__name__)
Curve = tuple[np.ndarray, np.ndarray]  # steps, values
MOST = 1e30  # largest absolute value that is drawn
MOST_POINTS = 400  # of one curve in the file
COLOURS = ("#1b6ca8", "#d1495b", "#3a8f5c", "#8a6bbe", "#c58b1b", "#5f6b77")


def read_curves(file: Path) -> dict[str, Curve]:
    """Returns the curve of every column of a metrics.csv, in the file's order; none if there is no file, or, with a warning, if
    it cannot be read. Values that are not finite, and an incomplete last row, are left out."""
    if not file.is_file():
        return {}
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        if (length := file.stat().st_size) > LARGEST_CSV:
            raise ValueError(f"it has {length:,} bytes")
        with file.open(newline="", encoding="utf-8", errors="replace") as opened:
            for row in csv.DictReader(line.replace("\0", "") for line in opened):
                step = number(row.get("step"))
                for name, text in row.items():
                    if name and name != "step" and (np.abs(pair := (step, number(text))) <= MOST).all():
                        found.setdefault(name, []).append(pair)
    except (OSError, ValueError, csv.Error) as error:
        log.warning("%s cannot be read: %s", file, error)
        return {}
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in found.items()}


def number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return float("nan")


def thinned(curve: Curve) -> Curve:
    """Returns at most MOST_POINTS points, each the mean of neighbouring ones; the last point is kept."""
    steps, values = curve
    if len(steps) <= MOST_POINTS:
        return curve
    parts = np.array_split(np.arange(len(steps) - 1), MOST_POINTS - 1)
    return (
        np.append([steps[part].mean() for part in parts], steps[-1]),
        np.append([values[part].mean() for part in parts], values[-1]),
    )


def chart(
    title: str,
    curves: Mapping[str, Curve],
    marks: Sequence[float] = (),
    references: Sequence[Reference] = (),
    best: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> str:
    """Returns curves, by label, as an SVG in a data URI. `marks`: steps with a dashed line. `references`: drawn as bands or
    dotted lines. `best`: step and value of a circle. `logarithmic`: whether a log scale may be used, for positive values that
    span more than a factor of 30."""
    figure = Figure(figsize=(4.3, 2.5))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.13, 0.14, 0.85, 0.74))
    for (label, curve), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        steps, values = thinned(curve)
        axes.plot(steps, values, color=colour, label=label, linewidth=1.4, marker="." if len(steps) < 3 else None)
    values = np.concatenate([values for _, values in curves.values()])
    right = max(steps[-1] for steps, _ in curves.values())
    if logarithmic and 0 < values.min() < values.max() / 30:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    for i, reference in enumerate(references):
        colour = COLOURS[(3 + i) % len(COLOURS)]
        steps = np.array(reference.steps or (0,), float)
        if steps[0] > right:  # the axis ends with the run, not with the reference
            continue
        steps = np.append(steps[steps < right], right)
        low, high = np.array([reference.band(step) for step in steps]).T
        if len(steps) == 1 and low[0] < high[0]:
            axes.plot([right, right], [low[0], high[0]], color=colour, label=reference.label, linewidth=5, alpha=0.4)
        elif np.allclose(low, high):
            axes.plot(steps, low, color=colour, label=reference.label, linewidth=1.2, linestyle=":")
        else:
            axes.fill_between(steps, low, high, color=colour, alpha=0.22, linewidth=0, label=reference.label)
    for mark in marks:
        axes.axvline(mark, color="#b00020", linewidth=0.9, linestyle="--")
    if best is not None:
        axes.plot(*best, "o", markersize=7, fillstyle="none", color="#1f2328", label="best")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8, which="both")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize=7, loc="best", framealpha=0.7)
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": title}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    figure.clear()
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
