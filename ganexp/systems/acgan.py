"""The auxiliary-classifier GAN (Odena et al. 2017, arXiv:1610.09585, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ganexp.systems.gan import GAN


class ACGAN(GAN):
    """D also names the class: its logits are [N, 1 + classes], or [N, 1 + classes + 1], where the last class means "generated".

    Beside its side of the adversarial loss each player minimises the cross-entropy of the classes: D over the real and the fake
    batch as if they were one, G over its fakes. A real image has its label. A fake one has, for D, the class "generated" if there
    is that class, and else, as for G always, the label it was drawn for. Arguments: see GAN.
    """

    def discriminator_terms(self, logits: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        terms = super().discriminator_terms(logits, y)
        for side, x in logits.items():
            generated = side == "fake" and x.shape[1] == self.classes + 2  # type: ignore[operator]
            wanted = torch.full_like(y, x.shape[1] - 2) if generated else y
            terms[f"class_{side}"] = F.cross_entropy(x[:, 1:], wanted) / 2
            self.note({f"accuracy/{side}": (x[:, 1:].argmax(1) == wanted).float().mean()})
        return terms

    def generator_terms(self, fake: Tensor, real: Tensor | None, y: Tensor) -> dict[str, Tensor]:
        return super().generator_terms(fake, real, y) | {"class": F.cross_entropy(fake[:, 1:], y)}

    def check_outputs(self, outputs: int) -> None:
        if self.classes is None:
            raise ValueError("classes: an auxiliary classifier needs classes, write classes=${data.classes}")
        if outputs not in (1 + self.classes, 2 + self.classes):
            raise ValueError(
                f"discriminator.outputs: {outputs}, but with {self.classes} classes it is {1 + self.classes}, "
                f'or {2 + self.classes} with a class for "generated"'
            )
