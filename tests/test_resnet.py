"""SNGAN's residual networks and self-attention: published sizes, order of operations, and training with other parts."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY
from helpers import PLAIN, Y, compose, count, far, image, play
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from ganexp.cli.build import build
from ganexp.networks import dcgan, resnet
from ganexp.networks.attention import SelfAttention
from ganexp.networks.resnet import BatchNorm, Discriminator, Down, Generator, Up

# -- published sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "side, g, thin, wide",
    [
        (32, 4_276_739, 1_053_825, 1_053_825),
        (48, 4_878_083, 10_141_441, 19_542_721),
        (64, 12_220_675, 10_141_441, 19_542_721),
        (128, 32_150_787, 29_017_857, 38_419_137),
    ],
)
def test_networks_have_the_published_parameter_counts(side: int, g: int, thin: int, wide: int) -> None:
    assert count(Generator, image(side), 128) == g
    assert count(Discriminator, image(side), **PLAIN) == thin
    assert count(Discriminator, image(side), wide=True, **PLAIN) == wide


@pytest.mark.parametrize(
    "side, classes, wide, g, d",
    [
        (32, 10, False, 4_304_387, 1_055_105),
        (32, 100, False, 4_580_867, 1_066_625),
        (128, 1000, False, 41_996_931, 30_041_857),
        (64, 200, True, 13_366_915, 19_747_521),
    ],
)
def test_conditional_networks_have_the_published_parameter_counts(side: int, classes: int, wide: bool, g: int, d: int) -> None:
    assert count(Generator, image(side), 128, classes=classes) == g
    assert count(Discriminator, image(side), wide=wide, classes=classes, **PLAIN) == d


@pytest.mark.parametrize(
    "side, width_g, width_d, g, d",
    [
        (32, 16, 32, 368_771, 264_769),
        (32, 32, 32, 1_204_483, 264_769),
        (64, 32, 32, 3_586_179, 2_537_345),
        (64, 16, 16, 1_162_051, 635_329),
    ],
)
def test_narrow_networks_have_the_published_parameter_counts(side: int, width_g: int, width_d: int, g: int, d: int) -> None:
    assert count(Generator, image(side), 128, width_g) == g
    assert count(Discriminator, image(side), width_d, **PLAIN) == d


def test_narrow_conditional_discriminator_has_the_published_parameter_count() -> None:
    """Mimicry's of 128 px, whose default width is an eighth of the paper's."""
    assert count(Discriminator, image(128), 8, classes=1000, **PLAIN) == 582_497


def test_width_multiplier_scales_the_parameter_counts() -> None:
    model = compose("model=resnet", "data=celeba", "model.width_multiplier=0.25", "data.shape=[3,64,64]")["model"]
    with torch.device("meta"):
        system = build(model, "model")
    assert [sum(p.numel() for p in n.parameters()) for n in system.networks().values()] == [635_329, 1_162_051]


def test_sagan_has_the_published_parameter_counts() -> None:
    assert count(SelfAttention, 256) == 81_921 and count(SelfAttention, 128) == 20_481
    assert count(Generator, image(32), 128, classes=10, attention=16, spectral_norm=True) == 4_386_308
    assert count(Discriminator, image(32), classes=10, attention=8) == 1_075_586


@pytest.mark.parametrize(
    "side, bottom, g, d, sides",
    [
        (8, 4, [4, 4], [2] * 4, [4, 2, 2, 2]),
        (16, 4, [4, 4, 4], [2] * 4, [8, 4, 4, 4]),
        (28, 7, [4, 4, 4], [2] * 4, [14, 7, 7, 7]),
        (32, 4, [4, 4, 4, 4], [2] * 4, [16, 8, 8, 8]),
        (40, 5, [8, 4, 2, 1], [1, 2, 4, 8, 16], [20, 10, 5, 5, 5]),
        (48, 6, [8, 4, 2, 1], [1, 2, 4, 8, 16], [24, 12, 6, 3, 3]),
        (64, 4, [16, 8, 4, 2, 1], [1, 2, 4, 8, 16], [32, 16, 8, 4, 2]),
        (96, 6, [16, 8, 4, 2, 1], [1, 2, 4, 8, 16], [48, 24, 12, 6, 3]),
        (128, 4, [16, 16, 8, 4, 2, 1], [1, 2, 4, 8, 16, 16], [64, 32, 16, 8, 4, 4]),
        (256, 4, [16, 16, 16, 8, 4, 2, 1], [1, 2, 4, 8, 16, 16, 16], [128, 64, 32, 16, 8, 4, 4]),
    ],
)
def test_channels_and_map_sizes_are_as_published(side: int, bottom: int, g: list[int], d: list[int], sides: list[int]) -> None:
    with torch.device("meta"):
        generator, discriminator = Generator(image(side), 5, width=3), Discriminator(image(side), width=3, **PLAIN)
        assert [generator.bottom[0], *(b.conv2.out_channels for b in generator.blocks)] == [3 * f for f in g]
        assert generator.bottom[1:] == (bottom, bottom)
        x, found = torch.zeros(1, 3, side, side), []
        for layer in discriminator.blocks:
            x = layer(x)
            if isinstance(layer, Down):
                found.append(tuple(x.shape[1:]))
    assert found == [(3 * f, s, s) for f, s in zip(d, sides, strict=True)]


# -- any image it can draw ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 8, 8), (4, 12, 12), (1, 28, 28), (3, 32, 64), (3, 48, 40), (1, 64, 64)], ids=str
)
def test_networks_take_grey_and_colour_with_and_without_classes(shape: tuple[int, ...]) -> None:
    for classes in (None, 3):
        g = Generator(shape, 5, 1, classes, upsampling="bilinear" if classes else "nearest")
        d = Discriminator(shape, 1, classes=classes, outputs=2, auxiliary=4, minibatch_std=3)
        x = g(torch.randn(3, 5), Y)
        output = d(x, Y)
        assert x.shape == (3, *shape) and x.abs().max() <= 1
        assert output.logits.shape == (3, 2) and output.classes is not None and output.classes.shape == (3, 4)
        assert [f.shape for f in output.features] == [(3, 2 if min(shape[1:]) <= 32 else 16)]


@pytest.mark.parametrize(
    "shape", [(2,), (8, 8), (3, 7, 7), (3, 4, 4), (3, 33, 33), (3, 36, 36), (3, 32, 36), (0, 32, 32)], ids=str
)
def test_networks_refuse_other_image_sizes(shape: tuple[int, ...]) -> None:
    for make in (lambda: Generator(shape, 4), lambda: Discriminator(shape)):
        with pytest.raises(ValueError, match=r"4, 5, 6 or 7 px times a power of two.*got shape \["):
            make()


def test_networks_refuse_invalid_arguments() -> None:
    for make in (lambda: Generator(image(32), 4, 0), lambda: Discriminator(image(32), 0)):
        with pytest.raises(ValueError, match=r"^width: must be at least 1"):
            make()
    with pytest.raises(ValueError, match=r"^attention: must be the side of a map, 8, 16, 32 px, got 4$"):
        Generator(image(32), 4, 1, attention=4)
    with pytest.raises(ValueError, match=r"^attention: must be the side of a map, 16, 8 px, got 32$"):
        Discriminator(image(32), 1, attention=32)


# -- order of operations -----------------------------------------------------------------------------------------------


def test_block_of_g_matches_its_layers_by_hand() -> None:
    """BN, ReLU, upsampling, 3×3, BN, ReLU, 3×3; on the skip upsampling, then 1×1."""
    x = torch.randn(2, 3, 4, 4)
    for mode in ("nearest", "bilinear"):
        block = far(Up(3, 5, lambda channels: BatchNorm(channels, None), mode))
        h = block.conv1(F.interpolate(block.norm1.norm(x).relu(), scale_factor=2, mode=mode))
        h = block.conv2(block.norm2.norm(h).relu())
        expected = h + block.shortcut(F.interpolate(x, scale_factor=2, mode=mode))
        torch.testing.assert_close(block(x, Y[:2]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("outside", [3, 5])
def test_block_of_d_matches_its_layers_by_hand(pool: bool, first: bool, outside: int) -> None:
    """ReLU (not in the first), 3×3, ReLU, 3×3, pooling; on the skip 1×1 and pooling, without the ReLU."""
    block = far(Down(3, outside, 4, pool, first))
    x = torch.randn(2, 3, 4, 4)
    given = x.clone()
    h = block.conv2(block.conv1(x if first else x.relu()).relu())
    if pool or outside != 3:
        assert isinstance(block.shortcut, nn.Conv2d) and block.shortcut.kernel_size == (1, 1)
        sides = h, F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
    else:
        sides = h, x
    expected = sum(F.avg_pool2d(side, 2) if pool else side for side in sides)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(x, given)  # nothing was rectified in place


def test_blocks_of_d_widen_as_published() -> None:
    """Only the first starts without ReLU; thin blocks widen in the second convolution, wide ones and the first in the first."""
    for wide, hidden in ((False, [2, 2, 4, 8, 16]), (True, [2, 4, 8, 16, 32])):
        blocks = list(Discriminator(image(64), 2, wide=wide).blocks)[::2]
        assert [b.first for b in blocks] == [True, False, False, False, False]
        assert [b.conv1.out_channels for b in blocks] == hidden
        assert [b.conv2.out_channels for b in blocks] == [2, 4, 8, 16, 32]


def test_d_sums_over_pixels_and_projects() -> None:
    d = far(Discriminator((1, 8, 8), 2, classes=3, spectral_norm=False))
    x = torch.randn(3, 1, 8, 8)
    h = d.blocks(x).relu().flatten(2).sum(2)
    output = d(x, Y)
    expected = h @ d.head.out.weight.T + d.head.out.bias + (d.head.label.weight * h).sum(1, keepdim=True)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.features[0], h)


def test_label_selects_scale_and_shift() -> None:
    norm = BatchNorm(4, 3)
    assert [tuple(p.shape) for p in norm.parameters()] == [(3, 8)]  # none of batch norm's own
    x = 5 + 2 * torch.randn(3, 4, 6, 6)
    far(norm)
    scale, shift = norm.label.weight[Y].unflatten(1, (2, 4, 1, 1)).unbind(1)
    normed = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x, Y), scale * normed + shift, rtol=1e-4, atol=1e-4)
    plain = BatchNorm(4, None)
    assert [tuple(p.shape) for p in plain.parameters()] == [(4,), (4,)]
    torch.testing.assert_close(plain(x, Y), normed, rtol=1e-4, atol=1e-4)


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    label = BatchNorm(256, 50).label.weight.detach()
    assert abs(label[:, :256].mean() - 1) < 1e-3 and label[:, :256].std() == pytest.approx(0.02, rel=0.05)
    assert not label[:, 256:].any()
    g, d = Generator(image(64), 20, 4), Discriminator(image(64), 4, classes=20, spectral_norm=False)
    for block in [*g.blocks, *list(d.blocks)[::2]]:
        assert limit(block.conv1) == pytest.approx(2**0.5, rel=0.05) and limit(block.conv2) == pytest.approx(2**0.5, rel=0.05)
        assert limit(block.shortcut) == pytest.approx(1, rel=0.1)
    for layer in (g.project, g.out, d.head.out, d.head.label):
        assert limit(layer) == pytest.approx(1, rel=0.05)
    assert all(not m.bias.any() for n in (g, d) for m in n.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def limit(layer: nn.Module) -> float:
    """The greatest weight, as a multiple of √(6 / (fan in + fan out))."""
    fans = sum(nn.init._calculate_fan_in_and_fan_out(layer.weight))
    return float(layer.weight.abs().max()) / (6 / fans) ** 0.5


def test_spectral_norm_covers_the_published_layers() -> None:
    def normed(network: nn.Module) -> list[bool]:
        kinds = nn.Conv2d | nn.Linear | nn.Embedding
        return [parametrize.is_parametrized(m, "weight") for m in network.modules() if isinstance(m, kinds)]

    assert all(normed(Discriminator(image(32), 1, classes=3, attention=8)))
    assert not any(normed(Discriminator(image(32), 1, classes=3, attention=8, spectral_norm=False)))
    assert not any(normed(Generator(image(32), 4, 1, classes=3, attention=8)))
    g = Generator(image(32), 4, 1, classes=3, attention=8, spectral_norm=True)
    assert normed(g).count(False) == 6  # the labels' embeddings in the batch norms
    d = Discriminator(image(32), 2, classes=3)
    for layer in d.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            layer.parametrizations.weight.original.data.mul_(9)
    d.eval().train()
    for _ in range(30):
        d(torch.randn(3, *image(32)), Y)
    for layer in d.eval().modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


# -- self-attention ----------------------------------------------------------------------------------------------------


def attended(layer: SelfAttention, x: Tensor) -> Tensor:
    """Pixel by pixel: each query against every key of the halved map, no scale."""
    matrix = {name: getattr(layer, name).weight.flatten(1) for name in ("query", "key", "value", "out")}
    keys, values = (F.max_pool2d(torch.einsum("oc,nchw->nohw", matrix[k], x), 2).flatten(2) for k in ("key", "value"))
    found = x.clone()
    for n, i, j in torch.cartesian_prod(*(torch.arange(x.shape[d]) for d in (0, 2, 3))).tolist():
        weights = (matrix["query"] @ x[n, :, i, j] @ keys[n]).softmax(0)
        found[n, :, i, j] += layer.gamma * (matrix["out"] @ (values[n] @ weights))
    return found


def test_attention_starts_as_identity_and_matches_its_formula() -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(16), torch.randn(2, 16, 4, 6)
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.gamma.grad.abs() > 0  # it begins to learn nonetheless
    layer.gamma.data.fill_(0.7)
    torch.testing.assert_close(layer(x), attended(layer, x))
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), attended(layer, x))
    assert {tuple(p.shape[:2]) for p in layer.parameters() if p.ndim} == {(2, 16), (8, 16), (16, 8)}


def test_attention_is_at_the_given_resolution() -> None:
    g, d = Generator(image(32), 4, 1, attention=16), Discriminator(image(32), 1, attention=8)
    assert [isinstance(layer, SelfAttention) for layer in g.attend] == [False, True, False]
    assert [isinstance(layer, SelfAttention) for layer in list(d.blocks)[1::2]] == [False, True, False, False]
    z, x = torch.randn(3, 4), torch.randn(3, *image(32))
    g.eval(), d.eval()
    for network, given in ((g, z), (d, x)):
        (layer,) = [m for m in network.modules() if isinstance(m, SelfAttention)]
        before = network(given, Y)
        layer.gamma.data.fill_(3)
        after = network(given, Y)
        differ = before.logits != after.logits if network is d else before != after
        assert differ.any()


# -- playing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["model=resnet", "model.classes=10", "data.shape=[3,32,32]", "loss=hinge", "model.generator.attention=16"],
        ["model=resnet", "regularizer=[r1]", "model.discriminator.attention=4"],
        ["model=resnet", "constraint=[gradient_norm]", "model.discriminator.spectral_norm=false", "loss=hinge"],
        ["model=dcgan", "model/generator=resnet"],
        ["model=cdcgan", "model/discriminator=resnet", "regularizer=[wgan_gp]", "loss=wasserstein"],
    ],
    ids=" ".join,
)
def test_resnet_trains(options: list[str]) -> None:
    play(compose(*options, *TINY, "model.width_multiplier=0.04"))


def test_resnet_trains_in_bf16() -> None:
    play(
        compose("model=resnet", "model.classes=10", "model.generator.attention=8", *TINY, "model.width_multiplier=0.04"),
        "bf16-mixed",
    )


def test_average_copies_the_vectors_of_spectral_norm() -> None:
    composed = compose(
        "model=resnet", "model.generator.spectral_norm=true", "data.shape=[1,8,8]", *TINY, "model.width_multiplier=0.04"
    )
    system = play(composed)
    for mine, theirs in zip(system.ema.average.buffers(), system.generator.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    assert system.sample(2).shape == (2, 1, 8, 8)
    assert isinstance(system.generator, resnet.Generator) and not isinstance(system.discriminator, dcgan.Discriminator)


# -- experiments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, shape, counts", [("cifar10", [3, 32, 32], (1_053_825, 4_276_739)), ("celeba64", [3, 64, 64], None)]
)
def test_experiments_have_the_published_numbers(name: str, shape: list[int], counts: tuple[int, int] | None) -> None:
    composed = compose(f"experiment=sngan_{name}")
    assert composed["loss"]["_target_"] == "ganexp.losses.Hinge" and composed["data"]["shape"] == shape
    for player in ("generator", "discriminator"):
        optimizer = composed["optimizer"][player]
        assert (optimizer["_target_"], optimizer["lr"], optimizer["betas"]) == ("torch.optim.Adam", 2e-4, [0.0, 0.9])
    assert composed["data"]["batch_size"] == 64 and composed["model"]["d_steps"] == 5 and composed["model"]["classes"] is None
    assert composed["trainer"]["max_steps"] == 5 * 100_000
    assert composed["schedule"] == {
        "_target_": "torch.optim.lr_scheduler.LinearLR", "_partial_": True,
        "start_factor": 1.0, "end_factor": 0.0, "total_iters": 500_000,
    }  # fmt: skip
    assert composed["model"]["latent"] == {"_target_": "ganexp.latents.Normal", "dim": 128}
    assert composed["model"]["fresh_fakes"] and composed["model"]["ema_half_life"] is None
    assert composed["regularizer"] == {} and composed["augment"] == {}
    assert composed["model"]["generator"]["upsampling"] == "bilinear" and not composed["model"]["discriminator"]["wide"]
    with torch.device("meta"):
        system = build(composed["model"], "model")
    found = tuple(sum(p.numel() for p in n.parameters()) for n in system.networks().values())
    assert found == (counts or (10_141_441, 12_220_675))
    if name == "celeba64":
        assert (composed["data"]["fit"], composed["data"]["split"], composed["name"]) == ("crop", "all", "sngan_celeba64")
