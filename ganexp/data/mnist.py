"""MNIST and Fashion-MNIST through torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from torchvision import datasets

from ganexp.data.module import NO_DOWNLOAD, DataModule

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class MNIST(DataModule):
    """60,000 digits of 28×28 px (LeCun et al. 1998), as uint8 [60000, 1, 28, 28]; labels 0 to 9.

    `root`: torchvision's root; the files are in `root/MNIST/raw` and are downloaded if missing. `shape`: 1 channel, or 3 equal
    ones, of any size; images are resized to it. Raises FileNotFoundError, naming the files and their folder, if the download
    fails, ValueError for a damaged file or any other shape.
    """

    dataset = datasets.MNIST
    native_shape = (1, 28, 28)

    def __init__(self, root: str, shape: Sequence[int], classes: int, batch_size: int, seed: int, replacement: bool = False):
        super().__init__(shape, classes, batch_size, seed, replacement)
        self.root = Path(root).expanduser()

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        folder = self.root / self.dataset.__name__ / "raw"
        forms = ("", ".gz") if self.may_download else ("",)
        missing = [f for f in FILES if not any((folder / f"{f}{form}").is_file() for form in forms)]
        missing_folders = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            data = self.dataset(str(self.root), download=self.may_download)
        except (RuntimeError, OSError, ValueError, AssertionError, KeyError) as error:  # the last two: not an IDX file
            for path in missing_folders:  # torchvision leaves empty folders when the download fails
                with suppress(OSError):
                    path.rmdir()
            if missing:
                form, why = ("plain or .gz", f"the download failed: {error}") if self.may_download else ("plain", NO_DOWNLOAD)
                raise FileNotFoundError(
                    f"root: put {', '.join(missing)} ({form}) into {folder}, or set data.root to the folder above "
                    f"{self.dataset.__name__}/raw; {why}"
                ) from error
            raise ValueError(f"root: {folder} contains a damaged file: {error}") from error
        return data.data.numpy()[:, None], data.targets.numpy()


class FashionMNIST(MNIST):
    """60,000 articles of clothing of 28×28 px (Xiao et al. 2017, arXiv:1708.07747); files in `root/FashionMNIST/raw`."""

    dataset = datasets.FashionMNIST
