"""The published systems, number by number. Every number was copied from their specification, not from the code."""

from __future__ import annotations

from functools import cache, reduce
from math import sqrt
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.cli import checks, config
from ganexp.cli.build import build
from ganexp.networks.output import Output


@cache
def recipe(name: str, *overrides: str) -> dict[str, Any]:
    with config.config_tree():
        return config.resolved(checks.compose_checked([f"experiment={name}", *overrides]))


@cache
def weightless(name: str) -> Any:
    """The system in full size, its shapes only."""
    with torch.device("meta"):
        return build(recipe(name)["model"], "model")


# -- networks --------------------------------------------------------------------------------------------------------

# Layers that share an output shape, that shape without the batch, and their parameters: weights + biases + batch norm's two.
Row = tuple[str, tuple[int, ...], int]

ACGAN_G: list[Row] = [
    ("in", (100,), 0),
    ("embedding", (100,), 10 * 100),
    ("dense ReLU", (6272,), 100 * 6272 + 6272),
    ("BN", (128, 7, 7), 2 * 128),
    ("up conv3×3s1 ReLU BN", (128, 14, 14), 128 * 128 * 9 + 128 + 2 * 128),
    ("up", (128, 28, 28), 0),
    ("conv3×3s1 ReLU BN", (64, 28, 28), 128 * 64 * 9 + 64 + 2 * 64),
    ("conv3×3s1 tanh", (1, 28, 28), 64 * 1 * 9 + 1),
    ("out", (1, 28, 28), 0),
]
ACGAN_D: list[Row] = [
    ("in", (1, 28, 28), 0),
    ("conv3×3s2 LReLU dropout", (16, 14, 14), 1 * 16 * 9 + 16),
    ("conv3×3s2", (32, 7, 7), 16 * 32 * 9 + 32),
    ("pad LReLU dropout BN", (32, 8, 8), 2 * 32),
    ("conv3×3s2 LReLU dropout BN", (64, 4, 4), 32 * 64 * 9 + 64 + 2 * 64),
    ("conv3×3s1 LReLU dropout", (128, 4, 4), 64 * 128 * 9 + 128),
]
CELEBA_G: list[Row] = [
    ("in", (100,), 0),
    ("dense", (8192,), 100 * 8192 + 8192),
    ("convT4×4s2 BN ReLU", (256, 8, 8), 512 * 256 * 16 + 256 + 2 * 256),
    ("convT4×4s2 BN ReLU", (128, 16, 16), 256 * 128 * 16 + 128 + 2 * 128),
    ("convT4×4s2 BN ReLU", (64, 32, 32), 128 * 64 * 16 + 64 + 2 * 64),
    ("convT4×4s2 BN ReLU", (32, 64, 64), 64 * 32 * 16 + 32 + 2 * 32),
    ("conv3×3s1 tanh", (3, 64, 64), 32 * 3 * 9 + 3),
    ("out", (3, 64, 64), 0),
]
NETWORKS: dict[str, list[Row]] = {
    "sine_mlp.generator": [
        ("in", (2,), 0),
        ("dense ReLU", (16,), 2 * 16 + 16),
        ("dense ReLU", (32,), 16 * 32 + 32),
        ("dense", (2,), 32 * 2 + 2),
        ("out", (2,), 0),
    ],
    "sine_mlp.discriminator": [
        ("in", (2,), 0),
        ("dense ReLU dropout", (256,), 2 * 256 + 256),
        ("dense ReLU dropout", (128,), 256 * 128 + 128),
        ("dense ReLU dropout", (64,), 128 * 64 + 64),
        ("dense", (1,), 64 * 1 + 1),
        ("out", (1,), 0),
    ],
    "mnist_mlp.generator": [
        ("in", (100,), 0),
        ("dense ReLU", (256,), 100 * 256 + 256),
        ("dense ReLU", (512,), 256 * 512 + 512),
        ("dense ReLU", (1024,), 512 * 1024 + 1024),
        ("dense tanh", (784,), 1024 * 784 + 784),
        ("out", (1, 28, 28), 0),
    ],
    "mnist_mlp.discriminator": [
        ("in", (1, 28, 28), 0),
        ("dense ReLU dropout", (1024,), 784 * 1024 + 1024),
        ("dense ReLU dropout", (512,), 1024 * 512 + 512),
        ("dense ReLU dropout", (256,), 512 * 256 + 256),
        ("dense", (1,), 256 * 1 + 1),
        ("out", (1,), 0),
    ],
    "mnist_acgan.generator": ACGAN_G,
    "mnist_acgan.discriminator": [
        *ACGAN_D,
        ("dense", (12,), (2048 * 1 + 1) + (2048 * 11 + 11)),  # the two heads side by side
        ("out", (1,), 0),
        ("classes", (11,), 0),
    ],
    "mnist_cgan.generator": ACGAN_G,
    "mnist_cgan.discriminator": [
        *ACGAN_D,
        ("dense", (1,), 2048 * 1 + 1),
        ("embedding", (2048,), 10 * 2048),
        ("out", (1,), 0),
    ],
    "anime_dcgan.generator": [
        ("in", (100,), 0),
        ("convT4×4s1 BN LReLU", (512, 4, 4), 100 * 512 * 16 + 512 + 2 * 512),
        ("convT4×4s2 BN LReLU", (256, 8, 8), 512 * 256 * 16 + 256 + 2 * 256),
        ("convT4×4s2 BN LReLU", (128, 16, 16), 256 * 128 * 16 + 128 + 2 * 128),
        ("convT4×4s2 BN LReLU", (64, 32, 32), 128 * 64 * 16 + 64 + 2 * 64),
        ("conv3×3s1 BN LReLU", (64, 32, 32), 64 * 64 * 9 + 64 + 2 * 64),
        ("convT4×4s2 tanh", (3, 64, 64), 64 * 3 * 16 + 3),
        ("out", (3, 64, 64), 0),
    ],
    "anime_dcgan.discriminator": [
        ("in", (3, 64, 64), 0),
        ("conv4×4s2 LReLU", (64, 32, 32), 3 * 64 * 16 + 64),
        ("conv4×4s2 BN LReLU", (128, 16, 16), 64 * 128 * 16 + 128 + 2 * 128),
        ("conv4×4s2 BN LReLU", (256, 8, 8), 128 * 256 * 16 + 256 + 2 * 256),
        ("conv4×4s2 BN LReLU", (512, 4, 4), 256 * 512 * 16 + 512 + 2 * 512),
        ("dense", (1,), 512 * 4 * 4 + 1),
        ("out", (1,), 0),
    ],
    "celeba_dcgan.generator": CELEBA_G,
    "celeba_dcgan.discriminator": [
        ("in", (3, 64, 64), 0),
        ("conv3×3s1 BN LReLU", (64, 64, 64), 3 * 64 * 9 + 64 + 2 * 64),
        ("conv3×3s2 BN LReLU", (64, 32, 32), 64 * 64 * 9 + 64 + 2 * 64),
        ("conv3×3s1 BN LReLU", (128, 32, 32), 64 * 128 * 9 + 128 + 2 * 128),
        ("conv3×3s2 BN LReLU", (128, 16, 16), 128 * 128 * 9 + 128 + 2 * 128),
        ("conv3×3s1 BN LReLU", (256, 16, 16), 128 * 256 * 9 + 256 + 2 * 256),
        ("conv3×3s2 BN LReLU", (256, 8, 8), 256 * 256 * 9 + 256 + 2 * 256),
        ("conv3×3s1 BN LReLU", (512, 8, 8), 256 * 512 * 9 + 512 + 2 * 512),
        ("conv3×3s2 BN LReLU", (512, 4, 4), 512 * 512 * 9 + 512 + 2 * 512),
        ("pool", (512, 1, 1), 0),
        ("dense", (1,), 512 * 1 + 1),
        ("out", (1,), 0),
    ],
    "celeba_vae.generator": CELEBA_G,
    "celeba_vae.encoder": [  # no bias before a batch norm
        ("in", (3, 64, 64), 0),
        ("conv4×4s2 LReLU", (64, 32, 32), 3 * 64 * 16 + 64),
        ("conv4×4s2 BN LReLU", (128, 16, 16), 64 * 128 * 16 + 2 * 128),
        ("conv4×4s2 BN LReLU", (256, 8, 8), 128 * 256 * 16 + 2 * 256),
        ("conv4×4s2 BN LReLU", (512, 4, 4), 256 * 512 * 16 + 2 * 512),
        ("dense", (200,), 512 * 4 * 4 * 200 + 200),
        ("out", (200,), 0),
    ],
    "cats_dcgan.generator": [
        ("in", (100,), 0),
        ("dense LReLU", (65536,), 100 * 65536 + 65536),
        ("convT5×5s2 BN LReLU", (512, 16, 16), 1024 * 512 * 25 + 512 + 2 * 512),
        ("convT5×5s2 BN LReLU", (256, 32, 32), 512 * 256 * 25 + 256 + 2 * 256),
        ("convT5×5s2 BN LReLU", (128, 64, 64), 256 * 128 * 25 + 128 + 2 * 128),
        ("convT5×5s2 BN LReLU", (64, 128, 128), 128 * 64 * 25 + 64 + 2 * 64),
        ("convT5×5s1 tanh", (3, 128, 128), 64 * 3 * 25 + 3),
        ("out", (3, 128, 128), 0),
    ],
    "cats_dcgan.discriminator": [
        ("in", (3, 128, 128), 0),
        ("conv5×5s2 BN LReLU", (64, 64, 64), 3 * 64 * 25 + 64 + 2 * 64),
        ("conv5×5s2 BN LReLU", (128, 32, 32), 64 * 128 * 25 + 128 + 2 * 128),
        ("conv5×5s2 BN LReLU", (256, 16, 16), 128 * 256 * 25 + 256 + 2 * 256),
        ("conv5×5s1 BN LReLU", (512, 16, 16), 256 * 512 * 25 + 512 + 2 * 512),
        ("conv5×5s2 BN LReLU", (1024, 8, 8), 512 * 1024 * 25 + 1024 + 2 * 1024),
        ("dense", (1,), 8 * 8 * 1024 + 1),
        ("out", (1,), 0),
    ],
}
NAMES = {
    "Linear": "dense", "Conv2d": "conv", "ConvTranspose2d": "convT", "BatchNorm2d": "BN", "LeakyReLU": "LReLU", "Tanh": "tanh",
    "Dropout": "dropout", "Embedding": "embedding", "Upsample": "up", "ZeroPad2d": "pad", "AdaptiveAvgPool2d": "pool",
}  # fmt: skip
CONVOLUTION = nn.Conv2d | nn.ConvTranspose2d
RESHAPE = nn.Flatten | nn.Unflatten | nn.Identity  # some networks have a layer for it, some a line of their forward


def label(layer: nn.Module) -> str:
    name = NAMES.get(type(layer).__name__, type(layer).__name__)
    if isinstance(layer, CONVOLUTION):
        name += f"{layer.kernel_size[0]}×{layer.kernel_size[1]}s{layer.stride[0]}"
    return name


def layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if not list(m.children()) and not isinstance(m, RESHAPE)]


def run_through(network: nn.Module, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """What each layer gives for a batch of two, in the order in which they are called."""
    called = [("in", (2, *shape))]

    def note(layer: nn.Module, _: Any, out: Tensor) -> None:
        called.append((label(layer), tuple(out.shape)))

    hooks = [layer.register_forward_hook(note) for layer in layers(network)]
    out = network(torch.empty(2, *shape, device="meta"), torch.empty(2, dtype=torch.long, device="meta"))
    for hook in hooks:
        hook.remove()
    for i, x in enumerate(x for x in (out if isinstance(out, Output) else [out])[:2] if x is not None):
        called.append(("classes" if i else "out", tuple(x.shape)))
    return called


def network_of(key: str) -> nn.Module:
    name, part = key.split(".")
    return getattr(weightless(name), part)


@pytest.mark.parametrize("key", NETWORKS)
def test_layers_are_as_published(key: str) -> None:
    expected = [(name, (2, *shape)) for names, shape, _ in NETWORKS[key] for name in names.split()]
    assert run_through(network_of(key), NETWORKS[key][0][1]) == expected


@pytest.mark.parametrize("key", NETWORKS)
def test_parameter_counts_are_as_published(key: str) -> None:
    assert sum(p.numel() for p in network_of(key).parameters()) == sum(parameters for _, _, parameters in NETWORKS[key])


CONSTANTS: dict[str, dict[str, set[float]]] = {  # torch's momentum is 1 - m
    "sine_mlp": {"p": {0.3}},
    "mnist_mlp": {"p": {0.3}},
    "mnist_acgan": {"p": {0.25}, "negative_slope": {0.2}, "momentum": {0.2}, "eps": {1e-3}},
    "mnist_cgan": {"p": {0.25}, "negative_slope": {0.2}, "momentum": {0.2}, "eps": {1e-3}},
    "anime_dcgan": {"negative_slope": {0.2}, "momentum": {0.5}, "eps": {1e-3}},
    "celeba_dcgan": {"negative_slope": {0.2}},
    "celeba_vae": {"negative_slope": {0.2}},
    "cats_dcgan": {"negative_slope": {0.2}, "eps": {1e-5}},
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_of_the_layers_are_as_published(name: str) -> None:
    everything = [layer for network in weightless(name).networks().values() for layer in layers(network)]
    found = {key: {getattr(layer, key) for layer in everything if hasattr(layer, key)} for key in CONSTANTS[name]}
    assert found == CONSTANTS[name]


def test_acgan_pads_its_second_map_at_the_right_and_bottom() -> None:
    for name in ("mnist_acgan", "mnist_cgan"):
        (pad,) = [m for m in layers(weightless(name).discriminator) if isinstance(m, nn.ZeroPad2d)]
        assert pad.padding == (0, 1, 0, 1)


def fresh_layers(name: str, *overrides: str) -> list[Any]:
    """The layers with weights, those of the label apart, as they start."""
    torch.manual_seed(0)
    networks = build(recipe(name, *overrides)["model"], "model").networks().values()
    return [layer for network in networks for layer in layers(network) if isinstance(layer, CONVOLUTION | nn.Linear)]


@pytest.mark.parametrize("name", ["mnist_acgan", "mnist_cgan", "anime_dcgan"])
def test_weights_are_glorot_uniform_where_published(name: str) -> None:
    for layer in fresh_layers(name):
        if isinstance(layer, nn.Linear):
            fans = layer.in_features + layer.out_features
        else:
            fans = (layer.in_channels + layer.out_channels) * layer.kernel_size[0] * layer.kernel_size[1]
        bound = sqrt(6 / fans)
        assert 0.95 * bound < layer.weight.abs().max() <= bound, layer
        assert layer.weight.std().item() == pytest.approx(bound / sqrt(3), rel=2 / sqrt(layer.weight.numel())), layer
        assert not layer.bias.any(), layer


def test_weights_are_truncated_normal_where_published() -> None:
    for layer in fresh_layers("cats_dcgan", "model.width_multiplier=0.25"):  # the law does not depend on the width
        assert 0.039 < layer.weight.abs().max() <= 0.04, layer
        # N(0, 1) cut at ±2 has a deviation of √(1 - 2 · 2φ(2) / (Φ(2) - Φ(-2))) = 0.8796.
        assert layer.weight.std().item() == pytest.approx(0.8796 * 0.02, rel=2 / sqrt(layer.weight.numel())), layer
        assert not layer.bias.any(), layer


# -- the auxiliary classifier ----------------------------------------------------------------------------------------


@pytest.fixture
def acgan() -> Any:
    torch.manual_seed(0)
    return build(recipe("mnist_acgan")["model"], "model").eval()


@torch.no_grad()
def test_acgan_multiplies_z_by_the_label_embedding(acgan: Any) -> None:
    g, z, other = acgan.generator, torch.randn(4, 100), torch.randn(4, 100)
    drawn = {k: (g(z, torch.full((4,), k)), g(other, torch.full((4,), k))) for k in (3, 5)}
    assert not torch.equal(*drawn[3])
    g.label.weight[3] = 0
    assert torch.equal(g(z, torch.full((4,), 3)), g(other, torch.full((4,), 3)))
    assert torch.equal(g(z, torch.full((4,), 5)), drawn[5][0])
    g.label.weight[3] = 1
    torch.testing.assert_close(g(z * g.label.weight[5], torch.full((4,), 3)), drawn[5][0])


@torch.no_grad()
def test_acgan_has_one_logit_and_eleven_class_logits(acgan: Any) -> None:
    x = torch.randn(4, 1, 28, 28)
    out = acgan.discriminator(x, torch.zeros(4, dtype=torch.long))
    assert out.logits.shape == (4, 1) and out.classes.shape == (4, 10 + 1)
    again = acgan.discriminator(x, torch.arange(4))  # it is not told what it is to say
    assert torch.equal(out.logits, again.logits) and torch.equal(out.classes, again.classes)


def test_acgan_minimizes_the_published_objective(acgan: Any) -> None:
    """What the game gives its optimizers, for images that D scores in evaluation mode here."""
    y, z, images = torch.tensor([0, 3, 9]), torch.randn(3, 100), torch.randn(2, 3, 1, 28, 28)
    real, fake = (acgan.discriminator(x, y) for x in images)
    validity = [F.binary_cross_entropy_with_logits(x.logits, torch.full((3, 1), t)) for x, t in ((real, 1.0), (fake, 0.0))]
    digits = [F.cross_entropy(x.classes, t) for x, t in ((real, y), (fake, torch.full((3,), 10)))]
    (d,) = acgan.discriminator_losses(["real", "fake"], acgan.due_terms("discriminator", 0), *images, z, y)
    torch.testing.assert_close(d, (sum(validity) + sum(digits)) / 2)
    (g,) = acgan.generator_losses(acgan.due_terms("generator", 0), images[0], z, y, images[1])
    fooled = F.binary_cross_entropy_with_logits(fake.logits, torch.ones(3, 1))
    torch.testing.assert_close(g, fooled + F.cross_entropy(fake.classes, y))


# -- training --------------------------------------------------------------------------------------------------------


def adam(g: float, d: float, betas: tuple[float, float]) -> dict[str, Any]:
    kind = {f"model.optimizer.{player}._target_": "torch.optim.Adam" for player in ("generator", "discriminator")}
    return kind | {
        "model.optimizer.generator.lr": g,
        "model.optimizer.discriminator.lr": d,
        "model.optimizer.generator.betas": list(betas),
        "model.optimizer.discriminator.betas": list(betas),
        "model.schedule._target_": "torch.optim.lr_scheduler.ConstantLR",
        "model.schedule.factor": 1.0,
    }


def bce(real: Any = 1.0, fake: Any = 0.0, generator: Any = 1.0) -> dict[str, Any]:
    return {
        "model.loss._target_": "ganexp.losses.BCE",
        "model.loss.real": real,
        "model.loss.fake": fake,
        "model.loss.generator": generator,
    }


def normal(dim: int) -> dict[str, Any]:
    return {"model.latent._target_": "ganexp.latents.Normal", "model.latent.dim": dim}


# Nothing that a tutorial does not have.
PLAIN: dict[str, Any] = {
    "model.ema_half_life": None,
    "model.width_multiplier": 1.0,
    "regularizer": {},
    "augment": {},
    "model.anneal": {},
}
ONE_TO_ONE: dict[str, Any] = {
    "model.d_steps": 1,
    "model.g_steps": 1,
    "model.regularizers": {},
    "model.augment": {},
    "model.constraints": {},
}
TORCH_BETAS, DCGAN_BETAS = (0.9, 0.999), (0.5, 0.999)
SINE_EPOCH, MNIST_EPOCH = 1024 // 32, 60_000 // 32
CATS_EPOCH = 5153 // 64  # the incomplete last batch is left out

ACGAN: dict[str, Any] = {
    "model._target_": "ganexp.systems.gan.GAN",
    **PLAIN,
    **ONE_TO_ONE,
    **normal(100),
    **adam(2e-4, 2e-4, DCGAN_BETAS),
    **bce(),
    "model.loss.weight": 0.5,
    "model.separate": False,
    "model.classes": 10,
    "data._target_": "ganexp.data.mnist.MNIST",
    "data.shape": [1, 28, 28],
    "data.batch_size": 32,
    "trainer.max_steps": 14_000,
    "callbacks.samples.num": 10 * 10,
}
NUMBERS: dict[str, dict[str, Any]] = {
    "sine_mlp": {
        **PLAIN,
        **ONE_TO_ONE,
        **normal(2),
        **adam(1e-3, 1e-3, TORCH_BETAS),
        **bce(),
        "seed": 111,
        "model.loss.weight": 0.5,  # real and fake in one batch
        "model.separate": False,
        "model.fresh_fakes": True,
        "data._target_": "ganexp.data.toy.Sine",
        "data.points": 1024,
        "data.points_seed": 111,
        "data.batch_size": 32,
        "trainer.max_steps": 300 * SINE_EPOCH,
        "trainer.log_every": 10 * SINE_EPOCH,
    },
    "mnist_mlp": {
        **PLAIN,
        **ONE_TO_ONE,
        **normal(100),
        **adam(1e-4, 1e-4, TORCH_BETAS),
        **bce(),
        "seed": 111,
        "data._target_": "ganexp.data.mnist.MNIST",
        "data.shape": [1, 28, 28],
        "data.batch_size": 32,
        "trainer.max_steps": 50 * MNIST_EPOCH,
        "callbacks.samples.every": MNIST_EPOCH,
        "callbacks.samples.num": 4 * 4,
        "hardware.accelerator": "auto",
    },
    "mnist_acgan": {
        **ACGAN,
        "model.terms.class_d._target_": "ganexp.regularizers.AuxiliaryClassifier",
        "model.terms.class_g._target_": "ganexp.regularizers.AuxiliaryClassifier",
        "model.terms.class_d.player": "discriminator",
        "model.terms.class_g.player": "generator",
        "model.terms.class_d.weight": 1.0,
        "model.terms.class_g.weight": 1.0,
        "model.terms.class_d.classes": 10,
        "model.terms.class_g.classes": 10,
    },
    "mnist_cgan": {**ACGAN, "model.terms": {}},
    "anime_dcgan": {
        **PLAIN,
        **ONE_TO_ONE,
        **normal(100),
        **adam(1.5e-4, 2e-4, DCGAN_BETAS),
        **bce(real=[0.8, 1.0], fake=[0.0, 0.2], generator=[0.8, 1.0]),
        "model.loss.weight": 1.0,
        "model.separate": True,
        "model.fresh_fakes": True,
        "data._target_": "ganexp.data.faces.Anime",
        "data.shape": [3, 64, 64],
        "data.batch_size": 64,
        "data.replacement": True,
        "trainer.max_steps": 10_000,
        "trainer.log_every": 500,
        "trainer.log_window": 250,
        "callbacks.samples.every": 100,
        "callbacks.checkpoint.every": 500,
    },
    "celeba_dcgan": {
        **PLAIN,
        **ONE_TO_ONE,
        **bce(),
        "model.fresh_fakes": True,
        "data._target_": "ganexp.data.faces.CelebA",
        "data.shape": [3, 64, 64],
        "data.fit": "squash",
    },
    "celeba_vae": {
        **PLAIN,
        **normal(100),
        "model._target_": "ganexp.systems.vae.VAE",
        "model.loss._target_": "ganexp.losses.ELBO",
        "model.loss.beta": 1.0,
    },
    "cats_dcgan": {
        **PLAIN,
        **ONE_TO_ONE,
        **adam(2e-4, 5e-5, DCGAN_BETAS),
        **bce(real=0.9),
        "model.latent._target_": "ganexp.latents.Uniform",
        "model.latent.dim": 100,
        "model.loss.weight": 1.0,
        "model.separate": False,
        "data._target_": "ganexp.data.faces.Cats",
        "data.shape": [3, 128, 128],
        "data.batch_size": 64,
        "trainer.max_steps": 215 * CATS_EPOCH,
        "trainer.log_every": 1500,
        "callbacks.samples.every": 10,
        "callbacks.checkpoint.every": 5 * CATS_EPOCH,
    },
}


@pytest.mark.parametrize("name", NUMBERS)
def test_recipes_have_the_published_numbers(name: str) -> None:
    composed = recipe(name)
    assert {key: reduce(getitem, key.split("."), composed) for key in NUMBERS[name]} == NUMBERS[name]


def test_celeba_vae_and_gan_share_data_and_generator() -> None:
    gan, vae = recipe("celeba_dcgan"), recipe("celeba_vae")
    assert vae["data"] == gan["data"] and vae["trainer"] == gan["trainer"] and vae["seed"] == gan["seed"]
    assert vae["model"]["generator"] == gan["model"]["generator"] and vae["model"]["latent"] == gan["model"]["latent"]
    assert vae["model"]["optimizer"]["generator"] == gan["model"]["optimizer"]["generator"]


# -- the improved recipes --------------------------------------------------------------------------------------------

IMPROVED = sorted(path.stem for path in (config.CONF_DIR / "experiment").glob("*_plus.yaml"))
ORDER = {"batch_size", "replacement", "seed"}  # how the data comes, not what it is
SIZE = ("_target_", "shape", "width", "hidden")
NEW_NETWORKS = (
    "anime_dcgan_plus",
    "cats_dcgan_plus",
    "celeba_dcgan_plus",
    "mnist_acgan_plus",
    "mnist_cgan_plus",
    "mnist_mlp_plus",
)


@pytest.mark.parametrize("name", IMPROVED)
def test_plus_recipe_keeps_data_and_size(name: str) -> None:
    published, improved = recipe(name.removesuffix("_plus")), recipe(name)
    for key in published["data"].keys() - ORDER | improved["data"].keys() - ORDER:
        assert improved["data"].get(key) == published["data"].get(key), key


@pytest.mark.parametrize("name", [name for name in IMPROVED if name not in NEW_NETWORKS])
def test_plus_recipe_keeps_the_networks(name: str) -> None:
    published, improved = recipe(name.removesuffix("_plus")), recipe(name)
    assert improved["model"]["generator"] == published["model"]["generator"]
    for part in published["model"].keys() & {"discriminator", "encoder"}:
        for key in SIZE:
            assert improved["model"][part].get(key) == published["model"][part].get(key), f"{part}.{key}"
