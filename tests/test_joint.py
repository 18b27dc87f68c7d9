"""Several discriminators as one."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY
from helpers import compose, play
from torch import Tensor, nn

from ganexp.networks.dcgan import Discriminator as Plain
from ganexp.networks.joint import Discriminator
from ganexp.networks.output import Output
from ganexp.networks.projected import equal_columns


class Constant(nn.Module):
    """As many logits as there are values."""

    def __init__(self, *values: float):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.values.expand(len(x), -1)


X, Y = torch.randn(2, 3, 16, 16), torch.zeros(2, dtype=torch.long)


def test_members_have_equal_weight() -> None:
    """Six columns each for one logit and for three; the mean is the mean of their means."""
    d = Discriminator({"one": Constant(5.0), "three": Constant(1.0, 2.0, 3.0), "two": Constant(0.0, 2.0)})
    logits = d(X, Y).logits
    assert logits.shape == (2, 18)
    torch.testing.assert_close(logits.mean(1), torch.full((2,), (5 + 2 + 1) / 3))
    logits.mean().backward()
    three = d.members["three"].values.grad
    assert isinstance(three, Tensor)
    torch.testing.assert_close(three, torch.full((3,), 1 / 9))


def test_equal_columns_repeats_columns_to_equal_counts() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[7.0]])
    assert equal_columns([a, b]).tolist() == [[1, 2, 7, 7]]
    assert torch.equal(equal_columns([a, a]), torch.cat([a, a], 1))  # as many already: as they are


def test_features_come_from_all_members() -> None:
    d = Discriminator({"plain": Plain([3, 16, 16], 2), "constant": Constant(1.0), "other": Plain([3, 16, 16], 3)})
    output = d(X, Y)
    assert isinstance(output, Output) and [f.shape[1] for f in output.features] == [4 * 16, 6 * 16]


def test_class_logits_are_the_mean_of_those_of_the_members() -> None:
    one, two = Plain([3, 16, 16], 2, auxiliary=5), Plain([3, 16, 16], 3, auxiliary=5)
    output = Discriminator({"one": one, "constant": Constant(1.0), "two": two})(X, Y)
    torch.testing.assert_close(output.classes, (one(X, Y).classes + two(X, Y).classes) / 2)
    assert Discriminator({"constant": Constant(1.0)})(X, Y).classes is None
    with pytest.raises(ValueError, match=r"class logits must be equally many, got \[5, 6\]; set the same auxiliary"):
        Discriminator({"one": one, "six": Plain([3, 16, 16], 2, auxiliary=6)})(X, Y)


def test_joint_discriminator_requires_members() -> None:
    with pytest.raises(ValueError, match="members: at least one"):
        Discriminator({})


@pytest.mark.parametrize("options", [
    ["regularizer=[r1,sliced_features]", "loss=relativistic"], ["model.classes=10", "loss=hinge", "augment=[diffaugment]"],
])  # fmt: skip
def test_joint_discriminator_trains(options: list[str]) -> None:
    play(
        compose(
            "model=dcgan", "model/discriminator=joint", "data.shape=[3,32,32]", "model.width_multiplier=0.04", *TINY, *options
        )
    )
