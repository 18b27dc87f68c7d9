"""Resize data sets in memory and convert them between grey and RGB, as picture folders are."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ganexp.data.decoding import MODES, as_array, resize_image
from ganexp.progress import bar

log = logging.getLogger(__name__)


def describe_resize(native: Sequence[int], shape: Sequence[int], channels: Sequence[int]) -> str:
    """Describe for an evaluation's protocol what `resize_images` does to images of shape `native`. `channels`: the allowed
    numbers of channels. Raises ValueError for any other shape."""
    if len(shape) != 3 or shape[0] not in channels:
        raise ValueError(f"shape: must be [{' or '.join(map(str, channels))} channels, height, width], got {list(shape)}")
    return "none" if native[1:] == shape[1:] else f"bicubic to {shape[1]}×{shape[2]}, squash"


def resize_images(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resize uint8 images [N, 1 or 3, H, W] to [N, *shape], `shape` [1 or 3, height, width].

    Pillow's bicubic filter with antialiasing, image by image; another aspect ratio is squashed. Grey is repeated over three
    channels, RGB becomes grey by Pillow's luma. Raises ValueError if the result takes more than half of the machine's memory.
    """
    c, height, width = shape
    needed, memory = len(x) * c * height * width, memory_size()
    if needed > memory / 2:
        raise ValueError(
            f"shape: {len(x):,} images of {list(shape)} take {needed / 2**30:,.1f} GiB of memory, more than half of this "
            f"machine's {memory / 2**30:,.1f} GiB"
        )
    began = time.perf_counter()
    out = np.empty((len(x), height, width, c), np.uint8)  # channels last, the layout of the data module
    for i, pixels in enumerate(bar(x, "resizing images")):
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        if c < len(pixels):
            image = image.convert(MODES[c])  # before resizing, as for picture files; grey becomes RGB after it, which is faster
        if image.size != (width, height):
            image = resize_image(image, height, width, "squash")
        out[i] = as_array(image.convert(MODES[c]))
    log.info("%s images resized from %s to %s in %.1f s", f"{len(x):,}", [*x.shape[1:]], [*shape], time.perf_counter() - began)
    return out.transpose(0, 3, 1, 2)


def memory_size() -> int:
    """Returns the machine's memory in bytes; 8 GiB if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2**33
