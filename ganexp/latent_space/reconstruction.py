"""Real samples through an encoder and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganexp.data.module import DataModule
from ganexp.latent_space.codes import MOST, TrainedModel, check_number
from ganexp.latent_space.real import training_data


class Reconstruction(NamedTuple):
    """`real` [N, *shape] and what the encoder and the generator make of them, `reconstructed` [N, *shape]."""

    real: Tensor
    reconstructed: Tensor

    def summary(self) -> dict[str, Any]:
        """`mse`: the mean square difference; of images in [-1, 1], whose `psnr` is in dB."""
        mse = float((self.real - self.reconstructed).square().mean())
        psnr = {"psnr": 10 * float(torch.tensor(4 / max(mse, 1e-12)).log10())} if self.real.ndim == 4 else {}
        return {"samples": len(self.real), "mse": mse, **psnr}


def check_encoder(model: TrainedModel) -> None:
    """Raises ValueError for a model without an encoder."""
    if not hasattr(model.system, "encoder"):
        raise ValueError("this model has no encoder; a VAE has one (model=vae), and task=project needs none")


@torch.no_grad()
def reconstruct(model: TrainedModel, n: int = 32, data: DataModule | None = None) -> Reconstruction:
    """n real samples, the same ones every time, through the mean of z given x and back. `data`: null is the model's own.
    Raises ValueError for a model without an encoder."""
    check_number("num", n, 1, MOST)
    check_encoder(model)
    data = training_data(model) if data is None else data
    x, y = data.real_and_labels(n)
    parts = []
    for part, label in zip(x.split(256), y.split(256), strict=True):
        label = label.to(model.device) if model.classes else torch.zeros_like(label, device=model.device)
        parts.append(model.system.reconstruct(part.to(model.device), label).cpu())  # type: ignore[operator]
    return Reconstruction(x, torch.cat(parts))
