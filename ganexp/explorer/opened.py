"""The models that the page shows, and what is made once for each of them."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch

from ganexp.data.module import DataModule
from ganexp.latent_space.codes import has_w
from ganexp.latent_space.directions import Directions, Method
from ganexp.latent_space.neighbours import RealFeatures
from ganexp.latent_space.real import prepared, training_data
from ganexp.metrics.features import Extractor
from ganexp.model import Model, load
from ganexp.runs import checkpoint_in, find_checkpoint
from ganexp.runtime.console import display_path
from ganexp.systems.contexts import seeded

OPEN = 4  # models in memory beside those of pages
NUM_REAL = 10_000  # training samples among which neighbours are looked for
DIRECTIONS = 6  # sliders


class Opened:
    """A model, its data, the features of real samples and its directions. The last three are made when they are first asked
    for; their errors are raised each time. `apart`: a copy of the model for work that takes long, meanwhile `model` answers."""

    def __init__(self, model: Model, trust: Sequence[str], data: DataModule | None, make_extractor: Callable[[], Extractor]):
        self.model, self.trust = model, trust
        self.given_data, self.make_extractor = data, make_extractor
        self.found: dict[str, Directions] = {}
        self.loading = threading.Lock()
        self.loaded: DataModule | None = None

    @cached_property
    def apart(self) -> Model:
        model = self.model
        return Model(copy.deepcopy(model.system), model.config, model.step, model.checkpoint)

    @property
    def data(self) -> DataModule:
        """The given data, or the run's own. Raises ConfigError if it cannot be loaded."""
        with self.loading:
            if self.loaded is None:
                given = self.given_data
                self.loaded = training_data(self.model, self.trust) if given is None else prepared(given, self.model)
            return self.loaded

    @cached_property
    def real_features(self) -> RealFeatures:
        return RealFeatures(self.data, min(NUM_REAL, len(self.data.x)), self.model.device, self.make_extractor())

    def directions(self, method: Method) -> Directions:
        if method not in self.found:
            self.found[method] = self.model.directions(method, DIRECTIONS)
        return self.found[method]

    @property
    def images(self) -> bool:
        return len(self.model.shape) == 3

    @property
    def folder(self) -> Path | None:
        """The run's folder; None for a checkpoint that lies elsewhere."""
        folder = self.model.checkpoint.parent
        return folder.parent if folder.name == "checkpoints" else None

    @property
    def summary(self) -> list[tuple[str, str]]:
        """Rows of a table: what the model is."""
        model = self.model
        targets = (str(model.config.get(node, {}).get("_target_", "unknown")) for node in ("model", "data"))
        system, data = (target.rpartition(".")[2] for target in targets)
        kind = "images" if self.images else "points"
        return [
            ("system", system),
            ("data", data),
            ("step", f"{model.step:,}"),
            (kind, "×".join(map(str, model.shape))),
            ("classes", str(model.classes or "none")),
            ("latent", f"z {model.latent.dim}" + (f", w {model.system.sampler.layers} layers" if has_w(model) else "")),
        ]


class Library:
    """Models by checkpoint. Each is loaded when it is first asked for. Those of `checkpoints`, which have pages, stay in memory,
    and of the others the last four that were asked for; even if their files are deleted.

    `all_checkpoints`: the files of all runs by display name. `checkpoints`: the names of those that run=… takes.
    """

    def __init__(
        self,
        runs: Sequence[str],
        device: torch.device,
        trust: Sequence[str],
        data: DataModule | None,
        make_extractor: Callable[[], Extractor],
    ):
        self.device, self.trust, self.data, self.make_extractor = device, trust, data, make_extractor
        files = [find_checkpoint(run) for run in runs]
        self.all_checkpoints = named([other for file in files for other in [file, *siblings(file)]])
        self.checkpoints = [name for name, file in self.all_checkpoints.items() if file in files]
        self.open: OrderedDict[Path, Opened] = OrderedDict()
        self.lock = threading.RLock()  # a network's mode and its hooks belong to one caller at a time
        self.work = threading.RLock()  # the same for the models' copies

    def get(self, name: str) -> Opened:
        """The model of a checkpoint's name. Raises ConfigError for a file that is gone or damaged."""
        file = self.all_checkpoints[name]
        if file not in self.open:
            with seeded(0, self.device):  # building a network draws numbers, while other threads may do so too
                model = load(file, self.device, self.trust)
            self.open[file] = Opened(model, self.trust, self.data, self.make_extractor)
        self.open.move_to_end(file)
        pages = [self.all_checkpoints[page] for page in self.checkpoints]
        for old in [other for other in self.open if other not in pages][:-OPEN]:
            del self.open[old]
        return self.open[file]


def siblings(file: Path) -> list[Path]:
    """The other checkpoints of a run, by step."""
    if file.parent.name != "checkpoints" or checkpoint_in(file.parent.parent) is None:
        return []
    return [other for other in sorted(file.parent.glob("*.ckpt")) if other != file]


def named(files: Sequence[Path]) -> dict[str, Path]:
    """Files by a name to show: of their path the run's name, its time and the file, or all of it if two would be alike."""
    names: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        shown = Path(display_path(file))
        parts = [part for part in shown.parts if part not in ("checkpoints", "outputs")]
        short = "/".join(parts[-3:])
        names[short if short not in names else str(shown)] = file
    return names
