"""task=style_mix: mix the styles of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganexp.latent_space.codes import MOST, check_number, check_seeds, labels_in_turn
from ganexp.latent_space.mixing import style_layers
from ganexp.tasks.tool import Tool


class StyleMix(Tool):
    """Writes styles.png, a table with the samples of the seeds `rows` on the left and those of the seeds `columns` on top; each
    cell has the row's sample with the column's styles in `layers`. See Model.style_mix.

    `rows`: default: `num` seeds, starting at config["seed"]. `columns`: default: the next `num` seeds. Raises ValueError for a
    generator without styles.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None,
        num: int = 6, layers: Sequence[int] | None = None, labels: Sequence[int] | None = None, truncation: float = 1.0,
    ):  # fmt: skip
        super().__init__(config, run_dir)
        check_number("num", num, 1, MOST)
        check_number("truncation", truncation, -10, 10)
        check_seeds(rows, "rows")
        check_seeds(columns, "columns")
        self.rows, self.columns, self.num = rows, columns, num
        self.layers, self.labels, self.truncation = layers, labels, truncation

    def check(self) -> None:
        self.chosen = style_layers(self.model, self.layers)
        labels_in_turn(self.model, 1, self.labels)
        self.down = self.seeds(self.rows, self.num)
        self.across = self.seeds(self.columns, self.num, offset=len(self.down))
        check_number("num", (1 + len(self.down)) * (1 + len(self.across)), 4, 10_000)
        self.check_sheet("num", 1 + len(self.down), 1 + len(self.across))

    def run(self) -> None:
        """Write the picture."""
        samples = self.model.style_mix(self.down, self.across, self.chosen, self.labels, self.truncation)
        self.save_sheet(samples, "styles")
        self.report(f"{len(self.down)} rows, with the styles of the columns in layers {', '.join(map(str, self.chosen))}")
