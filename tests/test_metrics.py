"""Metrics with a known value, and reproducible extractors."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.stats
import torch
from conftest import NARROW, TINY, Answer
from helpers import on_two_ranks
from torch import Tensor

from ganexp.data.toy import Gaussians
from ganexp.images import to_float
from ganexp.losses import MMD as Discrepancy
from ganexp.metrics.auto import AutoExtractor
from ganexp.metrics.classifier import Classifier
from ganexp.metrics.diversity import MSSSIM, Diversity
from ganexp.metrics.features import Extractor, Laplacian, Pixels, Random, hash_of
from ganexp.metrics.fid import FID
from ganexp.metrics.inception import Inception
from ganexp.metrics.kid import KID
from ganexp.metrics.labels import Accuracy, InceptionScore, predicted_labels
from ganexp.metrics.metric import FeatureMetric
from ganexp.metrics.mmd import MMD
from ganexp.metrics.modes import ClassModes, Modes
from ganexp.metrics.prdc import PRDC
from ganexp.metrics.sharpness import Sharpness
from ganexp.metrics.swd import SlicedWasserstein, quantiles


class PlainMMD(MMD):
    def __init__(self, features: Extractor):
        super().__init__(features, Discrepancy())


class SmallKID(KID):
    def __init__(self, features: Extractor):
        super().__init__(features, subsets=20, subset_size=40)


METRICS = [FID, SlicedWasserstein, PlainMMD, SmallKID]


def facts(x: Tensor, y: Tensor | None = None, classes: int = 0, by_channel: bool = False) -> Any:
    """What a metric may ask of a data module."""
    y = torch.zeros(len(x), dtype=torch.long) if y is None else y
    fingerprint = hash_of(x.numpy().tobytes(), y.numpy().tobytes())
    return SimpleNamespace(
        x=x, y=y, shape=tuple(x.shape[1:]), classes=classes, labels_by_channel=by_channel, fingerprint=fingerprint
    )


def values(metric: FeatureMetric, real: Tensor, fake: Tensor, split: Sequence[int] = ()) -> dict[str, float]:
    metric.setup(facts(real))
    for side, x in ((True, real), (False, fake)):
        for part in x.tensor_split(list(split)):
            metric.update(metric.features(part)[metric.output], real=side)
    return {name: float(value) for name, value in metric.compute().items()}


def measure(metric: FeatureMetric, real: Tensor, fake: Tensor, split: Sequence[int] = ()) -> float:
    return values(metric, real, fake, split)[metric.name]


def fid(real: Tensor, fake: Tensor, split: Sequence[int] = ()) -> float:
    return measure(FID(Pixels()), real, fake, split)


def swd(real: Tensor, fake: Tensor, **options: int) -> float:
    return measure(SlicedWasserstein(Pixels(), **options), real, fake)


def normal(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


# -- both ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", METRICS)
def test_metrics_are_named_after_their_extractor(make: type[FeatureMetric]) -> None:
    short = {"FID": "fid", "SlicedWasserstein": "swd", "PlainMMD": "mmd", "SmallKID": "kid"}[make.__name__]
    assert make(Pixels()).name == f"{short}/pixels" and make(Random()).name == f"{short}/random"
    assert make(Pixels()).higher_is_better is False


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize("features", [Pixels, Random])
def test_distances_grow_with_noise(make: type[FeatureMetric], features: type) -> None:
    real = normal(64, 192).view(64, 3, 8, 8).tanh()
    levels = (0, 1, 3) if make is SmallKID else (0, 0.3, 1)  # its estimate is noisier
    values = [measure(make(features()), real, real + s * normal(64, 192, 1).view_as(real)) for s in levels]
    nothing = 0.05 if make in (PlainMMD, SmallKID) else 1e-4  # unbiased: below 0 for a set and itself
    scale = 100 if make is SmallKID else 1  # the cube of large features
    assert values[0] == pytest.approx(0, abs=nothing * scale) and values[0] < values[1] < values[2]


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize("side", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused(make: type[FeatureMetric], side: bool, value: float) -> None:
    x = normal(50, 3)
    x[2, 1] = value
    with pytest.raises(ValueError, match=f"1 of 50 {'real' if side else 'generated'} samples have NaN or infinite features"):
        measure(make(Pixels()), *((x, normal(50, 3)) if side else (normal(50, 3), x)))


@pytest.mark.parametrize("make", METRICS)
def test_reset_forgets_all_samples(make: type[FeatureMetric]) -> None:
    metric = make(Pixels())
    first = measure(metric, normal(50, 3), normal(50, 3, 1))
    metric.reset()
    other = measure(metric, normal(50, 3), normal(50, 3, 1) + 2)
    metric.reset()
    assert measure(metric, normal(50, 3), normal(50, 3, 1)) == first != other


@pytest.mark.parametrize("make", METRICS)
def test_value_does_not_depend_on_batches(make: type[FeatureMetric]) -> None:
    real, fake = normal(100, 5), normal(100, 5, 1) * 2 + 1
    whole = measure(make(Pixels()), real, fake)
    assert whole > 0.1
    for split in ([50], [1, 2, 3], [30, 31, 99]):
        assert measure(make(Pixels()), real, fake, split) == pytest.approx(whole, rel=1e-9)


# -- FID -----------------------------------------------------------------------------------------------------------------


def test_fid_equals_the_matrix_square_root_formula() -> None:
    mixed = normal(8, 8, 2)
    real, fake = normal(2000, 8) @ mixed, normal(1500, 8, 1) @ normal(8, 8, 3) + 0.5
    a, b = real.double().numpy(), fake.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root.real)
    assert fid(real, fake) == pytest.approx(expected, rel=1e-6)
    assert fid(fake, real) == pytest.approx(expected, rel=1e-6)


def test_fid_of_a_shift_is_its_squared_length() -> None:
    real = normal(500, 4)
    assert fid(real, real + torch.tensor([1.0, 2.0, 0.0, -2.0])) == pytest.approx(9, rel=1e-5)
    assert fid(real, real) == pytest.approx(0, abs=1e-9)


def test_fid_of_scaled_samples_matches_the_closed_form() -> None:
    """One dimension: (m₁ - m₂)² + (s₁ - s₂)². The samples ±1 have variance 2, ±3 + 1 variance 18."""
    a, b = torch.tensor([[-1.0], [1.0]]), torch.tensor([[-2.0], [4.0]])
    assert fid(a, b) == pytest.approx(1 + (18**0.5 - 2**0.5) ** 2, rel=1e-12)


def test_fid_uses_the_unbiased_covariance() -> None:
    """The corners of the square have variance 4/3, not 1, in each of two dimensions."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    tiny = 1e-3 * corners
    assert fid(corners, tiny) == pytest.approx(8 / 3 * (1 - 1e-3) ** 2)


@pytest.mark.parametrize("n", [2, 10, 63])
def test_fid_works_with_fewer_samples_than_dimensions(n: int) -> None:
    real, fake = normal(n, 64), normal(n, 64, 1)
    value = fid(real, fake)
    assert isinstance(value, float) and np.isfinite(value) and value > 1
    assert fid(real, real + 1) == pytest.approx(64, rel=1e-5)


@pytest.mark.parametrize("n", [2, 10, 100])
def test_fid_is_never_negative(n: int) -> None:
    """Rounded eigenvalues must not count as variance: features of size 100 in 64 dimensions."""
    real = 100 * normal(n, 64)
    assert 0 <= fid(real, real) < 1


def test_fid_is_exact_far_from_the_origin() -> None:
    """The sums are float64: what the mean adds to the products cancels."""
    real, fake = normal(200, 4).round(decimals=3), normal(200, 4, 1).round(decimals=3)
    assert fid(real + 1000, fake + 1000) == pytest.approx(fid(real, fake), rel=1e-2)


@pytest.mark.parametrize("real, fake, side", [(1, 5, "real"), (5, 1, "fake"), (5, 0, "fake"), (0, 5, "real")])
def test_fid_refuses_fewer_than_two_samples_a_side(real: int, fake: int, side: str) -> None:
    metric = FID(Pixels())
    for n, is_real in ((real, True), (fake, False)):
        if n:
            metric.update(normal(n, 3), real=is_real)
    with pytest.raises(ValueError, match=f"2 {'real' if side == 'real' else 'generated'} samples, got {min(real, fake)}"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
@pytest.mark.parametrize("make", METRICS)
def test_no_samples_at_all_are_refused(make: type[FeatureMetric]) -> None:
    with pytest.raises(ValueError, match="samples"):
        make(Pixels()).compute()


# -- sliced Wasserstein --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.5, -3.0])
def test_swd_of_a_shift_in_one_dimension_is_its_length(shift: float) -> None:
    real = normal(300, 1)
    shuffled = real[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    assert swd(real, shuffled + shift) == pytest.approx(abs(shift), rel=1e-5)


def test_swd_of_scaled_samples_matches_the_closed_form() -> None:
    """W₁ of x and 3 x is 2 E|x|."""
    real = normal(300, 1)
    assert swd(real, 3 * real) == pytest.approx(2 * real.abs().mean().item(), rel=1e-5)


def test_swd_of_a_shift_in_two_dimensions_matches_the_closed_form() -> None:
    """|s| E|cos| = 2/π |s| over all directions, here over 20,000."""
    real = normal(50, 2)
    assert swd(real, real + torch.tensor([3.0, 4.0]), directions=20_000) == pytest.approx(5 * 2 / np.pi, rel=0.02)


def test_swd_compares_sets_of_unequal_counts() -> None:
    real = normal(60, 1)
    assert swd(real, real.repeat_interleave(4, 0)) == pytest.approx(0, abs=1e-6)
    assert swd(real.repeat(3, 1), real + 2) == pytest.approx(2, rel=1e-5)
    assert swd(torch.zeros(7, 1), torch.ones(4, 1)) == pytest.approx(1)
    other = 2 * normal(143, 1, 1) + 1
    expected = scipy.stats.wasserstein_distance(real.flatten(), other.flatten())
    assert swd(real, other) == pytest.approx(expected, rel=0.02)
    assert swd(other, real) == pytest.approx(expected, rel=0.02)


def test_quantiles_are_evenly_spaced() -> None:
    rows = torch.tensor([[0.0, 1.0, 2.0]])
    assert quantiles(rows, 6).flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert quantiles(rows, 5).flatten().tolist() == [0, 0, 1, 2, 2]
    assert quantiles(rows, 3).flatten().tolist() == [0, 1, 2]
    assert quantiles(torch.zeros(1, 8_960_000), 10_240_000).shape == (1, 10_240_000)  # float32 has no index above 2^24


def test_swd_of_the_same_set_is_zero_in_any_order() -> None:
    real = normal(100, 6)
    assert swd(real, real) == 0
    assert swd(real, real.flip(0)) == pytest.approx(0, abs=1e-6)


def test_swd_is_deterministic_and_leaves_the_random_state_unchanged() -> None:
    real, fake = normal(100, 6), normal(100, 6, 1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = swd(real, fake)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert swd(real, fake) == first > 0
    assert swd(real, fake, directions=16) != first


@pytest.mark.parametrize("side", [True, False])
def test_swd_refuses_a_missing_side(side: bool) -> None:
    metric = SlicedWasserstein(Pixels())
    metric.update(normal(5, 3), real=side)
    with pytest.raises(ValueError, match=f"{'generated' if side else 'real'} samples, got 0"):
        metric.compute()


# -- features ------------------------------------------------------------------------------------------------------------


def test_pixels_are_the_sample_itself() -> None:
    x = normal(2, 12).view(2, 3, 2, 2)
    assert torch.equal(Pixels()(x)["features"], x.flatten(1)) and torch.equal(Pixels()(x)["images"], x)
    assert torch.equal(Pixels()(x[:, 0, 0])["features"], x[:, 0, 0])


def random_features(x: Tensor, seed: int = 0) -> Tensor:
    extractor = Random(4, seed)
    extractor.setup(facts(x))
    return extractor(x)["features"]


@pytest.mark.parametrize("channels, side", [(1, 8), (3, 8), (4, 28), (2, 64)])
def test_random_features_have_a_fixed_size(channels: int, side: int) -> None:
    features = random_features(torch.rand(3, channels, side, side))
    assert features.shape == (3, 2 * 15 * 4) and features.dtype == torch.float32 and features.isfinite().all()
    assert not features.requires_grad


def test_random_features_depend_on_their_seed_alone() -> None:
    x = torch.rand(3, 1, 8, 8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = random_features(x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(random_features(x), first)
    assert not torch.equal(random_features(x, seed=1), first)


def test_random_features_of_an_image_do_not_depend_on_the_batch() -> None:
    x, extractor = torch.rand(6, 1, 8, 8), Random(4)
    extractor.setup(facts(x))
    first = extractor(x)["features"]
    torch.testing.assert_close(torch.cat([extractor(x[:2])["features"], extractor(x[2:])["features"]]), first)
    assert (first[0] != first[1]).any()


@pytest.mark.parametrize("extractor", [Random(), Classifier(), Inception()])
def test_image_extractors_refuse_points(extractor: Extractor) -> None:
    with pytest.raises(ValueError, match=r"shape \[2\]"):
        extractor.setup(facts(torch.zeros(4, 2)))


def striped(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy images of two classes: stripes across or down."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=random)
    stripes = torch.tensor([0.0, 255.0]).repeat(4).expand(8, 8)
    x = torch.stack([stripes if label else stripes.T for label in y])[:, None]
    return (0.7 * x + 76 * torch.rand(x.shape, generator=random)).to(torch.uint8), y


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ganexp"


def test_classifier_is_trained_once_and_cached(cache: Path) -> None:
    x, y = striped(300)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Classifier(steps=30)
    first.setup(facts(x, y, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.accuracy == 1.0
    unseen, labels = striped(50, 1)
    outputs = first(to_float(unseen))
    assert outputs["features"].shape == (50, 128) and torch.equal(outputs["logits"].argmax(1), labels)
    (file,) = cache.rglob("*.pt")
    written = file.stat().st_mtime_ns
    again = Classifier(steps=30)
    again.setup(facts(x, y, 2))
    assert file.stat().st_mtime_ns == written and again.fingerprint == first.fingerprint and again.accuracy == 1.0
    assert torch.equal(again(to_float(unseen))["logits"], outputs["logits"])
    x[0, 0, 0, 0] += 1
    Classifier(steps=30).setup(facts(x, y, 2))
    assert len(list(cache.rglob("*.pt"))) == 2  # one changed pixel is another data set


def test_parallel_jobs_train_one_classifier(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, fit = facts(*striped(300), 2), Classifier.fit
    trained: list[Classifier] = []

    def counted(classifier: Classifier, x: Tensor, y: Tensor) -> float:
        trained.append(classifier)
        return fit(classifier, x, y)

    monkeypatch.setattr(Classifier, "fit", counted)
    classifiers = [Classifier(steps=20) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda classifier: classifier.setup(data), classifiers))
    assert len(trained) == 1 and len({classifier.fingerprint for classifier in classifiers}) == 1


def test_training_a_classifier_is_reported(cli: Callable[..., Answer], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the beginning and at the end, with the seconds; on a terminal by a bar; in the log, which is opened later, too."""
    words = [*TINY, *NARROW["cdcgan"], "metrics=[fid]", "extractor=classifier", "extractor.steps=3"]
    begun, ended = (
        "classifier: training on the data's labels, 3 steps",
        r"classifier: trained on the data's labels in \d+\.\d s, accuracy ",
    )
    answer = cli(*words)
    assert answer.err.count(begun) == 1 and len(re.findall(ended, answer.err)) == 1, answer.err
    text = (answer.run / "log.txt").read_text()
    assert text.count(begun) == 1 and len(re.findall(ended, text)) == 1
    assert text.index(begun) < text.index("trained on") < text.index("run folder")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    answer = cli(*words, "extractor.steps=4", "hydra.run.dir=outputs/terminal")
    assert "training the classifier:   0%|" in answer.err and "training on the data's labels" not in answer.err
    text = (answer.folder / "outputs" / "terminal" / "log.txt").read_text()
    assert begun.replace("3", "4") in text and re.search(ended, text)


@pytest.mark.parametrize("change", ["cut", "one bit", "other weights", "folder"])
def test_damaged_cached_classifier_is_trained_again(change: str, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    x, y = striped(300)
    first = Classifier(steps=5)
    first.setup(facts(x, y, 2))
    (file,) = cache.rglob("*.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content[:5000] if change == "cut" else content)
    if change == "other weights":
        torch.save({"weights": {"trunk.0.weight": torch.zeros(2)}, "accuracy": 99.0}, file)
    again = Classifier(steps=5)
    if change == "folder":
        file.unlink()
        file.mkdir()
    again.setup(facts(x, y, 2))
    assert caplog.text.count("is damaged, and is made again") == 1 and again.fingerprint == first.fingerprint
    caplog.clear()
    third = Classifier(steps=5)
    third.setup(facts(x, y, 2))
    assert third.fingerprint == first.fingerprint and "is damaged" not in caplog.text


def test_classifier_of_stacked_images_sees_each_channel(cache: Path) -> None:
    parts = [striped(300, seed) for seed in range(3)]
    x, y = torch.cat([x for x, _ in parts], 1), sum(4 >> i & 7 and label * 2 ** (2 - i) for i, (_, label) in enumerate(parts))
    extractor = Classifier(steps=30)
    extractor.setup(facts(x, y, 8, by_channel=True))
    outputs = extractor(to_float(x[:5]))
    assert outputs["features"].shape == (5, 3 * 128) and outputs["logits"].shape == (5, 3, 2)
    assert torch.equal(predicted_labels(outputs["logits"]), y[:5])
    with pytest.raises(ValueError, match="must be an integer to the power of 3, the channels, got 7"):
        extractor.setup(facts(x, y, 7, by_channel=True))


def test_classifier_refuses_unlabelled_data() -> None:
    with pytest.raises(ValueError, match="needs data with labels"):
        Classifier().setup(facts(torch.zeros(8, 1, 8, 8, dtype=torch.uint8)))


@pytest.mark.parametrize(
    "shape, classes, name",
    [
        ((1, 8, 8), 2, "classifier"), ((1, 8, 8), 0, "random"), ((1, 2, 2), 2, "random"), ((2,), 0, "pixels"),
        ((2,), 8, "pixels"), ((3, 8, 8), 0, "lite0"), ((4, 8, 8), 2, "lite0"),
    ],
)  # fmt: skip
def test_auto_extractor_needs_no_download(shape: tuple[int, ...], classes: int, name: str, cache: Path) -> None:
    extractor = AutoExtractor()
    x = torch.randint(256, (64, *shape)).to(torch.uint8) if len(shape) == 3 else torch.rand(64, *shape)
    extractor.setup(facts(x, torch.arange(64) % max(classes, 1), classes))
    assert extractor.name == name == FID(extractor).name.removeprefix("fid/")
    assert extractor(torch.rand(3, *shape))["features"].shape[0] == 3


def test_auto_extractor_of_stacked_images_is_the_classifier(cache: Path) -> None:
    extractor = AutoExtractor()
    extractor.setup(facts(torch.randint(256, (64, 3, 8, 8)).to(torch.uint8), torch.arange(64) % 8, 8, by_channel=True))
    assert extractor.name == "classifier"


# -- Inception, with random weights in the real file's layout ------------------------------------------------------------


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file as the published one, and its hash."""
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    file = tmp_path_factory.mktemp("weights") / Inception.url.rpartition("/")[2]
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: network.state_dict())
        network = inception.FeatureExtractorInceptionV3.__new__(inception.FeatureExtractorInceptionV3)
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        network = inception.FeatureExtractorInceptionV3("inception", ["2048"])
    torch.save(network.state_dict(), file)
    return file, hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
def test_inception_equals_torch_fidelity(weights: tuple[Path, str]) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    file, sha256 = weights
    extractor = Inception(str(file), sha256[:8])
    x = torch.randint(256, (4, 3, 40, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor.setup(facts(x))
    features, logits = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(file))(x)
    outputs = extractor(to_float(x))
    torch.testing.assert_close(outputs["features"], features)
    torch.testing.assert_close(outputs["logits"], logits)
    assert features.std() > 0 and FID(extractor).name == "fid/inception" and extractor.fingerprint == sha256[:16]
    grey = extractor(to_float(x[:, :1]))["features"]
    torch.testing.assert_close(grey, extractor(to_float(x[:, :1].expand(-1, 3, -1, -1)))["features"])


def test_inception_finds_weights_in_the_cache_of_torch(
    weights: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sha256 = weights
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(file, tmp_path / "checkpoints")
    Inception(sha256=sha256).setup(facts(torch.zeros(2, 3, 8, 8)))


def test_inception_refuses_another_file(weights: tuple[Path, str], tmp_path: Path) -> None:
    file, _ = weights
    with pytest.raises(ValueError, match=r"weights: .*its SHA-256 begins with .*, not 6726825d"):
        Inception(str(file)).setup(facts(torch.zeros(2, 3, 8, 8)))
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(3)}, other)
    sha256 = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="does not hold this network"):
        Inception(str(other), sha256).setup(facts(torch.zeros(2, 3, 8, 8)))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Inception(str(tmp_path / "none.pth")).setup(facts(torch.zeros(2, 3, 8, 8)))


def test_inception_offline_says_where_to_put_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        FileNotFoundError, match=r"weights: put weights-inception.*6726825d.pth \(91 MB, from https://.*hub/checkpoints"
    ):
        Inception().setup(facts(torch.zeros(2, 3, 8, 8)))


# -- parity with torch-fidelity and with the reference of precision and recall -------------------------------------------


def features_for_parity(n: int, m: int, dim: int) -> tuple[Tensor, Tensor]:
    mixed = normal(dim, dim, 2) / dim**0.5
    return normal(n, dim) @ mixed, 1.2 * normal(m, dim, 1) @ mixed + 0.2


@pytest.mark.parametrize("n, m, dim", [(500, 400, 16), (300, 200, 64), (50, 60, 128)])
def test_fid_equals_torch_fidelity(n: int, m: int, dim: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    real, fake = features_for_parity(n, m, dim)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(f) for f in (fake, real)), verbose=False)
    assert fid(real, fake, [37]) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)


@pytest.mark.parametrize("n, m, dim", [(500, 400, 16), (1500, 1300, 64), (110, 120, 200)])
def test_kid_equals_torch_fidelity(n: int, m: int, dim: int) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = features_for_parity(n, m, dim)
    theirs = kid_features_to_metric(fake, real, kid_subsets=30, kid_subset_size=100, verbose=False)
    ours = values(KID(Pixels(), subsets=30, subset_size=100), real, fake, [37])
    assert ours["kid/pixels"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert ours["kid_sd/pixels"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)


@pytest.mark.parametrize("n", [40, 1000, 1003])
def test_inception_score_equals_torch_fidelity(n: int) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * normal(n, 10)
    metric = InceptionScore(LogitsAsTheyAre())
    metric.update(logits, real=False)
    ours, theirs = metric.compute(), isc_features_to_metric(logits)
    assert float(ours["is/pixels"]) == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert float(ours["is_sd/pixels"]) == pytest.approx(theirs["inception_score_std"], rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("n, m, dim", [(200, 300, 8), (1100, 1030, 32), (30, 20, 64)])
def test_prdc_equals_the_reference(n: int, m: int, dim: int, k: int, capsys: pytest.CaptureFixture[str]) -> None:
    from prdc import compute_prdc

    real, fake = features_for_parity(n, m, dim)
    theirs = compute_prdc(real.double().numpy(), fake.double().numpy(), k)
    ours = values(PRDC(Pixels(), k), real, fake, [11])
    assert ours == pytest.approx({f"{name}/pixels": float(value) for name, value in theirs.items()}, rel=1e-3)


class LogitsAsTheyAre(Pixels):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x}


# -- what the others say -------------------------------------------------------------------------------------------------


def test_prdc_of_distant_and_partial_sets_matches_the_definition() -> None:
    real = normal(200, 4)
    apart = values(PRDC(Pixels()), real, real + 100)
    assert set(apart.values()) == {0.0}
    same = values(PRDC(Pixels()), real, real)
    assert same["precision/pixels"] == same["recall/pixels"] == same["coverage/pixels"] == 1
    half = real[real[:, 0] > 0]
    part = values(PRDC(Pixels()), real, half)
    assert part["precision/pixels"] == 1 and part["recall/pixels"] < 0.9 and part["coverage/pixels"] < 0.9


def test_inception_score_of_sure_and_even_samples_is_the_number_of_classes() -> None:
    metric = InceptionScore(LogitsAsTheyAre(), splits=1)
    metric.update(100 * torch.eye(5).repeat(20, 1), real=False)
    assert float(metric.compute()["is/pixels"]) == pytest.approx(5)
    metric.reset()
    metric.update(torch.zeros(40, 5), real=False)
    assert float(metric.compute()["is/pixels"]) == pytest.approx(1)


def test_accuracy_is_the_fraction_of_matching_labels() -> None:
    metric = Accuracy(LogitsAsTheyAre())
    metric.update(torch.eye(4), real=False, y=torch.tensor([0, 1, 2, 0]))
    metric.update(torch.eye(4)[:2], real=False, y=torch.tensor([1, 1]))
    assert float(metric.compute()["accuracy/pixels"]) == pytest.approx(4 / 6)


def plane(centres: list[list[float]], sigma: float) -> Any:
    data = facts(torch.zeros(4, 2))
    data.centres, data.sigma = centres, sigma
    return data


def test_modes_match_a_computation_by_hand() -> None:
    """Of 8 points, 3 at a centre, 2 within 3 σ of another, 2 just outside, 1 nearest to the third."""
    metric = Modes(Pixels())
    metric.setup(plane([[0, 0], [1, 0], [0, 1]], 0.1))
    points = [[0, 0], [0, 0], [0, 0], [1.29, 0], [1, -0.29], [1.31, 0], [1, -0.31], [0, 5]]
    metric.update(torch.tensor(points)[:3], real=False)
    metric.update(torch.tensor(points)[3:], real=False)
    found = {name: float(value) for name, value in metric.compute().items()}
    shares = np.array([3, 4, 1]) / 8
    expected = {"high_quality": 5 / 8, "modes": 2, "reverse_kl": float((shares * np.log(3 * shares)).sum())}
    assert found == pytest.approx({f"{name}/pixels": value for name, value in expected.items()})


def test_modes_refuse_data_without_modes() -> None:
    with pytest.raises(ValueError, match="data=ring or data=grid"):
        Modes(Pixels()).setup(facts(torch.zeros(4, 2)))


def test_real_points_cover_all_modes() -> None:
    """0.9889 of a Gaussian in the plane is within three deviations: 1 - exp(-9/2)."""
    ring = Gaussians([2], 3, 64, 0, [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], 0.01, points=20_000)
    ring.prepare()
    metric = Modes(Pixels())
    metric.setup(ring)
    metric.update(ring.x, real=False)
    found = {name.split("/")[0]: float(value) for name, value in metric.compute().items()}
    assert found["high_quality"] == pytest.approx(1 - np.exp(-4.5), abs=0.003)
    assert found["modes"] == 3 and found["reverse_kl"] < 1e-3
    for label in range(3):
        assert ring.x[ring.y == label].mean(0).numpy() == pytest.approx(ring.centres[label], abs=1e-3)


def test_class_modes_match_a_computation_by_hand() -> None:
    metric = ClassModes(LogitsAsTheyAre())
    data = facts(torch.zeros(4, 4), classes=4)
    data.class_probabilities = torch.tensor([0.25, 0.125, 0.5, 0.125], dtype=torch.float64)
    metric.setup(data)
    metric.update(torch.eye(4)[[0, 0, 0, 1]], real=False)
    expected = {"modes/pixels": 2, "reverse_kl/pixels": 0.75 * np.log(3) + 0.25 * np.log(2)}
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(expected)


@pytest.mark.parametrize("side, same", [(8, 1.0), (16, 1.0), (64, 1.0), (96, 1.0)])
def test_ms_ssim_of_equal_images_is_1(side: int, same: float) -> None:
    image = torch.rand(1, 1, side, side) * 2 - 1
    found = values(MSSSIM(Pixels()), torch.rand(12, 1, side, side) * 2 - 1, image.expand(12, 1, side, side), [5])
    assert found["ms_ssim/pixels"] == pytest.approx(same, abs=1e-4) and found["ms_ssim_real/pixels"] < 0.5


def test_ms_ssim_equals_torchmetrics_on_pairs_of_one_class() -> None:
    from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

    x, y = torch.rand(6, 3, 180, 180) * 2 - 1, torch.tensor([0, 1, 0, 1, 0, 2])
    metric = MSSSIM(Pixels())
    metric.update(x, real=True, y=y)
    metric.update(x, real=False, y=y)
    one = MultiScaleStructuralSimilarityIndexMeasure(data_range=2.0, normalize="relu", reduction="elementwise_mean")
    expected = one(x[[0, 2, 1]], x[[2, 4, 3]])
    assert float(metric.compute()["ms_ssim/pixels"]) == pytest.approx(float(expected), rel=1e-3)


def test_ms_ssim_refuses_classes_of_single_samples() -> None:
    metric = MSSSIM(Pixels())
    for real in (True, False):
        metric.update(torch.rand(3, 1, 8, 8), real=real, y=torch.arange(3))
    with pytest.raises(ValueError, match="no two samples have the same class"):
        metric.compute()


@pytest.mark.parametrize(
    "metric, fake, message",
    [
        (KID(Pixels()), normal(50, 3), "requires at least 1,000 real samples, got 50"),
        (PRDC(Pixels()), normal(5, 3), "requires at least 6 generated samples, got 5"),
        (FID(Pixels()), torch.ones(50, 3), "all generated samples are identical"),
        (PRDC(Pixels()), torch.ones(50, 3), "all generated samples are identical"),
        (InceptionScore(LogitsAsTheyAre(), splits=60), normal(50, 3), "requires at least 60 generated samples, got 50"),
    ],
)
def test_metrics_refuse_too_few_or_identical_samples(metric: FeatureMetric, fake: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(metric, normal(50, 3), fake)


# -- ranks ---------------------------------------------------------------------------------------------------------------

EVERY = [FID, SlicedWasserstein, PlainMMD, SmallKID, PRDC, Diversity]


def measure_shard(rank: int, folder: Path) -> None:
    """The first rank sees 70 of 100 real and 30 of 90 generated samples, the second the rest."""
    real, fake = normal(100, 5).tensor_split([70])[rank], (normal(90, 5, 1) + 1).tensor_split([30])[rank]
    found = {}
    for make in EVERY:
        metric = make(Pixels())
        for side, x in ((True, real), (False, fake)):
            for part in x.split(25):
                metric.update(part, real=side)
        found |= {name: float(value) for name, value in metric.compute().items()}
    torch.save(found, folder / f"{rank}.pt")


def test_two_ranks_with_unequal_shards_agree_with_one(tmp_path: Path) -> None:
    on_two_ranks(measure_shard, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    expected: dict[str, float] = {}
    for make in EVERY:
        expected |= values(make(Pixels()), normal(100, 5), normal(90, 5, 1) + 1)
    assert first == second == pytest.approx(expected, rel=1e-6)


# -- MMD, diversity, sharpness -------------------------------------------------------------------------------------------


def test_mmd_in_batches_equals_mmd_of_all_features() -> None:
    real, fake = normal(40, 3), normal(30, 3, 1) + 1
    assert measure(PlainMMD(Pixels()), real, fake, split=[7, 20]) == pytest.approx(Discrepancy()(fake, real).item(), rel=1e-5)


def test_diversity_is_a_ratio_of_distances() -> None:
    real = normal(50, 4)
    assert measure(Diversity(Pixels()), real, 0.5 * real) == pytest.approx(0.5, rel=1e-5)
    expected = torch.pdist(normal(30, 4, 1) * 2).mean() / torch.pdist(real).mean()
    assert measure(Diversity(Pixels()), real, normal(30, 4, 1) * 2, split=[11]) == pytest.approx(expected.item(), rel=1e-5)
    assert measure(Diversity(Pixels()), real, real[:1].expand(20, 4)) == pytest.approx(0, abs=1e-4)
    assert Diversity(Pixels()).name == "diversity/pixels" and Diversity(Pixels()).higher_is_better is None


@pytest.mark.parametrize(
    "real, fake, message",
    [
        (torch.zeros(1, 2), torch.ones(5, 2), "real samples, got 1"),
        (normal(5, 2), torch.ones(1, 2), "generated samples, got 1"),
        (torch.ones(5, 2), normal(5, 2), "all real samples are identical"),
    ],
)
def test_diversity_refuses_single_and_identical_samples(real: Tensor, fake: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"diversity/pixels: .*{message}"):
        measure(Diversity(Pixels()), real, fake)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    """Equal to scipy's on grey images; twice the contrast makes it four times as large."""
    real = normal(5, 3 * 64).view(5, 3, 8, 8)
    fake = normal(4, 3 * 64, 1).view(4, 3, 8, 8)

    def by_hand(x: Tensor) -> float:
        grey = x.mean(1).numpy().astype(np.float64)
        return float(np.mean([scipy.ndimage.laplace(image)[1:-1, 1:-1].var(ddof=1) for image in grey]))

    assert measure(Sharpness(Laplacian()), real, fake, split=[2]) == pytest.approx(by_hand(fake) / by_hand(real), rel=1e-5)
    assert measure(Sharpness(Laplacian()), real, 2 * real) == pytest.approx(4, rel=1e-5)
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    assert measure(Sharpness(Laplacian()), real, blurred) < 0.2


@pytest.mark.parametrize(
    "real, fake, message",
    [
        (torch.zeros(3, 2), torch.zeros(3, 2), "needs images"),
        (torch.zeros(3, 1, 3, 8), torch.zeros(3, 1, 3, 8), "at least 4 px a side"),
        (torch.zeros(3, 1, 8, 8), normal(3, 64).view(3, 1, 8, 8), "no edges"),
        (torch.zeros(0, 1, 8, 8), normal(3, 64).view(3, 1, 8, 8), "real samples, got 0"),
        (normal(3, 64).view(3, 1, 8, 8), torch.full((3, 1, 8, 8), float("nan")), "3 of 3 generated samples have NaN"),
    ],
)
def test_sharpness_refuses_points_small_and_flat_images(real: Tensor, fake: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"sharpness.*{message}"):
        measure(Sharpness(Laplacian()), real, fake)
