"""Pictures of the tabs of task=explore, for docs/explorer/: python docs/explorer.py RUN

RUN is a run whose training pictures may be shown, such as that of `python -m ganexp`. Needs `ganexp[explore]`, Playwright and a
Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from ganexp.explorer.opened import Library
from ganexp.explorer.page import serving
from ganexp.metrics.auto import AutoExtractor

OUT = Path(__file__).parent / "explorer"


def set_number(page: Any, control: str, value: float) -> None:
    field = page.locator(f"#{control} input[type=number]").first
    field.fill(str(value))
    field.blur()


def samples(page: Any) -> None:
    page.locator("#samples-picture img").click(position={"x": 220, "y": 100})
    page.locator("#sample-picture img").wait_for()
    page.locator("#sample-near").click()
    page.locator("#near-picture img").wait_for()


def morph(page: Any) -> None:
    page.locator("#morph-to-class input").click()
    page.get_by_role("option", name="8", exact=True).click()
    set_number(page, "morph-position", 0.4)
    page.locator("#film-start").click()
    page.locator("#film-picture img").wait_for()


def directions(page: Any) -> None:
    set_number(page, "direction-seed", 3)
    set_number(page, "direction-1", 2.5)
    set_number(page, "direction-3", -2)
    set_number(page, "direction-attribute", 8)
    page.locator("#direction-find").click()
    page.locator("#direction-said", has_text="Class 8").wait_for()


def training(page: Any) -> None:
    set_number(page, "training-at", 2)


def project(page: Any) -> None:
    page.locator("#project-start").click()
    page.locator("#project-search img").wait_for()


def quiz(page: Any) -> None:
    page.locator("#quiz-real").click()
    page.wait_for_timeout(500)


def compare(page: Any) -> None:
    set_number(page, "compare-seed", 5)


def main(run: str) -> None:
    OUT.mkdir(exist_ok=True)
    library = Library([run], torch.device("cpu"), [], None, AutoExtractor)
    with serving(library, "127.0.0.1", None, browser=False) as address, sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1150, "height": 600})
        page.set_default_timeout(300_000)
        page.goto(address)
        page.locator("#samples-picture img").wait_for()
        for prepare in (samples, morph, directions, training, project, compare, quiz):
            name = prepare.__name__
            page.locator(f"#{name}-tab-button").click()
            page.wait_for_timeout(2000)
            prepare(page)
            page.wait_for_timeout(2000)
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
            picture.quantize(128, dither=Image.Dither.NONE).save(OUT / f"{name}.png", optimize=True)
            print(OUT / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
