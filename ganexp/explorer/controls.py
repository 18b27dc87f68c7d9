"""The controls of the page, and how they call what they are for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from ganexp.explorer.opened import Opened

LARGEST_SEED = 2**31
NO_CLASS = -1
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Tab(NamedTuple):
    """What every tab gets. `answer` and `work`: decorators for what the page calls; what takes longer than a slider may wait is
    work. `tabs`: all of them, so that one can open another. `folder`: for films."""

    opened: Opened
    answer: Decorator
    work: Decorator
    tabs: gr.Tabs
    folder: Path


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
