"""Any folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from ganexp.data.module import DataModule

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class Folder(DataModule):
    """All images below `root`, in the order of their paths, as uint8 [N, *shape]; no labels.

    `shape`: [channels, height, width]; 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGBA. `fit`: how another aspect becomes
    this one: `crop` the middle, `pad` with black, or `squash`. Pictures are resized with antialiasing. Unreadable files are
    left out and noted.
    Raises FileNotFoundError for a folder that is not there or holds no image, ValueError where more than one in a hundred is
    unreadable, or for a shape that is no image's.
    """

    def __init__(
        self,
        root: str,
        shape: Sequence[int],
        classes: int,
        batch_size: int,
        seed: int,
        fit: Literal["crop", "pad", "squash"] = "crop",
        replacement: bool = False,
    ):
        super().__init__(shape, classes, batch_size, seed, replacement)
        if classes:
            raise ValueError(f"classes: pictures in a folder have no labels, so 0, not {classes}")
        if len(shape) != 3 or shape[0] not in MODES:
            raise ValueError(f"shape: images are [1-4 channels, height, width], not {list(shape)}")
        self.root, self.fit = Path(root).expanduser(), fit

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.root.is_dir():
            raise FileNotFoundError(f"root: there is no folder {self.root}")
        files = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in EXTENSIONS)
        if not files:
            raise FileNotFoundError(f"root: {self.root} holds no image ({' '.join(sorted(EXTENSIONS))})")
        with ThreadPoolExecutor() as pool:
            images = list(tqdm(pool.map(self.read, files), total=len(files), desc="reading images", leave=False, disable=None))
        unreadable = [str(f) for f, image in zip(files, images, strict=True) if image is None]
        if len(unreadable) > 0.01 * len(files):
            raise ValueError(f"{len(unreadable)} of {len(files)} images below {self.root} are unreadable: {unreadable[0]}, …")
        if unreadable:
            self.notes = [f"{len(unreadable)} unreadable images left out: {', '.join(unreadable)}"]
        x = np.stack([image for image in images if image is not None])
        return x, np.zeros(len(x), np.int64)

    def read(self, file: Path) -> np.ndarray | None:
        """One image as uint8 [C, H, W]; None if it cannot be read."""
        channels, height, width = self.shape
        size = (width, height)
        try:
            with Image.open(file) as opened:
                enough = 2 * max(width, height)  # either way up
                opened.draft(MODES[channels], (enough, enough))  # a JPEG decodes faster at a half or a quarter
                image = ImageOps.exif_transpose(opened)
                if image.mode.startswith("I;16"):  # Pillow would clip, not scale
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                image = image.convert(MODES[channels])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None
        lanczos = Image.Resampling.LANCZOS
        if self.fit == "crop":
            image = ImageOps.fit(image, size, lanczos)
        elif self.fit == "pad":
            image = ImageOps.pad(image, size, lanczos)
        else:
            image = image.resize(size, lanczos)
        return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
