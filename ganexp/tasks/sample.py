"""task=sample: samples of a trained model, whose checkpoint alone is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ganexp import pictures
from ganexp.files import replace
from ganexp.model import load
from ganexp.runtime.console import quiet, shown
from ganexp.runtime.restoring import restore_data
from ganexp.runtime.trainer import device


class Sample:
    """`num` samples of config["run"], the same for the same config["seed"]: grid.png, or 00000.png … without `grid`; points as
    samples.npy and scatter.png.

    `label` asks a conditional model for one class; by default the classes come in turn. Raises ValueError for a label that the
    model does not have.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path, num: int = 64, label: int | None = None, grid: bool = True):
        if num < 1:
            raise ValueError(f"num: at least 1 sample, not {num}")
        self.config, self.run_dir, self.num, self.label, self.grid = config, run_dir, num, label, grid

    def setup(self) -> None:
        """Load the model."""
        quiet()
        self.model = load(self.config["run"], device(self.config["hardware"]), self.config["trust"])
        self.model.check_label(self.label)

    def run(self) -> None:
        """Sample, and write into the run folder."""
        model, n = self.model, self.num
        samples = model.sample(n, self.label, self.config["seed"]).cpu()
        if not samples.isfinite().all():
            raise ValueError(f"the weights of step {model.step} give NaN or infinite samples: the training diverged")
        if samples.ndim == 4 and self.grid:
            classes = model.classes if self.label is None else None
            written = self.run_dir / "grid.png"
            pictures.save(pictures.grid(samples, pictures.columns_for(n, classes)), written)
        elif samples.ndim == 4:
            written = self.run_dir
            for i, image in enumerate(tqdm(samples, desc="writing", leave=False, disable=None)):
                pictures.save(pictures.single(image), self.run_dir / f"{i:05d}.png")
        else:
            written = self.run_dir / "samples.npy"
            replace(written, lambda file: np.save(file, samples.numpy()))
            if samples.shape[1] == 2:
                picture = pictures.scatter(samples, self.real_points(), f"step {model.step:,}")
                pictures.save(picture, self.run_dir / "scatter.png")
        print(f"  checkpoint {shown(model.checkpoint)}, step {model.step:,}")
        print(f"  {n} samples: {shown(written)}")

    def real_points(self) -> Tensor:
        """What the samples are drawn over: the run's own points, made anew from its config."""
        data = restore_data(self.model.config, self.config["trust"])
        data.prepare()
        return data.real(2000)
