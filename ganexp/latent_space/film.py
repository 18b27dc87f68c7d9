"""Paths of codes as films: GIF, WebP or MP4."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from ganexp import pictures
from ganexp.files import replace
from ganexp.latent_space.codes import Codes, TrainedModel, check_choice, check_number, render_parts

KINDS = ("gif", "webp", "mp4")


def frames(model: TrainedModel, codes: Codes) -> Iterator[Image.Image]:
    """The samples of codes as enlarged pictures, made when they are asked for."""
    for samples in render_parts(model, codes):
        yield from map(pictures.enlarged, samples)


def check_film(model: TrainedModel, kind: str | None, fps: float) -> None:
    """Raises ValueError for a kind of film that cannot be written, and for a model of points."""
    check_choice("film", kind, (None, *KINDS))
    check_number("fps", fps, 1, 60)
    if kind is not None and len(model.shape) != 3:
        raise ValueError("film: points cannot be filmed, their path is drawn in one picture; set film to null")
    if kind == "mp4" and find_spec("av") is None:
        raise ValueError('film: mp4 needs PyAV, pip install "ganexp[video]"; gif and webp need nothing')


def write_film(pictures: Iterable[Image.Image], path: Path, fps: float) -> None:
    """Pictures of one size as a film that repeats, of the kind that the file's extension says: .gif, .webp or .mp4.

    `fps`: pictures a second; a GIF counts in hundredths of a second and shows no more than 50. They are used one by one.
    Raises ValueError for another extension.
    """
    write = {".gif": write_gif, ".webp": write_webp, ".mp4": write_mp4}.get(path.suffix.lower())
    if write is None:
        raise ValueError(f"film: must be .gif, .webp or .mp4, got {path.suffix or path.name}")
    replace(path, lambda file: write(iter(pictures), file, fps))


def write_gif(pictures: Iterator[Image.Image], file: IO[bytes], fps: float) -> None:
    reduced = (picture.quantize(256, dither=Image.Dither.NONE) for picture in pictures)
    duration = max(20, 10 * round(100 / fps))
    next(reduced).save(file, format="GIF", save_all=True, append_images=reduced, duration=duration, loop=0)


def write_webp(pictures: Iterator[Image.Image], file: IO[bytes], fps: float) -> None:
    next(pictures).save(
        file, format="WEBP", save_all=True, append_images=pictures, duration=round(1000 / fps), loop=0, quality=90
    )


def write_mp4(pictures: Iterator[Image.Image], file: IO[bytes], fps: float) -> None:
    """H.264, for which both sides are made even."""
    import av

    first = next(pictures)
    height, width = first.height + first.height % 2, first.width + first.width % 2
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18"}
        for picture in itertools.chain([first], pictures):
            pixels = np.asarray(picture)
            pixels = np.pad(pixels, ((0, height - len(pixels)), (0, width - pixels.shape[1]), (0, 0)), "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
