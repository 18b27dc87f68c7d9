"""task=sample: sample from a trained model. Its checkpoint is sufficient."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganexp import pictures, sampling
from ganexp.export.samples import write_npz, write_pictures
from ganexp.files import replace
from ganexp.model import load
from ganexp.progress import bar
from ganexp.runtime.console import display_path, quiet
from ganexp.runtime.restoring import restore_data
from ganexp.runtime.trainer import device

MOST_SAMPLES = 10_000_000


class Sample:
    """Writes `num` samples of config["run"], which depend on config["seed"] alone: images as grid.png, or as 00000.png, … if not
    `grid`, with labels.csv if the model has classes; points as samples.npy and, in two dimensions, scatter.png. `npz`: images as
    samples.npz instead, arr_0 uint8 [num, H, W, 3] and arr_1 the classes. Images are written in batches.

    `label`: the class of all samples; None cycles through the classes of a conditional model. Raises ValueError if the model does
    not have the label.
    """

    def __init__(
        self,
        config: dict[str, Any],
        run_dir: Path,
        num: int = 64,
        label: int | None = None,
        grid: bool = True,
        npz: bool = False,
    ):
        if not 1 <= num <= MOST_SAMPLES:
            raise ValueError(f"num: must be at {'least 1' if num < 1 else f'most {MOST_SAMPLES}'}, got {num}")
        self.config, self.run_dir, self.num, self.label, self.grid, self.npz = config, run_dir, num, label, grid, npz

    def setup(self) -> None:
        """Load the model."""
        quiet()
        self.model = load(self.config["run"], device(self.config["hardware"]), self.config["trust"])
        self.model.check_label(self.label)
        if self.npz and len(self.model.shape) != 3:
            raise ValueError("npz: this model generates points, which are written to samples.npy")
        if len(self.model.shape) != 3 and self.num > pictures.MOST_POINTS:
            raise ValueError(f"num: must be at most {pictures.MOST_POINTS} points, got {self.num}")
        if self.grid and not self.npz:
            try:
                pictures.check_pixels("num", self.num, self.model.shape)
            except ValueError as error:
                raise ValueError(f"{error}; task.grid=false writes a file for each, task.npz=true one for all") from error

    def run(self) -> None:
        """Sample, and write into the run folder."""
        model, n = self.model, self.num
        if len(model.shape) == 3 and (self.npz or not self.grid):
            self.say(self.write_images())
            return
        samples = torch.cat([x.cpu() for x, _ in self.batches()])
        if not samples.isfinite().all():
            raise ValueError(f"the samples of step {model.step} are NaN or infinite: training diverged")
        if samples.ndim == 4:
            classes = model.classes if self.label is None else None
            written = self.run_dir / "grid.png"
            pictures.save(pictures.grid(samples, pictures.columns_for(n, classes)), written)
        else:
            written = self.run_dir / "samples.npy"
            replace(written, lambda file: np.save(file, samples.numpy()))
            if samples.shape[1] == 2:
                picture = pictures.scatter(samples, self.real_points(), f"step {model.step:,}")
                pictures.save(picture, self.run_dir / "scatter.png")
        self.say(written)

    def write_images(self) -> Path:
        """Write images batch by batch. Returns the file or folder."""
        if self.npz:
            write_npz(self.run_dir / "samples.npz", self.batches(), self.num, self.model.shape)
            return self.run_dir / "samples.npz"
        write_pictures(self.run_dir, self.batches(), self.num)
        return self.run_dir

    def batches(self) -> Iterable[tuple[Tensor, Tensor | None]]:
        """Returns the samples and their labels in batches, and shows how many there are."""
        made = sampling.batches(self.model.system, self.num, self.label, self.config["seed"])
        return bar(made, "sampling", -(-self.num // sampling.CHUNK), delay=2)

    def say(self, written: Path) -> None:
        print(f"  checkpoint {display_path(self.model.checkpoint)}, step {self.model.step:,}")
        print(f"  {self.num} samples: {display_path(written)}")

    def real_points(self) -> Tensor:
        """Returns real points for the background of the plot, from the run's own data."""
        data = restore_data(self.model.config, self.config["trust"])
        data.prepare()
        return data.real(2000)
