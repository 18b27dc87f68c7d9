"""StyleGAN2: published sizes, the effects of style, noise and w, and derivatives of every order that training needs."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from conftest import TINY
from helpers import compose, play
from torch import nn
from torch.nn import functional as F

from ganexp.cli.build import build
from ganexp.networks import stylegan2
from ganexp.networks.layers import map_sizes
from ganexp.networks.resampling import Filter, blur, down, up
from ganexp.networks.stylegan2 import Discriminator, Generator, StyledConv, ToRGB
from ganexp.regularizers import R1, PathLength
from ganexp.round import Round

Y = torch.tensor([0, 1, 2, 0])
tiny_g = partial(Generator, latent_dim=5, w_dim=6, channel_base=64, channel_max=4)
tiny_d = partial(Discriminator, channel_base=64, channel_max=4)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def noisy(g: Generator) -> Generator:
    """With noise that is heard."""
    for module in g.modules():
        if isinstance(module, StyledConv):
            nn.init.constant_(module.strength, 0.5)
    return g


# -- sizes -------------------------------------------------------------------------------------------------------------

PUBLISHED = [  # side, channel base, greatest, layers of the mapping, parameters of G and D; 1024 px as in the official listing
    (32, 32768, 512, 8, 21_523_475, 21_507_073),
    (64, 32768, 512, 8, 27_032_600, 26_488_833),
    (128, 32768, 512, 8, 29_328_669, 28_389_121),
    (256, 32768, 512, 8, 30_034_338, 28_864_129),
    (512, 32768, 512, 8, 30_276_583, 28_982_849),
    (1024, 32768, 512, 8, 30_370_060, 29_012_513),
    (32, 16384, 512, 8, 21_523_475, 21_507_073),
    (64, 16384, 512, 8, 23_819_544, 23_407_361),
    (128, 16384, 512, 8, 24_525_213, 23_882_369),
    (256, 16384, 512, 8, 24_767_458, 24_001_089),
    (512, 16384, 512, 8, 24_860_935, 24_030_753),
    (1024, 16384, 512, 8, 24_900_764, 24_038_161),
    (32, 16384, 512, 2, 19_947_539, 21_507_073),
    (64, 16384, 512, 2, 22_243_608, 23_407_361),
    (128, 16384, 512, 2, 22_949_277, 23_882_369),
    (256, 16384, 512, 2, 23_191_522, 24_001_089),
    (512, 32768, 512, 2, 28_700_647, 28_982_849),
    (1024, 32768, 512, 2, 28_794_124, 29_012_513),
    (64, 8192, 512, 2, 17_440_152, 18_900_609),
    (128, 8192, 512, 2, 17_682_397, 19_019_329),
    (32, 4096, 256, 2, 5_238_419, 4_608_897),
    (64, 4096, 256, 2, 5_480_664, 4_727_617),
    (128, 4096, 256, 2, 5_574_141, 4_757_281),
]


@pytest.mark.parametrize("side, base, greatest, layers, g, d", PUBLISHED)
def test_networks_have_the_published_parameter_counts(side: int, base: int, greatest: int, layers: int, g: int, d: int) -> None:
    with torch.device("meta"):
        assert count(Generator((3, side, side), 512, 512, base, greatest, layers)) == g
        assert count(Discriminator((3, side, side), base, greatest)) == d


@pytest.mark.parametrize("side, g, d", [(32, 1_050_195, 1_153_473), (64, 1_094_520, 1_183_137), (128, 1_109_773, 1_190_545)])
def test_model_option_has_the_documented_parameter_counts(side: int, g: int, d: int) -> None:
    """model=stylegan2, without another number."""
    with torch.device("meta"):
        system = build(compose("model=stylegan2", f"data.shape=[3,{side},{side}]")["model"], "model")
    assert (count(system.generator), count(system.discriminator)) == (g, d)


def test_cifar_networks_have_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        for classes, g, d in ((None, 19_947_539, 20_720_641), (10, 20_215_315, 23_089_664)):
            assert count(Generator((3, 32, 32), 512, 512, 32768, 512, 2, classes=classes)) == g
            assert count(Discriminator((3, 32, 32), 32768, 512, "orig", classes=classes)) == d


SHAPES = [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32), (4, 24, 32), (3, 256, 256)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("classes", [None, 3])
def test_networks_take_grey_and_colour_with_and_without_classes(shape: tuple[int, ...], classes: int | None) -> None:
    x = tiny_g(shape, classes=classes)(torch.randn(4, 5), Y)
    assert x.shape == (4, *shape) and x.isfinite().all()
    for architecture in ("resnet", "orig"):
        out = tiny_d(shape, classes=classes, architecture=architecture, outputs=2, auxiliary=5)(x, Y)
        assert out.logits.shape == (4, 2) and out.classes is not None and out.classes.shape == (4, 5)
        assert out.features[0].shape == (4, 4)
    plain = tiny_d(shape)(x, Y)
    assert plain.logits.shape == (4, 1) and plain.classes is None


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4), (3, 100, 100), (3, 64, 36), (3, 9, 9), (64, 64)])
def test_networks_refuse_other_image_sizes(shape: tuple[int, ...]) -> None:
    for make in (tiny_g, tiny_d):
        with pytest.raises(ValueError, match=r"this network needs images .*, got shape \["):
            make(shape)


def test_map_sizes_halve_down_to_the_smallest_map() -> None:
    assert map_sizes([3, 64, 64]) == [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]
    assert map_sizes([1, 28, 28]) == [(7, 7), (14, 14), (28, 28)] and map_sizes([1, 8, 16]) == [(4, 8), (8, 16)]


REFUSED: list[tuple[str, Any]] = [("w_dim", 0), ("channel_base", 0), ("channel_max", -1), ("mapping_layers", 0), ("mixing", 1.5)]


@pytest.mark.parametrize("name, value", REFUSED)
def test_generator_refuses_invalid_arguments(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        Generator((1, 8, 8), 4, **{name: value})


# -- the filter --------------------------------------------------------------------------------------------------------


def test_filters_keep_flat_images() -> None:
    """The taps sum to 1, and to 4 where three of four pixels are new."""
    x = torch.ones(2, 3, 8, 8)
    for y in (up(x)[:, :, 1:-1, 1:-1], down(x)[:, :, 1:-1, 1:-1], blur(x, 2)[:, :, 2:-2, 2:-2]):
        torch.testing.assert_close(y, torch.ones_like(y))
    point = F.pad(torch.ones(1, 1, 1, 1), [4] * 4)
    assert up(point).sum() == pytest.approx(4) and blur(point, 2).sum() == pytest.approx(1)
    assert (blur(point, 2)[0, 0, 4:7, 4] * 64 / 3).tolist() == pytest.approx([3, 3, 1])


def test_upsampling_interpolates_linearly() -> None:
    """A quarter of the way to the next pixel."""
    x = torch.tensor([0.0, 4, 8, 0]).expand(1, 1, 4, 4).contiguous()
    assert up(x)[0, 0, 4].tolist() == pytest.approx([0, 1, 3, 5, 7, 6, 2, 0])


def test_filters_can_be_differentiated_twice() -> None:
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    for f in (up, down, lambda x: blur(x, 1, 4.0), lambda x: blur(x, 2)):
        square = lambda x, f=f: f(x).square()  # noqa: E731
        assert torch.autograd.gradcheck(square, x) and torch.autograd.gradgradcheck(square, x)
    conv = F.conv2d(x, (Filter.apply(torch.ones(1, 1, 1, 1).double(), 1.0, 1, 3, False)).expand(2, 1, 4, 4), padding=2, groups=2)
    torch.testing.assert_close(blur(x, 2), conv)


# -- styles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsample", [False, True])
def test_styled_convolution_equals_the_published_form(upsample: bool) -> None:
    """For each sample, weights times style, demodulated, one convolution."""
    torch.manual_seed(0)
    layer = StyledConv(5, 7, 6, (8, 8), upsample).double()
    nn.init.normal_(layer.bias)
    x, w = torch.randn(3, 5, 4 if upsample else 8, 4 if upsample else 8).double(), torch.randn(3, 6).double()
    found = layer(x, w)
    for n in range(3):
        style = layer.style.weight @ w[n] / 6**0.5 + layer.style.bias
        weight = layer.weight * style[:, None, None] / (5 * 9) ** 0.5
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if upsample:
            y = blur(F.conv_transpose2d(x[n : n + 1], weight.transpose(0, 1), stride=2), 1, 4.0)
        else:
            y = F.conv2d(x[n : n + 1], weight, padding=1)
        y = F.leaky_relu(y + layer.bias[:, None, None], 0.2) * 2**0.5
        torch.testing.assert_close(found[n : n + 1], y)


def test_styled_convolution_keeps_the_variance() -> None:
    torch.manual_seed(0)
    x, style, weight = torch.randn(4, 64, 16, 16), torch.randn(4, 64).exp(), torch.randn(64, 64, 3, 3)
    y = stylegan2.modulated_conv(x, weight, style) * stylegan2.demodulation(weight, style)
    inner = y[:, :, 1:-1, 1:-1]  # not beside the zeros around the map
    assert inner.var().item() == pytest.approx(1, abs=0.03)
    assert inner.var((0, 2, 3)).sub(1).abs().max() < 0.25


def test_style_size_matters_for_rgb_alone() -> None:
    torch.manual_seed(0)
    styled, rgb = StyledConv(5, 7, 6, (8, 8), False), ToRGB(5, 3, 6)
    x, w = torch.randn(3, 5, 8, 8), torch.randn(3, 6)
    before = styled(x, w), rgb(x, w)
    with torch.no_grad():
        for layer in (styled.style, rgb.style):
            layer.weight *= 10
            layer.bias *= 10
    torch.testing.assert_close(styled(x, w), before[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rgb(x, w), 10 * before[1])


def test_noise_has_no_effect_at_the_start_and_in_evaluation() -> None:
    g, z = tiny_g((3, 16, 16), mixing=0.0), torch.randn(4, 5)
    assert torch.equal(g(z, Y), g(z, Y)) and torch.equal(g(z, Y), g.eval()(z, Y))
    g(z, Y).square().sum().backward()
    noisy(g).train()
    assert not torch.equal(g(z, Y), g(z, Y))
    g.eval()
    assert torch.equal(g(z, Y), g(z, Y))  # a z is one picture


def test_noise_strength_gets_a_gradient() -> None:
    g = tiny_g((3, 16, 16))
    g(torch.randn(4, 5), Y).square().sum().backward()
    strengths = [m.strength for m in g.modules() if isinstance(m, StyledConv)]
    assert len(strengths) == 5 and all(s.grad is not None and s.grad != 0 for s in strengths)


# -- w -----------------------------------------------------------------------------------------------------------------


def test_map_then_synthesize_equals_the_generator() -> None:
    g, z = noisy(tiny_g((3, 32, 32), classes=3)).eval(), torch.randn(4, 5)
    w = g.map(z, Y)
    assert w.shape == (4, 8, 6) and (w == w[:, :1]).all()  # 2 · log2(32) - 2 layers
    assert torch.equal(g.synthesize(w), g(z, Y))
    assert g.w_mean.shape == (6,)


def test_every_layer_uses_its_own_style() -> None:
    g = tiny_g((3, 32, 32)).eval()
    w = torch.randn(1, 8, 6).requires_grad_()
    g.synthesize(w).square().sum().backward()
    assert w.grad is not None and (w.grad.abs().sum(2) > 0).all()


def test_mapping_ignores_the_length_of_z() -> None:
    g, z = tiny_g((1, 8, 8)).eval(), torch.randn(4, 5)
    torch.testing.assert_close(g.map(z, Y), g.map(7 * z, Y))


def test_styles_are_mixed_in_training_only() -> None:
    torch.manual_seed(0)
    g, z = tiny_g((1, 16, 16), mixing=1.0), torch.randn(4, 5)
    plain = g.synthesize(g.map(z, Y))
    assert not torch.allclose(g(z, Y), plain, atol=1e-6)
    torch.testing.assert_close(g.eval()(z, Y), plain)
    never = tiny_g((1, 16, 16), mixing=0.0)
    torch.testing.assert_close(never(z, Y), never.synthesize(never.map(z, Y)))


def test_styles_are_mixed_from_a_random_layer_on() -> None:
    """From any layer but the first, in 9 of 10 images."""
    torch.manual_seed(0)
    g = tiny_g((1, 32, 32))
    mixed = g.mix(torch.zeros(6000, 8, 6), torch.ones(6000, 6))
    own = (mixed == 0).all(2)
    assert own[:, 0].all() and torch.equal(own, own.cummin(1).values)
    starts = own.sum(1).bincount(minlength=9) / 6000
    assert starts[8].item() == pytest.approx(0.1, abs=0.02) and starts[1:8].tolist() == pytest.approx([0.9 / 7] * 7, abs=0.02)


def test_mean_of_w_follows_in_training_only() -> None:
    g, z = tiny_g((1, 8, 8)), torch.randn(4, 5)
    w = g.eval().map(z, Y)[:, 0]
    assert not g.w_mean.any()
    g.train()(z, Y)
    torch.testing.assert_close(g.w_mean, 0.005 * w.mean(0))  # of the batch's own w, not of the mixed-in
    g.map(z, Y)
    torch.testing.assert_close(g.w_mean, (1 - 0.995**2) * w.mean(0))
    assert "w_mean" in g.state_dict() and not g.w_mean.requires_grad


def test_truncation_0_gives_one_picture() -> None:
    system = build(compose("model=stylegan2", "model.width_multiplier=0.04")["model"], "model")
    noisy(system.generator).w_mean.normal_()
    system.ema.update(system.generator, 8, 8)
    z, y = torch.randn(3, 128), torch.zeros(3, dtype=torch.long)
    one = system.generate(z, y, 0.0)
    torch.testing.assert_close(one, one[:1].expand_as(one))
    half, full = system.generate(z, y, 0.5), system.generate(z, y)
    assert 0 < half.std(0).mean() < full.std(0).mean()


# -- labels ------------------------------------------------------------------------------------------------------------


def test_only_conditional_networks_depend_on_the_label() -> None:
    torch.manual_seed(0)
    z, x = torch.randn(4, 5), torch.randn(4, 1, 16, 16)
    for classes in (None, 3):
        g, d = tiny_g((1, 16, 16), classes=classes).eval(), tiny_d((1, 16, 16), classes=classes)
        for f in (lambda y, g=g: g(z, y), lambda y, d=d: d(x, y).logits):
            assert torch.equal(f(Y), f((Y + 1) % 3)) == (classes is None)


def test_minibatch_std_makes_logits_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 1, 16, 16)
    for size in (4, 0):
        d = tiny_d((1, 16, 16), minibatch_std=size)
        assert torch.allclose(d(x, Y).logits[:1], d(torch.cat([x[:1], 3 * x[1:]]), Y).logits[:1], atol=1e-6) == (size == 0)


# -- derivatives -------------------------------------------------------------------------------------------------------


def game(classes: int | None, differentiable: list[str], architecture: Any = "resnet") -> Round:
    torch.manual_seed(0)
    g = tiny_g((3, 16, 16), classes=classes)
    d, z = tiny_d((3, 16, 16), classes=classes, architecture=architecture), torch.randn(4, 5)
    return Round(g, d, [], torch.randn(4, 3, 16, 16), g(z, Y).detach(), z, Y, differentiable)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("architecture", ["resnet", "orig"])
def test_r1_trains_every_weight_of_d(classes: int | None, architecture: str) -> None:
    played = game(classes, ["real"], architecture)
    R1()(played).backward()
    moved = {name for name, p in played.discriminator.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert all(p.grad is None or p.grad.isfinite().all() for p in played.discriminator.parameters())
    assert {name for name, p in played.discriminator.named_parameters() if name.endswith("weight")} <= moved


def test_path_length_trains_g() -> None:
    played, term = game(3, []), PathLength()
    term(played).backward()
    assert term.mean > 0 and played.scalars["path_length"] > 0
    g = played.generator
    assert all(p.grad is None or p.grad.isfinite().all() for p in g.parameters())
    for name in ("mapping.layers.0.weight", "constant", "first.weight", "ups.1.style.weight", "rgbs.2.weight"):
        gradient = dict(g.named_parameters())[name].grad
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_second_derivatives_match_finite_differences() -> None:
    torch.manual_seed(0)
    d = tiny_d((1, 8, 8), channel_base=16, channel_max=2, minibatch_std=0).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: d(x, Y[:2]).logits, x)
    g = tiny_g((1, 8, 8), channel_base=16, channel_max=2).double().eval()
    w = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda w: g.synthesize(w).mean((2, 3)), w)


# -- in the game -------------------------------------------------------------------------------------------------------

SMALL = [*TINY, "model.width_multiplier=0.04", "data.shape=[1,16,16]"]
TERMS = ["regularizer=[r1,path_length]", "regularizer.path_length.every=1"]


def test_stylegan2_trains() -> None:
    system = play(compose("model=stylegan2", "model.classes=10", "augment=[ada]", "augment.ada.p=0.5", *TERMS, *SMALL))
    assert system.generator.w_mean.abs().sum() > 0
    assert system.ema is not None and torch.equal(system.ema.average.w_mean, system.generator.w_mean)
    play(compose("model=stylegan2", *TERMS, *SMALL), "bf16-mixed")


@pytest.mark.parametrize("half", ["generator", "discriminator"])
def test_networks_train_with_another_models_network(half: str) -> None:
    terms = TERMS if half == "generator" else ["regularizer=[r1]"]
    play(compose("model=dcgan", f"model/{half}=stylegan2", "data.shape=[3,16,16]", *TINY, "model.width_multiplier=0.04", *terms))


def test_discriminator_serves_as_an_encoder() -> None:
    system = build(
        compose("model=vae", "model/discriminator@model.encoder=stylegan2", *SMALL, "model.latent.dim=3")["model"], "model"
    )
    system.check_shapes((1, 16, 16))


def test_copy_has_its_own_mean_of_w() -> None:
    g = tiny_g((1, 8, 8))
    two = copy.deepcopy(g)
    g(torch.randn(4, 5), Y)
    assert not two.w_mean.any()


def test_experiment_has_the_published_numbers() -> None:
    composed = compose("experiment=stylegan2_ada")
    model, batch = composed["model"], composed["data"]["batch_size"]
    with torch.device("meta"):
        system = build(model, "model")
    assert (count(system.generator), count(system.discriminator)) == (22_243_608, 23_407_361)
    assert model["generator"]["mixing"] == 0.9 and model["generator"]["mapping_layers"] == 2
    assert model["discriminator"]["minibatch_std"] == 4 and model["latent"]["dim"] == 512
    r1, path = composed["regularizer"]["r1"], composed["regularizer"]["path_length"]
    assert (r1["weight"], r1["every"]) == (pytest.approx(0.0002 * 64**2 / batch), 16)
    assert (path["weight"], path["every"], path["decay"], path["fraction"]) == (2, 4, 0.99, 0.5)
    for adam in composed["optimizer"].values():
        assert (adam["lr"], adam["betas"]) == (0.0025, [0, 0.99])  # penalties take no steps of their own
    assert model["ema_half_life"] == batch * 10 / 32 * 1000 and batch == 32 and system.ema.ramp == 0.05
    ada = composed["augment"]["ada"]
    assert (ada["target"], ada["kimg"], ada["interval"], ada["p"]) == (0.6, 500, 4, 0)
    blit, geometry = ("xflip", "rotate90", "xint"), ("scale", "rotate", "aniso", "xfrac")
    bgc = (*blit, *geometry, "brightness", "contrast", "lumaflip", "hue", "saturation")
    assert ada["ops"] == dict.fromkeys(bgc, 1.0) | dict.fromkeys(("imgfilter", "noise", "cutout"), 0.0)
    assert model["fresh_fakes"] and list(composed["augment"]) == ["ada"]
    assert composed["trainer"]["max_steps"] * batch == 5_000_000 and composed["loss"]["_target_"] == "ganexp.losses.BCE"
    assert composed["schedule"]["_target_"] == "torch.optim.lr_scheduler.ConstantLR" and composed["model"]["d_steps"] == 1
