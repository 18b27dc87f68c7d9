"""The averaged generator follows at the documented pace."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ganexp.ema import EMA


def filled(value: float) -> nn.Linear:
    layer = nn.Linear(2, 3)
    for p in layer.parameters():
        nn.init.constant_(p, value)
    return layer


# half-life, images of the step, images seen -> weight of what was there
PACES = [
    (100, 100, 1_000_000, 0.5),
    (100, 200, 1_000_000, 0.25),
    (1000, 100, 1_000_000, 0.5**0.1),
    (1000, 100, 20_000, 0.5**0.1),  # the ramp ends here: 5 % of 20,000 are 1,000
    (1000, 100, 4000, 0.5**0.5),  # 5 % of 4,000 are 200
    (1000, 100, 2000, 0.5),
    (1000, 100, 100, 0.5**20),  # the first step: all but a copy
]


@pytest.mark.parametrize("half_life, images, seen, kept", PACES)
def test_average_follows_at_the_pace_of_its_half_life(half_life: float, images: int, seen: int, kept: float) -> None:
    ema = EMA(filled(1.0), half_life)
    ema.update(filled(0.0), images, seen)
    for p in ema.average.parameters():
        torch.testing.assert_close(p, torch.full_like(p, kept))


def test_without_a_ramp_the_first_step_keeps_the_average() -> None:
    ema = EMA(filled(1.0), 1000, ramp=None)
    ema.update(filled(0.0), 100, 100)
    torch.testing.assert_close(ema.average.weight, torch.full((3, 2), 0.5**0.1))


def test_many_small_updates_equal_one_large_update() -> None:
    one, many = EMA(filled(1.0), 100), EMA(filled(1.0), 100)
    one.update(filled(0.0), 60, 10_000)
    for _ in range(10):
        many.update(filled(0.0), 6, 10_000)
    torch.testing.assert_close(one.average.weight, many.average.weight)


def test_average_is_a_copy_before_any_image_is_seen() -> None:
    ema = EMA(filled(1.0), 100)
    ema.update(filled(3.0), 10, 0)
    assert torch.equal(ema.average.weight, filled(3.0).weight)


def test_buffers_are_copied() -> None:
    network = nn.BatchNorm1d(3)
    ema = EMA(network, 1e6)
    for _ in range(3):
        network(torch.randn(8, 3) + 5)
    ema.update(network, 8, 1_000_000)
    assert network.running_mean.abs().min() > 0.1 and network.num_batches_tracked == 3
    for name, theirs in network.named_buffers():
        assert torch.equal(ema.average.get_buffer(name), theirs)
    network(torch.randn(8, 3))
    assert ema.average.num_batches_tracked == 3  # copied, not shared


def test_average_collects_no_gradient_and_leaves_the_network_unchanged() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    before = [p.detach().clone() for p in network.parameters()]
    ema = EMA(network, 100)
    assert not ema.average.training and network.training
    assert not any(p.requires_grad for p in ema.parameters()) and all(p.requires_grad for p in network.parameters())
    network(torch.ones(4, 2)).sum().backward()
    ema.update(network, 10, 10_000)
    assert all(p.grad is None and p.grad_fn is None for p in ema.parameters())
    for p, old in zip(network.parameters(), before, strict=True):
        assert torch.equal(p, old)


def test_average_works_with_spectral_norm() -> None:
    torch.manual_seed(0)
    network = spectral_norm(nn.Linear(4, 3))
    ema = EMA(network, 100)
    network(torch.randn(5, 4))  # a power iteration moves the buffers
    with torch.no_grad():
        network.parametrizations.weight.original.mul_(7).add_(1)
    ema.update(network, 1000, 1_000_000)
    for name, theirs in network.named_buffers():
        assert torch.equal(ema.average.get_buffer(name), theirs)
    old = ema.average.parametrizations.weight.original
    assert not torch.equal(old, network.parametrizations.weight.original)  # 0.5 ** 10 of the start is left
    torch.testing.assert_close(old, network.parametrizations.weight.original, rtol=0.01, atol=0.01)
    network.eval()
    torch.testing.assert_close(ema.average(torch.ones(2, 4)), network(torch.ones(2, 4)), rtol=0.02, atol=0.02)


def test_average_is_in_the_state_dict() -> None:
    ema = EMA(filled(2.0), 100)
    other = EMA(filled(0.0), 100)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.average.weight, ema.average.weight)
