"""The nearest training samples of a run's samples, for its report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ganexp.data.module import DataModule
from ganexp.images import to_float
from ganexp.latent_space import drawing
from ganexp.latent_space.neighbours import neighbours
from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import FeatureMetric
from ganexp.model import Model
from ganexp.report.run import Neighbours

SAMPLES, NEAREST = 6, 5  # rows; nearest training samples in each
MOST = 5000  # maximum number of training samples to search
MOST_VALUES = 50_000_000  # maximum number of values in them


def feature_extractor(metrics: Sequence[FeatureMetric]) -> Extractor:
    """Returns the extractor to find neighbours with, one of the run's metrics: the first costly one, whose features of real
    images are cached already, or else the first."""
    return next((m.features for m in metrics if m.features.costly), metrics[0].features)


def find_neighbours(model: Model, data: DataModule, extractor: Extractor, num_real: int) -> Neighbours | str:
    """Returns the nearest training images of some samples, or why there are none. `num_real`: maximum number of training images
    to search, limited by MOST and MOST_VALUES."""
    if len(data.shape) != 3:
        return "the samples are points"
    num_real = min(num_real, MOST, MOST_VALUES // math.prod(data.shape), len(data.x))
    if num_real <= NEAREST:
        return f"there are only {num_real} training samples"
    try:
        found = neighbours(model, SAMPLES, NEAREST, num_real, extractor=extractor, data=data)
    except (ValueError, RuntimeError, OSError) as error:
        return str(error)
    if not found.distances.isfinite().all():
        return "the samples are not finite"
    real = to_float(data.take(found.numbers.flatten())).unflatten(0, (-1, NEAREST))
    picture = drawing.sheet(torch.cat([found.samples[:, None].cpu(), real.cpu()], 1), None, "")
    assert picture is not None  # of images there is always one
    numbers = found.summary()
    return Neighbours(
        picture,
        f"Each row has a sample of step {model.step:,}, followed by the {NEAREST} nearest of {numbers['real']:,} training "
        f"samples by the distance of {found.extractor} features. Median distance {numbers['median_distance']:.4g}; of training "
        f"samples to each other {numbers['median_real_distance']:.4g}. Much nearer would mean copies.",
    )
