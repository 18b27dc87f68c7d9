"""What systems with an encoder share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganexp.networks.output import as_output
from ganexp.systems.base import System
from ganexp.systems.contexts import evaluating


class Encoding(System):
    """A system whose `encoder(x, y) -> [N, 2 · dim]` returns mean and log variance of z given x."""

    encoder: nn.Module

    def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean and log variance [N, dim] of z given x, float32."""
        mean, log_variance = as_output(self.encoder(x, y)).logits.chunk(2, 1)
        return mean, log_variance

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        """x [N, *shape], y [N] -> decoded from the mean of z given x: [N, *shape], float32."""
        with evaluating(self.encoder):
            return self.generate(self.encode(x, y)[0], y)
