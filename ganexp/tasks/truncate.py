"""task=truncate: sample the same seeds at several truncations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganexp.latent_space.codes import MOST, check_number, check_seeds, labels_in_turn
from ganexp.tasks.tool import Tool


class Truncate(Tool):
    """Writes truncation.png, with a row per seed and a column per truncation in `psi`; see Model.truncate.

    `seeds`: default: `num`, starting at config["seed"]. `labels`: default: all classes in turn.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, seeds: Sequence[int] | None = None, labels: Sequence[int] | None = None,
        num: int = 8, psi: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    ):  # fmt: skip
        super().__init__(config, run_dir)
        check_number("num", num, 1, MOST)
        if not 1 <= len(psi) <= MOST:
            raise ValueError(f"psi: must be a list of 1 to {MOST:,} numbers, got {len(psi):,}")
        check_seeds(seeds)
        for value in psi:
            check_number("psi", value, -10, 10)
        self.chosen_seeds, self.labels, self.num, self.psi = seeds, labels, num, psi

    def check(self) -> None:
        self.rows = self.seeds(self.chosen_seeds, self.num)
        if (count := len(self.psi) * len(self.rows)) > 10_000:
            raise ValueError(f"psi: its numbers times the seeds are {count:,} images; at most 10,000")
        labels_in_turn(self.model, 1, self.labels)
        self.check_sheet("num", len(self.rows), len(self.psi))

    def run(self) -> None:
        """Write the picture."""
        self.save_sheet(self.model.truncate(self.rows, self.labels, self.psi), "truncation")
        self.report(f"{len(self.rows)} seeds at truncations {', '.join(map(str, self.psi))}")
