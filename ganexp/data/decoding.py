"""A picture file of any kind to 8 bits of grey, colour or colour with alpha, upright and of one size."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps

Fit = Literal["crop", "pad", "squash"]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a damaged file


def picture(content: bytes, mode: str, background: str = "black", enough: int | None = None) -> Image.Image:
    """The first frame of a picture file, upright as its EXIF says, as L, LA, RGB or RGBA.

    `background`: what shows through where the picture is transparent and `mode` is not. `enough`: px of the longer side that
    will do: a JPEG decodes faster at a half or a quarter. Raises one of UNREADABLE.
    """
    with Image.open(io.BytesIO(content)) as opened:
        if enough is not None:
            opened.draft(mode, (enough, enough))
        image = ImageOps.exif_transpose(opened)
        if image.mode == "I" or image.mode.startswith("I;16"):  # of 16 bits: Pillow would clip, not scale
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        if not mode.endswith("A") and image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
        return image.convert(mode)


def fitted(image: Image.Image, height: int, width: int, fit: Fit, background: str = "black") -> Image.Image:
    """Of this size, with antialiasing. Of another aspect the middle is cut out (`crop`), the rest is filled with `background`
    (`pad`), or the picture is distorted (`squash`)."""
    size, lanczos = (width, height), Image.Resampling.LANCZOS
    if fit == "crop":
        return ImageOps.fit(image, size, lanczos)
    if fit == "pad":
        return ImageOps.pad(image, size, lanczos, color=background)
    return image.resize(size, lanczos)


def as_array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, C]."""
    return np.asarray(image).reshape(image.height, image.width, len(image.getbands()))


def checked_colour(name: str) -> str:
    """Raises ValueError for what is no colour."""
    try:
        ImageColor.getrgb(name)
    except ValueError as error:
        raise ValueError(f"background: a colour's name or #rrggbb, not {name!r}") from error
    return name
