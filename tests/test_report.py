"""report.html: all of a run in one file that loads nothing, also of a run that failed, and references to compare with."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NARROW, TINY, Answer
from helpers import call, compose
from hydra.utils import get_object
from PIL import Image

from ganexp import references
from ganexp.cli.build import build
from ganexp.evaluation import Evaluation
from ganexp.references import Reference
from ganexp.report import charts
from ganexp.report import run as report
from ganexp.tasks.train import Train

REPORT = vars(Train)["report"]  # before conftest.py replaces it
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [
    name
    for name, missing in {"pip install playwright": find_spec("playwright") is None, "chromium": CHROMIUM is None}.items()
    if missing
]
browser_test = pytest.mark.skipif(bool(MISSING), reason="needs " + "; ".join(MISSING))


@pytest.fixture
def with_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Train, "report", REPORT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny run of digits with its report."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Train, "report", REPORT)
        assert call(folder, *TINY, *NARROW["cdcgan"], "hydra.run.dir=run", "metrics=[swd]") == 0
    yield folder / "run"


def text_of(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def images(text: str) -> dict[str, bytes]:
    """The content of every picture, by its alternative text."""
    found = re.findall(r'<img src="data:image/[a-z+]+;base64,([^"]+)" alt="([^"]*)"', text)
    return {name: base64.b64decode(content) for content, name in found}


def test_report_of_a_run_has_all_its_parts(made: Path) -> None:
    text, shown = text_of(made), images(text_of(made))
    for part in ("Samples during training, as a film", "Samples of the last step"):
        assert shown[part][:4] == b"RIFF"
    for part in ("losses", "scores of D", "swd/pixels", "gradient_norm"):
        assert b"<svg" in shown[f"{part} over the steps"]
    assert shown["Each row: a sample, then its nearest training samples"][:4] == b"RIFF"
    assert "the 5 nearest of 32 training" in text and "distance of pixels features" in text
    record = json.loads((made / "run.json").read_text())
    assert record["protocols"]["swd/pixels"]["fingerprint"] in text and f"{record['metrics']['swd/pixels']['best']:.4g}" in text
    assert re.search(r"trainer\.max_steps</code></td><td><code>3000</code></td><td><code>3<", text), "the diff to the default"
    assert "metrics.fid._target_" in text, "what the run lacks"
    assert record["higher_is_better"] == {"swd/pixels": False}
    assert record["versions"]["torch"] in text and "finished" in text


def test_report_loads_nothing(made: Path) -> None:
    text = text_of(made)
    assert "default-src 'none'; img-src data:;" in text
    assert re.findall(r"<(?:script|link|iframe|object)", text) == []
    assert {source[:5] for source in re.findall(r'(?:src|href)="([^"]*)"', text)} == {"data:"}
    for name, content in images(text).items():
        assert b"<script" not in content and b"url(http" not in content, name


def test_texts_of_files_are_escaped(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    bad = "<script>alert(1)</script>\"'"
    record = json.loads((run / "run.json").read_text())
    record |= {"name": bad, "status": f'x" onload="{bad}', "error": bad, "notes": [bad], "command": bad, "versions": {bad: bad}}
    record["metrics"] = {bad: {"last": bad}, "swd/pixels": None}
    record |= {
        "protocols": {bad: {bad: bad}},
        "remarks": [{"step": 2, "message": bad}, bad],
        "rollbacks": [{"to": 1, "because": bad}],
    }
    (run / "run.json").write_text(json.dumps(record))
    header = f'"{bad.replace(chr(34), chr(34) * 2)}"'
    (run / "metrics.csv").write_text(f"step,{header}\n1,2\n2,3\n")
    report.write_report(run, bad)
    text = text_of(run)
    assert "<script" not in text and 'onload="' not in text and text.count("&lt;script&gt;") >= 10
    assert all(b"<script" not in content for content in images(text).values())


def test_report_of_almost_nothing_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "running"}')
    report.write_report(tmp_path, "no checkpoint")
    text = text_of(tmp_path)
    for part in ("running", "no pictures of samples", "no metrics.csv", "Nothing was measured", "no record of the command line"):
        assert part in text


def test_damaged_files_of_a_run_are_left_out(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    for file in (*(run / "samples").glob("*.png"), run / "config.yaml", run / ".hydra" / "config.yaml"):
        file.write_bytes(b"\x89PNG\0{[:")
    with (run / "metrics.csv").open("ab") as opened:
        opened.write(b"4,\xff\xfe,,,nan,\0")
    report.write_report(run, "x")
    assert "losses over the steps" in images(text_of(run)) and "Samples of the last step" not in images(text_of(run))


def test_failing_report_does_not_fail_the_run(
    cli: Callable[..., Answer], with_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("ganexp.tasks.train.write_report", fail)
    answer = cli(*NARROW["cdcgan"], "metrics=[]", "callbacks=[]", "trainer.max_steps=1", "hardware=cpu")
    assert answer.code == 0 and (answer.run / "log.txt").read_text().count("report.html was not written: disk full") == 1


def test_diverged_run_has_a_report(cli: Callable[..., Answer], with_report: None) -> None:
    words = ["model=mlp", "data=sine", "hardware=cpu", "trainer.max_steps=12", "trainer.log_every=1", "metrics=[]"]
    answer = cli(*words, *NARROW["mlp"], "optimizer.discriminator.lr=1e30", "callbacks=[watchdog,samples]")
    assert answer.code == 1
    text = text_of(answer.run)
    assert 'class="status failed"' in text and "the weights" in text and "the run was not completed" in text


def test_samples_of_a_run_without_an_average_are_not_called_averaged(cli: Callable[..., Answer], with_report: None) -> None:
    words = ["model=mlp", "data=sine", "hardware=cpu", "trainer.max_steps=2", "metrics=[]", "callbacks=[samples]"]
    for average, said in (("5000", "averaged weights"), ("null", "weights of this step")):
        answer = cli(*words, *NARROW["mlp"], f"model.ema_half_life={average}", f"hydra.run.dir=run_{average}")
        assert answer.code == 0 and said in text_of(answer.folder / f"run_{average}")


def test_report_task_writes_the_report_again(made: Path, cli: Callable[..., Answer], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    for name in ("report.html", "metrics.csv"):
        (run / name).unlink()
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    assert cli("task=report", "run=run", "task.num_real=40", "extractor=pixels", "hardware=cpu").code == 0
    assert "the 5 nearest of 40 training" in text_of(run) and "no metrics.csv" in text_of(run)
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == sorted([*before, Path("report.html")])
    (tmp_path / "empty").mkdir()
    answer = cli("task=report", "run=empty")
    assert answer.code == 2 and "empty has no run.json" in answer.err


def test_remarks_of_the_watchdog_are_listed_and_marked() -> None:
    curve = {"D": (np.arange(10.0), np.ones(10))}
    drawn = base64.b64decode(charts.chart("losses", curve, marks=[4, 8]).partition(",")[2]).decode()
    assert drawn.count("#b00020") == 2
    assert "#b00020" not in base64.b64decode(charts.chart("losses", curve).partition(",")[2]).decode()


def test_long_curves_are_thinned_and_keep_their_last_point() -> None:
    steps, values = charts.thinned((np.arange(10_000.0), np.arange(10_000.0)))
    assert len(steps) == charts.MOST_POINTS and steps[-1] == values[-1] == 9999 and np.allclose(steps, values)


def test_film_has_a_maximum_number_of_frames(tmp_path: Path) -> None:
    for i in range(60):
        Image.effect_noise((700, 20), 4 * i + 9).save(tmp_path / f"step-{i:08d}.png")
    made = report.film(sorted(tmp_path.glob("step-*.png")))
    assert made is not None
    file = tmp_path / "film.webp"
    file.write_bytes(base64.b64decode(made.partition(",")[2]))
    with Image.open(file) as opened:
        assert (opened.n_frames, opened.width) == (report.FRAMES, report.FILM)  # type: ignore[attr-defined]


def test_watchdog_remark_stays_in_run_json_until_its_step_is_repeated(tmp_path: Path) -> None:
    from ganexp.callbacks.record import Record

    (tmp_path / "run.json").write_text(json.dumps({"remarks": [{"step": 2, "message": "a"}, {"step": 9, "message": "b"}]}))
    record = Record(tmp_path, {}, {})
    trainer = type("Trainer", (), {"global_step": 5, "is_global_zero": False})()
    record.on_train_start(trainer, type("System", (), {"images_seen": 0})())  # type: ignore[arg-type]
    assert record.before["remarks"] == [{"step": 2, "message": "a"}]


# -- references ----------------------------------------------------------------------------------------------------------

LEVEL = "on a level with"
BAND = Reference("d", "modes/pixels", "seeds 1 to 5", "here", True, "p", "abc", steps=(0, 100), low=(0, 10), high=(2, 20))


@pytest.mark.parametrize(
    ("step", "value", "verdict"), [(50, 11, LEVEL), (50, 5, LEVEL), (50, 4.9, "behind"), (50, 11.1, "ahead of")]
)
def test_band_is_linear_between_its_steps(step: int, value: float, verdict: str) -> None:
    assert BAND.band(50) == (5, 11) and BAND.band(1000) == (10, 20)
    assert BAND.verdict(step, value) == verdict


def test_lower_values_are_ahead_where_lower_is_better() -> None:
    band = Reference("d", "swd/pixels", "x", "here", False, "p", "abc", value=0.5)
    assert (band.verdict(9, 0.4), band.verdict(9, 0.5), band.verdict(9, 0.6)) == ("ahead of", LEVEL, "behind")


@pytest.mark.slow
@browser_test
def test_report_opens_in_a_browser_without_a_request(made: Path) -> None:
    """At the width of a telephone nothing is wider than the screen, and all pictures are decoded."""
    from playwright.sync_api import sync_playwright

    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width in (375, 1200):
            page = browser.new_page(viewport={"width": width, "height": 700})
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda message: pytest.fail(message.text))
            page.goto((made / "report.html").resolve().as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            assert page.locator("details >> nth=0").is_visible()
        browser.close()
    assert [url[:60] for url in requests if not url.startswith(("data:", "file:"))] == []


@pytest.mark.parametrize("entry", references.entries(), ids=lambda entry: f"{entry.metric} {entry.label}")
def test_every_reference_has_a_source_and_is_of_data_that_exist(entry: Reference) -> None:
    assert entry.source and entry.protocol and isinstance(get_object(entry.data), type)
    assert (entry.value is None) != (not entry.steps) and len(entry.steps) == len(entry.low) == len(entry.high)
    assert all(low <= high for low, high in zip(entry.low, entry.high, strict=True)) and list(entry.steps) == sorted(entry.steps)


PAGES = sorted({entry.source.split(",")[0] for entry in references.entries() if entry.source.startswith("docs/")})


@pytest.mark.parametrize("page", PAGES)
def test_values_of_references_are_those_of_their_page(page: str) -> None:
    numbers = set(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", (Path(__file__).parents[1] / page).read_text()))
    for entry in references.entries():
        if entry.source.startswith(page) and entry.value is not None:  # rounded there, perhaps in per cent
            assert numbers & {f"{scale * entry.value:,.{digits}f}" for scale in (1, 100) for digits in range(4)}, entry


def protocols(experiment: str) -> dict[str, Any]:
    composed = compose(f"experiment={experiment}")
    data = build(composed["data"], "data")
    data.prepare()
    metrics = [build(node, "metrics") for node in composed["metrics"].values()]
    evaluation = Evaluation(metrics, data, composed["callbacks"]["metrics"]["num"], False)
    evaluation.setup()
    return evaluation.protocols(ema=True)


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_references_measured_with_ganexp_have_the_protocol_of_their_experiment(name: str) -> None:
    measured = [entry for entry in references.entries() if entry.label.startswith(f"experiment={name},")]
    fingerprints = {metric: protocol["fingerprint"] for metric, protocol in protocols(name).items()}
    assert measured and all(entry.fingerprint == fingerprints[entry.metric] for entry in measured)


def test_references_are_those_of_the_data_and_of_the_protocol() -> None:
    ring = {"_target_": "ganexp.data.toy.Gaussians", "classes": 8}
    found = references.references(ring, protocols("ring"))
    assert {"experiment=ring, seeds 1 to 5", "PacGAN2 (ring)"} <= {entry.label for entry in found}
    assert not any("grid" in entry.label for entry in found)
    other = references.references(ring, {"modes/pixels": {"fingerprint": "another"}})
    assert other and all(entry.fingerprint is None for entry in other)
    assert references.standings(other, 6000, {"modes/pixels": 8}) == [], "no verdict across protocols"
    assert references.references({"_target_": "ganexp.data.digits.Digits"}, {"modes/pixels": {}}) == []


def test_report_of_a_study_has_its_leaderboard_and_plots_and_escapes_them(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    plots = {"Curves": Image.new("RGB", (30, 20)), bad: Image.new("RGB", (30, 20))}
    tables = [("", ["setting", bad], [["loss=hinge", "0.5"], [bad, "0.6"]]), (bad, ["a"], [["b"]])]
    report.write_study_report(tmp_path, bad, tables, [bad], plots, runs=10)
    text = text_of(tmp_path)
    assert "10 runs" in text and "<td>loss=hinge</td>" in text and text.count("&lt;script&gt;") == 7 and "<script" not in text
    assert len(re.findall('src="data:image/webp', text)) == 2 and "default-src 'none'" in text
