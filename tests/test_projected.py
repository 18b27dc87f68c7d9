"""The projected discriminator, on the features of a fixed network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import TINY
from helpers import compose, play
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ganexp.cli.build import build
from ganexp.networks import fastgan
from ganexp.networks.dcgan import Generator
from ganexp.networks.projected import Discriminator, Fixed, Projector

Y = torch.zeros(2, dtype=torch.long)


def learning(d: nn.Module) -> int:
    return sum(p.numel() for p in d.parameters())


def test_maps_and_logits_have_the_published_sizes() -> None:
    """Maps of 64, 64, 128, 256 channels at 1/2 to 1/16 of 256 px; every head ends in 5×5 logits."""
    d = Discriminator([3, 256, 256]).eval()
    with torch.no_grad():
        output = d(torch.randn(2, 3, 256, 256), Y)
    assert [f.shape[1:] for f in output.features] == [(64, 128, 128), (64, 64, 64), (128, 32, 32), (256, 16, 16)]
    assert output.logits.shape == (2, 4 * 25) and output.classes is None
    widths = [[m.out_channels for m in head.modules() if isinstance(m, nn.Conv2d)] for head in d.heads]
    assert widths == [[64, 128, 256, 512, 1], [128, 256, 512, 1], [256, 512, 1], [512, 1]]


@pytest.mark.parametrize("shape, size, sides", [
    ([3, 224, 224], None, [112, 56, 28, 14]), ([3, 32, 32], 64, [32, 16, 8, 4]), ([1, 28, 28], None, [14, 7, 4, 2]),
    ([1, 8, 8], None, [4, 2, 1, 1]), ([3, 48, 32], 64, [32, 16, 8, 4]),
])  # fmt: skip
def test_discriminator_takes_every_size(shape: list[int], size: int | None, sides: list[int]) -> None:
    d = Discriminator(shape, 2, size=size).eval()
    output = d(torch.randn(2, *shape), Y)
    assert [f.shape[3] for f in output.features] == sides
    assert output.logits.shape[1] >= 4 and output.logits.isfinite().all()


def test_heads_have_the_published_layers() -> None:
    d = Discriminator([3, 32, 32], 2)
    layers = [[(m.kernel_size[0], m.stride[0]) for m in h.modules() if isinstance(m, nn.Conv2d)] for h in d.heads]
    assert layers == [[(4, 2), (4, 1)], [(3, 1), (4, 1)], [(3, 1), (4, 1)], [(3, 1), (2, 1)]]
    assert all(sum(isinstance(m, nn.BatchNorm2d) for m in h.modules()) == 1 for h in d.heads)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_levels_set_the_number_of_heads(levels: int) -> None:
    d = Discriminator([3, 64, 64], 4, levels)
    output = d(torch.randn(2, 3, 64, 64), Y)
    assert [f.shape[1] for f in output.features] == [4, 4, 8, 16][:levels]
    assert len(d.heads) == levels


def test_heads_have_equal_weight() -> None:
    """At 64 px the heads have 25, 25, 25 and 1 logits; each is a quarter of the mean."""
    d = Discriminator([3, 64, 64], 2).eval()
    output = d(torch.randn(2, 3, 64, 64), Y)
    heads = [head(h, Y) for head, h in zip(d.heads, output.features, strict=True)]
    assert [h.shape[1] for h in heads] == [25, 25, 25, 1]
    torch.testing.assert_close(output.logits.mean(1), torch.stack([h.mean(1) for h in heads]).mean(0))


def test_minibatch_std_changes_the_logits_of_equal_samples() -> None:
    d = Discriminator([3, 32, 32], 2, norm=False, minibatch_std=4).eval()
    x = torch.randn(4, 3, 32, 32)
    y = torch.zeros(4, dtype=torch.long)
    alone, among = d(x[:1].expand(4, -1, -1, -1), y).logits[0], d(x, y).logits[0]
    assert (alone - among).abs().max() > 1e-3
    plain = Discriminator([3, 32, 32], 2, norm=False).eval()
    torch.testing.assert_close(plain(x[:1].expand(4, -1, -1, -1), y).logits[0], plain(x, y).logits[0], rtol=1e-4, atol=1e-5)


def test_grey_is_repeated_to_three_channels() -> None:
    torch.manual_seed(0)
    grey = Discriminator([1, 32, 32], 2).eval()
    colour = Discriminator([3, 32, 32], 2).eval()
    colour.load_state_dict(grey.state_dict())
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(x, Y).logits, colour(x.repeat(1, 3, 1, 1), Y).logits)


def test_cross_scale_mixing_goes_from_the_deepest_map_up() -> None:
    torch.manual_seed(0)
    project = Projector(2, 4)
    maps = [torch.randn(1, c, s, s) for c, s in zip((24, 40, 112, 320), (16, 8, 4, 2), strict=True)]
    before = project(maps)
    for level in range(4):
        moved = [m + (i == level) for i, m in enumerate(maps)]
        assert [not torch.equal(a, b) for a, b in zip(project(moved), before, strict=True)] == [i <= level for i in range(4)]
    assert not list(project.parameters())


def test_label_changes_every_logit() -> None:
    torch.manual_seed(0)
    x, ys = torch.randn(2, 3, 32, 32), [torch.tensor([0, 1]), torch.tensor([0, 2])]
    d = Discriminator([3, 32, 32], 4, classes=3).eval()
    one, other = (d(x, y).logits for y in ys)
    assert torch.equal(one[0], other[0]) and (one[1] - other[1]).abs().min() > 0
    plain = Discriminator([3, 32, 32], 4).eval()
    assert torch.equal(plain(x, ys[0]).logits, plain(x, ys[1]).logits)


def test_only_the_heads_are_trained() -> None:
    d = Discriminator([3, 32, 32], 4)
    assert learning(d) == learning(d.heads) > 0
    layers = [m for m in d.modules() if isinstance(m, nn.Conv2d)]
    assert layers and all(is_parametrized(m, "weight") for m in layers)
    assert sum(isinstance(m, Fixed) for m in d.modules()) == 8
    assert sum(v.numel() for v in d.state_dict().values()) < 100_000  # EfficientNet-Lite0 has 4.6 million
    assert not any(isinstance(m, nn.BatchNorm2d) for m in Discriminator([3, 32, 32], 4, norm=False).modules())


def test_state_dict_restores_the_same_outputs() -> None:
    torch.manual_seed(0)
    one, other = Discriminator([3, 32, 32], 4), Discriminator([3, 32, 32], 4)
    x = torch.randn(2, 3, 32, 32)
    one(x, Y)  # spectral norm and batch norm have states of their own
    assert not torch.equal(one.eval()(x, Y).logits, other.eval()(x, Y).logits)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x, Y).logits, other(x, Y).logits)


def test_g_gets_gradients_through_d() -> None:
    torch.manual_seed(0)
    g, d = Generator([1, 16, 16], 4, 2), Discriminator([1, 16, 16], 2, size=32)
    d(g(torch.randn(4, 4), Y.repeat(2)), Y.repeat(2)).logits.mean().backward()
    gradients: list[Tensor] = [p.grad for p in g.parameters() if p.grad is not None]
    assert len(gradients) == len(list(g.parameters())) and all(p.abs().sum() > 0 for p in gradients)
    assert all(p.grad is None for p in d.feature_network.network.parameters())


@pytest.mark.parametrize("options", [["model.classes=10"], ["regularizer=[r1,feature_matching]", "model.discriminator.size=32"]])
def test_projected_gan_trains(options: list[str]) -> None:
    play(compose("model=projected", "loss=hinge", "model.width_multiplier=0.04", *TINY, *options))


@pytest.mark.parametrize("message, options", [
    (r"got shape \[2\]", {"shape": [2]}),
    (r"got shape \[6, 32, 32\]", {"shape": [6, 32, 32]}),
    (r"got shape \[3, 32, 4\]", {"shape": [3, 32, 4]}),
    (r"^width: must be at least 1", {"width": 0}),
    (r"^levels: must be 1 to 4, got 5", {"levels": 5}),
    (r"^size: must be at least 8 px", {"size": 4}),
])  # fmt: skip
def test_discriminator_refuses_invalid_arguments(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        Discriminator(**{"shape": [3, 32, 32]} | options)


# -- the experiment ----------------------------------------------------------------------------------------------------


def test_projected_256_has_the_published_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = compose("experiment=projected_256")
    model = composed["model"]
    assert composed["loss"] == {"_target_": "ganexp.losses.Hinge", "margin": 1.0} and composed["regularizer"] == {}
    assert composed["augment"]["diffaugment"]["policy"] == "color,translation,cutout"
    assert (composed["data"]["shape"], composed["data"]["batch_size"]) == ([3, 256, 256], 64)
    d, width = model["discriminator"], model["generator"]["width"]
    assert (d["size"], d["levels"], d["width"], d["norm"], d["minibatch_std"], width) == (None, 4, 64, True, 0, 128)
    monkeypatch.setattr(fastgan, "apply_spectral_norm", lambda *arguments: None)  # has no parameters, and is slow to build
    with torch.device("meta"):
        assert learning(build(model["generator"], "model.generator")) == 105_684_175
    assert (model["latent"]["dim"], model["ema_half_life"], model["fresh_fakes"]) == (256, 64 * 10 / 32 * 1000, True)
    assert composed["trainer"]["max_steps"] * 64 == 10_000_000
    assert composed["schedule"]["_target_"] == "torch.optim.lr_scheduler.ConstantLR" and composed["model"]["d_steps"] == 1
    for player in ("generator", "discriminator"):
        optimizer = composed["optimizer"][player]
        assert (optimizer["_target_"], optimizer["lr"], optimizer["betas"]) == ("torch.optim.Adam", 2e-4, [0.0, 0.99])
