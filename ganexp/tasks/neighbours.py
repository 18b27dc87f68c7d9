"""task=neighbours: find the nearest training samples of generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ganexp.images import to_float
from ganexp.latent_space.codes import MOST, check_number, labels_in_turn
from ganexp.tasks.tool import Tool


class Neighbours(Tool):
    """Writes neighbours.png, with a row for each of `num` samples: the sample, then its `k` nearest training samples by the
    features of config["extractor"]; and neighbours.json with their distances, and the distances between real samples.

    `num_real`: maximum number of training samples to search. See Model.neighbours. Raises ValueError for classes that the model
    does not have, and for data that cannot be loaded.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, num: int = 8, k: int = 7, num_real: int = 10_000,
        labels: Sequence[int] | None = None,
    ):  # fmt: skip
        super().__init__(config, run_dir)
        check_number("num", num, 1, MOST)
        check_number("k", k, 1, 100)
        check_number("num_real", num_real, 2, 10_000_000)
        self.num, self.k, self.num_real, self.labels = num, k, num_real, labels

    def check(self) -> None:
        labels_in_turn(self.model, 1, self.labels)
        self.check_sheet("num", self.num, 1 + self.k)
        check_number("k", self.k, 1, min(len(self.data.x), self.num_real) - 1)

    def run(self) -> None:
        """Search, and write the results."""
        found = self.model.neighbours(self.num, self.k, self.num_real, self.labels, self.seed, self.extractor, self.data)
        real = to_float(self.data.take(found.numbers.flatten())).unflatten(0, (-1, self.k))
        self.save_sheet(torch.cat([found.samples[:, None], real], 1), "neighbours")
        numbers = found.summary()
        self.save_numbers(numbers, "neighbours")
        self.report(
            f"distances by {found.extractor}: samples to real {numbers['median_distance']:.4g}, "
            f"real to real {numbers['median_real_distance']:.4g} (medians of the nearest)",
            f"{numbers['closer_than_real']:.0%} of the samples are nearer to a real one than 99 % of real ones to each other; "
            "about 1 % is expected, near 100 % is copying",
        )
