"""The page: a function for each tab, from its controls to what they do."""

from __future__ import annotations

import functools
import html
import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from ganexp.cli.build import one_line
from ganexp.cli.messages import ConfigError
from ganexp.explorer import views
from ganexp.explorer.history import History
from ganexp.explorer.opened import DIRECTIONS, Library, Opened
from ganexp.export.card import escaped
from ganexp.latent_space.codes import has_w

log = logging.getLogger(__name__)
LARGEST_UPLOAD = 64 * 2**20  # bytes
KEPT = 600  # seconds that a picture of the page stays on the disk
PICTURES = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"]
LARGEST_SEED = 2**31
NO_CLASS = -1
TQDM = gr.Progress(track_tqdm=True)  # the page shows the progress bars of the console
CSS = """
.gradio-container { max-width: 1280px !important; }
.above { opacity: 0.75; }
.above p { margin: 0; }
"""


class Tab(NamedTuple):
    """What every tab gets. `answer`: see `answering`. `tabs`: all of them, so that one can open another."""

    opened: Opened
    answer: Callable[[Callable[..., Any]], Callable[..., Any]]
    tabs: gr.Tabs


def answering(library: Library) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator for the functions that the page calls: they run one at a time, and the page shows their errors."""

    def answer(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def answered(*inputs: Any) -> Any:
            try:
                with library.lock:
                    return function(*inputs)
            except (ConfigError, ValueError, OSError, RuntimeError, MemoryError) as error:
                raise sentence(error) from None
            except Exception as error:
                log.exception("the page: %s", function.__name__)
                raise sentence(error) from None

        return answered

    return answer


def sentence(error: BaseException) -> gr.Error:
    """What the page shows of an error. Its text is not ours alone: file names are in it."""
    return gr.Error(html.escape(one_line(error))[:1000], duration=None, print_exception=False)


# -- the whole page ------------------------------------------------------------------------------------------------------


def build(library: Library) -> gr.Blocks:
    """A page for each model; if there are several, links to all of them at the top."""
    first, *others = library.checkpoints
    with gr.Blocks(title="ganexp", analytics_enabled=False, delete_cache=(60, KEPT)) as page:
        model_page(library, first)
    for i, name in enumerate(others, 2):
        with page.route(name, f"model-{i}", show_in_navbar=True):
            model_page(library, name)
    return page


def model_page(library: Library, name: str) -> None:
    opened = library.get(name)
    gr.Navbar(visible=len(library.checkpoints) > 1, main_page_name=library.checkpoints[0])
    gr.Markdown(f"# {escaped(name)}", elem_id="title")
    gr.Markdown(" · ".join(f"{escaped(key)} **{escaped(value)}**" for key, value in opened.summary), elem_id="facts")
    with gr.Tabs(elem_id="tabs") as tabs:
        tab = Tab(opened, answering(library), tabs)
        ends = [Seed(opened, f"morph-{end}", end, value=i, truncation=False) for i, end in enumerate(("from", "to"))]
        varied = Seed(opened, "direction")
        samples_tab(tab, ends, varied)
        morph_tab(tab, ends)
        directions_tab(tab, varied)
        training_tab(tab)
        project_tab(tab)
        compare_tab(tab, library, name)
        quiz_tab(tab)


class Seed:
    """The controls that name a sample: seed, class of a conditional model, truncation. They are placed by `render`."""

    def __init__(self, opened: Opened, name: str, title: str = "", every: bool = False, value: int = 0, truncation: bool = True):
        self.seed = gr.Number(
            value, label=f"{title} seed".strip().capitalize(), precision=0, minimum=0, maximum=LARGEST_SEED, render=False,
            elem_id=f"{name}-seed",
        )  # fmt: skip
        choices = class_choices(opened, "all in turn" if every else None)
        self.label = gr.Dropdown(
            choices, value=choices[0][1], label=f"{title} class".strip().capitalize(), render=False,
            visible=opened.model.classes is not None, elem_id=f"{name}-class",
        )  # fmt: skip
        self.controls: list[Any] = [self.seed, self.label, *([truncation_slider(name)] if truncation else [])]

    def render(self) -> None:
        for control in self.controls:
            control.render()


def class_choices(opened: Opened, rest: str | None) -> list[tuple[str, int]]:
    """The classes, after a word for none of them. An unconditional model has none, which is -1."""
    classes = opened.model.classes
    return [*([(rest, NO_CLASS)] if rest or not classes else []), *((str(i), i) for i in range(classes or 0))]  # type: ignore[list-item]


def class_of(choice: int) -> int | None:
    return None if choice == NO_CLASS else choice


def truncation_slider(name: str) -> gr.Slider:
    return gr.Slider(
        0, 1.5, 1, step=0.05, label="Truncation", info="below 1: nearer the mean, less diverse", render=False,
        elem_id=f"{name}-truncation",
    )  # fmt: skip


def picture(name: str, label: str, value: Image.Image | None = None, height: int | None = None, visible: bool = True) -> gr.Image:
    """A picture that can be downloaded as PNG. Its label is above it: Gradio's own would hide a part of it."""
    if visible:
        gr.Markdown(label, elem_classes="above")
    return gr.Image(
        value, height=height, visible=visible, show_label=False, format="png", interactive=False,
        buttons=["download", "fullscreen"], elem_id=name, alt_text=label,
    )  # fmt: skip


def python(name: str, value: str | None = None) -> gr.Code:
    with gr.Accordion("The same in Python", open=False, elem_id=f"{name}-python"):
        return gr.Code(value, language="python", interactive=False, show_label=False, elem_id=f"{name}-code")


def live(triggers: Sequence[Any], function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Call at every trigger; of those that come while it works, the last. A field that is emptied changes nothing."""

    @functools.wraps(function)
    def unless_empty(*inputs: Any) -> Any:
        return gr.skip() if None in inputs else function(*inputs)

    gr.on(
        triggers,
        unless_empty,
        list(inputs),
        list(outputs),
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )


def click(button: gr.Button, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """Call at a click; clicks that come while it works are ignored."""
    return button.click(function, list(inputs), list(outputs), trigger_mode="once", api_visibility="private")


Sample = tuple[int, int | None]  # seed and class


def clicked(sample: Sample | None) -> Sample:
    if sample is None:
        raise ValueError("Click a sample first.")
    return sample


# -- tabs ----------------------------------------------------------------------------------------------------------------


def samples_tab(tab: Tab, ends: Sequence[Seed], varied: Seed) -> None:
    opened, answer = tab.opened, tab.answer
    usual = 100 if side(opened) <= 32 else 36
    first = views.grid_of(opened, 0, usual, None)
    view = views.samples(opened, first, 1.0)
    chosen = Seed(opened, "samples", every=True)
    with gr.Tab("Samples", id="samples", elem_id="samples-tab"):
        grid, picked = gr.State(first), gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=200):
                chosen.render()
                num = gr.Slider(1, views.MOST_SAMPLES, usual, step=1, label="Samples", elem_id="samples-num")
                new = gr.Button("New seed", variant="primary", elem_id="samples-new")
            with gr.Column(scale=3):
                shown = picture("samples-picture", "Samples", view.picture)
                said = gr.Markdown(view.caption, elem_id="samples-said")
            with gr.Column(scale=1, min_width=200):
                one = picture("sample-picture", "The sample that you clicked", height=220)
                name = gr.Markdown("Click a sample to look at it.", elem_id="sample-said")
                start = gr.Button("Morph from it", elem_id="sample-from")
                end = gr.Button("Morph to it", elem_id="sample-to")
                vary = gr.Button("Move it along directions", elem_id="sample-vary")
                near = gr.Button("Its nearest training samples", elem_id="sample-near")
        nearest_said = gr.Markdown(elem_id="near-said")
        nearest = picture("near-picture", "The sample, and its nearest training samples", visible=False)
        code = python("samples", view.code)

    @answer
    def show(seed: int, label: int, truncation: float, n: int) -> tuple[Any, ...]:
        made = views.grid_of(opened, seed, n, class_of(label))
        view = views.samples(opened, made, truncation)
        return made, view.picture, view.caption, view.code

    @answer
    def pick(made: views.Grid, truncation: float, event: gr.SelectData) -> tuple[Any, ...]:
        sample = made.picked(opened, event.index)
        view = views.sample(opened, *sample, truncation)
        return sample, view.picture, view.caption, view.code

    @answer
    def take(sample: Sample | None) -> tuple[int, int]:
        seed, label = clicked(sample)
        return seed, NO_CLASS if label is None else label

    @answer
    def look_near(sample: Sample | None, truncation: float) -> tuple[Any, ...]:
        view = views.neighbours(opened, *clicked(sample), truncation)
        return gr.Image(view.picture, visible=True), view.caption, view.code

    controls = [*chosen.controls, num]
    live([control.change for control in controls], show, controls, [grid, shown, said, code])
    click(new, lambda: random.randrange(LARGEST_SEED - views.MOST_SAMPLES), [], [chosen.seed])
    shown.select(pick, [grid, chosen.controls[2]], [picked, one, name, code], api_visibility="private")
    for button, seed, target in ((start, ends[0], "morph"), (end, ends[1], "morph"), (vary, varied, "directions")):
        taken = click(button, take, [picked], [seed.seed, seed.label])
        taken.success(functools.partial(gr.Tabs, selected=target), None, tab.tabs, api_visibility="private")
    click(near, look_near, [picked, chosen.controls[2]], [nearest, nearest_said, code])


def morph_tab(tab: Tab, ends: Sequence[Seed]) -> None:
    opened, answer = tab.opened, tab.answer
    with gr.Tab("Morph", id="morph", elem_id="morph-tab") as here:
        with gr.Row():
            with gr.Column(scale=1, min_width=200):
                ends[0].render()
            with gr.Column(scale=3):
                shown = picture("morph-picture", "Between the two", height=300)
                position = gr.Slider(0, 1, 0.5, step=0.01, label="From the one to the other", elem_id="morph-position")
                code = python("morph")
            with gr.Column(scale=1, min_width=200):
                ends[1].render()
                truncation = truncation_slider("morph")
                truncation.render()
        whole = picture("morph-strip", "The whole way")
        whole_code = python("morph-strip")

    @answer
    def show(a: int, a_label: int, b: int, b_label: int, t: float, psi: float) -> tuple[Any, ...]:
        view = views.morph(opened, [(a, class_of(a_label)), (b, class_of(b_label))], t, psi)
        return view.picture, view.code

    @answer
    def show_all(a: int, a_label: int, b: int, b_label: int, psi: float) -> tuple[Any, ...]:
        view = views.strip(opened, [(a, class_of(a_label)), (b, class_of(b_label))], psi)
        return view.picture, view.code

    names = [*ends[0].controls, *ends[1].controls]
    changes = [here.select, truncation.change, *(control.change for control in names)]
    live([*changes, position.change], show, [*names, position, truncation], [shown, code])
    live(changes, show_all, [*names, truncation], [whole, whole_code])


def directions_tab(tab: Tab, varied: Seed) -> None:
    opened, answer = tab.opened, tab.answer
    with gr.Tab("Directions", id="directions", elem_id="directions-tab") as here:
        gr.Markdown("Directions of the latent space along which the samples change most. Move the sliders.")
        with gr.Row():
            with gr.Column(scale=1, min_width=200):
                varied.render()
                method = gr.Radio(
                    [("SeFa (weights)", "sefa"), ("PCA (samples)", "pca")],
                    value="sefa",
                    label="Found by",
                    elem_id="directions-method",
                )
            with gr.Column(scale=2):
                sliders = [
                    gr.Slider(-4, 4, 0, step=0.1, label=f"Direction {i + 1}", elem_id=f"direction-{i + 1}")
                    for i in range(min(DIRECTIONS, opened.model.latent.dim))
                ]
                reset = gr.Button("All to 0", elem_id="directions-reset")
            with gr.Column(scale=2):
                shown = picture("directions-picture", "Moved", height=290)
                before = picture("directions-before", "Where it began", height=220)
        code = python("directions")

    @answer
    def show(seed: int, label: int, truncation: float, how: Any, *amounts: float) -> tuple[Any, ...]:
        view = views.along(opened, how, amounts, seed, class_of(label), truncation)
        return view.picture, view.code

    @answer
    def show_before(seed: int, label: int, truncation: float) -> Any:
        return views.sample(opened, seed, class_of(label), truncation).picture

    controls = [*varied.controls, method, *sliders]
    live([here.select, *(control.change for control in controls)], show, controls, [shown, code])
    live([here.select, *(control.change for control in varied.controls)], show_before, varied.controls, [before])
    click(reset, lambda: [0] * len(sliders), [], sliders)


def training_tab(tab: Tab) -> None:
    answer = tab.answer
    with gr.Tab("Training", id="training", elem_id="training-tab") as here:
        try:
            history = History(tab.opened.folder)
        except ValueError as error:
            gr.Markdown(escaped(error), elem_id="training-said")
            return
        last = len(history.steps) - 1
        at = gr.Slider(0, max(last, 1), last, step=1, label="Picture", info="samples of the same latents", elem_id="training-at")
        said = gr.Markdown(elem_id="training-said")
        with gr.Row():
            with gr.Column():
                shown = picture("training-picture", "Samples at this step")
            with gr.Column():
                curves = picture("training-curves", "Losses and metrics")

    @answer
    def show(number: float) -> tuple[Any, ...]:
        step = history.steps[min(int(number), last)]
        return history.picture(step), history.curves_at(step), f"step {step:,}"

    live([here.select, at.change], show, [at], [shown, curves, said])


def project_tab(tab: Tab) -> None:
    opened, answer = tab.opened, tab.answer
    spaces = ["automatic", "z", *(["w", "w+"] if has_w(opened.model) else [])]
    classes = class_choices(opened, "automatic")
    with gr.Tab("Project", id="project", elem_id="project-tab"):
        gr.Markdown("Which latent gives this picture, or the one most like it? The other tabs wait until the search ends.")
        with gr.Row():
            with gr.Column(scale=1, min_width=240):
                file = gr.File(
                    label="Your picture" if opened.images else "Your picture (not for points)", file_types=PICTURES,
                    interactive=opened.images, height=140, elem_id="project-file",
                )  # fmt: skip
                number = gr.Number(0, label="or training sample", precision=0, minimum=0, elem_id="project-number")
                label = gr.Dropdown(
                    classes, value=NO_CLASS, label="Class", visible=opened.model.classes is not None, elem_id="project-class"
                )
                space = gr.Dropdown(spaces, value=spaces[0], label="Latent space", elem_id="project-space")
                steps = gr.Slider(10, 1000, 200, step=10, label="Steps", elem_id="project-steps")
                start = gr.Button("Project", variant="primary", elem_id="project-start")
            with gr.Column(scale=3):
                shown = picture("project-picture", "The picture, and the nearest sample")
                said = gr.Markdown(elem_id="project-said")
                search = picture("project-search", "The picture, and the search for it")
        code = python("project")

    @answer
    def show(path: str | None, i: int | None, y: int, where: Any, n: int, progress: Any = TQDM) -> Any:
        if path is None and i is None:
            raise ValueError("Choose a picture, or type the number of a training sample.")
        view, stages = views.project(opened, path, i or 0, class_of(y), None if where == spaces[0] else where, n)
        return view.picture, view.caption, stages, view.code

    click(start, show, [file, number, label, space, steps], [shown, said, search, code])


def compare_tab(tab: Tab, library: Library, name: str) -> None:
    opened, answer = tab.opened, tab.answer
    names = list(library.all_checkpoints)
    other = next((each for each in reversed(names) if each != name), name)
    chosen = Seed(opened, "compare", every=True)
    with gr.Tab("Compare", id="compare", elem_id="compare-tab") as here:
        gr.Markdown("Two checkpoints on the same latents.")
        with gr.Row():
            chosen.render()
        sides = []
        with gr.Row():
            for which, value in (("left", name), ("right", other)):
                with gr.Column():
                    file = gr.Dropdown(names, value=value, label="Checkpoint", elem_id=f"compare-{which}")
                    sides.append((file, picture(f"compare-{which}-picture", "Samples"), python(f"compare-{which}")))

    @answer
    def show(file: str, seed: int, label: int, truncation: float) -> tuple[Any, ...]:
        model = library.get(file)
        view = views.samples(model, views.grid_of(model, seed, 36, class_of(label)), truncation)
        return view.picture, view.code

    for file, shown, code in sides:
        controls = [file, *chosen.controls]
        live([here.select, *(control.change for control in controls)], show, controls, [shown, code])


def quiz_tab(tab: Tab) -> None:
    opened, answer = tab.opened, tab.answer
    if not opened.images:
        return
    with gr.Tab("Real or generated?", id="quiz", elem_id="quiz-tab") as here:
        truth, score = gr.State(None), gr.State((0, 0))
        with gr.Row():
            with gr.Column(scale=1):
                shown = picture("quiz-picture", "Is it from the training data, or generated?", height=320)
            with gr.Column(scale=1):
                said = gr.Markdown("Look at the picture and decide.", elem_id="quiz-said")
                with gr.Row():
                    real = gr.Button("Real", elem_id="quiz-real")
                    fake = gr.Button("Generated", elem_id="quiz-fake")
                more = gr.Button("Next picture", variant="primary", interactive=False, elem_id="quiz-next")
                restart = gr.Button("Start again", elem_id="quiz-restart")

    @answer
    def ask() -> tuple[Any, ...]:
        image, is_real = views.question(opened)
        return image, is_real, "Look at the picture and decide.", *enabled(True)

    @answer
    def judge(said_real: bool, is_real: bool | None, counted: tuple[int, int]) -> tuple[Any, ...]:
        if is_real is None:
            raise ValueError("There is no picture yet.")
        counted = (counted[0] + (said_real == is_real), counted[1] + 1)
        return views.verdict(is_real, said_real, *counted), counted, *enabled(False)

    def enabled(asking: bool) -> list[gr.Button]:
        return [gr.Button(interactive=asking), gr.Button(interactive=asking), gr.Button(interactive=not asking)]

    question: tuple[list[Any], list[Any]] = ([], [shown, truth, said, real, fake, more])
    here.select(ask, *question, api_visibility="private")
    click(more, ask, *question)
    click(restart, lambda: (0, 0), [], [score]).then(ask, *question, api_visibility="private")
    for button, says in ((real, True), (fake, False)):
        click(button, functools.partial(judge, says), [truth, score], [said, score, real, fake, more])


def side(opened: Opened) -> int:
    return max(opened.model.shape[1:]) if opened.images else 0


# -- serving it ----------------------------------------------------------------------------------------------------------


@contextmanager
def serving(library: Library, host: str, port: int | None, browser: bool) -> Iterator[str]:
    """Serves the page as long as the context is open; its address. Uploads and pictures lie in a temporary folder until then.

    Raises OSError where no port is free.
    """
    os.environ["NO_PROXY"] = ",".join(
        [*filter(None, [os.environ.get("NO_PROXY")]), "127.0.0.1", "localhost"]
    )  # Gradio asks itself
    with tempfile.TemporaryDirectory(prefix="ganexp-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(library)
        _, address, _ = page.launch(
            server_name=host, server_port=port, inbrowser=browser, share=False, ssr_mode=False, quiet=True,
            prevent_thread_lock=True, max_file_size=LARGEST_UPLOAD, footer_links=[], css=CSS, theme=gr.themes.Default(),
        )  # fmt: skip
        try:
            yield address
        finally:
            page.close(verbose=False)
