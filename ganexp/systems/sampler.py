"""Trained systems that cannot be trained further, as in an exported model."""

from __future__ import annotations

import torch
from torch import nn

from ganexp.latents import Latent
from ganexp.systems.base import System
from ganexp.systems.encoding import Encoding


class Sampler(System):
    """The averaged generator of an exported model, its prior, and the label counts of its training data.

    `generator(z, y) -> x` and `classes`: see System. Raises ValueError for a part of another type.
    """

    def __init__(self, latent: Latent, generator: nn.Module, classes: int | None = None):
        if not isinstance(generator, nn.Module):
            raise ValueError(f"generator: must be a network, got {type(generator).__name__}")
        if not isinstance(getattr(latent, "dim", None), int) or not callable(getattr(latent, "sample", None)):
            raise ValueError(f"latent: must be a prior with dim and sample(n, device), got {type(latent).__name__}")
        super().__init__(latent, generator, {}, lambda optimizer: None, classes, ema_half_life=None)  # type: ignore[arg-type,return-value]
        self.to(memory_format=torch.channels_last)  # as in training: other layouts round differently

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}


class EncodingSampler(Sampler, Encoding):
    """The same with the encoder of a VAE. Raises ValueError for a part of another type."""

    def __init__(self, latent: Latent, generator: nn.Module, encoder: nn.Module, classes: int | None = None):
        if not isinstance(encoder, nn.Module):
            raise ValueError(f"encoder: must be a network, got {type(encoder).__name__}")
        super().__init__(latent, generator, classes)
        self.encoder = encoder.to(memory_format=torch.channels_last)

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "encoder": self.encoder}
