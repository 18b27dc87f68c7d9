"""The tools that explore a trained model: closed forms, and each tool on each kind of model from the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BARE, NARROW, NARROW_ALL, Answer
from helpers import call
from PIL import Image
from torch import nn

import ganexp
from ganexp import pictures
from ganexp.images import to_uint8
from ganexp.latent_space import film
from ganexp.latent_space.attributes import fitted, within_class
from ganexp.latent_space.codes import from_prior, from_seeds, render
from ganexp.latent_space.directions import first_weights, sefa
from ganexp.latent_space.interpolation import path, slerp
from ganexp.latent_space.neighbours import nearest
from ganexp.latent_space.projection import distance_to, noise_scale, rate, roughness
from ganexp.latent_space.real import read_picture, training_data
from ganexp.latent_space.spectrum import azimuthal_average, log_power
from ganexp.metrics.features import Pixels

Cli = Callable[..., Answer]
KINDS = {
    "points": ["model=mlp", "data=ring", "data.points=600", *NARROW["mlp"]],
    "images": ["model=cdcgan", *NARROW["cdcgan"], "optimizer.generator.lr=0.05"],
    "vae": ["model=vae", "model.width_multiplier=0.05"],
    "gmmn": ["model=gmmn", "model.generator.hidden=[64]"],
    "styles": ["model=stylegan2", "model.classes=10", "optimizer.generator.lr=0.01", *NARROW_ALL],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps of each kind of model."""
    folder = tmp_path_factory.mktemp("explored")
    for name, choices in KINDS.items():
        assert call(folder, *choices, *BARE, f"hydra.run.dir={name}") == 0
    return folder


@pytest.fixture(scope="module")
def model(made: Path) -> Callable[[str], ganexp.Model]:
    loaded: dict[str, ganexp.Model] = {}

    def load(name: str) -> ganexp.Model:
        if name not in loaded:
            loaded[name] = ganexp.load(made / name)
        return loaded[name]

    return load


Models = Callable[[str], ganexp.Model]

# -- paths ---------------------------------------------------------------------------------------------------------------


def test_slerp_stays_on_the_sphere() -> None:
    a, b, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([1 / 3])
    wanted = torch.tensor([[math.sin(math.radians(60)), 2 * math.sin(math.radians(30))]])
    assert torch.allclose(slerp(a, b, t), wanted, atol=1e-6)
    x, y = nn.functional.normalize(torch.randn(2, 50, 20), dim=2) * 3
    assert torch.allclose(slerp(x, y, torch.rand(50)).norm(dim=1), torch.full((50,), 3.0), atol=1e-4)
    assert torch.equal(slerp(a, 3 * a, torch.tensor([0.5])), 2 * a)  # parallel: the straight line
    assert slerp(a, -a, torch.tensor([0.25])).isfinite().all()


@pytest.mark.parametrize("curve", ["slerp", "lerp", "spline"])
@pytest.mark.parametrize("closed", [False, True])
def test_path_passes_through_its_keyframes(curve: Any, closed: bool) -> None:
    keys = torch.randn(4, 3, 5)
    t = torch.arange(4, dtype=torch.float64)
    assert torch.allclose(path(keys, t, curve, closed), keys, atol=1e-5)
    if closed:
        before, after = path(keys, torch.tensor([3.999, 4.0], dtype=torch.float64), curve, True)
        assert torch.allclose(after, keys[0], atol=1e-5) and (before - after).abs().max() < 0.05


def test_spline_has_no_corners() -> None:
    keys, t = torch.randn(5, 4), torch.linspace(0, 5, 501, dtype=torch.float64)
    steps = {curve: path(keys, t, curve, True).diff(dim=0) * 100 for curve in ("spline", "lerp")}  # type: ignore[arg-type]
    turns = {curve: s.diff(dim=0).abs().max() for curve, s in steps.items()}
    assert turns["spline"] < 0.2 * turns["lerp"]
    closing = (steps["spline"][0] - steps["spline"][-1]).abs().max()
    assert closing < 0.2 * turns["lerp"]  # at the seam too


@pytest.mark.parametrize("name", KINDS)
def test_interpolation_starts_and_ends_at_the_samples_of_its_seeds(name: str, model: Models) -> None:
    m = model(name)
    labels = [3] if m.classes else None
    x = m.interpolate([5, 6, 7], labels, steps=3)
    assert x.shape == (2, 3, *m.shape)
    for at, seed in {(0, 0): 5, (0, 2): 6, (1, 0): 6, (1, 2): 7}.items():
        assert torch.allclose(x[at], m.sample(1, 3 if labels else None, seed)[0], atol=1e-5)
    assert not torch.allclose(x[0, 1], x[0, 0])


@pytest.mark.parametrize("name", ["images", "styles"])
def test_interpolation_between_classes_mixes_labels(name: str, model: Models) -> None:
    """z is fixed; the label in between is a mixture of both."""
    m = model(name)
    x = m.interpolate([4], [1, 7], steps=3)[0]
    assert torch.allclose(x[0], m.sample(1, 1, 4)[0], atol=1e-5) and torch.allclose(x[2], m.sample(1, 7, 4)[0], atol=1e-5)
    assert not torch.allclose(x[1], x[0]) and not torch.allclose(x[1], x[2])
    if name == "images":
        half = torch.zeros(1, 10).index_fill_(1, torch.tensor([1, 7]), 0.5)
        assert torch.allclose(x[1], m.generate(from_seeds(m, [4], [1]).x, half)[0], atol=1e-5)


@pytest.mark.parametrize("network", ["acgan", "biggan", "r3gan", "resnet", "mlp", "stylegan2", "fastgan"])
def test_label_weights_of_one_class_equal_the_label(network: str) -> None:
    import importlib

    generator = importlib.import_module(f"ganexp.networks.{network}").Generator
    shape = [3, 32, 32]
    narrow = {"mlp": {"hidden": [8]}, "r3gan": {"widths": [8]}, "stylegan2": {"channel_base": 64}}.get(network, {"width": 2})
    g = generator(shape, 12, classes=3, **narrow).eval()
    z, y = torch.randn(4, 12), torch.tensor([0, 1, 2, 1])
    weights = nn.functional.one_hot(y, 3).float()
    assert torch.allclose(g(z, y), g(z, weights), atol=1e-5)
    assert not torch.allclose(g(z, y), g(z, weights.roll(1, 1)), atol=1e-5)


def test_walk_returns_to_its_start(model: Models) -> None:
    m = model("styles")
    x = m.walk([1, 2, 3], frames=40)
    assert x.shape == (120, 1, 8, 8) and torch.allclose(x[40], m.sample(1, 1, 2)[0], atol=1e-5)
    steps = (x - x.roll(-1, 0)).flatten(1).norm(dim=1)
    assert steps[-1] < 2 * steps[:-1].max() and steps.min() > 0  # the last frame is one step before the first
    again = m.walk([1, 2, 3], frames=40)
    assert torch.equal(x, again)


# -- truncation and styles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_truncation_1_is_the_sample_and_0_the_mean(name: str, model: Models) -> None:
    m = model(name)
    x = m.truncate([3, 4], [2] if m.classes else None, psi=(0, 0.5, 1))
    assert x.shape == (2, 3, *m.shape)
    for i, seed in enumerate((3, 4)):
        assert torch.allclose(x[i, 2], m.sample(1, 2 if m.classes else None, seed)[0], atol=1e-5)
    if name == "styles":
        g: Any = m.system.sampler
        mean = g.synthesize(g.w_mean.expand(1, g.layers, -1))
    else:
        mean = m.generate(torch.zeros(1, m.latent.dim), 2 if m.classes else None)
    assert torch.allclose(x[:, 0], mean.expand_as(x[:, 0]), atol=1e-5)


def test_style_mix_combines_row_and_column(model: Models) -> None:
    m = model("styles")
    g: Any = m.system.sampler
    everything = list(range(g.layers))
    x = m.style_mix([1, 2], [3, 4], layers=[0], labels=[5])
    down, across = from_seeds(m, [1, 2], [5], "w"), from_seeds(m, [3, 4], [5], "w")
    assert torch.allclose(x[1:, 0], render(m, down)) and torch.allclose(x[0, 1:], render(m, across))
    w = down.x[1].clone()
    w[0] = across.x[0, 0]
    assert torch.allclose(x[2, 1], g.synthesize(w[None])[0], atol=1e-6)
    whole = m.style_mix([1, 2], [3, 4], everything, [5])
    assert torch.allclose(whole[1, 1:], whole[0, 1:], atol=1e-6)


# -- directions ----------------------------------------------------------------------------------------------------------


def test_sefa_finds_the_top_singular_vector() -> None:
    torch.manual_seed(0)
    weights = nn.functional.normalize(torch.randn(40, 6) * torch.tensor([1, 1, 4, 1, 1, 2.0]), dim=1)
    found = sefa(3 * weights, 2, "z")  # rows of any length
    _, s, v = torch.linalg.svd(weights)
    assert torch.allclose(found.vectors.abs(), v[:2].abs(), atol=1e-4) and torch.allclose(found.values, s[:2] ** 2, rtol=1e-4)
    assert found.vectors[0].abs().argmax() == 2


@pytest.mark.parametrize(
    "network, options",
    [("mlp", {"hidden": [8]}), ("dcgan", {"width": 2}), ("acgan", {"width": 2}), ("biggan", {"width": 2, "embedding": 4}),
     ("fastgan", {"width": 2}), ("r3gan", {"widths": [8]}), ("resnet", {"width": 2})],
)  # fmt: skip
@pytest.mark.parametrize("classes", [None, 3])
def test_first_weights_come_from_the_layers_that_see_z(
    network: str, options: dict[str, Any], classes: int | None, model: Models
) -> None:
    """In every network: their outputs are linear in z, and each of BigGAN's chunks has layers of its own."""
    import importlib

    m = model("gmmn")
    generator = importlib.import_module(f"ganexp.networks.{network}").Generator([3, 32, 32], 12, classes=classes, **options)
    system = ganexp.load(m.checkpoint).system
    system.generator, system.ema, system.classes = generator.eval(), None, classes
    system.latent = type(m.latent)(12)
    other = ganexp.Model(system, m.config, 0, m.checkpoint)
    weights = first_weights(other, "z")
    assert weights.shape[1] == 12 and weights.abs().sum(0).min() > 0  # every coordinate counts
    layer = {"mlp": lambda g: g.hidden[0], "dcgan": lambda g: g.project, "r3gan": lambda g: g.project}.get(network)
    if layer is not None:
        assert torch.allclose(weights, layer(generator).weight[:, :12], atol=1e-5)


def test_first_weights_of_styles_are_the_affine_layers(model: Models) -> None:
    m = model("styles")
    g: Any = m.system.sampler
    styles = [layer.style for layer in g.modules() if hasattr(layer, "style")]
    assert len(first_weights(m, "w")) == sum(s.out_features for s in styles)
    with pytest.raises(ValueError, match=r"^space: no layer of this generator has z itself"):
        m.directions(space="z")


def test_pca_finds_directions_of_w_by_variance(model: Models) -> None:
    m = model("styles")
    found = m.directions("pca", num=3, labels=[1], seed=2)
    w = from_prior(m, 10_000, 2, [1], "w").x[:, 0]
    along = (w - w.mean(0)) @ found.vectors.T
    assert torch.allclose(along.std(0), found.units, rtol=1e-2) and (found.units.diff() <= 0).all()
    x = m.along(found.vectors[0], [0], [1], reach=2 * float(found.units[0]), steps=3)
    assert torch.allclose(x[0, 1], m.sample(1, 1, 0)[0], atol=1e-5) and not torch.allclose(x[0, 0], x[0, 2])


def test_attribute_direction_finds_the_axis_of_the_attribute() -> None:
    torch.manual_seed(0)
    codes = torch.randn(1000, 8) * torch.tensor([5.0, 1, 1, 1, 1, 1, 1, 0.1])
    has = codes[:, 2] > 0
    found = fitted(codes[has], codes[~has], "z", "classifier")
    assert found.direction[2] > 0.99 and found.accuracy > 0.95 and abs(found.unit - 1) < 0.1
    chance = fitted(codes[:500], codes[500:], "z", "classifier")
    assert abs(chance.accuracy - 0.5) < 0.1
    scores = within_class(torch.tensor([1.0, 3, 10, 12]), torch.tensor([0, 0, 2, 2]))
    assert torch.equal(scores, torch.tensor([-1.0, 1, -1, 1]))


def test_attribute_direction_works_with_an_encoder(model: Models) -> None:
    m = model("vae")
    found = m.attribute(0, n=300)
    data = training_data(m)
    x, y = data.real_and_labels(300)
    along = m.encode(x) @ found.direction
    assert found.source == "labels" and along[y == 0].mean() > along[y != 0].mean()


# -- projection ----------------------------------------------------------------------------------------------------------


def test_projection_follows_the_published_schedule() -> None:
    assert [round(rate(t), 4) for t in (0, 0.025, 0.05, 0.5, 0.75, 0.875, 1)] == [0, 0.5, 1, 1, 1, 0.5, 0]
    assert [noise_scale(t, 2.0) for t in (0, 0.375, 0.75, 1)] == [0.1, 0.025, 0, 0]


def test_roughness_of_white_noise_is_near_zero() -> None:
    torch.manual_seed(0)
    white = torch.randn(1, 1, 32, 32)
    assert roughness([white]) < 0.05 * roughness([nn.functional.avg_pool2d(white, 3, 1, 1) * 3])
    assert roughness([torch.ones(1, 1, 16, 16)]) == 4  # two sizes, two shifts each
    rows = torch.tensor([1.0, 1, -1, -1]).repeat(2)[:, None].expand(1, 1, 8, 8)  # moved by one row, uncorrelated with itself
    assert roughness([rows]) == roughness([rows.transpose(2, 3)]) == 1


@pytest.mark.parametrize("name", KINDS)
def test_projection_finds_a_generated_sample(name: str, model: Models) -> None:
    """Its mean square error is a twentieth of that at the start of the search, or below 1e-4."""
    m = model(name)
    target = m.sample(1, 4 if m.classes else None, seed=77)
    found = m.project(target, 4 if m.classes else None, steps=200, perceptual=0)
    assert found.mse < max(1e-4, found.start_mse / 20), (found.start_mse, found.mse)
    assert found.picture.shape == m.shape and found.stages.shape[0] == 6
    assert torch.allclose(((found.picture - target[0]) ** 2).mean(), torch.tensor(found.mse), atol=1e-6)
    if name == "styles":
        assert found.space == "w+" and len(found.noise) == 3 and not m.system.sampler.first.noise.requires_grad  # type: ignore
        assert all(abs(float(n.std(correction=0)) - 1) < 0.01 and abs(float(n.mean())) < 0.01 for n in found.noise)


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_projection_code_has_the_shape_of_its_space(space: Any, model: Models) -> None:
    m = model("styles")
    before = {name: value.clone() for name, value in m.system.state_dict().items()}
    found = m.project(m.sample(1, 1, seed=3), 1, space, steps=5, pixels=0)
    assert found.code.shape == ((m.latent.dim,) if space == "z" else (4, m.system.sampler.w_mean.numel()))  # type: ignore
    assert (found.code == found.code[:1]).all() == (space == "w") or space == "z"
    assert all(torch.equal(value, before[name]) for name, value in m.system.state_dict().items())
    assert torch.equal(found.code, m.project(m.sample(1, 1, seed=3), 1, space, steps=5, pixels=0).code)


def test_projection_starts_at_the_code_of_an_encoder(model: Models) -> None:
    m = model("vae")
    x = training_data(m).real(1)
    found = m.project(x, steps=1)
    assert torch.allclose(found.stages[0], m.generate(m.encode(x))[0], atol=1e-5)


def test_perceptual_distance_sees_blur_that_pixels_do_not() -> None:
    """In Lite0's features a blurred picture is farther than one that is a little darker, at the same distance in pixels."""
    from ganexp.metrics.lite0 import Lite0

    class Data:
        shape = (3, 32, 32)

    extractor = Lite0(64)
    extractor.setup(Data())  # type: ignore[arg-type]
    torch.manual_seed(0)
    target = nn.functional.interpolate(torch.randn(1, 3, 16, 16), 32, mode="bicubic").clamp(-1, 1)
    blurred = nn.functional.avg_pool2d(target, 5, 1, 2)
    size = (blurred - target).square().mean().sqrt()
    darker = target - size
    distance = distance_to(target, extractor, 1.0, 0.0)
    assert distance(target) < 1e-6 and distance(blurred) > 1.5 * distance(darker) > 0
    x = blurred.clone().requires_grad_()
    distance(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert torch.allclose(distance_to(target, Pixels(), 0.0, 2.0)(darker), 2 * size.square()[None], rtol=1e-4)


# -- neighbours, spectra, reconstructions --------------------------------------------------------------------------------


def test_neighbours_find_a_planted_duplicate_at_distance_0(model: Models) -> None:
    m = model("images")
    data = training_data(m)
    samples = render(m, from_prior(m, 3, 5, None, "z"))
    data.x[[100, 200, 300]] = to_uint8(samples).contiguous()
    found = m.neighbours(3, k=2, seed=5, extractor=Pixels(), data=data)
    assert found.numbers[:, 0].tolist() == [100, 200, 300] and found.distances[:, 0].max() == 0 < found.distances[:, 1].min()
    assert found.summary()["closer_than_real"] == 1 and len(found.real_distances) == 1797
    assert (found.real_distances > 0).float().mean() > 0.99


def test_nearest_matches_a_computation_by_hand() -> None:
    keys = torch.tensor([[0.0], [1.0], [3.0], [7.0], [7.5]])
    distances, numbers = nearest(torch.tensor([[2.9], [100.0]]), keys, 2)
    assert numbers.tolist() == [[2, 1], [4, 3]] and torch.allclose(distances, torch.tensor([[0.1, 1.9], [92.5, 93.0]]), atol=1e-5)
    assert nearest(keys, keys, 1, same=True)[0][:, 0].tolist() == [1, 1, 2, 0.5, 0.5]


def test_spectrum_of_white_noise_is_flat() -> None:
    torch.manual_seed(0)
    mean = log_power(torch.randn(2000, 1, 32, 32)).mean(0)
    frequencies, profile = azimuthal_average(mean)
    assert frequencies.tolist() == [i / 32 for i in range(1, 17)]
    assert (profile[3:] + 2.51).abs().max() < 0.2  # the mean log of an exponential variable: -10 · 0.5772 / ln 10
    colour = log_power(torch.randn(500, 3, 16, 16)).mean(0)
    assert abs(float(azimuthal_average(colour)[1][4:].mean()) + 2.51 + 10 * math.log10(3)) < 0.2  # grey is their mean


def test_spectrum_of_a_wave_peaks_at_its_frequency() -> None:
    i = torch.arange(32)
    wave = torch.cos(2 * math.pi * 8 * i / 32).expand(1, 1, 32, 32)
    frequencies, profile = azimuthal_average(log_power(wave)[0])
    assert frequencies[profile.argmax()] == 0.25
    assert log_power(torch.full((1, 1, 8, 8), 0.3)).max() < -80  # the mean is taken out


def test_spectrum_of_a_model_equal_to_its_data_is_the_same(model: Models) -> None:
    m = model("images")
    data = training_data(m)
    data.x = to_uint8(render(m, from_prior(m, 64, 0, None, "z")))
    data.y = torch.zeros(64, dtype=torch.int64)
    found = m.spectrum(64, data=data)
    assert (found.real - found.fake)[found.fake > -60].abs().max() < 1.5
    assert not torch.allclose(found.real, m.spectrum(64).real, atol=3)


def test_reconstruct_uses_the_mean_of_z(model: Models) -> None:
    m = model("vae")
    found = m.reconstruct(5)
    assert torch.allclose(found.reconstructed, m.generate(m.encode(found.real)), atol=1e-5)
    mse = ((found.real - found.reconstructed) ** 2).mean()
    assert math.isclose(found.summary()["psnr"], 10 * math.log10(4 / mse), rel_tol=1e-4)
    with pytest.raises(ValueError, match=r"^this model has no encoder"):
        model("images").reconstruct()


# -- films ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gif", "webp", "mp4"])
def test_film_holds_its_frames_in_order(kind: str, tmp_path: Path) -> None:
    if kind == "mp4":
        av = pytest.importorskip("av")
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    film.write_film((Image.new("RGB", (33, 18), c) for c in colours), tmp_path / f"a.{kind}", fps=10)
    if kind == "mp4":
        with av.open(str(tmp_path / "a.mp4")) as opened:
            shown = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
            assert opened.streams.video[0].average_rate == 10 and shown[0].shape == (18, 34, 3)
    else:
        opened = Image.open(tmp_path / f"a.{kind}")
        assert opened.info["loop"] == 0 and opened.size == (33, 18)
        shown = []
        for i in range(opened.n_frames):  # type: ignore[attr-defined]
            opened.seek(i)
            shown.append(np.asarray(opened.convert("RGB")))
            assert opened.info["duration"] == 100
    assert len(shown) == 3
    for picture, colour in zip(shown, colours, strict=True):
        assert np.abs(picture[9, 16].astype(int) - colour).max() < 25
    assert [f.name for f in tmp_path.iterdir()] == [f"a.{kind}"]
    with pytest.raises(ValueError, match=r"^film: must be \.gif, \.webp or \.mp4, got \.avi"):
        film.write_film([], tmp_path / "a.avi", 10)


def test_frames_show_the_samples(model: Models) -> None:
    m = model("images")
    codes = from_seeds(m, [1, 2], [3])
    first, _ = film.frames(m, codes)
    assert first.size == (256, 256) and first.mode == "RGB"
    small = first.resize((8, 8), Image.Resampling.BOX)
    assert np.abs(np.asarray(small)[..., 0].astype(int) - to_uint8(m.sample(1, 3, 1))[0, 0].numpy()).max() < 40


def test_mp4_without_pyav_says_what_to_install(made: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    answer = cli("task=walk", f"run={made}/images", "task.film=mp4")
    assert answer.code == 2 and answer.err == (
        'ganexp: task.film: mp4 needs PyAV, pip install "ganexp[video]"; gif and webp need nothing\n'
    )


# -- every tool on every kind of model -----------------------------------------------------------------------------------

SMALL = {
    "interpolate": ["task.num=3", "task.steps=3", "task.film=webp"],
    "walk": ["task.num=2", "task.frames=2"],
    "truncate": ["task.num=2"],
    "style_mix": ["task.num=2"],
    "neighbours": ["task.num=2", "task.k=3", "task.num_real=50", "extractor=pixels"],
    "directions": ["task.num=2", "task.steps=3"],
    "project": ["task.steps=3", "extractor=pixels"],
    "attributes": ["task.num=60", "task.steps=3", "task.attribute=1"],
    "spectrum": ["task.num=20"],
    "reconstruct": ["task.num=3"],
}
PICTURES = {
    "interpolate": ["interpolation.png", "interpolation.webp"],
    "walk": ["walk.gif", "walk.png"],
    "truncate": ["truncation.png"],
    "style_mix": ["styles.png"],
    "neighbours": ["neighbours.json", "neighbours.png"],
    "directions": ["direction-01.png", "direction-02.png", "directions.json"],
    "project": ["code.npy", "projection.json", "projection.png"],
    "attributes": ["attribute.json", "attribute.png"],
    "spectrum": ["spectrum.json", "spectrum.png"],
    "reconstruct": ["reconstruction.json", "reconstruction.png"],
}
CLASSIFIED = [("attributes", kind) for kind in ("images", "gmmn", "styles")]  # a test of their own, without training a classifier
REFUSED = {
    **{("style_mix", kind): "this generator has no styles" for kind in KINDS if kind != "styles"},
    **{("reconstruct", kind): "this model has no encoder" for kind in KINDS if kind != "vae"},
    ("spectrum", "points"): "a spectrum requires images",
}


BASE = {"style_mix": "styles", "attributes": "vae", "reconstruct": "vae"}  # the kind of model in the default suite; else images


def pairs() -> list[Any]:
    """Every tool on every kind of model; each tool on one kind and one tool on each kind are fast."""
    pairs = [(tool, kind) for tool in SMALL for kind in KINDS if (tool, kind) not in CLASSIFIED]
    fast = [pair for pair in pairs if pair[1] == BASE.get(pair[0], "images") or pair[0] == "interpolate"]
    return [pytest.param(*pair, marks=() if pair in fast else pytest.mark.slow) for pair in pairs]


@pytest.mark.parametrize("tool, kind", pairs())
def test_every_tool_works_or_refuses_on_every_model(tool: str, kind: str, made: Path, cli: Cli, tmp_path: Path) -> None:
    """The same files for the same seed; or a refusal in one line, and nothing written."""
    words = [f"task={tool}", f"run={made}/{kind}", "hardware=cpu", "seed=3", *SMALL[tool]]
    if kind == "points" and tool in ("interpolate", "walk"):
        words = [word for word in words if "film" not in word]
    answer = cli(*words, "hydra.run.dir=a")
    if (tool, kind) in REFUSED:
        message = f"ganexp: task: {REFUSED[tool, kind]}"
        assert answer.code == 2 and answer.err.startswith(message) and answer.err.count("\n") == 1, answer.err
        assert not (tmp_path / "a").exists()
        return
    assert answer.code == 0, answer.err
    wanted = PICTURES[tool]
    if kind == "points":
        wanted = [name for name in wanted if not name.endswith(("gif", "webp"))]
        extra = [n.replace(".png", ".npy") for n in wanted if n.endswith(".png")]
        wanted = sorted({*wanted, *extra})
    found = {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir() if not f.name.startswith(".") and f.name != "log.txt"}
    assert sorted(found) == wanted
    for name in found:
        if name.endswith(".json"):
            assert json.loads(found[name])["seed"] == 3
    checkpoint = made / kind / "checkpoints" / "last.ckpt"
    assert cli(*[f"run={checkpoint}" if w.startswith("run=") else w for w in words], "hydra.run.dir=b").code == 0
    for name, content in found.items():
        if not name.endswith(".json"):
            assert (tmp_path / "b" / name).read_bytes() == content, name


def test_attribute_direction_uses_a_classifier_without_an_encoder(
    made: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, model: Models
) -> None:
    monkeypatch.setattr("ganexp.metrics.classifier.Classifier.fit", lambda self, x, y: 0.5)
    answer = cli("task=attributes", f"run={made}/styles", "task.num=60", "task.steps=3", "task.attribute=9", "hydra.run.dir=a")
    assert answer.code == 0, answer.err
    numbers = json.loads((answer.folder / "a" / "attribute.json").read_text())
    assert (numbers["source"], numbers["space"], numbers["attribute"]) == ("classifier", "w", 9)
    assert abs(sum(v * v for v in numbers["direction"]) - 1) < 1e-4
    assert model("styles").attribute(3, source="labels", n=200).accuracy > 0.6  # the class is in w


def test_truncate_from_python_equals_the_task(made: Path, cli: Cli, model: Models) -> None:
    answer = cli("task=truncate", f"run={made}/points", "task.num=2", "seed=9", "hydra.run.dir=a")
    assert answer.code == 0, answer.err
    wanted = model("points").truncate([9, 10])
    assert np.array_equal(np.load(answer.folder / "a" / "truncation.npy"), wanted.numpy())


# -- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, words, message",
    [
        ("images", ["task=interpolate", "task.labels=[10]"], "labels: must be from 0 to 9 for this model, got 10"),
        ("images", ["task=interpolate", "task.labels=[]"], "labels: must hold at least one class"),
        ("points", ["task=walk", "task.labels=[1]"], "labels: this model is unconditional and has no classes"),
        ("images", ["task=interpolate", "task.seeds=[1]", "task.labels=[2]"], "seeds: at least two keyframes"),
        ("images", ["task=attributes", "task.seeds=[]"], "seeds: must be 1 to 10,000 seeds, got 0"),
        ("images", ["task=directions", "task.seeds=[]"], "seeds: must be 1 to 10,000 seeds, got 0"),
        ("images", ["task=interpolate", "task.seeds=[-1,2]"], "seeds: must be from 0 to"),
        ("images", ["task=interpolate", "task.seeds=[99999999999999999999,2]"], "seeds: must be from 0 to"),
        ("images", ["task=interpolate", "task.space=w"], "space: this generator has no w"),
        ("images", ["task=interpolate", "task.space=v"], "space: 'v' is not a valid choice"),
        ("images", ["task=interpolate", "task.steps=1000000000"], "steps: must be from 2 to 10,000, got 1000000000"),
        ("images", ["task=interpolate", "task.truncation=nan"], "truncation: must be a number, got nan"),
        ("images", ["task=interpolate", "task.film=avi"], "film: must be one of gif, webp, mp4, got avi"),
        ("points", ["task=interpolate", "task.film=gif"], "film: points cannot be filmed"),
        ("points", ["task=walk", "task.film=gif"], "film: points cannot be filmed"),
        ("images", ["task=walk", "task.fps=0"], "fps: must be from 1 to 60, got 0"),
        ("images", ["task=walk", "task.num=200", "task.frames=200"], "frames: must be from 2 to 10,000, got 40000"),
        ("images", ["task=truncate", "task.psi=[1e9]"], "psi: must be from -10 to 10"),
        ("images", ["task=truncate", "task.psi=[]"], "psi: must be a list of 1 to 10,000 numbers, got 0"),
        ("styles", ["task=style_mix", "task.layers=[4]"], "layers: must be from 0 to 3 for this generator, got 4"),
        ("images", ["task=neighbours", "task.k=100", "task.num_real=50"], "k: must be from 1 to 49, got 100"),
        ("images", ["task=neighbours", "task.num=0"], "num: must be from 1 to 10,000, got 0"),
        ("images", ["task=directions", "task.method=ica"], "method: 'ica' is not a valid choice"),
        ("images", ["task=directions", "task.reach=inf"], "reach: must be from 0 to 1,000, got inf"),
        ("styles", ["task=directions", "task.space=z"], "space: no layer of this generator has z itself"),
        ("images", ["task=project", "task.label=11"], "label: must be from 0 to 9 for this model, got 11"),
        ("images", ["task=project", "task.number=5000"], "number: must be from 0 to 1,796, got 5000"),
        ("images", ["task=project", "task.perceptual=0", "task.pixels=0"], "pixels: must be above 0 if perceptual is 0"),
        ("images", ["task=project", "task.lr=inf"], "lr: must be from 1e-06 to 10, got inf"),
        ("images", ["task=project", "task.space=w+"], "space: this generator has no w"),
        ("images", ["task=project", "task.picture=none.png"], "picture: there is no file none.png"),
        ("points", ["task=project", "task.picture=x.png"], "picture: this model generates samples of shape [2]"),
        ("vae", ["task=attributes", "task.attribute=10"], "attribute: must be from 0 to 9, got 10"),
        ("images", ["task=attributes", "task.source=labels"], "source: labels requires an encoder"),
        ("images", ["task=spectrum", "task.num=0"], "num: must be from 1 to 100,000, got 0"),
        ("vae", ["task=reconstruct", "task.num=-1"], "num: must be from 1 to 10,000, got -1"),
    ],
)  # fmt: skip
def test_tools_refuse_bad_input_in_one_line(
    kind: str, words: list[str], message: str, made: Path, cli: Cli, tmp_path: Path
) -> None:
    answer = cli(*words, f"run={made}/{kind}")
    assert answer.code == 2 and answer.err.startswith(f"ganexp: task.{message}"), answer.err
    assert answer.err.count("\n") == 1 and not (tmp_path / "outputs").exists()


def test_project_refuses_hostile_pictures(made: Path, cli: Cli, tmp_path: Path) -> None:
    """From the header alone where possible: 50 megapixels, a decompression bomb, transparency, damage, a huge file."""
    Image.new("1", (10_000, 5_000)).save(tmp_path / "huge.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    Image.new("LA", (20, 20)).save(tmp_path / "two.png")
    Image.new("RGBA", (20, 20)).save(tmp_path / "clear.png")
    Image.new("CMYK", (20, 20)).save(tmp_path / "four.jpg")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    (tmp_path / "text.png").write_text("<script>")
    with open(tmp_path / "long.png", "wb") as file:
        file.truncate(2**27)
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "huge": "has 50 megapixels; the limit is 40",
        "bomb": "has 400 megapixels; the limit is 40",
        "two": "has 2 channels, one of them transparency; save it as grey or RGB",
        "clear": "has 4 channels, one of them transparency; save it as grey or RGB",
        "cut": "cannot be read as a picture",
        "text": "cannot be read as a picture",
        "long": "has 128 MiB; the limit is 64",
    }.items():
        with pytest.raises(ValueError, match=f"^picture: {tmp_path}/{name}.png ") as refused:
            read_picture(tmp_path / f"{name}.png", (1, 8, 8))
        assert message in str(refused.value)
    with pytest.raises(ValueError, match="has 4 channels; save it"):
        read_picture(tmp_path / "four.jpg", (3, 8, 8))
    with pytest.raises(ValueError, match="there is no file"):
        read_picture(tmp_path / "folder.png", (1, 8, 8))
    answer = cli("task=project", f"run={made}/images", "task.picture=huge.png")
    assert answer.code == 2 and answer.err == "ganexp: task.picture: huge.png has 50 megapixels; the limit is 40\n"
    assert not (tmp_path / "outputs").exists()


def test_read_picture_crops_and_scales_like_training_data(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 8:24] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = read_picture(tmp_path / "a.png", (3, 8, 8))  # the middle of it
    assert torch.equal(x[..., 1:7], torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand(1, 3, 8, 6))
    assert read_picture(tmp_path / "a.png", (1, 8, 8)).shape == (1, 1, 8, 8)


def test_project_takes_a_picture(made: Path, cli: Cli, tmp_path: Path) -> None:
    Image.new("L", (30, 20), 200).save(tmp_path / "a.png")
    words = ["task.picture=a.png", "task.steps=2", "extractor=pixels", "hydra.run.dir=a"]
    answer = cli("task=project", f"run={made}/images", *words)
    assert answer.code == 0, answer.err
    numbers = json.loads((tmp_path / "a" / "projection.json").read_text())
    assert numbers["picture"] == "a.png" and 0 <= numbers["label"] < 10 and len(numbers["distances"]) == 2


def test_sheet_size_is_limited() -> None:
    with pytest.raises(ValueError, match=r"^num: the picture would have 105 megapixels; the limit is 100"):
        pictures.check_pixels("num", 10 * 10, (3, 1024, 1024))


def test_tools_refuse_data_of_another_shape(made: Path, cli: Cli) -> None:
    answer = cli("task=neighbours", f"run={made}/images", "data=sine")
    assert answer.code == 2 and answer.err == "ganexp: data.shape: [2], but the model generates [1, 8, 8]\n", answer.err


def test_tools_name_data_that_cannot_be_loaded(made: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSONDecodeError cannot be raised again with another text."""

    def damaged(data: Any) -> None:
        json.loads("{")

    monkeypatch.setattr("ganexp.data.digits.Digits.load", damaged)
    answer = cli("task=neighbours", f"run={made}/images")
    assert answer.code == 2 and answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith("ganexp: data: Expecting property name") and "data.root=… choose other data" in answer.err
    answer = cli("task=neighbours", f"run={made}/images", "data=digits")
    assert answer.code == 2 and answer.err.startswith("ganexp: data: Expecting") and "choose" not in answer.err


def test_tools_refuse_a_model_that_diverged(made: Path, tmp_path: Path, cli: Cli) -> None:
    m = ganexp.load(made / "images")
    for p in m.system.sampler.parameters():
        p.fill_(float("nan"))
    with pytest.raises(ValueError, match="give NaN or infinite samples"):
        m.truncate()
    content = torch.load(made / "images" / "checkpoints" / "last.ckpt", weights_only=True)
    weights = content["state_dict"]
    weights[[name for name in weights if name.startswith("ema.average.")][-1]].fill_(math.nan)
    torch.save(content, tmp_path / "last.ckpt")
    message = f"ganexp: run: {tmp_path}/last.ckpt, of step 3: the training diverged: the generator's "
    for tool in ("sample", "evaluate", "walk", "export"):
        answer = cli(f"task={tool}", f"run={tmp_path}/last.ckpt")
        assert answer.code == 2 and answer.err.startswith(message) and answer.err.count("\n") == 1, answer.err
        assert not (tmp_path / "outputs").exists()
