"""A direction of a latent space for an attribute of the data, such as a class, found from labels or with a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ganexp.data.module import DataModule
from ganexp.latent_space.codes import (
    Space,
    TrainedModel,
    check_choice,
    check_number,
    chosen_space,
    from_prior,
    has_w,
    render,
)
from ganexp.latent_space.neighbours import nearest
from ganexp.latent_space.real import ready, training_data
from ganexp.metrics.classifier import Classifier
from ganexp.metrics.features import Extractor
from ganexp.metrics.lite0 import Lite0

Source = Literal["labels", "classifier"]
Score = Callable[[Tensor], Tensor]  # samples [N, *shape] to [N]: large where they have the attribute
NEIGHBOURS = 10  # real points whose labels classify a point


class Attribute(NamedTuple):
    """`direction` [D], of unit length, in a `space`; towards it samples have the attribute more. `unit`: the codes' standard
    deviation along it. `accuracy`: how well it tells codes with and without the attribute apart, of those it was not fitted
    to; 0.5 is chance."""

    direction: Tensor
    unit: float
    space: Space
    source: Source
    accuracy: float

    def summary(self) -> dict[str, Any]:
        return {"space": self.space, "source": self.source, "accuracy": self.accuracy, "unit": self.unit,
                "direction": self.direction.tolist()}  # fmt: skip


def scorer(model: TrainedModel, data: DataModule, attribute: int) -> Score:
    """How much a sample looks like the class `attribute`: of labelled images by a classifier of the data's labels, of labelled
    points by the fraction of its 10 nearest real points, of other images in colour by Lite0, whose classes are ImageNet's 1,000.

    Raises ValueError for data without labels that are grey, and for a class that there is not.
    """
    image = len(data.shape) == 3
    if data.classes > 1:
        check_number("attribute", attribute, 0, data.classes - 1)
        if not image:
            real, y = data.real_and_labels(10_000)
            return lambda x: (y[nearest(x.cpu(), real, NEIGHBOURS)[1]] == attribute).float().mean(1)
        if data.labels_by_channel:
            raise ValueError("attribute: a label for each channel is no class of the whole image")
        network: Extractor = Classifier()
    elif image and data.shape[0] >= 3:
        check_number("attribute", attribute, 0, 999)
        network = Lite0()
    else:
        raise ValueError("attribute: the data has no labels, and only colour images have ImageNet's classes")
    network = ready(network, data, model.device)
    return lambda x: F.log_softmax(network(x.to(model.device))["logits"], -1)[:, attribute].cpu()


def chosen_source(model: TrainedModel, space: Space, source: Source | None) -> Source:
    """Null: labels where there is an encoder, otherwise a classifier. Raises ValueError where labels say nothing."""
    check_choice("source", source, (None, "labels", "classifier"))
    encodes = hasattr(model.system, "encoder") and space == "z"
    if source == "labels" and not encodes and not (has_w(model) and space == "w" and model.classes):
        raise ValueError("source: labels requires an encoder, or w of a conditional model; choose classifier")
    return source or ("labels" if encodes else "classifier")


def two_sides(
    model: TrainedModel, data: DataModule, attribute: int, space: Space, source: Source, n: int, seed: int, extremes: float,
    labels: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Codes [A, D] with the attribute and [B, D] without it."""
    if source == "labels" and space == "z":
        return encoded_sides(model, data, attribute, n)
    codes = from_prior(model, n, seed, labels, space)
    vectors = (codes.x if space == "z" else codes.x[:, 0]).cpu()
    if source == "labels":
        return vectors[(codes.y == attribute).cpu()], vectors[(codes.y != attribute).cpu()]
    score = scorer(model, data, attribute)
    scores = torch.cat([score(part) for part in render(model, codes).split(256)])
    order = within_class(scores, codes.y.cpu()).argsort(stable=True)
    side = max(2, int(n * extremes))
    return vectors[order[-side:]], vectors[order[:side]]


def within_class(scores: Tensor, y: Tensor) -> Tensor:
    """Scores [N] less their mean over all samples of the same class y [N]: the class is asked for, it is not in the code."""
    sums, counts = torch.zeros(int(y.max()) + 1), y.bincount()
    return scores - (sums.index_add_(0, y, scores.float()) / counts.clamp(min=1))[y]


def encoded_sides(model: TrainedModel, data: DataModule, attribute: int, n: int) -> tuple[Tensor, Tensor]:
    """The means of z of n real samples with the label, and of those without it."""
    x, y = data.real_and_labels(n)
    wanted = y.to(model.device)
    means = [model.encode(x[i : i + 256], wanted[i : i + 256] if model.classes else None).cpu() for i in range(0, len(x), 256)]
    codes = torch.cat(means)
    return codes[y == attribute], codes[y != attribute]


@torch.no_grad()
def attribute(
    model: TrainedModel,
    attribute: int,
    space: Space | None = None,
    source: Source | None = None,
    n: int = 2000,
    extremes: float = 0.1,
    labels: Sequence[int] | None = None,
    seed: int = 0,
    data: DataModule | None = None,
) -> Attribute:
    """The direction towards the class `attribute` of the data: the normal of a linear support vector machine between codes with
    and without it (InterFaceGAN: Shen et al. 2020, arXiv:1907.10786, section 3.1).

    `source`: labels, the codes that an encoder gives for n real samples, or the w of the classes; classifier, the `extremes` of n
    samples with the highest and the lowest score (see `scorer`); null: labels where there is an encoder. `labels`: the classes
    asked of a conditional model. Raises ValueError for an attribute that the data does not have, or one without samples.
    """
    space, source = check_attribute(model, space, source, n, extremes)
    data = training_data(model) if data is None else data
    if source == "labels":
        if data.classes < 2:
            raise ValueError("source: the data has no labels")
        check_number("attribute", attribute, 0, data.classes - 1)
    sides = two_sides(model, data, attribute, space, source, n, seed, extremes, labels)
    if min(len(side) for side in sides) < 4:
        with_it, without = map(len, sides)
        raise ValueError(
            f"num: of {n} samples {with_it} have the attribute and {without} do not; at least 4 of each are required"
        )
    return fitted(sides[0], sides[1], space, source)


def check_attribute(
    model: TrainedModel, space: Space | None, source: Source | None, n: int, extremes: float
) -> tuple[Space, Source]:
    """The chosen space and source. Raises ValueError for numbers out of range, and for what the model does not have."""
    check_number("num", n, 20, 100_000)
    check_number("extremes", extremes, 0.001, 0.5)
    found = chosen_space(model, space)
    return found, chosen_source(model, found, source)


def fitted(present: Tensor, absent: Tensor, space: Space, source: Source) -> Attribute:
    """The boundary of codes [A, D] and [B, D], fitted to four fifths of each and tested on the rest."""
    from sklearn.svm import LinearSVC  # a second to import: only for who asks

    codes = torch.cat([present, absent]).double()
    has = torch.cat([torch.ones(len(present)), torch.zeros(len(absent))]).long()
    mean, std = codes.mean(0), codes.std(0).clamp(min=1e-8)
    rank = torch.cat([torch.arange(len(present)), torch.arange(len(absent))])
    test = rank % 5 == 4
    scaled = ((codes - mean) / std).numpy()
    machine = LinearSVC(C=0.01, class_weight="balanced", random_state=0, dual=False)
    machine.fit(scaled[~test.numpy()], has[~test].numpy())
    named = torch.from_numpy(machine.predict(scaled[test.numpy()])) if bool(test.any()) else torch.empty(0)
    right = named == has[test]
    sides = [right[has[test] == side].double().mean() for side in (0, 1)]
    direction = F.normalize(torch.from_numpy(machine.coef_[0]) / std, dim=0)  # of the codes as they are
    unit = float((codes @ direction).std())
    return Attribute(direction.float(), unit, space, source, float(sum(sides) / 2))
