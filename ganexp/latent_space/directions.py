"""Directions of a latent space along which samples change most: SeFa and PCA; and strips of samples along a direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.latent_space.codes import (
    MOST,
    Codes,
    Space,
    TrainedModel,
    check_choice,
    check_number,
    chosen_space,
    from_prior,
    from_seeds,
    labels_in_turn,
    render,
    synthesize,
)

Method = Literal["sefa", "pca"]
W_SAMPLES = 10_000  # of w, for its mean and covariance


class Directions(NamedTuple):
    """Unit vectors [K, D] of a space, most important first. `values` [K]: eigenvalues of SeFa, variances of PCA. `units` [K]:
    how far a step of 1 goes: 1 for SeFa; for PCA of w one standard deviation."""

    vectors: Tensor
    values: Tensor
    units: Tensor
    space: Space


class Seen(NamedTuple):
    """A layer that sees the code itself: feature `features[i]` of its input is `scales[i]` times coordinate `coordinates[i]`."""

    layer: nn.Module
    shape: torch.Size
    features: Tensor
    coordinates: Tensor
    scales: Tensor


@torch.no_grad()
def first_layers(model: TrainedModel, space: Space, label: int = 0) -> list[Seen]:
    """The linear and convolutional layers whose input is the code, perhaps scaled, in parts, or beside what depends on the label
    alone: the first layer of most generators, the chunks' layers of BigGAN, the affine layers of StyleGAN for w.

    They are found by what they are given for three codes: each number that changes must be in proportion to one coordinate.
    """
    codes = from_prior(model, 3, 0, None if model.classes is None else [label], space)
    vectors = codes.x if space == "z" else codes.x[:, 0]  # all layers of w are alike
    found: list[Seen] = []

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if not isinstance(x, Tensor) or len(x) != 3 or x[0].numel() != x.shape[1]:
            return  # a map of more than one pixel
        flat = x.flatten(1)
        changing = ((flat - flat[:1]).abs() > 1e-7).any(0).nonzero()[:, 0]
        if not len(changing):
            return
        ratios, wanted = flat[1:, changing] / flat[:1, changing], vectors[1:] / vectors[:1]
        apart = ((ratios[:, :, None] - wanted[:, None]).abs() / (1 + wanted[:, None].abs())).amax(0)  # [changing, D]
        nearest = apart.min(1)
        if (nearest.values < 1e-4).all():
            coordinates = nearest.indices
            found.append(Seen(layer, x.shape[1:], changing, coordinates, flat[0, changing] / vectors[0, coordinates]))

    network: nn.Module = model.system.sampler
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        synthesize(model, codes)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def first_weights(model: TrainedModel, space: Space, label: int = 0) -> Tensor:
    """Of all first layers together, what they make of the code: [outputs, D], D the code's length. Raises ValueError where there
    is no such layer."""
    dim = from_prior(model, 1, 0, None, space).x.shape[-1]
    rows = []
    for seen in first_layers(model, space, label):
        basis = torch.zeros(len(seen.features) + 1, *seen.shape, device=model.device)
        basis[torch.arange(len(seen.features)), seen.features] = seen.scales.view(-1, *[1] * (len(seen.shape) - 1))
        answers = seen.layer(basis).flatten(1)
        weight = answers.new_zeros(dim, answers.shape[1])
        weight.index_add_(0, seen.coordinates, answers[:-1] - answers[-1:])
        rows.append(weight.T)
    if not rows:
        raise ValueError(f"space: no layer of this generator has {space} itself as its input; choose w, or another method")
    return torch.cat(rows)


def sefa(weights: Tensor, num: int, space: Space) -> Directions:
    """SeFa (Shen & Zhou 2021, arXiv:2007.06600, equation 5): eigenvectors of WᵀW by eigenvalue, each row of the weights
    W [outputs, D] of unit length."""
    w = F.normalize(weights.double(), dim=1)
    values, vectors = torch.linalg.eigh(w.T @ w)
    return ordered(values, vectors, torch.ones_like(values), num, space)


def pca_of_w(model: TrainedModel, num: int, seed: int, labels: Sequence[int] | None) -> Directions:
    """The principal components of 10,000 w (GANSpace: Härkönen et al. 2020, arXiv:2004.02546, section 2.1)."""
    w = from_prior(model, W_SAMPLES, seed, labels, "w").x[:, 0].double()
    values, vectors = torch.linalg.eigh(torch.cov(w.T))
    return ordered(values, vectors, values.clamp(min=0).sqrt(), num, "w")


def pca_of_features(weights: Tensor, num: int) -> Directions:
    """The directions of z that move the first features along their principal components (GANSpace, section 2.2).

    Features W z of z with unit variance have the covariance W Wᵀ, so that the directions are the right singular vectors of W:
    no samples are needed. The values are the features' variances.
    """
    w = weights.double()
    values, vectors = torch.linalg.eigh(w.T @ w)
    return ordered(values, vectors, torch.ones_like(values), num, "z")


def ordered(values: Tensor, vectors: Tensor, units: Tensor, num: int, space: Space) -> Directions:
    """The `num` largest of eigenvalues in ascending order; the largest coordinate of each vector is positive."""
    vectors = vectors.T.flip(0)[:num]
    signs = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    return Directions((vectors * signs).float(), values.flip(0)[:num].float(), units.flip(0)[:num].float(), space)


def directions(
    model: TrainedModel,
    method: Method = "sefa",
    num: int = 8,
    space: Space | None = None,
    labels: Sequence[int] | None = None,
    seed: int = 0,
) -> Directions:
    """At most `num` directions, the most important first.

    `method`: sefa, the directions that the generator's first layers, or its affine layers, amplify most; pca, the principal
    components of w, or of the first features where there is no w. `labels`: the classes whose w are looked at; of the first of
    them the first layers are. `seed`: of the w. Raises ValueError where no layer sees the code itself.
    """
    check_choice("method", method, ("sefa", "pca"))
    check_number("num", num, 1, MOST)
    space = chosen_space(model, space)
    label = int(labels_in_turn(model, 1, labels))
    if method == "pca" and space == "w":
        return pca_of_w(model, num, seed, labels)
    weights = first_weights(model, space, label).cpu()
    return sefa(weights, num, space) if method == "sefa" else pca_of_features(weights, num)


def moved(codes: Codes, direction: Tensor, amounts: Tensor) -> Codes:
    """Each of N codes moved by each of M amounts along a direction [D]: [N · M]."""
    step = direction.to(codes.x) * amounts.to(codes.x)[:, None]  # [M, D]
    x = codes.x[:, None] + (step if codes.space == "z" else step[:, None])
    return Codes(x.flatten(0, 1), codes.y.repeat_interleave(len(amounts), 0), codes.space)


def along(
    model: TrainedModel,
    direction: Tensor,
    seeds: Sequence[int] = (0, 1, 2, 3),
    labels: Sequence[int] | None = None,
    reach: float = 3.0,
    steps: int = 7,
    space: Space | None = None,
    truncation: float = 1.0,
) -> Tensor:
    """Samples [seeds, steps, *shape] along a direction [D] of a space, from −reach to reach times its length; the middle one of
    an odd number of steps is the seed's own. Raises ValueError for a direction of another length."""
    check_number("steps", steps, 2, MOST)
    check_number("steps", steps * len(seeds), 2, MOST)
    check_number("reach", reach, 0, 1000)
    codes = from_seeds(model, seeds, labels, space, truncation)
    if direction.shape != codes.x.shape[-1:]:
        raise ValueError(f"direction: must be [{codes.x.shape[-1]}], got {list(direction.shape)}")
    return render(model, moved(codes, direction, torch.linspace(-reach, reach, steps))).unflatten(0, (-1, steps))
