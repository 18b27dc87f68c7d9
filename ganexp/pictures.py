"""Render samples: a grid of images, a scatter plot of points, an animation of the run."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from ganexp.files import replace
from ganexp.images import to_uint8

log = logging.getLogger(__name__)
MOST_PIXELS = 100_000_000  # of one picture
MOST_IMAGES = 10_000  # in one picture
MOST_POINTS = 1_000_000  # in one picture
GRID = 640  # px: smaller grids are enlarged to about this
SINGLE = 256  # px: the same for one image
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)  # raised by Pillow


def render(samples: Tensor, columns: int, real: Tensor, title: str) -> Image.Image:
    """Render samples [N, *shape]: images as a grid, 2D points as a scatter plot over the real points.

    Raises ValueError for points of another dimension.
    """
    if samples.ndim == 4:
        return grid(samples, columns)
    if samples.ndim == 2 and samples.shape[1] == 2:
        return scatter(samples, real, title)
    raise ValueError(f"no picture of samples of shape {list(samples.shape[1:])}: only images and 2D points can be rendered")


def grid(images: Tensor, columns: int) -> Image.Image:
    """Render images [N, C, H, W] in [-1, 1] row by row. Small grids are enlarged by an integer factor, bicubic."""
    images = to_uint8(images.detach().float().cpu())
    if images.shape[1] == 2:  # grey and alpha
        images = images[:, :1]
    sheet = make_grid(images, nrow=columns, padding=padding(images.shape[1:]))
    picture = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    factor = enlargement(*picture.size)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def padding(shape: Sequence[int]) -> int:
    """Pixels between the images of a grid."""
    return 2 if shape[-1] >= 24 else 1


def enlargement(width: int, height: int) -> int:
    return max(1, min(round(GRID / width), math.isqrt(MOST_PIXELS // (width * height))))


def check_pixels(key: str, count: int, shape: Sequence[int]) -> None:
    """Raises ValueError if a picture of `count` samples would have more than MOST_POINTS, MOST_IMAGES or MOST_PIXELS."""
    if len(shape) != 3 and count > MOST_POINTS:
        raise ValueError(f"{key}: one picture shows at most {MOST_POINTS:,} points, got {count:,}")
    if len(shape) == 3 and count > MOST_IMAGES:
        raise ValueError(f"{key}: one picture shows at most {MOST_IMAGES:,} images, got {count:,}")
    pixels = count * math.prod(shape[1:]) if len(shape) == 3 else 0
    if pixels > MOST_PIXELS:
        raise ValueError(f"{key}: the picture would have {pixels / 1e6:,.0f} megapixels; the limit is {MOST_PIXELS // 10**6}")


def number_at(point: Sequence[float], n: int, columns: int, shape: Sequence[int]) -> int:
    """The number of the image at a point (x, y) in px of the grid of n images of this shape; of the nearest one, between them."""
    if n == 1:  # it is drawn without a border
        return 0
    columns, border = min(columns, n), padding(shape)
    cells = [side + border for side in (shape[2], shape[1])]
    factor = enlargement(columns * cells[0] + border, -(-n // columns) * cells[1] + border)
    column, row = ((at / factor - border / 2) / cell for at, cell in zip(point, cells, strict=True))
    inside = int(min(max(row, 0), (n - 1) // columns)), int(min(max(column, 0), columns - 1))
    return min(inside[0] * columns + inside[1], n - 1)


def scatter(points: Tensor, real: Tensor, title: str) -> Image.Image:
    """Plot points [N, 2] over the real ones [M, 2]. The axes follow the real points, so a run's plots are comparable."""
    points, real = points.detach().float().cpu(), real.cpu()
    figure = Figure(figsize=(6.4, 4.8), dpi=100, layout="constrained")
    axes = figure.subplots()
    for x, size, color, label in ((real, 2.2, "#bbbbbb", "real"), (points, 3, "#d1495b", "generated")):
        axes.plot(x[:, 0], x[:, 1], "o", color=color, label=label, markersize=size, markeredgewidth=0)  # faster than scatter
    low, high = real.min(0).values, real.max(0).values
    margin = (high - low) * 0.15
    axes.set(xlim=ends(low, high, margin, 0), ylim=ends(low, high, margin, 1), title=title)
    axes.legend(loc="upper right")
    return from_figure(figure)


def from_figure(figure: Figure) -> Image.Image:
    """Returns what is drawn on a figure, and clears it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    figure.clear()  # breaks the reference cycle of figure, canvas and axes, about 1 MB, before the garbage collector runs
    return picture


def ends(low: Tensor, high: Tensor, margin: Tensor, axis: int) -> tuple[float, float]:
    return float(low[axis] - margin[axis]), float(high[axis] + margin[axis])


def columns_for(n: int, classes: int | None = None) -> int:
    """Columns of a roughly square grid of n samples. With `classes`, a multiple of it: samples that cycle through the classes
    fill one or more columns per class."""
    if classes:
        return classes * max(1, round(math.sqrt(n) / classes))
    return math.ceil(math.sqrt(n))


def single(image: Tensor) -> Image.Image:
    """Convert one image [C, H, W] in [-1, 1], not enlarged; 1 to 4 channels are grey, grey and alpha, RGB, RGBA."""
    array = to_uint8(image).permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def enlarged(image: Tensor) -> Image.Image:
    """One image [C, H, W] in [-1, 1], by an integer factor to about 256 px, bicubic."""
    picture = single(image).convert("RGB")
    factor = max(1, round(SINGLE / max(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def read(path: Path) -> Image.Image:
    """Returns a picture of a run as RGB. Raises one of UNREADABLE, also for what is no regular file, and for too many pixels."""
    if not path.is_file():
        raise OSError(f"{path} is not a file")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    replace(path, lambda file: picture.save(file, format="PNG"))


def animate(frames: Sequence[Path], path: Path, seconds: float = 6.0) -> None:
    """Write the frames, at most 120 evenly spaced ones, as a GIF of about `seconds`, with a pause on the last frame.

    Frames that are smaller than the largest one, as after a change of `trainer.num_samples`, are black beyond their edges.
    Unreadable frames are skipped with a warning.
    """
    if not frames:
        return
    if len(frames) > 120:
        frames = [frames[round(i * (len(frames) - 1) / 119)] for i in range(120)]
    pictures = []
    for frame in frames:
        try:
            pictures.append(reduced(read(frame)))
        except UNREADABLE as error:
            log.warning("animation: skipping %s, which cannot be read: %s", frame, error)
    if not pictures:
        return
    size = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    pictures = [p if p.size == size else reduced(p.convert("RGB").crop((0, 0, *size))) for p in pictures]
    durations = [max(40, int(1000 * seconds / len(pictures)))] * (len(pictures) - 1) + [2000]
    replace(
        path,
        lambda file: pictures[0].save(file, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0),
    )


def reduced(picture: Image.Image) -> Image.Image:
    """Returns it in 64 colours, a third of the memory."""
    return picture.quantize(64, dither=Image.Dither.NONE)
