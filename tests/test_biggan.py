"""BigGAN: published sizes, hierarchical z, conditional batch norm, and training with other parts."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY
from helpers import PLAIN, Y, compose, count, far, image, play
from torch import nn
from torch.nn.utils import parametrize

from ganexp.cli.build import build
from ganexp.networks import resnet
from ganexp.networks.attention import SelfAttention
from ganexp.networks.biggan import BatchNorm, Discriminator, Generator

# -- published sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, g, d", [(96, 70_433_988, 87_982_370), (64, 31_978_628, 39_448_258)])
def test_imagenet_128_has_the_published_parameter_counts(width: int, g: int, d: int) -> None:
    assert count(Generator, image(128), 120, width, 1000, attention=64, **PLAIN) == g
    assert count(Discriminator, image(128), width, 1000, attention=64, **PLAIN) == d


def test_cifar_10_has_the_published_parameter_counts() -> None:
    assert count(Generator, image(32), 80, 96, 10, attention=16, **PLAIN) == 9_416_196
    assert count(Discriminator, image(32), 48, 10, attention=16, **PLAIN) == 2_415_170  # 192 channels, not 384
    # The authors' script for CIFAR-10 has an undivided z and no shared embedding: its G is the residual one.
    assert count(resnet.Generator, image(32), 128, 64, 10, **PLAIN) == 4_304_387
    assert count(Discriminator, image(32), 64, 10, **PLAIN) == 4_207_361


def test_64_px_has_the_published_parameter_counts() -> None:
    assert count(Generator, image(64), 100, 64, 200, **PLAIN) == 31_681_795
    assert count(Discriminator, image(64), 64, 200, **PLAIN) == 19_747_521
    # Tiny ImageNet in PyTorch-StudioGAN: the first block widens nothing.
    assert count(Generator, image(64), 100, 80, 200, attention=32, factors=[16, 8, 4, 2, 1], **PLAIN) == 17_335_204
    assert count(Discriminator, image(64), 80, 200, attention=32, **PLAIN) == 30_796_722


@pytest.mark.parametrize(
    "side, g, d, last",
    [
        (8, [4, 4], [4] * 4, 2),
        (28, [4, 4, 4], [4] * 4, 7),
        (32, [4, 4, 4, 4], [4] * 4, 8),
        (48, [4, 4, 4, 4], [4] * 4, 12),
        (64, [16, 16, 8, 4, 2], [1, 2, 4, 8, 16], 4),
        (96, [16, 16, 8, 4, 2], [1, 2, 4, 8, 16], 6),
        (128, [16, 16, 8, 4, 2, 1], [1, 2, 4, 8, 16, 16], 4),
        (256, [16, 16, 8, 8, 4, 2, 1], [1, 2, 4, 8, 8, 16, 16], 4),
    ],
)
def test_channels_and_map_sizes_are_as_published(side: int, g: list[int], d: list[int], last: int) -> None:
    with torch.device("meta"):
        generator, discriminator = Generator(image(side), 21, 3, **PLAIN), Discriminator(image(side), 3, **PLAIN)
        assert [generator.bottom[0], *(b.conv2.out_channels for b in generator.blocks)] == [3 * f for f in g]
        blocks = list(discriminator.blocks)[::2]
        assert [b.conv1.out_channels for b in blocks] == [b.conv2.out_channels for b in blocks] == [3 * f for f in d]
        assert discriminator.blocks(torch.zeros(1, 3, side, side)).shape == (1, 3 * d[-1], last, last)
        assert [b.first for b in blocks] == [True] + [False] * (len(d) - 1)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 32, 64), (1, 64, 64)], ids=str)
def test_networks_take_grey_and_colour_with_and_without_classes(shape: tuple[int, ...]) -> None:
    for classes in (None, 3):
        g, d = Generator(shape, 12, 1, classes), Discriminator(shape, 1, classes, outputs=2, auxiliary=4, minibatch_std=3)
        x = g(torch.randn(3, 12), Y)
        output = d(x, Y)
        assert x.shape == (3, *shape) and x.abs().max() <= 1
        assert output.logits.shape == (3, 2) and output.classes is not None and output.classes.shape == (3, 4)
        assert len(output.features) == 1


def test_networks_refuse_invalid_arguments() -> None:
    for shape in ((2,), (3, 33, 33), (3, 512, 512)):
        for make in (lambda shape=shape: Generator(shape, 20, 1), lambda shape=shape: Discriminator(shape, 1)):
            with pytest.raises(ValueError, match=r"got shape \["):
                make()
    with pytest.raises(ValueError, match=r"^latent_dim: must be at least 4, .* got 3$"):
        Generator(image(32), 3, 1)
    for factors in ([4, 4, 4], [4, 4, 4, 0], []):
        with pytest.raises(ValueError, match=r"^factors: must be 4 integers"):
            Generator(image(32), 4, 1, factors=factors)
    with pytest.raises(ValueError, match=r"^width: must be at least 1"):
        Generator(image(32), 4, 0)


# -- z and label -------------------------------------------------------------------------------------------------------


def test_conditional_batch_norm_scales_around_one() -> None:
    torch.manual_seed(0)
    norm, x, condition = BatchNorm(4, 5), 3 + 2 * torch.randn(3, 4, 6, 6), torch.randn(3, 5)
    assert [tuple(p.shape) for p in norm.parameters()] == [(4, 5), (4, 5)]  # no biases, none of batch norm's own
    normed = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    scale, shift = (condition @ p.T for p in norm.parameters())
    expected = (1 + scale)[..., None, None] * normed + shift[..., None, None]
    torch.testing.assert_close(norm(x, condition), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm(x, torch.zeros(3, 5)), normed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [None, 3])
def test_each_chunk_of_z_enters_its_own_layer(classes: int | None) -> None:
    """Four chunks of 5 and a rest of 2: the first enters the first layer, the others the norms of a block, after the label."""
    g = Generator(image(32), 22, 1, classes, embedding=6)
    assert g.project.in_features == 5
    assert {m.in_features for m in g.modules() if isinstance(m, nn.Linear) and m is not g.project} == {11 if classes else 5}
    seen: dict[str, torch.Tensor] = {}
    g.project.register_forward_hook(lambda m, args, out: seen.update(z=args[0]))
    for i, block in enumerate(g.blocks):
        block.register_forward_hook(lambda m, args, out, i=i: seen.update({str(i): args[1]}))
    z = torch.randn(3, 22)
    x = g.eval()(z, Y)
    assert torch.equal(seen["z"], z[:, :5])
    for i in range(3):
        chunk = z[:, 5 * (i + 1) : 5 * (i + 2)]
        assert torch.equal(seen[str(i)], torch.cat([g.label(Y), chunk], 1) if g.label is not None else chunk)
    assert torch.equal(x, g(torch.cat([z[:, :20], torch.randn(3, 2)], 1), Y))
    assert torch.equal(x, g(z, Y.flip(0))) == (classes is None)
    assert sum(isinstance(m, nn.Embedding) for m in g.modules()) == (classes is not None)  # one for all blocks


def test_weights_start_orthogonal_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    g, d = Generator(image(32), 20, 2, 5, spectral_norm=False), Discriminator(image(32), 2, 5, spectral_norm=False)
    for layer in [m for n in (g, d) for m in n.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]:
        weight = layer.weight.flatten(1)
        weight = weight if len(weight) <= weight.shape[1] else weight.T
        torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), atol=1e-5, rtol=0)
        if getattr(layer, "bias", None) is not None:
            assert not layer.bias.any()


def test_spectral_norm_covers_every_layer_but_the_label_embedding() -> None:
    def normed(network: nn.Module) -> set[str]:
        kinds = nn.Conv2d | nn.Linear | nn.Embedding
        return {n for n, m in network.named_modules() if isinstance(m, kinds) and not parametrize.is_parametrized(m, "weight")}

    assert normed(Generator(image(32), 20, 1, 5, attention=16)) == {"label"}
    assert normed(Discriminator(image(32), 1, 5, attention=16)) == set()
    assert Generator(image(32), 20, 1).project.parametrizations.weight[0].eps == 1e-6


def test_attention_is_at_the_published_resolution() -> None:
    with torch.device("meta"):
        g, d = Generator(image(128), 120, 1, attention=64, **PLAIN), Discriminator(image(128), 1, attention=64, **PLAIN)
    assert [isinstance(layer, SelfAttention) for layer in g.attend] == [False, False, False, True, False]
    assert [isinstance(layer, SelfAttention) for layer in list(d.blocks)[1::2]] == [True] + [False] * 5


def test_attention_changes_nothing_at_the_start() -> None:
    torch.manual_seed(0)
    g = Generator(image(32), 20, 2, attention=16).eval()
    z = torch.randn(3, 20)
    before = g(z, Y)
    assert g.attend[1].gamma == 0
    g.attend[1].query = far(nn.Conv2d(8, 1, 1, bias=False))
    assert torch.equal(g(z, Y), before)


# -- playing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["model=biggan", "data.shape=[3,32,32]", "loss=hinge", "model.generator.attention=16", "model.discriminator.attention=8"],
        ["model=biggan", "model.classes=null", "regularizer=[consistency]"],
        ["model=biggan", "regularizer=[r1]"],
        ["model=dcgan", "model/generator=biggan"],
        ["model=acgan", "model/generator=biggan", "data.shape=[1,32,32]"],
        ["model=cdcgan", "model/discriminator=biggan"],
    ],
    ids=" ".join,
)
def test_biggan_trains(options: list[str]) -> None:
    play(compose(*options, *TINY, "model.width_multiplier=0.04"))


def test_biggan_trains_in_bf16() -> None:
    play(compose("model=biggan", "model.generator.attention=8", *TINY, "model.width_multiplier=0.04"), "bf16-mixed")


# -- the experiment ----------------------------------------------------------------------------------------------------


def test_experiment_has_the_published_numbers() -> None:
    composed = compose("experiment=biggan_cifar10")
    model = composed["model"]
    assert composed["loss"]["_target_"] == "ganexp.losses.Hinge" and composed["data"]["shape"] == [3, 32, 32]
    for player in ("generator", "discriminator"):
        optimizer = composed["optimizer"][player]
        assert (optimizer["_target_"], optimizer["lr"], optimizer["betas"]) == ("torch.optim.Adam", 2e-4, [0.5, 0.999])
        assert model[player]["attention"] == 16 and model[player]["spectral_norm"]
    assert composed["data"]["batch_size"] == 64 and composed["trainer"]["max_steps"] == 5 * 100_000
    assert (model["d_steps"], model["classes"], model["latent"]["dim"], model["generator"]["embedding"]) == (5, 10, 80, 128)
    assert model["fresh_fakes"] and list(composed["augment"]) == ["flip"] and composed["regularizer"] == {}
    ema = build(composed["anneal"]["ema"], "anneal.ema")  # from the 1,000th update of G on
    assert ema.key == "model.ema_half_life" and [ema(n * 5 * 64) for n in (1, 999)] == [0, 0]
    for updates in (1000, 1001, 100_000):
        assert 0.5 ** (5 * 64 / ema(updates * 5 * 64)) == pytest.approx(0.9999, abs=1e-7)
    assert composed["schedule"]["_target_"] == "torch.optim.lr_scheduler.ConstantLR"
    with torch.device("meta"):
        system = build(model, "model")
    assert system.ema.ramp is None
    assert [sum(p.numel() for p in n.parameters()) for n in system.networks().values()] == [2_415_170, 9_416_196]


def test_variants_differ_from_biggan_cifar10_in_the_named_method() -> None:
    base = compose("experiment=biggan_cifar10")
    consistent, augmented, lecam = (compose(f"experiment=biggan_cifar10_{name}") for name in ("cr", "diffaugment", "lecam"))
    assert (
        consistent["regularizer"]["consistency"]["weight"] == 10 and consistent["regularizer"]["consistency"]["fake_weight"] == 0
    )
    assert augmented["augment"]["diffaugment"]["policy"] == "translation,cutout" and augmented["regularizer"] == {}
    term = lecam["regularizer"]["lecam"]
    assert (term["weight"], term["decay"], term["start"]) == (0.3, 0.99, 5000) and lecam["augment"] == augmented["augment"]
    for variant in (consistent, augmented, lecam):
        assert all(variant[group] == base[group] for group in ("optimizer", "schedule", "trainer", "loss"))
        assert variant["data"] == base["data"]
