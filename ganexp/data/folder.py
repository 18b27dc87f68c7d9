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

    split = "all"

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
        self.resize = f"Lanczos to {shape[1]}×{shape[2]}, {fit}"

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        try:
            files = images_below(self.root)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"root: {error}") from error
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
                image = upright(opened).convert(MODES[channels])
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


class Exact(DataModule):
    """All images below `root` as they are, for measuring: all of one size, grey or in colour, as uint8 [N, 1 or 3, H, W].

    Raises FileNotFoundError for a folder that is not there or holds no image, ValueError for a file that cannot be read, for
    pictures of different sizes, and where all are of one colour each.
    """

    split = "all"

    def __init__(self, root: str):
        super().__init__([3, 1, 1], 0, batch_size=2)
        self.root = Path(root).expanduser()

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        files = images_below(self.root)
        if len(files) < 2:
            raise ValueError(f"{self.root} holds a single image; at least 2 are measured")
        with ThreadPoolExecutor() as pool:
            images = list(
                tqdm(pool.map(self.read, files), total=len(files), desc=f"reading {self.root}", leave=False, disable=None)
            )
        if any(image.shape[2] == 3 for image in images):
            images = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in images]
        for file, image in zip(files, images, strict=True):
            if image.shape != images[0].shape:
                raise ValueError(
                    f"{file} has {image.shape[1]}×{image.shape[0]} px, {files[0]} {images[0].shape[1]}×{images[0].shape[0]}: "
                    "bring all to one size"
                )
        x = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
        if (x.min((2, 3)) == x.max((2, 3))).all():
            raise ValueError(f"every image in {self.root} is of a single colour")
        self.shape = x.shape[1:]
        return x, np.zeros(len(x), np.int64)

    @staticmethod
    def read(file: Path) -> np.ndarray:
        """One image as uint8 [H, W, 1 or 3]."""
        try:
            with Image.open(file) as opened:
                image = upright(opened)
                mode = "L" if image.mode in ("1", "L") else "RGB"
                return np.asarray(image.convert(mode)).reshape(image.height, image.width, len(mode))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error


def upright(image: Image.Image) -> Image.Image:
    """As its EXIF says, in 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip, not scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def images_below(root: Path) -> list[Path]:
    """The image files below a folder, in order. Raises FileNotFoundError where it is not there or has none."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS)
    if not files:
        raise FileNotFoundError(f"{root} holds no image ({' '.join(sorted(EXTENSIONS))})")
    return files
