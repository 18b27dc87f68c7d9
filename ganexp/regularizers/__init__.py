"""Regularizers: terms that D or G minimizes in addition to the adversarial loss.

`every`: apply at every n-th update, multiplied by n (lazy regularization, Karras et al. 2020, arXiv:1912.04958, section 3.1).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.augment import Crop, Flip
from ganexp.round import Round

Player = Literal["discriminator", "generator"]


class Term(nn.Module):
    """Computes a scalar that `player` minimizes from one Round, or None to contribute nothing yet.

    Buffers are state, moved and checkpointed with the system; change them in training mode only. `differentiable`: the kinds of
    images ("real", "fake") at which the term needs D's gradient, so that it can share the loss's forward pass. `second_order`:
    the term contains a gradient; torch can differentiate compiled networks and synchronized batch norm only once, so it does
    without them. `min_samples`: the smallest micro-batch. `weight` may be annealed: read it at every call. Raises ValueError for
    a negative weight or `every` below 1.
    """

    player: Player = "discriminator"
    differentiable: ClassVar[tuple[str, ...]] = ()
    second_order: ClassVar[bool] = False
    min_samples: ClassVar[int] = 1

    def __init__(self, weight: float = 1.0, every: int = 1):
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight: must be at least 0, got {weight}")
        if every < 1:
            raise ValueError(f"every: must be at least 1, got {every}")
        self.weight, self.every = weight, every

    def forward(self, round: Round) -> Tensor | None:
        raise NotImplementedError


class R1(Term):
    """weight / 2 · |grad D(x)|² at real images (Mescheder et al. 2018, arXiv:1801.04406, equation 9)."""

    differentiable = ("real",)
    second_order = True

    def forward(self, round: Round) -> Tensor:
        return self.weight / 2 * round.gradient("real").square().sum(1).mean()


class R2(Term):
    """weight / 2 · |grad D(x)|² at fake images (same paper, equation 10)."""

    differentiable = ("fake",)
    second_order = True

    def forward(self, round: Round) -> Tensor:
        return self.weight / 2 * round.gradient("fake").square().sum(1).mean()


class WGANGP(Term):
    """weight · (|grad D(x)| - 1)² between real and fake (Gulrajani et al. 2017, arXiv:1704.00028, equation 3)."""

    second_order = True

    def __init__(self, weight: float = 10.0, every: int = 1):
        super().__init__(weight, every)

    def forward(self, round: Round) -> Tensor:
        mix = torch.rand(len(round.real), *[1] * (round.real.ndim - 1), device=round.real.device)
        return self.weight * (round.gradient_at(torch.lerp(round.real, round.fake, mix)).norm(dim=1) - 1).square().mean()


class AuxiliaryClassifier(Term):
    """Cross-entropy of D's class logits (ACGAN, Odena et al. 2017, arXiv:1610.09585, section 3).

    D minimizes it over real and fake images, G over its fakes. The target is the image's label; if D has `classes` + 1 class
    logits, D's target for fakes is the additional class "generated" instead. `classes`: number of classes of the data. Raises
    ValueError if D has another number of class logits.
    """

    def __init__(self, player: Player, classes: int | None, weight: float = 1.0):
        super().__init__(weight)
        if not classes:
            raise ValueError("classes: an auxiliary classifier needs data with classes, such as data=mnist")
        self.player, self.classes = player, classes

    def forward(self, round: Round) -> Tensor:
        if self.player == "generator":
            return self.weight * F.cross_entropy(self.class_logits(round, "fake"), round.y)
        losses = []
        for kind in ("real", "fake"):
            logits = self.class_logits(round, kind)
            generated = kind == "fake" and logits.shape[1] == self.classes + 1
            target = torch.full_like(round.y, self.classes) if generated else round.y
            losses.append(F.cross_entropy(logits, target))
            round.scalars[f"accuracy/{kind}"] = (logits.argmax(1) == target).float().mean()
        return self.weight * (losses[0] + losses[1]) / 2

    def class_logits(self, round: Round, kind: str) -> Tensor:
        logits = round.output(kind).classes
        if logits is None or logits.shape[1] not in (self.classes, self.classes + 1):
            count = 0 if logits is None else logits.shape[1]
            raise ValueError(
                f"the discriminator has {count} class logits; set model.discriminator.auxiliary to {self.classes}, "
                f'or to {self.classes + 1} to add a class "generated"'
            )
        return logits


class DRAGAN(Term):
    """weight · (|grad D(x + a d)| - 1)² around real images, with d = std(x) / 2 · U(0, 1) per pixel and a ~ U(0, 1) per image
    (Kodali et al. 2017, arXiv:1705.07215, section 3.2)."""

    second_order = True

    def __init__(self, weight: float = 10.0, every: int = 1):
        super().__init__(weight, every)

    def forward(self, round: Round) -> Tensor:
        real = round.real.detach()
        noise = real.std() / 2 * torch.rand_like(real)
        mix = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
        return self.weight * (round.gradient_at(real + mix * noise).norm(dim=1) - 1).square().mean()


class LeCam(Term):
    """weight · (E max(0, D(x) - f)² + E max(0, r - D(G(z)))²), where r and f are moving averages of D's mean logits on real and
    on fake images (Tseng et al. 2021, arXiv:2104.03310, section 3.2).

    `decay`: of the averages, in [0, 1). `start`: number of updates of D before the term is active; until then the averages are
    the current means. With model.accumulate each micro-batch counts as an update; of several processes, the first one's
    means are used.
    """

    def __init__(self, weight: float = 0.3, every: int = 1, decay: float = 0.99, start: int = 1000):
        super().__init__(weight, every)
        if not 0 <= decay < 1:
            raise ValueError(f"decay: must be in [0, 1), got {decay}")
        if start < 0:
            raise ValueError(f"start: must be at least 0, got {start}")
        self.decay, self.start = decay, start
        self.means: Tensor
        self.updates: Tensor
        self.register_buffer("means", torch.zeros(2))  # real, fake
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, round: Round) -> Tensor | None:
        real, fake = round.output("real").logits, round.output("fake").logits
        updates = int(self.updates)
        active = updates >= self.start
        if self.training:
            current = torch.stack([real.detach().mean(), fake.detach().mean()])
            self.means.lerp_(current, 1 - self.decay if active and updates else 1.0)
            self.updates += self.every
        if not active:
            return None
        r, f = self.means.clone()  # the graph holds these; the buffer is changed in place
        return self.weight * (F.relu(real - f).square().mean() + F.relu(r - fake).square().mean())


class Consistency(Term):
    """weight · E (D(x) - D(T x))² over real images, plus the same over fakes with `fake_weight`; T is a random flip and shift.

    Consistency regularization (CR, Zhang et al. 2020, arXiv:1910.12027) has fake_weight = 0, its balanced version (bCR, Zhao et
    al. 2021, arXiv:2002.04724, section 3.1) fake_weight = weight. Raises ValueError for data other than images.
    """

    def __init__(self, weight: float = 10.0, fake_weight: float = 0.0, every: int = 1):
        super().__init__(weight, every)
        if fake_weight < 0:
            raise ValueError(f"fake_weight: must be at least 0, got {fake_weight}")
        self.fake_weight = fake_weight
        self.transform = nn.Sequential(Flip(0.5), Crop(0.125))

    def forward(self, round: Round) -> Tensor:
        real = self.weight * self.difference(round, "real")
        return real + self.fake_weight * self.difference(round, "fake") if self.fake_weight else real

    def difference(self, round: Round, kind: str) -> Tensor:
        transformed = round.score(self.transform(round.images[kind].detach()))
        return (round.output(kind).logits - transformed.logits).square().mean()


class LatentConsistency(Term):
    """Latent consistency regularization with z' = z + `sigma` · N(0, 1) (zCR, Zhao et al. 2021, arXiv:2002.04724, section 3.2).

    D minimizes weight · E (D(G(z)) - D(G(z')))², G minimizes -weight · the mean squared difference between G(z) and G(z').
    Raises ValueError for a generator that mixes styles: its images differ even for equal z.
    """

    def __init__(self, player: Player, weight: float, sigma: float = 0.05, every: int = 1):
        super().__init__(weight, every)
        if sigma <= 0:
            raise ValueError(f"sigma: must be above 0, got {sigma}")
        self.player, self.sigma = player, sigma

    def forward(self, round: Round) -> Tensor:
        if getattr(round.generator, "mixing", 0):
            raise ValueError("zcr compares images that differ in z only; set model.generator.mixing=0")
        perturbed = round.z + self.sigma * torch.randn_like(round.z)
        if self.player == "generator":
            return -self.weight * (round.fake - round.generator(perturbed, round.y)).square().mean()
        with torch.no_grad():
            fake = round.generator(perturbed, round.y)
        return self.weight * (round.output("fake").logits - round.score(fake).logits).square().mean()


class PathLength(Term):
    """weight · E (|J| - a)², where |J| is the norm of the gradient of <G(w), noise> with respect to w, and a its moving average
    (Karras et al. 2020, arXiv:1912.04958, section 3.2).

    w is [n, dim], or [n, layers, dim] with the mean over layers, if the generator has `map` and `synthesize`; else z is used.
    `fraction`: computed on this fraction of the batch, since it is costly. `decay`: of the moving average; of several processes,
    the first one's lengths are averaged.
    """

    player = "generator"
    second_order = True

    def __init__(self, weight: float = 2.0, every: int = 4, decay: float = 0.99, fraction: float = 0.5):
        super().__init__(weight, every)
        if not 0 <= decay < 1:
            raise ValueError(f"decay: must be in [0, 1), got {decay}")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: must be in (0, 1], got {fraction}")
        self.decay, self.fraction = decay, fraction
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, round: Round) -> Tensor:
        n = max(2, int(len(round.z) * self.fraction))  # batch norm needs two samples
        z, y, generator = round.z[:n], round.y[:n], round.generator
        if hasattr(generator, "synthesize"):
            w = generator.map(z, y)  # type: ignore[operator]
            x = generator.synthesize(w)  # type: ignore[operator]
        else:
            w = z.detach().requires_grad_()
            x = generator(w, y)
        noise = torch.randn_like(x) / torch.tensor(x.shape[2:]).prod().sqrt().item()
        (jacobian,) = torch.autograd.grad((x * noise).sum(), w, create_graph=True)
        squares = jacobian.square().sum(-1)
        lengths = (squares.mean(1) if squares.ndim > 1 else squares).clamp(min=1e-12).sqrt()  # sqrt has no gradient at 0
        if self.training:
            self.mean.lerp_(lengths.detach().mean(), 1 - self.decay)
        round.scalars["path_length"] = lengths.mean()
        return self.weight * (lengths - self.mean.clone()).square().mean()
