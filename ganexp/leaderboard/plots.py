"""Plots of a leaderboard."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image

from ganexp import pictures
from ganexp.leaderboard.board import Leaderboard, Row, Run
from ganexp.report.charts import number

BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1}  # texts that lines cross
MOST = 8  # settings that get a colour of their own
PARTS = 4  # of the numbers of an axis, for its importance: were every value a group, an axis drawn from a range would explain all


def plot_curves(board: Leaderboard) -> Image.Image:
    """Plot the metric over the images seen for the first settings: the mean of the seeds, and a band from the lowest to the
    highest."""
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    axis = figure.subplots()
    for i, row in enumerate([row for row in board.rows if not row.mark][:MOST]):
        images, values = common_curve(board.metric, row)
        if images.size:
            axis.plot(images, values.mean(0), color=f"C{i}", label=row.label, linewidth=1.6)
            axis.fill_between(images, values.min(0), values.max(0), color=f"C{i}", alpha=0.15, linewidth=0)
    ys = np.concatenate([np.empty(0), *(np.asarray(line.get_ydata(), float) for line in axis.lines)])
    if ys.size and 0 < ys.min() < ys.max() / 30:
        axis.set_yscale("log")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.set(xlabel="images seen", ylabel=board.metric, title="mean and range over the seeds")
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=8)
    return pictures.from_figure(figure)


def common_curve(metric: str, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images seen at which all finished runs were measured, the untrained networks left out, and the values there:
    [runs, images]."""
    finished = [run for run in row.runs if run.status == "finished" and run.record.get("steps")]
    curves = [(run, *run.curves[metric]) for run in finished if metric in run.curves]
    if not curves:
        return np.empty(0), np.empty((0, 0))
    steps = curves[0][1]
    steps = steps[steps > 0]
    for _, other, _ in curves[1:]:
        steps = np.intersect1d(steps, other)
    record = curves[0][0].record
    values = np.stack([values[np.searchsorted(own, steps)] for _, own, values in curves])
    return steps * record["images_seen"] / record["steps"], values


def plot_parallel(board: Leaderboard) -> Image.Image:
    """Plot parallel coordinates: a line for each run through its value on every axis to the metric, coloured by the metric."""
    axes = axes_of(board)
    runs = values_of(board)
    figure = Figure(figsize=(max(5, 2.2 * (len(axes) + 1)), 4.5), dpi=100, layout="constrained")
    axis = figure.subplots()
    scores = np.array([value for _, value in runs])
    low, high = (scores.min(), scores.max()) if scores.size else (0.0, 1.0)
    levels = {name: in_order(run.setting.get(name, "–") for run in board.runs) for name in axes}
    for run, value in runs:
        heights = [place(levels[name], run.setting.get(name, "–")) for name in axes] + [(value - low) / ((high - low) or 1)]
        good = heights[-1] if board.higher_is_better else 1 - heights[-1]
        axis.plot(range(len(heights)), heights, color=(1 - good, 0.25, good), alpha=0.5, linewidth=1)
    for x, name in enumerate(axes):
        axis.axvline(x, color="0.7", linewidth=0.8)
        for label in levels[name]:
            axis.text(x, place(levels[name], label), f" {label}", bbox=BEHIND, fontsize=8, va="center")
    axis.axvline(len(axes), color="0.7", linewidth=0.8)
    for height, value in ((0.0, low), (1.0, high)):
        axis.text(len(axes), height, f" {value:.4g}", bbox=BEHIND, fontsize=8, va="center")
    axis.set_xticks(range(len(axes) + 1), [*axes, board.metric])
    axis.set_yticks([])
    axis.set_xlim(-0.05, len(axes) + 0.4)
    axis.set_ylim(-0.05, 1.05)
    axis.set(title=f"every run; blue is better ({board.statistic.replace('_', ' ')})")
    return pictures.from_figure(figure)


def values_of(board: Leaderboard) -> list[tuple[Run, float]]:
    """Returns the finished runs of the commonest protocol and their values."""
    runs = [run for row in board.rows if not row.mark for run in row.runs if run.status == "finished"]
    return [(run, value) for run in runs if (value := run.value(board.metric, board.statistic)) is not None]


def in_order(labels: Iterable[str]) -> list[str]:
    """Returns each label once: numbers by size, others as they come."""
    found = list(dict.fromkeys(labels))
    return sorted(found, key=float) if are_numbers(found) else found


def are_numbers(labels: Sequence[str]) -> bool:
    return all(math.isfinite(number(label)) for label in labels)


def place(labels: Sequence[str], label: str) -> float:
    return labels.index(label) / max(len(labels) - 1, 1)


def axes_of(board: Leaderboard) -> list[str]:
    return list(dict.fromkeys(axis for row in board.rows for axis in row.setting))


def importance(board: Leaderboard) -> dict[str, float]:
    """Returns the fraction of the variance between runs that each axis alone explains, and as `seed and rest` what the settings
    do not (the between-groups sum of squares over the total one). Empty without variance.

    Runs are grouped by the value of the axis; the numbers of an axis with more than PARTS values by the part they are in.
    """
    runs = values_of(board)
    scores = np.array([value for _, value in runs])
    total = float(((scores - scores.mean()) ** 2).sum()) if scores.size else 0.0
    if not math.isfinite(total) or total == 0:
        return {}

    def explained(labels: Sequence[Hashable]) -> float:
        groups: dict[Hashable, list[float]] = {}
        for label, value in zip(labels, scores, strict=True):
            groups.setdefault(label, []).append(value)
        return sum(len(group) * (float(np.mean(group)) - float(scores.mean())) ** 2 for group in groups.values()) / total

    chosen = {axis: [run.setting.get(axis, "–") for run, _ in runs] for axis in axes_of(board)}
    settings = [tuple(sorted(run.setting.items())) for run, _ in runs]
    return {axis: explained(parts_of(labels)) for axis, labels in chosen.items()} | {"seed and rest": 1 - explained(settings)}


def parts_of(labels: Sequence[str]) -> list[Hashable]:
    """Returns the labels, or of more than PARTS numbers the part of the sorted ones that each is in."""
    levels = in_order(labels)
    if len(levels) <= PARTS or not are_numbers(levels):
        return list(labels)
    return [levels.index(label) * PARTS // len(levels) for label in labels]


def plot_importance(board: Leaderboard) -> Image.Image:
    """Plot the fraction of the variance that each axis explains."""
    parts = importance(board)
    figure = Figure(figsize=(6, 1.6 + 0.4 * max(len(parts), 1)), dpi=100, layout="constrained")
    axis = figure.subplots()
    axis.barh(list(parts)[::-1], list(parts.values())[::-1], color="C0")
    axis.set(xlim=(0, 1), xlabel=f"fraction of the variance of {board.metric}", title="importance of the axes")
    return pictures.from_figure(figure)
