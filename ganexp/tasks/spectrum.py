"""task=spectrum: compare the power spectra of real and generated images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganexp.latent_space import drawing
from ganexp.latent_space.codes import check_number
from ganexp.latent_space.spectrum import check_spectrum
from ganexp.tasks.tool import Tool


class Spectrum(Tool):
    """Writes spectrum.png with the mean log power spectra of `num` generated and as many real images, and their azimuthal
    averages; and spectrum.json with the averages. See Model.spectrum. Raises ValueError for points."""

    def __init__(self, config: dict[str, Any], run_dir: Path, num: int = 1000):
        super().__init__(config, run_dir)
        check_number("num", num, 1, 100_000)
        self.num = num

    def check(self) -> None:
        check_spectrum(self.model, self.num)
        _ = self.data  # loads it

    def run(self) -> None:
        """Measure, and write the results."""
        found = self.model.spectrum(self.num, self.seed, self.data)
        self.save_picture(drawing.spectra(found), "spectrum.png")
        numbers = found.summary()
        self.save_numbers(numbers, "spectrum")
        self.report(f"mean difference of the azimuthal averages: {numbers['mean_difference']:.2f} dB")
