"""Turn a raw picture into a training image: detect and crop the face, filter by quality, resize."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import PIL
from PIL import Image

from ganexp.data.alignment import face_by_eyes, parse_annotation
from ganexp.data.decoding import UNREADABLE, Fit, decode_image, reason, resize_image
from ganexp.data.sources import USUAL, Limits, Source, open_source

Box = tuple[float, float, float, float]  # left, upper, width, height in px
CASCADES = {"cat_face": "haarcascade_frontalcatface_extended.xml", "human_face": "haarcascade_frontalface_default.xml"}
FLAT = 2.0  # standard deviation of the brightness, 0 to 255
Detector = Literal["cat_face", "human_face", "anime_face", "none"]
DETECTORS = get_args(Detector)


@dataclass(frozen=True)
class Settings:
    """`detect`: one of DETECTORS; the largest face is cropped, with a margin of `margin` times its side. `align`: if a `.cat`
    file beside the picture annotates the eyes, crop by them and make them level. `min_size`: px of the shorter side before
    resizing. `colour_only`: drop grey pictures. `min_sharpness`: smallest variance of the Laplacian of the grey picture at 128
    px, levels 0 to 255. `size`: height and width."""

    detect: str
    margin: float
    align: bool
    min_size: int
    colour_only: bool
    min_sharpness: float
    size: tuple[int, int]
    fit: Fit
    background: str
    limits: Limits = USUAL

    def __post_init__(self) -> None:
        if self.detect not in DETECTORS:
            raise ValueError(f"detect: must be one of {', '.join(DETECTORS)}, got {self.detect}")
        for name in ("margin", "min_size", "min_sharpness"):
            if getattr(self, name) is None or not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be at least 0, got {getattr(self, name)}")
        if self.fit not in ("crop", "pad", "squash"):
            raise ValueError(f"fit: must be crop, pad or squash, got {self.fit}")


@dataclass
class Prepared:
    """`png`: the training image, or None with the reason in `dropped`. `hash`: perceptual hash, 64 bits. `content`: hash of the
    pixels, in place of `hash` for flat pictures, whose perceptual hashes are meaningless."""

    png: bytes | None = None
    dropped: str | None = None
    hash: int | None = None
    content: str | None = None


def prepare(root: Path, name: str, annotation: str | None, settings: Settings, hashed: bool) -> Prepared:
    """Prepare one picture of `root`. `annotation`: the name of its `.cat` file, if any. `hashed`: compute a hash."""
    source = open_once(root, settings.limits)
    by_eyes = annotation is not None and settings.align
    try:
        content, pixels = source.read(name), settings.limits.max_pixels
        image = decode_image(content, "RGB", settings.background, upright=not by_eyes, max_pixels=pixels)
    except UNREADABLE as error:
        return Prepared(dropped=f"unreadable: {reason(error)}")
    if annotation is not None and settings.align:
        try:
            face = face_by_eyes(*parse_annotation(source.read(annotation).decode()))
        except (ValueError, OSError) as error:
            return Prepared(dropped=f"unreadable annotation: {reason(error)}")
        image = face.crop(image)
    elif settings.detect != "none":
        boxes = detector(settings.detect)(image)
        if not boxes:
            return Prepared(dropped="no face")
        image = image.crop(square_around(max(boxes, key=lambda box: box[2] * box[3]), settings.margin, image.size))
    if min(image.size) < settings.min_size:
        return Prepared(dropped="too small")
    if settings.colour_only and is_grey(image):
        return Prepared(dropped="grey")
    if settings.min_sharpness and sharpness(image) < settings.min_sharpness:
        return Prepared(dropped="blurred")
    image = resize_image(image, *settings.size, settings.fit, settings.background)
    file = io.BytesIO()
    image.save(file, "PNG")
    if hashed and is_flat(image):
        return Prepared(file.getvalue(), content=hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest())
    return Prepared(file.getvalue(), hash=perceptual_hash(image) if hashed else None)


@lru_cache(maxsize=1)
def open_once(root: Path, limits: Limits) -> Source:
    """Opens the source once per process."""
    return open_source(root, limits)


@lru_cache
def detector(kind: str) -> Callable[[Image.Image], list[Box]]:
    """Returns a face detector for RGB images. Raises ImportError if its library is missing or does not work with this Pillow."""
    if kind == "anime_face":
        check_pillow()
        import animeface

        def anime_faces(image: Image.Image) -> list[Box]:
            small, scale = shrink(image, 640)
            found = [face.face.pos for face in animeface.detect(small)]
            return [(pos.x * scale, pos.y * scale, pos.width * scale, pos.height * scale) for pos in found]

        return anime_faces
    import cv2

    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / CASCADES[kind]))

    def faces(image: Image.Image) -> list[Box]:
        """Large faces are detected best in a small picture with a border, small ones in a larger picture."""
        for longer in (256, 768):
            small, scale = shrink(image.convert("L"), longer)
            border = min(small.size) // 4
            grey = cv2.copyMakeBorder(np.asarray(small), border, border, border, border, cv2.BORDER_REPLICATE)
            found: Any = cascade.detectMultiScale(
                grey, 1.05, 3, minSize=(min(small.size) // 5,) * 2 if longer == 256 else (40, 40)
            )
            if len(found):
                return [((x - border) * scale, (y - border) * scale, w * scale, h * scale) for x, y, w, h in found.tolist()]
        return []

    return faces


def check_pillow() -> None:
    """Raises ImportError for Pillow 12 or newer: animeface relies on the memory layout of Pillow 11."""
    if int(PIL.__version__.split(".")[0]) >= 12:
        raise ImportError(f"animeface requires Pillow 11 or older, got {PIL.__version__}")


def shrink(image: Image.Image, longer: int) -> tuple[Image.Image, float]:
    """Returns the picture with at most `longer` px on its longer side, and the factor by which it was shrunk."""
    scale = max(1.0, max(image.size) / longer)
    return (
        image.resize((max(1, round(image.width / scale)), max(1, round(image.height / scale)))) if scale > 1 else image
    ), scale


def square_around(box: Box, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns the square around a face as left, upper, right, lower, shifted and shrunk to lie inside the picture."""
    left, upper, width, height = box
    side = min(max(width, height) * (1 + 2 * margin), *size)
    x = min(max(0.0, left + (width - side) / 2), size[0] - side)
    y = min(max(0.0, upper + (height - side) / 2), size[1] - side)
    return round(x), round(y), round(x) + round(side), round(y) + round(side)


def is_grey(image: Image.Image) -> bool:
    """Whether all channels are equal, up to JPEG artefacts."""
    pixels = np.asarray(image.resize((32, 32))).astype(int)
    return bool((pixels.max(2) - pixels.min(2)).mean() < 4)


def sharpness(image: Image.Image) -> float:
    grey = np.asarray(image.convert("L").resize((128, 128), Image.Resampling.LANCZOS)).astype(float)
    inner = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner).var())


def is_flat(image: Image.Image) -> bool:
    """Whether the brightness is nearly constant. Perceptual hashes of such pictures are equal, or depend on noise only."""
    return float(np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)).std()) < FLAT


def perceptual_hash(image: Image.Image) -> int:
    """Returns 64 bits, few of which differ between similar pictures. Raises ImportError without the extra `prepare`."""
    import imagehash

    return int(str(imagehash.phash(image)), 16)
