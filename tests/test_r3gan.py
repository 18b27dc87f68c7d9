"""R3GAN: published sizes, a linear start, and derivatives of every order that training needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import sqrt
from typing import Any

import pytest
import torch
from conftest import TINY
from helpers import compose, play
from torch import nn

from ganexp.cli.build import build
from ganexp.networks.r3gan import Block, Discriminator, Down, Generator, Up
from ganexp.regularizers import R1, R2
from ganexp.round import Round

Y = torch.tensor([0, 1, 2, 0])
tiny_g = partial(Generator, latent_dim=5, widths=(8,))
tiny_d = partial(Discriminator, widths=(8,))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def awake(network: nn.Module) -> nn.Module:
    """With blocks that do something."""
    for module in network.modules():
        if isinstance(module, Block):
            nn.init.normal_(module.reduce.weight, std=0.3)
    return network


# -- sizes -------------------------------------------------------------------------------------------------------------

PUBLISHED = [  # side, widths, group, classes, parameters of G and D; two blocks a stage
    (32, [768] * 4, 16, 10, 20_781_952, 21_280_512),
    (32, [768] * 4, 16, None, 20_732_160, 20_683_776),
    (64, [768] * 4 + [384], 16, None, 22_429_824, 22_381_440),
    (256, [768] * 4 + [384, 192, 96], 16, None, 23_057_952, 23_009_568),
    (32, [1536] * 4, 32, 1000, 82_914_304, 86_548_992),
    (64, [1536] * 5, 32, 1000, 103_570_432, 107_205_120),
]
SMALL = [  # one block a stage but for the fourth
    (32, [64], 1, 145_600, 141_568),
    (32, [96], 1, 267_552, 261_504),
    (32, [128], 1, 422_272, 414_208),
    (32, [128], 2, 833_920, 825_856),
    (32, [256], 1, 1_368_832, 1_352_704),
    (64, [128, 64], 1, 465_344, 457_280),
    (64, [256, 128], 1, 1_504_128, 1_488_000),
    (64, [384, 192], 1, 3_116_352, 3_092_160),
]


@pytest.mark.parametrize("side, widths, group, classes, g, d", PUBLISHED)
def test_networks_have_the_published_parameter_counts(
    side: int, widths: list[int], group: int, classes: int | None, g: int, d: int
) -> None:
    with torch.device("meta"):
        assert count(Generator((3, side, side), 64, widths, 2, group, classes)) == g
        assert count(Discriminator((3, side, side), widths, 2, group, classes)) == d


@pytest.mark.parametrize("side, widths, blocks, g, d", SMALL)
def test_small_networks_have_the_expected_parameter_counts(side: int, widths: list[int], blocks: int, g: int, d: int) -> None:
    with torch.device("meta"):
        assert count(Generator((3, side, side), 64, widths, blocks)) == g
        assert count(Discriminator((3, side, side), widths, blocks)) == d


def test_model_option_has_the_documented_parameter_counts() -> None:
    """model=r3gan, without another number, and twice as wide."""
    for width, g, d in ((1.0, 465_344, 457_280), (2.0, 1_504_128, 1_488_000)):
        with torch.device("meta"):
            system = build(compose("model=r3gan", "data.shape=[3,64,64]", f"model.width_multiplier={width}")["model"], "model")
        assert (count(system.generator), count(system.discriminator)) == (g, d)


def test_blocks_have_the_published_groups() -> None:
    """Cardinality 96 and 12 of 2 · 768 and 2 · 96 channels: 16 in each group."""
    with torch.device("meta"):
        blocks = [m for m in Generator((3, 256, 256), 64, [768, 384, 192, 96], 2).modules() if isinstance(m, Block)]
    assert [block.mix.groups for block in blocks] == [96] * 8 + [48] * 2 + [24] * 2 + [12] * 2


@pytest.mark.parametrize("width, channels", [(1, 8), (8, 8), (9, 16), (31, 32), (96, 96)])
def test_channels_are_rounded_up_to_whole_groups(width: int, channels: int) -> None:
    for network in (Generator((1, 16, 16), 4, [width]), Discriminator((1, 16, 16), [width])):
        blocks = [m for m in network.modules() if isinstance(m, Block)]
        assert len(blocks) == 3
        assert all((b.expand.in_channels, b.mix.out_channels) == (channels, 2 * channels) for b in blocks)


def test_first_width_repeats_for_larger_images() -> None:
    g, d = Generator((1, 32, 32), 4, [16, 8]), Discriminator((1, 32, 32), [16, 8])
    assert [m.expand.in_channels for m in g.stages if isinstance(m, Block)] == [16, 16, 16, 8]
    assert [m.expand.in_channels for m in d.stages if isinstance(m, Block)] == [8, 16, 16, 16]
    with pytest.raises(ValueError, match=r"^widths: must be at most 2 for images of this size, got 3"):
        Generator((1, 8, 8), 4, [8, 8, 8])


REFUSED: list[tuple[str, Any]] = [("widths", []), ("widths", [8, 0]), ("blocks", 0), ("group", 0), ("group", 3)]


@pytest.mark.parametrize("name, value", REFUSED)
def test_networks_refuse_invalid_arguments(name: str, value: Any) -> None:
    for make in (partial(Generator, latent_dim=4), Discriminator):
        with pytest.raises(ValueError, match=f"^{name}: "):
            make((1, 16, 16), **{name: value})


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32), (4, 24, 32), (3, 128, 128)], ids=str)
@pytest.mark.parametrize("classes", [None, 3])
def test_networks_take_grey_and_colour_with_and_without_classes(shape: Sequence[int], classes: int | None) -> None:
    x = tiny_g(shape, classes=classes)(torch.randn(4, 5), Y)
    assert x.shape == (4, *shape) and x.isfinite().all()
    out = tiny_d(shape, classes=classes, outputs=2, auxiliary=5)(x, Y)
    assert out.logits.shape == (4, 2) and out.classes is not None and out.classes.shape == (4, 5)
    assert out.features[0].shape == (4, 8)
    plain = tiny_d(shape)(x, Y)
    assert plain.logits.shape == (4, 1) and plain.classes is None


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4), (3, 100, 100)])
def test_networks_refuse_other_image_sizes(shape: Sequence[int]) -> None:
    for make in (tiny_g, tiny_d):
        with pytest.raises(ValueError, match=r"this network needs images .*, got shape \["):
            make(shape)


# -- the start ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [None, 3])
def test_generator_starts_linear(classes: int | None) -> None:
    """In a label too, whose embedding is a constant beside z. Only its blocks are nonlinear."""
    torch.manual_seed(0)
    g = tiny_g((3, 16, 16), classes=classes)
    a, b, nothing = torch.randn(4, 5), torch.randn(4, 5), g(torch.zeros(4, 5), Y)
    change = lambda z: g(z, Y) - nothing  # noqa: E731
    assert change(a).abs().mean() > 0.01 and nothing.any() == (classes is not None)
    torch.testing.assert_close(change(a + 2 * b), change(a) + 2 * change(b), rtol=1e-4, atol=1e-4)
    awake(g)
    nothing = g(torch.zeros(4, 5), Y)
    assert not torch.allclose(change(a + 2 * b), change(a) + 2 * change(b), rtol=1e-2, atol=1e-2)


def test_discriminator_starts_linear_with_a_useful_gradient() -> None:
    torch.manual_seed(0)
    d = Discriminator((3, 32, 32), [64])
    x = torch.randn(64, 3, 32, 32).requires_grad_()
    y = torch.zeros(64, dtype=torch.long)
    logits = d(x, y).logits
    torch.testing.assert_close(d(3 * x, y).logits, 3 * logits, rtol=1e-4, atol=1e-5)
    assert logits.isfinite().all() and 1e-4 < logits.var() < 10
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert (gradient.flatten(1).norm(dim=1) > 1e-4).all()


def test_weights_start_with_the_published_scale() -> None:
    """Two blocks in each of four stages: eight."""
    torch.manual_seed(0)
    g = Generator((3, 32, 32), 64, [64], 2, classes=10)
    gain = sqrt(2 / 1.04) * 8**-0.25
    for block in (m for m in g.modules() if isinstance(m, Block)):
        assert block.expand.weight.std().item() == pytest.approx(gain / sqrt(64), rel=0.1)
        assert block.mix.weight.std().item() == pytest.approx(gain / sqrt(16 * 9), rel=0.1)
        assert not any(p.any() for p in (block.expand.bias, block.mix.bias, block.reduce.weight))
    assert g.project.weight.std().item() == pytest.approx(1 / sqrt(128), rel=0.1)
    assert g.basis.std().item() == pytest.approx(1, rel=0.1)
    d = Discriminator((3, 32, 32), [64], 2, classes=10)
    assert d.basis.std().item() == pytest.approx(1 / 4, rel=0.1) and d.out.weight.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert d.label is not None and d.label.weight.std().item() == pytest.approx(1 / sqrt(640), rel=0.2)
    assert not any(isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for m in [*g.modules(), *d.modules()])


def test_block_adds_to_its_input() -> None:
    torch.manual_seed(0)
    block, x = Block(8, 16, 4), torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), x)
    awake(block)
    h = nn.functional.leaky_relu(block.mix(nn.functional.leaky_relu(block.expand(x), 0.2)), 0.2)
    torch.testing.assert_close(block(x), x + block.reduce(h))


def test_channels_change_on_the_smaller_map() -> None:
    x = torch.randn(2, 8, 4, 4)
    assert Up(8, 16)(x).shape == (2, 16, 8, 8) and Down(8, 16)(x).shape == (2, 16, 2, 2)
    assert count(Up(8, 8)) == 0 and count(Down(8, 16)) == 128
    sizes: list[int] = []
    for module in (Up(8, 16), Down(8, 16)):
        module.change.register_forward_hook(lambda m, given, out: sizes.append(given[0].shape[-1]))
        module(x)
    assert sizes == [4, 2]


# -- labels and derivatives --------------------------------------------------------------------------------------------


def test_only_conditional_networks_depend_on_the_label() -> None:
    torch.manual_seed(0)
    z, x = torch.randn(4, 5), torch.randn(4, 1, 16, 16)
    for classes in (None, 3):
        g, d = tiny_g((1, 16, 16), classes=classes), tiny_d((1, 16, 16), classes=classes)
        for f in (lambda y, g=g: g(z, y), lambda y, d=d: d(x, y).logits):
            assert torch.equal(f(Y), f((Y + 1) % 3)) == (classes is None)


def test_logits_do_not_depend_on_the_batch() -> None:
    d, x = awake(tiny_d((1, 16, 16))), torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(d(x, Y).logits[:2], d(x[:2], Y[:2]).logits)


@pytest.mark.parametrize("classes", [None, 3])
def test_r1_and_r2_train_every_weight_of_d(classes: int | None) -> None:
    torch.manual_seed(0)
    g, d, z = tiny_g((3, 16, 16), classes=classes), awake(tiny_d((3, 16, 16), classes=classes)), torch.randn(4, 5)
    played = Round(g, d, [], torch.randn(4, 3, 16, 16), g(z, Y).detach(), z, Y, ["real", "fake"])
    (R1()(played) + R2()(played)).backward()
    for name, p in d.named_parameters():
        assert p.grad is None or p.grad.isfinite().all(), name
        assert not name.endswith("weight") or (p.grad is not None and p.grad.abs().sum() > 0), name


def test_second_derivatives_match_finite_differences() -> None:
    torch.manual_seed(0)
    d = awake(Discriminator((1, 8, 8), [2], group=2)).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: d(x, Y[:2]).logits, x)


# -- in the game -------------------------------------------------------------------------------------------------------

TERMS = ["loss=relativistic", "regularizer=[r1,r2]"]
NARROW = ["model.width_multiplier=0.04", "data.shape=[1,16,16]"]


def test_r3gan_trains() -> None:
    play(compose("model=r3gan", "model.classes=10", *TERMS, "augment=[ada]", "augment.ada.p=0.5", *TINY, *NARROW))
    play(compose("model=r3gan", *TERMS, *TINY, *NARROW), "bf16-mixed")


@pytest.mark.parametrize("half", ["generator", "discriminator"])
def test_networks_train_with_another_models_network(half: str) -> None:
    other = {"generator": "stylegan2", "discriminator": "dcgan"}[half]
    play(compose(f"model={other}", f"model/{half}=r3gan", *TERMS, *TINY, "model.width_multiplier=0.04", "data.shape=[3,16,16]"))


def test_discriminator_serves_as_an_encoder() -> None:
    composed = compose("model=vae", "model/discriminator@model.encoder=r3gan", "model.latent.dim=3", *TINY, *NARROW)
    build(composed["model"], "model").check_shapes((1, 16, 16))


EXPERIMENTS = {  # batch, gamma, half-life, p at the end, blocks' widths
    "r3gan_cifar10": (512, 0.05, 5e6, 0.55, [768] * 8, 10, (20_781_952, 21_280_512)),
    "r3gan_ffhq64": (256, 2.0, 5e5, 0.3, [768] * 8 + [384] * 2, None, (22_429_824, 22_381_440)),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_have_the_published_numbers(name: str) -> None:
    batch, gamma, half_life, p, widths, classes, sizes = EXPERIMENTS[name]
    composed = compose(f"experiment={name}")
    with torch.device("meta"):
        system = build(composed["model"], "model")
    assert (count(system.generator), count(system.discriminator)) == sizes
    assert [m.expand.in_channels for m in system.generator.modules() if isinstance(m, Block)] == widths
    assert composed["model"]["classes"] == classes and composed["model"]["latent"]["dim"] == 64
    assert composed["data"]["batch_size"] == batch and composed["loss"]["_target_"] == "ganexp.losses.Relativistic"
    assert batch * composed["trainer"]["max_steps"] == pytest.approx(2e7, rel=1e-4)
    ends = {name: (node["start"], node["end"], node["images"], node["curve"]) for name, node in composed["anneal"].items()}
    beta2, penalty = (0.9, 0.99, 2e7, "cosine"), (gamma, gamma / 10, 2e7, "cosine")
    assert ends == {
        "r1": penalty, "r2": penalty, "beta2_g": beta2, "beta2_d": beta2,
        "ema": (0, half_life, 2e7, "cosine"), "ada": (0, p, 2e7, "cosine"),
    }  # fmt: skip
    assert system.ema.ramp is None  # 5 % of the images seen would be less than most of its half-lives
    for term in composed["regularizer"].values():
        assert (term["weight"], term["every"]) == (gamma, 1)
    for adam in composed["optimizer"].values():
        assert (adam["lr"], adam["betas"]) == (2e-4, [0, 0.9])
    ada = composed["augment"]["ada"]
    colour = ["brightness", "contrast", "lumaflip", "hue", "saturation"]
    whole = ["xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac", "cutout"]
    assert ada["ops"] == dict.fromkeys(whole, 1.0) | dict.fromkeys(colour, 0.5) | {"imgfilter": 0.0, "noise": 0.0}
    assert ada["target"] is None and list(composed["augment"]) == ["flip", "ada"]
    assert composed["schedule"]["eta_min"] == 5e-5


def test_learning_rate_ends_at_a_quarter() -> None:
    """Half a cosine from 2e-4 to 5e-5 over the run."""
    composed = compose("experiment=r3gan_cifar10", "trainer.max_steps=10")
    schedule = build(composed["schedule"], "schedule")
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=2e-4)
    scheduler, rates = schedule(optimizer), []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [rates[0], rates[5], rates[10]] == pytest.approx([2e-4, 1.25e-4, 5e-5])
