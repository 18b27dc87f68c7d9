"""Constraints that D is held to: on its weights, or on the function that it is."""

from __future__ import annotations

from torch import nn


class Constraint:
    """Applied to D once when the system is built, and after each of its updates."""

    def apply(self, discriminator: nn.Module) -> nn.Module:
        """The discriminator that plays: the same, changed in place, or a module around it. Raises ValueError where it cannot."""
        return discriminator

    def after_step(self, discriminator: nn.Module) -> None:
        """Called after each update of D, outside of any graph."""
