"""Data sets in memory at another size, grey or in colour: made as picture folders make theirs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from ganexp.data.decoding import MODES, as_array, fitted

log = logging.getLogger(__name__)


def described(native: Sequence[int], shape: Sequence[int], channels: Sequence[int]) -> str:
    """What `resized` does to images of the shape `native`, as an evaluation's protocol says it. `channels`: how many there
    may be. Raises ValueError for what is not the shape of such images."""
    if len(shape) != 3 or shape[0] not in channels:
        raise ValueError(f"shape: must be [{' or '.join(map(str, channels))} channels, height, width], not {list(shape)}")
    return "none" if native[1:] == shape[1:] else f"bicubic to {shape[1]}×{shape[2]}, squash"


def resized(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """uint8 images [N, 1 or 3, H, W] as [N, *shape], `shape` [1 or 3, height, width].

    Bicubic with antialiasing, each image alone, by Pillow; another aspect ratio is squashed. Grey is repeated in three channels,
    three become grey by Pillow's luma. Raises ValueError where the result would take more than half of the machine's memory.
    """
    c, height, width = shape
    needed, memory = len(x) * c * height * width, memory_size()
    if needed > memory / 2:
        raise ValueError(
            f"shape: {len(x):,} images of {list(shape)} take {needed / 2**30:,.1f} GiB of memory, more than half of the "
            f"{memory / 2**30:,.1f} GiB there is"
        )
    began = time.perf_counter()
    out = np.empty((len(x), height, width, c), np.uint8)  # channels last, as the data module keeps them
    for i, pixels in enumerate(tqdm(x, desc="resizing images", leave=False, disable=None)):
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        if c < len(pixels):
            image = image.convert(MODES[c])  # before the size, as a picture file's; grey becomes RGB after it, which is faster
        if image.size != (width, height):
            image = fitted(image, height, width, "squash")
        out[i] = as_array(image.convert(MODES[c]))
    log.info("%s images resized from %s to %s in %.1f s", f"{len(x):,}", [*x.shape[1:]], [*shape], time.perf_counter() - began)
    return out.transpose(0, 3, 1, 2)


def memory_size() -> int:
    """Bytes of this machine's memory; 8 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2**33
