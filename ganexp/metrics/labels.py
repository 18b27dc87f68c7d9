"""Metrics on a classifier's logits: the Inception score, and the accuracy of conditional models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganexp.metrics.features import Extractor
from ganexp.metrics.metric import CachedFeatures, FeatureMetric


class InceptionScore(CachedFeatures):
    """exp of the mean KL divergence of a sample's class probabilities from those of all samples (Salimans et al. 2016,
    arXiv:1606.03498, section 4): `is`, from 1 to the number of classes, higher is better; `is_sd`, the standard deviation over
    `splits` parts of the samples.

    Real samples are not used. Raises ValueError for fewer samples than splits.
    """

    names = ("is", "is_sd")
    higher_is_better = True
    output = "logits"
    kinds = ("fake",)

    def __init__(self, features: Extractor, splits: int = 10):
        super().__init__(features)
        if splits < 1:
            raise ValueError(f"splits: must be at least 1, got {splits}")
        self.splits = self.min_samples = splits

    @property
    def settings(self) -> dict[str, Any]:
        return {"splits": self.splits}

    def values(self) -> Sequence[Tensor]:
        logits = self.cached("fake").double()
        n = len(logits)
        logits = logits[np.random.RandomState(2020).permutation(n)]  # shuffled as in torch-fidelity
        scores = []
        for k in range(self.splits):
            log_p = logits[k * n // self.splits : (k + 1) * n // self.splits].log_softmax(1)
            p = log_p.exp()
            scores.append((p * (log_p - p.mean(0).log())).sum(1).mean().exp())
        return [torch.stack(scores).mean(), torch.stack(scores).std(correction=0)]


class Accuracy(FeatureMetric):
    """The fraction of samples that a classifier assigns to the requested class, from 0 to 1. For conditional models only."""

    names = ("accuracy",)
    higher_is_better = True
    output = "logits"
    kinds = ("fake",)
    requires_labels = True
    correct: Tensor
    fake_count: Tensor

    def __init__(self, features: Extractor):
        super().__init__(features)
        self.add_state("correct", torch.zeros((), dtype=torch.int64), "sum")

    def add(self, features: Tensor, kind: str, y: Tensor | None) -> None:
        assert y is not None
        self.correct = self.correct + (predicted_labels(features) == y).sum()

    def values(self) -> Sequence[Tensor]:
        return [self.correct / self.fake_count]


def predicted_labels(logits: Tensor) -> Tensor:
    """Logits [N, classes] -> labels [N]; from [N, channels, classes], a number with one digit per channel."""
    digits = logits.argmax(-1)
    if digits.ndim == 1:
        return digits
    places = logits.shape[-1] ** torch.arange(digits.shape[1] - 1, -1, -1, device=logits.device)
    return (digits * places).sum(1)
