"""A classifier of the data's own labels, as a feature extractor."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ganexp.files import cache_folder, replace
from ganexp.images import to_float
from ganexp.metrics.features import Data, Extractor, hash_of

log = logging.getLogger(__name__)
RECIPE = 2  # another one makes the classifiers in the cache stale


class Classifier(Extractor):
    """A small CNN that has learned the data's own labels: the last hidden layer [N, 128] as `features`, `logits` [N, classes].

    Of images that stack several in their channels it reads each channel alone: features [N, 128 · channels], logits [N, channels,
    classes of one]. It is trained the first time a data set is measured, on nine tenths of it, and tested on the last; kept by
    the content of the data in the cache folder. `steps`: of 128 samples, at most; 30 passes through the data are enough. Training
    leaves the random state as it was.
    """

    name = "classifier"
    by_channel = False

    def __init__(self, steps: int = 1500):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: at least 1, not {steps}")
        self.steps = steps
        self.trunk, self.head = nn.Sequential(), nn.Sequential()
        self.accuracy = 0.0  # on the tenth that it has not seen

    def build(self, channels: int, classes: int) -> None:
        def block(n_in: int, n_out: int) -> list[nn.Module]:
            return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]

        self.trunk = nn.Sequential(
            *block(channels, 32), nn.AvgPool2d(2),
            *block(32, 64), *block(64, 64), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 128), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(128, classes))

    def setup(self, data: Data) -> None:
        if len(data.shape) != 3 or min(data.shape[1:]) < 4:
            raise ValueError(f"a classifier is of images [C, H, W] of 4 px and more, not of shape {list(data.shape)}")
        if data.classes < 2:
            raise ValueError("a classifier needs data with labels; for others take extractor=random or extractor=inception")
        self.by_channel = data.labels_by_channel
        x, y = channel_digits(data) if self.by_channel else (data.x, data.y)
        file = cache_folder() / "classifiers" / f"{hash_of(RECIPE, self.steps, data.fingerprint)}.pt"
        kept = read_cached(file)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.build(x.shape[1], int(y.max()) + 1)
            if kept is None:
                began = time.perf_counter()
                self.accuracy = self.learn(x, y)
        if kept is None:
            kept = {"weights": self.state_dict(), "accuracy": self.accuracy}
            replace(file, lambda opened: torch.save(kept, opened))
            log.warning(
                "%s: trained on the data's labels in %.1f s, reads %.2f %% of those it has not seen; kept in %s",
                self.name, time.perf_counter() - began, 100 * self.accuracy, file,
            )  # fmt: skip
        self.load_state_dict(kept["weights"])
        self.accuracy = kept["accuracy"]
        self.eval().requires_grad_(False)

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Train, and return the share read rightly of what was held out."""
        unseen, seen = torch.randperm(len(x)).tensor_split([-(-len(x) // 10)])
        steps = max(1, min(self.steps, 30 * len(seen) // 128))
        level = logging.INFO if sys.stderr.isatty() else logging.WARNING  # a terminal shows the bar
        log.log(level, "%s: training on the data's labels, %s steps", self.name, f"{steps:,}")
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        self.train()
        with torch.enable_grad():
            for _ in tqdm(range(steps), desc="training the classifier", leave=False, disable=None):
                i = seen[torch.randint(len(seen), (128,))]
                loss = F.cross_entropy(self.logits(to_float(x[i])), y[i])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.eval()
        with torch.no_grad():
            read = torch.cat([self.logits(to_float(x[i])).argmax(1) for i in unseen.split(500)])
        return float((read == y[unseen]).float().mean())

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))

    @property
    def fingerprint(self) -> str:
        return hash_of(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x.flatten(0, 1)[:, None] if self.by_channel else x)
        logits = self.head(features)
        if self.by_channel:
            return {"features": features.view(len(x), -1), "logits": logits.view(len(x), x.shape[1], -1)}
        return {"features": features, "logits": logits}


def channel_digits(data: Data) -> tuple[Tensor, Tensor]:
    """The channels as images of their own, and their labels: an image's label is a number with a digit for each channel, the
    first channel's the most significant. Of three stacked MNIST digits 7, 0, 1 it is 701."""
    channels = data.shape[0]
    each = round(data.classes ** (1 / channels))
    if each**channels != data.classes:
        raise ValueError(f"classes: {data.classes} are not the combinations of {channels} channels' labels")
    digits = [data.y // each**place % each for place in reversed(range(channels))]
    return data.x.flatten(0, 1)[:, None], torch.stack(digits, 1).flatten()


def read_cached(file: Path) -> dict[str, Any] | None:
    """What the cache holds in a file, null if nothing whole."""
    if not file.is_file():
        return None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes lead it to
        log.warning("%s is damaged and made anew: %s", file, type(error).__name__)
        return None
