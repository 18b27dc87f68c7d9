"""A function for each tab of the page, from its controls to what they do."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

import gradio as gr

from ganexp.explorer import views
from ganexp.explorer.controls import (
    LARGEST_SEED,
    NO_CLASS,
    Sample,
    Seed,
    Tab,
    class_choices,
    class_of,
    click,
    clicked,
    live,
    picture,
    python,
    truncation_slider,
)
from ganexp.explorer.history import History
from ganexp.explorer.opened import DIRECTIONS, Library, Opened
from ganexp.latent_space.codes import has_w
from ganexp.markdown import escaped

PICTURES = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"]
TQDM = gr.Progress(track_tqdm=True)  # the page shows the progress bars of the console


def samples_tab(tab: Tab, ends: Sequence[Seed], varied: Seed) -> None:
    opened, answer, work = tab.opened, tab.answer, tab.work
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

    @work
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
    opened, answer, work = tab.opened, tab.answer, tab.work
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
        with gr.Column(visible=opened.images):
            film = gr.Button("Film: there and back", elem_id="film-start")
            film_said = gr.Markdown(elem_id="film-said")
            filmed = picture("film-picture", "Film", visible=False)
            film_code = python("film")

    @answer
    def show(a: int, a_label: int, b: int, b_label: int, t: float, psi: float) -> tuple[Any, ...]:
        view = views.morph(opened, [(a, class_of(a_label)), (b, class_of(b_label))], t, psi)
        return view.picture, view.code

    @answer
    def show_all(a: int, a_label: int, b: int, b_label: int, psi: float) -> tuple[Any, ...]:
        view = views.strip(opened, [(a, class_of(a_label)), (b, class_of(b_label))], psi)
        return view.picture, view.code

    @work
    def show_film(a: int, a_label: int, b: int, b_label: int, psi: float) -> tuple[Any, ...]:
        file = tab.folder / "morph.webp"
        caption, code = views.film(opened, [(a, class_of(a_label)), (b, class_of(b_label))], psi, file)
        return gr.Image(str(file), visible=True), caption, code

    names = [*ends[0].controls, *ends[1].controls]
    changes = [here.select, truncation.change, *(control.change for control in names)]
    live([*changes, position.change], show, [*names, position, truncation], [shown, code])
    live(changes, show_all, [*names, truncation], [whole, whole_code])
    click(film, show_film, [*names, truncation], [filmed, film_said, film_code])


def directions_tab(tab: Tab, varied: Seed) -> None:
    opened, answer, work = tab.opened, tab.answer, tab.work
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
                with gr.Row():
                    attribute = gr.Number(
                        0, label="Attribute: a class of the data", precision=0, minimum=0, elem_id="direction-attribute",
                        info="of unlabelled colour pictures, one of ImageNet's 1,000",
                    )  # fmt: skip
                    find = gr.Button("Find its direction", elem_id="direction-find")
                towards = gr.State(())
                amount = gr.Slider(-4, 4, 0, step=0.1, label="Towards it", interactive=False, elem_id="direction-towards")
                said = gr.Markdown(elem_id="direction-said")
                reset = gr.Button("All to 0", elem_id="directions-reset")
            with gr.Column(scale=2):
                shown = picture("directions-picture", "Moved", height=290)
                before = picture("directions-before", "Where it began", height=220)
        code = python("directions")

    @answer
    def show(
        seed: int, label: int, truncation: float, how: Any, wanted: views.Towards | tuple[()], far: float, *amounts: float
    ) -> tuple[Any, ...]:
        view = views.along(opened, how, amounts, seed, class_of(label), truncation, wanted or None, far)
        return view.picture, view.code

    @work
    def look_for(number: int | None, progress: Any = TQDM) -> tuple[Any, ...]:
        if number is None:
            raise ValueError("Type the number of a class.")
        made = views.towards(opened, number)
        accuracy = f"Class {number}: the direction tells {made.found.accuracy:.0%} of new latents right; 50 % is chance."
        return made, gr.Slider(value=2, interactive=True), accuracy

    @answer
    def show_before(seed: int, label: int, truncation: float) -> Any:
        return views.sample(opened, seed, class_of(label), truncation).picture

    controls = [*varied.controls, method, towards, amount, *sliders]
    live([here.select, *(control.change for control in controls)], show, controls, [shown, code])
    live([here.select, *(control.change for control in varied.controls)], show_before, varied.controls, [before])
    click(reset, lambda: [0] * (1 + len(sliders)), [], [amount, *sliders])
    click(find, look_for, [attribute], [towards, amount, said])


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
    opened, answer, work = tab.opened, tab.answer, tab.work
    spaces = ["automatic", "z", *(["w", "w+"] if has_w(opened.model) else [])]
    classes = class_choices(opened, "automatic")
    with gr.Tab("Project", id="project", elem_id="project-tab") as here:
        gr.Markdown("Which latent gives this picture, or the one most like it? The other tabs answer meanwhile.")
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
                numbers = gr.State([])
                if opened.images:
                    choices = picture("project-choices", "Training pictures: click one to choose it")
        code = python("project")

    @answer
    def offer() -> tuple[Any, ...]:
        return views.choices(opened)

    @answer
    def choose(numbers: list[int], event: gr.SelectData) -> int:
        return views.chosen(opened, numbers, event.index)

    @work
    def show(path: str | None, i: int | None, y: int, where: Any, n: int, progress: Any = TQDM) -> Any:
        if path is None and i is None:
            raise ValueError("Choose a picture, or type the number of a training sample.")
        view, stages = views.project(opened, path, i or 0, class_of(y), None if where == spaces[0] else where, n)
        return view.picture, view.caption, stages, view.code

    click(start, show, [file, number, label, space, steps], [shown, said, search, code])
    if opened.images:
        here.select(offer, [], [choices, numbers], api_visibility="private")
        choices.select(choose, [numbers], [number], api_visibility="private")


def compare_tab(tab: Tab, library: Library, name: str) -> None:
    opened, answer = tab.opened, tab.answer
    names = list(library.all_checkpoints)
    steps = sorted(each for each in names if "step-" in each)  # the first looks unlike the page's
    other = next((each for each in [*library.checkpoints, *steps, *names] if each != name), name)
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
