"""Samples as pictures: a grid of images, a scatter of points, an animation of the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from ganexp.files import replace
from ganexp.images import to_uint8

log = logging.getLogger(__name__)
GRID = 640  # px: smaller grids are enlarged to about this


def render(samples: Tensor, columns: int, real: Tensor, title: str) -> Image.Image:
    """A picture of samples [N, *shape]: a grid for images, a scatter over the real points for points of two coordinates.

    Raises ValueError for points of another dimension.
    """
    if samples.ndim == 4:
        return grid(samples, columns)
    if samples.ndim == 2 and samples.shape[1] == 2:
        return scatter(samples, real, title)
    raise ValueError(f"there is no picture of samples of shape {list(samples.shape[1:])}")


def grid(images: Tensor, columns: int) -> Image.Image:
    """Images [N, C, H, W] in [-1, 1], row by row. Small ones are enlarged smoothly, by a whole factor."""
    images = to_uint8(images.detach().float().cpu())
    if images.shape[1] == 2:  # grey and alpha
        images = images[:, :1]
    sheet = make_grid(images, nrow=columns, padding=2 if images.shape[-1] >= 24 else 1)
    picture = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    factor = max(1, round(GRID / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def scatter(points: Tensor, real: Tensor, title: str) -> Image.Image:
    """Points [N, 2] over the real ones [M, 2]; the axes follow the real ones, so that a run's pictures can be compared."""
    points, real = points.detach().float().cpu(), real.cpu()
    figure = Figure(figsize=(6.4, 4.8), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    for x, size, color, label in ((real, 5, "#bbbbbb", "real"), (points, 9, "#d1495b", "generated")):
        axes.scatter(x[:, 0], x[:, 1], s=size, c=color, label=label, linewidths=0)
    low, high = real.min(0).values, real.max(0).values
    margin = (high - low) * 0.15
    axes.set(xlim=ends(low, high, margin, 0), ylim=ends(low, high, margin, 1), title=title)
    axes.legend(loc="upper right")
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    figure.clear()  # figure, canvas and axes hold each other, and a megabyte, until Python looks for cycles
    return picture


def ends(low: Tensor, high: Tensor, margin: Tensor, axis: int) -> tuple[float, float]:
    return float(low[axis] - margin[axis]), float(high[axis] + margin[axis])


def columns_for(n: int, classes: int | None = None) -> int:
    """Columns of a grid of n that is about square; of samples whose labels go round, as many columns for each class."""
    if classes:
        return classes * max(1, round(math.sqrt(n) / classes))
    return math.ceil(math.sqrt(n))


def to_tensor(picture: Image.Image) -> Tensor:
    """uint8 [3, H, W], for TensorBoard."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def single(image: Tensor) -> Image.Image:
    """One image [C, H, W] in [-1, 1], as it is; 1 to 4 channels are grey, grey and alpha, RGB, RGBA."""
    array = to_uint8(image).permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save(picture: Image.Image, path: Path) -> None:
    replace(path, lambda file: picture.save(file, format="PNG"))


def animate(frames: Sequence[Path], path: Path, seconds: float = 6.0) -> None:
    """The frames, or 120 evenly spaced ones of more, as one GIF that plays in about `seconds` and rests on the last frame.

    One that cannot be read is left out, which is said.
    """
    if not frames:
        return
    if len(frames) > 120:
        frames = [frames[round(i * (len(frames) - 1) / 119)] for i in range(120)]
    pictures = []
    for frame in frames:
        try:
            pictures.append(Image.open(frame).convert("RGB").quantize(64, dither=Image.Dither.NONE))
        except (OSError, SyntaxError, ValueError) as error:
            log.warning("animation: %s is left out, it cannot be read: %s", frame, error)
    if not pictures:
        return
    durations = [max(40, int(1000 * seconds / len(pictures)))] * (len(pictures) - 1) + [2000]
    replace(
        path,
        lambda file: pictures[0].save(file, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0),
    )
