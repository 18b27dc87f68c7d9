"""The latent of a given picture, by gradient descent."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.data.module import DataModule
from ganexp.images import to_float
from ganexp.latent_space.codes import (
    Codes,
    TrainedModel,
    check_number,
    chosen_space,
    from_prior,
    has_w,
    render,
)
from ganexp.latent_space.real import ready, training_data
from ganexp.metrics.auto import AutoExtractor
from ganexp.metrics.features import Extractor, Pixels
from ganexp.metrics.lite0 import Lite0
from ganexp.progress import bar
from ganexp.systems.contexts import evaluating

Target = Literal["z", "w", "w+"]
STARTS = 1000  # samples among which the start is looked for
W_SAMPLES = 10_000  # of w, for its mean and deviation
SHOWN = 6  # stages of the search that are kept
Distance = Callable[[Tensor], Tensor]  # samples [N, *shape] to the distance [N] from the target


class Projection(NamedTuple):
    """`code`: z [dim], or w [layers, w_dim], and its class `label`. `stages` [S, *shape]: from the first sample of the search to
    the last, which is the result; `noise`: the generator's noise maps with which it is made. `distances`: by step, the whole
    loss; `mse`: of the result, per number; `start_mse`: where the search began."""

    target: Tensor
    code: Tensor
    space: Target
    label: int | None
    stages: Tensor
    noise: list[Tensor]
    distances: list[float]
    mse: float
    start_mse: float

    @property
    def picture(self) -> Tensor:
        """The result [*shape]."""
        return self.stages[-1]

    def summary(self) -> dict[str, Any]:
        return {
            "space": self.space,
            "label": self.label,
            "steps": len(self.distances),
            "start_mse": self.start_mse,
            "mse": self.mse,
            "distance": self.distances[-1],
        }


def rate(t: float) -> float:
    """The factor on the learning rate at t of the steps, in [0, 1]: up in the first 5 %, down as a cosine in the last 25 %."""
    return min(1.0, t / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25)))


def noise_scale(t: float, std: float) -> float:
    """The deviation of the noise on the code at t of the steps: 5 % of the codes' own, down to 0 after 75 % of the steps."""
    return std * 0.05 * max(0.0, 1 - t / 0.75) ** 2


def perceptual_features(extractor: Extractor, x: Tensor) -> Tensor:
    """Features [N, F] whose square distance is perceptual; differentiable in x [N, *shape].

    Of Lite0 its four maps, each pixel's channels of unit length, as LPIPS compares them (Zhang et al. 2018, arXiv:1801.03924,
    section 3, without its learned weights): a square distance is the sum over the maps of the mean over their pixels. Of other
    extractors the features, of unit length.
    """
    if isinstance(extractor, AutoExtractor):
        extractor = extractor.chosen
    if x.ndim == 4 and max(x.shape[2:]) > 256:
        factor = 256 / max(x.shape[2:])
        x = F.interpolate(x, size=[max(1, round(side * factor)) for side in x.shape[2:]], mode="area")
    if not isinstance(extractor, Lite0):
        features = extractor(x)["features"]
        return features if isinstance(extractor, Pixels) else F.normalize(features, dim=1)
    maps = [F.normalize(m, dim=1) / math.sqrt(m[0, 0].numel()) for m in extractor.maps(x)]
    return torch.cat([m.flatten(1) for m in maps], 1)


def distance_to(target: Tensor, extractor: Extractor, perceptual: float, pixels: float) -> Distance:
    """perceptual · square distance of the features + pixels · mean square difference, from the target [1, *shape]."""
    wanted = perceptual_features(extractor, target)

    def distance(x: Tensor) -> Tensor:
        found = pixels * (x - target).square().flatten(1).mean(1)
        return found + perceptual * (perceptual_features(extractor, x) - wanted).square().sum(1) if perceptual else found

    return distance


def roughness(noise: list[Tensor]) -> Tensor:
    """How far noise maps are from white: of each, and of its halves down to 8 px, the squares of the mean products with itself
    moved by one pixel (Karras et al. 2020, arXiv:1912.04958, appendix D)."""
    total = torch.zeros((), device=noise[0].device)
    for n in noise:
        while True:
            total = total + (n * n.roll(1, 3)).mean().square() + (n * n.roll(1, 2)).mean().square()
            if min(n.shape[2:]) <= 8:
                break
            n = F.avg_pool2d(n, 2)
    return total


def noise_maps(generator: nn.Module) -> dict[str, Tensor]:
    """The constant noise of StyleGAN's layers, by its name; of other generators nothing."""
    return {name: b for name, b in generator.named_buffers() if name.rpartition(".")[2] == "noise" and b.ndim == 4}


@contextmanager
def own_noise(model: TrainedModel) -> Iterator[tuple[Any, list[Tensor]]]:
    """A copy of the generator, in evaluation mode, whose noise maps can be learned, and these."""
    generator = copy.deepcopy(model.system.sampler).requires_grad_(False)
    noise = []
    for name in noise_maps(generator):
        module = generator.get_submodule(name.rpartition(".")[0])
        module.noise = module.noise.clone().requires_grad_()  # type: ignore[operator]
        noise.append(module.noise)
    with evaluating(generator):
        yield generator, noise


@torch.no_grad()
def best_start(model: TrainedModel, distance: Distance, seed: int, label: int | None) -> tuple[Tensor, int]:
    """Of 1,000 samples the nearest one: its z [1, dim] and its class."""
    found = from_prior(model, STARTS, seed, None if label is None else [label], "z")
    apart = torch.cat([distance(render_on(model, found, i)) for i in torch.arange(STARTS).split(50)])
    best = int(apart.argmin())
    return found.x[best : best + 1].clone(), int(found.y[best])


def render_on(model: TrainedModel, codes: Codes, i: Tensor) -> Tensor:
    return render(model, Codes(codes.x[i], codes.y[i], codes.space)).to(model.device)


def project(
    model: TrainedModel,
    target: Tensor | None = None,
    label: int | None = None,
    space: Target | None = None,
    steps: int = 1000,
    lr: float = 0.1,
    perceptual: float = 1.0,
    pixels: float = 1.0,
    seed: int = 0,
    extractor: Extractor | None = None,
    data: DataModule | None = None,
    number: int = 0,
) -> Projection:
    """The code whose sample is nearest to `target` [1, *shape] in [-1, 1]; without one, to the training sample `number`.

    As Karras et al. 2020 (arXiv:1912.04958, appendix D): Adam with β (0.9, 0.999), the learning rate and the noise on the code as
    in `rate` and `noise_scale`, StyleGAN's noise maps learned too and kept white. The distance is perceptual · that of the
    features (`perceptual_features`; `extractor` null: lite0 for images in colour, otherwise as extractor=auto) + pixels · mean
    square. `space`: z, w (one for all layers) or w+ (one for each); null: w+ where there is a w. A search in w starts from the
    mean of 10,000 w, one in z from the nearest of 1,000 samples, one with an encoder from its mean of z. `label`: null is the
    class of the nearest of 1,000 samples, or of the training sample itself. Raises ValueError for numbers out of range and for a
    target of another shape.
    """
    check_project(model, label, space, steps, lr, perceptual, pixels)
    data = training_data(model) if data is None else data
    if target is None:
        check_number("number", number, 0, len(data.x) - 1)
        target, label = training_sample(model, data, number, label)
    if tuple(target.shape[1:]) != tuple(model.shape) or len(target) != 1:
        raise ValueError(f"target: must be [1, {', '.join(map(str, model.shape))}], got {list(target.shape)}")
    if not target.isfinite().all():
        raise ValueError("target: must be finite")
    target = target.to(model.device)
    distance = distance_to(target, ready(extractor, data, model.device), perceptual, pixels)
    space = space or ("w+" if has_w(model) else "z")
    code, y, std = start(model, distance, target, label, space, seed)
    with own_noise(model) as (generator, noise):
        return descend(model, generator, noise, code, y, std, target, distance, space, steps, lr, seed)


def training_sample(model: TrainedModel, data: DataModule, number: int, label: int | None) -> tuple[Tensor, int | None]:
    """A training sample [1, *shape], and its class, unless another is given."""
    x = to_float(data.take(torch.tensor([number])))
    return x, int(data.y[number]) if label is None and model.classes else label


def check_project(
    model: TrainedModel, label: int | None, space: Target | None, steps: int, lr: float, perceptual: float, pixels: float
) -> None:
    """Raises ValueError for numbers out of range, a space or a class that is not there."""
    check_number("steps", steps, 1, 100_000)
    check_number("lr", lr, 1e-6, 10)
    check_number("perceptual", perceptual, 0, 1e6)
    check_number("pixels", pixels, 0, 1e6)
    if perceptual == pixels == 0:
        raise ValueError("pixels: must be above 0 if perceptual is 0")
    if space not in (None, "z", "w", "w+"):
        raise ValueError(f"space: must be z, w or w+, got {space}")
    if space is not None:
        chosen_space(model, "z" if space == "z" else "w")
    model.check_label(label)


@torch.no_grad()
def start(
    model: TrainedModel, distance: Distance, target: Tensor, label: int | None, space: Target, seed: int
) -> tuple[Tensor, int, float]:
    """Where the search begins: a code [1, …], its class, and the codes' deviation: the root of their mean square distance from
    their mean."""
    if hasattr(model.system, "encoder") and space == "z" and (label is not None or model.classes is None):
        return model.encode(target, label).clone(), label or 0, math.sqrt(model.latent.dim)
    z, y = best_start(model, distance, seed, label)
    if space == "z":
        return z, y, float(from_prior(model, W_SAMPLES, seed, None, "z").x.square().sum(1).mean().sqrt())
    w = from_prior(model, W_SAMPLES, seed, [y] if model.classes else None, "w").x
    mean = w[:, :1].mean(0, keepdim=True)  # [1, 1, w_dim]: one for all layers
    std = float((w[:, :1] - mean).square().sum(2).mean().sqrt())
    return mean.expand(1, w.shape[1] if space == "w+" else 1, -1).clone(), y, std


def descend(
    model: TrainedModel, generator: Any, noise: list[Tensor], code: Tensor, y: int, std: float, target: Tensor,
    distance: Distance, space: Target, steps: int, lr: float, seed: int,
) -> Projection:  # fmt: skip
    """Adam on the code and on the noise maps, from `start` on. `seed`: of the noise on the code."""
    labels = torch.tensor([y], device=model.device)
    layers = getattr(generator, "layers", 1)

    def sample(x: Tensor) -> Tensor:
        return (generator(x, labels) if space == "z" else generator.synthesize(x.expand(-1, layers, -1))).float()

    code, random = code.requires_grad_(), torch.Generator(model.device).manual_seed(seed)
    optimizer = torch.optim.Adam([code, *noise], lr, betas=(0.9, 0.999))
    with torch.no_grad():
        stages, distances = [sample(code)], []
    shown = {round(i * (steps - 1) / (SHOWN - 1)) for i in range(1, SHOWN - 1)}
    with torch.enable_grad():
        for step in bar(range(steps), "projecting"):
            optimizer.param_groups[0]["lr"] = lr * rate(step / steps)
            noised = torch.randn(code.shape, generator=random, device=code.device) * noise_scale(step / steps, std)
            x = sample(code + noised)
            loss = distance(x).sum()
            distances.append(loss.item())
            optimizer.zero_grad()
            (loss + 1e5 * roughness(noise) if noise else loss).backward()
            optimizer.step()
            with torch.no_grad():
                for n in noise:
                    n.sub_(n.mean()).mul_(n.square().mean().add(1e-12).rsqrt())
            if step in shown:
                stages.append(x.detach())
    with torch.no_grad():
        stages.append(sample(code))
    mses = [float((stage - target).square().mean()) for stage in (stages[0], stages[-1])]
    found = code.detach()[0].expand(layers, -1) if space == "w" else code.detach()[0]
    return Projection(
        target[0].cpu(), found.cpu(), space, y if model.classes else None, torch.cat(stages).cpu(),
        [n.detach().cpu() for n in noise], distances, mses[1], mses[0],
    )  # fmt: skip
