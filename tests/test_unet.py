"""The U-Net discriminator, with a logit for the image and for each pixel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import TINY
from helpers import compose, play
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ganexp.losses import Hinge
from ganexp.networks.dcgan import Generator
from ganexp.networks.resnet import Down, Up
from ganexp.networks.unet import Discriminator

Y = torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize("side, down, up", [
    (256, [1, 2, 4, 8, 8, 16], [8, 8, 4, 2, 1, 1]), (128, [1, 2, 4, 8, 16], [8, 4, 2, 1, 1]),
    (64, [1, 2, 4, 8], [4, 2, 1, 1]), (28, [1, 2], [1, 1]), (8, [1], [1]),
])  # fmt: skip
def test_channels_are_as_published(side: int, down: list[int], up: list[int]) -> None:
    """At 256 and 128 px those of the paper, in units of the width."""
    d = Discriminator([3, side, side], 2)
    assert [b.conv2.out_channels // 2 for b in d.modules() if isinstance(b, Down)] == down
    assert [b.conv2.out_channels // 2 for b in d.modules() if isinstance(b, Up)] == up
    inside = [b.conv1.in_channels // 2 for b in d.modules() if isinstance(b, Up)]
    assert inside == [down[-1], *(2 * c for c in up[:-1])]  # the map of the way down has as many channels


@pytest.mark.parametrize("shape", [[1, 8, 8], [3, 32, 48], [1, 28, 28], [3, 64, 64]])
def test_unet_gives_a_logit_for_the_image_and_for_each_pixel(shape: list[int]) -> None:
    n = shape[1] * shape[2]
    output = Discriminator(shape, 2)(torch.randn(2, *shape), Y)
    image, pixels = output.logits[:, :n], output.logits[:, n:]
    assert pixels.shape == image.shape == (2, n) and output.classes is None
    assert torch.equal(image, image[:, :1].expand_as(image)) and (pixels.std(1) > 0).all()
    assert [f.shape[0] for f in output.features] == [2, 2] and output.features[1].shape[2:] == tuple(shape[1:])


def test_image_logit_weighs_as_much_as_all_pixel_logits() -> None:
    """Equation 3: the loss of the encoder and the mean loss of the decoder, here their mean."""
    torch.manual_seed(0)
    logits = Discriminator([3, 16, 16], 2)(torch.randn(2, 3, 16, 16), Y).logits
    image, pixels = logits[:, :1], logits[:, 256:]
    found = Hinge().generator(logits, None)
    torch.testing.assert_close(found, (Hinge().generator(image, None) + Hinge().generator(pixels, None)) / 2)


def test_pixel_logit_depends_mostly_on_its_surroundings() -> None:
    """The skips carry a corner's own pixels; the opposite corner reaches it through the smallest map alone."""
    torch.manual_seed(0)
    d = Discriminator([1, 64, 64], 4).eval()
    x = torch.randn(1, 1, 64, 64, requires_grad=True)
    d(x, Y[:1]).logits[0, 64 * 64].backward()  # the first pixel
    assert x.grad is not None
    slope = x.grad[0, 0].abs()
    assert slope[:8, :8].mean() > 10 * slope[-8:, -8:].mean()


def test_decoder_sees_the_maps_of_the_encoder() -> None:
    torch.manual_seed(0)
    d = Discriminator([1, 16, 16], 2, spectral_norm=False)
    x = torch.randn(1, 1, 16, 16)
    before = d(x, Y[:1]).logits
    with torch.no_grad():
        d.down[1].conv2.weight.zero_()  # the smallest map is another, the larger one the same
    assert not torch.equal(before, d(x, Y[:1]).logits)
    with torch.no_grad():
        for p in d.down[1].parameters():
            p.zero_()
    pixels = d(x, Y[:1]).logits[:, 256:]
    assert pixels.std() > 0 and not torch.equal(pixels, d(x.flip(3), Y[:1]).logits[:, 256:])


def test_label_changes_image_and_pixel_logits() -> None:
    torch.manual_seed(0)
    x, ys = torch.randn(2, 3, 16, 16), [torch.tensor([0, 1]), torch.tensor([0, 2])]
    d = Discriminator([3, 16, 16], 4, classes=3).eval()
    one, other = (d(x, y).logits for y in ys)
    assert torch.equal(one[0], other[0])
    assert (one[1] != other[1])[:256].all() and (one[1] != other[1])[256:].any()
    plain = Discriminator([3, 16, 16], 4).eval()
    assert torch.equal(plain(x, ys[0]).logits, plain(x, ys[1]).logits)


def test_spectral_norm_covers_every_layer_or_none() -> None:
    for on in (True, False):
        d = Discriminator([3, 16, 16], 2, classes=3, spectral_norm=on)
        layers = [m for m in d.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
        assert all(is_parametrized(m, "weight") == on for m in layers) and len(layers) > 10


def test_every_weight_of_d_and_g_gets_a_gradient() -> None:
    torch.manual_seed(0)
    g, d = Generator([1, 16, 16], 4, 2), Discriminator([1, 16, 16], 4)
    y = Y.repeat(2)
    d(g(torch.randn(4, 4), y), y).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for network in (g, d) for p in network.parameters())


def test_state_dict_restores_the_same_outputs() -> None:
    torch.manual_seed(0)
    one, other = Discriminator([3, 16, 16], 4), Discriminator([3, 16, 16], 4)
    x = torch.randn(2, 3, 16, 16)
    one(x, Y)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(x, Y).logits, other.eval()(x, Y).logits)


@pytest.mark.parametrize("options", [["model=cdcgan"], ["model=dcgan", "regularizer=[r1,feature_matching]"]])
def test_unet_discriminator_trains(options: list[str]) -> None:
    play(compose(*options, "model/discriminator=unet", "loss=hinge", "model.width_multiplier=0.04", *TINY))


@pytest.mark.parametrize("message, options", [
    (r"got shape \[2\]", {"shape": [2]}),
    (r"got shape \[3, 18, 18\]", {"shape": [3, 18, 18]}),
    (r"^width: must be at least 1", {"width": 0}),
])  # fmt: skip
def test_discriminator_refuses_invalid_arguments(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        Discriminator(**{"shape": [3, 32, 32]} | options)
