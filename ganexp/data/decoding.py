"""A picture file of any kind to 8 bits of grey, colour or colour with alpha, upright and of one size."""

from __future__ import annotations

import difflib
import io
import re
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps

Fit = Literal["crop", "pad", "squash"]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a damaged file


def reason(error: BaseException) -> str:
    """Why a file is unreadable, without the address of the object in memory."""
    return re.sub(r" ?<_io\.BytesIO.*?>", "", str(error)) or type(error).__name__


def picture(content: bytes, mode: str, background: str = "black", enough: int | None = None, upright: bool = True) -> Image.Image:
    """The first frame of a picture file, as L, LA, RGB or RGBA; `upright` as its EXIF says, or as its pixels lie.

    `background`: what shows through where the picture is transparent and `mode` is not. `enough`: px of the longer side that
    will do: a JPEG decodes faster at a half or a quarter. Raises one of UNREADABLE.
    """
    image: Image.Image = Image.open(io.BytesIO(content))
    if enough is not None:
        image.draft(mode, (enough, enough))
    if upright:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "I" or image.mode.startswith("I;16"):  # of 16 bits: Pillow would clip, not scale
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if not mode.endswith("A") and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert(mode)


def fitted(image: Image.Image, height: int, width: int, fit: Fit, background: str = "black") -> Image.Image:
    """Of this size, with antialiasing. Of another aspect the middle is cut out (`crop`), the rest is filled with `background`
    (`pad`), or the picture is distorted (`squash`). A padded picture keeps at least one pixel in its thin direction."""
    size, bicubic = (width, height), Image.Resampling.BICUBIC  # as clean-fid resizes (Parmar et al. 2022, arXiv:2104.11222)
    if fit == "crop":
        return ImageOps.fit(image, size, bicubic)
    if fit == "pad":
        scale = min(width / image.width, height / image.height)
        if min(image.size) * scale < 1:  # Pillow would round it to no pixel at all
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), bicubic)
        return ImageOps.pad(image, size, bicubic, color=background)
    return image.resize(size, bicubic)


def as_array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, C]."""
    return np.asarray(image).reshape(image.height, image.width, len(image.getbands()))


def checked_colour(name: str) -> str:
    """The colour as Pillow reads it: six hexadecimal digits need no #. Raises ValueError for what is no colour."""
    colour = f"#{name}" if re.fullmatch("[0-9a-fA-F]{6}", name) else name
    try:
        ImageColor.getrgb(colour)
    except ValueError as error:
        close = difflib.get_close_matches(name.lower(), ImageColor.colormap, 1, 0.6)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"background: a colour's name or #rrggbb, not {name!r}{hint}") from error
    return colour
