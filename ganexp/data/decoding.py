"""Decode picture files to 8-bit grey, RGB or RGBA, upright and resized."""

from __future__ import annotations

import difflib
import io
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps

from ganexp.data.sources import MAX_PIXELS

Fit = Literal["crop", "pad", "squash"]
LIFTED = threading.Lock()
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)  # raised by Pillow for damaged files
ORIENTATION = 0x0112  # in EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def reason(error: BaseException) -> str:
    """Returns why a file is unreadable, without memory addresses."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)  # without its number
    return re.sub(r" ?<_io\.BytesIO.*?>", "", text) or type(error).__name__


def open_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns a picture file of which only the header has been read. Raises one of UNREADABLE, also for too many pixels."""
    with pillow_without_limit():
        image: Image.Image = Image.open(io.BytesIO(content))
    if image.width * image.height > max_pixels:
        raise ValueError(f"has {image.width:,}×{image.height:,} px, more than max_pixels={max_pixels}")
    return image


@contextmanager
def pillow_without_limit() -> Iterator[None]:
    """Pillow warns of half as many pixels as it refuses. Its limit is the process's: one thread at a time lifts it."""
    with LIFTED:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def decode_image(
    content: bytes,
    mode: str,
    background: str = "black",
    draft_size: int | None = None,
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Returns the first frame of a picture file as L, LA, RGB or RGBA; `upright`: rotated as its EXIF says.

    `background`: colour behind transparent parts, if `mode` has no alpha. `draft_size`: smallest acceptable longer side in px;
    a JPEG decodes faster at a half or a quarter of its size. Raises one of UNREADABLE.
    """
    image = open_image(content, max_pixels)
    if draft_size is not None:
        image.draft(mode, (draft_size, draft_size))
    if upright and (turn := UPRIGHT.get(image.getexif().get(ORIENTATION, 1))) is not None:
        image = image.transpose(turn)  # ImageOps.exif_transpose also writes the EXIF again, and fails for tags of another type
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits: Pillow would clip instead of scale
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if not mode.endswith("A") and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert(mode)


def resize_image(image: Image.Image, height: int, width: int, fit: Fit, background: str = "black") -> Image.Image:
    """Resize with antialiasing. For another aspect ratio, `crop` takes the centre, `pad` fills the rest with `background`, and
    `squash` distorts. A padded picture is at least one pixel wide and high."""
    size, bicubic = (width, height), Image.Resampling.BICUBIC  # as in clean-fid (Parmar et al. 2022, arXiv:2104.11222)
    if fit == "crop":
        return ImageOps.fit(image, size, bicubic)
    if fit == "pad":
        scale = min(width / image.width, height / image.height)
        if min(image.size) * scale < 1:  # Pillow would round to 0 px
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), bicubic)
        return ImageOps.pad(image, size, bicubic, color=background)
    return image.resize(size, bicubic)


def as_array(image: Image.Image) -> np.ndarray:
    """Returns uint8 [H, W, C]."""
    return np.asarray(image).reshape(image.height, image.width, len(image.getbands()))


def parse_colour(name: str) -> str:
    """Returns the colour in a form that Pillow accepts; six hexadecimal digits need no #. Raises ValueError if it is not a
    colour."""
    colour = f"#{name}" if re.fullmatch("[0-9a-fA-F]{6}", name) else name
    try:
        ImageColor.getrgb(colour)
    except ValueError as error:
        close = difflib.get_close_matches(name.lower(), ImageColor.colormap, 1, 0.6)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"background: must be a colour name or #rrggbb, got {name!r}{hint}") from error
    return colour
