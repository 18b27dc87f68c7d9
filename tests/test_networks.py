"""Shapes and sizes of networks, and what their outputs depend on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ganexp.networks import acgan, dcgan, dcgan_anime, dcgan_cats, dcgan_celeba, mlp
from ganexp.networks.frozen import Frozen
from ganexp.networks.output import Output, as_output

SIDES = [8, 16, 32, 64, 128, 256, 28, 9, 15, 33, 100]
SHAPES = [(c, side, side) for side in SIDES for c in (1, 2, 3, 4)] + [(3, 24, 50), (1, 100, 9), (2, 8, 256), (12, 8, 8)]
Y = torch.tensor([0, 1, 2])


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def enlarge(network: nn.Module, factor: float) -> None:
    """Far outside the range that fresh weights give."""
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(factor)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dcgan_fits_every_image_shape(shape: tuple[int, ...]) -> None:
    g, d = dcgan.Generator(shape, latent_dim=5, width=2), dcgan.Discriminator(shape, width=2)
    x = g(torch.randn(3, 5), Y)
    assert x.shape == (3, *shape)
    assert d(x, Y).logits.shape == (3, 1) and d(x, Y).classes is None
    out = dcgan.Discriminator(shape, width=2, classes=3, outputs=4, auxiliary=5)(x, Y)
    assert out.logits.shape == (3, 4) and out.classes.shape == (3, 5)


@pytest.mark.parametrize(
    "side, sides",
    [
        (8, [8, 4, 2]),
        (9, [9, 4, 2]),
        (15, [15, 7, 3]),
        (16, [16, 8, 4]),
        (28, [28, 14, 7]),
        (33, [33, 16, 8, 4]),
        (64, [64, 32, 16, 8, 4]),
        (100, [100, 50, 25, 12, 6]),
        (256, [256, 128, 64, 32, 16, 8, 4]),
    ],
)
def test_map_sizes_halve_down_to_the_smallest_map(side: int, sides: list[int]) -> None:
    assert dcgan.map_sizes([3, side, side]) == [(s, s) for s in sides]


def test_map_sizes_of_a_wide_image_keep_its_aspect() -> None:
    assert dcgan.map_sizes([3, 24, 50]) == [(24, 50), (12, 25), (6, 12)]


def test_every_size_ends_in_a_small_map() -> None:
    for side in range(8, 257):
        sizes = dcgan.map_sizes([1, side, side])
        assert 2 <= sizes[-1][0] <= 7 and len(sizes) >= 3


@pytest.mark.parametrize("shape", [(3, 7, 64), (3, 64, 7), (3, 257, 64), (3, 64, 257), (0, 8, 8), (2,), (8, 8), (1, 1, 8, 8)])
def test_dcgan_refuses_shapes_it_cannot_generate(shape: tuple[int, ...]) -> None:
    for make in (lambda: dcgan.Generator(shape, 4), lambda: dcgan.Discriminator(shape)):
        with pytest.raises(ValueError, match="DCGAN needs images"):
            make()


@pytest.mark.parametrize("width", [0, -2])
def test_networks_refuse_empty_layers(width: int) -> None:
    for make in (lambda: dcgan.Generator((1, 8, 8), 4, width), lambda: dcgan.Discriminator((1, 8, 8), width)):
        with pytest.raises(ValueError, match=r"^width: "):
            make()
    for make in (lambda: mlp.Generator([2], 4, [8, width]), lambda: mlp.Discriminator([2], [width])):
        with pytest.raises(ValueError, match=r"^hidden: "):
            make()


def test_dcgan_64_has_the_published_parameter_count() -> None:
    # G: z to 4×4×512            100 · 512 · 16             =   819,200
    #    batch norms             2 · (512 + 256 + 128 + 64) =     1,920
    #    512-256, 256-128,       16 · (512 · 256 + 256 · 128
    #    128-64                      + 128 · 64)            = 2,752,512
    #    64-3 and its bias       16 · 64 · 3 + 3            =     3,075
    assert count(dcgan.Generator((3, 64, 64), latent_dim=100, width=64)) == 3_576_707
    # D: 3-64 and its bias       16 · 3 · 64 + 64           =     3,136
    #    64-128, 128-256, 256-512                           = 2,752,512
    #    batch norms             2 · (128 + 256 + 512)      =     1,792
    #    4×4×512 to 1            512 · 16 + 1               =     8,193
    assert count(dcgan.Discriminator((3, 64, 64), width=64)) == 2_765_633
    # Without batch norm three biases, 128 + 256 + 512, in its place.
    assert count(dcgan.Discriminator((3, 64, 64), width=64, norm=False)) == 2_765_633 - 896
    # A label: ten more inputs of the projection, an embedding of ten.
    assert count(dcgan.Generator((3, 64, 64), 100, 64, classes=10)) == 3_576_707 + 10 * 512 * 16
    assert count(dcgan.Discriminator((3, 64, 64), 64, classes=10)) == 2_765_633 + 10 * 512 * 16


def test_channels_double_up_to_eight_times_the_width() -> None:
    d = dcgan.Discriminator((1, 256, 256), width=2)
    assert [m.out_channels for m in d.modules() if isinstance(m, nn.Conv2d)] == [2, 4, 8, 16, 16, 16]
    g = dcgan.Generator((1, 256, 256), 4, width=2)
    assert [m.in_channels for m in g.modules() if isinstance(m, nn.ConvTranspose2d)] == [16, 16, 16, 8, 4, 2]


def test_batch_norm_can_be_left_out() -> None:
    x = torch.randn(3, 1, 32, 32)
    normed, plain = dcgan.Discriminator((1, 32, 32), 4), dcgan.Discriminator((1, 32, 32), 4, norm=False)
    assert [m.num_features for m in normed.modules() if isinstance(m, nn.BatchNorm2d)] == [8, 16]  # none after the first
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    # Each image is scored alone.
    enlarge(plain, 10)
    enlarge(normed, 10)
    torch.testing.assert_close(plain(x, Y).logits[:2], plain(x[:2], Y[:2]).logits)
    assert not torch.allclose(normed(x, Y).logits[:2], normed(x[:2], Y[:2]).logits, rtol=1e-2)


def test_dcgan_weights_start_as_published() -> None:
    torch.manual_seed(0)
    for network in (dcgan.Generator((3, 32, 32), 100, 32, classes=10), dcgan.Discriminator((3, 32, 32), 32, classes=10)):
        kinds = set()
        for module in network.modules():
            weight = getattr(module, "weight", None)
            if weight is None:
                continue
            kinds.add(type(module).__name__)
            normal = isinstance(module, nn.BatchNorm2d)
            tolerance = 5 * 0.02 / weight.numel() ** 0.5
            assert weight.mean().item() == pytest.approx(1.0 if normal else 0.0, abs=tolerance)
            assert weight.std().item() == pytest.approx(0.02, abs=tolerance)
            assert getattr(module, "bias", None) is None or not module.bias.any()
        assert kinds in ({"Linear", "BatchNorm2d", "ConvTranspose2d"}, {"Conv2d", "BatchNorm2d", "Linear", "Embedding"})


@pytest.mark.parametrize("make", [lambda s: dcgan.Generator(s, 4, 2), lambda s: mlp.Generator(s, 4, [8])], ids=["dcgan", "mlp"])
def test_generated_images_are_in_range(make: type) -> None:
    torch.manual_seed(0)
    g = make((3, 16, 16))
    enlarge(g, 100)
    x = g(torch.randn(3, 4), Y)
    assert 0.99 < x.abs().max() <= 1 and x.min() < 0 < x.max()


def test_generated_points_are_unbounded() -> None:
    torch.manual_seed(0)
    g = mlp.Generator([2], 4, [8])
    enlarge(g, 100)
    assert g(torch.randn(3, 4), Y).abs().max() > 10


GENERATORS = {
    "dcgan": lambda classes: dcgan.Generator((1, 16, 16), 4, 2, classes=classes),
    "mlp": lambda classes: mlp.Generator((1, 16, 16), 4, [8], classes=classes),
}
DISCRIMINATORS = {
    "dcgan": lambda classes, outputs: dcgan.Discriminator((1, 16, 16), 2, classes=classes, outputs=outputs),
    "mlp": lambda classes, outputs: mlp.Discriminator((1, 16, 16), [8], classes=classes, outputs=outputs),
}


def differs(network: nn.Module, x: Tensor) -> Tensor:
    """[N, …]: where the output changes with the label alone."""
    network.eval()
    enlarge(network, 10)
    answers = [network(x, torch.tensor(y)) for y in ([0, 0, 0], [1, 2, 1])]
    one, other = (answer.logits if isinstance(answer, Output) else answer for answer in answers)
    return one != other


@pytest.mark.parametrize("kind", GENERATORS)
def test_only_conditional_generators_depend_on_the_label(kind: str) -> None:
    torch.manual_seed(0)
    z = torch.randn(3, 4)
    assert differs(GENERATORS[kind](3), z).flatten(1).any(1).all()
    assert not differs(GENERATORS[kind](None), z).any()


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_only_conditional_discriminators_depend_on_the_label(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 16, 16)
    assert differs(DISCRIMINATORS[kind](3, 1), x).all()
    assert not differs(DISCRIMINATORS[kind](None, 1), x).any()


def test_projection_changes_only_the_first_logit() -> None:
    torch.manual_seed(0)
    d = dcgan.Discriminator((1, 16, 16), 2, classes=3, outputs=4).eval()
    x = torch.randn(3, 1, 16, 16)
    assert differs(d, x).tolist() == [[True, False, False, False]] * 3
    h = d.blocks(x).flatten(1)
    expected = d.head.out(h)[:, 0] + torch.stack([d.head.label.weight[k] @ h[i] for i, k in enumerate((2, 0, 1))])
    torch.testing.assert_close(d(x, torch.tensor([2, 0, 1])).logits[:, 0], expected)


def test_mlp_has_the_given_layers() -> None:
    g = mlp.Generator([2], 2, [16, 32])
    assert count(g) == (2 * 16 + 16) + (16 * 32 + 32) + (32 * 2 + 2)
    d = mlp.Discriminator([2], [256, 128, 64])
    assert count(d) == (2 * 256 + 256) + (256 * 128 + 128) + (128 * 64 + 64) + (64 * 1 + 1)
    x = g(torch.randn(3, 2), Y)
    assert x.shape == (3, 2) and d(x, Y).logits.shape == (3, 1)


@pytest.mark.parametrize("shape", [(2,), (1, 28, 28), (3, 5, 7)], ids=str)
def test_mlp_fits_points_and_images(shape: tuple[int, ...]) -> None:
    x = mlp.Generator(shape, 4, [8], classes=3)(torch.randn(3, 4), Y)
    assert x.shape == (3, *shape)
    assert mlp.Discriminator(shape, [8], classes=3, outputs=4)(x, Y).logits.shape == (3, 4)


def test_mlp_drops_out_in_training_only() -> None:
    torch.manual_seed(0)
    d, x = mlp.Discriminator([2], [64], dropout=0.5), torch.randn(3, 2)
    assert not torch.equal(d(x, Y).logits, d(x, Y).logits)
    d.eval()
    assert torch.equal(d(x, Y).logits, d(x, Y).logits)
    never = mlp.Discriminator([2], [64], dropout=0.0)
    assert torch.equal(never(x, Y).logits, never(x, Y).logits)


# -- what a discriminator returns ------------------------------------------------------------------------------------

EVERY_D = {
    "acgan": lambda **more: acgan.Discriminator((1, 16, 16), 2, **more),
    "dcgan": lambda **more: dcgan.Discriminator((1, 16, 16), 2, **more),
    "dcgan_anime": lambda **more: dcgan_anime.Discriminator((1, 16, 16), 2, **more),
    "dcgan_cats": lambda **more: dcgan_cats.Discriminator((1, 16, 16), 2, **more),
    "dcgan_celeba": lambda **more: dcgan_celeba.Discriminator((1, 16, 16), 2, **more),
    "mlp": lambda **more: mlp.Discriminator((1, 16, 16), [8], **more),
}


@pytest.mark.parametrize("kind", EVERY_D)
def test_every_discriminator_returns_logits_classes_and_features(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 16, 16)
    d = EVERY_D[kind](outputs=2, auxiliary=4).eval()
    logits, classes, features = d(x, Y)
    assert logits.shape == (3, 2) and classes.shape == (3, 4)
    # The head is linear in the last of its features: scores first, then names.
    torch.testing.assert_close(torch.cat([logits, classes], 1), d.head.out(features[-1]))
    plain = EVERY_D[kind]().eval()(x, Y)
    assert plain.logits.shape == (3, 1) and plain.classes is None and len(plain.features) == 1


def test_class_logits_do_not_depend_on_the_label() -> None:
    torch.manual_seed(0)
    d, x = dcgan.Discriminator((1, 16, 16), 2, classes=3, auxiliary=3).eval(), torch.randn(3, 1, 16, 16)
    one, other = d(x, torch.tensor([0, 0, 0])), d(x, torch.tensor([1, 2, 1]))
    assert torch.equal(one.classes, other.classes) and not torch.equal(one.logits, other.logits)


def test_as_output_takes_a_bare_tensor_as_logits() -> None:
    logits = torch.randn(3, 2, dtype=torch.bfloat16)
    out = as_output(logits)
    assert torch.equal(out.logits, logits.float()) and out.classes is None and out.features == ()
    feature = torch.randn(3, 5, dtype=torch.bfloat16)
    full = as_output(Output(logits, logits, (feature,)))
    assert full.logits.dtype == full.classes.dtype == torch.float32 and full.features[0] is feature


# -- weights that nobody trains --------------------------------------------------------------------------------------


def frozen_inside() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Frozen(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout())), nn.Linear(3, 1))


def test_frozen_network_is_absent_from_parameters_and_state() -> None:
    network = frozen_inside()
    assert set(network.state_dict()) == {"1.weight", "1.bias"} == {name for name, _ in network.named_parameters()}
    assert not list(network[0].buffers()) and not any(p.requires_grad for p in network[0].network.parameters())


def test_frozen_network_stays_in_evaluation_mode() -> None:
    network, x = frozen_inside().train(), torch.randn(8, 2)
    first = network(x)
    assert torch.equal(network(x), first) and not network[0].network.training  # no dropout, no statistics of the batch
    assert network[0].network[1].num_batches_tracked == 0


def test_gradients_pass_through_a_frozen_network() -> None:
    network, x = frozen_inside(), torch.randn(8, 2, requires_grad=True)
    network(x).sum().backward()
    assert x.grad is not None and x.grad.abs().min() > 0 and network[1].weight.grad is not None
    assert all(p.grad is None for p in network[0].network.parameters())


def test_frozen_network_moves_with_its_holder() -> None:
    network = frozen_inside().double()
    assert network[0].network[0].weight.dtype == torch.float64 and network(torch.randn(2, 2).double()).dtype == torch.float64
    assert network.to("meta")[0].network[1].running_mean.device.type == "meta"
    two = copy.deepcopy(network)
    assert two[0].network is not network[0].network
