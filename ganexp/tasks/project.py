"""task=project: find the latent whose sample is nearest to a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ganexp.latent_space.codes import check_number
from ganexp.latent_space.projection import Target, check_project
from ganexp.latent_space.real import read_picture
from ganexp.tasks.tool import Tool


class Project(Tool):
    """Writes projection.png with the target, the search at several steps, and the result; code.npy, the latent; projection.json
    with distances.

    `picture`: a file; default: the training sample `number`. The other arguments: see Model.project; the
    features are those of config["extractor"]. Raises ValueError for a file that is not a grey or RGB picture of at most 40
    megapixels.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, picture: str | None = None, number: int = 0, label: int | None = None,
        space: Target | None = None, steps: int = 1000, lr: float = 0.1, perceptual: float = 1.0, pixels: float = 1.0,
    ):  # fmt: skip
        super().__init__(config, run_dir)
        check_number("number", number, 0, 2**40)
        check_number("steps", steps, 1, 100_000)
        self.picture, self.number, self.label, self.space = picture, number, label, space
        self.steps, self.lr, self.perceptual, self.pixels = steps, lr, perceptual, pixels

    def check(self) -> None:
        check_project(self.model, self.label, self.space, self.steps, self.lr, self.perceptual, self.pixels)
        self.target = None if self.picture is None else read_picture(self.picture, self.model.shape)
        if self.target is None:
            check_number("number", self.number, 0, len(self.data.x) - 1)

    def run(self) -> None:
        """Search, and write the results."""
        found = self.model.project(
            self.target, self.label, self.space, self.steps, self.lr, self.perceptual, self.pixels, self.seed,
            self.extractor, self.data, self.number,
        )  # fmt: skip
        self.save_sheet(torch.cat([found.target[None], found.stages])[None], "projection")
        self.save_array(found.code, "code")
        numbers = found.summary() | {"picture": self.picture, "distances": found.distances}
        self.save_numbers(numbers, "projection")
        self.report(f"in {found.space}, mean squared error: {found.start_mse:.4g} at the start, {found.mse:.4g} at the end")
