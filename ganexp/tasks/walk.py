"""task=walk: make a looping film through keyframes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganexp.latent_space import film
from ganexp.latent_space.codes import MOST, Space, check_number, check_seeds, render
from ganexp.latent_space.interpolation import Curve, loop
from ganexp.tasks.tool import Tool


class Walk(Tool):
    """Writes walk.gif, or another type of film: a closed path through keyframes, with `frames` frames from one to the next, shown
    at `fps` frames per second; and walk.png with the keyframes. For points, walk.png shows the path, and walk.npy has its points.

    The other arguments: see Interpolate and Model.walk.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, seeds: Sequence[int] | None = None, labels: Sequence[int] | None = None,
        num: int = 10, frames: int = 24, space: Space | None = None, curve: Curve | None = None, truncation: float = 1.0,
        film: str | None = "auto", fps: float = 24,
    ):  # fmt: skip
        super().__init__(config, run_dir)
        check_number("num", num, 1, MOST)
        check_number("frames", frames, 1, MOST)
        check_seeds(seeds)
        self.chosen_seeds, self.labels, self.num, self.frames = seeds, labels, num, frames
        self.space, self.curve, self.truncation, self.film, self.fps = space, curve, truncation, film, fps

    def check(self) -> None:
        if self.film == "auto":
            self.film = "gif" if len(self.model.shape) == 3 else None
        film.check_film(self.model, self.film, self.fps)
        seeds = self.seeds(self.chosen_seeds, self.num)
        self.codes = loop(self.model, seeds, self.labels, self.frames, self.space, self.curve, self.truncation)
        self.check_sheet("num", 1, len(self.codes.x) // self.frames)

    def run(self) -> None:
        """Write the film and the picture."""
        if len(self.model.shape) == 3:
            keys = self.codes._replace(x=self.codes.x[:: self.frames], y=self.codes.y[:: self.frames])
            self.save_sheet(render(self.model, keys)[None], "walk")
        else:
            self.save_sheet(render(self.model, self.codes)[None], "walk")
        self.save_film(self.codes, "walk", self.film, self.fps)
        self.report(f"{len(self.codes.x)} frames in {self.codes.space}, {len(self.codes.x) / self.fps:.1f} s")
