"""How long the page of task=explore takes to answer a slider, in a browser.

    python benchmarks/explorer.py RUN [--moves 40]

A slider of the tab Morph, then one of Directions, is moved again and again, then both once more while a projection runs, which
starts anew as often as it ends. The clock runs in the browser until the new picture is decoded. RUN is given as for run=; how
well it is trained does not matter. Needs `ganexp[explore]`, Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys

import torch
from playwright.sync_api import sync_playwright

from ganexp.explorer.opened import Library
from ganexp.explorer.page import serving
from ganexp.metrics.auto import AutoExtractor

# Sets a slider's number and waits for another picture: milliseconds.
MOVE = """([slider, picture, value]) => new Promise((done, failed) => {
    const image = document.querySelector(`#${picture} img`), before = image.src
    const field = document.querySelector(`#${slider} input[type=range]`)
    const start = performance.now()
    const look = new MutationObserver(() => {
        const now = document.querySelector(`#${picture} img`)
        if (!now || now.src == before) return
        look.disconnect()
        now.decode().then(() => done(performance.now() - start), failed)
    })
    look.observe(document.querySelector(`#${picture}`), {attributes: true, childList: true, subtree: true})
    field.value = value
    field.dispatchEvent(new Event('input', {bubbles: true}))
})"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--moves", type=int, default=40)
    args = parser.parse_args()
    library = Library([args.run], torch.device("cpu"), [], None, AutoExtractor)
    model = library.get(library.checkpoints[0]).model
    print(f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    with serving(library, "127.0.0.1", None, browser=False) as address, sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(address)
        for meanwhile in ("", "while a projection runs"):
            if meanwhile:
                page.locator("#project-tab-button").click()
                field = page.locator("#project-steps input[type=number]")
                field.fill("1000")
                field.press("Tab")
                page.evaluate("setInterval(() => document.querySelector('#project-start').click(), 200)")  # ignored while it runs
                page.wait_for_timeout(3000)
            for tab, slider, low, high in (("morph", "morph-position", 0.0, 1.0), ("directions", "direction-1", -4.0, 4.0)):
                page.locator(f"#{tab}-tab-button").click()
                page.locator(f"#{tab}-picture img").wait_for()
                page.wait_for_timeout(1000)
                times = []
                for i in range(1, args.moves + 1):
                    value = round(low + (high - low) * (i * 0.618 % 1), 1 if tab == "directions" else 2)
                    times.append(page.evaluate(MOVE, [slider, f"{tab}-picture", value]))
                longest = sorted(times)[int(0.95 * (len(times) - 1))]
                print(f"{tab:<10} {statistics.median(times):>4.0f} ms (median), {longest:.0f} ms (95 % are faster) {meanwhile}")
        browser.close()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the projection is still at work: Python would abort
