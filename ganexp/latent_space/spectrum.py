"""The power spectra of real and generated images: which frequencies a generator lacks or repeats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganexp.data.module import DataModule
from ganexp.images import to_float
from ganexp.latent_space.codes import TrainedModel, check_number, from_prior, render_parts
from ganexp.latent_space.real import training_data


class Spectrum(NamedTuple):
    """`real`, `fake` [H, W]: the mean log power in dB, the frequency 0 in the middle. `frequencies` [B], in cycles per pixel, and
    the azimuthal averages `real_profile`, `fake_profile` [B] over rings of them, in dB."""

    real: Tensor
    fake: Tensor
    frequencies: Tensor
    real_profile: Tensor
    fake_profile: Tensor

    def summary(self) -> dict[str, Any]:
        """Numbers for a file; `mean_difference`: of the two profiles, absolute, in dB."""
        return {
            "frequencies": self.frequencies.tolist(),
            "real": self.real_profile.tolist(),
            "fake": self.fake_profile.tolist(),
            "mean_difference": float((self.real_profile - self.fake_profile).abs().mean()),
        }


def log_power(images: Tensor) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> the log power [N, H, W] of their grey, in dB, the frequency 0 in the middle.

    The mean of each image is taken out, and a Kaiser window (β 8) keeps its borders from leaking into all frequencies (as Karras
    et al. 2021, arXiv:2106.12423, appendix A). White noise of variance 1 has a mean power of 0 dB everywhere but near the
    middle, and a mean log power of −2.5 dB, since that of the exponential distribution is lower. At least −100 dB.
    """
    grey = images[:, : 1 if images.shape[1] == 2 else 3].double().mean(1)
    height, width = grey.shape[1:]
    windows = [torch.kaiser_window(side, periodic=False, beta=8.0, dtype=torch.float64) for side in (height, width)]
    window = windows[0][:, None] * windows[1]
    window = window / window.square().mean().sqrt()
    middle = (grey * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((grey - middle) * window, norm="ortho").abs().square()
    return 10 * torch.fft.fftshift(power, (1, 2)).clamp(min=1e-10).log10()


def azimuthal_average(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """A spectrum [H, W], the frequency 0 in the middle -> frequencies [B] in cycles per pixel, and its mean over rings around
    the middle, one cycle per shorter side wide (Durall et al. 2020, arXiv:2003.01826, section 3). Without the frequency 0."""
    height, width = spectrum.shape
    down = torch.fft.fftshift(torch.fft.fftfreq(height, dtype=torch.float64))[:, None]
    across = torch.fft.fftshift(torch.fft.fftfreq(width, dtype=torch.float64))
    side = min(height, width)
    ring = ((down.square() + across.square()).sqrt() * side).round().long()
    rings = torch.arange(1, side // 2 + 1)
    return rings / side, torch.stack([spectrum[ring == i].mean() for i in rings])


@torch.no_grad()
def spectrum(model: TrainedModel, n: int = 1000, seed: int = 0, data: DataModule | None = None) -> Spectrum:
    """The mean log power spectra of n generated images and of as many real ones, at most all. Raises ValueError for points and
    for images below 4 px."""
    check_spectrum(model, n)
    data = training_data(model) if data is None else data
    fake = sum_of(render_parts(model, from_prior(model, n, seed, None, "z"))) / n
    order = data.order(n)
    real = sum_of(to_float(data.take(i)) for i in order.split(256)) / len(order)
    frequencies, real_profile = azimuthal_average(real)
    return Spectrum(real, fake, frequencies, real_profile, azimuthal_average(fake)[1])


def check_spectrum(model: TrainedModel, n: int) -> None:
    """Raises ValueError for points, images below 4 px, and numbers out of range."""
    check_number("num", n, 1, 100_000)
    if len(model.shape) != 3 or min(model.shape[1:]) < 4:
        raise ValueError(
            f"a spectrum requires images of at least 4 px, but the model generates samples of shape {list(model.shape)}"
        )


def sum_of(parts: Iterable[Tensor]) -> Tensor:
    """The sum of the log powers [H, W] of all images, which come in parts."""
    total = torch.zeros(())
    for images in parts:
        total = total + log_power(images).sum(0)
    return total
