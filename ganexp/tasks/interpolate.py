"""task=interpolate: interpolate between seeds, and between classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganexp.latent_space import film
from ganexp.latent_space.codes import MOST, Space, check_number, check_seeds, render
from ganexp.latent_space.interpolation import Curve, interpolation
from ganexp.tasks.tool import Tool


class Interpolate(Tool):
    """Writes interpolation.png, with a row of `steps` samples from each keyframe to the next, and the same as a film of type
    `film`.

    A keyframe is a seed and a class; the shorter of `seeds` and `labels` is repeated. `seeds`: default: `num`, starting at
    config["seed"]. `labels`: default: all classes in turn. `space`, `curve`, `truncation`: see Model.interpolate. Raises
    ValueError if the model does not have the space or the classes.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, seeds: Sequence[int] | None = None, labels: Sequence[int] | None = None,
        num: int = 5, steps: int = 8, space: Space | None = None, curve: Curve | None = None, truncation: float = 1.0,
        film: str | None = None, fps: float = 12,
    ):  # fmt: skip
        super().__init__(config, run_dir)
        check_number("num", num, 1, MOST)
        check_number("steps", steps, 2, MOST)
        check_seeds(seeds)
        self.chosen_seeds, self.labels, self.num, self.steps = seeds, labels, num, steps
        self.space, self.curve, self.truncation, self.film, self.fps = space, curve, truncation, film, fps

    def check(self) -> None:
        film.check_film(self.model, self.film, self.fps)
        seeds = self.seeds(self.chosen_seeds, self.num)
        self.codes = interpolation(self.model, seeds, self.labels, self.steps, self.space, self.curve, self.truncation)
        self.check_sheet("steps", len(self.codes.x) // self.steps, self.steps)

    def run(self) -> None:
        """Write the picture and the film."""
        samples = render(self.model, self.codes).unflatten(0, (-1, self.steps))
        self.save_sheet(samples, "interpolation")
        self.save_film(self.codes, "interpolation", self.film, self.fps)
        self.report(f"{len(samples)} rows of {self.steps} samples in {self.codes.space}")
