"""task=sample: draw from a checkpoint, which alone is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ganexp import pictures
from ganexp.callbacks.samples import fixed_samples
from ganexp.files import replace
from ganexp.mistakes import Mistake
from ganexp.tasks.checkpoint import restore, restore_data
from ganexp.tasks.hardware import device
from ganexp.tasks.screen import shown
from ganexp.tasks.train import quiet


class Sample:
    """`num` samples, the same for the same seed: grid.png, or 00000.png … with grid=false; points as samples.npy and scatter.png.

    `label` asks a conditional model for one class; without it the classes come in turn.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path):
        self.config, self.run_dir = config, run_dir
        quiet()
        self.system, self.trained, self.step = restore(Path(config["checkpoint"]), config["trust"])
        label, classes = config["label"], self.system.classes
        if label is not None and classes is None:
            raise Mistake("label: this checkpoint's model is unconditional, it cannot be asked for a class")
        if label is not None and not 0 <= label < (classes or 0):
            raise Mistake(f"label: {label}, but the classes of this model are 0 to {(classes or 0) - 1}")
        self.system.to(device(config["hardware"]))

    def run(self) -> None:
        """Draw, and write into the run folder."""
        n = self.config["num"]
        samples = fixed_samples(self.system, n, self.config["seed"], self.config["label"]).cpu()
        if not samples.isfinite().all():
            raise ValueError(f"the weights of step {self.step} draw NaN or infinite samples: the training diverged")
        if samples.ndim == 4 and self.config["grid"]:
            classes = self.system.classes if self.config["label"] is None else None
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
                picture = pictures.scatter(samples, self.real_points(), f"step {self.step:,}")
                pictures.save(picture, self.run_dir / "scatter.png")
        print(f"  {n} samples of step {self.step:,}: {shown(written)}")

    def real_points(self) -> Tensor:
        """What the samples are drawn over: the run's own points, made anew from its config."""
        data = restore_data(self.trained, self.config["trust"])
        data.prepare()
        return data.real(2000)
