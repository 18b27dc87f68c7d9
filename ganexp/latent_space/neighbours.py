"""The nearest training samples of generated ones: has the model memorised its data?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganexp.data.module import DataModule
from ganexp.images import to_float, to_uint8
from ganexp.latent_space.codes import MOST, TrainedModel, check_number, from_prior, render
from ganexp.latent_space.real import ready, real_features, training_data
from ganexp.metrics.features import Extractor


class Neighbours(NamedTuple):
    """`samples` [N, *shape]; `numbers` [N, k] of their nearest real samples in the data, nearest first, at `distances` [N, k];
    `real_distances` [M]: of each real sample to its nearest other one, in the same space, which `extractor` names."""

    samples: Tensor
    numbers: Tensor
    distances: Tensor
    real_distances: Tensor
    extractor: str

    def summary(self) -> dict[str, Any]:
        """Numbers for a file. `closer_than_real`: the fraction of samples that are nearer to a real one than all but the nearest
        1 % of real samples are to each other: about 0.01 if samples are like new real ones, near 1 if they are copies."""
        nearest, real = self.distances[:, 0], self.real_distances
        return {
            "extractor": self.extractor,
            "real": len(real),
            "median_distance": float(nearest.median()),
            "median_real_distance": float(real.median()),
            "closer_than_real": float((nearest < real.quantile(0.01)).float().mean()),
            "neighbours": [
                {"numbers": numbers, "distances": [round(d, 6) for d in distances]}
                for numbers, distances in zip(self.numbers.tolist(), self.distances.tolist(), strict=True)
            ],
        }


def nearest(queries: Tensor, keys: Tensor, k: int, same: bool = False) -> tuple[Tensor, Tensor]:
    """The k nearest rows of keys [M, D] for each of queries [N, D]: their distances [N, k], in ascending order, and numbers
    [N, k]. `same`: the queries are the keys, and none is its own neighbour.

    Candidates are found by a matrix product, whose rounding hides small distances; theirs are then computed exactly.
    """
    mean = keys.mean(0)
    queries, keys = (queries - mean).float(), (keys - mean).float()
    distances, numbers = [], []
    for i in range(0, len(queries), 256):
        part = queries[i : i + 256]
        apart = torch.cdist(part, keys)
        if same:
            apart[torch.arange(len(part)), torch.arange(i, i + len(part))] = float("inf")
        found = apart.topk(min(k + 4, len(keys) - same), largest=False).indices
        exact = (part[:, None] - keys[found]).square().sum(2).sqrt()
        order = exact.sort(dim=1, stable=True)
        distances.append(order.values[:, :k])
        numbers.append(found.gather(1, order.indices)[:, :k])
    return torch.cat(distances), torch.cat(numbers)


class RealFeatures:
    """The features of at most `num` real samples, two or more. `extractor`: null is that of extractor=auto."""

    def __init__(self, data: DataModule, num: int, device: torch.device, extractor: Extractor | None = None):
        self.extractor, self.device = ready(extractor, data, device), device
        self.features, self.order = real_features(data, self.extractor, num, device)
        self.distances = nearest(self.features, self.features, 1, same=True)[0][:, 0]

    @torch.no_grad()
    def neighbours(self, samples: Tensor, k: int) -> Neighbours:
        """The k nearest real samples of each of samples [N, *shape]; images are rounded to 256 levels first. Raises ValueError
        for a k that is out of range."""
        check_number("k", k, 1, min(100, len(self.order) - 1))
        seen = to_float(to_uint8(samples)) if samples.ndim == 4 else samples
        fake = torch.cat([self.extractor(part.to(self.device))["features"].cpu() for part in seen.split(64)])
        distances, numbers = nearest(fake, self.features, k)
        return Neighbours(samples, self.order[numbers], distances, self.distances, self.extractor.name)


@torch.no_grad()
def neighbours(
    model: TrainedModel,
    n: int = 8,
    k: int = 7,
    num_real: int = 10_000,
    labels: Sequence[int] | None = None,
    seed: int = 0,
    extractor: Extractor | None = None,
    data: DataModule | None = None,
    samples: Tensor | None = None,
) -> Neighbours:
    """The k nearest of at most `num_real` training samples for each of n generated ones, by the distance of their features.

    `extractor`: null is that of extractor=auto. `data`: null is the model's own. `samples` [N, *shape]: instead of n from the
    prior. Raises ValueError for more neighbours than there are real samples, and what loading the data raises.
    """
    check_number("num", n, 1, MOST)
    data = training_data(model) if data is None else data
    check_number("num_real", num_real, 2, 10**7)
    check_number("k", k, 1, min(100, min(num_real, len(data.x)) - 1))
    if samples is None:
        samples = render(model, from_prior(model, n, seed, labels, "z"))
    return RealFeatures(data, num_real, model.device, extractor).neighbours(samples.cpu(), k)
