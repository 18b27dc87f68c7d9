"""The handwritten digits that ship with scikit-learn (Alpaydin & Kaynak 1998): real data with no download."""

from __future__ import annotations

import numpy as np

from ganexp.data.module import DataModule


class Digits(DataModule):
    """1,797 digits of 8×8 px and 17 grey levels, as uint8 [1797, 1, 8, 8]; labels 0 to 9.

    `shape`: 1 channel, or 3 equal ones, of any size; images are resized to it. Raises ValueError for any other shape.
    """

    native_shape = (1, 8, 8)

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        return np.round(digits.images[:, None] * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)
