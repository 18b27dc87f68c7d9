"""Samples of a trained system from z and y, and the labels of samples by default."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BARE, NARROW, Answer
from helpers import fit, labelled, make_gan, make_vae
from torch import Tensor, nn

from ganexp.data.digits import Digits
from ganexp.evaluation import Evaluation, samples_of
from ganexp.metrics.features import Pixels
from ganexp.metrics.fid import FID
from ganexp.metrics.swd import SlicedWasserstein
from ganexp.networks import dcgan, mlp
from ganexp.systems.contexts import seeded
from ganexp.systems.gan import GAN

CPU = torch.device("cpu")
Y = torch.zeros(3, dtype=torch.int64)


class Mapped(nn.Module):
    """A generator with a second latent space."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping, self.synthesis = nn.Linear(2, 4), nn.Linear(4, 2)
        self.register_buffer("w_mean", torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def map(self, z: Tensor, y: Tensor) -> Tensor:
        return self.mapping(z)

    def synthesize(self, w: Tensor) -> Tensor:
        return self.synthesis(w)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.synthesize(self.map(z, y))


def image_gan(**changes: Any) -> GAN:
    torch.manual_seed(0)
    generator, discriminator = dcgan.Generator((1, 8, 8), 4, 2), dcgan.Discriminator((1, 8, 8), 2)
    return make_gan(generator=generator, discriminator=discriminator, **changes)


SYSTEMS: dict[str, Callable[[], Any]] = {
    "mlp": make_gan,
    "dcgan": image_gan,
    "averaged": lambda: image_gan(ema_half_life=100.0),
    "mapped": lambda: make_gan(generator=Mapped()),
    "vae": make_vae,
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_samples_are_differentiable_in_z(name: str) -> None:
    system = SYSTEMS[name]()
    dim = 4 if name in ("dcgan", "averaged") else 2
    z = torch.randn(3, dim, requires_grad=True)
    x = system.generate(z, Y)
    assert x.requires_grad and x.dtype == torch.float32
    x[0].square().sum().backward()
    assert z.grad is not None and z.grad[0].abs().sum() > 0 and not z.grad[1:].any()  # of each sample alone: evaluation mode


def test_generate_restores_training_modes() -> None:
    system = image_gan()
    norms = [module for module in system.generator.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].eval()
    before = [module.training for module in system.modules()]
    statistics = [norm.running_mean.clone() for norm in norms]
    system.generate(torch.randn(3, 4), Y)
    assert [module.training for module in system.modules()] == before
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, statistics, strict=True))


def test_samples_come_from_the_average() -> None:
    system, z = image_gan(ema_half_life=100.0), torch.randn(3, 4)
    with torch.no_grad():
        for p in system.generator.parameters():
            p.zero_()
    assert system.generate(z, Y).abs().sum() > 0 and torch.equal(system.generate(z, Y), system.ema.average(z, Y))


@pytest.mark.parametrize("name", SYSTEMS)
def test_truncation_moves_samples_towards_one(name: str) -> None:
    system, torch_seed = SYSTEMS[name](), torch.manual_seed(1)
    z = torch.randn(50, 4 if name in ("dcgan", "averaged") else 2, generator=torch_seed)
    y = torch.zeros(50, dtype=torch.int64)
    whole, half, none = (system.generate(z, y, truncation=t) for t in (1.0, 0.5, 0.0))
    assert torch.equal(system.generate(z, y), whole) and not torch.equal(whole[0], whole[1])
    torch.testing.assert_close(none, none[:1].expand_as(none))  # all equal
    assert 0 < half.var(0).sum() < whole.var(0).sum()


def test_seeded_samples_do_not_depend_on_other_threads() -> None:
    """Two threads that seed torch's one random state at the same time; switching as often as Python can."""
    found: dict[int, set[tuple[float, ...]]] = {1: set(), 2: set()}

    def work(seed: int) -> None:
        for _ in range(300):
            with seeded(seed, CPU):
                found[seed].add(tuple(torch.randn(2).tolist() + torch.randn(2).tolist()))

    before, interval = torch.get_rng_state(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert [len(values) for values in found.values()] == [1, 1] and torch.equal(torch.get_rng_state(), before)


def test_truncation_moves_w_towards_its_mean() -> None:
    system, z = make_gan(generator=Mapped()), torch.randn(3, 2)
    g = system.generator
    torch.testing.assert_close(system.generate(z, Y, truncation=0.0), g.synthesize(g.w_mean).expand(3, 2))
    expected = g.synthesize(0.7 * g.map(z, Y) + 0.3 * g.w_mean)
    torch.testing.assert_close(system.generate(z, Y, truncation=0.7), expected)


def test_sample_passes_options_to_generate() -> None:
    system = make_gan()
    assert system.sample(8, truncation=0.0).var(0).sum() < 1e-10 < system.sample(8).var(0).sum()
    assert not system.sample(8).requires_grad


# -- labels ----------------------------------------------------------------------------------------------------------


def nine_to_one() -> Any:
    """The sine's points: of ten, nine are of class 0 and one is of class 2; none is of class 1."""
    data = labelled()
    data.y = torch.where(torch.arange(len(data.x)) % 10 == 0, 2, 0)
    return data


def conditional(**changes: Any) -> GAN:
    torch.manual_seed(0)
    return make_gan(generator=mlp.Generator([2], 2, [8], classes=3), classes=3, **changes)


def test_labels_follow_the_frequencies_of_the_data() -> None:
    system = conditional()
    assert system.sample_labels(3000).bincount(minlength=3).min() > 850  # before anything is known of the data
    system.label_counts.copy_(nine_to_one().y.bincount(minlength=3))
    counts = system.sample_labels(10_000).bincount(minlength=3).tolist()
    assert counts[1] == 0 and counts[2] == pytest.approx(1000, abs=150)
    assert make_gan().sample_labels(5).tolist() == [0] * 5


def test_given_labels_are_used() -> None:
    system, seen = conditional(), []
    system.generator.register_forward_hook(lambda _, inputs, __: seen.append(inputs[1].tolist()))
    system.label_counts.copy_(torch.tensor([1.0, 0.0, 0.0]))
    system.sample(3, torch.tensor([2, 1, 0]))
    system.sample(2)
    assert seen == [[2, 1, 0], [0, 0]]


def test_checkpoint_holds_the_label_counts_of_the_data(cli: Callable[..., Answer]) -> None:
    answer = cli(*BARE, *NARROW["cdcgan"])
    assert answer.code == 0, answer.err
    digits = Digits([1, 8, 8], 10)
    digits.prepare()
    state = torch.load(answer.run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["label_counts"], digits.y.bincount().float())
    evaluated = cli(
        "task=evaluate", f"run={answer.run}/checkpoints/last.ckpt", "task.num_images=64", "metrics=[swd]", "hydra.run.dir=e"
    )
    assert evaluated.code == 0, evaluated.err
    (protocol,) = json.loads(Path("e/evaluation.json").read_text())["protocols"].values()
    assert protocol["labels"] == "as the training data"


def test_protocol_of_unlabelled_samples_has_no_labels() -> None:
    data = nine_to_one()
    fingerprints = []
    for classes, expected in ((True, "as the training data"), (False, None)):
        evaluation = Evaluation([SlicedWasserstein(Pixels())], data, 64, classes)
        evaluation.setup()
        (protocol,) = evaluation.protocols(None).values()
        assert protocol["labels"] == expected
        fingerprints.append(protocol["fingerprint"])
    assert fingerprints[0] != fingerprints[1]


class Perfect(nn.Module):
    """Draws from the data itself, by class."""

    def __init__(self, x: Tensor, y: Tensor):
        super().__init__()
        self.by_class = [x[y == k] for k in range(int(y.max()) + 1)]
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        drawn = [self.by_class[k][torch.randint(len(self.by_class[k]), ())] for k in y.tolist()]
        return self.weight * torch.stack(drawn)


def test_perfect_generator_has_perfect_metrics_on_unbalanced_data() -> None:
    """Nine zeros for one eight: with uniform labels, half of its samples would be eights."""
    data = Digits([1, 8, 8], 10)
    data.prepare()
    zeros, eights = (torch.nonzero(data.y == k).flatten() for k in (0, 8))
    kept = torch.cat([zeros, eights[: len(zeros) // 9]])
    data.x, data.y = data.x[kept], (data.y[kept] == 8).long()
    data.classes = 2
    perfect = Perfect(data.take(torch.arange(len(kept))).float() / 127.5 - 1, data.y)
    system = make_gan(generator=perfect, discriminator=mlp.Discriminator([1, 8, 8], [8]), classes=2)
    evaluation = Evaluation([FID(Pixels())], data, len(kept), True)
    evaluation.setup()
    values = {}
    for name, counts in (("as the data", data.y.bincount().float()), ("uniform", torch.ones(2))):
        system.label_counts.copy_(counts)
        values[name] = evaluation.measure(samples_of(system), CPU)[0]["fid/pixels"]
    assert values["as the data"] < 0.2 * values["uniform"]


def test_training_uses_the_labels_of_the_real_batch() -> None:
    """Not the frequencies: fakes have the labels of the real images beside them."""
    system, seen = conditional(), []
    data = nine_to_one()
    system.generator.register_forward_hook(lambda _, inputs, __: seen.append(inputs[1].clone()))
    batches: list[Tensor] = []
    system.discriminator.register_forward_hook(lambda _, inputs, __: batches.append(inputs[1].clone()))
    fit(system, 1, data=data)
    assert all(torch.equal(y, seen[0]) for y in batches)
