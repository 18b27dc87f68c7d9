"""The page as a whole, and the server."""

from __future__ import annotations

import functools
import html
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from ganexp.cli.build import one_line
from ganexp.cli.messages import ConfigError
from ganexp.explorer import tabs
from ganexp.explorer.controls import Decorator, Seed, Tab
from ganexp.explorer.opened import Library
from ganexp.markdown import escaped

log = logging.getLogger(__name__)
LARGEST_UPLOAD = 64 * 2**20  # bytes
KEPT = 600  # seconds that a picture of the page stays on the disk
CSS = """
.gradio-container { max-width: 1280px !important; }
.above { opacity: 0.75; }
.above p { margin: 0; }
"""


def answering(lock: AbstractContextManager[Any]) -> Decorator:
    """Returns a decorator for the functions that the page calls: those of one lock run one at a time, and the page shows their
    errors."""

    def answer(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def answered(*inputs: Any) -> Any:
            try:
                with lock:
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


def build(library: Library, folder: Path) -> gr.Blocks:
    """A page for each model; if there are several, links to all of them at the top. `folder`: for its films."""
    first, *others = library.checkpoints
    with gr.Blocks(title="ganexp", analytics_enabled=False, delete_cache=(60, KEPT)) as page:
        model_page(library, first, folder)
    for i, name in enumerate(others, 2):
        with page.route(name, f"model-{i}", show_in_navbar=True):
            model_page(library, name, folder)
    return page


def model_page(library: Library, name: str, folder: Path) -> None:
    opened = library.get(name)
    gr.Navbar(visible=len(library.checkpoints) > 1, main_page_name=library.checkpoints[0])
    gr.Markdown(f"# {escaped(name)}", elem_id="title")
    gr.Markdown(" · ".join(f"{escaped(key)} **{escaped(value)}**" for key, value in opened.summary), elem_id="facts")
    with gr.Tabs(elem_id="tabs") as all_tabs:
        tab = Tab(opened, answering(library.lock), answering(library.work), all_tabs, Path(tempfile.mkdtemp(dir=folder)))
        ends = [Seed(opened, f"morph-{end}", end, value=i, truncation=False) for i, end in enumerate(("from", "to"))]
        varied = Seed(opened, "direction")
        tabs.samples_tab(tab, ends, varied)
        tabs.morph_tab(tab, ends)
        tabs.directions_tab(tab, varied)
        tabs.training_tab(tab)
        tabs.project_tab(tab)
        tabs.compare_tab(tab, library, name)
        tabs.quiz_tab(tab)


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
        page = build(library, Path(folder))
        _, address, _ = page.launch(
            server_name=host, server_port=port, inbrowser=browser, share=False, ssr_mode=False, quiet=True,
            prevent_thread_lock=True, max_file_size=LARGEST_UPLOAD, footer_links=[], css=CSS, theme=gr.themes.Default(),
        )  # fmt: skip
        try:
            yield address
        finally:
            page.close(verbose=False)
