"""What the tools draw: tables of samples, curves of points, spectra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ganexp import pictures
from ganexp.latent_space.spectrum import Spectrum


def sheet(samples: Tensor, real: Tensor | None, title: str) -> Image.Image | None:
    """Samples [rows, columns, *shape] as a picture: a grid of images, or of points of two coordinates a curve for each row, over
    the real ones [M, 2]; nothing for other points."""
    if samples.ndim == 5:
        return pictures.grid(samples.flatten(0, 1), samples.shape[1])
    if samples.shape[2:] != (2,):
        return None
    return curves(samples, real, title)


def curves(points: Tensor, real: Tensor | None, title: str) -> Image.Image:
    """Points [rows, columns, 2]: a curve for each row, which begins at its ring."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if real is not None:
            axes.scatter(real[:, 0], real[:, 1], s=5, c="#cccccc", linewidths=0, label="real")
        for row in points:
            (line,) = axes.plot(row[:, 0], row[:, 1], marker=".", markersize=5, linewidth=1)
            axes.plot(row[:1, 0], row[:1, 1], marker="o", markersize=9, fillstyle="none", color=line.get_color())
        axes.set(title=title)

    return drawn(draw, (6.4, 4.8))


def spectra(spectrum: Spectrum) -> Image.Image:
    """Both spectra on one scale, and their azimuthal averages."""

    def draw(figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.3])
        low = float(min(spectrum.real.quantile(0.02), spectrum.fake.quantile(0.02)))
        high = float(max(spectrum.real.max(), spectrum.fake.max()))
        for axes, values, name in ((left, spectrum.real, "real"), (middle, spectrum.fake, "generated")):
            shown = axes.imshow(values, vmin=low, vmax=high, extent=(-0.5, 0.5, -0.5, 0.5), origin="lower")
            axes.set(title=name, xlabel="cycles per pixel")
        figure.colorbar(shown, ax=middle, label="dB")
        right.plot(spectrum.frequencies, spectrum.real_profile, color="#777777", label="real")
        right.plot(spectrum.frequencies, spectrum.fake_profile, color="#d1495b", label="generated")
        right.set(title="azimuthal average", xlabel="cycles per pixel", ylabel="mean log power, dB")
        right.grid(alpha=0.3)
        right.legend()

    return drawn(draw, (12.8, 3.8))


def drawn(draw: Callable[[Figure], Any], size: tuple[float, float]) -> Image.Image:
    """What a function draws on a figure of this size, in inches at 100 px."""
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    draw(figure)
    return pictures.from_figure(figure)
