"""Terms on the maps inside D, or on what D decodes from them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ganexp.networks.efficientnet_lite import pretrained
from ganexp.networks.frozen import Frozen
from ganexp.regularizers import Term
from ganexp.round import Round

PLACES = 64  # random positions per map and step
WHOLE = 8  # px that whole maps are pooled to


class FeatureMatching(Term):
    """weight · the mean absolute difference between D's mean features of real and of fake images, minimized by G (Salimans et al.
    2016, arXiv:1606.03498, section 3.1). Raises ValueError if D returns no features."""

    player = "generator"

    def forward(self, round: Round) -> Tensor:
        real, fake = round.output("real").features, round.output("fake").features
        if not fake:
            raise ValueError("this discriminator returns no features; see ganexp.networks.output.Output")
        losses = [(r.detach().float().mean(0) - f.float().mean(0)).abs().mean() for r, f in zip(real, fake, strict=True)]
        return self.weight * torch.stack(losses).mean()


class SlicedFeatures(Term):
    """weight · the distance between the distributions of features in the fake and in the real batch, minimized by G. It keeps G
    diverse, and gives it a gradient from the first step on if D is pretrained.

    Features are D's maps [N, C, H, W] and the images at full size, half the size, and so on down to 8 px. Each is compared twice:
    at random positions (in images: patches of 5×5 px without their mean colour), projected on `directions` random directions,
    and as a whole, pooled to 8×8 and projected on 8 · `directions`. In one direction, W(a, b) is the mean squared difference of
    sorted projections (the squared sliced Wasserstein-2 distance; Deshpande et al. 2018, arXiv:1803.11188, section 3), and the
    distance is the mini-batch energy distance W(real, fake) − W(real, real') / 2 − W(fake, fake') / 2 of the halves of both
    batches (Salimans et al. 2018, arXiv:1803.05573, section 3.1), divided by the variance of both batches together; the term is
    the mean of all. It may be negative. W(real, fake) over the real variance would be smallest for samples whose deviation is a
    tenth too small, in batches of 32; this has no such bias.

    Raises ValueError for data other than images and for fewer than one direction.
    """

    player = "generator"
    min_samples = 2

    def __init__(self, weight: float = 1.0, every: int = 1, directions: int = 16):
        super().__init__(weight, every)
        if directions < 1:
            raise ValueError(f"directions: must be at least 1, got {directions}")
        self.directions = directions

    def forward(self, round: Round) -> Tensor:
        if round.real.ndim != 4:
            raise ValueError(f"sliced_features needs images [C, H, W], not points of shape {list(round.real.shape[1:])}")
        real, fake = round.real.detach(), round.fake
        distances = [self.of_places(real, fake, 5)]
        while min(real.shape[2:]) >= 2 * WHOLE:
            real, fake = F.avg_pool2d(real, 2), F.avg_pool2d(fake, 2)
            distances.append(self.of_places(real, fake, 5))
        distances.append(self.of_wholes(real, fake))
        for a, b in zip(round.output("real").features, round.output("fake").features, strict=True):
            if a.ndim == 4:
                a, b = a.detach().float(), b.float()
                distances += [self.of_places(a, b, 1), self.of_wholes(a, b)]
        return self.weight * torch.stack(distances).mean()

    def of_places(self, real: Tensor, fake: Tensor, side: int) -> Tensor:
        """Returns the distance between patches of `side` px at random positions of maps [N, C, H, W]."""
        filters = torch.randn(self.directions, real.shape[1], side, side, device=real.device)
        if side > 1:  # blind to a patch's mean colour, whose variance is far larger than that of its details
            filters -= filters.mean((2, 3), keepdim=True)
        offsets = torch.arange(side, device=real.device)
        rows, columns = (torch.randint(n - side + 1, (PLACES, 1), device=real.device) + offsets for n in real.shape[2:])
        patches = (x[:, :, rows[:, :, None], columns[:, None]].transpose(1, 2) for x in (real, fake))  # [N, PLACES, C, …]
        a, b = ((x.flatten(2) @ filters.flatten(1).T).flatten(1) for x in patches)
        return self.distance(a, b)

    def of_wholes(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the distance between whole maps [N, C, H, W], pooled."""
        size = min(WHOLE, real.shape[2]), min(WHOLE, real.shape[3])
        a, b = (F.adaptive_avg_pool2d(x, size).flatten(1) for x in (real, fake))
        directions = torch.randn(a.shape[1], 8 * self.directions, device=a.device)
        return self.distance(a @ directions, b @ directions)

    @staticmethod
    def distance(real: Tensor, fake: Tensor) -> Tensor:
        """Returns the mean over K of the distances between projections [N, K]; of an odd N the last sample is left out."""
        half = len(real) // 2
        halves = (x[: 2 * half].T.contiguous().view(-1, 2, half) for x in (real, fake))  # contiguous rows sort four times as fast
        a, b = (x.sort(2).values for x in halves)
        within = sum((x[:, 0] - x[:, 1]).square().mean(1) for x in (a, b))  # W(real, real') + W(fake, fake')
        # The mean of the four W(real, fake): the squared difference of the means, and the variance of each side's two halves
        between = (a.mean(1) - b.mean(1)).square().mean(1) + within / 4
        variance = torch.cat([real, fake.detach()]).var(0)
        return ((between - within / 2) / variance.clamp(min=1e-8)).mean()


class Reconstruction(Term):
    """weight · the sum of the distances between three images that D decodes from its features and their targets: the real image,
    a random quadrant of it, and its downsampled copy (FastGAN, Liu et al. 2021, arXiv:2101.04775, section 3.2).

    `distance`: `pixel`, the mean squared error, or `lite0`, a perceptual distance: squared differences of the feature maps of
    EfficientNet-Lite0, normalized per pixel, summed over channels and maps, averaged over pixels. FastGAN uses VGG instead.
    Raises ValueError for a D without decoders, and for `lite0` with other than 1 or 3 channels.
    """

    def __init__(self, weight: float = 1.0, every: int = 1, distance: Literal["pixel", "lite0"] = "lite0"):
        super().__init__(weight, every)
        if distance not in ("pixel", "lite0"):
            raise ValueError(f"distance: must be pixel or lite0, got {distance}")
        self.feature_network = Frozen(pretrained()) if distance == "lite0" else None

    def forward(self, round: Round) -> Tensor:
        if not hasattr(round.discriminator, "decode"):
            raise ValueError("this discriminator has no decoders; choose model/discriminator=fastgan")
        features = round.output("real").features
        with torch.autocast(round.real.device.type, enabled=round.autocast):
            pairs = round.discriminator.decode(features, int(torch.randint(4, ())))  # type: ignore[operator]
        distances = [self.distance(decoded.float(), target.float()) for decoded, target in pairs]
        names = [f"reconstruction/{part}" for part in ("whole", "quadrant", "small")]
        round.scalars |= dict(zip(names, distances, strict=True))
        return self.weight * torch.stack(distances).sum()

    def distance(self, x: Tensor, target: Tensor) -> Tensor:
        if self.feature_network is None:
            return F.mse_loss(x, target)
        if x.shape[1] not in (1, 3):
            raise ValueError(f"distance: lite0 needs images of 1 or 3 channels, got {x.shape[1]}; pixel takes any number")
        maps, target_maps = (self.feature_network(image.expand(-1, 3, -1, -1)) for image in (x, target))
        pairs = [(F.normalize(a, eps=1e-6), F.normalize(b, eps=1e-6)) for a, b in zip(maps, target_maps, strict=True)]
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()
