"""Synthetic two-dimensional data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ganexp.data.module import DataModule


def check_points(points: int, points_seed: int) -> None:
    if points < 1:
        raise ValueError(f"points: must be at least 1, got {points}")
    if points_seed < 0:
        raise ValueError(f"points_seed: must be at least 0, got {points_seed}")


class Sine(DataModule):
    """Points (t, sin t) with t uniform on [0, 2π], not scaled to [-1, 1].

    `points`: their number. `points_seed`: their seed, independent of the run's seed.
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
        check_points(points, points_seed)
        self.points, self.points_seed = points, points_seed

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        t = np.random.default_rng(self.points_seed).uniform(0, 2 * np.pi, self.points)
        return np.stack([t, np.sin(t)], 1).astype(np.float32), np.zeros(self.points, np.int64)


class Gaussians(DataModule):
    """A mixture of equally likely Gaussians in the plane, not scaled to [-1, 1]: the standard data for measuring mode collapse.

    `centres`: the means [M, 2]. `sigma`: their standard deviation. `points`: number of samples. `points_seed`: their seed. The
    label is the index of the centre, from 0 to M - 1.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        batch_size: int,
        seed: int,
        centres: Sequence[Sequence[float]],
        sigma: float,
        points: int = 100_000,
        points_seed: int = 111,
        replacement: bool = False,
    ):
        super().__init__(shape, classes, batch_size, seed, replacement)
        check_points(points, points_seed)
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma: must be above 0 and finite, got {sigma}")
        self.centres = np.asarray(centres, np.float32)
        if self.centres.shape != (classes, *self.shape):
            raise ValueError(f"centres: must be one of shape {list(shape)} for each of the {classes} classes")
        self.sigma, self.points, self.points_seed = sigma, points, points_seed

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(self.points_seed)
        y = random.integers(self.classes, size=self.points)
        noise = random.standard_normal((self.points, *self.shape)).astype(np.float32)
        return self.centres[y] + np.float32(self.sigma) * noise, y
