"""task=reconstruct: encode and decode real samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ganexp.latent_space.codes import MOST, check_number
from ganexp.latent_space.reconstruction import check_encoder
from ganexp.tasks.tool import Tool


class Reconstruct(Tool):
    """Writes reconstruction.png, with rows of training samples, each above a row of their reconstructions; and
    reconstruction.json with the mean squared error. See Model.reconstruct. Raises ValueError for a model without an encoder."""

    def __init__(self, config: dict[str, Any], run_dir: Path, num: int = 32):
        super().__init__(config, run_dir)
        check_number("num", num, 1, MOST)
        self.num = num

    def check(self) -> None:
        check_encoder(self.model)
        self.check_sheet("num", 2, self.num)
        _ = self.data  # loads it

    def run(self) -> None:
        """Reconstruct, and write the results."""
        found = self.model.reconstruct(self.num, self.data)
        if found.real.ndim == 4:
            self.save_sheet(above(found.real, found.reconstructed), "reconstruction")
        else:
            self.save_sheet(torch.stack([found.real, found.reconstructed], 1), "reconstruction")
        numbers = found.summary()
        self.save_numbers(numbers, "reconstruction")
        self.report(f"mean squared error of {numbers['samples']} samples: {numbers['mse']:.4g}")


def above(real: torch.Tensor, reconstructed: torch.Tensor, columns: int = 8) -> torch.Tensor:
    """Returns rows of real samples, each above their reconstructions: [2 · rows, columns, *shape]. Empty cells are -1."""
    columns = min(columns, len(real))
    missing = -len(real) % columns
    both = [torch.cat([x, x.new_full((missing, *x.shape[1:]), -1)]).unflatten(0, (-1, columns)) for x in (real, reconstructed)]
    return torch.stack(both, 1).flatten(0, 1)
