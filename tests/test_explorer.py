"""The explorer: what its tabs show, and, in a browser, every control of the page. No request may leave this machine."""

from __future__ import annotations

import csv
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import BARE, NARROW, NARROW_ALL, TINY, Answer
from helpers import call
from PIL import Image

from ganexp import pictures
from ganexp.cli.messages import ConfigError
from ganexp.explorer import history, views
from ganexp.explorer.opened import Library, Opened
from ganexp.metrics.features import Pixels
from ganexp.report.charts import read_curves
from ganexp.tasks.explore import Explore, is_loopback

Cli = Callable[..., Answer]
IMAGES = ["model=cdcgan", *NARROW["cdcgan"], "optimizer.generator.lr=0.05"]


def library_of(*runs: Path, trust: Any = ()) -> Library:
    return Library([str(run) for run in runs], torch.device("cpu"), trust, None, Pixels)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of a conditional GAN."""
    folder = tmp_path_factory.mktemp("explorer")
    assert call(folder, *IMAGES, *TINY, "metrics=[swd]", "hydra.run.dir=images") == 0
    return folder / "images"


@pytest.fixture(scope="module")
def opened(run: Path) -> Opened:
    library = library_of(run)
    return library.get(library.checkpoints[0])


# -- what is seen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, n, columns", [((1, 8, 8), 100, 10), ((3, 64, 48), 13, 5), ((3, 32, 32), 2, 7), ((1, 9, 9), 1, 1)]
)
def test_click_finds_the_image_under_it(shape: tuple[int, ...], n: int, columns: int) -> None:
    """Each image in turn is white: a click in the middle of the white pixels finds it."""
    for i in range(n):
        images = -torch.ones(n, *shape)
        images[i] = 1
        white = (np.asarray(pictures.grid(images, columns).convert("L")) > 128).nonzero()
        point = float(white[1].mean()), float(white[0].mean())
        assert pictures.number_at(point, n, columns, shape) == i


def test_click_beside_the_images_finds_the_nearest() -> None:
    assert pictures.number_at((-5, -5), 6, 3, (1, 8, 8)) == 0
    assert pictures.number_at((10_000, 10_000), 6, 3, (1, 8, 8)) == 5
    assert pictures.number_at((10_000, 10_000), 5, 3, (1, 8, 8)) == 4  # the last row is not full


def all_views(opened: Opened, picture: Path) -> dict[str, Any]:
    ends = [(3, 1), (4, 7)]
    return {
        "samples": views.samples(opened, views.grid_of(opened, 5, 20, None), 0.5),
        "sample": views.sample(opened, 8, 2, 0.7),
        "neighbours": views.neighbours(opened, 8, 2, 0.7),
        "morph": views.morph(opened, ends, 0.3, 0.9),
        "strip": views.strip(opened, ends, 0.9),
        "along": views.along(opened, "sefa", [1.0, 0.0, -2.0], 3, 4, 0.8),
        "pca": views.along(opened, "pca", [0.5], 3, 4, 1.0),
        "towards": views.along(opened, "sefa", [1.0], 3, 4, 1.0, views.towards(opened, 7), 2.5),
        "project": views.project(opened, None, 2, None, None, 10)[0],
        "upload": views.project(opened, str(picture), 0, 3, None, 10)[0],
    }


def test_code_of_a_view_reproduces_its_picture(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save("mine.png")
    monkeypatch.setattr("ganexp.latent_space.real.AutoExtractor", Pixels)
    monkeypatch.setattr("ganexp.metrics.classifier.Classifier.fit", lambda self, x, y: 0.5)
    for name, view in all_views(opened, tmp_path / "mine.png").items():
        exec(view.code, {})
        again = np.asarray(Image.open("picture.png").convert("RGB")).astype(int)
        assert np.abs(again - np.asarray(view.picture.convert("RGB"))).max() <= 1, name
        Path("picture.png").unlink()


def test_film_goes_there_and_back(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(views, "FRAMES", 3)
    caption, code = views.film(opened, [(3, 1), (4, 7)], 1.0, tmp_path / "film.webp")
    exec(code, {})
    assert caption == "there and back, 6 pictures" and Path("picture.webp").read_bytes() == Path("film.webp").read_bytes()
    with Image.open("film.webp") as film:
        first = np.asarray(film.convert("RGB")).astype(int)
    assert np.abs(first - np.asarray(views.sample(opened, 3, 1, 1.0).picture)).mean() < 4  # WebP is lossy


def test_click_chooses_a_training_picture(opened: Opened) -> None:
    picture, numbers = views.choices(opened)
    assert len(numbers) == views.CHOICES and numbers[-1] < len(opened.data.x)
    middle = picture.width / views.COLUMNS * 2.5, picture.height / 4 * 1.5  # second row, third column
    assert views.chosen(opened, numbers, middle) == numbers[12]


def test_direction_towards_a_class_moves_the_sample(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganexp.metrics.classifier.Classifier.fit", lambda self, x, y: 0.5)
    towards = views.towards(opened, 7)
    still, moved = (views.along(opened, "sefa", [0.0], 3, 4, 1.0, towards, amount).picture for amount in (0.0, 3.0))
    assert still.tobytes() == views.sample(opened, 3, 4, 1.0).picture.tobytes() != moved.tobytes()
    with pytest.raises(ValueError, match="attribute: must be from 0 to 9"):
        views.towards(opened, 10)


def test_grid_has_a_sample_for_each_seed(opened: Opened) -> None:
    grid = views.grid_of(opened, 5, 20, None)
    assert (grid.n, grid.columns) == (20, 10)
    view = views.samples(opened, grid, 1.0)
    middle = view.picture.width / 10 * 3.5, view.picture.height * 0.75  # second row, fourth column
    assert grid.picked(opened, middle) == (18, 3)
    assert views.grid_of(opened, 0, 9, 4).columns == 3 and views.grid_of(opened, 0, 9, 4).picked(opened, (0, 0)) == (0, 4)
    with pytest.raises(ValueError, match="samples: "):
        views.grid_of(opened, 0, 101, None)


def test_zero_amounts_along_directions_change_nothing(opened: Opened) -> None:
    still, moved = (views.along(opened, "sefa", amounts, 3, 4, 1.0).picture for amounts in ([0.0] * 6, [3.0] * 6))
    assert still.tobytes() == views.sample(opened, 3, 4, 1.0).picture.tobytes() != moved.tobytes()


def test_quiz_shows_real_and_generated_images(opened: Opened) -> None:
    asked = [views.question(opened) for _ in range(40)]
    real = {views.single(opened, image[None]).tobytes() for image in (opened.data.real(2000))}
    assert {is_real for _, is_real in asked} == {True, False}
    assert all((image.tobytes() in real) == is_real for image, is_real in asked)
    assert views.verdict(True, True, 3, 4) == "Right: it is real. 3 of 4 right; guessing gives half."
    assert views.verdict(False, True, 3, 5).startswith("Wrong: it is generated.")


def test_history_reads_pictures_and_curves_of_the_run(run: Path) -> None:
    found = history.History(run)
    assert found.steps == [0, 2, 3]
    assert found.picture(2).tobytes() == Image.open(run / "samples" / "step-00000002.png").convert("RGB").tobytes()
    curves = read_curves(run / "metrics.csv")
    assert history.metrics_among(curves, run) == ["swd/pixels"] and len(found.curves.boxes) == 2
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    pairs = [(int(r["step"]), float(r["loss/generator"])) for r in rows if r["loss/generator"]]
    assert list(zip(*curves["loss/generator"], strict=True)) == pairs
    changed = np.asarray(found.curves_at(3)).astype(int) - np.asarray(found.curves.picture)
    assert abs(changed.nonzero()[1].mean() - found.curves.boxes[0][1]) < 3  # the last step is at the right end


def test_deleted_files_are_reported_and_open_models_stay(run: Path, tmp_path: Path) -> None:
    """A model that is deleted stays open; what must be read again is reported in a sentence."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    library = library_of(copy)
    (name,) = library.checkpoints
    open_one = library.get(name)
    found = history.History(open_one.folder)
    before = views.sample(open_one, 1, 1, 1.0).picture.tobytes()
    shutil.rmtree(copy)
    assert views.sample(library.get(name), 1, 1, 1.0).picture.tobytes() == before
    with pytest.raises(ValueError, match="step 2 cannot be read any more"):
        found.picture(2)
    other = next(each for each in library.all_checkpoints if each != name)
    with pytest.raises(ConfigError, match="there is no file"):
        library.get(other)
    with pytest.raises(ValueError, match="no pictures of the training"):
        history.History(copy)
    with pytest.raises(ValueError, match="does not lie in its run's folder"):
        history.History(None)


def test_library_caches_opened_models(run: Path) -> None:
    library = library_of(run)
    assert len(library.all_checkpoints) >= 3  # best or last, and step-N
    first = next(iter(library.all_checkpoints))
    a = library.get(first)
    assert library.get(first) is a and len(library.open) == 1
    for name in library.all_checkpoints:
        library.get(name)
    library.open.update({Path(f"other-{i}"): a for i in range(4)})
    assert library.get(library.checkpoints[0]) in library.open.values() and len(library.open) == 1 + 4
    names = [re.sub(r".*/", "", name) for name in library.all_checkpoints]
    assert {"last.ckpt", "step-00000003.ckpt"} <= set(names)


def test_views_of_points_are_shown_or_refused(tmp_path: Path) -> None:
    assert call(tmp_path, "model=mlp", "data=ring", "data.points=600", *NARROW["mlp"], *BARE, "hydra.run.dir=ring") == 0
    library = library_of(tmp_path / "ring")
    points = library.get(library.checkpoints[0])
    grid = views.grid_of(points, 0, 30, None)
    for view in (
        views.samples(points, grid, 1.0),
        views.strip(points, [(0, None), (1, None)], 1.0),
        views.sample(points, 3, None, 1.0),
    ):
        assert view.picture.size == (640, 480) and "picture" not in view.code
    with pytest.raises(ValueError, match=r"Only pictures are picked by a click"):
        grid.picked(points, (1, 1))
    with pytest.raises(ValueError, match="this model makes points"):
        views.question(points)
    with pytest.raises(ValueError, match="points cannot be filmed"):
        views.film(points, [(0, None), (1, None)], 1.0, tmp_path / "film.webp")


# -- the task ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, local",
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False), ("me", False)],
)
def test_loopback_addresses_are_recognized(host: str, local: bool) -> None:
    assert is_loopback(host) == local


def test_explore_without_gradio_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganexp.tasks.explore.find_spec", lambda name: None)
    answer = cli("task=explore", "run=latest")
    assert answer.code == 2 and answer.err == 'ganexp: task: the page needs Gradio: pip install "ganexp[explore]"\n'


@pytest.mark.skipif(find_spec("gradio") is None, reason='needs Gradio: pip install "ganexp[explore]"')
@pytest.mark.parametrize(
    "words, message",
    [
        (["task=explore"], "task.runs: name a run, run=latest, or several"),
        (["task=explore", "run=none"], "run: there is no file or folder none"),
        (["task=explore", "run=none", "task.port=70000"], "task.port: must be from 1 to 65535, got 70000"),
    ],
)
def test_explore_refuses_bad_input_in_one_line(words: list[str], message: str, cli: Cli) -> None:
    answer = cli(*words)
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gradio") is None, reason='needs Gradio: pip install "ganexp[explore]"')
def test_page_ends_at_once_while_it_works(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a thread is in the middle of."""
    task, codes = Explore({"run": "latest"}, Path()), []
    task.library = library_of(opened.folder)  # type: ignore[arg-type]
    monkeypatch.setattr("ganexp.explorer.page.serving", lambda *arguments: nullcontext("http:" + "//127.0.0.1"))
    monkeypatch.setattr("time.sleep", Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr("logging.shutdown", lambda: None)
    monkeypatch.setattr("os._exit", codes.append)
    held, end = threading.Event(), threading.Event()

    def work() -> None:
        with task.library.work:
            held.set()
            end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    held.wait()
    task.run()
    end.set()
    thread.join()
    assert codes == [0]
    task.run()
    assert codes == [0]


# -- in a browser --------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [
    reason
    for reason, missing in {
        'Gradio: pip install "ganexp[explore]"': find_spec("gradio") is None,
        "Playwright: pip install playwright": find_spec("playwright") is None,
        "Chromium: apt-get install chromium": CHROMIUM is None,
    }.items()
    if missing
]
browser_test = pytest.mark.skipif(bool(MISSING), reason="needs " + "; ".join(MISSING))
KINDS = {
    "images": IMAGES,
    "styles": ["model=stylegan2", "model.classes=10", "optimizer.generator.lr=0.01", *NARROW_ALL],
    "points": ["model=mlp", "data=ring", "data.points=600", *NARROW["mlp"]],
    "vae": ["model=vae", "model.width_multiplier=0.05"],
    "gmmn": ["model=gmmn", "model.generator.hidden=[64]"],
}


class Page:
    """A tab of the browser. `left`: requests that went, or would have gone, to another machine. `used`: controls."""

    def __init__(self, browser: Any, address: str):
        self.page = browser.new_page(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
        self.left: list[str] = []
        self.broken: list[str] = []
        self.used: set[str] = set()
        self.page.route("**/*", self.guard)
        self.page.on("pageerror", lambda error: self.broken.append(str(error)))
        self.page.set_default_timeout(20_000)
        self.page.goto(address)
        self.page.wait_for_selector("#samples-picture img")
        self.page.wait_for_timeout(500)

    def guard(self, route: Any) -> None:
        here = re.match(r"(https?://(127\.0\.0\.1|localhost)(:\d+)?/|data:|blob:)", route.request.url)
        if here:
            route.continue_()
        else:
            self.left.append(route.request.url)
            route.abort()

    def close(self) -> None:
        self.page.close()
        assert not self.left and not self.broken, (self.left, self.broken)

    def tab(self, name: str) -> None:
        self.page.locator(f"#{name}-tab-button").click()

    def shown(self, picture: str) -> str:
        """Where the picture lies: another one has another address."""
        image = self.page.locator(f"#{picture} img")
        return str(image.get_attribute("src")) if image.count() else ""

    def changes(self, picture: str, act: Callable[[], Any]) -> None:
        """What `act` does changes the picture."""
        before = self.shown(picture)
        act()
        self.page.wait_for_function(
            "([name, before]) => { const i = document.querySelector(`#${name} img`); return i && i.src != before && i.complete }",
            arg=[picture, self.page.evaluate("src => src && new URL(src, document.baseURI).href", before)],
        )

    def set(self, control: str, value: object) -> None:
        """The number of a slider, or of a field."""
        self.used.add(control)
        field = self.page.locator(f"#{control} input[type=number]").first
        field.fill(str(value))
        field.press("Tab")

    def choose(self, control: str, choice: str) -> None:
        self.used.add(control)
        self.page.locator(f"#{control} input").click()
        self.page.get_by_role("option", name=choice, exact=True).click()

    def upload(self, control: str, file: str) -> None:
        self.used.add(control)
        self.page.locator(f"#{control} input[type=file]").set_input_files(file)

    def click(self, button: str, part: str = "") -> None:
        self.used.add(button)
        self.page.locator(f"#{button} {part}").first.click()

    def controls(self) -> set[str]:
        """Those that the page has, by Gradio's own list."""
        kinds = ["number", "slider", "dropdown", "radio", "file", "button"]
        listed = "kinds => gradio_config.components.filter(c => kinds.includes(c.type)).map(c => c.props.elem_id)"
        return set(self.page.evaluate(listed, kinds))

    def error(self) -> str:
        """The sentence that pops up, which is closed."""
        toast = self.page.locator("[data-testid=toast-body]").first
        toast.wait_for()
        text = toast.inner_text()
        toast.locator("button").first.click()
        toast.wait_for(state="detached")
        return text

    def text(self, name: str, pattern: str) -> None:
        self.page.locator(f"#{name}", has_text=re.compile(pattern)).wait_for()

    def python(self, name: str) -> str:
        if not self.page.locator(f"#{name}-code .cm-content").is_visible():
            self.page.locator(f"#{name}-python > button").click()
        code = self.page.locator(f"#{name}-code .cm-content")
        code.wait_for()
        return code.inner_text()

    def download(self, picture: str, into: Path) -> Image.Image:
        with self.page.expect_download() as started:
            self.page.locator(f"#{picture} [title=Download], #{picture} [aria-label=Download]").first.click()
        started.value.save_as(into)
        return Image.open(into)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explorer-browser")
    for name, choices in KINDS.items():
        assert call(folder, *choices, *TINY, "metrics=[]" if name == "points" else "metrics=[swd]", f"hydra.run.dir={name}") == 0
    return folder


@contextmanager
def opened_page(browser: Any, library: Library) -> Iterator[Page]:
    from ganexp.explorer.page import serving

    with serving(library, "127.0.0.1", None, browser=False) as address:
        page = Page(browser, address)
        yield page
        page.close()


@pytest.mark.slow
@browser_test
def test_every_control_of_the_page_works(browser: Any, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    library = library_of(made / "images", made / "styles")
    with opened_page(browser, library) as page:
        # samples
        page.changes("samples-picture", lambda: page.set("samples-seed", 7))
        page.text("samples-said", "seeds 7 to 106")
        page.changes("samples-picture", lambda: page.choose("samples-class", "3"))
        page.changes("samples-picture", lambda: page.set("samples-truncation", 0.5))
        page.changes("samples-picture", lambda: page.set("samples-num", 16))
        page.text("samples-said", "seeds 7 to 22")
        page.changes("samples-picture", lambda: page.click("samples-new"))
        page.changes("samples-picture", lambda: page.set("samples-seed", 7))
        code = page.python("samples")
        assert "labels=[3], psi=[0.5]" in code
        seen = page.download("samples-picture", tmp_path / "seen.png")
        exec(code, {})
        assert (
            np.abs(np.asarray(seen.convert("RGB")).astype(int) - np.asarray(Image.open("picture.png").convert("RGB"))).max() <= 1
        )
        page.click("sample-from")
        assert "Click a sample first." in page.error()
        box = page.page.locator("#samples-picture img").bounding_box()
        page.changes("sample-picture", lambda: page.page.mouse.click(box["x"] + box["width"] / 8, box["y"] + box["height"] / 8))
        page.text("sample-said", "seed 7, class 3")
        page.click("sample-near")
        page.page.locator("#near-picture img").wait_for()
        page.text("near-said", "nearest training samples in the features of pixels")
        # morph
        page.changes("morph-picture", lambda: page.click("sample-from"))
        assert page.page.locator("#morph-from-seed input").input_value() == "7"
        page.tab("samples")
        page.changes(
            "sample-picture", lambda: page.page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
        )
        page.changes("morph-picture", lambda: page.click("sample-to"))
        assert page.page.locator("#morph-to-seed input").input_value() == "22"
        page.changes("morph-picture", lambda: page.set("morph-position", 0.8))
        page.changes("morph-strip", lambda: page.set("morph-from-seed", 1))
        page.changes("morph-strip", lambda: page.choose("morph-from-class", "9"))
        page.changes("morph-strip", lambda: page.set("morph-to-seed", 2))
        page.changes("morph-strip", lambda: page.choose("morph-to-class", "5"))
        page.changes("morph-strip", lambda: page.set("morph-truncation", 0.3))
        page.click("film-start")
        page.page.locator("#film-picture img").wait_for()
        page.text("film-said", "48 pictures")
        exec(page.python("film"), {})
        seen = page.download("film-picture", tmp_path / "film.webp")
        assert getattr(seen, "n_frames", 1) > 1 and (tmp_path / "film.webp").read_bytes() == Path("picture.webp").read_bytes()
        # directions
        page.tab("samples")
        page.click("sample-vary")
        page.page.locator("#directions-before img").wait_for()
        assert page.page.locator("#direction-seed input").input_value() == "22"
        for i in range(6):
            page.changes("directions-picture", lambda i=i: page.set(f"direction-{i + 1}", 2))
        page.changes("directions-picture", lambda: page.click("directions-reset"))
        page.changes("directions-picture", lambda: page.set("direction-1", -3))
        page.changes("directions-picture", lambda: page.click("directions-method", "[value=pca]"))
        page.changes("directions-before", lambda: page.set("direction-seed", 3))
        page.changes("directions-before", lambda: page.choose("direction-class", "8"))
        page.changes("directions-before", lambda: page.set("direction-truncation", 0.6))
        assert "direction = torch.tensor" in page.python("directions")
        page.set("direction-attribute", 4)
        page.changes("directions-picture", lambda: page.click("direction-find"))
        page.text("direction-said", "Class 4: the direction tells")
        page.changes("directions-picture", lambda: page.set("direction-towards", -3))
        assert "model.attribute(4, data=" in page.python("directions")
        # training
        page.tab("training")
        page.text("training-said", "step 3")
        page.page.locator("#training-curves img").wait_for()
        page.changes("training-picture", lambda: page.set("training-at", 0))
        page.text("training-said", "step 0")
        # project
        page.tab("project")
        page.set("project-steps", 10)
        page.set("project-number", 4)
        page.choose("project-class", "4")
        page.choose("project-space", "z")
        page.changes("project-picture", lambda: page.click("project-start"))
        page.text("project-said", "in 10 steps")
        choices = page.page.locator("#project-choices img")
        box = choices.bounding_box()
        choices.click(position={"x": box["width"] * 0.95, "y": box["height"] * 0.95})
        last = str(int(library.get(library.checkpoints[0]).data.order(views.CHOICES)[-1]))
        page.page.wait_for_function("last => document.querySelector('#project-number input').value == last", arg=last)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save("mine.png")
        page.upload("project-file", "mine.png")
        page.page.locator("#project-file", has_text="mine").wait_for()
        page.changes("project-picture", lambda: page.click("project-start"))
        assert "read_picture('mine.png'" in page.python("project")
        # compare
        page.tab("compare")
        page.page.locator("#compare-right-picture img").wait_for()
        page.changes("compare-left-picture", lambda: page.set("compare-seed", 5))
        page.changes("compare-right-picture", lambda: page.choose("compare-class", "2"))
        page.changes("compare-right-picture", lambda: page.set("compare-truncation", 0.2))
        untrained = next(name for name in library.all_checkpoints if name.endswith("images/step-00000002.ckpt"))
        for side in ("left", "right"):
            page.changes(f"compare-{side}-picture", lambda side=side: page.choose(f"compare-{side}", untrained))
            assert "step-00000002.ckpt" in page.python(f"compare-{side}")
        # quiz
        page.tab("quiz")
        page.page.locator("#quiz-picture img").wait_for()
        page.click("quiz-real")
        page.text("quiz-said", r"of 1 right")
        page.click("quiz-next")
        page.text("quiz-said", "Look at the picture")
        page.click("quiz-fake")
        page.text("quiz-said", r"of 2 right")
        page.click("quiz-restart")
        page.text("quiz-said", "Look at the picture")
        page.click("quiz-real")
        page.text("quiz-said", r"of 1 right")
        assert page.used == page.controls()
        # the other model
        page.page.get_by_role("link", name=re.compile("styles")).click()
        page.text("facts", "w 3 layers|w \\d+ layers")


@pytest.mark.slow
@browser_test
def test_sliders_answer_while_a_projection_runs(browser: Any, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, end = views.project, threading.Event()
    monkeypatch.setattr(views, "project", lambda *arguments: end.wait(300) and project(*arguments))
    with opened_page(browser, library_of(made / "images")) as page:
        page.tab("project")
        page.set("project-steps", 10)
        page.click("project-start")
        page.tab("morph")
        page.page.locator("#morph-picture img").wait_for()
        for position in (0.1, 0.9, 0.3):
            page.changes("morph-picture", lambda position=position: page.set("morph-position", position))
        page.tab("project")
        assert page.page.locator("#project-picture img").count() == 0
        end.set()
        page.page.locator("#project-picture img").wait_for()


@pytest.mark.slow
@browser_test
@pytest.mark.parametrize("name", KINDS)
def test_page_works_for_every_kind_of_model(name: str, browser: Any, made: Path) -> None:
    with opened_page(browser, library_of(made / name)) as page:
        for tab, picture in {
            "morph": "morph-picture", "directions": "directions-picture", "training": "training-picture",
            "compare": "compare-left-picture",
        }.items():  # fmt: skip
            page.tab(tab)
            page.page.locator(f"#{picture} img").wait_for()
        page.tab("project")
        page.set("project-steps", 10)
        page.changes("project-picture", lambda: page.click("project-start"))
        assert page.page.locator("#quiz-tab-button").count() == (name != "points")


@pytest.mark.slow
@browser_test
def test_page_shows_errors_as_sentences(browser: Any, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bombs and wrong files are refused, a deleted model stays open, and names with markup are shown as text."""
    from ganexp.explorer import page as pages

    monkeypatch.chdir(tmp_path)
    evil = tmp_path / "<img src='http:" / "" / "example.com" / "x.png' onerror='document.title=1'>"
    shutil.copytree(made / "images", evil)
    monkeypatch.setattr(pages, "LARGEST_UPLOAD", 2**20)
    with opened_page(browser, library_of(evil)) as page:
        assert page.page.title() == "ganexp"
        page.text("title", "onerror=")
        page.tab("project")
        Image.new("1", (9000, 6000)).save("bomb.png")
        Image.new("LA", (20, 20)).save("two.png")
        Path("text.png").write_text("not a picture")
        Path("large.png").write_bytes(b"0" * (2**20 + 1))
        for file, message in {
            "bomb.png": "54 megapixels; the limit is 40", "two.png": "save it as grey or RGB", "text.png": "cannot be read",
        }.items():  # fmt: skip
            page.upload("project-file", file)
            page.page.locator("#project-file", has_text=file.partition(".")[0]).wait_for()
            page.click("project-start")
            assert message in page.error()
            page.page.locator("#project-file [aria-label=Clear], #project-file [title=Clear]").first.click()
        page.upload("project-file", "large.png")
        assert "exceed the maximum" in page.error()
        upload = {"name": "large.png", "mimeType": "image/png", "buffer": Path("large.png").read_bytes()}
        answer = page.page.request.post(f"{page.page.url}gradio_api/upload", multipart={"files": upload})
        assert answer.status == 413  # the server refuses it too
        shutil.rmtree(evil)
        page.tab("samples")
        page.changes("samples-picture", lambda: page.set("samples-seed", 9))
        page.tab("training")
        assert "cannot be read any more" in page.error()
        page.tab("compare")
        assert "there is no file" in page.error()


@pytest.mark.slow
@browser_test
def test_emptied_field_changes_nothing(browser: Any, made: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened_page(browser, library_of(made / "images")) as page:
        before = page.shown("samples-picture")
        page.set("samples-seed", "")
        page.page.wait_for_timeout(1000)
        assert page.shown("samples-picture") == before
        page.changes("samples-picture", lambda: page.set("samples-seed", 9))
        page.tab("morph")
        page.page.locator("#morph-strip img").wait_for()
        assert "model.interpolate([0, 1]" in page.python("morph-strip")
        assert page.page.locator("[data-testid=toast-body]").count() == 0
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        page.tab("project")
        page.set("project-number", "")
        page.click("project-start")
        assert "Choose a picture, or type the number of a training sample." in page.error()


@pytest.mark.slow
@browser_test
def test_page_listens_on_this_machine_only(made: Path) -> None:
    import socket

    from ganexp.explorer.page import serving

    with serving(library_of(made / "images"), "127.0.0.1", None, browser=False) as address:
        port = int(re.search(r":(\d+)", address)[1])  # type: ignore[index]
        others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
        for other in others:
            with suppress(OSError), socket.create_connection((other, port), timeout=2):
                pytest.fail(f"it answers on {other}")
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
