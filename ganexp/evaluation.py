"""Measuring: samples against real images, every metric by its name, with the protocol that its value depends on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ganexp.data.module import DataModule, content_hash
from ganexp.files import cache_folder, replace
from ganexp.images import to_float, to_uint8
from ganexp.metrics.features import Extractor, hash_of
from ganexp.metrics.metric import KINDS, FeatureMetric
from ganexp.sampling import CHUNK
from ganexp.systems.base import System
from ganexp.systems.contexts import seeded

log = logging.getLogger(__name__)
ONE = slice(0, 1)
Sampler = Callable[[slice], tuple[Tensor, Tensor | None]]  # the samples of these numbers, and their wanted labels


class Evaluation:
    """`num` samples against `num` real ones of `data` (all, where there are fewer), by any number of metrics.

    Metrics with equal extractors share one, so that every image passes through it once. Features of real images are kept in the
    cache folder by the content of the images and of the extractor. Images are rounded to 256 levels first, as if saved.
    `labelled`: whether the samples come with the labels they were asked for.
    """

    def __init__(self, metrics: Iterable[FeatureMetric], data: DataModule, num: int, labelled: bool):
        self.metrics, self.data, self.num, self.labelled = list(metrics), data, num, labelled
        self.groups: list[tuple[Extractor, list[FeatureMetric]]] = []

    def setup(self) -> None:
        """Make the extractors ready, which may train or download them, and try every metric on two real samples. Raises
        ValueError where a metric cannot be of such data, FileNotFoundError for an extractor's file."""
        by_fingerprint: dict[str, tuple[Extractor, list[FeatureMetric]]] = {}
        for metric in self.metrics:
            if metric.requires_labels and not self.labelled:
                raise ValueError(f"{metric.names[0]}: is of samples that were asked for by class: model=cdcgan, acgan or cgan")
            metric.to(self.data.x.device)  # from where another measurement has left it
            metric.setup(self.data)
            by_fingerprint.setdefault(metric.features.fingerprint, (metric.features, []))[1].append(metric)
        self.groups = list(by_fingerprint.values())
        self.order = self.data.order(self.num)
        for extractor, metrics in self.groups:
            outputs = extractor(to_float(self.data.take(self.order[:2])))
            for metric in metrics:
                have = {"real": len(self.order), "fake": self.num}
                for side in metric.kinds:
                    if have[side] < metric.min_samples:
                        raise ValueError(
                            f"{metric.name}: {have[side]:,} {KINDS[side]} samples; at least {metric.min_samples:,} are needed"
                        )
                if metric.output not in outputs:
                    raise ValueError(f"{metric.names[0]}: {extractor.name} gives no {metric.output}; take extractor=classifier")
                metric.update(outputs[metric.output], real=True, y=self.data.y[self.order[:2]])
                metric.reset()

    def measure(
        self, sample: Sampler, device: torch.device, rank: int = 0, ranks: int = 1, show: str | None = None
    ) -> tuple[dict[str, float], dict[str, str]]:
        """The values, and of metrics that have none, why. The ranks share the work and get the same values.

        `show`: the name of a progress bar; null shows none.
        """
        where = summing(device)
        for extractor, metrics in self.groups:
            for metric in metrics:
                metric.to(where).reset()
            extractor.to(device)  # one that belongs to the metric went with it
            self.see_real(extractor, metrics, device, chunks(len(self.order), rank, ranks))
        parts = chunks(self.num, rank, ranks)
        for part in tqdm(parts or [ONE], desc=show, disable=None if show else True, leave=False):
            x, y = sample(part)
            if x.ndim == 4:
                x = to_float(to_uint8(x)).where(x.isfinite(), x)
            for extractor, metrics in self.groups:
                see(extractor(x), y, metrics, real=False, none=not parts)
        values: dict[str, float] = {}
        failed: dict[str, str] = {}
        for metric in self.metrics:
            try:
                values |= {name: float(value) for name, value in metric.compute().items()}
            except ValueError as error:
                failed[metric.name] = str(error)
        return values, failed

    # -- the real side -----------------------------------------------------------------------------------------------

    def see_real(self, extractor: Extractor, metrics: Sequence[FeatureMetric], device: torch.device, parts: list[slice]) -> None:
        looking = [metric for metric in metrics if "real" in metric.kinds]
        if not looking:
            return
        kept = {}
        if extractor.costly and parts:
            for output in {metric.output for metric in looking}:
                kept[output] = self.kept(extractor, output, device, parts)
        for part in parts or [ONE]:
            y = self.data.y[self.order[part]].to(device) if self.labelled else None  # as many kinds on both sides
            here = slice(part.start - parts[0].start, part.stop - parts[0].start) if parts else ONE
            outputs = {name: torch.from_numpy(np.array(f[here])) for name, f in kept.items()}
            see(outputs or extractor(self.real(part, device)), y, looking, real=True, none=not parts)

    def kept(self, extractor: Extractor, output: str, device: torch.device, parts: list[slice]) -> np.ndarray:
        """The real features of these parts [N, …], from the cache or put into it."""
        key = hash_of(self.real_hash, extractor.fingerprint, output, parts[0].start, parts[-1].stop)
        file = cache_folder() / "features" / f"{extractor.name}-{key}.npy"
        if file.is_file():
            try:
                features = np.load(file, mmap_mode="r")
                if len(features) != parts[-1].stop - parts[0].start:
                    raise ValueError(f"it holds {len(features)} samples")
                log.info("features of the real images: read from %s", file)
                return features
            except (ValueError, OSError, EOFError) as error:
                log.warning("%s is damaged and made anew: %s", file, error)
        seen = tqdm(parts, desc=f"real images through {extractor.name}", disable=None, leave=False)
        features = np.concatenate([extractor(self.real(part, device))[output].cpu().numpy() for part in seen])
        replace(file, lambda opened: np.save(opened, features))
        log.info("features of the real images: written to %s", file)
        return features

    def real(self, part: slice, device: torch.device) -> Tensor:
        return to_float(self.data.take(self.order[part]).to(device))

    @cached_property
    def real_hash(self) -> str:
        """Of the real samples that are compared with."""
        if len(self.order) == len(self.data.x):
            return self.data.fingerprint
        return content_hash(self.data.take(self.order), self.data.y[self.order])

    # -- what a value depends on -------------------------------------------------------------------------------------

    def protocols(self, ema: bool | None) -> dict[str, dict[str, Any]]:
        """For every value's name all that it depends on beside the samples themselves, and a short hash of that as `fingerprint`.

        `ema`: whether the samples are those of an averaged generator; null where nobody knows.
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
                "ema": ema,
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
            protocol["fingerprint"] = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
            protocols |= {f"{name}/{metric.features.name}": protocol for name in metric.names}
        return protocols


def see(outputs: dict[str, Tensor], y: Tensor | None, metrics: Sequence[FeatureMetric], real: bool, none: bool) -> None:
    """`none`: of these samples: a rank with no part must still know the features' shape, which the others gather."""
    for metric in metrics:
        features, labels = outputs[metric.output].to(metric.device), None if y is None else y.to(metric.device)
        metric.update(features[:0] if none else features, real, labels if labels is None or not none else labels[:0])


@lru_cache
def summing(device: torch.device) -> torch.device:
    """Where the metrics of what a device computes are: they sum in float64, which Apple's GPUs lack. Said once."""
    if device.type != "mps":
        return device
    log.warning("metrics: computed on the CPU, in float64, which the device mps does not have")
    return torch.device("cpu")


def chunks(n: int, rank: int = 0, ranks: int = 1) -> list[slice]:
    """This rank's part of range(n) in slices of at most CHUNK; the slices are the same for any number of ranks."""
    size = min(CHUNK, -(-n // 8))
    every = [slice(i, min(i + size, n)) for i in range(0, n, size)]
    return every[len(every) * rank // ranks : len(every) * (rank + 1) // ranks]


def samples_of(system: System) -> Sampler:
    """Samples that depend on the weights alone; the random state is left as it was: measuring more often changes nothing."""

    def sample(part: slice) -> tuple[Tensor, Tensor | None]:
        with seeded(part.start, system.device):
            y = system.sample_labels(part.stop - part.start)
            return system.sample(len(y), y), y if system.classes else None

    return sample


def images_of(data: DataModule, device: torch.device) -> Sampler:
    """The images of a data module, in their order."""

    def sample(part: slice) -> tuple[Tensor, Tensor | None]:
        return to_float(data.take(torch.arange(part.start, part.stop)).to(device)), data.y[part].to(
            device
        ) if data.classes else None

    return sample
