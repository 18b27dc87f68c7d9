"""task=directions: find the directions in latent space along which samples change most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganexp.latent_space.codes import MOST, Space, check_choice, check_number, check_seeds, labels_in_turn
from ganexp.latent_space.directions import Method, directions
from ganexp.tasks.tool import Tool


class Directions(Tool):
    """Writes direction-01.png, …, one per direction with a row per seed: `steps` samples from −reach to reach; and
    directions.json with the vectors.

    `method`: sefa or pca, see Model.directions. `num`: number of directions. `reach`: default: 3 for sefa; 2 for pca, in w
    standard deviations. `seeds`: default: three, starting at config["seed"]. Raises ValueError if no layer of the generator takes
    the code itself.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, method: Method = "sefa", num: int = 6, space: Space | None = None,
        seeds: Sequence[int] | None = None, labels: Sequence[int] | None = None, reach: float | None = None, steps: int = 7,
        truncation: float = 1.0,
    ):  # fmt: skip
        super().__init__(config, run_dir)
        check_number("num", num, 1, MOST)
        check_number("steps", steps, 2, MOST)
        check_choice("method", method, ("sefa", "pca"))
        check_seeds(seeds)
        check_number("truncation", truncation, -10, 10)
        check_number("reach", 0 if reach is None else reach, 0, 1000)
        self.method, self.num, self.space, self.chosen_seeds, self.labels = method, num, space, seeds, labels
        self.reach, self.steps, self.truncation = (
            (3.0 if method == "sefa" else 2.0) if reach is None else reach,
            steps,
            truncation,
        )

    def check(self) -> None:
        labels_in_turn(self.model, 1, self.labels)
        self.rows = self.seeds(self.chosen_seeds, 3)
        check_number("steps", len(self.rows) * self.steps, 2, 10_000)
        self.check_sheet("steps", len(self.rows), self.steps)
        self.found = directions(self.model, self.method, self.num, self.space, self.labels, self.seed)

    def run(self) -> None:
        """Write a picture for each direction, and the vectors."""
        found = self.found
        for i, (vector, unit) in enumerate(zip(found.vectors, found.units.tolist(), strict=True)):
            reach = self.reach * unit
            samples = self.model.along(vector, self.rows, self.labels, reach, self.steps, found.space, self.truncation)
            self.save_sheet(samples, f"direction-{i + 1:02d}")
        numbers = {"method": self.method, "space": found.space, "reach": self.reach, "values": found.values.tolist(),
                   "units": found.units.tolist(), "vectors": found.vectors.tolist()}  # fmt: skip
        self.save_numbers(numbers, "directions")
        self.report(f"{len(found.vectors)} directions of {found.space} by {self.method}")
