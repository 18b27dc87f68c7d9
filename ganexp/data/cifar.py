"""CIFAR-10 through torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from torchvision import datasets

from ganexp.data.module import NO_DOWNLOAD, DataModule


class CIFAR10(DataModule):
    """50,000 photographs of 32×32 px in ten classes (Krizhevsky 2009), as uint8 [50000, 3, 32, 32]; labels 0 to 9.

    `root`: torchvision's root; the files are in `root/cifar-10-batches-py` and are downloaded if missing. `shape`: 3 channels,
    or 1 for grey, of any size; photographs are resized to it. Raises FileNotFoundError, naming the file and its folder, if the
    download fails, ValueError for any other shape.
    """

    native_shape = (3, 32, 32)

    def __init__(self, root: str, shape: Sequence[int], classes: int, batch_size: int, seed: int, replacement: bool = False):
        super().__init__(shape, classes, batch_size, seed, replacement)
        self.root = Path(root).expanduser()

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        archive = datasets.CIFAR10.filename
        try:
            data = datasets.CIFAR10(str(self.root), download=self.may_download)
        except (RuntimeError, OSError, ValueError) as error:
            for path in missing:  # torchvision leaves empty folders when the download fails
                with suppress(OSError):
                    path.rmdir()
            packed = f"{archive} (170,498,071 bytes)"
            what, why = (packed, "the download failed") if self.may_download else (f"the content of {archive}", NO_DOWNLOAD)
            raise FileNotFoundError(
                f"root: put {what} into {self.root}, or set data.root to the folder above {datasets.CIFAR10.base_folder}; {why}, "
                f"or these files are damaged: {error}"
            ) from error
        return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.array(data.targets, np.int64)
