"""FastGAN: skip-layer excitation in both networks, and a discriminator with decoders."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY
from helpers import compose, play
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from ganexp.cli.build import build
from ganexp.cli.messages import ConfigError
from ganexp.networks import fastgan
from ganexp.networks.dcgan import Discriminator as Plain
from ganexp.networks.fastgan import Discriminator, Excite, Generator
from ganexp.regularizers.features import Reconstruction
from ganexp.round import Round

Y = torch.zeros(4, dtype=torch.long)
TERM = "model.terms.reconstruction"
SECOND_IMAGE = 64 * 3  # the published G's 1×1 convolution from its map of 128 px, which this one does without


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spectral norm has no parameters, and is slow to build."""
    monkeypatch.setattr(fastgan, "apply_spectral_norm", lambda *arguments: None)


@pytest.fixture
def pair() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    return Generator([3, 64, 64], 8, 4), Discriminator([3, 64, 64], 4)


@pytest.mark.parametrize("size, g, d", [
    (256, 29_127_846, 11_526_160), (512, 29_174_392, 11_526_496), (1024, 29_176_512, 11_528_192)
])  # fmt: skip
@pytest.mark.usefixtures("plain")
def test_networks_have_the_published_parameter_counts(size: int, g: int, d: int) -> None:
    with torch.device("meta"):
        networks = Generator([3, size, size], 256), Discriminator([3, size, size])
    assert (count(networks[0]) + SECOND_IMAGE, count(networks[1])) == (g, d)
    assert count(networks[1].decoders) == 3_139_488


@pytest.mark.parametrize("composite, expected", [([8, 16, 32, 64, 128, 256], 105_684_175), ([], 79_354_307)])
@pytest.mark.usefixtures("plain")
def test_generators_of_projected_gan_have_the_published_parameter_counts(composite: list[int], expected: int) -> None:
    """The second is its lite version."""
    with torch.device("meta"):
        assert count(Generator([3, 256, 256], 256, 128, composite=composite, bias=True)) == expected


def test_composite_blocks_have_two_convolutions_with_noise() -> None:
    g = Generator([3, 64, 64], 8, 2, composite=[16, 64, 512])
    found = [[sum(isinstance(m, kind) for m in block) for kind in (nn.Conv2d, fastgan.Noise)] for block in g.blocks]
    assert found == [[1, 0], [2, 2], [1, 0], [2, 2]]


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512, 1024])
def test_every_supported_size_generates_scores_and_decodes(size: int) -> None:
    channels = 1 if size == 64 else 3
    g, d = Generator([channels, size, size], 8, 2).eval(), Discriminator([channels, size, size], 2).eval()
    with torch.no_grad():
        x = g(torch.randn(1, 8), Y[:1])
        output = d(x, Y[:1])
        decoded = d.decode(output.features, 3)
    assert x.shape == (1, channels, size, size) and x.abs().max() <= 1
    assert output.logits.shape == (1, 50) and output.classes is None
    small = min(128, size // 2)
    assert [f.shape[2] for f in output.features] == [8, 16, 8, size]
    assert all(found.shape == wanted.shape == (1, channels, small, small) for found, wanted in decoded)


@pytest.mark.usefixtures("plain")
def test_skip_excitation_connects_the_published_resolutions() -> None:
    """4 -> 64, 8 -> 128, 16 -> 256, 32 -> 512 px in G; in D from the maps of 256, 128, 64 px to those of 32, 16, 8 px."""
    with torch.device("meta"):
        g, d = Generator([3, 1024, 1024], 256), Discriminator([3, 256, 256])
    ways = {px: (e.gate[1].in_channels, e.gate[1].out_channels) for px, e in g.excite.items()}
    assert ways == {"64": (1024, 128), "128": (512, 64), "256": (256, 32), "512": (128, 16)}
    assert [(e.gate[1].in_channels, e.gate[1].out_channels) for e in d.excite] == [(16, 128), (32, 256), (64, 512)]
    found = {size: len(Generator([1, size, size], 2, 1).excite) for size in (32, 64, 128)}
    assert found == {32: 0, 64: 1, 128: 2}


def test_skip_excitation_gets_maps_of_the_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    forward = Excite.forward
    monkeypatch.setattr(
        Excite, "forward", lambda self, by, x: seen.append((by.shape[2], x.shape[2])) or forward(self, by, x)
    )  # fmt: skip
    g, d = Generator([1, 256, 256], 2, 1).eval(), Discriminator([1, 256, 256], 1).eval()
    d(g(torch.randn(1, 2), Y[:1]), Y[:1])
    assert seen == [(4, 64), (8, 128), (16, 256), (256, 32), (128, 16), (64, 8)]


def test_every_convolution_has_spectral_norm_and_no_bias(pair: Any) -> None:
    for network in pair:
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert all(is_parametrized(m, "weight") and m.bias is None for m in layers) and len(layers) > 8


def test_noise_is_added_in_training_only(pair: Any) -> None:
    g, _ = pair
    z = torch.randn(4, 8)
    twice = lambda: torch.equal(g(z, Y), g(z, Y))  # noqa: E731
    strengths = [p for name, p in g.named_parameters() if name.endswith("strength")]
    assert len(strengths) == 4  # two in each of the blocks of 8 and 32 px
    assert copy.deepcopy(g).eval()(z, Y).isfinite().all()
    with torch.no_grad():
        for p in strengths:
            p.fill_(1.0)
    assert not twice()
    g.eval()
    assert twice()


def test_label_changes_samples_and_logits() -> None:
    torch.manual_seed(0)
    one, other = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 1])
    g, d = Generator([3, 32, 32], 8, 4, 3).eval(), Discriminator([3, 32, 32], 4, 3).eval()
    z = torch.randn(4, 8)
    x = g(z, one)
    for a, b in ((x, g(z, other)), (d(x, one).logits, d(x, other).logits)):
        assert torch.equal(a[:3], b[:3]) and not torch.equal(a[3], b[3])


def test_decoder_reconstructs_the_same_quadrant(pair: Any) -> None:
    _, d = pair
    x = torch.randn(4, 3, 64, 64)
    features = d.eval()(x, Y).features
    corners = [x[:, :, :32, :32], x[:, :, :32, 32:], x[:, :, 32:, :32], x[:, :, 32:, 32:]]
    maps = features[1]
    assert maps.shape[2:] == (16, 16)
    parts = [maps[:, :, :8, :8], maps[:, :, :8, 8:], maps[:, :, 8:, :8], maps[:, :, 8:, 8:]]
    for quadrant in range(4):
        (whole, all_of_it), (part, wanted), (_, small) = d.decode(features, quadrant)
        assert torch.equal(wanted, corners[quadrant]) and torch.equal(all_of_it, small)
        torch.testing.assert_close(small, F.avg_pool2d(x, 2))
        torch.testing.assert_close(part, d.decoders[1](parts[quadrant]))
        torch.testing.assert_close(whole, d.decoders[0](features[0]))


# -- the term ----------------------------------------------------------------------------------------------------------


def round_of(pair: Any, real: Tensor) -> Round:
    g, d = pair
    z = torch.randn(len(real), 8)
    return Round(g, d, [], real, g(z, Y).detach(), z, Y)


@pytest.mark.parametrize("distance", ["pixel", "lite0"])
def test_reconstruction_trains_d_on_real_images(pair: Any, distance: Any) -> None:
    """Everything in D that the decoders see learns from it."""
    term, real = Reconstruction(2.0, distance=distance), torch.rand(4, 3, 64, 64)
    round = round_of(pair, real)
    value = term(round)
    assert set(round.outputs) == {"real"} and list(term.state_dict()) == []
    assert value.item() == pytest.approx(2 * sum(v.item() for v in round.scalars.values()), rel=1e-5)
    value.backward()
    _, d = pair
    learning = {name.split(".")[0] for name, p in d.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learning == {"stem", "blocks", "excite", "small_stem", "small_blocks", "decoders"}
    optimizer = torch.optim.Adam(d.parameters(), 2e-3)
    for _ in range(5):
        optimizer.zero_grad()
        loss = term(round_of(pair, real))
        loss.backward()
        optimizer.step()
    assert loss < value


def test_reconstruction_distances_match_their_definitions(pair: Any) -> None:
    x, y = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    assert Reconstruction(distance="pixel").distance(x, y) == F.mse_loss(x, y)
    term = Reconstruction()
    assert term.distance(x, x) == 0 and term.distance(x, y) > 0
    grey = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(term.distance(grey, grey.flip(3)), term.distance(grey.repeat(1, 3, 1, 1), grey.flip(3)))
    with pytest.raises(ValueError, match=r"^distance: lite0 needs images of 1 or 3 channels, got 6"):
        term.distance(torch.rand(2, 6, 16, 16), torch.rand(2, 6, 16, 16))
    with pytest.raises(ValueError, match=r"^distance: must be pixel or lite0, got vgg"):
        Reconstruction(distance="vgg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^this discriminator has no decoders"):
        term(SimpleNamespace(discriminator=Plain([3, 16, 16], 2)))  # type: ignore[arg-type]


# -- the game ----------------------------------------------------------------------------------------------------------


def test_g_gets_gradients_through_d(pair: Any) -> None:
    g, d = pair
    d(g(torch.randn(4, 8), Y), Y).logits.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in g.parameters())


def test_state_dict_restores_the_same_outputs(pair: Any) -> None:
    g, d = pair
    x = d(g(torch.randn(4, 8), Y), Y).features[3].detach()
    other = Discriminator([3, 64, 64], 4)
    other.load_state_dict(d.state_dict())
    assert torch.equal(d.eval()(x, Y).logits, other.eval()(x, Y).logits)


@pytest.mark.parametrize("options, precision", [
    (["data.shape=[1,32,32]"], "32-true"),
    (["data.shape=[3,64,64]", "model.classes=10", "augment=[diffaugment]", f"{TERM}.distance=pixel"], "32-true"),
    (["data.shape=[3,32,32]", "regularizer=[r1,feature_matching]"], "bf16-mixed"),
])  # fmt: skip
def test_fastgan_trains(options: list[str], precision: str) -> None:
    system = play(compose("model=fastgan", "loss=hinge", "model.width_multiplier=0.04", *TINY, *options), precision)
    assert "reconstruction/quadrant" in " ".join(system.scalars.latest)
    assert not [name for name in system.state_dict() if "see" in name.split(".")]


def test_fastgan_refuses_another_discriminator() -> None:
    composed = compose("model=fastgan", "model/discriminator=dcgan", "data.shape=[1,32,32]", "model.width_multiplier=0.04", *TINY)
    with pytest.raises(ValueError, match=r"regularizers\.reconstruction: this discriminator has no decoders"):
        build(composed["model"], "model").check_shapes((1, 32, 32))
    with pytest.raises(ConfigError, match=r"square images .* got shape \[1, 8, 8\]"):
        build(compose("model=fastgan", *TINY)["model"], "model")


@pytest.mark.parametrize("shape", [[2], [3, 16, 16], [3, 28, 28], [3, 64, 32], [3, 96, 96], [3, 2048, 2048]])
def test_networks_refuse_invalid_arguments(shape: list[int]) -> None:
    for make in (lambda: Generator(shape, 8), lambda: Discriminator(shape)):
        with pytest.raises(ValueError, match=r"^FastGAN needs square images .* got shape \["):
            make()
    with pytest.raises(ValueError, match=r"^width: must be at least 1"):
        Generator([3, 32, 32], 8, 0)
    for side in (4, 24, 2048):
        with pytest.raises(ValueError, match=rf"^composite: must be sides of 8, 16, … or 1024 px, got {side}$"):
            Generator([3, 32, 32], 8, composite=[8, side])


def test_glu_is_torchs() -> None:
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 3, 3, 5, dtype=torch.float64)
    for order in (torch.contiguous_format, torch.channels_last):
        mine, theirs = (glu(x.contiguous(memory_format=order)) for glu in (fastgan.GLU(), nn.GLU(1)))
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(*(torch.autograd.grad(y, x, grad)[0] for y in (mine, theirs)))
    assert torch.autograd.gradgradcheck(fastgan.GLU(), x)


# -- the experiment ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plain")
def test_fastgan_256_has_the_published_numbers() -> None:
    composed = compose("experiment=fastgan_256")
    assert composed["loss"] == {"_target_": "ganexp.losses.Hinge", "margin": [0.8, 1.0]}
    assert composed["augment"]["diffaugment"]["policy"] == "color,translation" and composed["regularizer"] == {}
    assert (composed["data"]["shape"], composed["data"]["batch_size"]) == ([3, 256, 256], 8)
    assert composed["trainer"]["max_steps"] == 50_000 and composed["model"]["d_steps"] == 1
    assert composed["schedule"]["_target_"] == "torch.optim.lr_scheduler.ConstantLR"
    term = composed["model"]["terms"]["reconstruction"]
    assert (term["weight"], term["every"], term["distance"]) == (8, 1, "lite0")  # published: weight 1 of the sum over 8 images
    assert 0.5 ** (8 / composed["model"]["ema_half_life"]) == pytest.approx(0.999, abs=1e-6)
    for player in ("generator", "discriminator"):
        optimizer = composed["optimizer"][player]
        assert (optimizer["_target_"], optimizer["lr"], optimizer["betas"]) == ("torch.optim.Adam", 2e-4, [0.5, 0.999])
    with torch.device("meta"):
        system = build(composed["model"], "model")
    assert [sum(p.numel() for p in n.parameters()) for n in system.networks().values()] == [11_526_160, 29_127_846 - SECOND_IMAGE]
