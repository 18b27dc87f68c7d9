"""A classifier trained on the data set's labels, as a feature extractor."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.cache import cached, check_archive
from ganexp.images import to_float
from ganexp.metrics.features import Data, Extractor, hash_of
from ganexp.progress import bar

log = logging.getLogger(__name__)
RECIPE = 3  # increment when training changes: invalidates cached classifiers


class Classifier(Extractor):
    """A small CNN trained on the data set's labels: the last hidden layer [N, 128] as `features`, and `logits` [N, classes].

    If each channel has its own label, channels are classified separately: features [N, 128 · channels], logits [N, channels,
    classes per channel]. It is trained when a data set is first measured, on 90 % of it, tested on the rest, and cached by the
    data's content. `steps`: maximum number of steps of 128 samples; at most 10 epochs. Training does not change the random state.
    """

    name = "classifier"
    by_channel = False

    def __init__(self, steps: int = 1500):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: must be at least 1, got {steps}")
        self.steps = steps
        self.trunk, self.head = nn.Sequential(), nn.Sequential()
        self.accuracy = 0.0  # on held-out data

    def build(self, channels: int, classes: int) -> None:
        def block(n_in: int, n_out: int) -> list[nn.Module]:
            return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]

        self.trunk = nn.Sequential(
            *block(channels, 32), nn.AvgPool2d(2),
            *block(32, 64), *block(64, 64), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 128), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(128, classes))
        self.to(memory_format=torch.channels_last)  # a quarter faster on CPUs

    def setup(self, data: Data) -> None:
        if len(data.shape) != 3 or min(data.shape[1:]) < 4:
            raise ValueError(f"classifier needs images [C, H, W] of at least 4 px a side, got shape {list(data.shape)}")
        if data.classes < 2:
            raise ValueError("classifier needs data with labels; choose extractor=auto")
        self.by_channel = data.labels_by_channel
        x, y = channel_digits(data) if self.by_channel else (data.x, data.y)
        channels, classes = x.shape[1], int(y.max()) + 1

        def read(file: Path) -> None:
            check_archive(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
            self.build(channels, classes)
            self.load_state_dict(content["weights"])
            self.accuracy = float(content["accuracy"])

        def make() -> None:
            start = time.perf_counter()
            torch.default_generator.manual_seed(0)  # torch.manual_seed would also seed CUDA's
            self.build(channels, classes)
            self.accuracy = self.fit(x, y)
            log.warning(
                "%s: trained on the data's labels in %.1f s, accuracy %.2f %% on held-out data",
                self.name, time.perf_counter() - start, 100 * self.accuracy,
            )  # fmt: skip

        def write(_: None, file: IO[bytes]) -> None:
            torch.save({"weights": self.state_dict(), "accuracy": self.accuracy}, file)

        with torch.random.fork_rng(devices=[]):
            cached(f"classifiers/{hash_of(RECIPE, self.steps, data.fingerprint)}.pt", read, make, write)
        self.eval().requires_grad_(False)

    def fit(self, x: Tensor, y: Tensor) -> float:
        """Trains on 90 % of the data, and returns the accuracy on the rest."""
        held_out, train = torch.randperm(len(x)).tensor_split([-(-len(x) // 10)])
        steps = max(1, min(self.steps, 10 * len(train) // 128))
        level = logging.INFO if sys.stderr.isatty() else logging.WARNING  # a terminal shows a progress bar
        log.log(level, "%s: training on the data's labels, %s steps", self.name, f"{steps:,}")
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        self.train()
        with torch.enable_grad():
            for _ in bar(range(steps), "training the classifier"):
                i = train[torch.randint(len(train), (128,))]
                loss = F.cross_entropy(self.logits(to_float(x[i])), y[i])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.eval()
        with torch.no_grad():
            predicted = torch.cat([self.logits(to_float(x[i])).argmax(1) for i in held_out.split(500)])
        return float((predicted == y[held_out]).float().mean())

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
    """Returns the channels as separate images, and their labels. An image's label has one digit per channel, the first channel's
    the most significant: 701 for the stacked MNIST digits 7, 0, 1."""
    channels = data.shape[0]
    base = round(data.classes ** (1 / channels))
    if base**channels != data.classes:
        raise ValueError(f"classes: must be an integer to the power of {channels}, the channels, got {data.classes}")
    digits = [data.y // base**place % base for place in reversed(range(channels))]
    return data.x.flatten(0, 1)[:, None], torch.stack(digits, 1).flatten()
