"""task=attributes: find the direction in latent space towards a class of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganexp.latent_space.attributes import Source, attribute, check_attribute
from ganexp.latent_space.codes import MOST, Space, check_number, check_seeds, labels_in_turn
from ganexp.tasks.tool import Tool


class Attributes(Tool):
    """Writes attribute.png, with a row per seed: `steps` samples moved by −reach to reach standard deviations towards the class
    `attribute`; and attribute.json with the direction and its accuracy.

    `source`, `extremes`, `num`: see Model.attribute. `seeds`: default: four, starting at config["seed"]. Raises ValueError for a
    class that the data does not have.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, attribute: int = 0, source: Source | None = None, space: Space | None = None,
        num: int = 2000, extremes: float = 0.1, seeds: Sequence[int] | None = None, labels: Sequence[int] | None = None,
        reach: float = 3.0, steps: int = 7, truncation: float = 1.0,
    ):  # fmt: skip
        super().__init__(config, run_dir)
        check_number("steps", steps, 2, MOST)
        check_seeds(seeds)
        check_number("reach", reach, 0, 1000)
        check_number("truncation", truncation, -10, 10)
        self.attribute, self.source, self.space, self.num, self.extremes = attribute, source, space, num, extremes
        self.chosen_seeds, self.labels, self.reach, self.steps, self.truncation = seeds, labels, reach, steps, truncation

    def check(self) -> None:
        labels_in_turn(self.model, 1, self.labels)
        self.rows = self.seeds(self.chosen_seeds, 4)
        check_number("steps", len(self.rows) * self.steps, 2, 10_000)
        self.check_sheet("steps", len(self.rows), self.steps)
        check_attribute(self.model, self.space, self.source, self.num, self.extremes)
        self.found = attribute(
            self.model, self.attribute, self.space, self.source, self.num, self.extremes, self.labels, self.seed, self.data
        )

    def run(self) -> None:
        """Write the picture and the direction."""
        found = self.found
        reach = self.reach * found.unit
        samples = self.model.along(found.direction, self.rows, self.labels, reach, self.steps, found.space, self.truncation)
        self.save_sheet(samples, "attribute")
        self.save_numbers({"attribute": self.attribute, "reach": self.reach} | found.summary(), "attribute")
        self.report(
            f"class {self.attribute} by {found.source}, in {found.space}: accuracy {found.accuracy:.0%} on held-out codes"
        )
