"""Two-dimensional data, drawn when asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ganexp.data.module import DataModule


class Sine(DataModule):
    """Points (t, sin t) with t uniform on [0, 2π], in these units: not scaled to [-1, 1].

    `points`: how many; `points_seed`: which. They stay the same when the run's seed changes.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        batch_size: int,
        seed: int,
        points: int = 1024,
        points_seed: int = 111,
        replacement: bool = False,
    ):
        super().__init__(shape, classes, batch_size, seed, replacement)
        self.points, self.points_seed = points, points_seed

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        t = np.random.default_rng(self.points_seed).uniform(0, 2 * np.pi, self.points)
        return np.stack([t, np.sin(t)], 1).astype(np.float32), np.zeros(self.points, np.int64)
