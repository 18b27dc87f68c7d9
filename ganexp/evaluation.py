"""Evaluation: metrics of samples against real images, with the protocol of every value."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ganexp.cache import cached
from ganexp.data.module import DataModule, content_hash
from ganexp.images import to_float, to_uint8
from ganexp.metrics.features import Extractor, hash_of
from ganexp.metrics.metric import KINDS, FeatureMetric
from ganexp.progress import bar
from ganexp.sampling import CHUNK
from ganexp.systems.base import System
from ganexp.systems.contexts import seeded

log = logging.getLogger(__name__)
FIRST = slice(0, 1)
MOST = 10_000_000  # samples that are measured
Sampler = Callable[[slice], tuple[Tensor, Tensor | None]]  # slice of indices -> samples, and the labels they are conditioned on


class Evaluation:
    """Compares `num` samples with `num` real ones of `data` (all of them if there are fewer), by any number of metrics.

    Metrics with equal extractors share one, so every image passes through it once. Features of real images are cached under a
    hash of the images and the extractor. Images are rounded to 256 levels first, as if saved.
    `labelled`: whether the samples are conditioned on labels.
    """

    def __init__(self, metrics: Iterable[FeatureMetric], data: DataModule, num: int, labelled: bool):
        self.metrics, self.data, self.num, self.labelled = list(metrics), data, num, labelled
        self.groups: list[tuple[Extractor, list[FeatureMetric]]] = []
        self.features: dict[str, np.ndarray] = {}  # of real images

    def setup(self) -> None:
        """Set up the extractors, which may train or download them, and try every metric on two real samples. Raises ValueError
        if a metric does not support the data, FileNotFoundError if an extractor's file is missing."""
        by_fingerprint: dict[str, tuple[Extractor, list[FeatureMetric]]] = {}
        for metric in self.metrics:
            if metric.requires_labels and not self.labelled:
                raise ValueError(f"{metric.names[0]}: requires a conditional model: model=cdcgan, acgan or cgan")
        for metric in self.metrics:
            metric.to(self.data.x.device)  # an earlier measurement may have moved it
            metric.setup(self.data)
            by_fingerprint.setdefault(metric.features.fingerprint, (metric.features, []))[1].append(metric)
        self.groups = list(by_fingerprint.values())
        self.order = self.data.order(self.num)
        for extractor, metrics in self.groups:
            outputs = extractor(to_float(self.data.take(self.order[:2])))
            for metric in metrics:
                counts = {"real": len(self.order), "fake": self.num}
                for kind in metric.kinds:
                    if counts[kind] < metric.min_samples:
                        raise ValueError(
                            f"{metric.name}: requires at least {metric.min_samples:,} {KINDS[kind]} samples, got {counts[kind]:,}"
                        )
                if metric.output not in outputs:
                    raise ValueError(f"{metric.names[0]}: {extractor.name} has no {metric.output}; choose extractor=classifier")
                metric.update(outputs[metric.output], real=True, y=self.data.y[self.order[:2]])
                metric.reset()

    def measure(
        self, sample: Sampler, device: torch.device, rank: int = 0, ranks: int = 1, show: str | None = None
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Returns the values by name, and for each metric without a value the reason. Work is split over the ranks; all of them
        get the same values.

        `show`: title of a progress bar, which appears after a second; no bar if None.
        """
        accumulator = metric_device(device)
        for extractor, metrics in self.groups:
            for metric in metrics:
                metric.to(accumulator).reset()
            extractor.to(device)  # an extractor that is a submodule of the metric was moved with it
            self.update_real(extractor, metrics, device, chunks(len(self.order), rank, ranks))
        parts = chunks(self.num, rank, ranks)
        for part in bar(parts or [FIRST], show, delay=1) if show else parts or [FIRST]:
            x, y = sample(part)
            if x.ndim == 4:
                x = to_float(to_uint8(x)).where(x.isfinite(), x)
            for extractor, metrics in self.groups:
                update_metrics(metrics, extractor(x), y, real=False, empty=not parts)
        values: dict[str, float] = {}
        failed: dict[str, str] = {}
        for metric in self.metrics:
            try:
                values |= {name: float(value) for name, value in metric.compute().items()}
            except ValueError as error:
                failed[metric.name] = str(error)
        return values, failed

    # -- real samples ------------------------------------------------------------------------------------------------

    def update_real(
        self, extractor: Extractor, metrics: Sequence[FeatureMetric], device: torch.device, parts: list[slice]
    ) -> None:
        metrics = [metric for metric in metrics if "real" in metric.kinds]
        if not metrics:
            return
        features = {}
        if extractor.costly and parts:
            for output in {metric.output for metric in metrics}:
                features[output] = self.cached_features(extractor, output, device, parts)
        for part in parts or [FIRST]:
            y = self.data.y[self.order[part]].to(device) if self.labelled else None  # labels on both sides or on neither
            rows = slice(part.start - parts[0].start, part.stop - parts[0].start) if parts else FIRST
            outputs = {name: torch.from_numpy(f[rows]) for name, f in features.items()}
            update_metrics(metrics, outputs or extractor(self.real(part, device)), y, real=True, empty=not parts)

    def cached_features(self, extractor: Extractor, output: str, device: torch.device, parts: list[slice]) -> np.ndarray:
        """Returns the real features [N, …] of these parts. They are read or made once, and checked when they are read: the file
        is a zip archive with a checksum."""
        key = hash_of(self.real_hash, extractor.fingerprint, output, parts[0].start, parts[-1].stop)

        def read(file: Path) -> np.ndarray:
            features: np.ndarray = np.load(file)["features"]
            if len(features) != parts[-1].stop - parts[0].start:
                raise ValueError(f"it holds {len(features)} samples")
            return features

        def make() -> np.ndarray:
            shown = bar(parts, f"{extractor.name} features of real images")
            return np.concatenate([extractor(self.real(part, device))[output].cpu().numpy() for part in shown])

        def write(features: np.ndarray, file: IO[bytes]) -> None:
            np.savez(file, features=features)

        if key not in self.features:
            self.features[key] = cached(f"features/{extractor.name}-{key}.npz", read, make, write)
        return self.features[key]

    def real(self, part: slice, device: torch.device) -> Tensor:
        return to_float(self.data.take(self.order[part]).to(device))

    @cached_property
    def real_hash(self) -> str:
        """Hash of the real samples in the comparison."""
        if len(self.order) == len(self.data.x):
            return self.data.fingerprint
        return content_hash(self.data.take(self.order), self.data.y[self.order])

    # -- protocols ---------------------------------------------------------------------------------------------------

    def protocols(self, ema: bool | None) -> dict[str, dict[str, Any]]:
        """Returns each value's protocol by name: all that it depends on besides the samples, and a short hash, `fingerprint`.

        `ema`: whether the samples come from an averaged generator; None if unknown. It is not part of the fingerprint: another
        generator is measured then, but in the same way.
        """
        real = {
            "data": type(self.data).__name__,
            "split": self.data.split,
            "images": len(self.order),
            "shape": list(self.data.shape),
            "resize": self.data.resize,
            "hash": self.real_hash,
        }
        protocols: dict[str, dict[str, Any]] = {}
        for metric in self.metrics:
            protocol = {
                "real": real if "real" in metric.kinds else None,
                "generated": self.num,
                "labels": "as the training data" if self.labelled else None,
                "truncation": None,
                "extractor": metric.features.name,
                "extractor_hash": metric.features.fingerprint,
                "extractor_resize": metric.features.resize,
                "output": metric.output,
                "levels": 256 if len(self.data.shape) == 3 else None,
                "dtype": "float32",
                **metric.settings,
            }
            text = json.dumps(protocol, sort_keys=True)
            protocol |= {"ema": ema, "fingerprint": hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}
            protocols |= {f"{name}/{metric.features.name}": protocol for name in metric.names}
        return protocols


def update_metrics(
    metrics: Sequence[FeatureMetric], outputs: dict[str, Tensor], y: Tensor | None, real: bool, empty: bool
) -> None:
    """`empty`: pass zero rows. A rank without samples still needs the features' shape, for gathering."""
    for metric in metrics:
        features, labels = outputs[metric.output].to(metric.device), None if y is None else y.to(metric.device)
        metric.update(features[:0] if empty else features, real, labels if labels is None or not empty else labels[:0])


@lru_cache  # warns once
def metric_device(device: torch.device) -> torch.device:
    """Returns the device for the metrics' state. They accumulate in float64, which MPS does not support."""
    if device.type != "mps":
        return device
    log.warning("metrics: computed on the CPU, because they need float64, which mps does not support")
    return torch.device("cpu")


def chunks(n: int, rank: int = 0, ranks: int = 1) -> list[slice]:
    """Returns this rank's part of range(n) in slices of at most CHUNK. The slices do not depend on the number of ranks."""
    size = min(CHUNK, -(-n // 8))
    slices = [slice(i, min(i + size, n)) for i in range(0, n, size)]
    return slices[len(slices) * rank // ranks : len(slices) * (rank + 1) // ranks]


def samples_of(system: System) -> Sampler:
    """Samples of a system that depend on its weights alone. Restores the random state, so measuring does not affect training."""

    def sample(part: slice) -> tuple[Tensor, Tensor | None]:
        with seeded(part.start, system.device):
            y = system.sample_labels(part.stop - part.start)
            return system.sample(len(y), y), y if system.classes else None

    return sample


def images_of(data: DataModule, device: torch.device) -> Sampler:
    """The samples of a data module, in order."""

    def sample(part: slice) -> tuple[Tensor, Tensor | None]:
        y = data.y[part].to(device) if data.classes else None
        return to_float(data.take(torch.arange(part.start, part.stop)).to(device)), y

    return sample
