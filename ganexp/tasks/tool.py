"""The base class of the tasks that explore a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ganexp import pictures
from ganexp.cli.build import build
from ganexp.cli.messages import ConfigError
from ganexp.data.module import DataModule
from ganexp.files import replace, write_json
from ganexp.latent_space import drawing, film
from ganexp.latent_space.codes import Codes
from ganexp.latent_space.real import prepared
from ganexp.metrics.features import Extractor
from ganexp.model import load
from ganexp.runtime.console import display_path, quiet
from ganexp.runtime.restoring import restore_data
from ganexp.runtime.trainer import device


class Tool:
    """A task on the model config["run"]; a subclass adds arguments and implements `run`.

    `setup` loads the model and calls `check`, which raises ValueError for arguments that do not fit the model.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path):
        self.config, self.run_dir = config, run_dir
        self.written: list[str] = []

    def setup(self) -> None:
        quiet()
        self.model = load(self.config["run"], device(self.config["hardware"]), self.config["trust"])
        self.check()

    def check(self) -> None:
        """Raises ValueError for anything that the model cannot do, before anything is written."""

    @property
    def seed(self) -> int:
        return self.config["seed"]

    def seeds(self, given: Sequence[int] | None, num: int, offset: int = 0) -> list[int]:
        """Returns the given seeds, or `num` seeds starting at config["seed"] + offset."""
        return list(given) if given is not None else [self.seed + offset + i for i in range(num)]

    @cached_property
    def data(self) -> DataModule:
        """The data of the command line, or else the run's own, loaded. Raises ConfigError if it cannot be loaded, or its shape
        differs from the model's."""
        node = self.config.get("data")
        if node is not None:
            return prepared(build(node, "data"), self.model)
        own = restore_data(self.model.config, self.config["trust"])
        try:
            return prepared(own, self.model)
        except ConfigError as error:
            raise ConfigError(f"{error}; this is the data of the run: data=… data.root=… choose other data") from error

    @cached_property
    def extractor(self) -> Extractor:
        return build(self.config["extractor"], "extractor")

    # -- results -----------------------------------------------------------------------------------------------------------

    def save_picture(self, picture: Image.Image | None, name: str) -> None:
        if picture is not None:
            pictures.save(picture, self.run_dir / name)
            self.written.append(name)

    def save_sheet(self, samples: Tensor, name: str) -> None:
        """Save samples [rows, columns, *shape] as NAME.png, points also as NAME.npy."""
        points = samples.ndim == 3
        real = self.data.real(2000) if points and samples.shape[2] == 2 else None
        self.save_picture(drawing.sheet(samples, real, f"step {self.model.step:,}"), f"{name}.png")
        if points:
            self.save_array(samples, name)

    def save_array(self, array: Tensor, name: str) -> None:
        replace(self.run_dir / f"{name}.npy", lambda file: np.save(file, array.cpu().numpy()))
        self.written.append(f"{name}.npy")

    def save_numbers(self, numbers: dict[str, Any], name: str) -> None:
        model = {"checkpoint": str(self.model.checkpoint.resolve()), "step": self.model.step, "seed": self.seed}
        write_json(model | numbers, self.run_dir / f"{name}.json")
        self.written.append(f"{name}.json")

    def save_film(self, codes: Codes, name: str, kind: str | None, fps: float) -> None:
        """Save the samples of the codes as the film NAME.KIND, if there is a `kind`."""
        if kind is not None:
            film.write_film(film.frames(self.model, codes), self.run_dir / f"{name}.{kind}", fps)
            self.written.append(f"{name}.{kind}")

    def check_sheet(self, key: str, rows: int, columns: int) -> None:
        """Raises ValueError if the picture would have too many pixels."""
        pictures.check_pixels(key, rows * columns, self.model.shape)

    def report(self, *lines: str) -> None:
        """Print the checkpoint, the given lines and the names of the files."""
        print(f"  checkpoint {display_path(self.model.checkpoint)}, step {self.model.step:,}")
        for line in [*lines, f"written to {display_path(self.run_dir)}: {', '.join(self.written)}"]:
            print(f"  {line}")
