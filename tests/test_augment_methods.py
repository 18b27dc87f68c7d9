"""Differentiable augmentation and packing: the result for each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from conftest import BARE, NARROW, TINY, Answer
from helpers import compose
from torch import Tensor

from ganexp.augment import Pack
from ganexp.augment.diffaugment import DiffAugment, color, cutout, translation
from ganexp.cli.build import build


def images(n: int, *shape: int) -> Tensor:
    """No pixel is 0, and no two of an image are equal."""
    return (1 + torch.arange(n * torch.tensor(shape).prod().item()).float()).view(n, *shape)


def draws(monkeypatch: pytest.MonkeyPatch, *numbers: list[float]) -> None:
    """Let the next calls of torch.rand give these numbers, one for each image."""
    left = [torch.tensor(each)[:, None, None, None] for each in numbers]
    monkeypatch.setattr(torch, "rand", lambda *_, **__: left.pop(0))


# -- DiffAugment -------------------------------------------------------------------------------------------------------


def test_empty_policy_changes_nothing() -> None:
    x = torch.randn(4, 3, 8, 8)
    for policy in ("", " , "):
        assert torch.equal(DiffAugment(policy)(x), x)
    assert not torch.equal(DiffAugment("color")(x), x)


def test_color_follows_the_published_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness x + u - 0.5, saturation 2 u about the mean of the channels, contrast u + 0.5 about that of the image."""
    x = torch.randn(2, 3, 4, 4)
    draws(monkeypatch, [0.8, 0.1], [0.5, 0.5], [0.5, 0.5])
    torch.testing.assert_close(color(x), x + torch.tensor([0.3, -0.4])[:, None, None, None])
    draws(monkeypatch, [0.5, 0.5], [0.0, 0.75], [0.5, 0.5])
    grey = x.mean(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(color(x), torch.stack([grey[0], grey[1] + 1.5 * (x[1] - grey[1])]))
    draws(monkeypatch, [0.5, 0.5], [0.5, 0.5], [0.0, 1.0])
    means = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(color(x), means + torch.tensor([0.5, 1.5])[:, None, None, None] * (x - means))


def test_color_differs_between_images() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 4).expand(2000, 3, 4, 4)
    found = color(x)
    brightness = found.mean((1, 2, 3)) - x.mean((1, 2, 3))
    assert -0.5 <= brightness.min() < -0.45 and 0.45 < brightness.max() <= 0.5 + 1e-6
    assert brightness.std().item() == pytest.approx(12**-0.5, abs=0.02)


def test_color_leaves_the_saturation_of_grey_images(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 1, 4, 4)
    draws(monkeypatch, [0.5, 0.5], [0.0, 1.0], [0.5, 0.5])
    torch.testing.assert_close(color(x), x)


@pytest.mark.parametrize("height, width", [(8, 8), (12, 20), (5, 28)])
def test_translation_is_uniform_up_to_an_eighth(height: int, width: int) -> None:
    torch.manual_seed(0)
    x = images(300, 2, height, width)
    most = [int(side / 8 + 0.5) for side in (height, width)]
    found, seen = translation(x), Counter[tuple[int, int]]()
    for before, after in zip(x, found, strict=True):
        row, col = next(zip(*torch.nonzero(after[0] == before[0, height // 2, width // 2], as_tuple=True), strict=True))
        down, right = int(row) - height // 2, int(col) - width // 2
        moved = torch.zeros_like(before)
        moved[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = before[
            :, max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
        ]
        assert torch.equal(after, moved)
        seen[down, right] += 1
    for axis in (0, 1):
        shifts = Counter(shift[axis] for shift in seen.elements())
        assert set(shifts) == set(range(-most[axis], most[axis] + 1))
        assert min(shifts.values()) > 300 / len(shifts) / 2


@pytest.mark.parametrize("height, width", [(8, 8), (6, 12), (7, 9)])
def test_cutout_zeroes_a_rectangle_of_half_the_sides(height: int, width: int) -> None:
    """Its centre is anywhere in the image; the part outside is ignored."""
    torch.manual_seed(0)
    x = images(3000, 2, height, width)
    found = cutout(x)
    gone = found == 0
    assert torch.equal(gone[:, 0], gone[:, 1]) and torch.equal(found, torch.where(gone, 0, x))
    for axis, size in ((1, height), (2, width)):
        side = int(size / 2 + 0.5)
        along = gone[:, 0].any(3 - axis)  # [N, size]: which rows, or columns, it touches
        extents = Counter(tuple(torch.nonzero(line).flatten().tolist()) for line in along)
        centres = range(size + 1 - side % 2)
        wanted = {tuple(i for i in range(c - side // 2, c - side // 2 + side) if 0 <= i < size) for c in centres}
        assert set(extents) == wanted and max(map(len, wanted)) == side
        assert min(extents.values()) > 3000 / len(centres) / 1.5
    rows, columns = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(gone[:, 0].sum((1, 2)), rows * columns)  # a rectangle


@pytest.mark.parametrize("operation", [color, translation, cutout, DiffAugment()])
def test_gradients_match_finite_differences(operation: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)

    def drawn(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return operation(x)

    assert torch.autograd.gradcheck(drawn, x)


def test_policy_is_applied_in_its_order() -> None:
    torch.manual_seed(0)
    x = images(40, 3, 8, 8)
    assert (DiffAugment("color, cutout")(x) == 0).any((1, 2, 3)).all()
    assert not (DiffAugment("cutout,color")(x) == 0).any()


def test_diffaugment_refuses_unknown_operations_and_points() -> None:
    with pytest.raises(ValueError, match=r"^policy: must consist of color, translation, cutout, got zoom"):
        DiffAugment("color,zoom")
    with pytest.raises(ValueError, match="not points"):
        DiffAugment("")(torch.zeros(3, 2))


# -- packing -----------------------------------------------------------------------------------------------------------


def test_packing_of_one_sample_changes_nothing() -> None:
    x = torch.randn(6, 3, 4, 4)
    assert torch.equal(Pack(1)(x), x)


@pytest.mark.parametrize("samples", [2, 3])
def test_packed_row_holds_consecutive_samples(samples: int) -> None:
    x, points = images(6, 2, 4, 5), images(6, 2)
    packed = Pack(samples)(x)
    assert packed.shape == (6 // samples, 2 * samples, 4, 5)
    for i, row in enumerate(packed):
        assert torch.equal(row, torch.cat(list(x[i * samples : (i + 1) * samples])))
    assert torch.equal(Pack(samples)(points)[1], points[samples : 2 * samples].flatten())
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Pack(samples)(last), packed)


def test_pack_refuses_invalid_sizes_and_batches() -> None:
    with pytest.raises(ValueError, match=r"^samples: "):
        Pack(0)
    with pytest.raises(ValueError, match="the batch must be a multiple of 2 samples, got 5"):
        Pack(2)(torch.zeros(5, 2))


def test_packing_widens_only_the_first_layer_of_d() -> None:
    plain, packed = (
        build(compose("model=dcgan", "augment=[pack]", f"augment.pack.samples={n}", *TINY)["model"], "model") for n in (1, 3)
    )
    shapes = [[tuple(p.shape) for p in system.discriminator.parameters()] for system in (plain, packed)]
    assert shapes[0][0] == (64, 1, 4, 4) and shapes[1][0] == (64, 3, 4, 4) and shapes[0][1:] == shapes[1][1:]
    assert [p.shape for p in plain.generator.parameters()] == [p.shape for p in packed.generator.parameters()]
    ring = build(compose("model=mlp", "data=sine", "augment=[pack]", *TINY)["model"], "model")
    assert ring.discriminator.hidden[0].in_features == 4


@pytest.mark.parametrize(
    "choices, message",
    [
        (["model=cdcgan"], "pack needs an unconditional model, since samples"),
        (["model=dcgan", "data.batch_size=9"], "data.batch_size: each part of 9 on a device must be a multiple of the 2 samples"),
        (["model=dcgan", "model.accumulate=8"], "each part of 1 on a device must be a multiple of the 2 samples"),
    ],
)
def test_packing_refuses_incompatible_choices(choices: list[str], message: str, cli: Callable[..., Answer]) -> None:
    answer = cli("augment=[pack]", *BARE, *NARROW["dcgan"], *choices)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err, answer.err
