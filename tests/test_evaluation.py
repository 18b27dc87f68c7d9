"""Measuring: the cache, the protocols, task=evaluate on two folders, task=compare."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BARE, NARROW, TINY, Answer, write_images
from helpers import RANKS, call, on_two_ranks
from PIL import Image
from torch import Tensor

from ganexp.data.digits import Digits
from ganexp.data.folder import UnresizedFolder
from ganexp.evaluation import Evaluation, chunks, images_of
from ganexp.images import to_float, to_uint8
from ganexp.metrics.diversity import MSSSIM, Diversity
from ganexp.metrics.features import Pixels, Random
from ganexp.metrics.fid import FID
from ganexp.metrics.kid import KID
from ganexp.metrics.metric import FeatureMetric
from ganexp.metrics.swd import SlicedWasserstein

Cli = Callable[..., Answer]
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ganexp"


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits([1, 8, 8], 10)
    data.prepare()
    return data


def noise(part: slice) -> tuple[Tensor, None]:
    """Samples that depend on their numbers alone."""
    drawn = [torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(part.start, part.stop)]
    return torch.stack(drawn).tanh(), None


def measured(metrics: list[FeatureMetric], data: Digits, num: int = 300) -> dict[str, float]:
    evaluation = Evaluation(metrics, data, num, False)
    evaluation.setup()
    values, failed = evaluation.measure(noise, CPU)
    assert not failed
    return values


class Counting(Random):
    """How many images pass through."""

    seen = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        Counting.seen += len(x)
        return super().forward(x)


def test_real_features_are_extracted_once(cache: Path, digits: Digits, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Counting.seen = 0
    first = measured([FID(Counting(4)), KID(Counting(4), 5, 50)], digits)
    assert Counting.seen == 2 + 300 + 300  # a try, the real ones, the samples: one extractor serves both metrics
    assert "written to the cache" in caplog.text
    again = measured([FID(Counting(4))], digits)
    assert Counting.seen == 602 + 2 + 300 and "read from the cache" in caplog.text
    assert again["fid/random"] == first["fid/random"]
    assert len(list(cache.rglob("*.npz"))) == 1 and not list(cache.rglob(".*.part"))


def measure_and_count(number: int) -> tuple[float, int]:
    data = Digits([1, 8, 8], 10)
    data.prepare()
    Counting.seen = 0
    return measured([FID(Counting(4))], data)["fid/random"], Counting.seen


def test_parallel_runs_extract_real_features_once(cache: Path) -> None:
    with get_context(RANKS).Pool(3) as pool:
        values, seen = zip(*pool.map(measure_and_count, range(3), chunksize=1), strict=True)
    assert sum(seen) == 3 * (2 + 300) + 300 and len(set(values)) == 1


def test_features_are_cached_apart_for_other_data_and_extractors(cache: Path, digits: Digits) -> None:
    measured([FID(Random(4))], digits)
    measured([FID(Random(4, seed=1))], digits)
    measured([FID(Random(4))], digits, num=200)
    changed = Digits([1, 8, 8], 10)
    changed.prepare()
    changed.x = changed.x.clone()
    changed.x[changed.order(300)[7], 0, 3, 3] ^= 1
    measured([FID(Random(4))], changed)
    assert len(list(cache.rglob("*.npz"))) == 4


def test_pixels_are_not_cached(cache: Path, digits: Digits) -> None:
    measured([SlicedWasserstein(Pixels()), Diversity(Pixels())], digits)
    assert not cache.exists()


def one_byte(content: bytes) -> bytes:
    """One bit of one feature is another."""
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


@pytest.mark.parametrize("damage", [lambda b: b[:1000], lambda b: b"\0" * len(b), lambda b: b"", one_byte])
def test_damaged_cached_features_are_computed_again(
    damage: Callable[[bytes], bytes], cache: Path, digits: Digits, caplog: pytest.LogCaptureFixture
) -> None:
    first = measured([FID(Random(4))], digits)
    (file,) = cache.rglob("*.npz")
    file.write_bytes(damage(file.read_bytes()))
    assert measured([FID(Random(4))], digits) == first
    assert caplog.text.count("is damaged, and is made again") == 1


@pytest.mark.parametrize("n", [1, 2, 7, 64, 300, 2000, 2049, 10_000])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 16])
def test_ranks_process_the_chunks_of_one_process(n: int, ranks: int) -> None:
    shares = [part for rank in range(ranks) for part in chunks(n, rank, ranks)]
    assert shares == chunks(n) and [i for part in shares for i in range(part.start, part.stop)] == list(range(n))
    assert max(part.stop - part.start for part in shares) <= 256


def of_digits(num: int, data: Digits) -> Evaluation:
    metrics = [FID(Random(4)), KID(Random(4), 5, 5), SlicedWasserstein(Pixels())] if num > 1 else [SlicedWasserstein(Pixels())]
    evaluation = Evaluation(metrics, data, num, False)
    evaluation.setup()
    return evaluation


def measure_on(rank: int, folder: Path, num: int) -> None:
    data = Digits([1, 8, 8], 10)
    data.prepare()
    torch.save(of_digits(num, data).measure(noise, CPU, rank, 2), folder / f"{rank}.pt")


@pytest.mark.parametrize("num", [301, 1])
def test_two_ranks_agree_with_one_process(num: int, tmp_path: Path, cache: Path, digits: Digits) -> None:
    """Also where one of them has nothing to do, with a single sample."""
    on_two_ranks(measure_on, tmp_path, num)
    values, _ = of_digits(num, digits).measure(noise, CPU)
    assert len(values) == (4 if num > 1 else 1)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == (pytest.approx(values, rel=1e-6), {})


def test_samples_are_rounded_as_if_saved(digits: Digits) -> None:
    """A model and the folder of its saved pictures have the same values."""
    drawn = to_uint8(noise(slice(0, 300))[0])
    saved = Digits([1, 8, 8], 10)
    saved.x, saved.y = drawn, torch.zeros(300, dtype=torch.long)
    saved.classes = 0
    evaluation = Evaluation([SlicedWasserstein(Pixels())], digits, 300, False)
    evaluation.setup()
    assert evaluation.measure(noise, CPU) == evaluation.measure(images_of(saved, CPU), CPU)


@pytest.mark.parametrize("labelled", [True, False])
def test_real_and_fake_samples_are_paired_alike(labelled: bool, digits: Digits) -> None:
    """By class if the samples have labels; otherwise neither side is."""
    evaluation = Evaluation([MSSSIM(Pixels())], digits, 300, labelled)
    evaluation.setup()

    def the_real_ones(part: slice) -> tuple[Tensor, Tensor | None]:
        i = evaluation.order[part]
        return to_float(digits.x[i]), digits.y[i] if labelled else None

    values, _ = evaluation.measure(the_real_ones, CPU)
    assert values["ms_ssim/pixels"] == pytest.approx(values["ms_ssim_real/pixels"], rel=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        lambda data: Evaluation([FID(Random(4))], data, 299, False),
        lambda data: Evaluation([FID(Random(5))], data, 300, False),
        lambda data: Evaluation([FID(Pixels())], data, 300, False),
    ],
)
def test_fingerprint_differs_between_protocols(changed: Callable[[Digits], Evaluation], digits: Digits, cache: Path) -> None:
    def fingerprint_of(evaluation: Evaluation, ema: bool) -> str:
        evaluation.setup()
        (protocol,) = evaluation.protocols(ema).values()
        return str(protocol["fingerprint"])

    first = fingerprint_of(Evaluation([FID(Random(4))], digits, 300, False), True)
    averaged_or_not = [fingerprint_of(Evaluation([FID(Random(4))], digits, 300, False), ema) for ema in (True, False)]
    assert averaged_or_not == [first, first]  # another generator, measured in the same way
    assert fingerprint_of(changed(digits), True) != first


# -- two folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    write_images(tmp_path / "a", 16)
    write_images(tmp_path / "b", 20)
    return tmp_path / "a", tmp_path / "b"


def test_evaluate_compares_two_folders(cli: Cli, folders: tuple[Path, Path]) -> None:
    real, fake = folders
    answer = cli("task=evaluate", f"task.real={real}", f"task.fake={fake}", "metrics=[fid,swd,prdc]", "extractor=random")
    assert answer.code == 0, answer.err
    result = json.loads((answer.run / "evaluation.json").read_text())
    protocol = result["protocols"]["fid/random"]
    assert (protocol["real"]["images"], protocol["generated"], protocol["ema"]) == (16, 20, None)
    assert "20 images of" in answer.out and "biased upwards" in answer.out
    for name, value in result["values"].items():
        assert value["value"] >= 0 and f"{name} " in answer.out


def test_folder_against_itself_has_zero_distance(cli: Cli, folders: tuple[Path, Path]) -> None:
    (folders[0] / "scan.tif").write_bytes(b"")
    same = [f"task.real={folders[0]}", f"task.fake={folders[0]}"]
    answer = cli("task=evaluate", *same, "metrics=[fid,swd,prdc]", "extractor=random")
    assert f"{folders[0]}: files of other types are left out: 1 .tif" in answer.out + answer.err
    values = {n: v["value"] for n, v in json.loads((answer.run / "evaluation.json").read_text())["values"].items()}
    assert values["swd/pixels"] == 0 and values["fid/random"] == pytest.approx(0, abs=1e-4) and values["coverage/random"] == 1


def resize(folder: Path) -> None:
    for file in folder.rglob("*.*"):
        Image.open(file).resize((20, 15)).save(file)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda b: [file.unlink() for file in b.rglob("*.*")], "fake: {b} contains no image"),
        (lambda b: (b / "000.jpg").write_bytes((b / "000.jpg").read_bytes()[:300]), "fake: {b}/000.jpg cannot be read"),
        (lambda b: Image.open(b / "002.png").resize((9, 9)).save(b / "002.png"), "002.png has 9×9 px"),
        (resize, "fake: has images of 15×20 px in 3 channels, but real has 30×40 px"),
        (lambda b: [Image.new("RGB", (40, 30), (i, 0, 0)).save(f) for i, f in enumerate(b.rglob("*.*"))], "of a single colour"),
        (lambda b: [file.unlink() for file in sorted(b.rglob("*.*"))[1:]], "fake: {b} contains a single image"),
    ],
)
def test_evaluate_refuses_folders_that_cannot_be_compared(
    spoil: Callable[[Path], object], message: str, cli: Cli, folders: tuple[Path, Path]
) -> None:
    real, fake = folders
    spoil(fake)
    answer = cli("task=evaluate", f"task.real={real}", f"task.fake={fake}", "metrics=[fid]", "extractor=random")
    assert answer.code == 2 and message.format(b=fake) in answer.err, answer.err
    assert answer.err.count("\n") == 1 and not (answer.folder / "outputs").exists()


def test_metric_refuses_fewer_images_than_it_needs(cli: Cli, folders: tuple[Path, Path]) -> None:
    answer = cli("task=evaluate", f"task.real={folders[0]}", f"task.fake={folders[1]}", "metrics=[kid]", "extractor=random")
    assert answer.code == 2 and answer.err == "ganexp: metrics: kid/random: requires at least 1,000 real samples, got 16\n"


def test_unresized_folder_keeps_pixels(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, 6, 7), np.uint8)
    (tmp_path / "grey").mkdir()
    for i, image in enumerate(grey):
        Image.fromarray(image).save(tmp_path / "grey" / f"{i}.png")
    data = UnresizedFolder(str(tmp_path / "grey"))
    data.prepare()
    assert data.shape == (1, 6, 7) and np.array_equal(data.x[:, 0].numpy(), grey)


def test_unresized_folder_scales_16_bits_to_8(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (2, 6, 7)).astype(np.uint16)
    for i, image in enumerate(deep):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    data = UnresizedFolder(str(tmp_path))
    data.prepare()
    assert np.array_equal(data.x[:, 0].numpy(), (deep >> 8).astype(np.uint8))


# -- in a run, and runs side by side -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that measured the same, and one with other images."""
    folder = tmp_path_factory.mktemp("runs")
    for i, more in enumerate(([], ["seed=1"], ["callbacks.metrics.num=48"])):
        choices = ["model=mlp", *TINY, *NARROW["mlp"], "metrics=[swd,fid,prdc]", "extractor=random", *more]
        assert call(folder, *choices, f"hydra.run.dir=r{i}") == 0
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> list[Path]:
    """Copies, which a test may change."""
    return [Path(shutil.copytree(trained / f"r{i}", tmp_path / f"r{i}")) for i in range(3)]


def test_run_records_best_last_and_mean_of_metrics(runs: list[Path]) -> None:
    record = json.loads((runs[0] / "run.json").read_text())
    with (runs[0] / "metrics.csv").open(newline="") as file:
        values = [float(row["swd/pixels"]) for row in csv.DictReader(file) if row["swd/pixels"]]
    assert len(values) == 3
    trained = values[1:]  # the first one is of the untrained networks
    assert record["metrics"]["swd/pixels"] == {
        "last": pytest.approx(values[-1]),
        "mean_of_last_5": pytest.approx(np.mean(trained)),
        "best": pytest.approx(min(trained)),
        "best_step": [2, 3][int(np.argmin(trained))],
    }
    assert record["protocols"]["fid/random"]["real"]["images"] == 32
    assert {"precision/random", "recall/random", "density/random", "coverage/random"} <= record["metrics"].keys()


def test_compare_writes_table_curves_and_grids(cli: Cli, runs: list[Path]) -> None:
    answer = cli("task=compare", f"task.runs=[{runs[0]},{runs[1]}]", "hydra.run.dir=both")
    assert answer.code == 0, answer.err
    both = answer.folder / "both"
    assert {"comparison.md", "comparison.json", "curves.png", "grids.png"} <= {file.name for file in both.iterdir()}
    table = (both / "comparison.md").read_text()
    assert (
        r"mlp\_digits r0" in table
        and r"mlp\_digits r1" in table
        and "swd/pixels best" in table
        and "different protocols" not in answer.out
    )
    values = [json.loads((run / "run.json").read_text())["metrics"]["swd/pixels"]["last"] for run in runs[:2]]
    assert all(f"{value:.4g}" in table and f"{value:.4g}" in answer.out for value in values)
    assert Image.open(both / "grids.png").width > 600 and not answer.err


def test_compare_draws_what_a_damaged_metrics_csv_has(cli: Cli, runs: list[Path]) -> None:
    """A row that was cut short, a NUL byte, and no file at all."""
    with (runs[0] / "metrics.csv").open("a") as file:
        file.write("4,na\0")
    (runs[1] / "metrics.csv").unlink()
    answer = cli("task=compare", f"task.runs=[{runs[0]},{runs[1]}]", "hydra.run.dir=both")
    assert answer.code == 0, answer.err
    assert (answer.folder / "both" / "curves.png").is_file()
    assert "r1/metrics.csv is missing or has no values" in answer.out + answer.err


def test_compare_warns_of_different_protocols(cli: Cli, runs: list[Path]) -> None:
    answer = cli("task=compare", f"task.runs=[{runs[0]},{runs[2]}]", "hydra.run.dir=both")
    assert answer.code == 0
    said = "fid/random: measured under different protocols (real, generated): do not compare these values"
    assert said in answer.out and said in (answer.folder / "both" / "comparison.md").read_text()


@pytest.mark.parametrize(
    "chosen, message",
    [
        ("[]", "task.runs: at least two"),
        ("[{0}]", "runs: at least two"),
        ("[{0},nowhere]", "task.runs: nowhere is not a run folder"),
    ],
)
def test_compare_refuses_runs_that_cannot_be_compared(chosen: str, message: str, cli: Cli, runs: list[Path]) -> None:
    answer = cli("task=compare", f"task.runs={chosen.format(*runs)}")
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1


def test_identical_samples_have_no_metric_value(cli: Cli, tmp_path: Path) -> None:
    """The run continues and says so once."""
    (tmp_path / "zero_latents.py").write_text(
        "from ganexp.latents import Normal\n\n\nclass Zeros(Normal):\n"
        "    def sample(self, n, device):\n        return 0 * super().sample(n, device)\n"
    )
    zeros = "model.latent._target_=zero_latents.Zeros"
    answer = cli("model=mlp", *TINY, *NARROW["mlp"], "metrics=[swd,fid]", "extractor=random", zeros)
    assert answer.code == 0 and answer.out.count("not measured: fid/random: all generated samples are identical") == 1
    assert answer.record["metrics"].keys() == {"swd/pixels"} and answer.record["best"]["metric"] == "swd/pixels"


def test_evaluate_refuses_a_checkpoint_that_samples_nan(cli: Cli) -> None:
    answer = cli("model=mlp", *BARE, *NARROW["mlp"], "hydra.run.dir=r")
    file = answer.folder / "r" / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    for weight in content["state_dict"].values():
        weight.fill_(float("nan"))
    torch.save(content, file)
    answer = cli("task=evaluate", f"run={file}", "metrics=[swd,fid]", "extractor=random", "task.num_images=64")
    said = answer.err.splitlines()
    assert answer.code == 2 and len(said) == 1 and "last.ckpt, of step 3: the training diverged" in said[0]
    assert not (answer.folder / "outputs").exists()
