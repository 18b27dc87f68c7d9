"""Minibatch standard deviation, and the patch discriminator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp.networks import acgan, dcgan, mlp
from ganexp.networks.layers import Head, MinibatchStd
from ganexp.networks.patch import Discriminator

# -- minibatch standard deviation --------------------------------------------------------------------------------------


def test_minibatch_std_groups_are_strided() -> None:
    """As in StyleGAN2: of 4 samples in groups of 2, sample n is of group n % 2. Deviations 1 and 3, of the second feature 0."""
    x = torch.tensor([[0.0, 5], [0, 7], [2, 5], [6, 7]])
    found = MinibatchStd(2)(x)
    assert torch.equal(found[:, :2], x)
    torch.testing.assert_close(found[:, 2], torch.tensor([0.5, 1.5, 0.5, 1.5]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("n, group, size", [(8, 4, 4), (6, 4, 3), (5, 4, 1), (4, 8, 4), (9, 4, 3), (10, 4, 2), (1, 4, 1)])
def test_minibatch_std_groups_divide_any_batch(n: int, group: int, size: int) -> None:
    """The largest size up to `group` that divides the batch; a sample alone has deviation 0."""
    x = torch.randn(n, 3, 2, 4)
    found = MinibatchStd(group)(x)
    assert found.shape == (n, 4, 2, 4) and torch.equal(found[:, :3], x)
    for i in range(n):
        mine = x[i % (n // size) :: n // size]
        assert len(mine) == size
        torch.testing.assert_close(found[i, 3], mine.std(0, correction=0).mean().expand(2, 4), atol=2e-4, rtol=0)


def test_minibatch_std_does_not_depend_on_the_memory_format() -> None:
    x = torch.randn(8, 3, 4, 4)
    torch.testing.assert_close(MinibatchStd()(x.contiguous(memory_format=torch.channels_last)), MinibatchStd()(x))
    assert MinibatchStd()(x.bfloat16()).dtype == torch.bfloat16


def test_minibatch_std_of_equal_samples_has_a_finite_gradient() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    found = MinibatchStd()(x)
    assert found[:, 3].tolist() == pytest.approx([1e-4] * 4)
    found.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    torch.testing.assert_close(x.grad, 2 * torch.ones(4, 3))


def test_minibatch_std_grows_with_the_variety_of_the_batch() -> None:
    x = torch.randn(4, 6)
    assert (MinibatchStd()(3 * x)[:, 6] / MinibatchStd()(x)[:, 6]).tolist() == pytest.approx([3] * 4, rel=1e-4)


def test_head_with_minibatch_std_depends_on_the_batch() -> None:
    torch.manual_seed(0)
    head, plain = Head(5, 2, 3, auxiliary=4, minibatch_std=2), Head(5, 2, 3, auxiliary=4)
    assert head.out.in_features == 6 and plain.out.in_features == 5
    h, y = torch.randn(4, 5), torch.arange(4) % 3
    for each, heeds in ((head, True), (plain, False)):
        before, others = each(h, y), torch.cat([h[:1], -3 * h[1:]])
        assert before.logits.shape == (4, 2) and before.classes is not None and before.classes.shape == (4, 4)
        assert (not torch.equal(each(others, y).logits[0], before.logits[0])) == heeds
        assert torch.equal(before.features[0], h)  # what is compared is what the network found


@pytest.mark.parametrize("module", [mlp, dcgan, acgan])
def test_discriminators_take_minibatch_std_as_an_option(module: Any) -> None:
    x, y = torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    d = module.Discriminator([1, 8, 8], minibatch_std=2)
    assert d(x, y).logits.shape == (4, 1)
    assert sum(isinstance(m, MinibatchStd) for m in d.modules()) == 1
    assert not any(isinstance(m, MinibatchStd) for m in module.Discriminator([1, 8, 8]).modules())
    with pytest.raises(ValueError, match=r"^minibatch_std: must be at least 2"):
        module.Discriminator([1, 8, 8], minibatch_std=1)


# -- patches -----------------------------------------------------------------------------------------------------------


def patches(side: int, layers: int) -> int:
    """How many there are along a side: 4×4 windows with one pixel of margin, `layers` of them with stride 2, then two more."""
    for stride in [2] * layers + [1, 1]:
        side = (side + 2 - 4) // stride + 1
    return side


@pytest.mark.parametrize("layers, scales", [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (1, 3)])
@pytest.mark.parametrize("height, width", [(24, 24), (32, 40), (25, 31)])
def test_patch_gives_a_logit_for_each_patch_of_each_scale(layers: int, scales: int, height: int, width: int) -> None:
    d = Discriminator([3, height, width], 2, layers, scales)
    output = d(torch.randn(2, 3, height, width), torch.zeros(2, dtype=torch.long))
    sides = [(height // 2**i, width // 2**i) for i in range(scales)]
    assert output.logits.shape == (2, sum(patches(h, layers) * patches(w, layers) for h, w in sides))
    assert [f.shape for f in output.features] == [
        (2, 2 * min(2**layers, 8), patches(h, layers) + 1, patches(w, layers) + 1) for h, w in sides
    ]
    assert output.classes is None


def test_patch_has_the_described_sizes_at_64_px() -> None:
    assert Discriminator([3, 64, 64], 4)(torch.randn(2, 3, 64, 64), torch.zeros(2, dtype=torch.long)).logits.shape == (2, 14 * 14)
    widths = [m.out_channels for m in Discriminator([3, 64, 64], layers=4).modules() if isinstance(m, nn.Conv2d)]
    assert widths == [64, 128, 256, 512, 512, 1]


def test_patch_of_three_layers_sees_70_px() -> None:
    """Isola et al. 2017, section 3.2.2: "the 70 × 70 PatchGAN"."""
    torch.manual_seed(0)
    d = Discriminator([1, 96, 96], 2, layers=3, norm=False)
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    logits = d(x, torch.zeros(1, dtype=torch.long)).logits
    k = patches(96, 3)
    logits[0, (k // 2) * k + k // 2].backward()
    assert x.grad is not None
    for axis in (2, 3):
        touched = torch.nonzero(x.grad[0, 0].abs().sum(axis - 2)).flatten()
        assert touched.max() - touched.min() + 1 == 70


def test_each_scale_halves_the_one_before() -> None:
    torch.manual_seed(0)
    d, y = Discriminator([3, 48, 48], 2, 1, 3, norm=False), torch.zeros(2, dtype=torch.long)
    x = torch.randn(2, 3, 48, 48)
    halves = [x, F.avg_pool2d(x, 2), F.avg_pool2d(F.avg_pool2d(x, 2), 2)]
    separate = [scale(half, y)[0] for scale, half in zip(d.scales, halves, strict=True)]
    torch.testing.assert_close(d(x, y).logits, torch.cat(separate, 1))
    assert len({tuple(next(scale.parameters()).flatten().tolist()) for scale in d.scales}) == 3  # none shares weights


def test_patch_normalizes_every_layer_but_the_first() -> None:
    def kinds(norm: bool) -> list[type[nn.Module]]:
        return [type(m) for m in Discriminator([3, 24, 24], 2, norm=norm).scales[0].blocks]

    assert kinds(True).count(nn.BatchNorm2d) == 2 and kinds(True)[:3] == [nn.Conv2d, nn.LeakyReLU, nn.Conv2d]
    assert kinds(False).count(nn.BatchNorm2d) == 0


def test_label_changes_every_patch_logit() -> None:
    torch.manual_seed(0)
    x, ys = torch.randn(2, 3, 24, 24), [torch.tensor([0, 1]), torch.tensor([0, 2])]
    d = Discriminator([3, 24, 24], 2, classes=3, norm=False)
    one, other = (d(x, y).logits for y in ys)
    differences: Tensor = (one - other)[1]
    assert torch.equal(one[0], other[0]) and differences.abs().min() > 0
    torch.testing.assert_close(differences, differences[:1].expand_as(differences))  # the projection is of the whole picture
    h = d.scales[0](x, ys[0])[1].mean((2, 3))[1]
    torch.testing.assert_close(differences[0], (d.scales[0].label.weight[1] - d.scales[0].label.weight[2]) @ h)
    plain = Discriminator([3, 24, 24], 2)
    assert torch.equal(plain.eval()(x, ys[0]).logits, plain(x, ys[1]).logits)


@pytest.mark.parametrize("layers, scales", [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_patch_refuses_images_below_its_smallest_size(layers: int, scales: int) -> None:
    side = 3 * 2 ** (layers + scales - 1)
    x = torch.randn(2, 1, side, side)
    output = Discriminator([1, side, side], 2, layers, scales)(x, torch.zeros(2, dtype=torch.long))
    assert patches(side // 2 ** (scales - 1), layers) == 1 and output.logits[0].numel() >= scales
    with pytest.raises(ValueError, match=f"need images of at least {side} px a side, got shape"):
        Discriminator([1, side, side - 1], 2, layers, scales)


@pytest.mark.parametrize("options", [{"width": 0}, {"layers": 0}, {"scales": 0}])
def test_patch_refuses_invalid_arguments(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"^width, layers, scales: must be at least 1"):
        Discriminator([1, 32, 32], **options)
    with pytest.raises(ValueError, match=r"got shape \[2\]"):
        Discriminator([2])
